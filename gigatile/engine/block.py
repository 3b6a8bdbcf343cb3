"""One block from source pixels to a shard on disk: what a lane does."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from threading import Event, Lock
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from gigatile.engine.pipes import Clock, WriteBehind
from gigatile.engine.region import EVERYTHING, Inference, Progress, Tally, infer_region
from gigatile.engine.scales import ScaledEngine, ScaledWork, averaged_rows
from gigatile.engine.schedule import ReadSchedule
from gigatile.images.footprint import window_reader
from gigatile.images.image import Image
from gigatile.machine import peak_resident_bytes
from gigatile.outputs.pyramid import downsample_shard
from gigatile.outputs.shard import EMPTY_SHARD, ShardReceipt, ShardWriter
from gigatile.plans.kept import Wanted, WantedTiles
from gigatile.plans.plan import Plan
from gigatile.plans.reads import source_reads
from gigatile.storage.store import Store
from gigatile.tiling.region import Region

Array = np.ndarray[Any, Any]
Status = Literal["done", "empty", "failed"]


class BlockKey(NamedTuple):
    """A block of the prediction (level 0), or of a level of its pyramid."""

    level: int
    row: int
    col: int

    def __str__(self) -> str:
        return f"{self.level}/{self.row}/{self.col}"

    @classmethod
    def parse(cls, text: str) -> BlockKey:
        """The inverse of ``str``."""
        level, row, col = text.split("/")
        return cls(int(level), int(row), int(col))


@dataclass(frozen=True, slots=True)
class BlockRecord:
    """What happened to one block."""

    block: BlockKey
    status: Status
    pixels: int
    """Pixels of its level inside the block."""
    nbytes: int = 0
    digest: str = ""
    """sha256 of the shard's bytes; empty where there is no file."""
    tiles: int = 0
    """Tiles inferred."""
    skipped: int = 0
    """Tiles without a pixel to keep."""
    units_decoded: int = 0
    """Units of the source (chunks, or groups of small ones) that this process decoded since its last record."""
    seam_pixels: int = 0
    """Pixels that two neighbouring tiles see, outside their margins."""
    seam_difference: float = 0.0
    """Sum of the absolute differences there, mean over channels."""
    seam_disagreements: int = 0
    """Those of another class."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Busy seconds by stage, with those of the tries in this process that failed since its last record."""
    peak_rss_bytes: int = 0
    error: str = ""
    """One paragraph."""
    trace: str = ""
    """The traceback behind it."""
    filled: tuple[str, ...] = ()
    """Places of the source that could not be decoded and were filled with nodata."""
    attempt: str = ""
    """The try that this record ends."""


def failed_record(plan: Plan, key: BlockKey, error: BaseException) -> BlockRecord:
    """What the ledger keeps of a block that is given up.

    Parameters
    ----------
    plan : Plan
        Of the run.
    key : BlockKey
        The block.
    error : BaseException
        Why its last try failed; from another process it brings its traceback along as notes, or none.
    """
    return BlockRecord(
        block=key,
        status="failed",
        pixels=plan.layouts[key.level].region(key.row, key.col).pixels,
        # What this process decoded for it, where the tries ran here; workers count theirs with their next record.
        units_decoded=plan.image.counter.take(),
        error=str(error),
        trace="".join(traceback.format_exception(error)),
    )


