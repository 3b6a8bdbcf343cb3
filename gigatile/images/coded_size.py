"""How many samples a coded picture will have, from its first bytes: before a codec makes room for them.

Tiles of a TIFF may be pictures of their own (JPEG, JPEG 2000, JPEG XL, JPEG XR, WebP, PNG, LERC) whose headers say
how large they are, whatever the TIFF says. A JPEG of 600 bytes can claim 65,500 x 65,500 pixels, and libjpeg fills
12 GB with grey where its data end.

Sources: ITU T.81 B.2.2 (JPEG), T.800 A.5.1 and I.4 (JPEG 2000), ISO 18181-1 annex D and 18181-2 (JPEG XL), T.832 A.7
(JPEG XR), RFC 9649 (WebP), PNG 11.2.1, and Lerc2.h of Esri/lerc.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

Size = tuple[int, int, int]
"""Height, width, samples a pixel."""

_OTHERS = 4
"""Samples a pixel where the header is not asked: these formats have no more, or their codecs read no more."""
_TOLERANCE = 4
"""Writers pad tiles at the edge; none makes them four times as large."""
_ALWAYS = 1 << 18
"""Samples that are never too many: 256 x 256 x 4."""


def refuse_larger(data: bytes, samples: int) -> None:
    """Refuse a picture that is far larger than the tile that it is said to be.

    Parameters
    ----------
    data : bytes
        What the file stores for the tile; anything that is no picture passes.
    samples : int
        Pixels of the tile times samples a pixel.

    Raises
    ------
    ValueError
        Its header says that it is, or cannot be read.
    """
    try:
        size = coded_size(data)
    except (struct.error, IndexError) as error:
        raise ValueError("the header of the picture is cut off") from error
    if size is not None and size[0] * size[1] * size[2] > max(_TOLERANCE * samples, _ALWAYS):
        raise ValueError(f"a picture of {size[0]} x {size[1]} pixels in {len(data)} bytes is refused")


def coded_size(data: bytes) -> Size | None:
    """What the header of a coded picture says; None where this is no picture.

    Raises
    ------
    struct.error, IndexError
        The header is cut off.
    """
    for magic, read in _READERS.items():
        if data.startswith(magic):
            return read(data)
    return None


def _jpeg(data: bytes) -> Size | None:
    at = 2
    while at + 4 <= len(data):
        if data[at] != 0xFF:
            return None  # libjpeg will say what is wrong
        marker = data[at + 1]
        if marker == 0xFF:  # fill
            at += 1
        elif marker == 0x01 or 0xD0 <= marker <= 0xD8:
            at += 2
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width, components = struct.unpack_from(">HHB", data, at + 5)
            return height, width, components
        elif marker in (0xD9, 0xDA):
            return None
        else:
            at += 2 + int(struct.unpack_from(">H", data, at + 2)[0])
    return None


def _jpeg2000(data: bytes) -> Size:
    x1, y1, x0, y0 = struct.unpack_from(">4I", data, 8)
    (components,) = struct.unpack_from(">H", data, 40)
    return max(y1 - y0, 0), max(x1 - x0, 0), components


def _boxes(data: bytes) -> Iterator[tuple[bytes, int]]:
    """Kind and first byte of the content of each box."""
    at = 0
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        content = at + 8
        if length == 1:
            (length,) = struct.unpack_from(">Q", data, content)
            content += 8
        yield kind, content
        if length < content - at:  # 0: to the end
            return
        at += length


def _jp2(data: bytes) -> Size | None:
    at = next((at for kind, at in _boxes(data) if kind == b"jp2c"), None)
    return None if at is None else _jpeg2000(data[at : at + 64])


def _jxl_container(data: bytes) -> Size | None:
    for kind, at in _boxes(data):
        if kind in (b"jxlc", b"jxlp"):
            at += 4 if kind == b"jxlp" else 0
            return _jxl(data[at : at + 32])
    return None


_JXL_RATIOS = {1: (1, 1), 2: (12, 10), 3: (4, 3), 4: (3, 2), 5: (16, 9), 6: (5, 4), 7: (2, 1)}


def _jxl(data: bytes) -> Size:
    bits, at = int.from_bytes(data[2:18], "little"), 0
    if len(data) < 4:
        raise IndexError("no size")

    def take(count: int) -> int:
        nonlocal at
        value = (bits >> at) & ((1 << count) - 1)
        at += count
        return value

    is_small = take(1)

    def side() -> int:
        return (take(5) + 1) * 8 if is_small else take((9, 13, 18, 30)[take(2)]) + 1

    height = side()
    ratio = take(3)
    across, down = _JXL_RATIOS.get(ratio, (0, 1))
    return height, height * across // down if ratio else side(), _OTHERS


def _jpeg_xr(data: bytes) -> Size | None:
    (at,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, at)
    found: dict[int, int] = {}
    for i in range(count):
        code, kind, _, value = struct.unpack_from("<HHII", data, at + 2 + 12 * i)
        found[code] = value & (0xFF if kind == 1 else 0xFFFF if kind == 3 else 0xFFFFFFFF)
    width, height = found.get(0xBC80), found.get(0xBC81)
    return None if width is None or height is None else (height, width, _OTHERS)


def _webp(data: bytes) -> Size | None:
    kind = data[12:16]
    if kind == b"VP8X":
        return int.from_bytes(data[27:30], "little") + 1, int.from_bytes(data[24:27], "little") + 1, _OTHERS
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1, _OTHERS
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return height & 0x3FFF, width & 0x3FFF, _OTHERS
    return None


def _png(data: bytes) -> Size:
    width, height = struct.unpack_from(">II", data, 16)
    return height, width, _OTHERS


def _lerc(data: bytes) -> Size:
    (version,) = struct.unpack_from("<i", data, 6)
    at = 14 if version >= 3 else 10  # a checksum since version 3
    rows, cols, depth = struct.unpack_from("<iii", data, at)
    return max(rows, 0), max(cols, 0), max(depth, 1) if version >= 4 else 1


_READERS = {
    b"\xff\xd8": _jpeg,
    b"\xff\x4f\xff\x51": _jpeg2000,
    b"\0\0\0\x0cjP  \r\n\x87\n": _jp2,
    b"\xff\x0a": _jxl,
    b"\0\0\0\x0cJXL \r\n\x87\n": _jxl_container,
    b"II\xbc": _jpeg_xr,
    b"RIFF": _webp,
    b"\x89PNG": _png,
    b"Lerc2 ": _lerc,
}
