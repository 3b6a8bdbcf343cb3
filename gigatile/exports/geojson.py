"""GeoJSON: for QuPath by drag and drop, for QGIS and everything else; or one feature a line.

::

    slide   {"type": "FeatureCollection", "features": [     level-0 pixels
              {"type": "Feature", "id": 1, "geometry": {...}, "properties": {"objectType": "detection",
               "classification": {"name": "cell", "color": [r, g, b]}, "measurements": {"score": 0.9, ...}}}, ...
    scene   {..., "crs": {"type": "name", ...}, "features": [ ...     coordinates of the CRS
               "properties": {"class": 0, "class_name": "ship", "score": 0.9, ...}}, ...
    lines   one Feature a line; of scenes in WGS 84, because there is no place for a CRS

QuPath wants name and colour of a classification, and no nulls (its ``PathObjectTypeAdapter`` and
``GsonTools.PathClassTypeAdapter``, https://github.com/qupath/qupath). RFC 7946 knows WGS 84 alone, which moves what was
found by the error of a transformation; the ``crs`` member of GeoJSON 2008 is what GDAL writes, and it and QGIS read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from gigatile.errors import UsageError
from gigatile.exports.json_shapes import geojson_geometries
from gigatile.exports.object_table import Geometries, ObjectTable, rounded, shapes_of, short_numbers
from gigatile.exports.target import new_file
from gigatile.outputs.coordinates import has_crs_code
from gigatile.outputs.objects_schema import extra_columns

LINES = (".geojsonl", ".geojsons", ".geojsonseq", ".ndjson")
"""Suffixes of files with one feature a line."""
_GENERATOR = "gigatile export"
_HEAD = f'{{"type":"FeatureCollection","generator":"{_GENERATOR}"'.encode()
_LINES_HEAD = f'{{"generator":"{_GENERATOR}"'.encode()
_WGS84, _WGS84_DECIMALS = "OGC:CRS84", 8
"""Eight digits of a degree are a millimetre."""
_WGS84_NAMES = ("EPSG:4326", "OGC:CRS84")

Feature = dict[str, Any]


def export_geojson(table: ObjectTable, path: Path) -> None:
    """Write objects as GeoJSON; with a suffix of `LINES`, as one feature a line.

    Memory bound
    ------------
    One batch of rows with its outlines, about ten times while they become text.

    Parameters
    ----------
    table : ObjectTable
    path : Path
        Appears, whole, at the end.

    Raises
    ------
    UsageError
        The CRS has no name that GeoJSON could give; an object has no place in WGS 84; pyproj is needed, and missing.
    BlockError, StorageError
        The table cannot be read, or the file not written.
    """
    import msgspec

    encode = msgspec.json.Encoder().encode
    lines = path.suffix.lower() in LINES
    move = _to_wgs84(table.metadata.crs) if lines else None
    head = b"" if lines else _HEAD + _crs_member(table.metadata.crs) + b',"features":[\n'
    with new_file(path, _is_exported) as file:
        file.write(head)
        first = True
        for batch in table.batches():
            features = list(_features(table, batch, move))
            if features and first and lines:
                # A line that tells exports from other files; readers overlook members that they do not know.
                features[0] = {"generator": _GENERATOR, **features[0]}
            if features:
                file.write(b"" if first else b"\n" if lines else b",\n")
                file.write((b"\n" if lines else b",\n").join(map(encode, features)))
                first = False
        file.write((b"" if first else b"\n") + (b"" if lines else b"]}\n"))


def _features(table: ObjectTable, batch: Any, move: Callable[[Any], Any] | None) -> Iterator[Feature]:
    import msgspec

    shapes = shapes_of(batch)
    if move is not None:
        shapes = _moved(table, shapes, move)
    geometries = geojson_geometries(rounded(shapes, table.decimals if move is None else _WGS84_DECIMALS))
    properties = _of_slide(table, batch) if table.metadata.transform is None else _of_scene(batch)
    for number, text, about in zip(batch.column("id").to_pylist(), geometries, properties, strict=True):
        yield {"type": "Feature", "id": number, "geometry": msgspec.Raw(text), "properties": about}


def _moved(table: ObjectTable, shapes: Geometries, move: Callable[[Any], Any]) -> Geometries:
    """Shapes in WGS 84; refuses those beyond the edge of the projection, of which the corners of a full disc are an
    example: JSON has no infinity."""
    import shapely

    moved: Geometries = shapely.transform(shapes, move)
    lost = int((~np.isfinite(shapely.bounds(moved)).all(axis=1)).sum())
    if lost:
        raise UsageError(
            table.where,
            expected="objects whose coordinates have a longitude and latitude",
            found=f"{lost} that lie where the CRS has none",
            fix="Give the file a name with .geojson, which keeps the coordinates of the CRS, or use --to geoparquet.",
        )
    return moved


def _of_slide(table: ObjectTable, batch: Any) -> Iterator[Feature]:
    """Properties as QuPath reads them."""
    kind = "annotation" if table.metadata.task == "segment" else "detection"
    numbers = batch.column("class").to_pylist()
    classes = {n: {"name": table.label_of(n), "color": table.colour_of(n)} for n in sorted(set(numbers))}
    names = ("score", *extra_columns(batch.schema))
    columns = [short_numbers(batch.column(name)) for name in names]
    for number, values in zip(numbers, zip(*columns, strict=True), strict=True):
        about: Feature = {"objectType": kind, "classification": classes[number]}
        measured = {name: value for name, value in zip(names, values, strict=True) if value is not None}
        if measured:
            about["measurements"] = measured
        yield about


def _of_scene(batch: Any) -> Iterator[Feature]:
    """Properties as tables of GIS have them: all in one row, missing ones null."""
    names = ("class", "class_name", "score", *extra_columns(batch.schema))
    numbers = [short_numbers(batch.column(name)) for name in names[2:]]
    known = [batch.column("class").to_pylist(), batch.column("class_name").to_pylist()]
    for values in zip(*known, *numbers, strict=True):
        yield dict(zip(names, values, strict=True))


def _crs_member(crs: str | None) -> bytes:
    """The ``crs`` member as GDAL writes it; none for pixels."""
    if crs is None:
        return b""
    code = crs if has_crs_code(crs) else _code_of(crs)
    authority, _, number = (_WGS84 if code.upper() in _WGS84_NAMES else code).partition(":")
    version = "1.3" if authority.upper() == "OGC" else ""
    name = f"urn:ogc:def:crs:{authority.upper()}:{version}:{number}"
    return f',"crs":{{"type":"name","properties":{{"name":"{name}"}}}}'.encode()


def _code_of(wkt: str) -> str:
    """The code of a CRS that is described by WKT2."""
    found = _pyproj().CRS.from_wkt(wkt).to_authority()
    if found is None:
        raise UsageError(
            "export --to geojson",
            expected="a CRS with a code, which is all that GeoJSON can name",
            found=f"{wkt[:80]}...",
            fix="Give the file a name with .geojsonl (WGS 84), or use --to geoparquet or flatgeobuf.",
        )
    return ":".join(found)


def _to_wgs84(crs: str | None) -> Callable[[Any], Any] | None:
    """From coordinates of a CRS, shape (n, 2), to longitude and latitude; None where there is nothing to move."""
    if crs is None or crs.upper() in _WGS84_NAMES:
        return None
    transformer = _pyproj().Transformer.from_crs(crs, _WGS84, always_xy=True)
    return lambda xy: np.stack(transformer.transform(xy[:, 0], xy[:, 1]), axis=1)


def _pyproj() -> Any:
    try:
        import pyproj
    except ImportError as error:
        raise UsageError(
            "export --to geojson",
            expected="the optional package pyproj, which knows coordinate reference systems",
            found=str(error),
            fix="Type: pip install 'gigatile[geo]'",
        ) from error
    return pyproj


def _is_exported(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_HEAD)).startswith((_HEAD, _LINES_HEAD))
