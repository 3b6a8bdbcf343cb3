"""What the images of a cohort are called: the names of their directories.

::

    slides/a.ome.tif                a               the file name without its known suffixes
    old/b.svs, new/b.svs            old__b, new__b  all that collide carry the folder they lie in
    p/s/c.svs, q/s/c.svs            p__s__c, ...    and more folders, until they differ
    s/e.tif+s/f.tif                 e+f             stacked files
    s/d.tif, s/d.svs                s__d.tif, ...   or the suffix, where it is the folder that they share

A name, once given, stays with its image: a newcomer that collides with it is the one that carries its folder.
"""

from __future__ import annotations

import os
import stat
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from gigatile.images.places import SAFE, stack_parts
from gigatile.storage.url import WEB_SCHEMES, redacted

READABLE = (
    ".ome.tif", ".ome.tiff", ".ome.btf", ".ome.tf2", ".ome.tf8",
    ".tif", ".tiff", ".btf", ".tf2", ".tf8", ".gtiff", ".svs", ".ndpi", ".scn", ".bif", ".qptiff",
    ".mrxs", ".svslide",
    ".png", ".jpg", ".jpeg", ".jp2", ".j2k",
)  # fmt: skip
"""Suffixes of files that a folder is searched for; a file that is named is opened whatever its suffix."""
ZARR = (".ome.zarr", ".zarr")
_OTHERS = (
    ".czi", ".vms", ".vmu", ".vsi", ".ets", ".vrt", ".dcm", ".nd2", ".lif", ".isyntax",
    ".img", ".nc", ".h5", ".hdf5", SAFE, ".json", ".geojson",
)  # fmt: skip
_SUFFIXES = tuple(sorted((*READABLE, *ZARR, *_OTHERS), key=len, reverse=True))
_RESERVED_BY_US = {
    "summary.json", "summary.csv", "run.json", "lock", "ledger", "models", "prediction.zarr", "objects.parquet",
    "report.html",
}  # fmt: skip
"""What a cohort's or a run's own directory has in it."""
_RESERVED_BY_WINDOWS = {"CON", "PRN", "AUX", "NUL", *(f"{port}{n}" for port in ("COM", "LPT") for n in range(1, 10))}
_LONGEST_BYTES = 200
"""Of a name; file systems stop at 255, and temporary names are longer than what they stand for."""


def is_url(text: str) -> bool:
    """Whether it is a URL; those of local files have become paths before."""
    return "://" in text


def location_of(text: str) -> str:
    """Where an image lies, whatever the working directory: an absolute path, or a URL without its secrets; of stacked
    files those of all.

    User, password, query and fragment of a URL are left out. What cannot be written as UTF-8 is escaped.
    """
    parts = stack_parts(text)
    if len(parts) > 1:
        return "+".join(location_of(part) for part in parts)
    if is_url(text):
        return printable(redacted(text)).rstrip("/")
    return printable(os.path.abspath(text))  # noqa: PTH100 - Path.absolute() leaves ".." where it is


def shown(text: str) -> str:
    """A path as it was typed, or a URL without its secrets."""
    return location_of(text) if is_url(text) else printable(text)


def printable(text: str) -> str:
    """The same text with what is no UTF-8 (bytes of old file names) escaped."""
    return text.encode("utf-8", "backslashreplace").decode()


def has_suffix(name: str, suffixes: Sequence[str]) -> bool:
    """Whether a file name ends in one of them, in any case."""
    return name.lower().endswith(tuple(suffixes))


def without_suffix(name: str) -> str:
    """A file name without the longest suffix that is known; a name that is nothing else stays."""
    for suffix in _SUFFIXES:
        if name.lower().endswith(suffix) and len(name) > len(suffix):
            return name[: -len(suffix)]
    return name


def safe_name(text: str) -> str:
    """A name that every file system takes: blanks and parentheses stay, what separates or steers does not.

    Leading dots, control characters, ``<>:"/\\|?*``, the device names of Windows, and blanks and dots at the end are
    replaced by ``_``; longer ones than 200 bytes are cut, and told apart by a digest.
    """
    text = unicodedata.normalize("NFC", text)
    text = "".join("_" if _is_unsafe(character) else character for character in text) or "_"
    inner = text.lstrip(".")
    text = "_" * (len(text) - len(inner)) + inner
    inner = text.rstrip(". ")
    text = inner + "_" * (len(text) - len(inner))
    if text.partition(".")[0].rstrip().upper() in _RESERVED_BY_WINDOWS:
        text = f"_{text}"
    content = text.encode()
    if len(content) > _LONGEST_BYTES:
        text = f"{content[: _LONGEST_BYTES - 20].decode(errors='ignore')}-{sha256(content).hexdigest()[:12]}"
    return text


def _is_unsafe(character: str) -> bool:
    return character in '<>:"/\\|?*' or unicodedata.category(character) in {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def folded(name: str) -> str:
    """What a file system that ignores case takes for the same name."""
    return unicodedata.normalize("NFC", name).casefold()


def is_reserved(name: str) -> bool:
    """Whether the directory of a cohort has something of its own under that name."""
    return folded(name) in _RESERVED_BY_US


def assign_names(locations: Sequence[str], is_taken: Callable[[str, str], bool]) -> list[str]:
    """Different safe names for images, which do not depend on their order.

    Parameters
    ----------
    locations : sequence of str
        As `location_of` gives them, all different.
    is_taken : callable
        Whether a name, folded, belongs to another image already than that at a location.
    """
    choices = [_candidates(location) for location in locations]
    names = [next(choice) for choice in choices]
    while True:
        counts = Counter(folded(name) for name in names)
        again = [
            index
            for index, name in enumerate(names)
            if counts[folded(name)] > 1 or is_reserved(name) or is_taken(folded(name), locations[index])
        ]
        if not again:
            return names
        for index in again:
            names[index] = next(choices[index])


def _candidates(location: str) -> Iterator[str]:
    """Names for one image, the plainest first; the last ones are like no other's."""
    *folders, file = _parts(location)
    stem = without_suffix(file)
    yield safe_name(stem)
    for count in range(1, len(folders) + 1):
        above = folders[-count:]
        yield safe_name("__".join((*above, stem)))
        yield safe_name("__".join((*above, file)))
    digest = sha256(location.encode()).hexdigest()
    for length in (8, 16, 64):
        yield safe_name(f"{stem[:100]}-{digest[:length]}")


def _parts(location: str) -> list[str]:
    files = stack_parts(location)
    if len(files) > 1:
        several = [_parts(file) for file in files]
        return [*several[0][:-1], "+".join(without_suffix(file) for *_, file in several)]
    if not is_url(location):
        return [part for part in PurePosixPath(location.replace(os.sep, "/")).parts if part != "/"] or ["image"]
    scheme, _, path = location.partition("://")
    # Keys of object stores are taken as they are; over HTTP a blank is typed as %20.
    path = unquote(path) if scheme in WEB_SCHEMES else path
    return [part for part in path.split("/") if part] or ["image"]


@dataclass(frozen=True, slots=True)
class Known:
    """An image that a cohort has already."""

    name: str
    location: str
    """As `location_of` gives it."""
    nbytes: int | None = None
    """Of its file, see `file_bytes`."""


def file_bytes(location: str) -> int | None:
    """Size of the file there; None where that tells nothing (a Zarr, a URL) or nothing is there."""
    if is_url(location):
        return None
    try:
        found = Path(location).stat()
    except OSError:
        return None  # not there, or not for us: opening it says which
    return found.st_size if stat.S_ISREG(found.st_mode) else None
