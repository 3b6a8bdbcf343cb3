"""Writing one shard: chunks encoded as bands of the block finish, in a fixed order, then the index, then the
name.

::

    band 0  ┌──┬──┬──┐     shard:  chunk-row 0: channel 0: columns 0 1 2, channel 1: columns 0 1 2 ...
            ├──┼──┼──┤             chunk-row 1: ...
    band 1  ├──┼──┼──┤             index: (offset, nbytes) of every chunk, C order, uint64 little-endian
            └──┴──┴──┘             crc32c of the index, uint32 little-endian

Written by hand because zarr-python holds a whole shard in memory and the zarrs pipeline lays chunks down in
the order in which its threads finish, in place; see ``docs/decisions/001-the-main-job.md``.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import numpy as np

from gigatile.errors import BlockError
from gigatile.outputs.layout import BLOSC_CODEC, BLOSC_LEVEL, ArrayLayout
from gigatile.storage.store import Store

NO_CHUNK = 2**64 - 1
"""Offset and length of a chunk that is not stored (zarr-specs, sharding-indexed 1.0, "binary shard
format")."""

_BITSHUFFLE = 2


@dataclass(frozen=True, slots=True)
class ShardReceipt:
    """What the ledger keeps of a shard."""

    nbytes: int
    """Size of the object; 0 if there is none."""
    digest: str
    """SHA-256 of its bytes, hexadecimal; empty if there is none."""
    empty: bool
    """Every pixel is the fill value, so there is no object."""


EMPTY_SHARD = ShardReceipt(0, "", True)


def encode_chunk(chunk: np.ndarray[Any, Any]) -> bytes:
    """Compress a C-contiguous chunk of any shape and dtype as `ArrayLayout.metadata` says; the same bytes on
    every thread.

    ``numcodecs.Blosc`` shares the process-wide Blosc context when called on the main thread and then cuts
    blocks according to its number of threads. imagecodecs takes that number with each call and writes the
    same container.
    """
    import imagecodecs  # here, so that planning does not load it

    # The item size is taken from the dtype: imagecodecs ignores `typesize` where the buffer is of bytes.
    items: Any = chunk.view(f"<u{chunk.dtype.itemsize}")
    encoded = imagecodecs.blosc_encode(
        items,
        level=BLOSC_LEVEL,
        compressor=BLOSC_CODEC,
        shuffle=_BITSHUFFLE,
        typesize=items.itemsize,
        blocksize=0,
        numthreads=1,
    )
    return bytes(encoded)


class ShardWriter:
    """Writes one shard from bands handed over from top to bottom, by one thread at a time.

    The shard appears, whole, when `finish` returns, and not before. As a context manager it leaves nothing
    behind if `finish` was not reached. Different writers may run in parallel.

    Memory bound
    ------------
    One chunk, one encoded chunk, the index (16 bytes a chunk), and what the store's writer holds. The band stays the
    caller's; it is not copied.

    Parameters
    ----------
    store : Store
        That of ``prediction.zarr``; a shard is as durable as what it writes.
    key : str
        ``f"{level}/{layout.shard_key(row, col)}"``.
    layout : ArrayLayout
        The array that it belongs to.
    shape : tuple of int
        Height and width of the part of the shard that lies inside the array.
    """

    def __init__(self, store: Store, key: str, layout: ArrayLayout, shape: tuple[int, int]) -> None:
        self._store, self._key, self._layout, self._shape = store, key, layout, shape
        self._where = store.where(key)
        if not all(0 < side <= limit for side, limit in zip(shape, layout.shard, strict=True)):
            raise BlockError(self._where, expected=f"a part of a {layout.shard} px shard", found=f"{shape} px")
        self._writer = store.writer(key)
        self._closed = False
        self._index = np.full((*layout.chunks_per_shard, 2), NO_CHUNK, dtype="<u8")
        self._hash = hashlib.sha256()
        self._offset = 0
        self._rows = 0

    def __enter__(self) -> Self:
        self._writer.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed = True
        self._writer.__exit__(kind, error, trace)

    def write(self, band: np.ndarray[Any, Any]) -> None:
        """Encode and append the next rows.

        Parameters
        ----------
        band : ndarray, shape (c, rows, width) or (rows, width), dtype ``layout.dtype``
            Whole chunk rows, except at the bottom of the shard.

        Raises
        ------
        BlockError
            The band has another shape or dtype, or is more than what is missing.
        StorageError
            The storage is full, went away or refuses.
        """
        self._check(band)
        pixels = band[np.newaxis] if band.ndim == 2 else band
        chunk_rows, chunk_cols = self._layout.chunk
        index = self._index if band.ndim == 3 else self._index[np.newaxis]
        for y0 in range(0, pixels.shape[1], chunk_rows):
            row = (self._rows + y0) // chunk_rows
            for channel in range(pixels.shape[0]):
                for col in range(-(-self._shape[1] // chunk_cols)):
                    x0 = col * chunk_cols
                    part = pixels[channel, y0 : y0 + chunk_rows, x0 : x0 + chunk_cols]
                    if not self._layout.is_fill(part):
                        index[channel, row, col] = self._append(encode_chunk(self._whole(part)))
        self._rows += pixels.shape[1]

    def finish(self) -> ShardReceipt:
        """Append the index and give the shard its name.

        If every chunk is fill there is no shard, and one that stood there is removed.

        Raises
        ------
        BlockError
            Rows are missing.
        StorageError
            The storage is full, went away or refuses.
        """
        if self._rows != self._shape[0] or self._closed:
            raise BlockError(self._where, expected=f"{self._shape[0]} rows", found=f"{self._rows} rows")
        self._closed = True
        if self._offset == 0:
            self._writer.abandon()
            self._store.delete(self._key)
            return EMPTY_SHARD
        import google_crc32c  # here, so that planning does not load it

        index = self._index.tobytes()
        self._append(index + google_crc32c.value(index).to_bytes(4, "little"))
        self._writer.finish()
        return ShardReceipt(self._offset, self._hash.hexdigest(), False)

    def _check(self, band: np.ndarray[Any, Any]) -> None:
        layout = self._layout
        left = self._shape[0] - self._rows
        channels = band.shape[:1] if band.ndim == 3 else ()
        rows, width = band.shape[-2:] if band.ndim in (2, 3) else (0, 0)
        right_axes = channels == (() if layout.channels is None else (layout.channels,))
        whole = rows == left or (0 < rows < left and rows % layout.chunk[0] == 0)
        if self._closed or not (right_axes and whole and width == self._shape[1] and band.dtype == layout.dtype):
            raise BlockError(
                self._where,
                expected=f"a band of {layout.channels or 'no'} channels, whole chunk rows of "
                f"{layout.chunk[0]} px out of the {left} rows left, {self._shape[1]} px wide, {layout.dtype}",
                found=f"shape {band.shape}, {band.dtype}" + (" after the end" if self._closed else ""),
            )

    def _whole(self, part: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        if part.shape == self._layout.chunk:
            return np.ascontiguousarray(part, dtype=self._layout.dtype)
        chunk = np.full(self._layout.chunk, self._layout.fill, dtype=self._layout.dtype)
        chunk[: part.shape[0], : part.shape[1]] = part
        return chunk

    def _append(self, content: bytes) -> tuple[int, int]:
        """Write behind what is there; returns offset and length."""
        self._writer.write(content)
        self._hash.update(content)
        start = self._offset
        self._offset += len(content)
        return start, len(content)
