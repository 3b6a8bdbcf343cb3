"""Many images as one piece of work, so that the last blocks of one do not leave workers idle.

::

    entries ──prepare (in the background: open, plan, lock)──▶ prepared ──▶ active runs ──▶ ended
                                                               as soon as there is nothing left to hand out
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from threading import Event
from typing import Any, Literal, Protocol

from gigatile.cohorts.inputs import InputEntry
from gigatile.errors import Cancelled, GigatileError, StorageError
from gigatile.executors.executor import Job, Outcome, Task
from gigatile.runs.execution import RunWork

Begin = Callable[[InputEntry], AbstractContextManager[RunWork]]
"""Opens, plans and locks one image; called in a thread of its own."""


class Report(Protocol):
    """Told what becomes of images; by the thread that hands out work."""

    def started(self, entry: InputEntry, run: RunWork) -> None:
        """Its blocks join the queue."""
        ...

    def ended(self, entry: InputEntry, run: RunWork) -> None:
        """Nothing more will happen to it."""
        ...

    def refused(self, entry: InputEntry, error: GigatileError) -> None:
        """It cannot be done."""
        ...


@dataclass(frozen=True, slots=True)
class Limits:
    """How many images at once."""

    active: int
    """From which blocks are handed out."""
    ahead: int
    """Prepared and waiting, or being prepared."""
    planners: int = 1
    """Threads that prepare."""
    memory_of: Literal["process", "processes", "worker"] = "process"
    """What a budget is that of: this process, of which each image was given a share; all worker processes together; or
    each worker, whatever their number."""


@dataclass(slots=True)
class _Active:
    entry: InputEntry
    run: RunWork
    stack: ExitStack
    workers: Counter[str] = field(default_factory=Counter)
    """Tasks of it that each worker has in hand. Who is gone has none, and is in nobody's way."""

    def came_back(self, worker: str) -> None:
        """A worker has one task less, however that came."""
        self.workers[worker] -= 1
        self.workers += Counter()  # leaves out those without any


