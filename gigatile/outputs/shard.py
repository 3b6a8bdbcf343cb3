"""Writing one shard: chunks encoded as bands of the block finish, in a fixed order, then the index, then the
name.

::

    band 0  ┌──┬──┬──┐      file:  chunk-row 0: channel 0: columns 0 1 2, channel 1: columns 0 1 2 ...
            ├──┼──┼──┤             chunk-row 1: ...
    band 1  ├──┼──┼──┤             index: (offset, nbytes) of every chunk, C order, uint64 little-endian
            └──┴──┴──┘             crc32c of the index, uint32 little-endian

Written by hand because zarr-python holds a whole shard in memory and the zarrs pipeline lays chunks down in
the order in which its threads finish, in place; see ``docs/decisions/001-the-main-job.md``.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import numpy as np

from gigatile.errors import BlockError, StorageError
from gigatile.outputs.files import storage_error, sync_directory, temporary_path
from gigatile.outputs.layout import BLOSC_CODEC, BLOSC_LEVEL, ArrayLayout

NO_CHUNK = 2**64 - 1
"""Offset and length of a chunk that is not stored (zarr-specs, sharding-indexed 1.0, "binary shard
format")."""

_BITSHUFFLE = 2


@dataclass(frozen=True, slots=True)
class ShardReceipt:
    """What the ledger keeps of a shard."""

    nbytes: int
    """Size of the file; 0 if there is none."""
    digest: str
    """SHA-256 of the file's bytes, hexadecimal; empty if there is no file."""
    empty: bool
    """Every pixel is the fill value, so there is no file."""


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

    The target appears, whole, when `finish` returns, and not before. As a context manager it removes the
    temporary file if `finish` was not reached. Different writers may run in parallel.

    Memory bound
    ------------
    One chunk, one encoded chunk and the index (16 bytes a chunk). The band stays the caller's; it is not
    copied.

    Parameters
    ----------
    path : Path
        The shard's file, ``array / layout.shard_key(row, col)``.
    layout : ArrayLayout
        The array that it belongs to.
    shape : tuple of int
        Height and width of the part of the shard that lies inside the array.
    durable : bool
        Whether `finish` waits until the file and its name have reached the disk.
    """

    def __init__(self, path: Path, layout: ArrayLayout, shape: tuple[int, int], durable: bool) -> None:
        self._path, self._layout, self._shape, self._durable = path, layout, shape, durable
        if not all(0 < side <= limit for side, limit in zip(shape, layout.shard, strict=True)):
            raise BlockError(str(path), expected=f"a part of a {layout.shard} px shard", found=f"{shape} px")
        self._temporary = temporary_path(path)
        self._file: IO[bytes] | None = None
        self._closed = False
        self._index = np.full((*layout.chunks_per_shard, 2), NO_CHUNK, dtype="<u8")
        self._hash = hashlib.sha256()
        self._offset = 0
        self._rows = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.abandon()
        except StorageError as lost:
            if error is None:
                raise
            error.add_note(str(lost))

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
            The disk is full or the storage cannot be written.
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
        """Append the index and give the file its name.

        If every chunk is fill there is no file, and one that stood there is removed.

        Raises
        ------
        BlockError
            Rows are missing.
        StorageError
            The disk is full or the storage cannot be written.
        """
        if self._rows != self._shape[0] or self._closed:
            raise BlockError(str(self._path), expected=f"{self._shape[0]} rows", found=f"{self._rows} rows")
        if self._offset == 0:
            self._remove_target()
            return EMPTY_SHARD
        import google_crc32c  # here, so that planning does not load it

        index = self._index.tobytes()
        self._append(index + google_crc32c.value(index).to_bytes(4, "little"))
        receipt = ShardReceipt(self._offset, self._hash.hexdigest(), False)
        self._publish()
        return receipt

    def abandon(self) -> None:
        """Remove the temporary file; nothing happens after `finish`.

        Raises
        ------
        StorageError
            The file cannot be removed. It is never taken for a shard.
        """
        if self._closed:
            return
        self._closed = True
        if self._file is None:
            return
        try:
            self._file.close()
            self._temporary.unlink(missing_ok=True)
        except OSError as error:
            raise storage_error(self._temporary, error) from error

    def _check(self, band: np.ndarray[Any, Any]) -> None:
        layout = self._layout
        left = self._shape[0] - self._rows
        channels = band.shape[:1] if band.ndim == 3 else ()
        rows, width = band.shape[-2:] if band.ndim in (2, 3) else (0, 0)
        right_axes = channels == (() if layout.channels is None else (layout.channels,))
        whole = rows == left or (0 < rows < left and rows % layout.chunk[0] == 0)
        if self._closed or not (right_axes and whole and width == self._shape[1] and band.dtype == layout.dtype):
            raise BlockError(
                str(self._path),
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
        try:
            if self._file is None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._file = self._temporary.open("xb", buffering=0)
            rest = memoryview(content)
            while rest:  # one call may write less: 2 GiB at most on Linux, or up to a limit
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            raise storage_error(self._path, error) from error
        self._hash.update(content)
        start = self._offset
        self._offset += len(content)
        return start, len(content)

    def _publish(self) -> None:
        assert self._file is not None
        try:
            if self._durable:
                os.fsync(self._file.fileno())
            self._file.close()
            self._temporary.replace(self._path)
            self._closed = True
            if self._durable:
                self._sync_directories()
        except OSError as error:
            raise storage_error(self._path, error) from error

    def _remove_target(self) -> None:
        self._closed = True
        try:
            if self._path.exists():
                self._path.unlink()
                if self._durable:
                    sync_directory(self._path.parent)
        except OSError as error:
            raise storage_error(self._path, error) from error

    def _sync_directories(self) -> None:
        """The directory of the shard and those above it up to the array's, any of which may be new."""
        for parent in self._path.parents[: self._layout.shard_key(0, 0).count("/") + 1]:
            sync_directory(parent)
