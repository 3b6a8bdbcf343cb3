"""Which blocks still read which part of the image: what the decoded-chunk cache needs to know.

Blocks run in row-major order. A unit decoded for one block is read again by its right neighbour (soon) and by the
one below (a row of blocks later); within a block by the next row of tiles.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import Protocol

import numpy as np
import numpy.typing as npt

from gigatile.images.cache import NEVER, Key
from gigatile.images.info import Level
from gigatile.tiling.tiling import Blocks


class AxisReads(Protocol):
    """Knows what is read along one axis."""

    def reads(self, start: int, stop: int) -> tuple[int, int]:
        """Pixels of the level that are read for the pixels ``[start, stop)`` of the result."""
        ...


class Reads(Protocol):
    """A grid of tiles, or whatever else reads an image for regions of the result."""

    @property
    def y(self) -> AxisReads:
        """Along y."""
        ...

    @property
    def x(self) -> AxisReads:
        """Along x."""
        ...


class ReadSchedule:
    """The reads that are still to come; told by the readers where they stand.

    Parameters
    ----------
    grid : Reads
        Usually the tile grid.
    blocks : Blocks
    level : Level
        What is read.
    pending : ndarray of bool, shape (rows, cols) of blocks
        True for blocks that this run has to do.
    """

    def __init__(self, grid: Reads, blocks: Blocks, level: Level, pending: npt.NDArray[np.bool_]) -> None:
        self._level = level
        self._pending = pending.copy()
        self._cols = blocks.grid[1]
        rows, cols = blocks.grid
        self._y = [grid.y.reads(blocks.region(i, 0).y0, blocks.region(i, 0).y1) for i in range(rows)]
        self._x = [grid.x.reads(blocks.region(0, j).x0, blocks.region(0, j).x1) for j in range(cols)]
        self._reading: dict[tuple[int, int], int] = {}

    def reading(self, row: int, col: int, y: int) -> None:
        """A block is being read and will read nothing above pixel row `y` any more."""
        self._reading[row, col] = y
        self._pending[row, col] = False

    def finished(self, row: int, col: int) -> None:
        """A block has read all that it needs, or was given up."""
        self._reading.pop((row, col), None)

    def next_use(self, key: Key) -> float:
        """See `gigatile.images.cache.Schedule`: below 1 for blocks being read, else 1 + place in the order."""
        _, unit_row, unit_col = key
        y0, y1 = self._level.edges_y[unit_row], self._level.edges_y[unit_row + 1]
        x0, x1 = self._level.edges_x[unit_col], self._level.edges_x[unit_col + 1]
        rows, cols = _meeting(self._y, y0, y1), _meeting(self._x, x0, x1)
        for (row, col), y in list(self._reading.items()):
            if row in rows and col in cols and y1 > y:
                return y0 / (self._level.shape[0] + 1)
        for row in rows:
            waiting = np.flatnonzero(self._pending[row, cols.start : cols.stop])
            if len(waiting):
                return 1.0 + row * self._cols + cols.start + int(waiting[0])
        return NEVER


def _meeting(reads: list[tuple[int, int]], start: int, stop: int) -> range:
    """Indices of the intervals, ordered by both ends, that meet ``[start, stop)``."""
    first = bisect_right(reads, start, key=lambda read: read[1])
    return range(first, max(bisect_left(reads, stop, key=lambda read: read[0]), first))
