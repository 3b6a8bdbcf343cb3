"""CSV: the table with the geometry as WKT, for spreadsheets, R, pandas, and QGIS as delimited text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gigatile.exports.object_table import ObjectTable, rounded, shapes_of
from gigatile.exports.target import new_file
from gigatile.outputs.objects_schema import arrow, extra_columns

_FIRST = ("id", "class", "class_name", "score", "xmin", "ymin", "xmax", "ymax")
_HEAD = ",".join(f'"{name}"' for name in _FIRST).encode()


def export_csv(table: ObjectTable, path: Path) -> None:
    """Write objects as CSV (RFC 4180, UTF-8): the columns of the table, then ``geometry`` as WKT.

    Numbers are those of the table; what is missing, and NaN, is an empty field. Coordinates of the geometry have the
    digits of a thousandth of a pixel.

    Memory bound
    ------------
    One batch, about five times while it becomes text.

    Parameters
    ----------
    table : ObjectTable
    path : Path
        Appears, whole, at the end.

    Raises
    ------
    BlockError, StorageError
        The table cannot be read, or the file not written.
    """
    pa = arrow()
    import pyarrow.csv

    names = [*_FIRST, *extra_columns(table.schema)]
    schema = pa.schema([*(table.schema.field(name) for name in names), pa.field("geometry", pa.string())])
    with new_file(path, _is_exported) as file, pyarrow.csv.CSVWriter(file, schema) as writer:
        for batch in table.batches():
            columns = [_without_nan(batch.column(name)) for name in names]
            writer.write_batch(pa.RecordBatch.from_arrays([*columns, _wkt(table, batch)], schema=schema))


def _wkt(table: ObjectTable, batch: Any) -> Any:
    import shapely

    texts = shapely.to_wkt(rounded(shapes_of(batch), table.decimals), rounding_precision=table.decimals)
    return arrow().array(texts, arrow().string())


def _without_nan(column: Any) -> Any:
    pa = arrow()
    import pyarrow.compute

    if not pa.types.is_floating(column.type):
        return column
    return pyarrow.compute.if_else(pyarrow.compute.is_nan(column), pa.scalar(None, column.type), column)


def _is_exported(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_HEAD)) == _HEAD
