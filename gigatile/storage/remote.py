"""A file in a bucket or on a web server, read by ranged requests."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

from gigatile.errors import ImageError, StorageError
from gigatile.storage.client import StorageRefused, connect, exceptions, obstore, patiently
from gigatile.storage.reading import sampled_digest
from gigatile.storage.url import WEB_SCHEMES, bucket_url, redacted, scheme_of

COALESCE_BYTES = 256 << 10
"""Spans with a smaller gap between them are one request: docs/decisions/005-one-storage-layer.md has the figures."""
REQUEST_BYTES = 8 << 20
"""What is longer is several requests side by side."""
REQUESTS_AT_ONCE = 16
"""Of this process, beyond those that its threads make one at a time."""
HEADER_BYTES = 1 << 16
"""Read on opening and kept: most headers are in it."""


def open_remote(url: str) -> RemoteFile:
    """The file at a URL. One request, which brings its size, its ETag and its first bytes.

    A GET and not a HEAD: whoever signed a URL signed it for GET.

    Raises
    ------
    ImageError
        There is no such file, it is empty, or it may not be read.
    StorageError
        The store does not answer.
    """
    name = redacted(url)
    client, path = _object(url)

    def attempt() -> tuple[bytes, int, str]:
        found = obstore().get(client, path, options={"range": (0, HEADER_BYTES)})
        return bytes(found.bytes()), int(found.meta["size"]), found.meta["e_tag"] or ""

    try:
        header, size, etag = patiently(name, url, attempt)
    except FileNotFoundError:
        fix = "Check the URL; keys are told apart by upper and lower case."
        raise ImageError(name, expected="an image", found="no such object", fix=fix) from None
    except StorageRefused as error:
        if error.found.startswith("416"):
            raise ImageError(name, expected="an image", found="an empty file", fix="Fetch it again.") from None
        raise ImageError(name, expected=error.expected, found=error.found, fix=error.fix) from None
    return RemoteFile(url, size, etag, header)


class RemoteFile:
    """See `ByteSource`. Made by `open_remote`.

    Every range is asked for on the condition that the file is the one that was opened (``If-Match``), or its ETag is
    compared where the server gives only a weak one: a file that changes under way is an error, never a mixture.
    Its pickle holds the URL, signature and all, and must not be written to a file; its name and its identity do not.

    Memory bound
    ------------
    The first 64 KiB; in `read_many`, the spans asked for and the gaps that are read with them.
    """

    def __init__(self, url: str, size: int, etag: str, header: bytes = b"") -> None:
        self._url, self._size, self._etag, self._header = url, size, etag, header
        self._client, self._path = _object(url)

    def __reduce__(self) -> tuple[Any, ...]:
        return RemoteFile, (self._url, self._size, self._etag)

    def __repr__(self) -> str:
        return f"RemoteFile({self.name!r}, size={self._size})"

    @property
    def name(self) -> str:
        """See `ByteSource.name`."""
        return redacted(self._url)

    @property
    def size(self) -> int:
        """See `ByteSource.size`."""
        return self._size

    def read(self, offset: int, nbytes: int) -> bytes:
        """See `ByteSource.read`."""
        return self.read_many([(offset, nbytes)])[0]

    def read_many(self, spans: Sequence[tuple[int, int]]) -> list[bytes]:
        """See `ByteSource.read_many`."""
        for offset, nbytes in spans:
            if offset < 0 or nbytes < 0 or offset + nbytes > self._size:
                raise EOFError(f"the file ends {offset + nbytes - self._size} bytes too early")
        asked = [span for span in spans if sum(span) > len(self._header)]
        requests = coalesced(asked, COALESCE_BYTES, REQUEST_BYTES)
        if len(requests) > 1:
            pieces = list(_pool().map(lambda request: self._fetch(*request), requests))
        else:
            pieces = [self._fetch(*request) for request in requests]
        starts = [start for start, _ in requests]
        return [
            _cut(starts, pieces, span) if sum(span) > len(self._header) else self._header[span[0] : sum(span)]
            for span in spans
        ]

    def identity(self) -> dict[str, str | int]:
        """See `ByteSource.identity`. A server without ETags is asked for the sampled spans."""
        if self._etag:
            return {"size": self._size, "etag": self._etag}
        return {"size": self._size, "sha256": sampled_digest(self.read, self._size)}

    def _fetch(self, start: int, stop: int) -> bytes:
        options: dict[str, Any] = {"range": (start, stop)}
        if self._etag and not self._etag.startswith("W/"):  # a weak ETag never matches: RFC 9110, 13.1.1
            options["if_match"] = self._etag

        def attempt() -> bytes:
            try:
                found = obstore().get(self._client, self._path, options=options)
            except exceptions().PreconditionError:
                raise self._changed() from None
            if int(found.meta["size"]) != self._size or (found.meta["e_tag"] or "") != self._etag:
                raise self._changed()
            content = bytes(found.bytes())
            if len(content) != stop - start:
                raise OSError(f"{len(content)} bytes came, of {stop - start}")  # one more of what may pass
            return content

        try:
            return patiently(self.name, self._url, attempt)
        except FileNotFoundError:
            raise self._changed() from None

    def _changed(self) -> StorageError:
        fix = "Let it rest while it is read; then run the same command again."
        return StorageError(self.name, expected="the file that was opened", found="another one in its place", fix=fix)


def coalesced(spans: Sequence[tuple[int, int]], gap: int, limit: int) -> list[tuple[int, int]]:
    """Requests ``[start, stop)`` that cover spans, ascending, each byte once.

    Parameters
    ----------
    spans : sequence of (offset, nbytes)
        In any order; they may overlap.
    gap : int
        Bytes between two spans, up to which they are one request.
    limit : int
        Bytes of one request; longer ones are cut.
    """
    extents: list[tuple[int, int]] = []
    for offset, nbytes in sorted(span for span in spans if span[1]):
        begin, end = extents[-1] if extents else (offset, offset)
        stop = max(end, offset + nbytes)
        together = offset <= end + gap and stop - begin <= limit
        if extents and (together or offset < end):  # no byte is read twice, even if the request gets too long
            extents[-1] = (begin, stop)
        else:
            extents.append((offset, offset + nbytes))
    return [(start, min(start + limit, stop)) for begin, stop in extents for start in range(begin, stop, limit)]


def _cut(starts: Sequence[int], pieces: Sequence[bytes], span: tuple[int, int]) -> bytes:
    """The bytes of a span, out of one piece as a rule, or of several that follow each other."""
    offset, nbytes = span
    if not nbytes:
        return b""
    index = bisect_right(starts, offset) - 1
    parts: list[bytes] = []
    while nbytes:
        begin = offset - starts[index]
        part = pieces[index][begin : begin + nbytes]
        parts.append(part)
        offset, nbytes, index = offset + len(part), nbytes - len(part), index + 1
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _object(url: str) -> tuple[Any, str]:
    """The store to ask, and the key there: a whole URL of a web server is a store whose only object is itself."""
    if scheme_of(url) in WEB_SCHEMES:
        return connect(url), ""
    return connect(url), bucket_url(url).key


@lru_cache(maxsize=1)
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(REQUESTS_AT_ONCE, thread_name_prefix="ranges")
