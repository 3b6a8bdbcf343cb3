"""The main loop: one region of an image through the model.

::

    read a band ──▶ cut its tiles ──▶ fill batches ──▶ predict ──▶ stitch ──▶ hand out finished rows
    (one tile row)                    (across rows)       │        (row by row)
                                            ▲             │
                                            └── half of ──┘  where the memory does not hold a batch
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from threading import Event, Lock
from typing import Any

import numpy as np

from gigatile.engine.pipes import Clock, read_ahead
from gigatile.engine.seams import SeamTally
from gigatile.engine.stitcher import RegionStitcher
from gigatile.errors import BlockError, Cancelled, ModelOutOfMemory
from gigatile.models.model import LoadedModel
from gigatile.plans.kept import Everything, Wanted
from gigatile.tiling.region import Region
from gigatile.tiling.tiling import Grid

Array = np.ndarray[Any, Any]
EVERYTHING = Everything()
Read = Callable[[Region], tuple[Array, Array | None]]
"""Pixels (c, y, x) of a window that may hang over the image, and which are valid (y, x) or None for all."""


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
    dtype: np.dtype[Any]
    """Of the predictions."""
    batch: int
    """Tiles per call."""
    pads_batches: bool
    """Whether a last, smaller batch is filled up with zeros, because the model's bits depend on its size."""
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
class _Tile:
    row: int
    col: int
    pixels: Array | None
    """Normalised, shape (c, tile_y, tile_x); None: skipped."""


@dataclass(frozen=True, slots=True)
class _Band:
    """One row of tiles, read at once."""

    row: int
    cols: frozenset[int]
    """Of the tiles that are wanted."""
    left: int
    """First column, in pixels of the image."""
    pixels: Array
    window: Region
    """The same place in pixels of the result."""
    valid: Array | None
    """On the window."""


class Validity:
    """Which pixels of a region are valid, known row by row as its bands are read.

    Memory bound
    ------------
    One byte a pixel of the region, and only once a band with invalid pixels has been met.
    """

    def __init__(self, region: Region) -> None:
        self._region = region
        self._mask: Array | None = None

    def add(self, window: Region, valid: Array | None) -> None:
        """Take over what a window (in pixels of the result) says of the region."""
        if valid is None or (self._mask is None and valid.all()):
            return
        if self._mask is None:
            self._mask = np.ones(self._region.shape, bool)
        part = window.clipped(self._region)
        inside = part.shifted(-self._region.y0, -self._region.x0).slices()
        self._mask[inside] = valid[part.shifted(-window.y0, -window.x0).slices()]

    def rows(self, start: int, stop: int) -> Array | None:
        """The mask of some rows, in pixels of the image; None where all are valid."""
        if self._mask is None:
            return None
        return self._mask[start - self._region.y0 : stop - self._region.y0]


def infer_region(
    how: Inference, region: Region, read: Read, step: int, progress: Progress, *, wanted: Wanted = EVERYTHING
) -> Generator[tuple[int, Array, Array | None]]:
    """Run the model over a region and hand out its finished rows, from top to bottom.

    Parameters
    ----------
    how : Inference
    region : Region
        Inside the image.
    read : callable
        Reads a window of the image.
    step : int
        Rows are handed out in multiples of `step`, but for the last ones.
    progress : Progress
        Clock, tally and stop signal.
    wanted : Wanted, optional
        Tiles that it does not name are neither read nor inferred.

    Yields
    ------
    y : int
        First row, in pixels of the image.
    band : ndarray, shape (k, rows, width)
        Blended channels; valid until the next step.
    valid : ndarray of bool, shape (rows, width), or None
        True where the input was valid and is wanted; None: everywhere.

    Raises
    ------
    BlockError
        The source or the model is at fault, or the memory does not hold what the region needs.
    """
    try:
        yield from _infer_region(how, region, read, step, progress, wanted=wanted)
    except MemoryError as error:
        raise BlockError(
            f"rows {region.y0}-{region.y1}, columns {region.x0}-{region.x1}",
            expected="memory for what a block needs",
            found=str(error) or "none left",
            fix="Type a smaller --memory or --workers 1, or close other programs.",
        ) from error


