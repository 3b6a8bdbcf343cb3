"""What OME-XML says of the pixels: their size and the names of the channels."""

from __future__ import annotations

from dataclasses import dataclass
from xml.etree import ElementTree

from gigatile.images.xml import UnsafeXmlError, parse_xml
from gigatile.units import PixelSize

MICROMETERS = {
    "pm": 1e-6, "picometer": 1e-6, "å": 1e-4, "angstrom": 1e-4, "nm": 1e-3, "nanometer": 1e-3,
    "µm": 1.0, "μm": 1.0, "um": 1.0, "micron": 1.0, "micrometer": 1.0, "micrometre": 1.0, "\\u00b5m": 1.0,
    "mm": 1e3, "millimeter": 1e3, "cm": 1e4, "centimeter": 1e4, "dm": 1e5, "decimeter": 1e5,
    "m": 1e6, "meter": 1e6, "metre": 1e6, "km": 1e9, "kilometer": 1e9,
    "in": 25400.0, "inch": 25400.0, "ft": 304800.0, "foot": 304800.0,
}  # fmt: skip
"""Micrometres in a unit of length, by the symbols of OME-XML (both signs for micro) and the names of NGFF."""


@dataclass(frozen=True, slots=True)
class OmePixels:
    """What the first ``Image`` of an OME-XML says."""

    pixel_size: PixelSize | None = None
    channels: tuple[str | None, ...] = ()
    """Name per ``Channel`` element; None where it has none."""
    samples: tuple[int, ...] = ()
    """Samples per pixel of each ``Channel``."""
    notes: tuple[str, ...] = ()


def read_ome(xml: str) -> OmePixels:
    """Interpret an OME-XML; what cannot be understood becomes a note: the pixels do not depend on it."""
    try:
        root = parse_xml(xml)
    except (ElementTree.ParseError, UnsafeXmlError) as error:
        return OmePixels(notes=(f"the OME-XML cannot be parsed ({error}): no pixel size, no channel names",))
    images = root.findall("{*}Image")
    pixels = images[0].find("{*}Pixels") if images else None
    if pixels is None:
        return OmePixels(notes=("the OME-XML describes no pixels",))
    notes = [f"{len(images) - 1} further images of the file are left aside"] if len(images) > 1 else []
    size, size_notes = _pixel_size(pixels)
    channels = pixels.findall("{*}Channel")
    return OmePixels(
        size,
        tuple(channel.get("Name") or None for channel in channels),
        tuple(int(channel.get("SamplesPerPixel") or 1) for channel in channels),
        (*notes, *size_notes),
    )


def _pixel_size(pixels: ElementTree.Element) -> tuple[PixelSize | None, tuple[str, ...]]:
    sides: list[float] = []
    for axis in "YX":
        text, unit = pixels.get(f"PhysicalSize{axis}"), pixels.get(f"PhysicalSize{axis}Unit", "µm")
        if text is None:
            return None, ()
        factor = MICROMETERS.get(unit.lower())
        if factor is None:
            return None, (f"PhysicalSize{axis} is in {unit!r}, which is no length: no pixel size",)
        try:
            sides.append(float(text) * factor)
        except ValueError:
            return None, (f"PhysicalSize{axis} is not a number: {text!r}",)
    if min(sides) <= 0:
        return None, (f"PhysicalSizeY, X are {sides[0]:g}, {sides[1]:g}: no pixel size",)
    return PixelSize(sides[0], sides[1]), ()
