"""Shapes with known pixels, and maps that a perfect model would give of them."""

import numpy as np
from scipy import ndimage

ROWS, COLUMNS = np.mgrid[:96, :128]


def disc(y, x, radius, shape=(96, 128)):
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    return np.hypot(rows - y, columns - x) <= radius


def labelled(*masks):
    """Masks numbered in raster order of their first pixel; a later one does not cover an earlier one."""
    found = np.zeros(masks[0].shape, np.int32)
    for number, mask in enumerate(sorted(masks, key=lambda m: int(np.flatnonzero(m)[0])), 1):
        found[mask & (found == 0)] = number
    return found


def touching():
    """Two discs that share an edge, each pixel with the nearer centre."""
    left, right = disc(40, 40, 15), disc(46, 66, 15)
    nearer = np.hypot(ROWS - 40, COLUMNS - 40) < np.hypot(ROWS - 46, COLUMNS - 66)
    return labelled(left & nearer, right & ~nearer & ~(left & nearer))


def depth(labels):
    """Distance to the edge of the own object by its largest, float32."""
    out = np.zeros(labels.shape, np.float32)
    for number in range(1, labels.max() + 1):
        inside = ndimage.distance_transform_edt(np.pad(labels == number, 1))[1:-1, 1:-1]
        out = np.maximum(out, (inside / inside.max()).astype(np.float32))
    return out


def maps(*channels):
    return np.stack([np.asarray(c, np.float32) for c in channels])


def is_canonical(labels):
    """Numbers 1..N in raster order of the first pixel."""
    numbers, first = np.unique(labels[labels > 0], return_index=True)
    return numbers.tolist() == list(range(1, numbers.size + 1)) and bool((np.diff(first) > 0).all())
