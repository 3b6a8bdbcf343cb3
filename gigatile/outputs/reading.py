"""Reading back the shards that this package wrote, chunk by chunk.

zarr-python does this as well; it costs 0.3 ms a chunk in its event loop, which was half of the time of a pyramid
(`scripts/bench/limit` has the figures). ``gigatile verify`` and the tests read with other code.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np

from gigatile.errors import BlockError
from gigatile.outputs.layout import ArrayLayout
from gigatile.outputs.shard import NO_CHUNK
from gigatile.tiling.region import Region

Array = np.ndarray[Any, Any]
INDEXES = 16
"""Shard indexes kept: the shards below one row of chunks are read side by side."""


class LevelReader:
    """One level of a result. For one thread.

    Memory bound
    ------------
    One stored and one decoded chunk, and `INDEXES` shard indexes of 16 bytes a chunk.
    """

    def __init__(self, root: Path, level: int, layout: ArrayLayout) -> None:
        self._folder, self._layout = root / str(level), layout
        self._indexes: OrderedDict[Path, Array | None] = OrderedDict()

    def read(self, region: Region, channel: int | None) -> Array:
        """Pixels of one channel, the fill value where no chunk is stored.

        Returns
        -------
        ndarray, shape of the region, dtype of the layout

        Raises
        ------
        BlockError
            A shard is damaged: names it and the chunk.
        """
        out = np.full(region.shape, self._layout.fill, self._layout.dtype)
        height, width = self._layout.chunk
        for row in range(region.y0 // height, -(-region.y1 // height)):
            for col in range(region.x0 // width, -(-region.x1 // width)):
                chunk = self._chunk(channel, row, col)
                if chunk is None:
                    continue
                box = Region(row * height, col * width, (row + 1) * height, (col + 1) * width)
                part = box.clipped(region)
                inside = part.shifted(-region.y0, -region.x0).slices()
                out[inside] = chunk[part.shifted(-box.y0, -box.x0).slices()]
        return out

    def _chunk(self, channel: int | None, row: int, col: int) -> Array | None:
        """A decoded chunk, or None where it is all fill."""
        import imagecodecs  # here, so that planning does not load it

        down, across = (shard // chunk for shard, chunk in zip(self._layout.shard, self._layout.chunk, strict=True))
        path = self._folder / self._layout.shard_key(row // down, col // across)
        index = self._index(path)
        if index is None:
            return None
        place = (row % down, col % across) if channel is None else (channel, row % down, col % across)
        offset, nbytes = (int(value) for value in index[place])
        if offset == NO_CHUNK:
            return None
        try:
            decoded = imagecodecs.blosc_decode(_pread(path, nbytes, offset))
            return np.frombuffer(decoded, self._layout.dtype).reshape(self._layout.chunk)
        except (imagecodecs.BloscError, ValueError, OSError) as error:
            raise _damaged(path, f"chunk {place}: {error}") from error

    def _index(self, path: Path) -> Array | None:
        if path in self._indexes:
            self._indexes.move_to_end(path)
            return self._indexes[path]
        self._indexes[path] = _read_index(path, self._layout)
        if len(self._indexes) > INDEXES:
            self._indexes.popitem(last=False)
        return self._indexes[path]


def _read_index(path: Path, layout: ArrayLayout) -> Array | None:
    """Offsets and lengths of the chunks of a shard, shape (*chunks per shard, 2); None where there is no file."""
    import google_crc32c

    try:
        size = path.stat().st_size
    except FileNotFoundError:
        return None
    length = 16 * int(np.prod(layout.chunks_per_shard))
    content = _pread(path, length + 4, max(size - length - 4, 0))
    if len(content) < length + 4 or google_crc32c.value(content[:length]) != int.from_bytes(content[length:], "little"):
        raise _damaged(path, "an index whose checksum is wrong")
    return np.frombuffer(content[:length], "<u8").reshape(*layout.chunks_per_shard, 2)


def _pread(path: Path, nbytes: int, offset: int) -> bytes:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return os.pread(descriptor, nbytes, offset)
    finally:
        os.close(descriptor)


def _damaged(path: Path, found: str) -> BlockError:
    return BlockError(
        str(path), expected="chunks that decode", found=found, fix="Run `gigatile verify` on the directory."
    )
