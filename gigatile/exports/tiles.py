"""The pixels of one level as TIFF tiles, read in the order in which they lie in the shards.

::

    row of tiles  ┌──┬──┬──┬──┬──┐  channel 0: strip of a few tiles, strip ..., then channel 1, ...
                  └──┴──┴──┴──┴──┘  then the next row; tiles at the right and bottom edge are padded with the fill
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

from gigatile.exports.result import Result
from gigatile.exports.values import Values
from gigatile.outputs.reading import LevelReader
from gigatile.tiling.region import Region

Array = np.ndarray[Any, Any]
Predictor = Literal[1, 2, 3]
"""TIFF's: none, horizontal differences, differences of the bytes of floats."""
STRIP_BYTES = 8 << 20
"""Of stored pixels that are read, and encoded by several threads, at once."""
USUAL_TILE, LARGEST_TILE = 512, 1024
DEFLATE_LEVEL = 6
_ENCODERS = 4


@dataclass(frozen=True, slots=True)
class TileGrid:
    """How a level is cut into tiles."""

    shape: tuple[int, int]
    """Height and width of the level in pixels."""
    tile: tuple[int, int]
    """Height and width of a tile, multiples of 16 (TIFF 6.0, section 15)."""

    @property
    def count(self) -> tuple[int, int]:
        """Rows and columns of tiles."""
        return -(-self.shape[0] // self.tile[0]), -(-self.shape[1] // self.tile[1])

    @property
    def tiles(self) -> int:
        """Tiles of one plane."""
        return self.count[0] * self.count[1]


class Encoded(NamedTuple):
    """One tile, ready to be written."""

    channel: int
    tile: int
    """Its number in its plane: row by row."""
    content: bytes | None
    """None where every pixel is invalid."""


class Codec(Protocol):
    """How a tile becomes bytes. Called by several threads."""

    @property
    def values(self) -> Values:
        """Its pixels."""
        ...

    def encode(self, tile: Array) -> bytes:
        """A whole tile, shape (y, x), dtype ``values.dtype``, C-contiguous."""
        ...


@dataclass(frozen=True, slots=True)
class TileCodec:
    """How a tile becomes bytes: Adobe deflate, which every reader of TIFF knows."""

    values: Values
    predictor: Predictor

    def empty(self, grid: TileGrid) -> bytes:
        """A tile of invalid pixels."""
        return self.encode(np.full(grid.tile, self.values.fill, self.values.dtype))

    def encode(self, tile: Array) -> bytes:
        """See `Codec.encode`."""
        import imagecodecs  # here, so that `gigatile --help` does not load it

        content: Any = tile
        if self.predictor == 2:
            content = tile.copy()
            content[:, 1:] -= tile[:, :-1]
        elif self.predictor == 3:
            content = imagecodecs.floatpred_encode(tile, axis=1)
        return bytes(imagecodecs.deflate_encode(np.ascontiguousarray(content).tobytes(), level=DEFLATE_LEVEL))


def tile_grids(result: Result) -> tuple[TileGrid, ...]:
    """Tiles of each level: the result's chunks, where TIFF can have such."""
    sides = [side if side % 16 == 0 and side <= LARGEST_TILE else USUAL_TILE for side in result.layouts[0].chunk]
    return tuple(TileGrid(layout.shape, (sides[0], sides[1])) for layout in result.layouts)


def encoded_tiles(result: Result, level: int, grid: TileGrid, codec: Codec) -> Iterator[Encoded]:
    """All tiles of a level: row by row, in it channel by channel, in it from left to right.

    Memory bound
    ------------
    `STRIP_BYTES` of stored pixels (at least one tile), the same in the exported dtype, once more as tiles and once
    more while `_ENCODERS` threads compress them, and what `LevelReader` holds.

    Raises
    ------
    BlockError
        A shard is damaged.
    StorageError
        The storage does not answer.
    """

    def encode(tile: Array) -> bytes | None:
        return None if codec.values.are_fill(tile) else codec.encode(tile)

    layout = result.layouts[level]
    reader = LevelReader(result.store, level, layout)
    height, width = grid.tile
    rows, cols = grid.count
    side_by_side = max(1, STRIP_BYTES // (height * width * layout.dtype.itemsize))
    with ThreadPoolExecutor(_ENCODERS, "gigatile-export") as pool:
        for row in range(rows):
            for channel in range(result.channels):
                for col in range(0, cols, side_by_side):
                    box = Region(row * height, col * width, (row + 1) * height, (col + side_by_side) * width)
                    inside = box.clipped(Region(0, 0, *layout.shape))
                    stored = reader.read(inside, None if layout.channels is None else channel)
                    tiles = _tiles(codec.values.convert(stored), grid, codec.values.fill)
                    for at, content in enumerate(pool.map(encode, tiles)):
                        yield Encoded(channel, row * cols + col + at, content)


def _tiles(strip: Array, grid: TileGrid, fill: float) -> list[Array]:
    """A strip, shape (y, x), cut into whole tiles; those at the edge padded with `fill`."""
    found = []
    for x0 in range(0, strip.shape[1], grid.tile[1]):
        part = strip[:, x0 : x0 + grid.tile[1]]
        if part.shape != grid.tile:
            whole = np.full(grid.tile, fill, strip.dtype)
            whole[: part.shape[0], : part.shape[1]] = part
            part = whole
        found.append(np.ascontiguousarray(part))
    return found
