"""TIFFs put together by hand: what no writer would write."""

import struct
from collections.abc import Sequence

Tag = tuple[int, int, Sequence[int] | bytes]
"""Code, field type, values."""
_FORMATS = {1: "B", 2: "B", 3: "H", 4: "I", 13: "I", 16: "Q"}
SHORT, LONG, ASCII, LONG8 = 3, 4, 2, 16


def classic(*directories: Sequence[Tag], tail: bytes = b"", links: Sequence[int] | None = None) -> bytes:
    """A little-endian TIFF of some directories in a chain; `tail` lies right behind the header, at byte 8.

    Parameters
    ----------
    links : sequence of int, optional
        For each directory the number of the one that follows; len(directories) for none.
    """
    starts, at = [], 8 + len(tail)
    for tags in directories:
        starts.append(at)
        at += 2 + 12 * len(tags) + 4 + sum(len(_packed(tag)) for tag in tags if len(_packed(tag)) > 4)
    starts.append(0)
    out = bytearray(b"II*\0" + struct.pack("<I", starts[0]) + tail)
    for number, tags in enumerate(directories):
        values, place = b"", starts[number] + 2 + 12 * len(tags) + 4
        out += struct.pack("<H", len(tags))
        for tag in sorted(tags, key=lambda t: t[0]):
            data = _packed(tag)
            count = len(data) // struct.calcsize(_FORMATS[tag[1]])
            out += struct.pack("<HHI", tag[0], tag[1], count)
            out += data.ljust(4, b"\0") if len(data) <= 4 else struct.pack("<I", place + len(values))
            values += data if len(data) > 4 else b""
        out += struct.pack("<I", starts[links[number] if links else number + 1]) + values
    return bytes(out)


def _packed(tag: Tag) -> bytes:
    _, kind, values = tag
    return values if isinstance(values, bytes) else struct.pack(f"<{len(values)}{_FORMATS[kind]}", *values)


def page(height: int, width: int, *more: Tag, compression: int = 1) -> list[Tag]:
    """A page of gray bytes; tags in `more` come on top and replace."""
    tags = {
        256: (256, LONG, [width]),
        257: (257, LONG, [height]),
        258: (258, SHORT, [8]),
        259: (259, SHORT, [compression]),
        262: (262, SHORT, [1]),
        273: (273, LONG, [8]),
        277: (277, SHORT, [1]),
        278: (278, LONG, [height]),
        279: (279, LONG, [min(height * width, 2**32 - 1)]),
    }
    return list({**tags, **{tag[0]: tag for tag in more}}.values())
