"""What the words of a command line point at, checked before anything heavy is imported."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from gigatile.cli.options import RunOptions, read_values
from gigatile.cli.values import Given, Where
from gigatile.cohorts.inputs import InputEntry, Inputs, check_literal, nearby, resolve_inputs
from gigatile.cohorts.names import Known, is_url
from gigatile.errors import ModelError, RunRefused
from gigatile.storage.open import open_store

DirectoryKind = Literal["run", "cohort"]
_MARKERS: tuple[tuple[str, DirectoryKind], ...] = (("run.json", "run"), ("summary.json", "cohort"))


def check_image(text: str) -> None:
    """Refuse what is no single image; a URL is not asked for, opening it will tell.

    Raises
    ------
    UsageError
        A directory, a pattern, stacked files, a URL of an unknown scheme.
    ImageError
        There is nothing at that path.
    """
    check_literal(text)


def read_inputs(images: Sequence[str], listing: str | None, known: Sequence[Known] = ()) -> Inputs:
    """The images of a command line, each with its name; the options that a list gives to some are checked as well.

    Parameters
    ----------
    images, listing, known
        As for `gigatile.cohorts.inputs.resolve_inputs`.

    Raises
    ------
    UsageError, ImageError
        As there, or an option in the list has a value that it does not take, or is not available yet: names the line.
    """
    inputs = resolve_inputs(images, listing, known)
    for entry in inputs.entries:
        if entry.options:
            read_values(_given(entry))
    return inputs


def options_of(options: RunOptions, entry: InputEntry) -> RunOptions:
    """The request for one of its images; what a list says of an image comes before what is said for all."""
    values = read_values(_given(entry))
    # As on the command line over a pipeline file: an option displaces the one that excludes it.
    displaced: dict[str, Any] = {"pixel_size": None} if "level" in values else {}
    return replace(options, image=entry.image, **displaced, **values)


def _given(entry: InputEntry) -> dict[str, Given]:
    return {name: Given(text, Where(name, entry.origin)) for name, text in entry.options.items()}


def check_model(text: str) -> None:
    """Refuse a model file that is not there; ``package.module:name`` is looked up when it is loaded."""
    file, colon, _ = text.rpartition(":")
    path = Path(file) if colon and file.endswith(".py") else Path(text)
    is_file = path.suffix.lower() in {
        ".onnx",
        ".pt",
        ".pt2",
        ".pth",
        ".ts",
        ".torchscript",
        ".py",
        ".yaml",
        ".yml",
        ".json",
    }
    if is_file and not path.exists():
        raise ModelError(text, expected="a model file", found="nothing at that path", fix=nearby(path))


def check_run_directory(text: str) -> DirectoryKind:
    """Whether a path or URL is the directory of one run or of a cohort.

    Raises
    ------
    RunRefused
        It is neither.
    """
    fix = "Name the DIR of 'gigatile run -o DIR'."
    path = Path(text)
    if not is_url(text):
        if not path.exists():
            raise RunRefused(text, expected="the directory of a run", found="nothing at that path", fix=nearby(path))
        if not path.is_dir():
            raise RunRefused(text, expected="the directory of a run", found="a file", fix=fix)
    store = open_store(text)
    for name, kind in _MARKERS:
        if store.size(name) is not None:
            return kind
    raise RunRefused(store.name, expected="the directory of a run", found="no run.json in it", fix=fix)