class BlockEngine:
    """Runs the blocks of one plan in this process, several at a time if several threads call it.

    Memory bound
    ------------
    What the plan projected for its lanes and its cache; see `gigatile.plans.memory`.
    """

    def __init__(self, plan: Plan, store: Store, *, pending: npt.NDArray[np.bool_]) -> None:
        self._plan, self._store = plan, store
        self._lost = _Seconds()
        level = plan.image.levels[plan.image.level]
        self._kept = plan.kept
        if self._kept is not None:
            pending = pending & plan.kept_blocks
        self._schedule = ReadSchedule(
            source_reads(plan.grid, plan.image.grid, plan.beyond_px), plan.blocks, level, pending
        )
        plan.image.use_cache(plan.memory.cache_bytes, self._schedule)
        model = plan.model.model
        # Callables are not tried before a run: theirs could be bits that depend on the batch.
        untried = model.calls_once and plan.batch > 1
        self._inference = Inference(
            grid=plan.grid,
            model=plan.model,
            channels_out=plan.trial.channels_out,
            dtype=plan.trial.dtype,
            batch=plan.batch,
            pads_batches=plan.batch_changes_bits or model.fixed_batch is not None or untried,
        )
        self._scales = [ScaledEngine(plan, index, self._inference, pending) for index in range(len(plan.passes))]

    def run(self, key: BlockKey, stop: Event, on_tiles: Callable[[int], None]) -> BlockRecord:
        """Compute and store one block.

        Returns
        -------
        BlockRecord
            ``done``, or ``empty`` where all of it is fill.

        Raises
        ------
        BlockError
            The model or the source is at fault; nothing of the block remains, and it may be tried again, here or
            elsewhere.
        StorageError
            The result cannot be written: the run has to stop.
        Cancelled
            `stop` was set; nothing of the block remains.
        """
        clock, tally = Clock(), Tally()
        layout = self._plan.layouts[key.level]
        pixels = layout.region(key.row, key.col).pixels
        progress = Progress(clock, tally, stop, on_tiles)
        # With notes of its own, so that each block tells what was filled for it.
        image = self._plan.image.noting()
        try:
            receipt = self._predict(key, progress, image) if key.level == 0 else self._downsample(key, clock)
        except Exception:
            self._lost.add(clock.seconds)
            raise
        finally:
            if key.level == 0:
                self._schedule.finished(key.row, key.col)
                for scale in self._scales:
                    scale.finished(key.row, key.col)
        self._lost.move_to(clock.seconds)
        return BlockRecord(
            block=key,
            status="empty" if receipt.empty else "done",
            pixels=pixels,
            nbytes=receipt.nbytes,
            digest=receipt.digest,
            tiles=tally.tiles,
            skipped=tally.skipped,
            seam_pixels=tally.seams.pixels,
            seam_difference=tally.seams.difference,
            seam_disagreements=tally.seams.disagreements,
            units_decoded=self._plan.image.counter.take(),
            seconds={name: round(value, 4) for name, value in clock.seconds.items()},
            peak_rss_bytes=peak_resident_bytes(),
            # Other scales read for themselves, and tell it with the next block of this process.
            filled=(*image.bad_units.take(), *self._plan.image.bad_units.take()),
        )

    def _predict(self, key: BlockKey, progress: Progress, image: Image) -> ShardReceipt:
        plan, layout = self._plan, self._plan.layouts[0]
        region = layout.region(key.row, key.col)
        where = f"block {key} (rows {region.y0}-{region.y1}, columns {region.x0}-{region.x1})"
        mask: Array | None = None
        if self._kept is not None:
            if not self._kept.touches(region):
                progress.tally.skipped += plan.grid.tiles_of(region)
                return EMPTY_SHARD
            mask = self._kept.window(region)
            mask = None if mask.all() else mask
        wanted: Wanted = EVERYTHING if mask is None else WantedTiles(plan.grid, region, mask)
        reader = self._reader(key, image)
        rows = infer_region(self._inference, region, reader, layout.chunk[0], progress, wanted=wanted)
        if self._scales:
            work = ScaledWork.begin(self._scales, (key.row, key.col), region, mask, progress)
            rows = averaged_rows(rows, work, progress)
        with ShardWriter(self._store, f"0/{layout.shard_key(key.row, key.col)}", layout, region.shape) as writer:

            def write(band: Array) -> None:
                with progress.clock.stage("write"):
                    writer.write(band)

            with ExitStack() as stack:
                stack.enter_context(closing(rows))
                put: Callable[[Array], None] = write
                if region.shape[0] > layout.chunk[0]:
                    # There is no second band to blend meanwhile otherwise, and a thread costs 0.3 ms.
                    put = stack.enter_context(WriteBehind(write, "gigatile-write")).put
                for _, band, valid in rows:
                    with progress.clock.stage("blend"):
                        finished = plan.rule.finished(band, valid, where)
                    put(finished)
            with progress.clock.stage("write"):
                return writer.finish()

    def _reader(self, key: BlockKey, image: Image) -> Callable[[Region], tuple[Array, Array | None]]:
        """Reads windows for one block, and tells the cache where it stands."""
        rounded = self._plan.model.values.needs_bytes and not image.grid.is_level
        beyond = self._plan.beyond_px
        read_window = window_reader(image, self._plan.tiling, self._plan.mask)

        def read(window: Region) -> tuple[Array, Array | None]:
            self._schedule.reading(key.row, key.col, image.grid.first_row(window.y0 - beyond))
            pixels, valid = read_window(window)
            return np.rint(pixels).astype(np.uint8) if rounded else pixels, valid

        return read

    def _downsample(self, key: BlockKey, clock: Clock) -> ShardReceipt:
        method = self._plan.metadata.downsampling
        with clock.stage("write"):
            return downsample_shard(self._store, self._plan.layouts, key.level, key.row, key.col, method=method)


class _Seconds:
    """Busy seconds by stage that no record has told yet; for several threads."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._seconds: dict[str, float] = {}

    def add(self, seconds: dict[str, float]) -> None:
        with self._lock:
            _add(self._seconds, seconds)

    def move_to(self, seconds: dict[str, float]) -> None:
        with self._lock:
            _add(seconds, self._seconds)
            self._seconds.clear()


def _add(total: dict[str, float], more: dict[str, float]) -> None:
    for name, value in more.items():
        total[name] = total.get(name, 0.0) + value
