"""Quantities with their unit in the type: pixel sizes and bytes."""

from __future__ import annotations

import re
from dataclasses import dataclass

from gigatile.errors import UsageError

_BYTE_UNITS = {
    "": 1,
    "b": 1,
    "kb": 1000,
    "mb": 1000**2,
    "gb": 1000**3,
    "tb": 1000**4,
    "k": 1024,
    "m": 1024**2,
    "g": 1024**3,
    "t": 1024**4,
    "kib": 1024,
    "mib": 1024**2,
    "gib": 1024**3,
    "tib": 1024**4,
}


@dataclass(frozen=True, slots=True)
class PixelSize:
    """Physical size of one pixel."""

    y: float
    """Height of a pixel, in `unit`."""
    x: float
    """Width of a pixel, in `unit`."""
    unit: str = "micrometer"
    """`micrometer` for slides; the unit of the CRS (`metre`, `degree`, ...) for scenes."""

    def scaled(self, factor_y: float, factor_x: float) -> PixelSize:
        """The size of a pixel that is `factor` times larger along each axis."""
        return PixelSize(self.y * factor_y, self.x * factor_x, self.unit)


def parse_bytes(text: str | int, where: str = "--memory") -> int:
    """Read a number of bytes such as ``2GiB``, ``500MB`` or ``1073741824``.

    Raises
    ------
    UsageError
        The text is not a positive number with a known unit.
    """
    if isinstance(text, int):
        value = float(text)
    else:
        match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]*)?)\s*([A-Za-z]*)\s*", text)
        factor = _BYTE_UNITS.get(match[2].lower()) if match else None
        if match is None or factor is None:
            raise UsageError(where, expected="a size such as 2GiB or 500MB", found=repr(text))
        value = float(match[1]) * factor
    if value < 1:
        raise UsageError(where, expected="a positive size such as 2GiB", found=repr(text))
    return int(value)


def format_bytes(count: float) -> str:
    """Bytes for people, in binary units: ``1.5 GiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def format_seconds(seconds: float) -> str:
    """A duration for people: ``1h 02m``, ``3m 05s``, ``4.2s``."""
    if seconds < 60:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes}m {rest:02d}s"
    return f"{minutes // 60}h {minutes % 60:02d}m"


def one_line(text: str) -> str:
    """Text from elsewhere without line breaks, and with what could steer a terminal spelled out."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in " ".join(text.split()))
