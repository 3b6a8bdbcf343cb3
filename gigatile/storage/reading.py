"""What a reader of images needs of a file, wherever it lies."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from typing import Protocol

SPAN_BYTES = 1 << 16
SPANS = 16


class ByteSource(Protocol):
    """A file read at positions, by many threads at once. Picklable: it opens itself again."""

    @property
    def name(self) -> str:
        """A path, or a URL without secrets: how messages name it."""
        ...

    @property
    def size(self) -> int:
        """Bytes in it when it was opened."""
        ...

    def read(self, offset: int, nbytes: int) -> bytes:
        """Exactly `nbytes` bytes.

        Raises
        ------
        EOFError
            The file ends before.
        OSError
            The storage failed, after retries where they help.
        """
        ...

    def read_many(self, spans: Sequence[tuple[int, int]]) -> list[bytes]:
        """Several spans ``(offset, nbytes)`` at once: near ones in one request, the others side by side."""
        ...

    def identity(self) -> Mapping[str, str | int]:
        """Same for the same content wherever it lies: its size and a digest of sampled spans, or a store's ETag."""
        ...


def sampled_digest(read: Callable[[int, int], bytes], size: int) -> str:
    """SHA-256 of the first and last 64 KiB and of 16 spans of 64 KiB spread evenly between them.

    A digest of a whole slide would read gigabytes before the first tile; a header, a trailer and
    16 spans tell two files apart unless someone takes care that they do not.
    """
    digest = sha256()
    last = max(0, size - SPAN_BYTES)
    starts = sorted({last * i // (SPANS + 1) for i in range(SPANS + 2)})
    end = 0
    for start in starts:
        start = max(start, end)  # small files: no byte twice, so they are digested whole
        stop = min(start + SPAN_BYTES, size)
        if stop > start:
            digest.update(read(start, stop - start))
            end = stop
    return digest.hexdigest()
