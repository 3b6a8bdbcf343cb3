"""Is a shard on disk what the ledger says, and does all of it decode?

Shares no code with the writer: the index is read by the specification and the chunks are decoded by
numcodecs.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import IO, Any

import numpy as np

from gigatile.outputs.files import storage_error
from gigatile.outputs.layout import ArrayLayout
from gigatile.outputs.shard import ShardReceipt

_READ_BYTES = 1 << 20
_BLOSC_HEADER_BYTES = 16
_ABSENT = 2**64 - 1


def check_shard(path: Path, layout: ArrayLayout, receipt: ShardReceipt) -> list[str]:
    """Compare a shard with its receipt and decode every chunk.

    Memory bound
    ------------
    The index (16 bytes a chunk) and one chunk, encoded and decoded.

    Parameters
    ----------
    path : Path
        The shard's file.
    layout : ArrayLayout
        The array that it belongs to.
    receipt : ShardReceipt
        What was recorded when it was written.

    Returns
    -------
    list of str
        One sentence a problem; empty if all is well.

    Raises
    ------
    StorageError
        The file is there and cannot be read.
    """
    try:
        with path.open("rb") as file:
            if receipt.empty:
                return [f"{path}: recorded as empty, but there is a file"]
            return [f"{path}: {problem}" for problem in _problems(file, layout, receipt)]
    except FileNotFoundError:
        return [] if receipt.empty else [f"{path}: missing"]
    except OSError as error:
        raise storage_error(path, error) from error


def _problems(file: IO[bytes], layout: ArrayLayout, receipt: ShardReceipt) -> list[str]:
    found = []
    digest, size = hashlib.sha256(), 0
    while piece := file.read(_READ_BYTES):
        digest.update(piece)
        size += len(piece)
    if size != receipt.nbytes:
        found.append(f"{size} bytes, {receipt.nbytes} recorded")
    if digest.hexdigest() != receipt.digest:
        found.append("its SHA-256 differs from the recorded one")
    return found + _index_problems(file, layout, size)


def _index_problems(file: IO[bytes], layout: ArrayLayout, size: int) -> list[str]:
    import google_crc32c  # here, so that importing gigatile stays light

    chunks = int(np.prod(layout.chunks_per_shard))
    length = 16 * chunks
    end = size - length - 4
    if end < 0:
        return [f"{size} bytes are too few for the index of {chunks} chunks"]
    file.seek(end)
    index = file.read(length)
    if google_crc32c.value(index) != int.from_bytes(file.read(4), "little"):
        return ["the checksum of its index is wrong"]
    found = []
    covered = 0
    for place, (offset, nbytes) in enumerate(np.frombuffer(index, dtype="<u8").reshape(-1, 2).tolist()):
        if (offset, nbytes) == (_ABSENT, _ABSENT):
            continue
        where = tuple(int(i) for i in np.unravel_index(place, layout.chunks_per_shard))
        if offset + nbytes > end:
            found.append(f"chunk {where} lies beyond the chunk data")
            continue
        covered += nbytes
        file.seek(offset)
        problem = _chunk_problem(file.read(nbytes), layout)
        if problem:
            found.append(f"chunk {where} {problem}")
    if not found and covered != end:
        found.append(f"chunks cover {covered} of {end} bytes")
    return found


def _chunk_problem(encoded: bytes, layout: ArrayLayout) -> str:
    """What is wrong with the bytes of one chunk, or nothing."""
    from numcodecs import blosc  # here, so that importing gigatile stays light

    expected = layout.chunk[0] * layout.chunk[1] * layout.dtype.itemsize
    if len(encoded) < _BLOSC_HEADER_BYTES:
        return "is shorter than its header"
    # Blosc 1 header: two versions, flags, type size, then uint32 nbytes, blocksize, cbytes.
    decoded_bytes, _, encoded_bytes = np.frombuffer(encoded[4:16], dtype="<u4").tolist()
    if (decoded_bytes, encoded_bytes) != (expected, len(encoded)):
        return f"says {encoded_bytes} -> {decoded_bytes} bytes where {len(encoded)} -> {expected} are right"
    try:
        decoded: Any = blosc.decompress(encoded)
    except (RuntimeError, ValueError) as error:
        return f"does not decode ({error})"
    return "" if len(decoded) == expected else f"decodes to {len(decoded)} bytes instead of {expected}"
