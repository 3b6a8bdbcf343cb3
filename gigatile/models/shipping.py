"""Bringing a model's files to workers that do not have them: by their content, through the run directory.

::

    here       files ──▶ DIR/models/<digest>/<name>, of a cohort the cohort's DIR
    a worker   the planned path, if it has the planned content; else fetched from there into the cache, and checked
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from gigatile.errors import ModelError
from gigatile.machine import cache_folder
from gigatile.storage.store import Store

M = TypeVar("M")
PIECE_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class Shipment:
    """Where the files of a model lie for those who do not have them."""

    store: Store
    digest: str
    """Of the model."""
    names: tuple[str, ...]
    """File names; the first is the model, the others lie beside it."""


_OFFERED: dict[str, Shipment] = {}


def ship(files: tuple[Path, ...], digest: str, store: Store) -> Shipment:
    """Put the files of a model into a store, unless they are there already.

    Raises
    ------
    StorageError
        The store cannot be written.
    ModelError
        A file cannot be read any more.
    """
    for file in files:
        key = f"{digest}/{file.name}"
        try:
            if store.size(key) == file.stat().st_size:
                continue
            with file.open("rb") as content, store.writer(key) as writer:
                while piece := content.read(PIECE_BYTES):
                    writer.write(piece)
                writer.finish()
        except FileNotFoundError as error:
            raise ModelError(
                f"model {file}", expected="the file that was planned with", found="none any more"
            ) from error
    return Shipment(store, digest, tuple(file.name for file in files))


def offer(shipment: Shipment) -> None:
    """On a worker: tell `arrived` where the files of a model can be had."""
    _OFFERED[shipment.digest] = shipment


def arrived(digest: str, path: Path, load: Callable[[Path], M]) -> M:
    """On a worker: load the model from its planned path or, where that fails, from its shipment.

    Parameters
    ----------
    digest : str
        Of the model; `load` refuses another content.
    path : Path
        Where it lay when the run was planned.
    load : callable
        Loads it from a path.

    Raises
    ------
    ModelError
        It can be loaded from neither.
    StorageError
        The shipment cannot be read.
    """
    try:
        return load(path)
    except ModelError:
        shipment = _OFFERED.get(digest)
        if shipment is None:
            raise
    folder = cache_folder() / "models" / digest
    try:
        return load(_fetched(shipment, folder))
    except ModelError:
        # A file of the cache may have been harmed since: it is brought once more, and judged again.
        for name in shipment.names:
            (folder / name).unlink(missing_ok=True)
    return load(_fetched(shipment, folder))


def _fetched(shipment: Shipment, folder: Path) -> Path:
    """The model's path in the cache, once all its files are there.

    Memory bound
    ------------
    `PIECE_BYTES`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in shipment.names:
        target = folder / name
        size = shipment.store.size(f"{shipment.digest}/{name}")
        if size is None:
            raise ModelError(
                f"model {name}",
                expected=f"its content in {shipment.store.name}",
                found="nothing there",
                fix="See that this worker reaches the run directory, and repeat the command.",
            )
        if target.is_file() and target.stat().st_size == size:
            continue
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            part = Path(scratch, name)
            with part.open("wb") as file:
                for offset in range(0, size, PIECE_BYTES):
                    file.write(shipment.store.read_range(f"{shipment.digest}/{name}", offset, PIECE_BYTES))
            # Several processes of one machine may fetch it: each brings the same content.
            part.replace(target)
    return folder / shipment.names[0]
