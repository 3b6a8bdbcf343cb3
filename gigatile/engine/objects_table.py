"""From sorted rows on the processing grid to ``objects.parquet``: ids, names, level-0 pixels, geometry."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any, Self

import numpy as np

from gigatile.errors import BlockError
from gigatile.objects.box_tables import HULL, from_table
from gigatile.objects.boxes import Boxes
from gigatile.outputs.objects_file import ObjectsWriter, geometry_columns, store_sink
from gigatile.outputs.objects_schema import ORIENTED, ObjectsMetadata, objects_schema
from gigatile.outputs.shard import ShardReceipt
from gigatile.plans.finding import Instances
from gigatile.plans.plan import Plan
from gigatile.plans.stages import OBJECTS
from gigatile.storage.store import Store, Writer


def metadata_of(plan: Plan) -> ObjectsMetadata:
    """What the table says of itself."""
    image = plan.image
    height, width = image.levels[0].shape
    names, colors = _classes(plan, plan.model.class_names), _classes(plan, plan.model.class_colors)
    return ObjectsMetadata(
        task=plan.task,
        shape=(height, width),
        class_names=names,
        class_colors=colors,
        pixel_size=image.pixel_size,
        crs=image.crs if image.transform is not None else None,
        transform=image.transform,
    )


def _classes(plan: Plan, told: tuple[str, ...]) -> tuple[str, ...]:
    """Of names or colours, which may be those of the model's channels, those of the objects' classes."""
    method = plan.finding.method if isinstance(plan.finding, Instances) else None
    if method is None:
        return told
    channels = method.class_channels
    if channels and len(told) == plan.trial.channels_out:
        return tuple(told[channel] for channel in channels)
    return told if len(told) == max(len(channels), 1) else ()


def factors_of(plan: Plan) -> tuple[float, float]:
    """What a pixel of the result is in pixels of level 0, along x and y."""
    scale = float(plan.model.output.scale)
    y, x = plan.image.scale
    return float(x) / scale, float(y) / scale


def box_batch(table: Any, first: int, metadata: ObjectsMetadata, factors: tuple[float, float]) -> Any:
    """Rows of boxes as rows of objects.

    Parameters
    ----------
    table : pyarrow.Table
        As `to_table` makes it; in pixels of the grid, sorted.
    first : int
        Id of its first row.
    metadata : ObjectsMetadata
    factors : (float, float)
        See `factors_of`.

    Returns
    -------
    pyarrow.RecordBatch
        Of `objects_schema`.
    """
    import shapely

    boxes = from_table(table)
    fx, fy = factors
    xmin, ymin, xmax, ymax = (boxes.hulls * [fx, fy, fx, fy]).T
    if boxes.oriented:
        corners = boxes.corners * [fx, fy]
        shapes = shapely.polygons(np.concatenate([corners, corners[:, :1]], axis=1))
        more = dict(zip(ORIENTED, [*(boxes.centres * [fx, fy]).T, *_turned(boxes, fx, fy)], strict=True))
    else:
        shapes, more = shapely.box(xmin, ymin, xmax, ymax), {}
    columns = dict(zip(HULL, (xmin, ymin, xmax, ymax), strict=True)) | more
    columns |= {"class": boxes.classes, "score": boxes.scores}
    return objects_batch(columns, first, metadata, shapes)


def _turned(boxes: Boxes, fx: float, fy: float) -> tuple[Any, Any, Any]:
    """Sides and angle in level-0 pixels."""
    width, height, angle = boxes.places[:, 2:].T
    if fx == fy:
        # To the bit what the detector said, not what becomes of it by way of sine and cosine.
        return width * fx, height * fx, angle
    along, across = (axis * [fx, fy] for axis in boxes.axes)
    return np.hypot(*along.T) * width, np.hypot(*across.T) * height, np.arctan2(along[:, 1], along[:, 0])


def objects_batch(columns: dict[str, Any], first: int, metadata: ObjectsMetadata, shapes: Any) -> Any:
    """Rows of the final table.

    Parameters
    ----------
    columns : dict
        ``class`` int32 and ``score`` float32, box and measurements float64; arrays of numpy or pyarrow, shape (n,).
    first : int
        Id of the first row.
    metadata : ObjectsMetadata
    shapes : ndarray of shapely geometries, shape (n,)
        In level-0 pixels.
    """
    import pyarrow as pa

    classes = np.asarray(columns["class"], np.int32)
    more = tuple(name for name in columns if name not in (*HULL, "class", "score"))
    known, number = np.unique(classes, return_inverse=True)
    names = pa.array([metadata.name_of(int(k)) for k in known], pa.string()).take(pa.array(number.reshape(-1)))
    geometry, bbox = geometry_columns(shapes, metadata.transform)
    arrays = [
        pa.array(np.arange(first, first + len(classes), dtype=np.uint64)),
        pa.array(classes, pa.int32()),
        names,
        _array(columns["score"], pa.float32()),
        *(_array(columns[name], pa.float64()) for name in (*HULL, *more)),
        geometry,
        bbox,
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=objects_schema(more))


def _array(values: Any, kind: Any) -> Any:
    """One array of pyarrow."""
    import pyarrow as pa

    if isinstance(values, pa.ChunkedArray):
        return values.combine_chunks()
    return values if isinstance(values, pa.Array) else pa.array(np.ascontiguousarray(values), kind)


def write_objects(
    store: Store, metadata: ObjectsMetadata, more: tuple[str, ...], batches: Iterable[Any], oversized: Iterator[int]
) -> ShardReceipt:
    """Write ``objects.parquet``.

    Parameters
    ----------
    store : Store
        The run directory.
    metadata : ObjectsMetadata
    more : tuple of str
        Columns between the box and the geometry.
    batches : iterable of pyarrow.RecordBatch
    oversized : iterator of int
        Asked once, after the last batch: how many objects were larger than a tile can tell.

    Raises
    ------
    StorageError
        The storage is full or went away.
    """
    with _Hashing(store.writer(OBJECTS)) as hashing:
        with ObjectsWriter(store_sink(hashing), objects_schema(more), metadata) as writer:
            for batch in batches:
                writer.write(batch)
            writer.finish(next(oversized))
        hashing.finish()
    return ShardReceipt(hashing.nbytes, hashing.digest, False)


class _Hashing:
    """A `Writer` that knows what it wrote."""

    def __init__(self, writer: Writer) -> None:
        self._writer, self._sha = writer, hashlib.sha256()
        self.nbytes = 0

    @property
    def digest(self) -> str:
        return self._sha.hexdigest()

    def write(self, content: bytes | memoryview) -> None:
        self._sha.update(content)
        self.nbytes += len(content)
        self._writer.write(content)

    def finish(self) -> None:
        self._writer.finish()

    def abandon(self) -> None:
        self._writer.abandon()

    def __enter__(self) -> Self:
        self._writer.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.__exit__(kind, error, trace)


def check_columns(where: str, known: list[str], found: list[str]) -> None:
    """See that the columns of all parts agree.

    Raises
    ------
    BlockError
        A model gave turned boxes for some tiles and others elsewhere.
    """
    if known != found:
        raise BlockError(where, expected=f"columns {known}, as in other parts", found=str(found))
