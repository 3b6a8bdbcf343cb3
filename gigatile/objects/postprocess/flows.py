"""Flow fields: each pixel walks along the flow, and those that arrive at one place are one object.

::

    ↘ ↓ ↙   ↘ ↓ ↙
    → ○ ←   → ○ ←        cell > threshold ─▶ walk ─▶ how many arrive where ─▶ peaks, and what lies around them
    ↗ ↑ ↖   ↗ ↑ ↖

C. Stringer, T. Wang, M. Michaelos and M. Pachitariu, "Cellpose: a generalist algorithm for cellular segmentation",
Nature Methods 18 (2021) 100-106; conventions of `cellpose/dynamics.py` (github.com/MouseLand/cellpose): channels are
the flow along y, the flow along x (five times a unit vector) and the logit of being in a cell; positions count pixel
centres; 200 steps; peaks are the largest of 5 x 5 pixels with more than 10 arrivals; five times, neighbours with more
than 2 join them. Deliberately left out are two of its filters, which look beyond an object: that of objects over
40 % of the picture, and the one that trains a flow on each object again to compare.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gigatile.objects.postprocess.method import Common, Labels, Maps
from gigatile.objects.postprocess.words import Words

PEAK_SIDE = 5
LEAST_OF_PEAK = 10
"""A peak has more arrivals."""
ROUNDS = 5
LEAST_AROUND = 2
"""A pixel that joins a peak has more arrivals."""
POINTS_AT_ONCE = 1 << 16
"""Pixels that walk together: their arrays then stay in the cache."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flows(Common):
    """Objects of a flow field and a map of what is in a cell."""

    dy: int = 0
    """The channel with the flow along y."""
    dx: int = 1
    """The channel with the flow along x."""
    cell: int = 2
    """The channel that says what is in a cell."""
    threshold: float = 0.0
    """A pixel is in a cell above it; 0 is the middle of a logit."""
    scale: float = 5.0
    """What the flow is divided by, so that its length is one pixel a step."""
    steps: int = 200
    """How long the way to the middle of an object may be."""

    def fitted(self, channels: int) -> Flows:
        """See `Postprocess.fitted`."""
        for option in ("dy", "dx", "cell"):
            self.need(option, getattr(self, option), channels)
        return Common.fitted(self, channels)

    def __call__(self, prediction: Maps) -> Labels:
        """See `Postprocess.__call__`."""
        self.check(len(prediction))
        inside = prediction[self.cell] > self.threshold
        labels = np.zeros(inside.shape, np.int32)
        if not inside.any():
            return labels
        flow = np.stack([prediction[self.dy], prediction[self.dx]]) / np.float32(self.scale)
        # Where no cell is nothing flows, as in cellpose: what strays out of its cell stays there.
        still = np.where(inside & np.isfinite(flow), flow, np.float32(0))
        ends = walked(np.asarray(still, np.float32), np.argwhere(inside), self.steps)
        labels[inside] = _around_peaks(_arrivals(ends, inside.shape))[ends[:, 0], ends[:, 1]]
        return self.finished(labels)


def walked(flow: Maps, starts: NDArray[np.int64], steps: int) -> NDArray[np.int64]:
    """Where pixels are after so many Euler steps of one pixel at most each.

    Parameters
    ----------
    flow : ndarray, float32, shape (2, h, w)
        Along y and x, pixels a step; read between pixels by bilinear interpolation.
    starts : ndarray, int64, shape (m, 2)
        y and x.
    steps : int

    Returns
    -------
    ndarray, int64, shape (m, 2)
        The pixels where they ended; nobody leaves the window.

    Memory bound
    ------------
    64 Ki pixels walk at a time: some 4 MiB beside `starts` and the result.
    """
    parts = [
        _walked(flow, starts[i : i + POINTS_AT_ONCE].astype(np.float32), steps)
        for i in range(0, len(starts), POINTS_AT_ONCE)
    ]
    return np.concatenate(parts).astype(np.int64)


def _walked(flow: Maps, places: NDArray[np.float32], steps: int) -> NDArray[np.float32]:
    height, width = flow.shape[1:]
    # y and x side by side: each place in memory is fetched once
    flat = np.ascontiguousarray(flow.reshape(2, -1).T)
    last = np.array([height - 1, width - 1], np.float32)
    before_last = np.maximum(last - 1, 0).astype(np.int32)
    # A window of one row or column has no second one to interpolate with.
    down, right = (width if height > 1 else 0), (1 if width > 1 else 0)
    for _ in range(steps):
        corner = np.minimum(places.astype(np.int32), before_last)
        share = places - corner
        y, x = share[:, :1], share[:, 1:]
        upper = corner[:, 0] * width + corner[:, 1]
        top = flat.take(upper, 0) * (1 - x) + flat.take(upper + right, 0) * x
        low = flat.take(upper + down, 0) * (1 - x) + flat.take(upper + down + right, 0) * x
        places = np.clip(places + top * (1 - y) + low * y, 0, last)
    return np.rint(places)


def _arrivals(ends: NDArray[np.int64], shape: tuple[int, ...]) -> NDArray[np.int64]:
    flat = np.bincount(ends[:, 0] * shape[1] + ends[:, 1], minlength=shape[0] * shape[1])
    return np.asarray(flat.reshape(shape), np.int64)


def _around_peaks(arrivals: NDArray[np.int64]) -> Labels:
    """Labels of the places where many arrive; a pixel that two peaks claim at once goes to the larger one."""
    from scipy import ndimage

    # Of equal counts the upper and then the left one is larger: there are no ties.
    places = np.arange(arrivals.size - 1, -1, -1, dtype=np.int64).reshape(arrivals.shape)
    key = arrivals * arrivals.size + places
    peak = (key == ndimage.maximum_filter(key, PEAK_SIDE, mode="nearest")) & (arrivals > LEAST_OF_PEAK)
    labels = np.zeros(arrivals.shape, np.int32)
    order = np.argsort(key[peak])
    ranks = np.empty(order.size, np.int32)
    ranks[order] = np.arange(1, order.size + 1, dtype=np.int32)
    labels[peak] = ranks
    for _ in range(ROUNDS):
        around = ndimage.maximum_filter(labels, 3, mode="nearest")
        labels = np.where((labels == 0) & (arrivals > LEAST_AROUND), around, labels)
    return labels


def parse(words: Words) -> Flows:
    """Read the options of ``flows``."""
    return Flows(
        dy=words.whole("dy", 0),
        dx=words.whole("dx", 1),
        cell=words.whole("cell", 2),
        threshold=words.number("threshold", 0.0),
        scale=words.number("scale", 5.0, low=1e-6),
        steps=words.whole("steps", 200, low=1, high=10_000),
        min_area=words.whole("min_area", 15, low=1),
        fill_holes=words.whole("fill_holes", 0),
        context=words.whole("context", 64),
        classes=words.channels("classes"),
    )
