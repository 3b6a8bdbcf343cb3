"""Is a stored shard what the ledger says, and does all of it decode?

Shares no code with the writer: the index is read by the specification and the chunks are decoded by
numcodecs.
"""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple

import numpy as np

from gigatile.outputs.layout import ArrayLayout
from gigatile.outputs.shard import ShardReceipt
from gigatile.storage.store import Store

REQUEST_BYTES = 4 << 20
"""Read at once."""

_BLOSC_HEADER_BYTES = 16
_BLOSC_OVERHEAD_BYTES = 16
"""What Blosc adds to bytes that it cannot make smaller (``BLOSC_MAX_OVERHEAD``)."""
_ABSENT = 2**64 - 1


def check_shard(store: Store, key: str, layout: ArrayLayout, receipt: ShardReceipt) -> list[str]:
    """Compare a shard with its receipt and decode every chunk.

    Each byte is asked for once, in order, but for those of the index.

    Memory bound
    ------------
    The index as Python numbers (about 200 bytes a chunk), `REQUEST_BYTES`, and one chunk, encoded and decoded.

    Parameters
    ----------
    store : Store
        That of ``prediction.zarr``.
    key : str
        The shard's key in it.
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
        The shard is there and cannot be read.
    """
    where = store.where(key)
    size = store.size(key)
    if size is None:
        return [] if receipt.empty else [f"{where}: missing"]
    if receipt.empty:
        return [f"{where}: recorded as empty, but there is a file"]
    try:
        return [f"{where}: {problem}" for problem in _problems(_Forward(store, key, size), layout, receipt)]
    except FileNotFoundError:
        return [f"{where}: missing"]


def check_tables(store: Store, key: str, receipt: ShardReceipt) -> list[str]:
    """Compare tables with their receipt: one object, or all objects below a key that ends with a slash, by name.

    Memory bound
    ------------
    `REQUEST_BYTES`.

    Raises
    ------
    StorageError
        One is there and cannot be read.
    """
    keys = sorted(entry.key for entry in store.entries(key)) if key.endswith("/") else [key]
    # What lies deeper came later, of other stages.
    keys = [one for one in keys if one.endswith(".parquet") and "/" not in one.removeprefix(key)]
    digest = hashlib.sha256()
    try:
        for one in keys:
            size, start = store.size(one) or 0, 0
            while start < size:
                piece = store.read_range(one, start, REQUEST_BYTES)
                digest.update(piece)
                start += len(piece)
    except FileNotFoundError:
        return [f"{store.where(key)}: missing"]
    if digest.hexdigest() == receipt.digest:
        return []
    return [f"{store.where(key)}: its SHA-256 differs from the recorded one"]


class _Forward:
    """An object read once from its beginning to its end, hashed on the way.

    Memory bound
    ------------
    What was asked for and one request.
    """

    def __init__(self, store: Store, key: str, size: int) -> None:
        self._store, self._key, self.size = store, key, size
        self._digest = hashlib.sha256()
        self._held, self._start = b"", 0

    def tail(self, offset: int, nbytes: int) -> bytes:
        """Bytes out of order; they are not hashed."""
        return self._store.read_range(self._key, offset, nbytes)

    def take(self, offset: int, nbytes: int) -> bytes:
        """`nbytes` from `offset`, which is never smaller than the time before; fewer where the object ends."""
        while self._start + len(self._held) < offset + nbytes:
            # What lies before is not needed any more.
            passed = min(offset - self._start, len(self._held))
            self._held, self._start = self._held[passed:], self._start + passed
            if not self._more():
                break
        return self._held[offset - self._start : offset - self._start + nbytes]

    def finish(self) -> tuple[int, str]:
        """Read the rest; the size and SHA-256 of what there was."""
        self._held, self._start = b"", self._start + len(self._held)
        while self._more():
            self._held, self._start = b"", self._start + len(self._held)
        return self._start, self._digest.hexdigest()

    def _more(self) -> bool:
        at = self._start + len(self._held)
        piece = b""
        if at < self.size:
            piece = self._store.read_range(self._key, at, min(REQUEST_BYTES, self.size - at))
        self._digest.update(piece)
        self._held += piece
        return bool(piece)


