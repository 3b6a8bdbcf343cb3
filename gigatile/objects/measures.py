"""What is known of the pieces of instances, and how pieces become one.

::

    cell A │ cell B            a fragment = the pixels of one label in the core of its cell
      ▒▒▒▒▒│▒▒                 sums of both are added in the order of working ids, whichever stage joins them:
       ▒▒▒▒│▒▒▒                the same bits for any blocks

Variances are kept as sums of squares about the mean of each fragment and joined as in Chan, Golub and LeVeque,
"Updating formulae and a pairwise algorithm for computing sample variances", 1979: a large offset costs no digits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gigatile.objects.cells import Ids, Patch, working_ids

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

COUNTS = ("area", "sum_y", "sum_x")
BOX = ("ymin", "xmin", "ymax", "xmax")


@dataclass(frozen=True, slots=True)
class Channels:
    """How many values each pixel brings."""

    classes: int = 0
    """Prediction channels of which the classes and scores are made."""
    intensities: int = 0
    """Image channels that are measured."""


@dataclass(frozen=True, slots=True)
class Fragments:
    """Rows of pieces of instances, or of whole ones."""

    ids: Ids
    """Shape (n,): working ids; of a joined row the smallest."""
    counts: Ints
    """Shape (n, 3): pixels, and the sums of their global row and column indices."""
    boxes: Ints
    """Shape (n, 4): ymin, xmin, ymax, xmax in pixels, half-open."""
    sums: Floats
    """Shape (n, intensities): sums of the image's channels."""
    spreads: Floats
    """Shape (n, intensities): sums of squared differences from the row's own mean."""
    votes: Floats
    """Shape (n, classes): sums of the prediction's channels."""
    outlines: npt.NDArray[np.object_]
    """Shape (n,): WKB of the outlines, in pixels of the grid, x before y."""

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, index: npt.NDArray[Any]) -> Fragments:
        """Some of the rows, by numbers or by a mask."""
        return Fragments(*(array[index] for array in self.arrays()))

    def arrays(self) -> tuple[npt.NDArray[Any], ...]:
        """All columns, in the order of the fields."""
        return self.ids, self.counts, self.boxes, self.sums, self.spreads, self.votes, self.outlines

    @staticmethod
    def empty(channels: Channels) -> Fragments:
        """No rows."""
        sums, votes = np.empty((0, channels.intensities)), np.empty((0, channels.classes))
        counts, boxes = np.empty((0, 3), np.int64), np.empty((0, 4), np.int64)
        return Fragments(np.empty(0, np.uint64), counts, boxes, sums, sums, votes, np.empty(0, object))

    @staticmethod
    def concatenated(pieces: Sequence[Fragments]) -> Fragments:
        """All rows of some pieces, at least one, one after the other."""
        return Fragments(*(np.concatenate(column) for column in zip(*(p.arrays() for p in pieces), strict=True)))


def measured(core: Patch, index: int, prediction: npt.NDArray[Any], intensities: npt.NDArray[Any]) -> Fragments:
    """The fragments of one cell, in the order of their labels.

    Parameters
    ----------
    core : Patch
        Canonical labels of the cell's core.
    index : int
        Of the cell.
    prediction : ndarray of floats, shape (k, h, w) of the core
    intensities : ndarray, shape (c, h, w) of the core
        Stored values; sums are taken in float64, row by row.
    """
    import shapely

    from gigatile.objects.outlines import outlines

    flat = core.labels.reshape(-1)
    marked = np.flatnonzero(flat)
    y, x = np.divmod(marked, core.region.shape[1])
    # Canonical labels are small: a table of them is twice as fast as sorting the pixels.
    areas = np.bincount(flat[marked])
    present = np.flatnonzero(areas)
    n, area = len(present), areas[present]
    which = (np.cumsum(areas > 0) - 1)[flat[marked]]
    y0, x0 = core.region.y0, core.region.x0
    # Sums of indices inside the core stay below 2**53, where float64 is exact.
    sum_y, sum_x = (np.bincount(which, at, minlength=n).astype(np.int64) for at in (y, x))
    counts = np.stack([area, sum_y + y0 * area, sum_x + x0 * area], axis=1)
    sums, spreads = _sums(intensities[:, y, x], which, area)
    votes, _ = _sums(prediction[:, y, x], which, area)
    found, shapes = outlines(core.labels, (y0, x0))
    wkb = np.asarray(shapely.to_wkb(shapes[np.argsort(found)], byte_order=1), object)
    ids = working_ids(index, present)
    return Fragments(ids, counts, _boxes(y + y0, x + x0, which, n), sums, spreads, votes, wkb)


