"""Whether a TIFF is all there: its directories, and what they point at; before any parser believes them.

tifffile logs what lies beyond the end of a truncated file and goes on without it, so that a pyramid would
lose levels, and an OME-TIFF its XML, in silence. And it follows chains that come back to themselves, for ever
if they do so behind the hundredth directory. The walk here takes time and memory in proportion to the file.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum

from gigatile.errors import ImageError
from gigatile.images.tiff_claims import check_description
from gigatile.storage.reading import ByteSource

_SUBIFDS, _WIDTH, _HEIGHT, _DESCRIPTION = 330, 256, 257, 270
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
"""Bytes per value by field type: TIFF 6.0, section 2, and BigTIFF."""
_OFFSETS = (4, 13, 16, 18)
_ENTRIES = 4096
"""As many as tifffile takes for sane; real directories have some 20 to 60."""
_SHARING = 16
"""Values that directories share (profiles, JPEG tables) may be counted this many times the size of the file."""


@dataclass(frozen=True, slots=True)
class _Flavour:
    """Byte order and sizes of a TIFF: classic, Big, or NDPI, whose offsets to directories have 64 bits."""

    order: str
    is_big: bool
    is_ndpi: bool

    @property
    def link(self) -> str:
        """Format of an offset to a directory."""
        return self.order + ("Q" if self.is_big or self.is_ndpi else "I")

    @property
    def count(self) -> str:
        """Format of the number of entries."""
        return self.order + ("Q" if self.is_big else "H")

    @property
    def entry(self) -> str:
        """Format of an entry: code, type, count, value or offset."""
        return self.order + ("HHQ8s" if self.is_big else "HHI4s")


class _Named(Enum):
    """How an offset to a directory was found."""

    IN_CHAIN = "the next one of the file's chain"
    IN_LIST = "in a list of sub-directories"
    AFTER_SUB = "the next one of a sub-directory; writers chain them, readers do not follow"


_Place = tuple[int, _Named]


@dataclass(slots=True)
class _Walk:
    """What was met on the way."""

    seen: set[_Place] = field(default_factory=set)
    smallest_px: int = 1 << 62
    """Pixels of the smallest image of the chain and its sub-directories."""
    value_bytes: int = 0
    description: bytes = b""
    """ImageDescription of the first directory."""


def check_directories(file: ByteSource) -> None:
    """Walk the directories and the sub-directories that they name.

    Memory bound
    ------------
    One directory (at most 4,096 entries), the offsets of all, and the first description.

    Raises
    ------
    ImageError
        A directory, or a value that one points at, lies beyond the end of the file; directories come back to
        themselves; or the description of the image claims what the file cannot hold.
    """
    flavour = _flavour(file)
    walk = _Walk()
    pending = [(_number(file, 8 if flavour.is_big else 4, flavour.link), _Named.IN_CHAIN)]
    while pending:
        place = pending.pop()
        if place[0] != 0 and _is_new(file, place, walk):
            pending.extend(_check_directory(file, flavour, place, walk))
    check_description(walk.description.decode(errors="replace"), file.name, len(walk.seen), walk.smallest_px)


def _flavour(file: ByteSource) -> _Flavour:
    head = file.read(0, min(8, file.size))
    order = {b"II": "<", b"MM": ">"}.get(head[:2], "")
    version = int.from_bytes(head[2:4], "little" if order == "<" else "big")
    if not order or version not in (42, 43) or len(head) < 8:
        raise ImageError(
            file.name,
            expected="a TIFF file",
            found=f"a file that begins with {head!r}",
            fix="Check that this is the image; if it is, fetch it again.",
        )
    is_ndpi = file.name.lower().endswith(".ndpi") and order == "<" and version == 42
    return _Flavour(order, version == 43, is_ndpi)


def _is_new(file: ByteSource, place: _Place, walk: _Walk) -> bool:
    """Whether a directory is still to be looked at; a chain or a tree that comes back to one is refused."""
    offset, named = place
    known = {kind for kind in _Named if (offset, kind) in walk.seen}
    if named is _Named.AFTER_SUB:
        return not known
    if named in known or (named is _Named.IN_LIST and _Named.IN_CHAIN in known):
        raise _damaged(file, f"a directory at byte {offset} that is named twice, as in a loop")
    return True


def _check_directory(file: ByteSource, flavour: _Flavour, place: _Place, walk: _Walk) -> Iterator[_Place]:
    """The directories that one names: the next one, and sub-directories."""
    offset, named = place
    if offset > file.size:
        raise _truncated(file, f"a directory at byte {offset}")
    size = struct.calcsize(flavour.entry)
    try:
        count = _number(file, offset, flavour.count)
        if count > _ENTRIES:
            raise _damaged(file, f"a directory at byte {offset} with {count} entries")
        first = offset + struct.calcsize(flavour.count)
        entries = file.read(first, count * size)
        following = _number(file, first + len(entries), flavour.link)
    except EOFError as error:
        raise _truncated(file, f"a directory at byte {offset} that is cut off") from error
    is_first = not walk.seen
    walk.seen.add(place)
    yield following, _Named.IN_CHAIN if named is _Named.IN_CHAIN else _Named.AFTER_SUB
    sides = [1, 1]
    for code, kind, number, value in struct.iter_unpack(flavour.entry, entries):
        at = int.from_bytes(value, "little" if flavour.order == "<" else "big")
        nbytes = _check_value(file, flavour, walk, (code, kind, number, at))
        stored = value[:nbytes] if nbytes <= len(value) else b""
        if code in (_WIDTH, _HEIGHT):
            sides[code - _WIDTH] = int.from_bytes(stored, "little" if flavour.order == "<" else "big")
        elif is_first and code == _DESCRIPTION and not flavour.is_ndpi and not walk.description:
            walk.description = stored or file.read(at, nbytes)
        elif code == _SUBIFDS and kind in _OFFSETS and not flavour.is_ndpi:
            form = flavour.order + ("I" if _SIZES[kind] == 4 else "Q")
            data = stored or file.read(at, nbytes)
            yield from ((found, _Named.IN_LIST) for (found,) in struct.iter_unpack(form, data))
    walk.smallest_px = min(walk.smallest_px, max(1, sides[0] * sides[1]))


def _check_value(file: ByteSource, flavour: _Flavour, walk: _Walk, entry: tuple[int, int, int, int]) -> int:
    """Bytes of the value of an entry (code, type, count, offset)."""
    code, kind, number, place = entry
    nbytes = _SIZES.get(kind, 0) * number
    if nbytes <= (8 if flavour.is_big else 4):
        return nbytes
    if flavour.is_ndpi:  # the high words of its offsets stand elsewhere
        place = 0
    if place + nbytes > file.size:
        raise _truncated(file, f"tag {code}, {nbytes} bytes at byte {place}")
    walk.value_bytes += nbytes
    if walk.value_bytes > _SHARING * file.size + (1 << 20):
        raise _damaged(file, f"directories whose values are more than {_SHARING} times the file")
    return nbytes


def _number(file: ByteSource, offset: int, form: str) -> int:
    return int(struct.unpack(form, file.read(offset, struct.calcsize(form)))[0])


def _truncated(file: ByteSource, what: str) -> ImageError:
    return ImageError(
        file.name,
        expected="a complete TIFF",
        found=f"{what}, beyond the end of the file ({file.size} bytes)",
        fix="The file is truncated or damaged: fetch it again.",
    )


def _damaged(file: ByteSource, what: str) -> ImageError:
    return ImageError(file.name, expected="a sound TIFF", found=what, fix="The file is damaged: fetch it again.")
