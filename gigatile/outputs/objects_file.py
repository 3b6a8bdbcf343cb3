"""Writing ``objects.parquet``: a stream of finished rows in, one GeoParquet file out.

::

    batches of any length ──▶ row groups of 65,536 rows ──▶ footer: geo, gigatile
                              (fewer, where outlines are long)

Where a row group ends follows from the rows alone, and no times or paths are stored: equal rows, equal bytes, with one
version of pyarrow.
"""

from __future__ import annotations

import io
import json
import struct
from collections import Counter
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import numpy as np

from gigatile.errors import UsageError
from gigatile.images.info import Transform
from gigatile.outputs.objects_schema import BOX, GEO, OWN, Counts, ObjectsMetadata, arrow, geo_metadata, projjson
from gigatile.storage.store import Writer

ROWS = 1 << 16
"""Of a row group."""
GROUP_BYTES = 64 << 20
"""Of geometry, from which on a row group ends before it has all its rows."""
_ZSTD_LEVEL = 3
_TYPES = {1: "Point", 2: "LineString", 3: "Polygon", 4: "MultiPoint", 5: "MultiLineString", 6: "MultiPolygon"}
"""Kinds of geometry by their number in WKB."""


class ObjectsWriter:
    """Writes the rows of one table. As a context manager it lets go of the sink; the file is whole after `finish`.

    Memory bound
    ------------
    The rows of one row group, twice while it is encoded: at most `ROWS` rows with `GROUP_BYTES` of geometry and the
    longest outline. The footer: about 2 KiB a row group.

    Parameters
    ----------
    sink : path or binary file object
        Is written from its present position on, never read, and not closed. See `store_sink` for a `Store`.
    schema : pyarrow.Schema
        As `objects_schema` makes it.
    metadata : ObjectsMetadata
    notes : mapping, optional
        Stored with the metadata, under keys of its own.

    Raises
    ------
    UsageError
        A package is missing, or the CRS is not known.
    """

    def __init__(
        self, sink: Any, schema: Any, metadata: ObjectsMetadata, notes: Mapping[str, Any] | None = None
    ) -> None:
        arrow()
        import pyarrow.parquet

        self.schema, self.metadata, self._notes = schema, metadata, dict(notes or {})
        self._crs = projjson(metadata.crs)
        counted = [name for name in schema.names if name not in ("geometry", "bbox")]
        self._file = pyarrow.parquet.ParquetWriter(
            sink,
            schema,
            compression="zstd",
            compression_level=_ZSTD_LEVEL,
            use_dictionary=["class", "class_name"],
            # Parquet has all types of these columns itself; readers that find Arrow's schema overlook what comes later.
            store_schema=False,
            write_page_checksum=True,
            write_statistics=[*counted, *(f"bbox.{name}" for name in BOX)],
        )
        self._waiting: list[Any] = []
        self._rows = self._nbytes = self._total = 0
        self._classes: Counter[int] = Counter()
        self._types: set[int] = set()
        self._bounds: list[float] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file.is_open:
            self._file.close()

    def write(self, batch: Any) -> None:
        """Append rows.

        Parameters
        ----------
        batch : pyarrow.RecordBatch
            Columns of the schema; geometry is little-endian WKB.

        Raises
        ------
        UsageError
            It has other columns.
        StorageError
            The sink is full or went away.
        """
        if not batch.schema.equals(self.schema):
            raise UsageError("objects", expected=f"columns {self.schema.names}", found=str(batch.schema.names))
        if batch.num_rows == 0:
            return
        self._note(batch)
        ends = np.cumsum(_lengths(batch.column("geometry")))
        start, before = 0, 0
        while start < batch.num_rows:
            # The group ends with the row that fills it: by number, or by bytes.
            filled = int(np.searchsorted(ends, before + GROUP_BYTES - self._nbytes))
            stop = min(start + ROWS - self._rows, filled + 1, batch.num_rows)
            self._waiting.append(batch.slice(start, stop - start))
            self._rows += stop - start
            self._nbytes += int(ends[stop - 1]) - before
            start, before = stop, int(ends[stop - 1])
            if self._rows == ROWS or self._nbytes >= GROUP_BYTES:
                self._write_group()

    def finish(self, oversized: int = 0) -> Counts:
        """Write what is left, and the footer.

        Parameters
        ----------
        oversized : int
            See `Counts.oversized`.

        Returns
        -------
        Counts
            Also stored in the file.
        """
        if self._rows:
            self._write_group()
        # Several classes may have one name, as those that COCO left out are all called N/A.
        names: Counter[str] = Counter()
        for number, n in sorted(self._classes.items()):
            names[self.metadata.name_of(number) or str(number)] += n
        counts = Counts(self._total, names, oversized)
        types = sorted(_TYPES.get(number, "GeometryCollection") for number in self._types)
        geo = geo_metadata(types, self._bounds, self._crs)
        own = {**self._notes, **self.metadata.to_json(), **counts.to_json()}
        self._file.add_key_value_metadata({GEO: _json(geo), OWN: _json(own)})
        self._file.close()
        return counts

    def _note(self, batch: Any) -> None:
        self._total += batch.num_rows
        numbers, times = np.unique(batch.column("class").to_numpy(), return_counts=True)
        self._classes.update(dict(zip(numbers.tolist(), times.tolist(), strict=True)))
        self._types.update(_wkb_types(batch.column("geometry")))
        boxes = [batch.column("bbox").field(name).to_numpy() for name in BOX]
        least = [float(side.min()) for side in boxes[:2]]
        most = [float(side.max()) for side in boxes[2:]]
        if self._bounds is None:
            self._bounds = [*least, *most]
        else:
            least = [min(pair) for pair in zip(least, self._bounds[:2], strict=True)]
            self._bounds = [*least, *(max(pair) for pair in zip(most, self._bounds[2:], strict=True))]

    def _write_group(self) -> None:
        # In one piece: where pages end would follow from the lengths of the batches.
        whole = arrow().Table.from_batches(self._waiting, self.schema).combine_chunks()
        self._waiting, self._rows, self._nbytes = [], 0, 0
        self._file.write_table(whole, row_group_size=ROWS)