class _Stored(NamedTuple):
    """A line of the index."""

    offset: int
    nbytes: int
    place: int


def _problems(source: _Forward, layout: ArrayLayout, receipt: ShardReceipt) -> list[str]:
    chunks, wrong = _index(source, layout)
    wrong += _chunk_problems(source, layout, chunks)
    size, digest = source.finish()
    found = []
    if size != receipt.nbytes:
        found.append(f"{size} bytes, {receipt.nbytes} recorded")
    if digest != receipt.digest:
        found.append("its SHA-256 differs from the recorded one")
    return found + wrong


def _index(source: _Forward, layout: ArrayLayout) -> tuple[list[_Stored], list[str]]:
    """The chunks that can be looked at, in the order in which they lie, and what is wrong with the index."""
    import google_crc32c  # here, so that importing gigatile stays light

    chunks = int(np.prod(layout.chunks_per_shard))
    length = 16 * chunks
    end = source.size - length - 4
    if end < 0:
        return [], [f"{source.size} bytes are too few for the index of {chunks} chunks"]
    content = source.tail(end, length + 4)
    index = content[:length]
    if google_crc32c.value(index) != int.from_bytes(content[length:], "little"):
        return [], ["the checksum of its index is wrong"]
    limit = _decoded_bytes(layout) + _BLOSC_OVERHEAD_BYTES
    inside, found = [], []
    for place, (offset, nbytes) in enumerate(np.frombuffer(index, dtype="<u8").reshape(-1, 2).tolist()):
        if (offset, nbytes) == (_ABSENT, _ABSENT):
            continue
        if offset + nbytes > end:
            found.append(f"chunk {_place(layout, place)} lies beyond the chunk data")
        elif nbytes > limit:
            found.append(f"chunk {_place(layout, place)} has {nbytes} bytes where {limit} are the most")
        else:
            inside.append(_Stored(offset, nbytes, place))
    covered = sum(chunk.nbytes for chunk in inside)
    if not found and covered != end:
        found.append(f"chunks cover {covered} of {end} bytes")
    return sorted(inside), found


def _chunk_problems(source: _Forward, layout: ArrayLayout, chunks: list[_Stored]) -> list[str]:
    """What is wrong with the chunks, in the order of the index."""
    found = {}
    for chunk in chunks:
        problem = _chunk_problem(source.take(chunk.offset, chunk.nbytes), chunk.nbytes, layout)
        if problem:
            found[chunk.place] = f"chunk {_place(layout, chunk.place)} {problem}"
    return [found[place] for place in sorted(found)]


def _chunk_problem(encoded: bytes, nbytes: int, layout: ArrayLayout) -> str:
    """What is wrong with the bytes of one chunk, or nothing."""
    from numcodecs import blosc  # here, so that importing gigatile stays light

    expected = _decoded_bytes(layout)
    if len(encoded) < nbytes:
        return "is cut off"
    if nbytes < _BLOSC_HEADER_BYTES:
        return "is shorter than its header"
    # Blosc 1 header: two versions, flags, type size, then uint32 nbytes, blocksize, cbytes.
    decoded_bytes, _, encoded_bytes = np.frombuffer(encoded[4:16], dtype="<u4").tolist()
    if (decoded_bytes, encoded_bytes) != (expected, nbytes):
        return f"says {encoded_bytes} -> {decoded_bytes} bytes where {nbytes} -> {expected} are right"
    try:
        decoded: Any = blosc.decompress(encoded)
    except (RuntimeError, ValueError) as error:
        return f"does not decode ({error})"
    return "" if len(decoded) == expected else f"decodes to {len(decoded)} bytes instead of {expected}"


def _decoded_bytes(layout: ArrayLayout) -> int:
    return layout.chunk[0] * layout.chunk[1] * layout.dtype.itemsize


def _place(layout: ArrayLayout, place: int) -> tuple[int, ...]:
    return tuple(int(i) for i in np.unravel_index(place, layout.chunks_per_shard))
