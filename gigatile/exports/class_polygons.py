"""Class maps as polygons: one row for each 4-connected region of one class.

::

    prediction.zarr ──windows──▶ regions ──strips──▶ record batches, columns of `objects_schema` and "area"

Every class becomes polygons, class 0 like any other, unless some are chosen; invalid pixels (the fill value) become
none. Polygons run along pixel edges: they fill the pixels of the map and nothing else, and neighbours share edges.

Rows are in order of the regions' last pixels (the lowest row, and in it the rightmost pixel), and numbered from 1 in
that order: it is the same for any window and any block, and a row can be written as soon as its region ends.

Memory bound
------------
That of `gigatile.objects.regions` for windows of about `WINDOW_SIDE`: 0.3 GiB and 5 s of one core for 10,000 x 10,000
px with 300,000 regions of 15.8 million vertices; 0.45 GiB with one polygon of 3.6 million vertices around 75,000
others. A batch has at most `ROWS` rows, and at most `VERTICES` unless it is one row.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from gigatile.errors import UsageError
from gigatile.exports.result import Result
from gigatile.images.resample import FINEST_RATIO
from gigatile.objects.regions import Regions, regions
from gigatile.objects.simplify import check_tolerance, check_vertices, simplified
from gigatile.outputs.objects_file import geometry_columns
from gigatile.outputs.objects_schema import BOX, ObjectsMetadata, arrow, objects_schema
from gigatile.outputs.reading import LevelReader
from gigatile.tiling.region import Region

WINDOW_SIDE = 1024
"""Larger windows took more memory and no less time: 0.31 GiB with 1,024 x 1,024 px, 0.44 with 2,048 x 2,048."""
ROWS = 65_536
VERTICES = 4_000_000
"""64 MB of coordinates."""
_LARGEST = (1 << 31) // 16 - 4096
"""Vertices of a polygon whose WKB nearly has 2 GiB, beyond which Arrow's binary columns do not reach."""


def class_polygons(
    result: Result, classes: Sequence[int] = (), tolerance: float | None = None
) -> tuple[Any, Iterator[Any]]:
    """The regions of a class map as rows of a table.

    Parameters
    ----------
    result : Result
    classes : sequence of int
        Those that become polygons; none named: all.
    tolerance : float, optional
        Pixels of the result: see `gigatile.objects.simplify.simplified`. Then all polygons are held at once, the boxes
        are those of the simplified ones, and the areas those of the pixels.

    Returns
    -------
    schema : pyarrow.Schema
        `objects_schema` with the column ``area``: level-0 pixels squared. ``score`` is null.
    batches : iterator of pyarrow.RecordBatch
        ``xmin`` to ``ymax`` in level-0 pixels; geometry in level-0 pixels, or in the coordinates of the transform where
        there is one: shells counter-clockwise where x points right and y up, holes clockwise.

    Raises
    ------
    UsageError
        The result is no class map; a class is not one that it can have; a package is missing; or, from the iterator, a
        polygon has 134 million vertices, or those to be simplified have more than `MOST_VERTICES` together.
    BlockError, StorageError
        From the iterator: the result cannot be read.
    """
    layout = result.layouts[0]
    if result.output != "classes":
        raise UsageError(
            result.store.where("0"),
            expected="a class map",
            found=result.output,
            fix="Run with --output classes; --to cog, ome-tiff and ome-zarr-0.4 hold channels.",
        )
    wanted = _lookup(layout.dtype, int(layout.fill), classes)
    schema = objects_schema(("area",))
    window = tuple(chunk * max(1, round(WINDOW_SIDE / chunk)) for chunk in layout.chunk)
    reader = LevelReader(result.store, 0, layout)

    def read(region: Region) -> npt.NDArray[np.int32]:
        return wanted[reader.read(region, None)]

    strips = regions(layout.shape, (window[0], window[1]), read)
    if tolerance is not None:
        check_tolerance(tolerance)
        strips = _simplified(strips, tolerance)
    return schema, _batches(strips, result, schema)


def polygons_metadata(result: Result) -> ObjectsMetadata:
    """What is known of the polygons of a class map, whichever there are.

    The shape is that of the grid of the result in level-0 pixels: up to one pixel of the result more than the image.
    """
    y, x = level_0_factors(result)
    height, width = result.layouts[0].shape
    return ObjectsMetadata(
        task="segment",
        shape=(math.ceil(height * y), math.ceil(width * x)),
        class_names=result.classes,
        class_colors=tuple(f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in result.palette),
        pixel_size=None if result.pixel_size is None else result.pixel_size.scaled(float(1 / y), float(1 / x)),
        crs=result.crs if result.transform is not None else None,
        transform=_level_0_transform(result),
    )


