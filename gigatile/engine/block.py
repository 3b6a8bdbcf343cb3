"""One block of a stage, from what it reads to its artifact: what a lane does."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from threading import Event, Lock

import numpy as np
import numpy.typing as npt

from gigatile.engine.batches import Gives, Inference, Progress, Tally
from gigatile.engine.pipes import Clock
from gigatile.engine.predict import Downsample, Predict
from gigatile.engine.record import BlockKey, BlockRecord
from gigatile.engine.source import BlockSource
from gigatile.engine.step import Step
from gigatile.events import Phase
from gigatile.machine import peak_resident_bytes
from gigatile.plans.finding import Instances
from gigatile.plans.plan import Plan
from gigatile.storage.store import Store


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
        pixels=plan.stages[key.stage].region(key.row, key.col).pixels,
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

    Parameters
    ----------
    plan : Plan
    store : Store
        The run directory.
    pending : ndarray of bool, shape (rows, cols)
        Blocks of the first stage that are still to do.
    """

    def __init__(self, plan: Plan, store: Store, *, pending: npt.NDArray[np.bool_]) -> None:
        self._plan = plan
        self._lost = _Seconds()
        if plan.kept is not None:
            pending = pending & plan.kept_blocks
        model = plan.model.model
        # Callables are not tried before a run: theirs could be bits that depend on the batch.
        untried = model.calls_once and plan.batch > 1
        how = Inference(
            grid=plan.grid,
            model=plan.model,
            channels_out=plan.trial.channels_out,
            dtype=plan.trial.dtype,
            gives=_gives(plan),
            batch=plan.batch,
            pads_batches=plan.batch_changes_bits or model.fixed_batch is not None or untried,
        )
        self._steps = steps_of(plan, store, BlockSource(plan, pending), how, pending)

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
        stage = self._plan.stages[key.stage]
        step = self._steps[stage.kind]
        progress = Progress(clock, tally, stop, on_tiles)
        # With notes of its own, so that each block tells what was filled for it.
        image = self._plan.image.noting()
        try:
            receipt = step.run(key, progress, image)
        except Exception:
            self._lost.add(clock.seconds)
            raise
        finally:
            step.finished(key)
        self._lost.move_to(clock.seconds)
        return BlockRecord(
            block=key,
            status="empty" if receipt.empty else "done",
            pixels=stage.region(key.row, key.col).pixels,
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


def steps_of(
    plan: Plan, store: Store, source: BlockSource, how: Inference, pending: npt.NDArray[np.bool_]
) -> dict[Phase, Step]:
    """What is done for a block of each stage."""
    if plan.task == "segment":
        return {"predict": Predict(plan, store, source, how, pending), "pyramid": Downsample(plan, store)}
    # They need packages that maps do without.
    if plan.task == "detect":
        from gigatile.engine.find_boxes import FindBoxes
        from gigatile.engine.merge_boxes import MergeBoxes

        return {"find": FindBoxes(plan, store, source, how), "merge": MergeBoxes(plan, store)}
    from gigatile.engine.find_labels import FindLabels
    from gigatile.engine.merge_labels import MergeLabels
    from gigatile.engine.relabel import Relabel

    return {
        "find": FindLabels(plan, store, source, how),
        "merge": MergeLabels(plan, store),
        "labels": Relabel(plan, store),
        "pyramid": Downsample(plan, store),
    }


def _gives(plan: Plan) -> Gives:
    if isinstance(plan.finding, Instances):
        return "labels" if plan.finding.method is None else "maps"
    return "maps" if plan.finding is None else "boxes"


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
