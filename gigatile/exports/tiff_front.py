"""The front of a TIFF file: header and all directories, laid out before the first tile is known.

::

    ┌────────┬─────────┬───────┬────────┬───────┬────────┬──────────────┬──────────────┬─────
    │ header │ (ghost) │ IFD 0 │ values │ IFD 1 │ values │ tiles of 1   │ tiles of 0   │ ...
    └────────┴─────────┴───────┴────────┴───────┴────────┴──────────────┴──────────────┴─────
                          └─ TileOffsets, TileByteCounts: zeros, filled in when the last tile is written

Written by hand because tifffile puts each directory beside its own data and GDAL's COG driver copies a whole second
file; the tiles of a result can then go straight to their place, from our pyramid and in one pass.

Source: TIFF 6.0 sections 2 and 15; the BigTIFF design (https://libtiff.gitlab.io/libtiff/specification/bigtiff.html).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal, NamedTuple

Kind = Literal["ascii", "short", "long", "rational", "double", "long8"]
_KINDS: dict[str, tuple[int, str, int]] = {
    "ascii": (2, "s", 1),
    "short": (3, "H", 1),
    "long": (4, "I", 1),
    "rational": (5, "I", 2),
    "double": (12, "d", 1),
    "long8": (16, "Q", 1),
}
"""Number of the type, its `struct` letter, and how many of these make one value."""
TILE_OFFSETS, TILE_BYTE_COUNTS, SUB_IFDS = 324, 325, 330


@dataclass(frozen=True, slots=True)
class Tag:
    """One entry of a directory."""

    code: int
    kind: Kind
    values: tuple[int | float, ...] | bytes
    """Numbers (numerator, denominator for each rational), or the bytes of a text without the final zero."""

    def encoded(self) -> tuple[int, int, bytes]:
        """Number of the type, count, content."""
        number, letter, parts = _KINDS[self.kind]
        if isinstance(self.values, bytes):
            return number, len(self.values) + 1, self.values + b"\0"
        return number, len(self.values) // parts, struct.pack(f"<{len(self.values)}{letter}", *self.values)


@dataclass(frozen=True, slots=True)
class Directory:
    """One image of a file; offsets and byte counts of its tiles are added to the tags."""

    tags: tuple[Tag, ...]
    tiles: int
    """How many tiles it has, all planes together."""
    children: tuple[Directory, ...] = ()
    """Its coarser levels, where these are listed in its SubIFDs and not in the file's own chain."""


class Arrays(NamedTuple):
    """Where in the file a directory's lists of tiles lie."""

    offsets_at: int
    counts_at: int


@dataclass(frozen=True, slots=True)
class Flavour:
    """Classic TIFF, whose places have 32 bits, or BigTIFF."""

    big: bool

    @property
    def place(self) -> Kind:
        """Type of a place in the file."""
        return "long8" if self.big else "long"

    @property
    def inline(self) -> int:
        """Bytes of a value that is kept in its entry."""
        return 8 if self.big else 4

    def header(self, first: int) -> bytes:
        """The first bytes of the file, with the place of the first directory."""
        return struct.pack("<2sHHHQ", b"II", 43, 8, 0, first) if self.big else struct.pack("<2sHI", b"II", 42, first)

    def directory_bytes(self, entries: int) -> int:
        """Size of a directory without the values beside it."""
        return 16 + 20 * entries if self.big else 6 + 12 * entries

    def entry(self, code: int, number: int, count: int, value: bytes) -> bytes:
        """One entry; `value` is the content or its place, as many bytes as `inline`."""
        return struct.pack("<HHQ" if self.big else "<HHI", code, number, count) + value

    def wrapped(self, entries: Sequence[bytes], following: int) -> bytes:
        """A directory of sorted entries."""
        count, after = ("<Q", "<Q") if self.big else ("<H", "<I")
        return struct.pack(count, len(entries)) + b"".join(entries) + struct.pack(after, following)


