"""Connected parts of a small mask, in numpy: runs of each row, joined where rows touch.

::

    row 0   ██  ███      runs 0, 1       runs that share a column get the smaller number of both, again and again
    row 1    ████ █      runs 2, 3       until none changes (label propagation with pointer jumping)

Memory bound
------------
About 60 bytes a run, and two masks.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Mask = np.ndarray[Any, Any]


def without_small(mask: Mask, least: float) -> Mask:
    """The mask without its parts, joined along edges, of less than `least` pixels.

    Parameters
    ----------
    mask : ndarray of bool, shape (y, x)
    least : float
        Pixels.
    """
    starts, stops, rows = _runs(mask)
    if not len(starts):
        return mask.copy()
    labels = _joined(starts, stops, rows, mask.shape[1])
    sizes = np.bincount(labels, weights=stops - starts, minlength=len(starts))
    small = sizes[labels] < least
    # A run begins with +1 and ends with -1: the sums along a row are the mask.
    edges = np.zeros((mask.shape[0], mask.shape[1] + 1), np.int8)
    edges[rows[~small], starts[~small]] += 1
    edges[rows[~small], stops[~small]] -= 1
    return np.cumsum(edges[:, :-1], axis=1, dtype=np.int8).astype(bool)


def _runs(mask: Mask) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """First column, column after the last, and row of each run, in reading order."""
    padded = np.zeros((mask.shape[0], mask.shape[1] + 2), np.int8)
    padded[:, 1:-1] = mask
    change = np.diff(padded, axis=1)
    rows, starts = np.nonzero(change == 1)
    return starts, np.nonzero(change == -1)[1], rows


def _joined(
    starts: npt.NDArray[np.int64], stops: npt.NDArray[np.int64], rows: npt.NDArray[np.int64], width: int
) -> npt.NDArray[np.int64]:
    """A number for each run, equal within a part."""
    # Places in one long line, a row after the other, so that one search finds the neighbours of all runs above.
    line = width + 1
    first = np.searchsorted(rows * line + stops, (rows - 1) * line + starts, side="right")
    last = np.searchsorted(rows * line + starts, (rows - 1) * line + stops, side="left")
    counts = np.maximum(last - first, 0)
    below = np.repeat(np.arange(len(starts)), counts)
    above = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts) + first[below]
    labels = np.arange(len(starts))
    while True:
        low = np.minimum(labels[below], labels[above])
        hooked = labels.copy()
        # The roots of both join the smaller one.
        np.minimum.at(hooked, labels[below], low)
        np.minimum.at(hooked, labels[above], low)
        while not np.array_equal(hooked, hooked[hooked]):
            hooked = hooked[hooked]
        if np.array_equal(hooked, labels):
            return labels
        labels = hooked