class _StoreSink(io.RawIOBase):
    """The face that pyarrow wants of the `Writer` of a store."""

    def __init__(self, writer: Writer) -> None:
        super().__init__()
        self._writer = writer

    def writable(self) -> bool:
        """Yes."""
        return True

    def write(self, content: Any) -> int:
        """Append all of it."""
        view = memoryview(content).cast("B")
        self._writer.write(view)
        return len(view)


def store_sink(writer: Writer) -> io.RawIOBase:
    """A sink for `ObjectsWriter` that appends to an object of a `Store`; the object is finished by whoever began it."""
    return _StoreSink(writer)


def geometry_columns(geometries: np.ndarray[Any, Any], transform: Transform | None) -> tuple[Any, Any]:
    """The columns ``geometry`` and ``bbox`` of shapes that lie in level-0 pixels.

    Parameters
    ----------
    geometries : ndarray of shapely geometries, shape (n,)
        x and y in level-0 pixels; shells counter-clockwise where y is taken to point up, as RFC 7946 wants them.
    transform : Transform or None
        See `ObjectsMetadata.transform`.

    Returns
    -------
    geometry : pyarrow.BinaryArray
        WKB.
    bbox : pyarrow.StructArray
        Bounds in the coordinates of the geometry.
    """
    import shapely

    pa = arrow()
    if transform is not None:
        a, b, c, d, e, f = transform
        placed = shapely.transform(geometries, lambda xy: xy @ np.array([[a, d], [b, e]]) + np.array([c, f]))
        if a * e - b * d < 0:
            # A transform that turns y over turns rings round as well.
            placed = shapely.reverse(placed)
    else:
        placed = geometries
    wkb = pa.array(shapely.to_wkb(placed), pa.binary())
    bounds = shapely.bounds(placed).reshape(-1, 4)
    fields = [pa.field(name, pa.float64(), nullable=False) for name in BOX]
    return wkb, pa.StructArray.from_arrays([pa.array(side) for side in bounds.T], fields=fields)


def _lengths(column: Any) -> np.ndarray[Any, Any]:
    """Bytes of each value of a binary column, shape (n,), int64."""
    return np.diff(_offsets(column).astype(np.int64))


def _offsets(column: Any) -> np.ndarray[Any, Any]:
    """Where the values of a binary column begin, and the end of the last, in its buffer; shape (n + 1,), int32."""
    return np.frombuffer(column.buffers()[1], np.int32)[column.offset : column.offset + len(column) + 1]


def _wkb_types(column: Any) -> set[int]:
    """The numbers of the kinds of geometry in a column of little-endian WKB: four bytes after the first."""
    content = np.frombuffer(column.buffers()[2], np.uint8)
    starts = _offsets(column)[:-1].astype(np.int64)
    if (content[starts] != 1).any():
        raise UsageError("objects", expected="little-endian WKB", found="another byte order")
    numbers = content[starts[:, np.newaxis] + np.arange(1, 5)]
    return {struct.unpack("<I", row.tobytes())[0] % 1000 for row in np.unique(numbers, axis=0)}


def _json(document: dict[str, Any]) -> str:
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