class CohortWork:
    """See `Work`; use it as a context manager, which lets go of what is still open.

    Memory bound
    ------------
    The plans and states of `Limits.active` + `Limits.ahead` images; one entry an image.
    """

    def __init__(self, entries: Iterator[InputEntry], begin: Begin, report: Report, limits: Limits) -> None:
        self._entries, self._begin, self._report, self._limits = entries, begin, report, limits
        self._planners = ThreadPoolExecutor(limits.planners, "gigatile-plan")
        self._prepared: list[tuple[InputEntry, Future[tuple[RunWork, ExitStack]]]] = []
        self._active: dict[str, _Active] = {}
        self._exhausted = False
        self._fill()

    def __enter__(self) -> CohortWork:
        return self

    def __exit__(self, *error: object) -> None:
        self._exhausted = True
        for _, future in self._prepared:
            future.cancel()
        self._planners.shutdown(wait=True)
        for _, future in self._prepared:
            if future.done() and not future.cancelled() and future.exception() is None:
                future.result()[1].close()
        for active in self._active.values():
            active.stack.close()

    def first(self, stop: Event) -> RunWork | None:
        """The first image in which something is to be done, once it is prepared; None: no image is left, or `stop` was
        set."""
        while not self._active and not self.finished and not stop.is_set():
            wait([future for _, future in self._prepared], timeout=0.1, return_when=FIRST_COMPLETED)
        return next((active.run for active in self._active.values()), None)

    @property
    def finished(self) -> bool:
        """See `Work.finished`."""
        while not self._active and self._admit():
            pass
        return self._exhausted and not self._prepared and not self._active

    def job(self, token: str) -> Job[Any]:
        """See `Work.job`."""
        return self._active[token].run.job(token)

    def take(self, worker: str, *, idle: bool, without: Collection[str] = ()) -> Task[Any] | None:
        """See `Work.take`: images are finished in the order in which they came, as far as that keeps all busy."""
        while True:
            for active in list(self._active.values()):
                if not self._has_room(active, worker):
                    continue
                task = active.run.take(worker, idle=idle, without=without)
                if task is not None:
                    active.workers[worker] += 1
                    return task
                if active.run.drains(worker):
                    return None
            # Not before: each image holds a lock, an open file and a few arrays.
            if not self._admit():
                return None

    def refused(self, job: str, error: GigatileError) -> None:
        """See `Work.refused`: the other images go on, unless it is the storage that they share."""
        active = self._active.pop(job, None)
        if active is None:
            return
        active.stack.close()
        if isinstance(error, StorageError):
            raise error
        self._report.refused(active.entry, error)

    def done(self, task: Task[Any], worker: str, outcome: Outcome) -> None:
        """See `Work.done`."""
        active = self._active.get(task.job)
        if active is not None:
            active.came_back(worker)
            active.run.done(task, worker, outcome)
            self._end_if_finished(active)

    def lost(self, task: Task[Any], worker: str) -> None:
        """See `Work.lost`."""
        active = self._active.get(task.job)
        if active is not None:
            active.came_back(worker)
            active.run.lost(task, worker)
            self._end_if_finished(active)

    def given_back(self, task: Task[Any], worker: str) -> None:
        """See `Work.given_back`."""
        active = self._active.get(task.job)
        if active is not None:
            active.came_back(worker)
            active.run.given_back(task, worker)

    def matters(self, task: Task[Any]) -> bool:
        """See `Work.matters`."""
        active = self._active.get(task.job)
        return active is not None and active.run.matters(task)

    def _fill(self) -> None:
        """Have the next images prepared."""
        while not self._exhausted and len(self._prepared) < self._limits.ahead:
            entry = next(self._entries, None)
            if entry is None:
                self._exhausted = True
            else:
                self._prepared.append((entry, self._planners.submit(self._prepare, entry)))

    def _prepare(self, entry: InputEntry) -> tuple[RunWork, ExitStack]:
        with ExitStack() as stack:
            run = stack.enter_context(self._begin(entry))
            return run, stack.pop_all()

    def _admit(self) -> bool:
        """Let in the next image that is prepared, if there is room; whether there was one."""
        self._fill()
        for item in self._prepared:
            if item[1].done() and self._fits(item[1]):
                self._prepared.remove(item)
                self._fill()
                self._let_in(*item)
                return True
        return False

    def _fits(self, future: Future[tuple[RunWork, ExitStack]]) -> bool:
        if future.exception() is not None or not self._active:
            return True
        if len(self._active) >= self._limits.active:
            return False
        runs = [active.run for active in self._active.values()]
        alone = any(run.plan.memory.shares == 1 for run in (*runs, future.result()[0]))
        return not (self._limits.memory_of == "process" and alone)

    def _let_in(self, entry: InputEntry, future: Future[tuple[RunWork, ExitStack]]) -> None:
        try:
            run, stack = future.result()
        except (StorageError, Cancelled):
            raise
        except GigatileError as error:
            self._report.refused(entry, error)
            return
        active = self._active[run.name] = _Active(entry, run, stack)
        self._report.started(entry, run)
        self._end_if_finished(active)

    def _end_if_finished(self, active: _Active) -> None:
        if not active.run.finished:
            return
        del self._active[active.run.name]
        active.stack.close()
        self._report.ended(active.entry, active.run)

    def _has_room(self, active: _Active, worker: str) -> bool:
        """Whether one more block of the image keeps to what was planned: lanes of a process, or processes."""
        share = 1 / active.run.plan.memory.lanes
        if self._limits.memory_of == "worker":
            return True
        if self._limits.memory_of == "process":
            used = sum(other.run.in_flight / other.run.plan.memory.lanes for other in self._active.values())
            return used + share <= 1 + 1e-9
        shares = {worker: share}
        for other in self._active.values():
            for busy in other.workers:  # one task at a time: what it has in hand of several images does not add up
                shares[busy] = max(shares.get(busy, 0), 1 / other.run.plan.memory.lanes)
        return sum(shares.values()) <= 1 + 1e-9
