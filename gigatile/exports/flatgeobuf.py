"""FlatGeobuf: one file with a spatial index, that GIS, browsers and servers read by region."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gigatile.errors import StorageError, UsageError
from gigatile.exports.object_table import ObjectTable, shapes_of
from gigatile.exports.target import new_file_of_others
from gigatile.outputs.objects_schema import arrow

_DESCRIPTION = "gigatile export"
_MAGIC = b"fgb\x03fgb"
_HEADER_BYTES = 1 << 16
"""In which the description is looked for: a header is a few KiB with a CRS in WKT."""


def export_flatgeobuf(table: ObjectTable, path: Path) -> None:
    """Write objects as FlatGeobuf, by GDAL.

    Memory bound
    ------------
    One batch, and what GDAL holds: at most 100 bytes an object for the index, and a buffer of 100 MiB when it sorts
    the features, which it has written to a second file beside it, into this one.

    Parameters
    ----------
    table : ObjectTable
    path : Path
        Appears, whole, at the end.

    Raises
    ------
    UsageError
        pyogrio is not installed; the CRS is not known.
    BlockError, StorageError
        The table cannot be read, or the file not written.
    """
    pa, pyogrio = arrow(), _pyogrio()
    failed: list[Exception] = []
    schema = _schema(table.schema)
    kind = table.geometry_types[0] if len(table.geometry_types) == 1 else "MultiPolygon"

    def rows() -> Iterator[Any]:
        try:
            for batch in table.batches():
                yield _converted(batch, schema, kind)
        except Exception as error:  # GDAL, in between, would leave its message and nothing else
            failed.append(error)
            raise

    with new_file_of_others(path, _is_exported, ".fgb") as place, warnings.catch_warnings():
        # Slides have none.
        warnings.filterwarnings("ignore", message="'crs' was not provided", category=UserWarning)
        try:
            pyogrio.write_arrow(
                pa.RecordBatchReader.from_batches(schema, rows()),
                place,
                layer=path.stem,
                driver="FlatGeobuf",
                geometry_name="geometry",
                geometry_type=kind,
                crs=table.metadata.crs,
                layer_options={"SPATIAL_INDEX": "YES", "DESCRIPTION": _DESCRIPTION, "TEMPORARY_DIR": str(place.parent)},
            )
        except (pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError, RuntimeError, OSError) as error:
            if failed:
                raise failed[0] from error
            if isinstance(error, pyogrio.errors.CRSError):
                raise UsageError(table.where, expected="a CRS that GDAL knows", found=str(error)) from error
            raise StorageError(
                str(path), expected="a file that GDAL can write", found=str(error), fix="Is the disk full?"
            ) from error


def _schema(schema: Any) -> Any:
    """Without the bounds, which the index has, and with ids as GDAL has integers."""
    pa = arrow()
    fields = [schema.field(name) for name in schema.names if name != "bbox"]
    return pa.schema([field.with_type(pa.int64()) if field.name == "id" else field for field in fields])


def _converted(batch: Any, schema: Any, kind: str) -> Any:
    import shapely

    pa = arrow()
    columns = [batch.column(name).cast(schema.field(name).type) for name in schema.names]
    if kind == "MultiPolygon":
        # A layer has one kind, or QGIS shows it as two.
        parts, whose = shapely.get_parts(shapes_of(batch), return_index=True)
        columns[schema.get_field_index("geometry")] = pa.array(
            shapely.to_wkb(shapely.multipolygons(parts, indices=whose)), pa.binary()
        )
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _pyogrio() -> Any:
    try:
        import pyogrio
        import pyogrio.errors
    except ImportError as error:
        raise UsageError(
            "export --to flatgeobuf",
            expected="the optional package pyogrio, which writes FlatGeobuf by GDAL",
            found=str(error),
            fix="Type: pip install 'gigatile[geo]'",
        ) from error
    return pyogrio


def _is_exported(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(_HEADER_BYTES)
    return head.startswith(_MAGIC) and _DESCRIPTION.encode() in head
