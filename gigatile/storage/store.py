"""What a place is that runs write to and read from: a tree of named byte strings.

::

    Store ─┬─ LocalStore    files: a temporary name, fsync, rename
           └─ BucketStore   objects: one PUT, or a multipart upload that is completed at the end

Whatever the place, an object is there whole or not at all. Keys are relative, with ``/`` between their parts.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Protocol, Self


class Entry(NamedTuple):
    """One object of a store."""

    key: str
    nbytes: int


class Writer(Protocol):
    """An object that is written piece by piece and appears, whole, with `finish`. For one thread.

    As a context manager it leaves nothing behind if `finish` was not reached.
    """

    def write(self, content: bytes | memoryview) -> None:
        """Append.

        Raises
        ------
        StorageError
            The storage is full or went away.
        """
        ...

    def finish(self) -> None:
        """Give the object its name, replacing what had it."""
        ...

    def abandon(self) -> None:
        """Leave nothing; nothing happens after `finish`."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Journal(Protocol):
    """A log that one process appends to. Safe to call from several threads."""

    def append(self, lines: bytes) -> None:
        """Add whole lines; with a durable store they survive a power cut when this returns.

        Raises
        ------
        StorageError
            They may be there in part: a reader must be able to tell. What is appended later goes elsewhere.
        """
        ...

    def note(self, lines: bytes) -> None:
        """Add lines that a power cut may lose, but not the death of this process."""
        ...

    def close(self) -> None:
        """Let go of it; a later `append` begins another object."""
        ...


class Store(Protocol):
    """A tree of objects below one root. Safe to use from many threads; picklable, without secrets.

    Every method raises `StorageError` where the storage does not answer, is full or refuses.
    """

    @property
    def name(self) -> str:
        """A path or URL, as messages name it; without secrets."""
        ...

    @property
    def local(self) -> Path | None:
        """The directory, where it is one of this machine."""
        ...

    @property
    def writer_bytes(self) -> int:
        """Memory that one `writer` holds at most, beside what it is given."""
        ...

    def below(self, key: str) -> Store:
        """The part of the tree under a key."""
        ...

    def where(self, key: str) -> str:
        """How messages name an object."""
        ...

    def read(self, key: str) -> bytes | None:
        """A whole object; None where there is none."""
        ...

    def read_range(self, key: str, offset: int, nbytes: int) -> bytes:
        """Part of an object, shorter where it ends before.

        Raises
        ------
        FileNotFoundError
            There is no such object.
        """
        ...

    def size(self, key: str) -> int | None:
        """Bytes of an object; None where there is none."""
        ...

    def entries(self, prefix: str = "") -> Iterator[Entry]:
        """Every object below a prefix that ends at a ``/`` (or is empty), temporary ones left out; in no order."""
        ...

    def write(self, key: str, content: bytes) -> None:
        """Replace a small object as a whole, durably in any case; equal content is left as it is."""
        ...

    def writer(self, key: str) -> Writer:
        """Write a large object piece by piece."""
        ...

    def journal(self, prefix: str, name: str) -> Journal:
        """A new log; its objects are called ``prefix/name...`` and hold lines in the order of `append`."""
        ...

    def delete(self, key: str) -> None:
        """Remove an object; nothing happens where there is none."""
        ...

    def delete_tree(self, prefix: str = "") -> None:
        """Remove everything below a prefix."""
        ...

    def remove_leftovers(self) -> int:
        """Remove what killed writers left; only while nobody writes. Returns how many there were."""
        ...

    def lock(self, key: str) -> AbstractContextManager[None]:
        """Hold an exclusive lock for this process, given back when the process dies, however.

        Raises
        ------
        RunRefused
            A live process holds it; says which.
        """
        ...
