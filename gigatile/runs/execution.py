"""One image's run as work: each stage of its plan, then the marks that say so.

::

    begin ──▶ stage 0: a queue of blocks ──▶ stage 1, once all of stage 0 is there ──▶ ... ──▶ conclude
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from gigatile.engine.block import failed_record
from gigatile.engine.record import BlockKey, BlockRecord
from gigatile.errors import GigatileError, StorageError
from gigatile.events import BlockFinished, OnEvent, PhaseStarted, RunEnded, RunStarted, ignore
from gigatile.executors.executor import Failure, Job, Outcome, Task
from gigatile.executors.queue import Deaths, Policy, Queue, poison
from gigatile.ledger.compaction import compact
from gigatile.ledger.reader import LedgerReader
from gigatile.ledger.state import EMPTY, FAILED, PENDING, LedgerState
from gigatile.ledger.writer import LedgerWriter
from gigatile.models.shipping import Shipment, ship
from gigatile.outputs.omezarr import create_result, is_complete, mark_complete
from gigatile.plans.plan import Plan
from gigatile.runs.artifacts import lacks_numbers, missing_artifacts
from gigatile.runs.directory import RunDirectory
from gigatile.runs.job import BlockJob
from gigatile.runs.keys import Keys
from gigatile.runs.status import seam_map, tile_pixels, totals
from gigatile.runs.versions import versions
from gigatile.storage.store import Store

COMPACT_EVERY = 1_000
"""Tasks after which the ledger of a bucket is put together again."""


@dataclass(frozen=True)
class How:
    """How a run goes; none of it changes values."""

    ships: bool = False
    """Whether its workers may lack the model's files."""
    models: Store | None = None
    """Where they find them; None: in the run directory."""
    retry_failed: bool = False
    """Whether failed blocks are done again."""
    policy: Policy = field(default_factory=Policy)
    on_event: OnEvent = ignore
    clock: Callable[[], float] = time.monotonic


