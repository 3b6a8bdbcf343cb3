"""Label images of one window: numbering, areas, holes, components. Each is O(pixels)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.int32]
Mask = NDArray[np.bool_]


def structure(connectivity: int) -> NDArray[np.bool_]:
    """Neighbours of a pixel, shape (3, 3): along edges (4), or edges and corners (8)."""
    cross = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], bool)
    return cross if connectivity == 4 else np.ones((3, 3), bool)


def components(mask: Mask, connectivity: int) -> Labels:
    """Connected parts of a mask (True = inside), shape (h, w), int32 1..N in raster order of the first pixel."""
    from scipy import ndimage

    labels, _ = ndimage.label(mask, structure(connectivity), output=np.int32)
    return canonical(labels)


def canonical(labels: NDArray[Any]) -> Labels:
    """The same objects numbered 1..N in raster order of their first pixel; 0 stays.

    Parameters
    ----------
    labels : ndarray, any integer dtype, shape (h, w)
        Not negative; the largest not much above the number of pixels.
    """
    flat = labels.ravel()
    places = np.flatnonzero(flat)
    if not places.size:
        return np.zeros(labels.shape, np.int32)
    found = flat[places]
    first = np.full(int(found.max()) + 1, flat.size, np.int64)
    # Of a repeated index the last value stays, so going backwards that of the first pixel does.
    first[found[::-1]] = places[::-1]
    there = np.flatnonzero(first < flat.size)
    number = np.zeros(first.size, np.int32)
    number[there[np.argsort(first[there])]] = np.arange(1, there.size + 1, dtype=np.int32)
    return np.asarray(number[flat].reshape(labels.shape), np.int32)


def large_enough(labels: Labels, min_area: int) -> Labels:
    """Without objects of fewer pixels than `min_area`."""
    if min_area <= 1 or not labels.any():
        return labels
    small = np.bincount(labels.ravel()) < min_area
    return np.where(small[labels], np.int32(0), labels)


def without_holes(labels: Labels, most: int) -> Labels:
    """Background of at most `most` pixels that one object alone surrounds becomes part of it.

    Holes are 4-connected, and what touches the edge of the window is none.
    """
    from scipy import ndimage

    if most < 1 or not labels.any():
        return labels
    holes, count = ndimage.label(labels == 0, output=np.int32)
    areas = np.bincount(holes.ravel(), minlength=count + 1)
    open_ = np.unique(np.concatenate([holes[0], holes[-1], holes[:, 0], holes[:, -1]]))
    candidate = areas <= most
    candidate[open_] = candidate[0] = False
    wanted = np.flatnonzero(candidate)
    if not wanted.size:
        return labels
    above = np.iinfo(np.int32).max
    largest = ndimage.maximum_filter(labels, footprint=structure(4))
    least = ndimage.minimum_filter(np.where(labels == 0, above, labels), footprint=structure(4))
    owner = np.zeros(count + 1, np.int32)
    most_of = np.asarray(ndimage.maximum(largest, holes, wanted), np.int64)
    least_of = np.asarray(ndimage.minimum(least, holes, wanted), np.int64)
    owner[wanted] = np.where(most_of == least_of, most_of, 0)
    return np.where(labels == 0, owner[holes], labels)