def _sums(values: npt.NDArray[Any], which: Ints, area: Ints) -> tuple[Floats, Floats]:
    """Sum, and sum of squares about the mean, of each channel (k, pixels) for each fragment: (n, k) both."""
    n, k = len(area), len(values)
    sums, spreads = np.empty((n, k)), np.empty((n, k))
    for channel, line in enumerate(values):
        sums[:, channel] = np.bincount(which, line, minlength=n)
        with np.errstate(invalid="ignore"):
            apart = line - (sums[:, channel] / area)[which]
        spreads[:, channel] = np.bincount(which, apart * apart, minlength=n)
    return sums, spreads


def _boxes(y: Ints, x: Ints, which: Ints, n: int) -> Ints:
    boxes = np.empty((n, 4), np.int64)
    # Pixels come row by row: of what is assigned again and again the last stays.
    boxes[which[::-1], 0] = y[::-1]
    boxes[which, 2] = y + 1
    boxes[:, 1] = np.iinfo(np.int64).max
    boxes[:, 3] = 0
    np.minimum.at(boxes[:, 1], which, x)
    np.maximum.at(boxes[:, 3], which, x + 1)
    return boxes


def joined(fragments: Fragments, group: Ints) -> tuple[Fragments, Ids, Ints]:
    """One row for each group.

    Parameters
    ----------
    fragments : Fragments
        Ascending by working id: the order in which sums are added.
    group : ndarray of int64, shape (n,)
        Of each row; every number from 0 to the largest occurs.

    Returns
    -------
    rows : Fragments
        In the order of groups.
    members : ndarray of uint64, shape (n,)
        Working ids, group by group, ascending within each.
    starts : ndarray of int64, shape (groups + 1,)
        Where each group begins among the members, and the end.
    """
    if not len(fragments):
        return fragments, fragments.ids, np.zeros(1, np.int64)
    n = int(group.max()) + 1
    order = np.argsort(group, kind="stable")
    starts = np.r_[0, np.cumsum(np.bincount(group, minlength=n))]
    counts = np.add.reduceat(fragments.counts[order], starts[:-1])
    boxes = fragments.boxes[order]
    low, high = (f.reduceat(boxes, starts[:-1]) for f in (np.minimum, np.maximum))
    sums = _added(fragments.sums, group, n)
    area = fragments.counts[:, 0]
    with np.errstate(invalid="ignore"):
        apart = fragments.sums / area[:, None] - (sums / counts[:, :1])[group]
    spreads = _added(fragments.spreads, group, n) + _added(area[:, None] * apart * apart, group, n)
    rows = Fragments(
        fragments.ids[order][starts[:-1]],
        counts,
        np.concatenate([low[:, :2], high[:, 2:]], axis=1),
        sums,
        spreads,
        _added(fragments.votes, group, n),
        _outlines(fragments.outlines[order], starts),
    )
    return rows, fragments.ids[order], starts


def _added(values: Floats, group: Ints, n: int) -> Floats:
    """Sums of rows by group, one row after the other: `bincount` adds in order, `reduceat` does not say."""
    columns = [np.bincount(group, column, minlength=n) for column in values.T]
    return np.stack(columns, axis=1) if columns else np.empty((n, 0))


def _outlines(wkb: npt.NDArray[np.object_], starts: Ints) -> npt.NDArray[np.object_]:
    """Outlines of groups; those of one member as they are."""
    import shapely

    from gigatile.objects.outlines import dissolved

    sizes = np.diff(starts)
    result = wkb[starts[:-1]]
    group = np.repeat(np.arange(len(sizes)), sizes)
    cut = sizes[group] > 1
    if cut.any():
        found, shapes = dissolved(shapely.from_wkb(wkb[cut]), group[cut])
        result[found] = shapely.to_wkb(shapes, byte_order=1)
    return result
