"""Where a TIFF lies on the Earth: GeoTIFF keys, GDAL's tags, and what they mean.

Sources: OGC GeoTIFF 1.1 (19-008r4), sections 7.1-7.4 and annex B; GDAL's reading of it
(frmts/gtiff/gtiffdataset_read.cpp), which is what people compare with.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

import numpy as np

from gigatile.images.info import Transform
from gigatile.images.xml import UnsafeXmlError, parse_xml
from gigatile.units import PixelSize

MODEL_PIXEL_SCALE, MODEL_TIEPOINT, MODEL_TRANSFORMATION = 33550, 33922, 34264
GEO_KEYS, GEO_DOUBLES, GEO_ASCII = 34735, 34736, 34737
GDAL_METADATA, GDAL_NODATA = 42112, 42113
GEO_TAGS = (MODEL_PIXEL_SCALE, MODEL_TIEPOINT, MODEL_TRANSFORMATION, GEO_KEYS)

_MODEL_TYPE, _RASTER_TYPE, _CITATION = 1024, 1025, 1026
_GEOGRAPHIC_CRS, _GEOGRAPHIC_CITATION, _ANGULAR_UNIT = 2048, 2049, 2054
_PROJECTED_CRS, _PROJECTED_CITATION, _LINEAR_UNIT = 3072, 3073, 3076
_PROJECTED, _GEOGRAPHIC = 1, 2
_PIXEL_IS_POINT = 2
_USER_DEFINED = 32767

_UNITS = {
    9001: "metre",
    9002: "foot",
    9003: "US survey foot",
    9036: "kilometre",
    9101: "radian",
    9102: "degree",
}
"""EPSG codes of the units that occur in geokeys."""

GeoKey = int | float | str
Lookup = Callable[[int], Any]
"""Value of a TIFF tag by code, or None."""


@dataclass(frozen=True, slots=True)
class Geo:
    """What the geographic tags of a page say."""

    transform: Transform | None = None
    crs: str | None = None
    has_own_crs: bool = False
    """The CRS is described by its parameters and has no code."""
    pixel_size: PixelSize | None = None
    nodata: float | None = None
    bands: tuple[tuple[int, str], ...] = ()
    """(index, description) of the bands that have one."""
    colours: tuple[tuple[int, str], ...] = ()
    """(index, GDAL's colour interpretation in small letters) of the bands that have one."""
    notes: tuple[str, ...] = ()


def read_geo(tag: Lookup, dtype: np.dtype[Any]) -> Geo:
    """Interpret the geographic tags of the first page.

    Parameters
    ----------
    tag : callable
        Value of a TIFF tag by code, or None where the page has no such tag.
    dtype : dtype
        dtype of the stored pixels, which nodata must fit.
    """
    keys = read_keys(_numbers(tag, GEO_KEYS), _numbers(tag, GEO_DOUBLES), tag(GEO_ASCII) or "")
    transform, place_notes = read_transform(tag, keys.get(_RASTER_TYPE))
    crs, crs_notes = read_crs(keys)
    if transform is None and crs and _numbers(tag, MODEL_TIEPOINT):
        crs, crs_notes = None, (f"the control points are in {crs}",)  # as GDAL: the pixels are in no CRS
    unit, unit_notes = _unit(keys, crs) if transform else (None, ())
    nodata, nodata_notes = read_nodata(tag(GDAL_NODATA), dtype)
    bands, colours, band_notes = _read_bands(tag(GDAL_METADATA))
    size = None
    if transform and unit:
        a, b, _, d, e, _ = transform
        size = PixelSize(math.hypot(b, e), math.hypot(a, d), unit)
    notes = (*place_notes, *crs_notes, *unit_notes, *nodata_notes, *band_notes)
    own = crs is None and any(key in keys for key in (_PROJECTED_CRS, _GEOGRAPHIC_CRS, _PROJECTED_CITATION))
    return Geo(transform, crs, own and transform is not None, size, nodata, bands, colours, notes)


def _numbers(tag: Lookup, code: int) -> tuple[Any, ...]:
    """Values of a tag of numbers, which tifffile gives as a tuple, an array or a lone number."""
    value = tag(code)
    return () if value is None else tuple(np.atleast_1d(value).tolist())


def read_keys(directory: Sequence[int], doubles: Sequence[float], text: str) -> dict[int, GeoKey]:
    """The geokeys as a dict; keys that point outside their tag are left out (OGC 19-008r4, 7.1.2)."""
    keys: dict[int, GeoKey] = {}
    for i in range(4, len(directory) - 3, 4):
        key, place, count, value = (int(v) for v in directory[i : i + 4])
        if place == 0:
            keys[key] = value
        elif place == GEO_DOUBLES and value < len(doubles):
            keys[key] = float(doubles[value])
        elif place == GEO_ASCII and value < len(text):
            keys[key] = text[value : value + count].rstrip("|\0 ")
    return keys


def read_transform(tag: Lookup, raster_type: GeoKey | None) -> tuple[Transform | None, tuple[str, ...]]:
    """Pixel corner to CRS, and notes.

    With ``PixelIsPoint`` the tags place the centre of a pixel, so the corner is half a pixel away.
    GDAL's order of preference: scale and tie point, then matrix, then ground control points.
    """
    scale, ties, matrix = (_numbers(tag, code) for code in (MODEL_PIXEL_SCALE, MODEL_TIEPOINT, MODEL_TRANSFORMATION))
    notes: list[str] = []
    if len(scale) >= 2 and scale[0] and scale[1] and len(ties) >= 6:
        if scale[1] < 0:
            notes.append("ModelPixelScale is negative along y; taken as positive (north up), as GDAL does")
        a, e = float(scale[0]), -abs(float(scale[1]))
        b = d = 0.0
        c, f = ties[3] - ties[0] * a, ties[4] - ties[1] * e
    elif len(matrix) == 16:
        a, b, c, d, e, f = (float(matrix[i]) for i in (0, 1, 3, 4, 5, 7))
    elif ties:
        return None, (f"placed by {len(ties) // 6} ground control points only: no transform",)
    else:
        return None, ()
    if raster_type == _PIXEL_IS_POINT:
        c, f = c - (a + b) / 2, f - (d + e) / 2
    if not all(math.isfinite(v) for v in (a, b, c, d, e, f)) or a * e == b * d:
        return None, ("the georeference is degenerate (a pixel has no area): left aside",)
    return (a, b, float(c), d, e, float(f)), tuple(notes)


def _is_projected(keys: dict[int, GeoKey]) -> bool:
    """As the model type says; ESRI writes "user-defined" there, and the projected keys tell."""
    kind = keys.get(_MODEL_TYPE)
    if kind in (_PROJECTED, _GEOGRAPHIC):
        return kind == _PROJECTED
    return any(key in keys for key in (_PROJECTED_CRS, _PROJECTED_CITATION, _LINEAR_UNIT))


def read_crs(keys: dict[int, GeoKey]) -> tuple[str | None, tuple[str, ...]]:
    """``EPSG:n`` of the projected or geographic CRS, and notes."""
    if not keys:
        return None, ()
    projected = _is_projected(keys)
    code = keys.get(_PROJECTED_CRS if projected else _GEOGRAPHIC_CRS, 0)
    if isinstance(code, int) and 0 < code < _USER_DEFINED:
        return f"EPSG:{code}", ()
    own = _PROJECTED_CITATION if projected else _GEOGRAPHIC_CITATION
    citation = keys.get(own) or keys.get(_CITATION) or keys.get(_GEOGRAPHIC_CITATION)
    if not citation and not code:
        return None, ()
    return None, (f"the CRS is user-defined and has no EPSG code: {citation or 'no citation'}",)


def _unit(keys: dict[int, GeoKey], crs: str | None) -> tuple[str | None, tuple[str, ...]]:
    """Unit of the transform, and notes."""
    projected = _is_projected(keys)
    if not projected and _GEOGRAPHIC_CRS not in keys:
        return None, ("there is a transform but no CRS, so the unit of its pixel size is unknown",)
    code = keys.get(_LINEAR_UNIT if projected else _ANGULAR_UNIT)
    if code is None and not projected:
        return "degree", ()
    if code is None:
        return "metre", (f"the file does not state the unit of {crs or 'its CRS'}; metre is assumed",)
    unit = _UNITS.get(code) if isinstance(code, int) else None
    return unit, (() if unit else (f"unit {code} of the CRS is not known: no pixel size",))


def read_nodata(text: object, dtype: np.dtype[Any]) -> tuple[float | None, tuple[str, ...]]:
    """The value of GDAL_NODATA as stored in `dtype`, and notes."""
    if text is None:
        return None, ()
    stripped = str(text).strip("\0 ").replace(",", ".")
    try:
        value = float(stripped)
    except ValueError:
        return None, (f"GDAL_NODATA is not a number: {stripped!r}",)
    if dtype.kind == "f":
        return float(dtype.type(value)), ()
    low, high = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    if not math.isfinite(value) or not low <= value <= high or value != int(value):
        return None, (f"GDAL_NODATA is {stripped}, which {dtype} cannot hold: no pixel is nodata",)
    return value, ()


_Bands = tuple[tuple[int, str], ...]


def _read_bands(text: object) -> tuple[_Bands, _Bands, tuple[str, ...]]:
    """Band descriptions and colours in GDAL's metadata tag, and notes."""
    if not text:
        return (), (), ()
    try:
        items = parse_xml(str(text).strip("\0 ")).findall("Item")
    except (ElementTree.ParseError, UnsafeXmlError) as error:
        return (), (), (f"GDAL's metadata tag is not XML ({error}): left aside",)
    found: dict[str, list[tuple[int, str]]] = {}
    for item in items:
        sample, value = item.get("sample", ""), (item.text or "").strip()
        if sample.isdigit() and value:
            found.setdefault(item.get("role", ""), []).append((int(sample), value))
    scaled = any(value != "1" for _, value in found.get("scale", ()))
    scaled |= any(value != "0" for _, value in found.get("offset", ()))
    note = "the bands have a scale and offset, which are not applied: pixels are as stored"
    colours = tuple((sample, value.lower()) for sample, value in found.get("colorinterp", ()))
    return tuple(found.get("description", ())), colours, ((note,) if scaled else ())
