"""What a reader of images needs of a file, wherever it lies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol


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
