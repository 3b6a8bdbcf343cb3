"""Prefixes of buckets on S3, Google Cloud Storage and Azure, through obstore.

An object is written by one PUT, or by a multipart upload that is completed at the end: it is there whole or not at
all, on every store. What a PUT has answered is durable.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Any, Self

from google_crc32c import Checksum

from gigatile.errors import StorageError
from gigatile.storage import lease
from gigatile.storage.client import connect, exceptions, obstore, patiently, storage_error
from gigatile.storage.store import Entry
from gigatile.storage.url import bucket_url

PART_BYTES = 8 << 20
"""S3 takes parts of 5 MiB to 5 GiB and 10,000 of them: 80 GiB an object."""
PARTS_UNDER_WAY = 2
WRITER_BYTES = (PARTS_UNDER_WAY + 2) * PART_BYTES
"""What a writer holds at most, see `ObjectWriter`."""
_PAGE = 1000
"""Keys in one answer of a list, and in one request to delete."""


@dataclass(frozen=True, slots=True)
class BucketStore:
    """See `Store`. A pickle holds the URL; whoever opens it uses the credentials of its own environment."""

    url: str
    """``scheme://bucket/prefix``, as `open_bucket` left it."""

    @property
    def name(self) -> str:
        """See `Store.name`."""
        return self.url

    @property
    def local(self) -> Path | None:
        """See `Store.local`."""
        return None

    @property
    def writer_bytes(self) -> int:
        """See `Store.writer_bytes`."""
        return WRITER_BYTES

    def below(self, key: str) -> BucketStore:
        """See `Store.below`."""
        return BucketStore(self.where(key))

    def where(self, key: str) -> str:
        """See `Store.where`."""
        key = key.strip("/")
        return f"{self.url}/{key}" if key else self.url

    def read(self, key: str) -> bytes | None:
        """See `Store.read`."""
        path, client = self._path(key), connect(self.url)
        try:
            return patiently(self.where(key), self.url, lambda: bytes(obstore().get(client, path).bytes()))
        except FileNotFoundError:
            return None

    def read_range(self, key: str, offset: int, nbytes: int) -> bytes:
        """See `Store.read_range`."""
        path, client = self._path(key), connect(self.url)

        def attempt() -> bytes:
            return bytes(obstore().get_range(client, path, start=offset, length=nbytes))

        if nbytes > 0:
            try:
                return patiently(self.where(key), self.url, attempt)
            except StorageError:
                size = self.size(key)
                if size is None or offset < size:
                    raise
                return b""  # a range that begins behind the end is an error of HTTP (416)
        if self.size(key) is None:
            raise FileNotFoundError(self.where(key))
        return b""

    def size(self, key: str) -> int | None:
        """See `Store.size`."""
        path, client = self._path(key), connect(self.url)
        try:
            return patiently(self.where(key), self.url, lambda: int(obstore().head(client, path)["size"]))
        except FileNotFoundError:
            return None

    def entries(self, prefix: str = "") -> Iterator[Entry]:
        """See `Store.entries`. A list that breaks off goes on behind the last key it gave.

        Memory bound
        ------------
        One answer of the store: 1,000 keys.
        """
        below, client = bucket_url(self.where(prefix)).key, connect(self.url)
        cut = len(bucket_url(self.url).key)
        last: str | None = None
        pages: Any = None

        def attempt() -> Any:
            nonlocal pages
            if pages is None:
                pages = iter(obstore().list(client, below or None, offset=last, chunk_size=_PAGE))
            try:
                return next(pages, None)
            except Exception:
                pages = None
                raise

        while page := patiently(self.where(prefix), self.url, attempt):
            for found in page:
                yield Entry(found["path"][cut:].lstrip("/"), int(found["size"]))
            last = page[-1]["path"]

    def write(self, key: str, content: bytes) -> None:
        """See `Store.write`. Always one PUT: to compare would be a request, too, and equal content changes nothing."""
        lease.check(self.where(key))
        path, client = self._path(key), connect(self.url)
        patiently(self.where(key), self.url, lambda: obstore().put(client, path, bytes(content), use_multipart=False))

    def writer(self, key: str) -> ObjectWriter:
        """See `Store.writer`."""
        return ObjectWriter(self, key)

    def journal(self, prefix: str, name: str) -> ObjectJournal:
        """See `Store.journal`."""
        return ObjectJournal(self.below(prefix), name)

    def delete(self, key: str) -> None:
        """See `Store.delete`."""
        lease.check(self.where(key))
        self._delete([self._path(key)])

    def delete_tree(self, prefix: str = "") -> None:
        """See `Store.delete_tree`. A lock that this process holds stays."""
        lease.check(self.where(prefix))
        keys: list[str] = []
        for entry in self.entries(prefix):
            if not lease.held(self.where(entry.key)):
                keys.append(self._path(entry.key))
            if len(keys) == _PAGE:
                self._delete(keys)
                keys = []
        self._delete(keys)

    def remove_leftovers(self) -> int:
        """See `Store.remove_leftovers`. Always 0.

        An upload that was begun and not completed is no object, and obstore cannot list it: a lifecycle rule of the
        bucket removes it (docs/object-storage.md).
        """
        return 0

    def lock(self, key: str) -> AbstractContextManager[None]:
        """See `Store.lock`; see `lease` for how."""
        return lease.lease(connect(self.url), self._path(key), self.where(key), lease.LeaseTimes())

    def _delete(self, paths: list[str]) -> None:
        client = connect(self.url)
        try:
            if paths:
                patiently(self.url, self.url, lambda: obstore().delete(client, paths))
        except FileNotFoundError:
            return  # Google's and Azure's stores say so, S3 does not

    def _path(self, key: str) -> str:
        if ".." in key.split("/") or key.startswith("/") or not key:
            raise StorageError(self.name, expected="a name inside the prefix", found=repr(key))
        prefix = bucket_url(self.url).key
        return f"{prefix}/{key}" if prefix else key


