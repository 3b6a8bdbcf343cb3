"""In which colours a JPEG is, by what itself says."""

from __future__ import annotations

import struct

_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""Markers of a frame header (ITU T.81, table B.1)."""
_ALONE = frozenset(range(0xD0, 0xD9)) | {0x01}
"""Markers without a segment."""


def is_jfif(data: bytes) -> bool:
    """Whether it says to be JFIF: three components are then YCbCr (JFIF 1.02, "Color Space")."""
    return data[:2] == b"\xff\xd8" and data[6:11] == b"JFIF\0"


def is_surely_ycbcr(data: bytes) -> bool:
    """Whether it says so twice: it is JFIF and its second and third component are coarser than the first.

    Nobody halves the resolution of green and blue. One sign alone is not believed against another header: some
    writers put a JFIF segment before RGB.

    Parameters
    ----------
    data : bytes
        The whole JPEG, or its beginning up to the frame header; anything else is not YCbCr.
    """
    if not is_jfif(data):
        return False
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # fill
            at += 1
        elif marker in _ALONE:
            at += 2
        elif marker in _FRAMES:
            # Length, precision, height, width; components of 3 bytes: identifier, factors along x and y, table.
            factors = data[at + 11 : at + 10 + 3 * data[at + 9] : 3] if at + 9 < len(data) else b""
            return len(factors) == 3 and factors[1] == factors[2] and factors[0] > factors[1]
        else:
            at += 2 + int(struct.unpack_from(">H", data, at + 2)[0])
    return False
