"""A local file read at positions, by many threads at once, and its fingerprint."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

from gigatile.errors import ImageError

SPAN_BYTES = 1 << 16
SPANS = 16


class PositionalFile:
    """One file descriptor that has no position: `read` never seeks, so threads cannot disturb each other.

    Raises
    ------
    ImageError
        The file is missing, empty, not a regular file or not readable.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = str(path)
        try:
            fd = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0))
        except FileNotFoundError as error:
            raise ImageError(self.path, expected="an image", found="no such file", fix=_FIX) from error
        except OSError as error:
            raise ImageError(self.path, found=f"an error on opening: {error.strerror}", fix=_FIX) from error
        weakref.finalize(self, os.close, fd)
        self._fd = fd
        self.size = os.fstat(fd).st_size
        """Bytes in the file when it was opened."""
        if Path(path).is_dir():
            raise ImageError(self.path, expected="a file", found="a directory", fix=_FIX)
        if self.size == 0:
            raise ImageError(self.path, expected="an image", found="an empty file", fix="Fetch it again.")

    def read(self, offset: int, count: int) -> bytes:
        """Exactly `count` bytes from `offset`.

        Raises
        ------
        EOFError
            The file ends before.
        OSError
            The storage failed.
        """
        data = os.pread(self._fd, count, offset)
        if len(data) == count:
            return data
        parts = [data]
        while data and (count := count - len(data)):
            offset += len(data)
            data = os.pread(self._fd, count, offset)
            parts.append(data)
        if count:
            raise EOFError(f"the file ends {count} bytes too early")
        return b"".join(parts)


_FIX = "Check the path and the permissions."


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


def file_identity(file: PositionalFile) -> dict[str, str | int]:
    """Size and sampled digest of a file; neither path nor times."""
    return {"size": file.size, "sha256": sampled_digest(file.read, file.size)}
