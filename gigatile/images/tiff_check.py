"""Whether a TIFF is all there: its directories, and what they point at.

tifffile logs what lies beyond the end of a truncated file and goes on without it, so that a pyramid would
lose levels, and an OME-TIFF its XML, in silence.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

from gigatile.errors import ImageError
from gigatile.storage.reading import ByteSource

_SUBIFDS = 330
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
"""Bytes per value by field type: TIFF 6.0, section 2, and BigTIFF."""


def check_directories(tif: Any, file: ByteSource) -> None:
    """Walk the directories and the sub-directories that they name.

    Parameters
    ----------
    tif : tifffile.TiffFile
        Supplies the flavour: byte order, and the sizes of classic, Big and NDPI TIFF.

    Raises
    ------
    ImageError
        A directory, or a value that one points at, lies beyond the end of the file.
    """
    flavour = tif.tiff
    head = 4 if flavour.offsetsize == 4 or flavour.is_ndpi else 8
    pending = [_number(file, head, flavour.offsetformat)]
    seen: set[int] = set()
    while pending:
        offset = pending.pop()
        if offset == 0 or offset in seen:
            continue
        seen.add(offset)
        if offset > file.size:
            raise _truncated(file, f"a directory at byte {offset}")
        try:
            count = _number(file, offset, flavour.tagnoformat)
            entries = file.read(offset + flavour.tagnosize, count * flavour.tagsize)
            after = offset + flavour.tagnosize + len(entries)
            pending.append(_number(file, after, flavour.offsetformat))
        except EOFError as error:
            raise _truncated(file, f"a directory at byte {offset} that is cut off") from error
        if not flavour.is_ndpi:  # NDPI keeps the high words of its values elsewhere
            pending.extend(_check_entries(entries, flavour, file))


def _check_entries(entries: bytes, flavour: Any, file: ByteSource) -> Iterator[int]:
    """Offsets of the sub-directories that a directory names."""
    order, inline = flavour.byteorder, flavour.offsetsize
    form = order + ("HHI4s" if inline == 4 else "HHQ8s")
    for code, kind, count, value in struct.iter_unpack(form, entries):
        size = _SIZES.get(kind, 0) * count
        offset = int.from_bytes(value, "little" if order == "<" else "big")
        if size > inline and offset + size > file.size:
            raise _truncated(file, f"tag {code}, {size} bytes at byte {offset}")
        if code == _SUBIFDS and kind in (4, 13, 16, 18):
            data = file.read(offset, size) if size > inline else value[:size]
            form_of_one = order + ("I" if _SIZES[kind] == 4 else "Q")
            yield from (found for (found,) in struct.iter_unpack(form_of_one, data))


def _number(file: ByteSource, offset: int, form: str) -> int:
    return int(struct.unpack(form, file.read(offset, struct.calcsize(form)))[0])


def _truncated(file: ByteSource, what: str) -> ImageError:
    return ImageError(
        file.name,
        expected="a complete TIFF",
        found=f"{what}, beyond the end of the file ({file.size} bytes)",
        fix="The file is truncated or damaged: fetch it again.",
    )