class RunWork:
    """What is left to do in one run directory, which is ours; see `Work`.

    Memory bound
    ------------
    About 20 bytes a block: what the ledger says of it, and whether it is to be done; while the shards are compared
    with the ledger, between two phases, 12 more.
    """

    def __init__(self, plan: Plan, directory: RunDirectory, how: How) -> None:
        self.plan, self.directory, self._how = plan, directory, how
        self._grids = tuple(stage.grid for stage in plan.stages)
        self._reader = LedgerReader(directory.ledger, self._grids)
        self._ledger = LedgerWriter(directory.ledger)
        self._token = secrets.token_hex(8)
        self._queue: Queue[BlockKey] | None = None
        self._job: BlockJob | None = None
        self._stage = -1
        self._is_concluded = False
        self._heard = 0
        self.finished_before = 0
        """Blocks of the prediction that earlier runs finished."""
        self.failed = 0
        """Blocks that are recorded as failed, once the run is over."""

    def begin(self, stored: Mapping[str, Any] | None) -> None:
        """Leave nothing of dead writers, write what describes the run (``run.json`` before all else), and find out
        what is missing.

        Parameters
        ----------
        stored : mapping, optional
            What ``run.json`` says already.
        """
        if stored is None:
            self._write_run_json(LedgerState(self._grids), complete=False)
        self.directory.store.remove_leftovers()
        self._create_result()
        compact(self.directory.ledger)
        state = self._reader.refresh()
        if self._how.retry_failed:
            state = self._forgotten(state)
        state = self._without_missing(state)
        self._pending = [state.pending(stage) for stage in range(len(self._grids))]
        something = any(todo.any() for todo in self._pending)
        # An earlier version may have written other metadata: then run.json is written again, with their digests.
        self._is_concluded = (
            not something
            and stored is not None
            and stored["complete"] is True
            and stored["metadata"] == self.directory.metadata_digests()
        )
        if something and stored is not None:
            self._reopen(state)
        shipment = self._shipped() if self._how.ships and something else None
        self._job = BlockJob(self.plan, self.directory, self._pending[0], self._token, shipment)
        blocks = self.plan.blocks.count
        self.finished_before = blocks - int(self._pending[0].sum())
        self._how.on_event(
            RunStarted(
                directory=self.directory.name,
                blocks=blocks,
                finished=self.finished_before,
                pixels=self.plan.grid.shape[0] * self.plan.grid.shape[1],
                lanes=self.plan.memory.lanes,
                budget_bytes=self.plan.memory.budget_bytes,
            )
        )
        self._next_phase(state)

    @property
    def name(self) -> str:
        """Of this run among those of a cohort: the token of its tasks."""
        return self._token

    @property
    def finished(self) -> bool:
        """See `Work.finished`."""
        return self._stage >= len(self._grids)

    @property
    def in_flight(self) -> int:
        """Tasks handed out and not heard of."""
        return 0 if self._queue is None else self._queue.in_flight

    def job(self, token: str) -> Job[BlockKey]:
        """See `Work.job`."""
        assert self._job is not None, "not begun"
        return self._job

    def take(self, worker: str, *, idle: bool, without: Collection[str] = ()) -> Task[BlockKey] | None:
        """See `Work.take`."""
        if self._queue is None or self._token in without:
            return None
        return self._queue.take(worker, idle=idle)

    def drains(self, worker: str) -> bool:
        """Whether a worker should get nothing of other runs either: it is to do a suspect, alone."""
        return self._queue is not None and self._queue.drains(worker)

    def refused(self, job: str, error: GigatileError) -> None:
        """See `Work.refused`."""
        raise error

    def done(self, task: Task[BlockKey], worker: str, outcome: Outcome) -> None:
        """See `Work.done`."""
        if self._queue is None:
            return
        counts = self._queue.matters(task)
        given_up = self._queue.done(task, worker, outcome.failures)
        if counts:
            for record in outcome.results:
                self._tell(record)
        self._give_up(given_up)
        self._heard += 1
        if self._heard % COMPACT_EVERY == 0:
            compact(self.directory.ledger)
        self._advance()

    def lost(self, task: Task[BlockKey], worker: str) -> None:
        """See `Work.lost`: the ledger knows what the worker had begun, and what it had finished."""
        queue = self._queue
        if queue is None:
            return
        state = self._reader.refresh()
        suspects = state.suspects()
        # More attempts that came to nothing than were known: then this was one.
        begun = [key for key in task.keys if key in suspects and suspects[key].deaths > queue.deaths_of(key).total]
        finished = [key for key in task.keys if state.status(key.stage)[key.row, key.col] != PENDING]
        counts = queue.matters(task)
        given_up = queue.lost(task, worker, begun, finished)
        for key in finished if counts else ():
            stage = self.plan.stages[key.stage]
            self._tell(BlockRecord(key, "done", stage.region(key.row, key.col).pixels))
        self._give_up(given_up)
        self._advance()

    def given_back(self, task: Task[BlockKey], worker: str) -> None:
        """See `Work.given_back`."""
        if self._queue is not None:
            self._queue.given_back(task, worker)

    def matters(self, task: Task[BlockKey]) -> bool:
        """See `Work.matters`."""
        return self._queue is not None and self._queue.matters(task)

    def close(self) -> None:
        """Let go of the ledger and of the cache."""
        self._ledger.close()
        if self._job is not None:
            self._job.rest()

    def _advance(self) -> None:
        if self._queue is not None and self._queue.finished:
            state = self._reader.refresh()
            self._check_there(state)
            if self._job is not None:
                # The image is not read any more, and the pyramid needs no model.
                self._job.rest()
            self._next_phase(state)

    def _next_phase(self, state: LedgerState) -> None:
        """The first stage from here on in which something is to be done; the end, if there is none or one failed."""
        self._queue = None
        while not self.finished:
            if self._stage >= 0:
                self.failed = state.count(FAILED, self._stage)
            self._stage += 1
            if self.failed or self.finished:
                self._conclude(state)
                return
            todo = self._pending[self._stage]
            if todo.any():
                poisonous = self._poisonous(todo, state)
                self._queue = self._queued(todo, state)
                self._how.on_event(PhaseStarted(self.plan.stages[self._stage].kind, int(todo.sum())))
                self._give_up(poisonous)
                self._advance()
                return

    def _deaths(self, todo: npt.NDArray[np.bool_], state: LedgerState) -> dict[BlockKey, Deaths]:
        """What earlier runs died of, in this process or on workers, among the blocks of this phase."""
        return {
            key: Deaths(suspicion.deaths, suspicion.alone)
            for key, suspicion in state.suspects().items()
            if key.stage == self._stage and todo[key.row, key.col]
        }

    def _poisonous(self, todo: npt.NDArray[np.bool_], state: LedgerState) -> list[Failure]:
        """What they died of too often; it is not to be done any more."""
        found = {k: d for k, d in self._deaths(todo, state).items() if d.alone >= self._how.policy.deaths}
        for key in found:
            todo[key.row, key.col] = False
        return [poison(key, deaths) for key, deaths in found.items()]

    def _queued(self, todo: npt.NDArray[np.bool_], state: LedgerState) -> Queue[BlockKey]:
        deaths = self._deaths(todo, state)
        policy = self._how.policy
        if self.plan.stages[self._stage].kind == "merge":
            # It is one long block: nobody is to begin it a second time because it takes longer than others.
            policy = replace(policy, duplicates=False)
        return Queue(Keys(self._stage, todo), self._token, policy, self._how.clock, deaths)

    def _conclude(self, state: LedgerState) -> None:
        self._stage = len(self._grids)
        if not self.failed:
            if self.plan.layouts:
                mark_complete(self.directory.prediction)
            self.directory.store.remove_leftovers()
        if not self._is_concluded:
            self._write_run_json(state, complete=not self.failed)
        self._how.on_event(RunEnded(complete=not self.failed, failed=self.failed))

    def _tell(self, record: BlockRecord) -> None:
        self._how.on_event(
            BlockFinished(
                phase=self.plan.stages[record.block.stage].kind,
                block=str(record.block),
                status=record.status,
                pixels=record.pixels,
                seconds=record.seconds,
                peak_rss_bytes=record.peak_rss_bytes,
                error=record.error,
            )
        )

    def _give_up(self, failures: Sequence[Failure]) -> None:
        """Record blocks as failed, for good."""
        records = [failed_record(self.plan, failure.key, failure.error) for failure in failures]
        if records:
            self._ledger.append(records)
        for record in records:
            self._tell(record)

    def _missing(self, state: LedgerState, stage: int) -> npt.NDArray[np.bool_]:
        """Finished blocks whose artifact is not what its record says."""
        return missing_artifacts(state, stage, self.plan.stages[stage], self.directory.store)

    def _without_missing(self, state: LedgerState) -> LedgerState:
        """Make blocks pending whose artifact is gone, or of another size; their old records must not compete."""
        lost: list[BlockKey] = []
        needs_parts, unlabelled = False, np.zeros(self._grids[0], bool)
        for number in reversed(range(len(self._grids))):
            kind = self.plan.stages[number].kind
            if kind == "find" and not needs_parts:
                # Parts are for the two stages after it: where those are there, parts may be gone.
                break
            missing = self._missing(state, number)
            if kind == "merge" and self.plan.task == "instances":
                with_parts = unlabelled & (state.status(0) != EMPTY)
                missing |= lacks_numbers(with_parts, self.plan.stages[0], self.directory.store)
            lost += [BlockKey(number, int(row), int(col)) for row, col in np.argwhere(missing)]
            todo = missing | state.pending(number)
            if kind == "labels":
                unlabelled = todo
            needs_parts |= kind in {"merge", "labels"} and bool(todo.any())
        if not lost:
            return state
        self._ledger.revoke_all(self._reader.identities(lost), "damaged")
        return self._reader.refresh()

    def _check_there(self, state: LedgerState) -> None:
        """See that what was reported is there.

        Raises
        ------
        StorageError
            Workers said that blocks were done of which nothing is to be seen here.
        """
        missing = int((state.pending(self._stage) | self._missing(state, self._stage)).sum())
        if missing:
            raise StorageError(
                self.directory.name,
                expected=f"a record and an artifact of every block of stage {self._stage}",
                found=f"none of {missing} blocks that were done",
                fix="See that all workers reach this directory under the same path, then run the same command again.",
            )

    def _forgotten(self, state: LedgerState) -> LedgerState:
        """Make failed blocks pending again; what they fail with next is what counts then."""
        if not state.count(FAILED):
            return state
        self._ledger.revoke_all(self._reader.identities(state.failures()), "retried")
        return self._reader.refresh()

    def _create_result(self) -> None:
        if self.plan.layouts:
            create_result(self.directory.prediction, self.plan.layouts, self.plan.metadata)

    def _reopen(self, state: LedgerState) -> None:
        """Take back the marks of completeness of a run in which something has to be done again."""
        if self.plan.layouts and is_complete(self.directory.prediction):
            self.directory.prediction.delete("zarr.json")
            self._create_result()
        self._write_run_json(state, complete=False)

    def _counts(self) -> dict[str, Any]:
        """How many objects there are."""
        from gigatile.runs.objects import stored_counts

        return stored_counts(self.directory.store).to_json()

    def _shipped(self) -> Shipment | None:
        model, place = self.plan.model.model, self._how.models or self.directory.models
        return ship(model.files, model.digest, place) if model.files else None

    def _write_run_json(self, state: LedgerState, *, complete: bool) -> None:
        plan, model = self.plan, self.plan.model.model
        statistics = plan.model.values.statistics
        source_units = plan.image.levels[plan.image.level].unit_count
        tile_px = tile_pixels(plan.tiling.tile_yx, plan.grid.shape, plan.image.grid_shape)
        self.directory.write(
            {
                "complete": complete,
                "token": self._token,
                "fingerprint": plan.fingerprint,
                "plan": plan.describe(),
                "summary": plan.to_json(),
                "input": {"path": plan.image.info.path, **plan.image.source.identity()},
                "model": {"name": model.name, "sha256": model.digest},
                "layout": {
                    "block": list(plan.block),
                    "chunk": list(plan.chunk),
                    "levels": len(plan.layouts),
                    "shape": list(plan.grid.shape),
                    "image_shape": list(plan.image.grid_shape),
                    "stages": [stage.kind for stage in plan.stages],
                    "blocks": plan.blocks.count,
                    "grid": list(plan.blocks.grid),
                    "grids": [list(grid) for grid in self._grids],
                    "source_units": source_units,
                },
                "objects": self._counts() if complete and plan.finding is not None else None,
                "metadata": self.directory.metadata_digests(),
                "statistics": None if statistics is None else statistics.to_json(),
                "versions": versions(),
                "seam_map": seam_map(state, plan.blocks.grid),
                **totals(state, tile_px, source_units, exact=plan.choice.exact),
            }
        )
