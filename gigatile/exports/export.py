"""Exporting a run, or each image of a cohort, to one of the formats."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from gigatile.cohorts.summary import Summary
from gigatile.errors import BlockError, UsageError
from gigatile.exports.result import Result
from gigatile.storage.open import open_store

Writer = Callable[[Result, Path, str | None], None]


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
"""The formats that are built, by the word after ``--to``."""


@dataclass(frozen=True, slots=True)
class Exported:
    """What became of one image."""

    name: str
    """Of the image in its cohort; empty for a single run."""
    path: Path
    problem: str = ""
    """Why there is no such file."""


def export_run(directory: str, kind: str, path: Path, dtype: str | None) -> Exported:
    """Export the result of one run.

    Parameters
    ----------
    directory : str
        A path or URL.
    kind : str
        One of `FORMATS`.
    path : Path
        What appears, whole, at the end.
    dtype : {'uint8', None}
        uint8 for probabilities as ``round(254 * p)``.

    Raises
    ------
    UsageError
        The result is not complete, or the format cannot hold it.
    BlockError, StorageError
        The result cannot be read, or the file not written.
    """
    result = Result.of(directory)
    inside = result.store.local
    if inside is not None and path.is_relative_to(inside):
        raise UsageError(str(path), expected="a place beside the result", found="one inside it", fix="Choose another.")
    _writer(kind)(result, path, dtype)
    return Exported("", path)


def export_cohort(directory: str, kind: str, folder: Path, dtype: str | None) -> Iterator[Exported]:
    """Export each image of a cohort to a file of its name in a folder, one after the other.

    Those that cannot be exported are told with their problem, and the others go on.

    Raises
    ------
    StorageError
        The disk is full, or a storage does not answer.
    """
    store = open_store(directory, durable=False)
    for row in Summary.open(store).rows:
        path = folder / f"{row.name}{FORMATS[kind].suffix}"
        problem = ""
        try:
            export_run(store.where(row.name), kind, path, dtype)
        except (UsageError, BlockError) as error:
            problem = str(error)
        yield Exported(row.name, path, problem)


def _writer(kind: str) -> Writer:
    known = FORMATS[kind]
    writer: Writer = getattr(import_module(f"gigatile.exports.{known.module}"), known.function)
    return writer
