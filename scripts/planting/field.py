"""An image of any size with a shape in nearly every square of a lattice; nothing of it is stored.

::

    ┌────────┬────────┬────────   kind, side and place of the shape in a square follow from the number of the square,
    │ ▄▄     │        │  ▟▙       so that any part of the image, and the truth about any row of a table, can be made
    │ ██     │  none  │  ▜▛       on the spot; a pixel is left free between squares, so that shapes never touch
    └────────┴────────┴────────
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gigatile.images.decode_units import edges
from gigatile.images.info import ImageInfo, Level

PITCH = 16
"""Side of a square in pixels."""
LEAST, MOST = 5, 13
"""Sides of shapes."""
EMPTY_OF = 16
"""One square in so many has none."""
UNIT = 1024
"""Side of a decode unit."""
BACKGROUND, SHAPE = 10, 200
KINDS = ("square", "disc", "diamond", "corner")

Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Planted:
    """The shapes of some squares; arrays of one shape."""

    there: Mask
    kind: Ints
    side: Ints
    top: Ints
    """Of the shape's box in its square."""
    left: Ints


@dataclass(frozen=True, slots=True)
class Field:
    """Squares with shapes.

    Parameters
    ----------
    rows, cols : int
        Of squares.
    seed : int
    """

    rows: int
    cols: int
    seed: int = 0

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.rows * PITCH, self.cols * PITCH

    def planted(self, row: Ints, col: Ints) -> Planted:
        """What is planted in squares."""
        number = (row * self.cols + col).astype(np.uint64) + np.uint64(self.seed << 48)
        # splitmix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", OOPSLA 2014).
        bits = (number + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        bits ^= bits >> np.uint64(31)
        part = [((bits >> np.uint64(shift)) & np.uint64(0xFFF)).astype(np.int64) for shift in (0, 12, 24, 36, 48)]
        side = LEAST + part[1] % (MOST - LEAST + 1)
        free = PITCH - 1 - side
        return Planted(part[0] % EMPTY_OF != 0, part[2] % len(KINDS), side, part[3] % (free + 1), part[4] % (free + 1))

    def pixels(self, top: int, left: int, height: int, width: int) -> Mask:
        """Which pixels of a window belong to shapes; its corners lie on squares."""
        row = np.arange(top // PITCH, -(-(top + height) // PITCH))
        col = np.arange(left // PITCH, -(-(left + width) // PITCH))
        found = self.planted(*np.meshgrid(row, col, indexing="ij"))
        result = np.zeros((len(row), PITCH, len(col), PITCH), bool)
        for kind, name in enumerate(KINDS):
            for side in range(LEAST, MOST + 1):
                shape = drawn(name, side)
                here = np.nonzero(found.there & (found.kind == kind) & (found.side == side))
                y, x = np.nonzero(shape)
                result[
                    here[0][:, None], found.top[here][:, None] + y, here[1][:, None], found.left[here][:, None] + x
                ] = True
        return result.reshape(len(row) * PITCH, len(col) * PITCH)[:height, :width]

    def count(self) -> int:
        """Of all shapes."""
        step = max((1 << 22) // self.cols, 1)
        col = np.arange(self.cols)[None]
        starts = range(0, self.rows, step)
        rows = (np.arange(start, min(start + step, self.rows))[:, None] for start in starts)
        return sum(int(self.planted(*np.broadcast_arrays(row, col)).there.sum()) for row in rows)


def drawn(kind: str, side: int) -> Mask:
    """One shape, in a box of that side; it touches all four edges of the box and hangs together by edges."""
    y, x = np.mgrid[:side, :side]
    middle = (side - 1) / 2
    match kind:
        case "square":
            return np.ones((side, side), bool)
        case "disc":
            return (y - middle) ** 2 + (x - middle) ** 2 <= (side / 2) ** 2
        case "diamond":
            return abs(y - middle) + abs(x - middle) <= middle + 0.5
        case _:
            return (y >= side - 2) | (x < 2)


def areas() -> Ints:
    """Pixels of each shape, by kind and side; shape (kinds, `MOST` + 1)."""
    result = np.zeros((len(KINDS), MOST + 1), np.int64)
    for kind, name in enumerate(KINDS):
        for side in range(LEAST, MOST + 1):
            result[kind, side] = drawn(name, side).sum()
    return result


class FieldSource:
    """A field as an image of one channel, see `gigatile.images.info.Source`."""

    def __init__(self, field: Field) -> None:
        self.field = field
        height, width = field.shape
        level = Level(field.shape, 1.0, (UNIT, UNIT), edges(height, UNIT), edges(width, UNIT))
        self._info = ImageInfo("<field>", "numpy", np.dtype(np.uint8), ("c0",), (level,))

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.field,)

    @property
    def info(self) -> ImageInfo:
        """What is known of it."""
        return self._info

    def decode(self, level: int, row: int, col: int) -> np.ndarray[Any, Any]:
        """Draw one unit."""
        grid = self._info.levels[level]
        (top, bottom), (left, right) = grid.edges_y[row : row + 2], grid.edges_x[col : col + 2]
        inside = self.field.pixels(top, left, bottom - top, right - left)
        return np.where(inside, np.uint8(SHAPE), np.uint8(BACKGROUND))[None]

    def identity(self) -> Mapping[str, str | int]:
        """What the pixels follow from."""
        return {"rows": self.field.rows, "cols": self.field.cols, "seed": self.field.seed}
