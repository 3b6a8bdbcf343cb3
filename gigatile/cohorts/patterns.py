"""Files that a pattern stands for, and the images in a folder; one listing a folder (and one of each folder in it, for
DICOM), no look at any file.

Zarr directories, SAFE products and the directories of runs are not searched by ``**``: there may be millions of chunks
in them, and results are no inputs. It does not follow links to directories either, which may lead in circles; ``*``
does.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from fnmatch import translate
from pathlib import Path, PurePosixPath

from gigatile.cohorts.names import READABLE, ZARR, has_suffix
from gigatile.errors import ImageError
from gigatile.images.places import SAFE, is_safe

_MAGIC = re.compile(r"[*?\[]")
_ZARR_MARKERS = ("zarr.json", ".zgroup", ".zarray", ".zattrs")
_CLOSED = {*_ZARR_MARKERS, "run.json", "summary.json"}
"""Marks of folders that `**` does not enter."""


def has_magic(text: str) -> bool:
    """Whether it has a character that patterns are made of."""
    return _MAGIC.search(text) is not None


def spells_suffix(pattern: str) -> bool:
    """Whether a pattern says which suffix it means, as ``*.dat`` does and ``slides/*`` does not."""
    suffix = PurePosixPath(pattern).suffix
    return bool(suffix) and not has_magic(suffix)


def is_one_image(path: str) -> bool:
    """Whether a directory is one image: a Zarr or SAFE product by name or metadata, or the DICOM files of a slide."""
    is_zarr = has_suffix(path.rstrip("/"), ZARR) or any(Path(path, name).exists() for name in _ZARR_MARKERS)
    return is_zarr or is_safe(path) or _is_slide(path)


def _is_slide(folder: str) -> bool:
    """Whether there are DICOM files in a folder, and no other images."""
    try:
        names = [entry.name for entry in _scan(folder)]
    except ImageError:  # what may not be listed is none of the images; whoever names it is told why
        return False
    return any(has_suffix(name, (".dcm",)) for name in names) and not any(
        has_suffix(name, (*READABLE, *ZARR)) for name in names
    )


def natural(path: str) -> tuple[tuple[str | int, ...], str]:
    """Sorts ``s2`` before ``s10``."""
    words = re.split(r"([0-9]+)", path)
    return tuple(int(word) if index % 2 else word.casefold() for index, word in enumerate(words)), path


def images_in(folder: str) -> tuple[list[str], list[str]]:
    """Paths of the images directly in a folder, and paths of what else is in it, both in natural order.

    Hidden files count as neither.

    Raises
    ------
    ImageError
        The folder cannot be listed.
    """
    images: list[str] = []
    others: list[str] = []
    for entry in _scan(folder):
        if not entry.name.startswith("."):
            (images if _is_image(entry) else others).append(_joined(folder, entry.name))
    return sorted(images, key=natural), sorted(others, key=natural)


def matches(pattern: str) -> tuple[list[str], list[str]]:
    """Paths of the images that a pattern stands for, and paths of what else it matches, both in natural order.

    A pattern whose last part spells a suffix (``*.dat``) is taken at its word; otherwise (``slides/*``) images are told
    by their suffixes, as in a folder. ``**`` stands for any number of folders.

    Raises
    ------
    ImageError
        A folder cannot be listed.
    """
    parts = [part for part in pattern.split("/") if part]
    named = spells_suffix(pattern)
    found = dict(_below("/" if pattern.startswith("/") else "", parts))
    images: list[str] = []
    others: list[str] = []
    for path, is_folder in found.items():
        wanted = is_one_image(path) if is_folder else named or has_suffix(path, READABLE)
        (images if wanted else others).append(path)
    return sorted(images, key=natural), sorted(others, key=natural)


def _is_image(entry: os.DirEntry[str]) -> bool:
    if entry.is_dir():
        return has_suffix(entry.name, ZARR) or is_safe(entry.path) or _is_slide(entry.path)
    return has_suffix(entry.name, READABLE) and _may_be_read(entry)


def _may_be_read(entry: os.DirEntry[str]) -> bool:
    # A link that leads nowhere is an image that will fail, and be reported; a pipe would never end.
    return entry.is_file() or (entry.is_symlink() and not Path(entry.path).exists())


def _below(folder: str, parts: list[str]) -> Iterator[tuple[str, bool]]:
    """Paths that match, and whether each is a directory."""
    part, rest = parts[0], parts[1:]
    if part == "**":
        yield from _anywhere(folder, rest or ["*"])
    elif not has_magic(part):
        path = _joined(folder, part)
        if rest and Path(path).is_dir():
            yield from _below(path, rest)
        elif not rest and os.path.lexists(path):
            yield path, Path(path).is_dir()
    else:
        fits = re.compile(translate(part)).match
        for entry in _scan(folder):
            if not fits(entry.name) or (entry.name.startswith(".") and not part.startswith(".")):
                continue
            is_folder = entry.is_dir()
            if rest and is_folder:
                yield from _below(_joined(folder, entry.name), rest)
            elif not rest and (is_folder or _may_be_read(entry)):
                yield _joined(folder, entry.name), is_folder


def _anywhere(folder: str, rest: list[str]) -> Iterator[tuple[str, bool]]:
    """What `rest` matches in a folder and in all folders below it."""
    entries = _scan(folder)
    if _CLOSED & {entry.name for entry in entries}:
        return
    yield from _below(folder, rest)
    for entry in entries:
        hidden = entry.name.startswith(".")
        if not hidden and entry.is_dir(follow_symlinks=False) and not has_suffix(entry.name, (*ZARR, SAFE)):
            yield from _anywhere(_joined(folder, entry.name), rest)


def _joined(folder: str, name: str) -> str:
    return f"{folder}{'' if folder in {'', '/'} else '/'}{name}"


def _scan(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder or ".") as entries:
            return list(entries)
    except (FileNotFoundError, NotADirectoryError):
        return []  # gone meanwhile
    except OSError as error:
        found = error.strerror or str(error)
        raise ImageError(
            folder, expected="a folder that can be listed", found=found, fix="Check its permissions."
        ) from error
