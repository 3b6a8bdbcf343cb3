"""A run over many images: one queue, one directory each, one summary."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from os import PathLike, fspath
from pathlib import Path
from threading import Event as Signal
from typing import Any

from gigatile.cohorts.inputs import InputEntry
from gigatile.cohorts.rows import Blocks
from gigatile.cohorts.summary import Summary
from gigatile.cohorts.work import CohortWork, Limits
from gigatile.errors import GigatileError, ImageError, ModelError, UsageError
from gigatile.events import (
    BlockFinished,
    CohortEnded,
    CohortStarted,
    Event,
    ImageEnded,
    ImageStarted,
    OnEvent,
    Warned,
    ignore,
)
from gigatile.machine import available_cores, working
from gigatile.plans.plan import Plan
from gigatile.runs.begin import Existing, begun
from gigatile.runs.carrier import Carrier, open_carrier
from gigatile.runs.directory import MODELS, RunDirectory
from gigatile.runs.execution import RunWork
from gigatile.runs.runner import callbacks, how_to_run
from gigatile.runs.status import status
from gigatile.storage.open import open_store
from gigatile.storage.store import Store

MakePlan = Callable[[InputEntry], Plan]
OVERLAPPING = 2
"""Images that lanes of one process work on at a time: the end of one, and the next."""
MOST_ACTIVE = 1_000
"""Images that a cluster works on at a time."""


@dataclass(frozen=True, slots=True)
class CohortResult:
    """What a run over many images leaves behind."""

    directory: str
    complete: int
    failed: int
    """Images that failed, wholly or in part, or were refused."""


def run_cohort(
    entries: Sequence[InputEntry],
    make_plan: MakePlan,
    out: str | PathLike[str],
    *,
    executor: str | Path | Any = "threads",
    workers: int | None = None,
    existing: Existing = "resume",
    durable: bool = True,
    on_event: OnEvent = ignore,
    stop: Signal | None = None,
    budget_bytes: int = 0,
) -> CohortResult:
    """Carry out a plan for each of many images, each in ``out/<name>``; one bad image does not end the others.

    Parameters
    ----------
    entries : sequence of InputEntry
        See `gigatile.cohorts.inputs.resolve_inputs`.
    make_plan : callable
        Opens and plans one image; called in another thread, while others are worked on.
    out : path or URL
        The directory of the cohort; images of earlier runs in it stay.
    executor, workers, existing, durable, on_event, stop
        As for `gigatile.run`; `existing` is about each image's directory.
    budget_bytes : int
        What the plans were made for, to be shown.

    Raises
    ------
    RunRefused
        The directory holds something else, or a live run.
    StorageError
        The disk is full or went away; what is finished is kept.
    Cancelled
        `stop` was set.
    """
    store = open_store(fspath(out), durable=durable)
    summary = Summary.open(store)
    with open_carrier(executor, workers) as carrier, store.lock("lock"), working():
        # Not before the lock is ours: another run may be writing it.
        summary = Summary.open(store)
        summary.register(entries)
        teller = _Teller(store, summary, on_event)
        prepare = _Prepare(store, make_plan, carrier, existing, teller)
        limits = _limits(carrier)
        lanes = _lanes(carrier)
        on_event(CohortStarted(store.name, len(entries), lanes, budget_bytes))
        for entry in entries:
            if entry.problem:
                on_event(ImageEnded(entry.name, "failed", entry.problem))
        undone = (entry for entry in entries if not entry.problem)
        how = callbacks(on_event, stop)
        with summary, CohortWork(undone, prepare, teller, limits) as work:
            on_devices = False
            if carrier.kind == "processes" and (first := work.first(how.stop)) is not None:
                # As many as the budget holds, and no more: each keeps its share of it.
                lanes, on_devices = first.plan.memory.lanes, first.plan.model.model.device == "cuda"
            carrier.carry(work, lanes, how, on_devices=on_devices)
        complete = sum(summary[entry.name].state == "complete" for entry in entries)
        on_event(CohortEnded(complete, len(entries) - complete))
    return CohortResult(store.name, complete, len(entries) - complete)


def _lanes(carrier: Carrier) -> int:
    return 0 if carrier.kind == "cluster" else carrier.workers or available_cores()


def _limits(carrier: Carrier) -> Limits:
    if carrier.kind == "cluster":
        return Limits(active=MOST_ACTIVE, ahead=4, planners=2, memory_of="worker")
    return Limits(active=OVERLAPPING, ahead=2, memory_of="process" if carrier.kind == "threads" else "processes")


@dataclass(frozen=True)
class _Prepare:
    """Opens, plans and locks one image."""

    store: Store
    make_plan: MakePlan
    carrier: Carrier
    existing: Existing
    teller: _Teller

    def __call__(self, entry: InputEntry) -> AbstractContextManager[RunWork]:
        plan = self.make_plan(entry)
        directory = RunDirectory(self.store.below(entry.name))
        how = how_to_run(self.carrier, self.teller.of_image(entry.name))
        # Once for all images: a model may be larger than a result.
        how = replace(how, models=self.store.below(MODELS))
        shares = OVERLAPPING if self.carrier.kind == "threads" else 1
        return begun(plan, directory, self.carrier, how, self.existing, shares=shares)


@dataclass(frozen=True)
class _Teller:
    """Keeps the summary, and tells the display."""

    store: Store
    summary: Summary
    on_event: OnEvent

    def of_image(self, name: str) -> OnEvent:
        """What a run of one image tells, with its name; where it stands is told by `started` and `ended`."""

        def tell(event: Event) -> None:
            if isinstance(event, BlockFinished):
                self.on_event(replace(event, image=name))
            elif isinstance(event, Warned):
                self.on_event(replace(event, message=f"{name}: {event.message}"))

        return tell

    def started(self, entry: InputEntry, run: RunWork) -> None:
        """See `Report.started`."""
        blocks, pixels = run.plan.blocks.count, run.plan.grid.shape[0] * run.plan.grid.shape[1]
        self.summary.begin(entry.name, Blocks(blocks, run.finished_before), pixels)
        self.on_event(ImageStarted(entry.name, blocks, run.finished_before, pixels))

    def ended(self, entry: InputEntry, run: RunWork) -> None:
        """See `Report.ended`."""
        state = status(self.store.below(entry.name).name)
        self.summary.finish(entry.name, state)
        error = state.errors[0] if state.errors else ""
        self.on_event(ImageEnded(entry.name, "complete" if state.complete else "failed", error))

    def refused(self, entry: InputEntry, error: GigatileError) -> None:
        """See `Report.refused`."""
        unreadable = isinstance(error, ImageError | ModelError) or not isinstance(error, UsageError)
        self.summary.give_up(entry.name, "failed" if unreadable else "refused", str(error))
        self.on_event(ImageEnded(entry.name, "failed" if unreadable else "refused", str(error)))
