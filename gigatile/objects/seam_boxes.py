"""Open boxes of rows of blocks, from top to bottom, each group merged once nothing below can meet it.

::

    ───────────────────────────
     row of blocks 1   [a]            a does not reach `below`, nor does what it matches: merged and let go
    ─ ─ ─ ─ ─ ─ ─ ─ ┌─┐─ ─ ─ ─  below    b does: held, with all that hangs together with it
     row of blocks 2└b┘
"""

from __future__ import annotations

import math

from gigatile.errors import UsageError
from gigatile.objects.boxes import Boxes
from gigatile.objects.match import Ordered, reached
from gigatile.objects.merge import Merge


class SeamBoxes:
    """Merges open boxes by rows of blocks; with the closed ones the result is that of one merge of everything.

    Memory bound
    ------------
    Groups that reach the row of blocks to come, and the open boxes of one row; 40 or 48 bytes a box, and while they are
    merged what `gigatile.objects.clusters` states. A group is held from its first row to its last.

    Parameters
    ----------
    merge : Merge
        The one that `gigatile.objects.merge.split` was given.
    columns : int
        Of `Boxes.places`: 4, or 5 where boxes are turned.
    """

    def __init__(self, merge: Merge, columns: int) -> None:
        self._merge = merge
        self._held = Boxes.empty(columns)
        self._below = -math.inf

    @property
    def held(self) -> Boxes:
        """What waits for rows to come."""
        return self._held

    def add(self, boxes: Boxes, below: float) -> Boxes:
        """Take the open boxes of one row of blocks.

        Parameters
        ----------
        boxes : Boxes
            At or below the last call's `below`.
        below : float
            Rows of blocks to come find nothing above this y; at least that of the last call.

        Returns
        -------
        Boxes
            Merged: all groups that end above.

        Raises
        ------
        UsageError
            If a box lies where the last call was told that there would be none: its group may have been let go.
        """
        top = min(below, float(boxes.hulls[:, 1].min())) if len(boxes) else below
        if top < self._below:
            raise UsageError(
                "boxes of a row of blocks",
                expected=f"nothing above y = {self._below:g}",
                found=f"y = {top:g}",
                fix="Feed rows of blocks from top to bottom, with a reach that holds for what the next row finds.",
            )
        self._below = below
        everything = Boxes.joined([self._held, boxes])
        everything = everything.take(everything.order())
        waits = reached(Ordered.of(everything, self._merge.matching), everything.hulls[:, 3] > below)
        self._held = everything.take(waits)
        return self._merge.ordered(everything.take(~waits))

    def finish(self) -> Boxes:
        """Merge what is left: there are no more rows of blocks."""
        return self.add(self._held.take(slice(0)), math.inf)
