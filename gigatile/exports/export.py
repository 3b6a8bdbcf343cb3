"""Exporting a run, or each image of a cohort, to one of the formats: its pixels, or its objects."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from gigatile.cohorts.summary import Summary
from gigatile.errors import BlockError, UsageError
from gigatile.exports.object_table import ObjectTable, object_table
from gigatile.exports.result import Result
from gigatile.outputs.objects_schema import OBJECTS
from gigatile.runs.directory import RunDirectory
from gigatile.storage.open import open_store

Writer = Callable[[Result, Path, str | None], None]
ObjectWriter = Callable[[ObjectTable, Path], None]


class _Format(NamedTuple):
    """Where a format is written, and how its files are called."""

    module: str
    function: str
    suffix: str


FORMATS = {
    "cog": _Format("cog", "export_cog", ".tif"),
    "ome-tiff": _Format("ome_tiff", "export_ome_tiff", ".ome.tif"),
    "ome-zarr-0.4": _Format("ome_zarr_v04", "export_ome_zarr_v04", ".ome.zarr"),
}
"""The formats of pixels, by the word after ``--to``."""
OBJECT_FORMATS = {
    "geojson": _Format("geojson", "export_geojson", ".geojson"),
    "geoparquet": _Format("geoparquet", "export_geoparquet", ".parquet"),
    "flatgeobuf": _Format("flatgeobuf", "export_flatgeobuf", ".fgb"),
    "csv": _Format("csv_table", "export_csv", ".csv"),
    "coco": _Format("coco", "export_coco", ".json"),
}
"""The formats of objects."""
_ALL = FORMATS | OBJECT_FORMATS


@dataclass(frozen=True, slots=True)
class Exported:
    """What became of one image."""

    name: str
    """Of the image in its cohort; empty for a single run."""
    path: Path
    problem: str = ""
    """Why there is no such file."""


def export_run(
    directory: str,
    kind: str,
    path: Path,
    dtype: str | None,
    classes: Sequence[str] = (),
    *,
    tolerance: float | None = None,
) -> Exported:
    """Export the result of one run.

    Parameters
    ----------
    directory : str
        A path or URL.
    kind : str
        One of `FORMATS` or `OBJECT_FORMATS`.
    path : Path
        What appears, whole, at the end.
    dtype : {'uint8', None}
        uint8 for probabilities as ``round(254 * p)``.
    classes : sequence of str
        Names or numbers of the classes whose objects or polygons are wanted; none: all.
    tolerance : float, optional
        Pixels of the result by which polygons of a class map are simplified.

    Raises
    ------
    UsageError
        The result is not complete, or the format cannot hold it.
    BlockError, StorageError
        The result cannot be read, or the file not written.
    """
    inside = RunDirectory.at(directory, durable=False)
    # The folder of the run may hold exports beside the result, but none goes into it or replaces its table.
    own = () if inside.store.local is None else (inside.store.local / OBJECTS, inside.prediction.local)
    if any(place is not None and path.is_relative_to(place) for place in own):
        raise UsageError(str(path), expected="a place beside the result", found="one inside it", fix="Choose another.")
    if kind in FORMATS:
        for option, given in (("--classes", classes), ("--simplify", tolerance)):
            if given:
                raise UsageError(option, expected="a format of objects", found=f"--to {kind}", fix="Leave it out.")
        pixels: Writer = _function(FORMATS[kind])
        pixels(Result.of(directory), path, dtype)
    else:
        if dtype is not None:
            raise UsageError("--dtype", expected="a format of pixels", found=f"--to {kind}", fix="Leave it out.")
        objects: ObjectWriter = _function(OBJECT_FORMATS[kind])
        objects(object_table(directory, classes, tolerance), path)
    return Exported("", path)


def export_cohort(
    directory: str,
    kind: str,
    folder: Path,
    dtype: str | None,
    classes: Sequence[str] = (),
    *,
    tolerance: float | None = None,
) -> Iterator[Exported]:
    """Export each image of a cohort to a file of its name in a folder, one after the other.

    Those that cannot be exported are told with their problem, and the others go on.

    Raises
    ------
    StorageError
        The disk is full, or a storage does not answer.
    """
    store = open_store(directory, durable=False)
    for row in Summary.open(store).rows:
        path = folder / f"{row.name}{_ALL[kind].suffix}"
        problem = ""
        try:
            export_run(store.where(row.name), kind, path, dtype, classes, tolerance=tolerance)
        except (UsageError, BlockError) as error:
            problem = str(error)
        yield Exported(row.name, path, problem)


def _function(known: _Format) -> Any:
    return getattr(import_module(f"gigatile.exports.{known.module}"), known.function)
