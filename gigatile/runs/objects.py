"""Reading ``objects.parquet``: all of it as a stream, or what lies in a region.

::

    region  ──▶  row groups whose boxes meet it, by their statistics  ──▶  rows whose boxes do
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from os import PathLike
from typing import Any

from gigatile.errors import BlockError, GigatileError, RunRefused, UsageError
from gigatile.outputs.objects_schema import BOX, OBJECTS, Counts, ObjectsMetadata, arrow, stored_metadata
from gigatile.runs.directory import RunDirectory
from gigatile.runs.status import existing_run
from gigatile.storage.store import Store
from gigatile.tiling.region import Region

BATCH_ROWS = 8192
"""Of a batch: decoded at once."""


class ObjectsFile:
    """The table of a run, open. For one thread.

    Memory bound
    ------------
    The footer, and the encoded row group that is being read; of a file in a bucket as many bytes again.
    """

    def __init__(self, where: str, file: Any) -> None:
        self.where, self._file = where, file
        self.schema = file.schema_arrow
        stored = stored_metadata(self.schema)
        if stored is None:
            raise RunRefused(where, expected="the table of objects of a run", found="another Parquet file")
        self.metadata: ObjectsMetadata = stored[0]
        self.counts: Counts = stored[1]
        self.geometry_types: tuple[str, ...] = stored[2]
        """Kinds of geometry in it."""

    def batches(self, region: Region | None = None, columns: Sequence[str] | None = None) -> Iterator[Any]:
        """The rows, in order of their ids.

        Parameters
        ----------
        region : Region, optional
            Level-0 pixels; only objects whose box ``[xmin, xmax) x [ymin, ymax)`` meets it. All, if not given.
        columns : sequence of str, optional
            In this order; all, if not given.

        Yields
        ------
        pyarrow.RecordBatch
            At most `BATCH_ROWS` rows, perhaps none.

        Raises
        ------
        UsageError
            There is no such column.
        BlockError
            The file is damaged.
        StorageError
            The storage does not answer.
        """
        wanted = self._checked(columns)
        read = wanted if region is None else list(dict.fromkeys([*wanted, *BOX]))
        with _damage_named(self.where):
            for group in range(self._file.num_row_groups):
                if region is not None and not self._may_meet(group, region):
                    continue
                # One at a time: of several, pyarrow reads all before it gives the first batch.
                for batch in self._file.iter_batches(BATCH_ROWS, row_groups=[group], columns=read):
                    inside = batch if region is None else batch.filter(_meets(batch, region))
                    yield inside.select(wanted)

    def table(self, region: Region | None = None, columns: Sequence[str] | None = None) -> Any:
        """As `batches`, in one ``pyarrow.Table`` with the metadata of the file."""
        pa = arrow()
        wanted = self._checked(columns)
        schema = pa.schema([self.schema.field(name) for name in wanted], self.schema.metadata)
        found = [batch.cast(schema) for batch in self.batches(region, wanted)]
        return pa.Table.from_batches(found, schema)

    def _checked(self, columns: Sequence[str] | None) -> list[str]:
        known = self.schema.names
        wanted = list(known) if columns is None else list(columns)
        for name in wanted:
            if name not in known:
                raise UsageError(self.where, expected=f"one of the columns {', '.join(known)}", found=repr(name))
        return wanted

    def _may_meet(self, group: int, region: Region) -> bool:
        """Whether boxes of a row group may meet a region, by the least and the largest of their sides."""
        if region.pixels == 0:
            return False
        about = self._file.metadata.row_group(group)
        sides = {about.column(at).path_in_schema: about.column(at).statistics for at in range(about.num_columns)}
        xmin, ymin, xmax, ymax = (sides[name] for name in BOX)
        if not all(side is not None and side.has_min_max for side in (xmin, ymin, xmax, ymax)):
            return True
        return bool(
            xmin.min < region.x1 and xmax.max > region.x0 and ymin.min < region.y1 and ymax.max > region.y0,
        )


def open_objects(directory: str | PathLike[str]) -> ObjectsFile:
    """The table of a run that detects objects or instances.

    Parameters
    ----------
    directory : path or URL
        Of the run, perhaps in a bucket.

    Raises
    ------
    RunRefused
        There is no run, or no table in it.
    UsageError
        pyarrow is not installed.
    BlockError
        The file is damaged.
    StorageError
        The storage does not answer.
    """
    pa = arrow()
    import pyarrow.parquet

    run = RunDirectory.at(directory, durable=False)
    document, where = existing_run(run), run.store.where(OBJECTS)
    if run.store.size(OBJECTS) is None:
        task = document["plan"].get("task", "segment")
        raise RunRefused(
            run.name,
            expected="a complete run with --task detect or instances",
            found="a segmentation" if task == "segment" else f"no {OBJECTS} yet",
            fix="" if task == "segment" else "Repeat the command of the run.",
        )
    with _damage_named(where):
        if run.store.local is not None:
            path = run.store.local / OBJECTS
            return ObjectsFile(where, pyarrow.parquet.ParquetFile(path, page_checksum_verification=True))
        from gigatile.storage.files import as_file, open_bytes

        remote = as_file(open_bytes(f"{str(directory).rstrip('/')}/{OBJECTS}"))
        # Whole column chunks are asked for, near ones together: each is a request.
        file = pyarrow.parquet.ParquetFile(pa.PythonFile(remote), pre_buffer=True, page_checksum_verification=True)
        return ObjectsFile(where, file)


def stored_counts(store: Store) -> Counts:
    """How many objects the table of a run has: from its last bytes.

    Parameters
    ----------
    store : Store
        The run directory.

    Raises
    ------
    RunRefused
        There is no table in it, or it is another one.
    BlockError, StorageError
        It is damaged, or the storage does not answer.
    """
    pa = arrow()
    import pyarrow.parquet

    size, where = store.size(OBJECTS) or 0, store.where(OBJECTS)
    with _damage_named(where):
        # The footer, its length in four bytes, and the mark of the format.
        end = store.read_range(OBJECTS, max(size - 8, 0), 8)
        length = int.from_bytes(end[:4], "little") + 8
        footer = store.read_range(OBJECTS, max(size - length, 0), length)
        metadata = pyarrow.parquet.read_metadata(pa.BufferReader(footer))
    found = stored_metadata(metadata)
    if found is None:
        raise RunRefused(where, expected="the table of objects of a run", found="another Parquet file")
    return found[1]


def read_objects(
    directory: str | PathLike[str], region: Region | None = None, columns: Sequence[str] | None = None
) -> Any:
    """The objects of a run, or those in a region; only what may lie there is read.

    Memory bound
    ------------
    The rows that are returned, and one row group.

    Parameters
    ----------
    directory : path or URL
        Of the run, perhaps in a bucket.
    region, columns
        See `ObjectsFile.batches`.

    Returns
    -------
    pyarrow.Table
        docs/objects.md describes its columns.

    Raises
    ------
    RunRefused
        There is no run, or no table in it.
    UsageError
        There is no such column; pyarrow is not installed.
    BlockError, StorageError
        The file is damaged, or the storage does not answer.
    """
    return open_objects(directory).table(region, columns)


def to_geopandas(table: Any) -> Any:
    """A table of objects as a ``geopandas.GeoDataFrame``; its ``bbox`` column is left out.

    Parameters
    ----------
    table : pyarrow.Table
        As `read_objects` gives it, with its column ``geometry``.

    Raises
    ------
    UsageError
        geopandas is not installed.
    """
    try:
        import geopandas
    except ImportError as error:
        raise UsageError(
            "objects",
            expected="the optional package geopandas",
            found=str(error),
            fix="Type: pip install 'gigatile[geo,objects]'",
        ) from error
    stored = stored_metadata(table.schema)
    others = [name for name in table.schema.names if name not in ("geometry", "bbox")]
    shapes = geopandas.GeoSeries.from_wkb(table.column("geometry").to_numpy())
    crs = None if stored is None else stored[0].crs
    return geopandas.GeoDataFrame(table.select(others).to_pandas(), geometry=shapes, crs=crs)


def _meets(batch: Any, region: Region) -> Any:
    import pyarrow.compute as pc

    xmin, ymin, xmax, ymax = (batch.column(name) for name in BOX)
    along_x = pc.and_(pc.less(xmin, region.x1), pc.greater(xmax, region.x0))
    along_y = pc.and_(pc.less(ymin, region.y1), pc.greater(ymax, region.y0))
    return pc.and_(along_x, along_y)


@contextmanager
def _damage_named(where: str) -> Iterator[None]:
    """What pyarrow says of a damaged file, as an error that names it."""
    try:
        yield
    except GigatileError:
        raise
    except (arrow().ArrowException, OSError, ValueError, KeyError) as error:
        fix = "'gigatile verify' tells what else is damaged; run it again with --overwrite."
        raise BlockError(where, expected="an intact Parquet file", found=str(error)[:200], fix=fix) from error