class Front(NamedTuple):
    """The bytes before the first tile, and where the lists of tiles lie: of each directory, its children after it."""

    content: bytes
    arrays: tuple[Arrays, ...]


def build_front(directories: Sequence[Directory], flavour: Flavour, ghost: bytes = b"") -> Front:
    """Lay out header and directories.

    Memory bound
    ------------
    12 bytes a tile.

    Parameters
    ----------
    directories : sequence of Directory
        The file's chain.
    flavour : Flavour
    ghost : bytes
        What stands between the header and the first directory.
    """
    flat = [each for directory in directories for each in (directory, *directory.children)]
    places, end = [], _even(len(flavour.header(0)) + len(ghost))
    for directory in flat:
        places.append(end)
        end = _even(end + _size(directory, flavour))
    starts = accumulate((1 + len(directory.children) for directory in directories[:-1]), initial=0)
    chain = [places[start] for start in starts]
    following = dict(zip(chain, [*chain[1:], 0], strict=True))
    content = bytearray(flavour.header(places[0]) + ghost)
    arrays = []
    for at, (directory, place) in enumerate(zip(flat, places, strict=True)):
        content += bytes(place - len(content))
        children = tuple(places[at + 1 : at + 1 + len(directory.children)])
        part, lists = _directory(directory, children, place, following.get(place, 0), flavour)
        content += part
        arrays.append(lists)
    return Front(bytes(content) + bytes(end - len(content)), tuple(arrays))


def _tags(directory: Directory, children: tuple[int, ...], flavour: Flavour) -> list[Tag]:
    nothing = (0,) * directory.tiles
    tags = [
        *directory.tags,
        Tag(TILE_OFFSETS, flavour.place, nothing),
        Tag(TILE_BYTE_COUNTS, "long", nothing),
    ]
    if children:
        tags.append(Tag(SUB_IFDS, flavour.place, children))
    return sorted(tags, key=lambda tag: tag.code)


def _size(directory: Directory, flavour: Flavour) -> int:
    tags = _tags(directory, (0,) * len(directory.children), flavour)
    beside = sum(_even(len(content)) for content in _beside(tags, flavour))
    return _even(flavour.directory_bytes(len(tags))) + beside


def _beside(tags: Sequence[Tag], flavour: Flavour) -> Iterator[bytes]:
    for tag in tags:
        content = tag.encoded()[2]
        if len(content) > flavour.inline:
            yield content


def _directory(
    directory: Directory, children: tuple[int, ...], place: int, following: int, flavour: Flavour
) -> tuple[bytes, Arrays]:
    tags = _tags(directory, children, flavour)
    entries: list[bytes] = []
    values = bytearray()
    found: dict[int, int] = {}
    beside = place + _even(flavour.directory_bytes(len(tags)))
    first_entry, entry_bytes = (8, 20) if flavour.big else (2, 12)
    for at, tag in enumerate(tags):
        number, count, content = tag.encoded()
        if len(content) <= flavour.inline:
            found[tag.code] = place + first_entry + entry_bytes * (at + 1) - flavour.inline
            entries.append(flavour.entry(tag.code, number, count, content.ljust(flavour.inline, b"\0")))
            continue
        found[tag.code] = beside + len(values)
        where = struct.pack("<Q" if flavour.big else "<I", found[tag.code])
        entries.append(flavour.entry(tag.code, number, count, where))
        values += content.ljust(_even(len(content)), b"\0")
    head = flavour.wrapped(entries, following)
    content = head.ljust(_even(len(head)), b"\0") + bytes(values)
    return content, Arrays(found[TILE_OFFSETS], found[TILE_BYTE_COUNTS])


def _even(nbytes: int) -> int:
    """Directories and values begin at even places (TIFF 6.0); eight keeps numbers aligned."""
    return -(-nbytes // 8) * 8
