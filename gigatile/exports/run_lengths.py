"""Outlines as runs of pixels down the columns of an image: COCO's RLE.

::

    column      0   1   2   3         a pixel is inside if its centre is, by the even-odd rule
    row 0       ·   ┌───────┐         counts: how many outside, inside, outside ... down column 0,
        1       ·   │███│███│         then down column 1 ...; they sum to all pixels of the image
        2       ·   └───────┘

pycocotools' ``frPoly`` takes single rings, so that holes are lost, and needs a compiler where there is no wheel.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def run_lengths(rings: list[Array], shape: tuple[int, int]) -> list[int]:
    """The pixels inside some rings.

    Parameters
    ----------
    rings : list of ndarray
        Closed (the first point again at the end), shape (k, 2), float64, x and y in pixels from the corner of the
        image; shells and holes alike.
    shape : tuple of int
        Height and width of the image.

    Returns
    -------
    list of int
        Lengths of runs, beginning with one outside, perhaps of none; their sum is the number of pixels.
    """
    height, width = shape
    begin = np.concatenate([ring[:-1] for ring in rings])
    end = np.concatenate([ring[1:] for ring in rings])
    swap = begin[:, 0] > end[:, 0]
    left, right = np.where(swap[:, None], end, begin), np.where(swap[:, None], begin, end)
    # An edge crosses the centre lines of columns [first, last).
    first = np.clip(np.ceil(left[:, 0] - 0.5), 0, width).astype(np.int64)
    last = np.clip(np.ceil(right[:, 0] - 0.5), 0, width).astype(np.int64)
    count = last - first
    edge = np.repeat(np.arange(len(count)), count)
    column = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count) + first[edge]
    slope = (right[edge, 1] - left[edge, 1]) / (right[edge, 0] - left[edge, 0])
    y = left[edge, 1] + slope * (column + 0.5 - left[edge, 0])
    order = np.lexsort((y, column))
    row = np.clip(np.ceil(y[order] - 0.5), 0, height).astype(np.int64)
    places = column[order] * height + row
    starts, stops = places[::2], places[1::2]
    return _joined(starts, stops, height * width)


def _joined(starts: Array, stops: Array, size: int) -> list[int]:
    """Lengths of the gaps and runs; runs without pixels and gaps without pixels go."""
    some = stops > starts
    starts, stops = starts[some], stops[some]
    # A run that goes on at the top of the next column is one run.
    apart = np.concatenate(([True], starts[1:] > stops[:-1]))[: len(starts)]
    starts, stops = starts[apart], stops[np.concatenate((apart[1:], [True]))[: len(stops)]]
    borders = np.concatenate(([0], np.stack((starts, stops), axis=1).ravel(), [size]))
    lengths: list[int] = np.diff(borders).tolist()
    return lengths if lengths[-1] or len(lengths) == 1 else lengths[:-1]
