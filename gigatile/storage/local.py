"""Directories of this machine, or of a shared file system: a unique temporary name, fsync, rename, fsync of the
directory; and logs that are appended to."""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import IO, Self

from gigatile.errors import RunRefused, StorageError
from gigatile.storage.store import Entry

TEMPORARY_SUFFIX = ".tmp"
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@dataclass(frozen=True, slots=True)
class LocalStore:
    """See `Store`."""

    root: Path
    """Absolute."""
    durable: bool = True

    @property
    def name(self) -> str:
        """See `Store.name`."""
        return str(self.root)

    @property
    def local(self) -> Path | None:
        """See `Store.local`."""
        return self.root

    @property
    def writer_bytes(self) -> int:
        """See `Store.writer_bytes`: what is written goes to the operating system."""
        return 0

    def below(self, key: str) -> LocalStore:
        """See `Store.below`."""
        return LocalStore(self.path(key), self.durable)

    def where(self, key: str) -> str:
        """See `Store.where`."""
        return str(self.path(key))

    def path(self, key: str) -> Path:
        """The file of a key; keys cannot leave the root."""
        parts = key.split("/")
        if ".." in parts or key.startswith("/"):
            raise StorageError(self.name, expected="a name inside the directory", found=repr(key))
        return self.root.joinpath(*parts) if key else self.root

    def read(self, key: str) -> bytes | None:
        """See `Store.read`."""
        path = self.path(key)
        try:
            return path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise storage_error(path, error) from error

    def read_range(self, key: str, offset: int, nbytes: int) -> bytes:
        """See `Store.read_range`."""
        path = self.path(key)
        try:
            descriptor = os.open(path, os.O_RDONLY)
            try:
                return os.pread(descriptor, nbytes, offset)
            finally:
                os.close(descriptor)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise storage_error(path, error) from error

    def size(self, key: str) -> int | None:
        """See `Store.size`."""
        path = self.path(key)
        try:
            return path.stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise storage_error(path, error) from error

    def entries(self, prefix: str = "") -> Iterator[Entry]:
        """See `Store.entries`."""
        yield from _files(self.path(prefix.rstrip("/")), prefix.rstrip("/"))

    def write(self, key: str, content: bytes) -> None:
        """See `Store.write`."""
        write_atomically(self.path(key), content)

    def writer(self, key: str) -> FileWriter:
        """See `Store.writer`."""
        return FileWriter(self.path(key), self.root, self.durable)

    def journal(self, prefix: str, name: str) -> FileJournal:
        """See `Store.journal`."""
        return FileJournal(self.path(prefix), name, self.durable)

    def delete(self, key: str) -> None:
        """See `Store.delete`."""
        path = self.path(key)
        try:
            path.unlink()
            if self.durable:
                sync_directory(path.parent)
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise storage_error(path, error) from error

    def delete_tree(self, prefix: str = "") -> None:
        """See `Store.delete_tree`."""
        path = self.path(prefix.rstrip("/"))
        try:
            if path.exists():
                shutil.rmtree(path)
        except OSError as error:
            raise storage_error(path, error) from error

    def remove_leftovers(self) -> int:
        """See `Store.remove_leftovers`."""
        count = 0
        for path in leftovers(self.root):
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise storage_error(path, error) from error
            count += 1
        return count

    @contextmanager
    def lock(self, key: str) -> Iterator[None]:
        """See `Store.lock`. The kernel lets go of it when the process dies."""
        path = self.path(key)
        try:
            make_directory(path.parent)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise storage_error(path.parent, error) from error
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                owner = os.read(descriptor, 200).decode(errors="replace").strip()
                raise RunRefused(
                    str(path.parent),
                    expected="a directory in which no other run works",
                    found=f"a live run ({owner or 'unknown owner'})",
                    fix="Wait for it, stop it, or choose another -o DIR.",
                ) from None
            except OSError as error:
                raise storage_error(path, error) from error
            try:
                os.truncate(descriptor, 0)
                os.write(descriptor, f"process {os.getpid()} on {os.uname().nodename}\n".encode())
            except OSError as error:
                raise storage_error(path, error) from error
            yield
        finally:
            os.close(descriptor)