def _infer_region(
    how: Inference, region: Region, read: Read, step: int, progress: Progress, *, wanted: Wanted
) -> Generator[tuple[int, Array, Array | None]]:
    validity = Validity(region)

    def valid(start: int, stop: int) -> Array | None:
        seen, kept = validity.rows(start, stop), wanted.rows(start, stop)
        return kept if seen is None else seen if kept is None else seen & kept

    stitcher = RegionStitcher(how.grid, region, how.channels_out, how.dtype, step, valid=valid)
    progress.tally.seams = stitcher.seams
    reading = _bands(how, stitcher, read, wanted, progress.clock)
    # A single band has nothing to be read ahead of; small blocks are spared a thread.
    several = len(stitcher.rows) > 1
    with read_ahead(reading, "gigatile-read") if several else nullcontext(reading) as bands:
        tiles = _tiles(how, stitcher, region, bands, validity)
        for tile, prediction in _predictions(how, tiles, progress):
            with progress.clock.stage("blend"):
                finished = list(stitcher.add(tile.row, tile.col, prediction))
            for y, band in finished:
                yield y, band, valid(y, y + band.shape[1])


@dataclass(frozen=True, slots=True)
class Progress:
    """What a region reports, and how it is told to stop."""

    clock: Clock
    tally: Tally
    stop: Event
    on_tiles: Callable[[int], None]
    """Told the number of tiles after each batch."""


def _bands(how: Inference, stitcher: RegionStitcher, read: Read, wanted: Wanted, clock: Clock) -> Iterator[_Band | int]:
    """What the wanted tiles of each row read; the row alone where there is none."""
    for row in stitcher.rows:
        cols = [col for col in stitcher.cols if wanted.tile(row, col)]
        if not cols:
            yield row
            continue
        region = how.grid.band(row, range(cols[0], cols[-1] + 1))
        with clock.stage("read"):
            pixels, valid = read(region)
            window, valid = on_result(how.grid, region, valid)
        yield _Band(row, frozenset(cols), region.x0, pixels, window, valid)


def on_result(grid: Grid, region: Region, valid: Array | None) -> tuple[Region, Array | None]:
    """A window of the image in pixels of the result, and which of those are valid: as the pixels under their centres.

    Parameters
    ----------
    region : Region
        In pixels of the image.
    valid : ndarray of bool, shape of the region, or None
    """
    output = grid.y.output
    if output.scale == 1:
        return region, valid
    scaled = [-int(-edge * output.scale // 1) for edge in (region.y0, region.x0)]
    ends = [int(edge * output.scale // 1) for edge in (region.y1, region.x1)]
    window = Region(scaled[0], scaled[1], ends[0], ends[1])
    if valid is None:
        return window, None
    rows = output.sources(window.y0, window.y1) - region.y0
    cols = output.sources(window.x0, window.x1) - region.x0
    return window, valid[np.ix_(rows, cols)]


def _tiles(
    how: Inference, stitcher: RegionStitcher, region: Region, bands: Iterable[_Band | int], validity: Validity
) -> Iterator[_Tile]:
    """Cut bands into normalised tiles, without those whose support holds nothing to keep."""
    for band in bands:
        if isinstance(band, int):
            yield from (_Tile(band, col, None) for col in stitcher.cols)
            continue
        validity.add(band.window, band.valid)
        top, bottom = how.grid.y.support(band.row)
        for col in stitcher.cols:
            left, right = how.grid.x.support(col)
            # The support of a tile that is not wanted may lie beside what was read.
            kept = Region(top, left, bottom, right).clipped(region).clipped(band.window)
            inside = kept.shifted(-band.window.y0, -band.window.x0).slices()
            if col not in band.cols or (band.valid is not None and not band.valid[inside].any()):
                yield _Tile(band.row, col, None)
                continue
            x0 = how.grid.x.read(col)[0] - band.left
            pixels = band.pixels[:, :, x0 : x0 + how.grid.x.tile]
            yield _Tile(band.row, col, how.model.values.normalised(pixels))


def _predictions(how: Inference, tiles: Iterable[_Tile], progress: Progress) -> Iterator[tuple[_Tile, Array | None]]:
    """Predictions in the order of the tiles, inferred in batches that reach across rows."""
    waiting: list[_Tile] = []
    full = 0
    for tile in tiles:
        waiting.append(tile)
        full += tile.pixels is not None
        if full == 0 or full >= how.limit.of(how.batch):
            yield from _run(how, waiting, progress)
            waiting, full = [], 0
    yield from _run(how, waiting, progress)


def _run(how: Inference, tiles: list[_Tile], progress: Progress) -> Iterator[tuple[_Tile, Array | None]]:
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


def _called(how: Inference, inputs: list[Array]) -> Array:
    try:
        # One tile needs no copy to become a batch.
        batch = inputs[0][None] if len(inputs) == 1 else np.stack(inputs)
    except MemoryError as error:
        raise ModelOutOfMemory(how.model.where, found=f"no memory to put {len(inputs)} tiles together") from error
    predicted = how.model.predict(batch)
    if predicted.shape[1] != how.channels_out:
        raise BlockError(
            how.model.where,
            expected=f"{how.channels_out} channels, as in the trial on zeros",
            found=f"shape {predicted.shape}",
        )
    return predicted
