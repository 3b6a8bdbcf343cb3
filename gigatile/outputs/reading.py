"""Reading back the shards that this package wrote.

::

    shard   ┌──┬──┬──┬──┐
            ├──┼──┼──┼──┤   a row of chunks: its channels one after the other, its columns one after the other;
            │▓▓│▓▓│▓▓│▓▓│   they lie side by side in the shard, so one request brings all of them,
            ├──┼──┼──┼──┤   or a few MiB of them
            └──┴──┴──┴──┘

zarr-python reads chunk by chunk; it costs 0.3 ms a chunk in its event loop, which was half of the time of a pyramid
(`scripts/bench/limit` has the figures). ``gigatile verify`` and the tests read with other code.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, NamedTuple

import numpy as np

from gigatile.errors import BlockError
from gigatile.outputs.layout import ArrayLayout
from gigatile.outputs.shard import NO_CHUNK
from gigatile.storage.store import Store
from gigatile.tiling.region import Region

Array = np.ndarray[Any, Any]
INDEXES = 16
"""Shard indexes kept: the shards below one row of chunks are read side by side."""
SPANS = 4
"""Spans kept: two rows of chunks, each of two shards, lie below one row of chunks of the next level."""
REQUEST_BYTES = 4 << 20
"""Read at once from an object store, where the answer takes 20-100 ms to begin."""
LOCAL_REQUEST_BYTES = 256 << 10
"""Read at once from a file: fewer calls where chunks are small (a pyramid of classes took 0.29 s instead of 0.31),
while large ones stay in the processor's cache (of float32, 0.17 s; by 4 MiB at once 0.20)."""

_BLOSC_HEADER_BYTES = 16


class _Span(NamedTuple):
    """Part of a row of chunks as it is stored."""

    start: int
    """Its place in the shard."""
    content: bytes


class LevelReader:
    """One level of a result. For one thread, which reads each row of chunks channel by channel, from left to right.

    Memory bound
    ------------
    `SPANS` parts of stored rows of chunks, of at most a request or a chunk each; one chunk, stored and decoded;
    `INDEXES` shard indexes of 16 bytes a chunk. A lane held more while it predicted: three finished rows of chunks, and
    two that were being blended.
    """

    def __init__(self, store: Store, level: int, layout: ArrayLayout) -> None:
        self._store, self._level, self._layout = store, level, layout
        self._request_bytes = REQUEST_BYTES if store.local is None else LOCAL_REQUEST_BYTES
        self._indexes: OrderedDict[str, Array | None] = OrderedDict()
        self._spans: OrderedDict[tuple[str, int], _Span] = OrderedDict()

    def read(self, region: Region, channel: int | None) -> Array:
        """Pixels of one channel, the fill value where no chunk is stored.

        Returns
        -------
        ndarray, shape of the region, dtype of the layout

        Raises
        ------
        BlockError
            A shard is damaged or vanished while it was read: names it and the chunk.
        StorageError
            The storage does not answer.
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

        layout = self._layout
        down, across = (shard // chunk for shard, chunk in zip(layout.shard, layout.chunk, strict=True))
        key = f"{self._level}/{layout.shard_key(row // down, col // across)}"
        index = self._index(key)
        if index is None:
            return None
        place = (row % down, col % across) if channel is None else (channel, row % down, col % across)
        if int(index[(*place, 0)]) == NO_CHUNK:
            return None
        stored = self._stored(key, index, place)
        expected = layout.chunk[0] * layout.chunk[1] * layout.dtype.itemsize
        # The size that the header states is what the decoder would allocate.
        if len(stored) < _BLOSC_HEADER_BYTES or int.from_bytes(stored[4:8], "little") != expected:
            raise self._damaged(key, f"chunk {place}: not {expected} bytes, compressed")
        try:
            decoded = imagecodecs.blosc_decode(stored)
            return np.frombuffer(decoded, layout.dtype).reshape(layout.chunk)
        except (imagecodecs.BloscError, ValueError) as error:
            raise self._damaged(key, f"chunk {place}: {error}") from error

    def _stored(self, key: str, index: Array, place: tuple[int, ...]) -> bytes:
        """The encoded bytes of a chunk, out of a span that is at hand or is read now."""
        offset, nbytes = (int(value) for value in index[place])
        row = (key, place[-2])
        span = self._spans.get(row)
        if span is None or not span.start <= offset <= offset + nbytes <= span.start + len(span.content):
            self._spans.pop(row, None)
            while len(self._spans) >= SPANS:
                self._spans.popitem(last=False)
            span = self._spans[row] = self._read_span(key, index, place)
        self._spans.move_to_end(row)
        return span.content[offset - span.start : offset - span.start + nbytes]

    def _read_span(self, key: str, index: Array, place: tuple[int, ...]) -> _Span:
        """A chunk and what follows it in its row."""
        start, nbytes = (int(value) for value in index[place])
        stop = start + nbytes
        if nbytes < self._request_bytes:
            row = index[..., place[-2], :, :].reshape(-1, 2)
            ends = row[(row[:, 0] != NO_CHUNK) & (row[:, 0] >= start)].sum(axis=1)
            stop = int(ends[ends <= start + self._request_bytes].max())
        try:
            content = self._store.read_range(key, start, stop - start)
        except FileNotFoundError as error:
            raise self._damaged(key, "that it is gone") from error
        if len(content) < stop - start:
            raise self._damaged(key, f"chunk {place}: the end after byte {start + len(content)}")
        return _Span(start, content)

    def _index(self, key: str) -> Array | None:
        if key in self._indexes:
            self._indexes.move_to_end(key)
            return self._indexes[key]
        self._indexes[key] = self._read_index(key)
        if len(self._indexes) > INDEXES:
            self._indexes.popitem(last=False)
        return self._indexes[key]

    def _read_index(self, key: str) -> Array | None:
        """Offsets and lengths of the chunks of a shard, shape (*chunks per shard, 2); None where there is no shard."""
        import google_crc32c

        size = self._store.size(key)
        if size is None:
            return None
        counts = self._layout.chunks_per_shard
        length = 16 * int(np.prod(counts))
        end = max(size - length - 4, 0)
        try:
            content = self._store.read_range(key, end, length + 4)
        except FileNotFoundError as error:
            raise self._damaged(key, "that it is gone") from error
        checksum = int.from_bytes(content[length:], "little")
        if len(content) < length + 4 or google_crc32c.value(content[:length]) != checksum:
            raise self._damaged(key, "an index whose checksum is wrong")
        index = np.frombuffer(content[:length], "<u8").reshape(*counts, 2)
        offsets, lengths = (index[..., part][index[..., 0] != NO_CHUNK] for part in (0, 1))
        # Differences, because sums of what an index claims may not fit 64 bits.
        if (offsets > end).any() or (lengths > end - offsets).any():
            raise self._damaged(key, "an index that points beyond the chunks")
        return index

    def _damaged(self, key: str, found: str) -> BlockError:
        return BlockError(
            self._store.where(key),
            expected="chunks that decode",
            found=found,
            fix="Run `gigatile verify` on the directory.",
        )
