"""Detectors that give every candidate: YOLOX, YOLOv5 and YOLOv7, YOLOv8 and what came after it.

Memory bound
------------
A few numbers a candidate of one tile, beside the model's own output; boxes are worked out for those only whose score
is high enough.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from gigatile.models.boxes.format import BoxFormat
from gigatile.models.boxes.frame import Array, Frame, Named, oriented, upright
from gigatile.models.boxes.rows import Rows

STRIDES = ((8, 16, 32), (8, 16, 32, 64), (4, 8, 16, 32), (16, 32))
"""Pixels of a cell of each map that candidates come from: usual, with large objects, with small ones, tiny models."""


def cells(tile: tuple[int, int], strides: tuple[int, ...]) -> int:
    """Cells of all maps of a tile."""
    return sum((tile[0] // stride) * (tile[1] // stride) for stride in strides)


def main_output(frame: Frame, format: BoxFormat, named: Named, columns: int) -> Array:
    """The output of three axes; maps beside it have more.

    Parameters
    ----------
    columns : int
        Least length of its last axis.

    Raises
    ------
    BlockError
        There is none, or it is not of the batch that was given.
    """
    flat = [array for array in named.values() if array.ndim == 3]
    if not flat or len(flat[0]) != frame.given or flat[0].shape[2] < columns:
        shapes = ", ".join(f"{name} {array.shape}" for name, array in named.items())
        raise frame.refuse(format, f"an output ({frame.given}, a, {columns} or more)", shapes or "none")
    return flat[0]


def yolox(frame: Frame, format: BoxFormat, named: Named) -> Iterator[Rows]:
    """(n, a, 5 + k): x, y, log w, log h in cells, objectness and classes (both 0..1); one candidate a cell."""
    found = main_output(frame, format, named, 6)
    where: Grid | None = None
    if not format.decoded:
        where = _grid_of(frame, format, found.shape[1])
    for tile in found[: frame.count]:
        scores, classes = _best(frame, format, tile[:, 5:], tile[:, 4])
        index = frame.picked(scores)
        boxes = tile[index, :4].astype(np.float64)
        if where is not None:
            corner, stride = where
            boxes = np.hstack([boxes[:, :2] + corner[index], np.exp(boxes[:, 2:])]) * stride[index, None]
        yield upright(frame, format, boxes, scores[index], classes[index])


Grid = tuple[Array, Array]


def _grid_of(frame: Frame, format: BoxFormat, candidates: int) -> Grid:
    """x and y of each cell, in cells, and its stride in pixels; maps one after the other, each by rows."""
    strides = next((known for known in STRIDES if cells(frame.tile, known) == candidates), None)
    if strides is None:
        expected = f"{cells(frame.tile, STRIDES[0])} candidates, one a cell of 8, 16 and 32 px"
        raise frame.refuse(format, expected, f"{candidates} on a tile of {frame.tile[0]} x {frame.tile[1]} px")
    corners, sizes = [], []
    for stride in strides:
        rows, cols = np.indices((frame.tile[0] // stride, frame.tile[1] // stride))
        corners.append(np.column_stack([cols.ravel(), rows.ravel()]))
        sizes.append(np.full(rows.size, stride))
    return np.concatenate(corners), np.concatenate(sizes)


def yolov5(frame: Frame, format: BoxFormat, named: Named) -> Iterator[Rows]:
    """(n, a, 5 + k): box, objectness and classes, all in place."""
    for tile in main_output(frame, format, named, 6)[: frame.count]:
        scores, classes = _best(frame, format, tile[:, 5:], tile[:, 4])
        index = frame.picked(scores)
        yield upright(frame, format, tile[index, :4], scores[index], classes[index])


def yolov8(frame: Frame, format: BoxFormat, named: Named) -> Iterator[Rows]:
    """(n, 4 + k, a), or (n, a, 4 + k): box and classes, and the angle behind them where boxes are oriented."""
    found = main_output(frame, format, named, 1)
    if _candidates_last(frame, format, found.shape[1:]):
        found = found.transpose(0, 2, 1)
    if found.shape[2] < 5 + format.oriented:
        raise frame.refuse(format, f"{5 + format.oriented} columns or more", f"shape {found.shape}")
    for tile in found[: frame.count]:
        scored = tile[:, 4:-1] if format.oriented else tile[:, 4:]
        scores, classes = _best(frame, format, scored, None)
        index = frame.picked(scores)
        if format.oriented:
            yield oriented(frame, format, tile[index][:, [0, 1, 2, 3, -1]], scores[index], classes[index])
        else:
            yield upright(frame, format, tile[index, :4], scores[index], classes[index])


def _candidates_last(frame: Frame, format: BoxFormat, shape: tuple[int, ...]) -> bool:
    """Which axis is the candidates': by the number of classes, else by that of the cells, else the longer."""
    first, last = shape
    if format.classes is not None:
        columns = 4 + format.classes + format.oriented
        if columns in shape and first != last:
            return first == columns
        # Coefficients of masks and key points follow the classes.
        return first < last
    counts = {cells(frame.tile, strides) for strides in STRIDES}
    if (first in counts) != (last in counts):
        return last in counts
    return first < last


def _best(frame: Frame, format: BoxFormat, scored: Array, objectness: Array | None) -> tuple[Array, Array]:
    """Score and class of each candidate; the lowest class of equal ones.

    Parameters
    ----------
    scored : ndarray, shape (a, k)
    objectness : ndarray, shape (a,), or None

    Returns
    -------
    scores : ndarray, float64, shape (a,)
        Of the best class, times the objectness.
    classes : ndarray of int, shape (a,)
    """
    if scored.shape[1] < (format.classes or 1):
        found = f"{max(scored.shape[1], 0)} columns for them"
        raise frame.refuse(format, f"{format.classes or 'one or more'} classes", found)
    scored = scored[:, : format.classes]
    classes = np.argmax(scored, axis=1)
    scores = np.take_along_axis(scored, classes[:, None], axis=1)[:, 0].astype(np.float64)
    # Rounding keeps order: the largest product is the product with the largest.
    return scores if objectness is None else scores * objectness, classes
