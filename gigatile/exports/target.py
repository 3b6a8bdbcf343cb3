"""The file or folder that an export makes: under a temporary name until it is whole.

::

    .cells.ome.tif.export.tmp   held by the export that writes it; one that was interrupted is begun anew
    cells.ome.tif               appears at the end, replacing what an earlier export left, and nothing else

Exports and their sources have names alike (``export cohort/ -o slides/``), so what stands there is looked at first.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from gigatile.errors import GigatileError, RunRefused, UsageError
from gigatile.storage.local import storage_error, sync_directory


def target_path(text: str) -> Path:
    """Where an export goes.

    Raises
    ------
    UsageError
        It is a URL: files are written here, and copied by the tools of the bucket.
    """
    if "://" in text and not text.startswith("file://"):
        raise UsageError(
            "-o",
            expected="a file of this machine",
            found=f"{text.partition('://')[0]}://...",
            fix="Copy it afterwards.",
        )
    return Path(text.removeprefix("file://")).absolute()


@contextmanager
def new_file(path: Path, is_export: Callable[[Path], bool]) -> Iterator[IO[bytes]]:
    """A file to write and seek in, which gets its name at the end; nothing is left where that is not reached.

    Parameters
    ----------
    path : Path
    is_export : callable
        Whether a file that stands there is an earlier export, which is replaced; asked for files with content only.

    Raises
    ------
    RunRefused
        Another export writes it at this moment, or something else has that name.
    StorageError
        The disk is full or cannot be written.
    """
    if path.is_dir():
        raise RunRefused(str(path), expected="the name of a file", found="a folder", fix="Give the file a name.")
    temporary = _temporary(path)
    with _storage_errors(path):
        if path.exists() and path.stat().st_size and not is_export(path):
            raise _foreign(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with (
            _held(temporary, os.O_RDWR | os.O_CREAT) as descriptor,
            os.fdopen(descriptor, "r+b", closefd=False) as file,
        ):
            try:
                file.truncate(0)
                yield file
                file.flush()
                os.fsync(descriptor)
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)
        sync_directory(path.parent)


@contextmanager
def new_folder(path: Path, is_export: Callable[[Path], bool]) -> Iterator[Path]:
    """A folder to write into, which gets its name at the end.

    Parameters
    ----------
    path : Path
    is_export : callable
        Whether what stands there is an earlier export, which is replaced; not asked for empty folders.

    Raises
    ------
    RunRefused
        Another export writes it at this moment, or something else has that name.
    StorageError
        The disk is full or cannot be written.
    """
    empty = path.is_dir() and not any(path.iterdir())
    temporary = _temporary(path)
    with _storage_errors(path):
        if path.exists() and not empty and not is_export(path):
            raise _foreign(path)
        temporary.mkdir(parents=True, exist_ok=True)
        with _held(temporary, os.O_RDONLY) as descriptor:
            try:
                for left in temporary.iterdir():
                    shutil.rmtree(left) if left.is_dir() else left.unlink()
                yield temporary
                os.fsync(descriptor)
                if path.exists():
                    shutil.rmtree(path)
                temporary.replace(path)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
        sync_directory(path.parent)


@contextmanager
def new_file_of_others(path: Path, is_export: Callable[[Path], bool], suffix: str) -> Iterator[Path]:
    """As `new_file`, for libraries that open and close files by name, and lay temporary ones beside them.

    ::

        .cells.export.tmp/objects.fgb     written here: with the suffix that the library wants
        cells                             appears at the end

    Yields
    ------
    Path
        Where to write; there is nothing yet.
    """
    if path.is_dir():
        raise RunRefused(str(path), expected="the name of a file", found="a folder", fix="Give the file a name.")
    temporary = _temporary(path)
    with _storage_errors(path):
        if path.exists() and path.stat().st_size and not is_export(path):
            raise _foreign(path)
        temporary.mkdir(parents=True, exist_ok=True)
        with _held(temporary, os.O_RDONLY):
            try:
                for left in temporary.iterdir():
                    left.unlink()
                written = temporary / f"objects{suffix}"
                yield written
                with written.open("rb") as file:
                    os.fsync(file.fileno())
                written.replace(path)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
        sync_directory(path.parent)


def _foreign(path: Path) -> RunRefused:
    return RunRefused(
        str(path),
        expected="a new name, or an earlier export, which is replaced",
        found="something else of that name",
        fix="Choose another -o, or remove it yourself.",
    )


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.export.tmp")


@contextmanager
def _held(path: Path, flags: int) -> Iterator[int]:
    """Open, and lock against other exports; the kernel lets go when this process dies."""
    descriptor = os.open(path, flags, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunRefused(
                str(path),
                expected="no other export of that name",
                found="one that is under way",
                fix="Wait for it, or choose another -o.",
            ) from None
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _storage_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except GigatileError:
        raise
    except OSError as error:
        raise storage_error(path, error) from error