class ObjectWriter:
    """See `Writer`: one PUT for what fits in a part, a multipart upload beyond.

    Memory bound
    ------------
    The part that is being filled, here and in obstore, and `PARTS_UNDER_WAY` that are being sent: `WRITER_BYTES`,
    and the largest piece that is given to `write`.
    """

    def __init__(self, store: BucketStore, key: str) -> None:
        self._store, self._key = store, key
        self._path = store._path(key)
        self._client = connect(store.url)
        self._pending = bytearray()
        self._upload: Any = None
        self._nbytes, self._checksum = 0, Checksum()
        self._closed = False

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

    def write(self, content: bytes | memoryview) -> None:
        """See `Writer.write`."""
        rest = memoryview(content).cast("B")
        while rest:
            room = PART_BYTES - len(self._pending)
            if not room:
                self._send()
                continue
            self._pending += rest[:room]
            rest = rest[room:]

    def finish(self) -> None:
        """See `Writer.finish`."""
        lease.check(self._store.where(self._key))
        if self._upload is None:
            self._store.write(self._key, bytes(self._pending))
        else:
            self._send()
            try:
                self._upload.close()
            except (exceptions().BaseError, OSError) as error:
                if not self._is_complete():
                    raise self._error(error) from None
        self._closed = True
        self._pending.clear()

    def abandon(self) -> None:
        """See `Writer.abandon`. An upload that cannot be aborted is never taken for an object."""
        if self._closed:
            return
        self._closed = True
        self._pending.clear()
        if self._upload is None:
            return
        reason = StorageError(self._store.where(self._key), found="a writer that was abandoned")
        try:
            self._upload.__exit__(StorageError, reason, None)  # this is how obstore aborts an upload
        except (exceptions().BaseError, OSError) as error:
            raise self._error(error) from None

    def _send(self) -> None:
        content = bytes(self._pending)  # the part that obstore fills is empty by now: see WRITER_BYTES
        self._pending = bytearray()
        self._nbytes += len(content)
        self._checksum.update(content)
        try:
            if self._upload is None:
                self._upload = obstore().open_writer(
                    self._client, self._path, buffer_size=PART_BYTES, max_concurrency=PARTS_UNDER_WAY
                )
            self._upload.write(content)
        except (exceptions().BaseError, OSError) as error:
            raise self._error(error) from None

    def _is_complete(self) -> bool:
        """Whether the object is there although the answer was an error.

        If the answer to the completion is lost, it is asked for again, and the store knows of no such upload any
        more. The object is then read once and compared by its checksum.
        """
        if self._store.size(self._key) != self._nbytes:
            return False
        there = Checksum()
        for offset in range(0, self._nbytes, PART_BYTES):
            there.update(self._store.read_range(self._key, offset, PART_BYTES))
        return bool(there.digest() == self._checksum.digest())

    def _error(self, error: Exception) -> StorageError:
        return storage_error(self._store.where(self._key), self._store.url, error)


class ObjectJournal:
    """See `Journal`: each `append` is one object ``name-<random>-000001.jsonl``, and so is each `note`.

    An object cannot be appended to. So `note` costs as much as `append` here, and is as durable: gather lines.
    """

    def __init__(self, store: BucketStore, name: str) -> None:
        self._store, self._name = store, f"{name}-{secrets.token_hex(4)}"
        self._count, self._lock = 0, Lock()

    def append(self, lines: bytes) -> None:
        """See `Journal.append`. Whole or not at all."""
        with self._lock:
            self._count += 1
            count = self._count
        self._store.write(f"{self._name}-{count:06d}.jsonl", lines)

    def note(self, lines: bytes) -> None:
        """See `Journal.note`. A PUT, as `append` is."""
        self.append(lines)

    def close(self) -> None:
        """See `Journal.close`. Every object is closed already."""


def open_bucket(url: str) -> BucketStore:
    """The store at a URL; nothing is asked for yet.

    Parameters
    ----------
    url : str
        ``s3://bucket/prefix``, ``gs://...``, ``az://container/prefix``, or ``abfss://container@account.host/prefix``.

    Raises
    ------
    UsageError
        The URL makes no sense or holds secrets; obstore is not installed; the environment makes no sense.
    """
    parsed = bucket_url(url)
    connect(parsed.root)
    return BucketStore(str(parsed))
