"""Files that images are read from, wherever they lie: paths, objects of a bucket, files on a web server.

::

    open_bytes(place) ─┬─ LocalFile    pread
                       └─ RemoteFile   ranged GETs, near ones in one, the others side by side
    as_file(source)                    a file object with a small cache, for libraries that parse headers
"""

from __future__ import annotations

import io
import os
import weakref
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gigatile.errors import ImageError, UsageError
from gigatile.storage.listing import glob, is_prefix, zarr_store
from gigatile.storage.reading import ByteSource, sampled_digest
from gigatile.storage.url import BUCKET_SCHEMES, WEB_SCHEMES, redacted, scheme_of

__all__ = ["LocalFile", "as_file", "file_identity", "glob", "is_prefix", "open_bytes", "sampled_digest", "zarr_store"]

BLOCK_BYTES = 1 << 16
AHEAD_BLOCKS = 16
"""Read at once, at most, where somebody reads on and on: 1 MiB."""
CACHED_BLOCKS = 64
_FIX = "Check the path and the permissions."


def open_bytes(place: str | Path) -> ByteSource:
    """The file at a path or URL.

    Parameters
    ----------
    place : str or Path
        A path, ``file://``, ``s3://``, ``gs://``, ``az://`` (and the other spellings of Azure), ``https://``.

    Raises
    ------
    ImageError
        There is no such file, it is empty, or it may not be read.
    UsageError
        Nothing is known of the scheme; obstore is not installed.
    StorageError
        A store or server does not answer.
    """
    text = str(place)
    scheme = scheme_of(text)
    if scheme in ("", "file"):
        return LocalFile(text.removeprefix("file://"))
    if scheme in BUCKET_SCHEMES or scheme in WEB_SCHEMES:
        from gigatile.storage.remote import open_remote  # obstore is loaded only by those who use it

        return open_remote(text)
    known = ", ".join(sorted({"file", *BUCKET_SCHEMES, *WEB_SCHEMES}))
    raise UsageError(redacted(text), expected=f"a path or a URL of {known}", found=f"{scheme}://", fix="Check the URL.")


class LocalFile:
    """See `ByteSource`. One file descriptor that has no position: threads cannot disturb each other.

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
        self._size = os.fstat(fd).st_size
        if Path(path).is_dir():
            raise ImageError(self.path, expected="a file", found="a directory", fix=_FIX)
        if self._size == 0:
            raise ImageError(self.path, expected="an image", found="an empty file", fix="Fetch it again.")

    def __reduce__(self) -> tuple[Any, ...]:
        return LocalFile, (self.path,)

    @property
    def name(self) -> str:
        """See `ByteSource.name`."""
        return self.path

    @property
    def size(self) -> int:
        """See `ByteSource.size`."""
        return self._size

    def read(self, offset: int, nbytes: int) -> bytes:
        """See `ByteSource.read`."""
        data = os.pread(self._fd, nbytes, offset)
        if len(data) == nbytes:
            return data
        parts = [data]
        while data and (nbytes := nbytes - len(data)):
            offset += len(data)
            data = os.pread(self._fd, nbytes, offset)
            parts.append(data)
        if nbytes:
            raise EOFError(f"the file ends {nbytes} bytes too early")
        return b"".join(parts)

    def read_many(self, spans: Sequence[tuple[int, int]]) -> list[bytes]:
        """See `ByteSource.read_many`. One after the other: the page cache reads ahead."""
        return [self.read(offset, nbytes) for offset, nbytes in spans]

    def identity(self) -> dict[str, str | int]:
        """See `ByteSource.identity`."""
        return file_identity(self)


def as_file(source: ByteSource) -> io.RawIOBase:
    """A file object, read only, over a file that is read at positions. For one thread at a time."""
    return _FileFace(source)


def file_identity(file: ByteSource) -> dict[str, str | int]:
    """Size and sampled digest of a file; neither path nor times."""
    return {"size": file.size, "sha256": sampled_digest(file.read, file.size)}


class _FileFace(io.RawIOBase):
    """Blocks of 64 KiB, the latest used kept; whoever reads on and on gets up to 1 MiB at once.

    Headers are read in pieces of a few bytes: each would be a request.

    Memory bound
    ------------
    `CACHED_BLOCKS` blocks (4 MiB). What is longer than `AHEAD_BLOCKS` blocks is read past the cache.
    """

    def __init__(self, source: ByteSource) -> None:
        super().__init__()
        self.name = source.name
        self._source = source
        self._position = 0
        self._blocks: OrderedDict[int, bytes] = OrderedDict()
        self._ahead, self._next = 1, 0

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def tell(self) -> int:
        """Where the next read begins."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go somewhere, behind the end if need be, as with every file."""
        begin = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._source.size}[whence]
        if begin + offset < 0:
            raise ValueError(f"no place {begin + offset} in {self.name}")
        self._position = begin + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer; only the end of the file leaves a part of it."""
        view = memoryview(buffer).cast("B")
        content = self._content(len(view))
        view[: len(content)] = content
        return len(content)

    def readall(self) -> bytes:
        """Everything to the end, in one read."""
        return self._content(max(0, self._source.size - self._position))

    def _content(self, nbytes: int) -> bytes:
        begin = self._position
        end = min(begin + nbytes, self._source.size)
        if begin >= end:
            return b""
        if end - begin > AHEAD_BLOCKS * BLOCK_BYTES:
            content = self._source.read(begin, end - begin)
        else:
            first, last = begin // BLOCK_BYTES, (end - 1) // BLOCK_BYTES
            blocks = self._load(first, last)
            content = b"".join(blocks)[begin - first * BLOCK_BYTES : end - first * BLOCK_BYTES]
        self._position = end
        return content

    def _load(self, first: int, last: int) -> list[bytes]:
        """Blocks first to last; all that is missing, and what is read ahead, comes with one read."""
        missing = [block for block in range(first, last + 1) if block not in self._blocks]
        if missing:
            self._ahead = min(2 * self._ahead, AHEAD_BLOCKS) if missing[0] == self._next else 1
            stop = max(missing[-1] + 1, missing[0] + self._ahead)
            begin, end = missing[0] * BLOCK_BYTES, min(stop * BLOCK_BYTES, self._source.size)
            content = self._source.read(begin, end - begin)
            for offset in range(0, len(content), BLOCK_BYTES):
                self._blocks[missing[0] + offset // BLOCK_BYTES] = content[offset : offset + BLOCK_BYTES]
            self._next = stop
        found = []
        for block in range(first, last + 1):
            self._blocks.move_to_end(block)
            found.append(self._blocks[block])
        while len(self._blocks) > CACHED_BLOCKS:
            self._blocks.popitem(last=False)
        return found
