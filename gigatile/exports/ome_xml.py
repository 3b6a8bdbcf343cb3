"""What an OME-TIFF says of itself.

Source: https://www.openmicroscopy.org/Schemas/OME/2016-06/ome.xsd
"""

from __future__ import annotations

from collections.abc import Mapping
from xml.etree import ElementTree

import numpy as np

from gigatile.errors import UsageError
from gigatile.exports.result import Colour, Result
from gigatile.exports.values import Values

NAMESPACE = "http://www.openmicroscopy.org/Schemas/OME/2016-06"
_UNITS = {"um": "µm", "m": "m", "km": "km", "ft": "ft"}
"""Our units to those of UnitsLength; it has no degrees."""
_TYPES = {
    "int8": "int8", "int16": "int16", "int32": "int32", "uint8": "uint8", "uint16": "uint16", "uint32": "uint32",
    "float32": "float", "float64": "double",
}  # fmt: skip


def ome_xml(result: Result, values: Values) -> bytes:
    """The document for the first directory, UTF-8; one directory a channel.

    Names and colours of classes are map annotations: OME has no other place for them.

    Raises
    ------
    UsageError
        OME has no such pixels (integers of 64 bits).
    """
    kind = _TYPES.get(values.dtype.name)
    if kind is None:
        raise UsageError("export --to ome-tiff", expected=", ".join(_TYPES), found=values.dtype.name)
    root = ElementTree.Element("OME", {"xmlns": NAMESPACE, "Creator": "gigatile"})
    image = ElementTree.SubElement(root, "Image", ID="Image:0", Name="prediction")
    height, width = result.layouts[0].shape
    stored = {
        "ID": "Pixels:0", "DimensionOrder": "XYCZT", "Type": kind, "BigEndian": "false", "Interleaved": "false",
        "SizeX": str(width), "SizeY": str(height), "SizeC": str(result.channels), "SizeZ": "1", "SizeT": "1",
    }  # fmt: skip
    pixels = ElementTree.SubElement(image, "Pixels", {**stored, **_physical_size(result)})
    for channel, name in enumerate(result.channel_names):
        described = {"ID": f"Channel:0:{channel}", "Name": name, "SamplesPerPixel": "1"}
        if result.channel_colors:
            described["Color"] = str(_signed(result.channel_colors[channel]))
        ElementTree.SubElement(pixels, "Channel", described)
    for channel in range(result.channels):
        place = {"FirstC": str(channel), "FirstT": "0", "FirstZ": "0", "IFD": str(channel), "PlaneCount": "1"}
        ElementTree.SubElement(pixels, "TiffData", place)
    _annotate(root, image, _annotations(result, values))
    text: bytes = ElementTree.tostring(root, encoding="utf-8")
    return b'<?xml version="1.0" encoding="UTF-8"?>' + text


def _physical_size(result: Result) -> dict[str, str]:
    """Of a pixel of level 0 of the result, which may be larger than one of the slide."""
    size = result.pixel_size
    unit = None if size is None else _UNITS.get(size.unit)
    if size is None or unit is None:
        return {}
    return {
        "PhysicalSizeX": repr(float(size.x)),
        "PhysicalSizeXUnit": unit,
        "PhysicalSizeY": repr(float(size.y)),
        "PhysicalSizeYUnit": unit,
    }


def _annotations(result: Result, values: Values) -> dict[str, Mapping[str, str]]:
    """By namespace."""
    found: dict[str, Mapping[str, str]] = {}
    if result.classes:
        found["gigatile/class-names"] = {str(number): name for number, name in enumerate(result.classes)}
    if result.palette:
        colours = {str(number): "#{:02x}{:02x}{:02x}".format(*colour) for number, colour in enumerate(result.palette)}
        found["gigatile/class-colors"] = colours
    meaning = {"output": result.output, "invalid": str(values.fill)}
    if values.scale is not None:
        meaning["scale"] = repr(values.scale)
    return {**found, "gigatile/values": meaning}


def _annotate(root: ElementTree.Element, image: ElementTree.Element, found: dict[str, Mapping[str, str]]) -> None:
    annotations = ElementTree.SubElement(root, "StructuredAnnotations")
    for number, (namespace, pairs) in enumerate(found.items()):
        name = f"Annotation:{number}"
        ElementTree.SubElement(image, "AnnotationRef", ID=name)
        annotation = ElementTree.SubElement(annotations, "MapAnnotation", ID=name, Namespace=namespace)
        value = ElementTree.SubElement(annotation, "Value")
        for key, text in pairs.items():
            ElementTree.SubElement(value, "M", K=key).text = text


def _signed(colour: Colour) -> int:
    """Red, green, blue and an opaque alpha as OME's signed integer of 32 bits."""
    return int(np.array([255, *reversed(colour)], np.uint8).view("<i4")[0])