class FileWriter:
    """See `Writer`.

    Memory bound
    ------------
    Nothing is kept: each `write` goes to the operating system.
    """

    def __init__(self, path: Path, root: Path, durable: bool) -> None:
        self._path, self._root, self._durable = path, root, durable
        self._temporary = temporary_path(path)
        self._file: IO[bytes] | None = None
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
        try:
            if self._file is None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._file = self._temporary.open("xb", buffering=0)
            rest = memoryview(content)
            while rest:  # one call may write less: 2 GiB at most on Linux, or up to a limit
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            raise storage_error(self._path, error) from error

    def finish(self) -> None:
        """See `Writer.finish`."""
        self.write(b"")  # an empty object is an object, too
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

    def abandon(self) -> None:
        """See `Writer.abandon`. A file that cannot be removed is never taken for a finished one."""
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

    def _sync_directories(self) -> None:
        """The directory of the file and those above it up to the root, any of which may be new."""
        for parent in self._path.parents:
            sync_directory(parent)
            if parent == self._root:
                return


class FileJournal:
    """See `Journal`: one file, made with the first line."""

    def __init__(self, folder: Path, name: str, durable: bool) -> None:
        self._folder, self._name, self._durable = folder, name, durable
        self._lock = Lock()
        self._descriptor: int | None = None

    def append(self, lines: bytes) -> None:
        """See `Journal.append`."""
        try:
            with self._lock:
                descriptor = self._write(lines)
                if self._durable:
                    os.fsync(descriptor)
        except OSError as error:
            raise storage_error(self._folder, error) from error

    def note(self, lines: bytes) -> None:
        """See `Journal.note`."""
        try:
            with self._lock:
                self._write(lines)
        except OSError as error:
            raise storage_error(self._folder, error) from error

    def close(self) -> None:
        """See `Journal.close`."""
        with self._lock:
            self._let_go()

    def __del__(self) -> None:
        # On workers nobody knows when the last block of a run was done.
        self.close()

    def _write(self, lines: bytes) -> int:
        if self._descriptor is None:
            self._descriptor = self._open()
        # One write call: lines are torn only by a crash or a full disk, never by a thread.
        if os.write(self._descriptor, lines) < len(lines):
            self._let_go()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self._descriptor

    def _let_go(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _open(self) -> int:
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{self._name}-{secrets.token_hex(4)}.jsonl"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)
        if self._durable:
            sync_directory(self._folder)
            sync_directory(self._folder.parent)  # the folder may be new, too
        return descriptor


def storage_error(path: Path, error: OSError) -> StorageError:
    """The error that stops a run because `path` could not be written or read."""
    if error.errno in _FULL:
        fix = "Free some space and run the same command again: what is finished is kept."
    else:
        fix = "See that the storage is there and may be written, then run the same command again."
    found = f"{error.strerror or error} ({errno.errorcode.get(error.errno or 0, 'no errno')})"
    return StorageError(str(path), expected="storage that can be written", found=found, fix=fix)


def temporary_path(path: Path) -> Path:
    """A hidden name beside `path` that no other process or thread uses."""
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(6)}{TEMPORARY_SUFFIX}")


def make_directory(path: Path) -> None:
    """Make a directory, and those above it that are missing, so that they survive a power cut."""
    missing = [place for place in (path, *path.parents) if not place.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for made in missing:
        sync_directory(made.parent)


def sync_directory(path: Path) -> None:
    """Make renames inside a directory survive a power cut."""
    if os.name == "nt":  # Windows cannot open directories, and orders renames by itself
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a small file as a whole, durably; equal content is left as it is.

    Raises
    ------
    StorageError
        The disk is full or the storage cannot be written; the old file, if any, is untouched.
    """
    temporary = temporary_path(path)
    try:
        if path.is_file() and path.read_bytes() == content:
            return
        make_directory(path.parent)
        try:
            with temporary.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        sync_directory(path.parent)
    except OSError as error:
        raise storage_error(path, error) from error


def leftovers(root: Path) -> Iterator[Path]:
    """Temporary files below `root` that killed processes left behind (or live writers are writing)."""
    for directory, _, names in os.walk(root):
        for name in names:
            if _is_temporary(name):
                yield Path(directory, name)


def _is_temporary(name: str) -> bool:
    return name.startswith(".") and name.endswith(TEMPORARY_SUFFIX)


def _files(folder: Path, prefix: str) -> Iterator[Entry]:
    """Keys and sizes below a folder; scandir, because a run may have a million files."""
    try:
        with os.scandir(folder) as found:
            for entry in found:
                key = f"{prefix}/{entry.name}" if prefix else entry.name
                if entry.is_dir(follow_symlinks=False):
                    yield from _files(Path(entry.path), key)
                elif not _is_temporary(entry.name):
                    yield Entry(key, entry.stat().st_size)
    except (FileNotFoundError, NotADirectoryError):
        return  # it was never made, or is gone meanwhile
    except OSError as error:
        raise storage_error(folder, error) from error
