"""The objects of a finished run as exports see them: a stream of rows, and what is known of all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gigatile.errors import UsageError
from gigatile.exports.class_polygons import class_polygons, named_classes, polygons_metadata
from gigatile.exports.result import Colour, Result, complete_document
from gigatile.outputs.objects_schema import ObjectsMetadata, arrow
from gigatile.runs.directory import RunDirectory
from gigatile.runs.objects import ObjectsFile, open_objects

Geometries = np.ndarray[Any, np.dtype[np.object_]]
_OTHER_COLOURS = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
)
"""Of classes that the run gives none, in turn: told apart by colour-blind people, too (Okabe and Ito, 2008)."""
_MOST_CLASSES = 2**31
"""Classes are int32."""
_PIXEL_DECIMALS = 3
"""Coordinates are written to a thousandth of a pixel."""


@dataclass(frozen=True, slots=True)
class ObjectTable:
    """The objects of one complete run, or the polygons of its class map."""

    where: str
    """For messages."""
    image: str
    """File name of the image, without its folder."""
    metadata: ObjectsMetadata
    schema: Any
    """pyarrow's, without metadata; see `objects_schema`."""
    geometry_types: tuple[str, ...]
    """Kinds of geometry in it; empty where nobody knows before all rows are read."""
    oversized: int
    """See `Counts.oversized`."""
    batches: Callable[[], Iterator[Any]]
    """Reads the rows from the first on, as ``pyarrow.RecordBatch`` of the schema, in order of their ids."""

    def label_of(self, number: int) -> str:
        """Name of a class; of one without a name, its number in words."""
        return self.metadata.name_of(number) or f"class {number}"

    def colour_of(self, number: int) -> Colour:
        """Colour of a class: the run's, or another one."""
        known = self.metadata.class_colors
        if 0 <= number < len(known):
            red, green, blue = bytes.fromhex(known[number].removeprefix("#"))
            return red, green, blue
        return _OTHER_COLOURS[number % len(_OTHER_COLOURS)]

    @property
    def decimals(self) -> int:
        """Digits after the point that tell a thousandth of a pixel in the coordinates of the geometry."""
        if self.metadata.transform is None:
            return _PIXEL_DECIMALS
        a, b, _, d, e, _ = self.metadata.transform
        side = min(np.hypot(a, d), np.hypot(b, e))
        return max(0, _PIXEL_DECIMALS - int(np.floor(np.log10(side))))


def object_table(directory: str, classes: Sequence[str] = (), tolerance: float | None = None) -> ObjectTable:
    """The objects of a run, or the polygons of its class map.

    Parameters
    ----------
    directory : str
        A path or URL.
    classes : sequence of str
        Names or numbers of those that are wanted; none: all.
    tolerance : float, optional
        Pixels by which polygons of a class map are simplified.

    Raises
    ------
    RunRefused
        There is no complete run in it.
    UsageError
        A package is missing; there is no such class; the run is a segmentation that is no class map; objects are to be
        simplified.
    BlockError, StorageError
        The table cannot be read.
    """
    _check_packages()
    run = RunDirectory.at(directory, durable=False)
    document = complete_document(run)
    image = str(document["input"]["path"]).replace("\\", "/").rstrip("/").rpartition("/")[2]
    if document["plan"].get("task", "segment") == "segment":
        return _class_map(Result.of(directory), image, classes, tolerance)
    if tolerance is not None:
        raise UsageError("--simplify", expected="a class map", found="a table of objects", fix="Leave it out.")
    file = open_objects(directory)
    numbers = _class_numbers(file, classes)
    return ObjectTable(
        where=file.where,
        image=image,
        metadata=file.metadata,
        schema=file.schema.remove_metadata(),
        geometry_types=file.geometry_types,
        oversized=file.counts.oversized,
        batches=(lambda: _of_classes(file.batches(), numbers)) if numbers else file.batches,
    )


def _check_packages() -> None:
    """Refuse before anything is written: all formats but GeoParquet need shapes, too."""
    arrow()
    try:
        import shapely  # noqa: F401
    except ImportError as error:
        raise UsageError(
            "export",
            expected="the optional package shapely, which knows polygons",
            found=str(error),
            fix="Type: pip install 'gigatile[objects]'",
        ) from error


def _class_map(result: Result, image: str, classes: Sequence[str], tolerance: float | None) -> ObjectTable:
    schema = class_polygons(result, (), tolerance)[0]  # refuses what is no class map, before classes are looked up
    numbers = named_classes(result, classes)
    return ObjectTable(
        where=result.store.name,
        image=image,
        metadata=polygons_metadata(result),
        schema=schema,
        geometry_types=("Polygon",),
        oversized=0,
        batches=lambda: class_polygons(result, numbers, tolerance)[1],
    )


def _class_numbers(file: ObjectsFile, words: Sequence[str]) -> tuple[int, ...]:
    """Classes of a table by their names or numbers."""
    names = file.metadata.class_names
    unknown = [word for word in words if word not in names and not (word.isdecimal() and int(word) < _MOST_CLASSES)]
    if unknown:
        listed = f"names ({', '.join(names)}) or numbers" if names else f"numbers below {_MOST_CLASSES:,}"
        fix = "`gigatile status` on the run lists the classes that were found."
        raise UsageError("--classes", expected=listed, found=unknown[0], fix=fix)
    named = {word: [number for number, name in enumerate(names) if name == word] for word in words}
    return tuple(dict.fromkeys(number for word in words for number in named[word] or [int(word)]))


def _of_classes(batches: Iterator[Any], numbers: Sequence[int]) -> Iterator[Any]:
    import pyarrow.compute as pc

    wanted = arrow().array(numbers, arrow().int32())
    for batch in batches:
        yield batch.filter(pc.is_in(batch.column("class"), wanted))


def shapes_of(batch: Any) -> Geometries:
    """The geometry of a batch as shapely's, shape (rows,)."""
    import shapely

    shapes: Geometries = shapely.from_wkb(batch.column("geometry").to_numpy(zero_copy_only=False))
    return shapes


def rounded(shapes: Geometries, decimals: int) -> Geometries:
    """Shapes with coordinates of so many digits after the point; shells run as RFC 7946 wants them: counter-clockwise
    with y up."""
    import shapely

    near = shapely.transform(shapes, lambda xy: np.round(xy, decimals))
    oriented: Geometries = shapely.orient_polygons(near, exterior_cw=False)
    return oriented


def short_numbers(column: Any) -> list[float | None]:
    """A column of floats without the digits that only come from binary fractions; None for missing and NaN.

    Seven significant digits of float32, nine of float64: 1e-9 of its value, as much as anybody measures.
    """
    values = column.to_numpy(zero_copy_only=False)
    digits = 7 if values.dtype == np.float32 else 9
    known = np.isfinite(values.astype(np.float64))
    return [
        float(f"{value:.{digits}g}") if good else None
        for value, good in zip(values.tolist(), known.tolist(), strict=True)
    ]
