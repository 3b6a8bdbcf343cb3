"""What decoders of boxes share: the tile's frame, picking by score, and the ways to write a box."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gigatile.errors import BlockError
from gigatile.models.boxes.format import BoxFormat, Order
from gigatile.models.boxes.rows import Rows

Array = np.ndarray[Any, Any]
Named = Mapping[str, Array]
"""Outputs of a model by name, in its order."""


@dataclass(frozen=True, slots=True)
class Frame:
    """What a batch was, and what is wanted of it."""

    where: str
    """How messages name the model."""
    tile: tuple[int, int]
    """Height and width in pixels."""
    given: int
    """Tiles in the batch, those that fill it up included."""
    count: int
    """The first tiles, whose rows are wanted."""
    score: float = 0.0
    """Least score."""

    def refuse(self, format: BoxFormat, expected: str, found: str) -> BlockError:
        """The error for outputs that are not what a format says."""
        fix = "Say with --boxes what they are; 'auto' recognises the common exports."
        return BlockError(self.where, expected=f"{expected} (boxes {format})", found=found, fix=fix)

    def picked(self, scores: Array) -> Array:
        """Indices of the candidates of at least the least score, and above 0, which exporters fill up with.

        Parameters
        ----------
        scores : ndarray, shape (a,)

        Raises
        ------
        BlockError
            A score is not finite, however little it would count.
        """
        if not np.isfinite(scores).all():
            raise BlockError(self.where, expected="finite scores", found="NaN or infinity among them")
        return np.flatnonzero((scores >= self.score) & (scores > 0))


def as_array(frame: Frame, value: Any) -> Array:
    """Anything as an array of numbers.

    Raises
    ------
    BlockError
        It cannot be one.
    """
    expected = "arrays of numbers"
    try:
        array = np.asarray(value)
    except (ValueError, TypeError) as error:
        raise BlockError(frame.where, expected=expected, found=f"{type(value).__name__}: {error}") from error
    if array.dtype.kind not in "fiu":
        raise BlockError(frame.where, expected=expected, found=f"{array.dtype} of shape {array.shape}")
    return array


def corners(boxes: Array, order: Order) -> Array:
    """Boxes as x1, y1, x2, y2.

    Parameters
    ----------
    boxes : ndarray, shape (m, 4)

    Returns
    -------
    ndarray, float64, shape (m, 4)
    """
    given = np.asarray(boxes, np.float64)
    if order == "xyxy":
        return given
    if order == "yxyx":
        return given[:, [1, 0, 3, 2]]
    first = given[:, :2] - given[:, 2:] / 2 if order == "cxcywh" else given[:, :2]
    return np.hstack([first, first + given[:, 2:]])


def in_pixels(boxes: Array, frame: Frame) -> Array:
    """Shares of the tile's sides as pixels; columns are x, y, x, y."""
    height, width = frame.tile
    return boxes * np.array([width, height, width, height], np.float64)


def upright(frame: Frame, format: BoxFormat, boxes: Array, scores: Array, classes: Array) -> Rows:
    """Rows of upright boxes.

    Parameters
    ----------
    boxes : ndarray, shape (m, 4)
        As the format writes them.
    scores, classes : ndarray, shape (m,)

    Returns
    -------
    ndarray, float64, shape (m, 6)
    """
    placed = corners(boxes, format.order)
    if format.normalised:
        placed = in_pixels(placed, frame)
    return np.column_stack([placed, scores, classes]).astype(np.float64, copy=False)


def oriented(frame: Frame, format: BoxFormat, boxes: Array, scores: Array, classes: Array) -> Rows:
    """Rows of turned boxes: centre, sides, radians, score, class.

    Parameters
    ----------
    boxes : ndarray, shape (m, 5)
        Centre, sides and radians.
    scores, classes : ndarray, shape (m,)

    Returns
    -------
    ndarray, float64, shape (m, 7)

    Raises
    ------
    BlockError
        The format's places are shares of a tile that is not square: an angle means nothing there.
    """
    placed = np.array(boxes, np.float64)
    if format.normalised:
        if frame.tile[0] != frame.tile[1]:
            raise frame.refuse(format, "a square tile, where places are shares of its sides", f"{frame.tile}")
        placed[:, :4] = in_pixels(placed[:, :4], frame)
    return np.column_stack([placed, scores, classes]).astype(np.float64, copy=False)
