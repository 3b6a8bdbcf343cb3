"""Small arrays beside the levels of a georeferenced result, by which xarray and rioxarray find its place.

::

    prediction.zarr/x/            centre of each column of level 0 in CRS coordinates, float64
                    y/            centre of each row; neither where the grid is rotated
                    spatial_ref/  one number without meaning, whose attributes are the CRS and the transform

Sources: CF conventions 1.11, sections 4 and 5.6; rioxarray's "CRS management" (attributes ``spatial_ref`` and
``GeoTransform`` of the grid mapping); GDAL's Zarr driver (attribute ``_CRS``).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from gigatile.images.info import Transform

GRID_MAPPING = "spatial_ref"
PREFIXES = (f"{GRID_MAPPING}/", "x/", "y/")
CHUNK = 1 << 16
"""Coordinates that are stored together: 512 KiB."""

Document = dict[str, Any]


def has_crs_code(crs: str) -> bool:
    """Whether a CRS is ``AUTHORITY:code``; else it is WKT2."""
    return re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*:[A-Za-z0-9._-]+", crs) is not None


def coordinate_documents(
    shape: tuple[int, int], transform: Transform, crs: str | None, unit: str
) -> Iterator[tuple[str, Document]]:
    """The metadata of the arrays, by key.

    Parameters
    ----------
    shape : tuple of int
        Height and width of level 0 in pixels.
    transform : Transform
        Pixel corner of level 0 to CRS coordinates.
    crs : str or None
        ``AUTHORITY:code`` or WKT2.
    unit : str
        Of the coordinates: ``metre``, ``degree`` ...
    """
    a, b, c, d, e, f = transform
    place: Document = {"GeoTransform": " ".join(repr(float(number)) for number in (c, a, b, f, d, e))}
    if crs is not None:
        place |= {"spatial_ref": crs} if has_crs_code(crs) else {"spatial_ref": crs, "crs_wkt": crs}
    yield f"{GRID_MAPPING}/zarr.json", _array((), "int32", 0, (), place)
    if (b, d) == (0, 0):
        for name, length in (("x", shape[1]), ("y", shape[0])):
            yield f"{name}/zarr.json", _array((length,), "float64", "NaN", (name,), _axis(name, unit))


def coordinate_chunks(shape: tuple[int, int], transform: Transform) -> Iterator[tuple[str, bytes]]:
    """The content of the arrays, by key; little-endian, the last chunk padded with NaN.

    Memory bound
    ------------
    One chunk.
    """
    a, b, c, d, e, f = transform
    if (b, d) != (0, 0):
        return
    for name, length, step, start in (("x", shape[1], a, c), ("y", shape[0], e, f)):
        for number in range(-(-length // CHUNK)):
            place = np.arange(number * CHUNK, (number + 1) * CHUNK, dtype="<f8")
            centres = np.where(place < length, start + step * (place + 0.5), np.nan)
            yield f"{name}/c/{number}", centres.astype("<f8").tobytes()


def coordinate_keys(shape: tuple[int, int]) -> set[str]:
    """All objects that the coordinates of a result of this size can have."""
    keys = {f"{prefix}zarr.json" for prefix in PREFIXES}
    for name, length in (("x", shape[1]), ("y", shape[0])):
        keys |= {f"{name}/c/{number}" for number in range(-(-length // CHUNK))}
    return keys


def crs_attribute(crs: str | None) -> Document:
    """The CRS as GDAL's Zarr driver writes and reads it."""
    if crs is None:
        return {}
    if not has_crs_code(crs):
        return {"_CRS": {"wkt": crs}}
    authority, _, code = crs.partition(":")
    return {"_CRS": {"url": f"http://www.opengis.net/def/crs/{authority.upper()}/0/{code}"}}


def mapped_attributes(fill: float) -> Document:
    """What level 0 says of its coordinates, and of its invalid pixels in the words of rioxarray: NaN needs none."""
    nodata = {} if math.isnan(fill) else {"nodata": fill}
    return {"coordinates": GRID_MAPPING, "grid_mapping": GRID_MAPPING, **nodata}


def _axis(name: str, unit: str) -> Document:
    if unit == "degree":
        word = {"x": "longitude", "y": "latitude"}[name]
        return {"axis": name.upper(), "standard_name": word, "units": {"x": "degrees_east", "y": "degrees_north"}[name]}
    return {"axis": name.upper(), "standard_name": f"projection_{name}_coordinate", "units": unit}


def _array(shape: tuple[int, ...], dtype: str, fill: int | str, names: tuple[str, ...], about: Document) -> Document:
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(shape),
        "data_type": dtype,
        "fill_value": fill,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [CHUNK] * len(shape)}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
        "dimension_names": list(names),
        "storage_transformers": [],
        "attributes": about,
    }
