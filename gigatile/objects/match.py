"""Which boxes say the same: pairs whose overlap is above a threshold, and what hangs together by such pairs.

Memory bound
------------
That of `gigatile.objects.near`; no function here but `pairs` holds the pairs of a table.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from gigatile.errors import UsageError
from gigatile.objects.boxes import Boxes
from gigatile.objects.near import Asked, Near, Table
from gigatile.objects.turned import Turned

Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

Measure = Literal["iou", "ios"]
"""Intersection over union, and over the smaller of both areas."""
Among = Literal["same", "any"]
"""Only boxes of the same class match, or boxes of any (agnostic)."""


SLACK = 1e-9
"""Of an upper bound: far above what rounding does to areas, far below what would let many pairs pass."""


@dataclass(frozen=True, slots=True)
class Matching:
    """When two boxes match: the measure is above (not at) the threshold, as in torchvision's NMS.

    Boxes without an area match nothing. Turned boxes are measured as they stand, not by their hulls.
    """

    measure: Measure = "iou"
    threshold: float = 0.5
    """From 0, and below 1."""
    classes: Among = "same"

    def __post_init__(self) -> None:
        for name, found, known in (("match", self.measure, Measure), ("classes", self.classes, Among)):
            if found not in get_args(known):
                choice = " or ".join(get_args(known))
                raise UsageError(name, expected=choice, found=repr(found), fix="Choose one of them.")
        if not 0 <= self.threshold < 1:
            raise UsageError(
                "match threshold",
                expected="a number from 0, and below 1",
                found=repr(self.threshold),
                fix="0.5 is usual for axis-aligned boxes, 0.1 for turned ones.",
            )


def default_matching(oriented: bool) -> Matching:
    """IoU within a class, 0.5; of turned boxes 0.1: long ships side by side share little even where they touch."""
    return Matching("iou", 0.1 if oriented else 0.5)


@dataclass(frozen=True, slots=True, eq=False)
class Ordered:
    """Boxes in the order of `Boxes.order`, ready to be matched; rows are ranks, and the better one of a pair is first.

    So the measure of a pair is one number, to the bit, in whatever table the pair stands.
    """

    boxes: Boxes
    matching: Matching
    areas: Floats
    table: Table
    turned: Turned | None

    @classmethod
    def of(cls, boxes: Boxes, matching: Matching) -> Ordered:
        """Of boxes that are in their order already."""
        if matching.classes == "any":
            groups = np.zeros(len(boxes), np.int64)
        else:
            groups = np.unique(boxes.classes, return_inverse=True)[1].astype(np.int64)
        turned = Turned.of(boxes) if boxes.oriented else None
        return cls(boxes, matching, boxes.areas, Table.of(boxes.hulls, groups), turned)

    def __len__(self) -> int:
        return len(self.boxes)

    def near(self, rows: Rows) -> Near:
        """An index of those rows that have an area."""
        return Near.of(self.table, rows[self.areas[rows] > 0])

    def matched(self, asked: Asked, wanted: Mask | None = None) -> Iterator[tuple[Rows, Rows]]:
        """Of the pairs that come near, those that match, in pieces: ranks of the better and of the other box."""
        for rows in asked.pairs(wanted):
            better, worse = np.minimum(*rows), np.maximum(*rows)
            one, other = self.table.hulls.take(better, axis=0), self.table.hulls.take(worse, axis=0)
            shared = np.minimum(one[:, 2], other[:, 2]) - np.maximum(one[:, 0], other[:, 0])
            shared *= np.minimum(one[:, 3], other[:, 3]) - np.maximum(one[:, 1], other[:, 1])
            if self.turned is not None:
                # No more than the hulls share, nor than either box: most pairs end here, at a tenth of the cost.
                most = np.minimum(shared, np.minimum(self.areas[better], self.areas[worse]))
                may = self._measure(better, worse, most * (1 + SLACK)) > self.matching.threshold * (1 - SLACK)
                better, worse = better[may], worse[may]
                shared = self.turned.shared(better, worse)
            match = self._measure(better, worse, shared) > self.matching.threshold
            yield better[match], worse[match]

    def _measure(self, better: Rows, worse: Rows, shared: Floats) -> Floats:
        """IoU or IoS of pairs of boxes that have areas, from the area they share."""
        first, second = self.areas[better], self.areas[worse]
        whole = np.minimum(first, second) if self.matching.measure == "ios" else first + second - shared
        return shared / whole


def pairs(boxes: Boxes, matching: Matching) -> Rows:
    """All pairs of boxes that match.

    Returns
    -------
    ndarray, int64 (k, 2)
        Rows of `boxes`, the better box of each pair first; sorted by rank.

    Notes
    -----
    For small tables: a crowd of n boxes has up to n^2 / 2 pairs.
    """
    order = boxes.order()
    table = Ordered.of(boxes.take(order), matching)
    found = [np.stack(piece, axis=1) for piece in table.matched(table.near(np.arange(len(table))).within())]
    ranks = np.concatenate(found) if found else np.empty((0, 2), np.int64)
    return order[ranks[np.lexsort(ranks.T[::-1])]]


def reached(table: Ordered, seeds: Mask) -> Mask:
    """The rows that hang together with a seed, by matches, directly or along a chain; seeds among them.

    Looks at nothing that no chain reaches: what lies deep inside costs an entry in the index.
    """
    found = seeds.copy()
    fresh = np.flatnonzero(seeds)
    near = table.near(np.flatnonzero(~found))
    while len(fresh):
        asked = near.around(fresh[table.areas[fresh] > 0])
        # A crowd that was reached would be looked at again from each of its boxes: an index without it costs less.
        if asked.candidates > len(near.rows):
            near = table.near(np.flatnonzero(~found))
            asked = near.around(fresh[table.areas[fresh] > 0])
        before = found.copy()
        wanted = ~found
        for better, worse in table.matched(asked, wanted):
            found[better] = found[worse] = True
            np.logical_not(found, out=wanted)
        fresh = np.flatnonzero(found & ~before)
    return found
