"""Tiles through the model in batches, as full as the memory allows, in the order of the tiles."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from threading import Event, Lock
from typing import Any, Literal

import numpy as np

from gigatile.engine.pipes import Clock
from gigatile.engine.seams import SeamTally
from gigatile.errors import BlockError, Cancelled, ModelOutOfMemory
from gigatile.models.model import LoadedModel
from gigatile.tiling.tiling import Grid

Array = np.ndarray[Any, Any]
Gives = Literal["maps", "boxes", "labels"]
"""(k, y, x) of each tile, rows of boxes, or (y, x) labels."""


class BatchLimit:
    """How many tiles the memory holds at once, as far as that was found out. Safe to call from many threads."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._most: int | None = None

    def of(self, planned: int) -> int:
        """The batch to use instead of the one that was planned."""
        with self._lock:
            return planned if self._most is None else min(planned, self._most)

    def too_many(self, tiles: int) -> None:
        """So many tiles, 2 or more, did not fit: half of them is the limit, if it was not lower."""
        with self._lock:
            half = tiles // 2
            self._most = half if self._most is None else min(self._most, half)


@dataclass(frozen=True, slots=True)
class Inference:
    """How tiles are inferred; the same for every region of a run."""

    grid: Grid
    model: LoadedModel
    channels_out: int
    """Of maps."""
    dtype: np.dtype[Any]
    """Of maps."""
    batch: int
    """Tiles per call."""
    pads_batches: bool
    """Whether a last, smaller batch is filled up with zeros, because the model's bits depend on its size."""
    gives: Gives = "maps"
    """What the model makes of a tile."""
    limit: BatchLimit = field(default_factory=BatchLimit)
    """What was learnt of the memory; for all regions, and for all passes that share the model."""


@dataclass(slots=True)
class Tally:
    """What was done for one region."""

    tiles: int = 0
    """Tiles inferred."""
    skipped: int = 0
    """Tiles without a single pixel to keep."""
    seams: SeamTally = field(default_factory=SeamTally)
    """What neighbouring tiles disagreed."""


@dataclass(frozen=True, slots=True)
class Progress:
    """What a region reports, and how it is told to stop."""

    clock: Clock
    tally: Tally
    stop: Event
    on_tiles: Callable[[int], None]
    """Told the number of tiles after each batch."""


@dataclass(frozen=True, slots=True)
class Tile:
    """One tile on its way to the model."""

    row: int
    col: int
    pixels: Array | None
    """Normalised, shape (c, tile_y, tile_x); None: skipped."""


def predictions(how: Inference, tiles: Iterable[Tile], progress: Progress) -> Iterator[tuple[Tile, Array | None]]:
    """Predictions in the order of the tiles, inferred in batches that reach across rows."""
    waiting: list[Tile] = []
    full = 0
    for tile in tiles:
        waiting.append(tile)
        full += tile.pixels is not None
        if full == 0 or full >= how.limit.of(how.batch):
            yield from _run(how, waiting, progress)
            waiting, full = [], 0
    yield from _run(how, waiting, progress)


def _run(how: Inference, tiles: list[Tile], progress: Progress) -> Iterator[tuple[Tile, Array | None]]:
    if progress.stop.is_set():
        raise Cancelled("the run", found="a request to stop", fix="Repeat the command to resume.")
    inputs = [tile.pixels for tile in tiles if tile.pixels is not None]
    results: Iterator[Array] = iter(())
    if inputs:
        with progress.clock.stage("infer"):
            predicted = _padded(how, inputs) if how.pads_batches else _halved(how, inputs)
        results = iter(predicted)
        progress.tally.tiles += len(inputs)
        progress.on_tiles(len(inputs))
    for tile in tiles:
        progress.tally.skipped += tile.pixels is None
        yield tile, None if tile.pixels is None else next(results)


def _padded(how: Inference, inputs: list[Array]) -> list[Array]:
    """Predictions of up to a batch of tiles by a model whose bits depend on its size: it is never halved.

    Raises
    ------
    BlockError
        The memory does not hold the batch.
    """
    filling = [np.zeros_like(inputs[0])] * (how.batch - len(inputs))
    try:
        return list(_called(how, inputs + filling))
    except ModelOutOfMemory as error:
        if how.batch == 1:
            raise
        raise BlockError(
            error.where,
            expected=error.expected,
            found=error.found,
            fix=f"Plan again, in a new directory, with a --batch below {how.batch}: this one cannot be halved under "
            "way, because the model's last bits depend, or may depend, on it.",
        ) from error


def _halved(how: Inference, inputs: list[Array]) -> list[Array]:
    """Predictions of tiles in batches that the memory holds, which is found out and remembered.

    Raises
    ------
    ModelOutOfMemory
        It does not even hold one tile.
    """
    predicted: list[Array] = []
    while len(predicted) < len(inputs):
        some = inputs[len(predicted) :][: how.limit.of(how.batch)]
        refused = False
        try:
            predicted.extend(_called(how, some))
        except ModelOutOfMemory:
            if len(some) == 1:
                raise
            refused = True
        # After the except clause: until then the traceback holds the arrays that did not fit.
        if refused:
            how.limit.too_many(len(some))
    return predicted


def _called(how: Inference, inputs: list[Array]) -> Sequence[Array]:
    try:
        # One tile needs no copy to become a batch.
        batch = inputs[0][None] if len(inputs) == 1 else np.stack(inputs)
    except MemoryError as error:
        raise ModelOutOfMemory(how.model.where, found=f"no memory to put {len(inputs)} tiles together") from error
    if how.gives != "maps":
        return how.model.detect(batch) if how.gives == "boxes" else list(how.model.labels(batch))
    predicted = how.model.predict(batch)
    if predicted.shape[1] != how.channels_out:
        raise BlockError(
            how.model.where,
            expected=f"{how.channels_out} channels, as in the trial on zeros",
            found=f"shape {predicted.shape}",
        )
    return list(predicted)