def named_classes(result: Result, words: Sequence[str]) -> tuple[int, ...]:
    """Classes by their names or numbers.

    Raises
    ------
    UsageError
        There is no such class: names those there are.
    """
    numbers = {str(number): number for number in range(int(np.iinfo(result.layouts[0].dtype).max))}
    numbers |= {name: number for number, name in enumerate(result.classes)}
    unknown = [word for word in words if word not in numbers]
    if unknown:
        names = ", ".join(result.classes)
        raise UsageError("classes", expected=f"names ({names}) or numbers" if names else "numbers", found=unknown[0])
    return tuple(dict.fromkeys(numbers[word] for word in words))


def level_0_factors(result: Result) -> tuple[Fraction, Fraction]:
    """Level-0 pixels of the image in a pixel of the result, along y and x: 2 where it has half the resolution.

    From the NGFF metadata, whose translation is ``(p - p_0) / 2`` of the pixel sizes of the result and the image.
    """
    scale, translation = (
        step[kind][-2:]
        for step, kind in zip(
            result.multiscale["datasets"][0]["coordinateTransformations"], ("scale", "translation"), strict=True
        )
    )
    y, x = (Fraction(p / (p - 2 * t)).limit_denominator(FINEST_RATIO) for p, t in zip(scale, translation, strict=True))
    return y, x


def _level_0_transform(result: Result) -> tuple[float, float, float, float, float, float] | None:
    if result.transform is None:
        return None
    y, x = (float(factor) for factor in level_0_factors(result))
    a, b, c, d, e, f = result.transform
    return a / x, b / y, c, d / x, e / y, f


def _lookup(dtype: np.dtype[Any], fill: int, classes: Sequence[int]) -> npt.NDArray[np.int32]:
    """For each value of a map its class plus one, or 0 where it makes no polygon."""
    values = np.arange(int(np.iinfo(dtype).max) + 1, dtype=np.int32)
    wrong = [number for number in classes if number == fill or not 0 <= number < len(values)]
    if wrong:
        raise UsageError("classes", expected=f"numbers from 0 to {fill - 1}", found=str(wrong[0]))
    kept = np.isin(values, list(classes)) if classes else values != fill
    return np.where(kept, values + 1, 0).astype(np.int32)


def _simplified(strips: Iterator[Regions], tolerance: float) -> Iterator[Regions]:
    """All regions at once, their edges simplified together."""
    import shapely

    held: list[Regions] = []
    vertices = 0
    for strip in strips:
        held.append(strip)
        vertices += int(shapely.get_num_coordinates(strip.polygons).sum())
        check_vertices(vertices)
    if held:
        values, pixels = (np.concatenate([getattr(strip, name) for strip in held]) for name in ("values", "pixels"))
        polygons = np.concatenate([strip.polygons for strip in held])
        yield Regions(values, pixels, simplified(polygons, tolerance))


def _batches(strips: Iterator[Regions], result: Result, schema: Any) -> Iterator[Any]:
    import shapely

    written = 0
    for strip in strips:
        vertices = shapely.get_num_coordinates(strip.polygons)
        if vertices.max() > _LARGEST:
            raise UsageError(
                result.store.where("0"),
                expected=f"polygons of at most {_LARGEST:,} vertices",
                found=f"one of {vertices.max():,}",
                fix="Choose other classes, or export pixels (--to cog).",
            )
        ends = np.cumsum(vertices)
        start = 0
        while start < len(strip):
            before = int(ends[start - 1]) if start else 0
            stop = int(np.searchsorted(ends, before + VERTICES, side="right"))
            stop = min(max(stop, start + 1), start + ROWS)
            part = Regions(strip.values[start:stop], strip.pixels[start:stop], strip.polygons[start:stop])
            yield _rows(part, result, written, schema)
            written += len(part)
            start = stop


def _rows(part: Regions, result: Result, before: int, schema: Any) -> Any:
    """One batch; `before` rows came before it."""
    import shapely

    pa = arrow()
    y, x = (float(factor) for factor in level_0_factors(result))
    placed = part.polygons
    if (y, x) != (1.0, 1.0):
        placed = shapely.transform(placed, lambda places: places * (x, y))
    transform = _level_0_transform(result)
    bounds = shapely.bounds(placed)
    geometry, bbox = geometry_columns(placed, transform)
    numbers = part.values - 1
    names = result.classes
    columns = {
        "id": pa.array(np.arange(before + 1, before + 1 + len(part), dtype=np.uint64)),
        "class": pa.array(numbers.astype(np.int32)),
        "class_name": pa.array([names[number] if number < len(names) else None for number in numbers], pa.string()),
        "score": pa.nulls(len(part), pa.float32()),
        **{name: pa.array(side) for name, side in zip(BOX, bounds.T, strict=True)},
        "area": pa.array(part.pixels * (y * x)),
        "geometry": geometry,
        "bbox": bbox,
    }
    return pa.RecordBatch.from_arrays([columns[name] for name in schema.names], schema=schema)
