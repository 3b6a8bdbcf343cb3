"""Files that are there whole or not at all: unique temporary name, fsync, rename, fsync of the directory."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from gigatile.errors import StorageError

TEMPORARY_SUFFIX = ".tmp"

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def storage_error(path: Path, error: OSError) -> StorageError:
    """The error that stops a run because `path` could not be written."""
    if error.errno in _FULL:
        fix = "Free some space and run the same command again: what is finished is kept."
    else:
        fix = "See that the storage is there and may be written, then run the same command again."
    found = f"{error.strerror or error} ({errno.errorcode.get(error.errno or 0, 'no errno')})"
    return StorageError(str(path), expected="storage that can be written", found=found, fix=fix)


def temporary_path(path: Path) -> Path:
    """A hidden name beside `path` that no other process or thread uses."""
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(6)}{TEMPORARY_SUFFIX}")


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
        path.parent.mkdir(parents=True, exist_ok=True)
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
            if name.startswith(".") and name.endswith(TEMPORARY_SUFFIX):
                yield Path(directory, name)


def remove_leftovers(root: Path) -> int:
    """Delete the temporary files below `root`; only while nothing writes there. Returns how many there
    were."""
    count = 0
    for path in leftovers(root):
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise storage_error(path, error) from error
        count += 1
    return count
