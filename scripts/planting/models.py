"""Models that find whatever is bright: boxes, and labels."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import ndimage

from scripts.planting.field import BACKGROUND, SHAPE

Array = np.ndarray[Any, Any]
THRESHOLD = (BACKGROUND + SHAPE) / 2 / 255


def labels(batch: Array) -> Array:
    """Components of each tile, int32 (n, y, x)."""
    return np.stack([ndimage.label(tile[0] > THRESHOLD)[0] for tile in batch])


def boxes(batch: Array) -> list[Array]:
    """A box around each component; the more pixels it has, the better its score."""
    found = []
    for tile in batch:
        labelled, count = ndimage.label(tile[0] > THRESHOLD)
        places = ndimage.find_objects(labelled)
        area = np.bincount(labelled.ravel(), minlength=count + 1)[1:]
        rows = np.array([(x.start, y.start, x.stop, y.stop) for y, x in places], np.float64).reshape(-1, 4)
        score = 0.3 + 0.6 * area / 256
        found.append(np.column_stack([rows, score, np.zeros(count)]))
    return found
