"""Several scales in lockstep: scaled predictions are brought back to the grid of the result and averaged.

::

    scale 1      ████████████████  a finished band of the block
    scale 1/2    ░░░░ rows pulled until they reach below the band, interpolated piece by piece
                 mean += (value - mean) / count

Memory bound
------------
For each scale what one region of it holds (see `gigatile.engine.region`), the scaled rows that the band in hand lies
between and those that were finished with them, and a few copies of a piece of `PIECE_BYTES`.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from gigatile.engine.batches import Inference, Progress, Tally
from gigatile.engine.pipes import Clock
from gigatile.engine.region import EVERYTHING, infer_region
from gigatile.engine.schedule import ReadSchedule
from gigatile.engine.tiles import Read
from gigatile.images.footprint import window_reader
from gigatile.plans.kept import Wanted, WantedScaledTiles
from gigatile.plans.plan import Plan
from gigatile.plans.scales import PIECE_BYTES, ScaledPass
from gigatile.tiling.region import Region

Array = np.ndarray[Any, Any]
Rows = Generator[tuple[int, Array, Array | None]]
"""Finished rows from top to bottom; see `infer_region`."""


class ScaledEngine:
    """The blocks of one scaled pass: as `infer_region`, on another grid."""

    def __init__(self, plan: Plan, index: int, how: Inference, pending: npt.NDArray[np.bool_]) -> None:
        self._plan = plan
        self._pass: ScaledPass = plan.passes[index]
        values = plan.model.values.for_means_of(plan.image.info.dtype)
        self._how = replace(how, grid=self._pass.grid, model=replace(plan.model, values=values))
        level = plan.image.levels[self._pass.level]
        self._schedule = ReadSchedule(self._pass, plan.blocks, level, pending)
        self._image = plan.image.on(self._pass.source)
        self._image.use_cache(plan.memory.scale_cache_bytes[index], self._schedule)

    def rows(self, place: tuple[int, int], region: Region, kept: Array | None, progress: Progress) -> ScaledRows:
        """What a block of the result, with this place and region, needs of the scale for the pixels that are kept.

        `progress` is the pass's own; `kept` is None where all of the block is.
        """
        needed = self._pass.region(region)
        wanted: Wanted = EVERYTHING if kept is None else WantedScaledTiles(self._pass, region, kept)
        rows = infer_region(self._how, needed, self._reader(*place), 1, progress, wanted=wanted)
        return ScaledRows(self._pass, region, rows)

    def finished(self, row: int, col: int) -> None:
        """The block has read all that it needs."""
        self._schedule.finished(row, col)

    def _reader(self, row: int, col: int) -> Read:
        read_window = window_reader(self._image, self._plan.tiling, self._plan.mask)

        def read(window: Region) -> tuple[Array, Array | None]:
            self._schedule.reading(row, col, self._image.grid.first_row(window.y0 - self._pass.y.beyond))
            pixels, valid = read_window(window)
            return np.rint(pixels).astype(np.uint8) if self._plan.model.values.needs_bytes else pixels, valid

        return read


class ScaledRows:
    """Predictions of one scale on the grid of the result, asked for from top to bottom."""

    def __init__(self, scaled: ScaledPass, region: Region, rows: Rows) -> None:
        self._pass, self.rows, self._region = scaled, rows, region
        self._left, self._right, self._share = scaled.x.up.between(region.x0, region.x1)
        origin = scaled.region(region)
        self._left, self._right = self._left - origin.x0, self._right - origin.x0
        self._top = origin.y0
        self._held: Array | None = None
        self._valid: Array | None = None

    def pull(self, start: int, stop: int) -> None:
        """Let the pass go on until it has what some rows of the result lie between, and let go of what is above.

        Parameters
        ----------
        start, stop : int
            In pixels of the result; the rows that follow those of the last call.
        """
        first, last = self._pass.y.up.needed(start, stop)
        held = [] if self._held is None else [self._held[:, first - self._top :]]
        valid = [] if self._valid is None else [self._valid[first - self._top :]]
        self._top = first
        bottom = first + sum(part.shape[1] for part in held)
        while bottom < last:
            _, band, mask = next(self.rows)
            # The band is a view that is valid until the next step.
            held.append(band.copy())
            valid.append(np.ones(band.shape[1:], bool) if mask is None else mask.copy())
            bottom += band.shape[1]
        self._held = held[0] if len(held) == 1 else np.concatenate(held, axis=1)
        self._valid = valid[0] if len(valid) == 1 else np.concatenate(valid)

    def between(self, start: int, stop: int, dtype: np.dtype[Any]) -> tuple[Array, Array | None]:
        """Interpolate the rows that were pulled.

        Parameters
        ----------
        start, stop : int
            As for `pull`.
        dtype : dtype
            float32 or float64.

        Returns
        -------
        value : ndarray, shape (k, rows, width), of the dtype
            A new array; interpolated from valid pixels only.
        weight : ndarray, shape (rows, width), or None
            Share of valid pixels in it; None: all were valid.
        """
        assert self._held is not None and self._valid is not None
        bottom = self._pass.y.up.needed(start, stop)[1] - self._top
        upper, lower, share = self._pass.y.up.between(start, stop)
        rows = upper - self._top, lower - self._top, share[:, None]
        held, valid = self._held[:, :bottom], self._valid[:bottom]
        if valid.all():
            return self._interpolated(held, rows, dtype), None
        # Invalid pixels are no evidence: what the model said there may be anything, and tiles may be left out.
        value = self._interpolated(np.where(valid, held, held.dtype.type(0)), rows, dtype)
        weight = self._interpolated(valid[None], rows, dtype)[0]
        value /= np.where(weight > 0, weight, 1)
        return value, weight

    def _interpolated(self, maps: Array, rows: tuple[Array, Array, Array], dtype: np.dtype[Any]) -> Array:
        upper, lower, down = rows
        across = _between(maps[:, upper].astype(dtype), maps[:, lower].astype(dtype), down.astype(dtype))
        return _between(across[:, :, self._left], across[:, :, self._right], self._share.astype(dtype))


@dataclass(frozen=True, slots=True)
class ScaledWork:
    """The passes of one block, each with a clock and a tally of its own."""

    rows: tuple[ScaledRows, ...]
    progress: tuple[Progress, ...]

    @classmethod
    def begin(
        cls,
        engines: Sequence[ScaledEngine],
        place: tuple[int, int],
        region: Region,
        kept: Array | None,
        progress: Progress,
    ) -> ScaledWork:
        """Start the passes; they do nothing until rows are asked of them."""
        # Progress is told by the tiles of scale 1, in step with which the others go: these own no pixels of the result.
        own = tuple(Progress(Clock(), Tally(), progress.stop, _untold) for _ in engines)
        rows = tuple(engine.rows(place, region, kept, its) for engine, its in zip(engines, own, strict=True))
        return cls(rows, own)

    def add_to(self, progress: Progress) -> None:
        """Tiles and seconds of all passes; seams are those of scale 1 alone."""
        for its in self.progress:
            progress.tally.tiles += its.tally.tiles
            progress.tally.skipped += its.tally.skipped
            for name, seconds in its.clock.seconds.items():
                progress.clock.seconds[name] = progress.clock.seconds.get(name, 0.0) + seconds


def averaged_rows(base: Rows, work: ScaledWork, progress: Progress) -> Rows:
    """Average the rows of scale 1 with those of all other scales, each counting alike.

    Yields
    ------
    y, band, valid
        As `infer_region` at scale 1: a pixel is valid where it is valid there. A scale that knows nothing valid
        around a pixel does not count for it.
    """
    with ExitStack() as stack:
        stack.callback(work.add_to, progress)
        stack.enter_context(closing(base))
        for scaled in work.rows:
            stack.enter_context(closing(scaled.rows))
        for y, band, valid in base:
            # Finished rows are not looked at again by the stitcher: floats are averaged in place.
            mean = band if band.dtype.kind == "f" else band.astype(np.result_type(band.dtype, np.float32))
            height = max(PIECE_BYTES // max(mean[:, :1].nbytes, 1), 1)
            for start in range(0, mean.shape[1], height):
                piece = mean[:, start : start + height]
                for scaled in work.rows:
                    scaled.pull(y + start, y + start + piece.shape[1])
                # What lies at invalid pixels may be infinite; at valid ones NaN is refused later.
                with progress.clock.stage("blend"), np.errstate(invalid="ignore"):
                    _average(piece, y + start, work.rows)
            yield y, mean, valid


def _average(mean: Array, y: int, scales: Sequence[ScaledRows]) -> None:
    """One step of the running mean for each scale, in place; `count` is one number, or one a pixel."""
    count: Any = 1
    for scaled in scales:
        value, weight = scaled.between(y, y + mean.shape[1], mean.dtype)
        value -= mean
        if weight is None:
            count = count + 1
        else:
            value[:, weight == 0] = 0
            count = count + (weight > 0)
        value /= np.asarray(count, mean.dtype)
        mean += value


def _untold(tiles: int) -> None:
    """Tells nobody."""


def _between(low: Array, high: Array, share: Array) -> Array:
    """``low + (high - low) * share`` in place of `low`."""
    high -= low
    high *= share
    low += high
    return low
