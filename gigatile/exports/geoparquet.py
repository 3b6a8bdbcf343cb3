"""GeoParquet: the table with all its columns, exactly; GDAL >= 3.5, QGIS, geopandas, DuckDB."""

from __future__ import annotations

from pathlib import Path

from gigatile.errors import GigatileError
from gigatile.exports.object_table import ObjectTable
from gigatile.exports.target import new_file
from gigatile.outputs.objects_file import ObjectsWriter
from gigatile.outputs.objects_schema import OWN, arrow

_MARK, _MAGIC = "exported", b"PAR1"


def export_geoparquet(table: ObjectTable, path: Path) -> None:
    """Write objects as GeoParquet 1.1.

    Memory bound
    ------------
    That of `ObjectsWriter`, and one batch.

    Parameters
    ----------
    table : ObjectTable
    path : Path
        Appears, whole, at the end.

    Raises
    ------
    UsageError
        pyproj is needed, and missing.
    BlockError, StorageError
        The table cannot be read, or the file not written.
    """
    with (
        new_file(path, _is_exported) as file,
        ObjectsWriter(file, table.schema, table.metadata, {_MARK: True}) as writer,
    ):
        for batch in table.batches():
            writer.write(batch.cast(table.schema))
        writer.finish(table.oversized)


def _is_exported(path: Path) -> bool:
    """A table inside a run is none: only exports have the mark."""
    import json

    pa = arrow()
    import pyarrow.parquet

    with path.open("rb") as file:
        if file.read(len(_MAGIC)) != _MAGIC:
            return False
    try:
        own = (pyarrow.parquet.read_schema(path).metadata or {}).get(OWN)
        return own is not None and _MARK in json.loads(own)
    except GigatileError:
        raise
    except (pa.ArrowException, OSError, ValueError):
        return False  # damaged, or no Parquet file after all
