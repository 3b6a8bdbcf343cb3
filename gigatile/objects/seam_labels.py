"""Instances across blocks: a sweep over the rows of blocks, from top to bottom.

::

    row 0  ┌───────┬───────┐     step 0: strips along the upright seams of row 0 are compared
           │     ▒▒│▒▒   ▓ │     step 1: strips along the seam between rows 0 and 1, corners included, and the
           ├───────┼─────▓─┤             upright seams of row 1
    row 1  │       │   ░ ▓ │     ▒ is finished after step 0, ▓ after step 1; ░ waits for row 2
           └───────┴───░───┘

Each pair of cells is compared once, each strip loaded once: along a seam the strips of two cells on each side are held.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from gigatile.objects.agreement import Agreement, agreements
from gigatile.objects.cells import CellGrid, Ids, Patch, Side, working_ids
from gigatile.objects.groups import connected, rows_of
from gigatile.objects.instance_rows import closed_table, fragments_of
from gigatile.objects.measures import Channels, Fragments, Ints, joined

Strips = Callable[[int, int, Side], Patch | None]
"""Loads the strip of a cell (row, col) along one side; None where the cell was left out, or its block failed."""

Place = tuple[int, int]


class SeamLabels:
    """Joins what the parts of blocks left open.

    Memory bound
    ------------
    The open rows of two rows of blocks, and all pieces of objects that still reach down; four strips.

    Parameters
    ----------
    cells : CellGrid
    block : (int, int)
        Cells of a block along y and x; the last blocks have fewer.
    agreement : Agreement
        As in the blocks.
    channels : Channels
    strips : callable
        See `Strips`.
    """

    def __init__(
        self, cells: CellGrid, block: tuple[int, int], agreement: Agreement, channels: Channels, strips: Strips
    ) -> None:
        self._cells, self._block, self._agreement = cells, block, agreement
        self._channels, self._strips = channels, strips
        self._step = 0
        self._held = Fragments.empty(channels)
        self._group = np.empty(0, np.int64)

    @property
    def steps(self) -> int:
        """Rows of blocks."""
        return -(-self._cells.rows // self._block[0])

    def add(self, parts: Sequence[tuple[Any, Any]]) -> Any:
        """Take in the next row of blocks.

        Parameters
        ----------
        parts : sequence of (rows, pairs)
            Of each block of the row that has any, pyarrow tables: open rows, and the pairs among them.

        Returns
        -------
        pyarrow.Table
            Rows that are finished, in the order of ymin, xmin; after the last row of blocks nothing is left.

        Raises
        ------
        ValueError
            All rows of blocks were added before.
        """
        if self._step >= self.steps:
            raise ValueError(f"SeamLabels.add: there are {self.steps} rows of blocks")
        new, below = _sorted([rows for rows, _ in parts], self._channels)
        fragments = Fragments.concatenated([self._held, new])
        old = len(self._held)
        pairs = [self._compared(), *((p["a"].to_numpy(), p["b"].to_numpy()) for _, p in parts if p.num_rows)]
        a, b = rows_of(fragments.ids, *(np.concatenate(side) for side in zip(*pairs, strict=True)))
        # Of a group that is held, each row stands with the group's first.
        first = np.unique(self._group, return_index=True)[1]
        group = connected(len(fragments), np.r_[np.arange(old), a], np.r_[first[self._group], b])
        self._step += 1
        reaching = np.r_[np.zeros(old, bool), below] & (self._step < self.steps)
        waits = np.isin(group, group[reaching])
        self._held = fragments.take(waits)
        self._group = np.unique(group[waits], return_inverse=True)[1].reshape(-1)
        done = np.unique(group[~waits], return_inverse=True)[1].reshape(-1)
        return closed_table(*joined(fragments.take(~waits), done), self._channels)

    def _compared(self) -> tuple[Ids, Ids]:
        """Agreements across the upright seams of this row of blocks, and across the seam above it."""
        high, wide = self._block
        top, bottom = self._step * high, min((self._step + 1) * high, self._cells.rows)
        found = [(np.empty(0, np.uint64), np.empty(0, np.uint64))]
        for col in range(wide, self._cells.cols, wide):
            left = [(row, col - 1) for row in range(top, bottom)]
            right = [(row, col) for row in range(top, bottom)]
            found += self._along(left, "right", right, "left")
        if top > 0:
            above = [(top - 1, col) for col in range(self._cells.cols)]
            under = [(top, col) for col in range(self._cells.cols)]
            found += self._along(above, "bottom", under, "top")
        a, b = (np.concatenate(side) for side in zip(*found, strict=True))
        return a, b

    def _along(
        self, places: Sequence[Place], side: Side, others: Sequence[Place], other_side: Side
    ) -> list[tuple[Ids, Ids]]:
        """Agreements of cells on both sides of a seam: opposite ones, and those one step along."""
        found: list[tuple[Ids, Ids]] = []
        before: tuple[Patch | None, Patch | None] = None, None
        for k, (place, other) in enumerate(zip(places, others, strict=True)):
            a, b = self._strips(*place, side), self._strips(*other, other_side)
            self._pair(place, a, other, b, found)
            if k:
                self._pair(places[k - 1], before[0], other, b, found)
                self._pair(place, a, others[k - 1], before[1], found)
            before = a, b
        return found

    def _pair(self, place: Place, a: Patch | None, other: Place, b: Patch | None, found: list[tuple[Ids, Ids]]) -> None:
        if a is None or b is None:
            return
        labels_a, labels_b = agreements(a, b, self._agreement)
        ids = working_ids(self._cells.index(*place), labels_a), working_ids(self._cells.index(*other), labels_b)
        found.append(ids)


def _sorted(tables: Sequence[Any], channels: Channels) -> tuple[Fragments, npt.NDArray[np.bool_]]:
    """Open rows of several parts by working id, and which of them the next row of blocks may meet."""
    pieces = [Fragments.empty(channels), *(fragments_of(table, channels) for table in tables)]
    below = np.concatenate([np.empty(0, bool), *(table["below"].to_numpy() for table in tables)])
    fragments = Fragments.concatenated(pieces)
    order: Ints = np.argsort(fragments.ids)
    return fragments.take(order), below[order]
