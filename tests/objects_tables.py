"""Tables of objects for tests: boxes and outlines at random places, in order of ymin, xmin."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import shapely

from gigatile.outputs.objects_file import ObjectsWriter, geometry_columns
from gigatile.outputs.objects_schema import ObjectsMetadata, measurement_columns, objects_schema

MEASURED = measurement_columns(("red", "green"))
HOLE = shapely.Polygon([(0, 0), (9, 0), (9, 9), (0, 9)], [[(2, 2), (2, 5), (6, 5), (6, 2)]])
PARTS = shapely.MultiPolygon([shapely.box(0, 0, 3, 3), shapely.box(4, 4, 7, 9)])
UTM = (10.0, 0.0, 500_000.0, 0.0, -10.0, 5_000_000.0)
NAMES, COLOURS = ("cell", 'odd "<&>" ünit, x'), ("#ff8800", "#00aaff")


def shapes(count: int, side: float, seed: int = 0) -> np.ndarray:
    """Boxes, some with a hole, some of two parts, in order of ymin, xmin; shape (count,)."""
    rng = np.random.default_rng(seed)
    places = np.floor(rng.uniform(0, side - 10, (count, 2)))
    sizes = rng.integers(3, 10, (count, 2))
    geometries = shapely.box(*places.T, *(places + sizes).T)
    for kind, offset in ((HOLE, 1), (PARTS, 5)):
        for at in range(offset, count, 16):
            geometries[at] = shapely.transform(kind, lambda xy, at=at: xy + places[at])
    bounds = shapely.bounds(geometries).reshape(-1, 4)
    return geometries[np.lexsort((bounds[:, 0], bounds[:, 1]))]


def table(geometries: np.ndarray, metadata: ObjectsMetadata, seed: int = 0, measured: bool = True) -> pa.Table:
    """All columns for shapes in level-0 pixels; every seventh score is missing, one measurement is NaN."""
    rng, count = np.random.default_rng(seed), len(geometries)
    numbers = rng.integers(0, 3, count)
    scores = pa.array(rng.random(count, np.float32), mask=np.arange(count) % 7 == 3)
    bounds = shapely.bounds(geometries).reshape(-1, 4)
    geometry, bbox = geometry_columns(geometries, metadata.transform)
    columns: dict[str, Any] = {
        "id": pa.array(np.arange(1, count + 1, dtype=np.uint64)),
        "class": pa.array(numbers, pa.int32()),
        "class_name": pa.array([metadata.name_of(number) for number in numbers], pa.string()),
        "score": scores,
        **dict(zip(("xmin", "ymin", "xmax", "ymax"), bounds.T, strict=True)),
        "geometry": geometry,
        "bbox": bbox,
    }
    if measured:
        centres = shapely.get_coordinates(shapely.centroid(geometries)).reshape(-1, 2)
        values = rng.random((4, count))
        values[1, :1] = np.nan
        columns |= dict(zip(MEASURED, (shapely.area(geometries), *centres.T, *values), strict=True))
    schema = objects_schema(MEASURED if measured else ())
    return pa.table([columns[name] for name in schema.names], schema=schema)


def write_table(sink: Any, rows: pa.Table, metadata: ObjectsMetadata, batch: int = 1000, oversized: int = 0) -> Any:
    """Write a table in batches of some length; returns the counts."""
    with ObjectsWriter(sink, rows.schema, metadata) as writer:
        for piece in rows.to_batches(max_chunksize=batch):
            writer.write(piece)
        return writer.finish(oversized)


def write_run(folder: Path, made: Path, rows: pa.Table, metadata: ObjectsMetadata) -> Path:
    """A run directory that holds a table, with the run.json of a small run that was made; returns the folder."""
    document = json.loads((made / "run.json").read_text())
    document["plan"]["task"] = metadata.task
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(document))
    write_table(folder / "objects.parquet", rows, metadata)
    return folder
