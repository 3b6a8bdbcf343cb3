"""A sliding window for people with their own loop: tiles out, predictions back in; the engine's grid and blend.

::

    for tile in tiles(image, tiling):              read ahead by a thread, bounded
        for y, band in stitcher.add(tile, f(tile.pixels)):
            out[:, y : y + band.shape[1]] = band   finished rows, from top to bottom
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from gigatile.engine.pipes import read_ahead
from gigatile.engine.stitcher import RegionStitcher
from gigatile.errors import UsageError
from gigatile.images.footprint import window_reader
from gigatile.images.image import Image
from gigatile.tiling.region import Region
from gigatile.tiling.tiling import Grid, Tiling

Array = np.ndarray[Any, Any]
Order = Literal["row", "snake", "hilbert"]


@dataclass(frozen=True, slots=True, eq=False)
class Tile:
    """One tile, with its place."""

    row: int
    col: int
    pixels: Array
    """Stored pixels, shape (c, tile_y, tile_x), mirrored (or what the border rule says) beyond what it continues."""
    read: Region
    """What `pixels` covers; hangs over the image at its borders."""
    core: Region
    """What the tile owns."""


def tiles(image: Image, tiling: Tiling, order: Order = "row") -> Iterator[Tile]:
    """The tiles of an image (of the level that it works on), one read ahead.

    Parameters
    ----------
    image : Image
    tiling : Tiling
        An automatic overlap is a quarter of the tile: there is no model to ask.
    order : {"row", "snake", "hilbert"}
        Row by row; every other row backwards; or along a Hilbert curve, which keeps neighbours together in both
        directions (Hilbert, "Ueber die stetige Abbildung einer Linie auf ein Flaechenstueck", 1891).

    Memory bound
    ------------
    Three tiles, and the image's cache of decoded units.

    Raises
    ------
    UsageError
        There is no such order.
    BlockError
        Bytes of the image cannot be read or decoded.
    """
    if order not in get_args(Order):
        raise UsageError("order", expected="one of " + ", ".join(get_args(Order)), found=repr(order))
    grid = _grid(image, tiling)
    read_window = window_reader(image, tiling.resolved(tiling.tile_yx), "none")

    def read() -> Iterator[Tile]:
        for row, col in _ordered(grid, order):
            window = grid.band(row, range(col, col + 1))
            yield Tile(row, col, read_window(window)[0], window, grid.core(row, col))

    with read_ahead(read(), "gigatile-tiles") as ahead:
        yield from ahead


class Stitcher:
    """Blends predictions of the tiles of an image, handed back in any order.

    Parameters
    ----------
    image : Image
        The one that the tiles came from.
    tiling : Tiling
        The same.
    channels : int
        Channels of a prediction.
    dtype : dtype, optional
        Of the predictions; integers with ``trim`` only.

    Memory bound
    ------------
    What a block as wide as the image takes, and the predictions that wait for those before them in row order: none
    for ``row``, one row of tiles for ``snake``, up to all of them for ``hilbert``.
    """

    def __init__(self, image: Image, tiling: Tiling, channels: int, dtype: Any = np.float32) -> None:
        grid = _grid(image, tiling)
        height, width = grid.shape
        self._grid = grid
        self._stitcher = RegionStitcher(grid, Region(0, 0, height, width), channels, np.dtype(dtype), step=1)
        self._waiting: dict[tuple[int, int], Array] = {}
        self._next = (0, 0)

    def add(self, tile: Tile, prediction: Array) -> Iterator[tuple[int, Array]]:
        """Take one prediction back; hand out the rows that no later tile reaches.

        Parameters
        ----------
        tile : Tile
        prediction : ndarray, shape (k, tile_y, tile_x)

        Yields
        ------
        y : int
            First row, in pixels of the image.
        band : ndarray, shape (k, rows, width of the image)
            A view that is valid until the next step.

        Raises
        ------
        UsageError
            The prediction has another size, or its place has been filled before.
        """
        place = (tile.row, tile.col)
        wanted = (self._grid.y.tile, self._grid.x.tile)
        if prediction.ndim != 3 or prediction.shape[1:] != wanted:
            expected = f"a prediction (k, {wanted[0]}, {wanted[1]})"
            raise UsageError(f"tile {place}", expected=expected, found=f"shape {prediction.shape}")
        if place in self._waiting or place < self._next:
            raise UsageError(f"tile {place}", expected="each tile once", found="a second prediction for it")
        self._waiting[place] = prediction
        while self._next in self._waiting:
            row, col = self._next
            self._next = (row, col + 1) if col + 1 < self._grid.x.count else (row + 1, 0)
            yield from self._stitcher.add(row, col, self._waiting.pop((row, col)))

    @property
    def missing(self) -> int:
        """Tiles that have not been handed back."""
        row, col = self._next
        return self._grid.tiles - (row * self._grid.x.count + col) - len(self._waiting)


def _grid(image: Image, tiling: Tiling) -> Grid:
    return tiling.resolved(tiling.tile_yx).grid(image.grid_shape)


def _ordered(grid: Grid, order: Order) -> Iterator[tuple[int, int]]:
    rows, cols = grid.y.count, grid.x.count
    if order == "hilbert":
        side = 1 << max(rows - 1, cols - 1, 0).bit_length()
        places = (_hilbert(side, index) for index in range(side * side))
        yield from ((row, col) for row, col in places if row < rows and col < cols)
        return
    for row in range(rows):
        backwards = order == "snake" and row % 2
        yield from ((row, col) for col in (range(cols - 1, -1, -1) if backwards else range(cols)))


def _hilbert(side: int, index: int) -> tuple[int, int]:
    """Place number `index` of the Hilbert curve through a square of `side` (a power of two) cells."""
    row = col = 0
    size = 1
    while size < side:
        right = 1 & (index // 2)
        down = 1 & (index ^ right)
        if not down:
            if right:
                row, col = size - 1 - row, size - 1 - col
            row, col = col, row
        row, col = row + size * down, col + size * right
        index //= 4
        size *= 2
    return row, col
