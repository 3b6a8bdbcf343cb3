"""Worker processes of a Dask cluster: those of `gigatile.executors.clusters`.

::

    worker seen ──▶ seat: the job is brought there and prepared ──▶ two tasks at most, pinned to it ──▶ gone: lost

Each task is pinned to the worker that took it, so that who died of what is known, and neighbours stay where their
chunks are. Nothing is left to Dask's own retries, queues, resources or locks: a window of `WINDOW` tasks a worker
is all that the client and the scheduler ever hold.
"""

from __future__ import annotations

import hashlib
import queue
import threading
import time
from dataclasses import dataclass, field
from typing import Any

from gigatile.errors import GigatileError
from gigatile.executors.executor import Callbacks, Outcome, Task, Work, cancelled

WINDOW = 2
"""Tasks a worker: one that runs, one that waits, so that no worker is idle between two."""
LOOK_SECONDS = 0.5
"""Between two looks at who is there; longer with thousands of workers."""
RESULT_SECONDS = 20.0
"""After which a worker that had finished a task and does not hand out its answer counts as gone."""
INLINE_BYTES = 1 << 20
"""Jobs up to this size travel with the message that brings them; larger ones are spread by the workers."""


@dataclass(slots=True)
class _Seat:
    """A worker process, as the client sees it."""

    ready: set[str] = field(default_factory=set)
    """Jobs that it has prepared."""
    coming: set[str] = field(default_factory=set)
    """Jobs that are being brought to it."""
    waiting: list[Task[Any]] = field(default_factory=list)
    """Tasks that wait for their job."""
    running: dict[Any, Task[Any]] = field(default_factory=dict)
    """Futures of those that were handed over."""
    excluded: GigatileError | None = None
    """Why it is of no use."""


class DaskExecutor:
    """Has the workers of a cluster do work.

    Memory bound
    ------------
    `WINDOW` tasks and futures a worker, in the client and in the scheduler.

    Parameters
    ----------
    client : distributed.Client
    """

    def __init__(self, client: Any) -> None:
        self.client = client

    def run(self, work: Work, callbacks: Callbacks) -> None:
        """See `Executor.run`. Tasks that a worker is doing when the run is stopped are finished there.

        Raises
        ------
        GigatileError
            The scheduler went away, or no worker can be used.
        """
        from concurrent.futures import CancelledError

        from distributed.comm import CommClosedError

        dispatcher = _Dispatcher(self.client, work, callbacks)
        # Futures ask for the current client.
        with self.client.as_current():
            try:
                dispatcher.run()
            except (CancelledError, CommClosedError) as error:
                raise _scheduler_gone(type(error).__name__) from error
            finally:
                dispatcher.close()


class _Dispatcher:
    """One run over the cluster: the loop that hands out and hears."""

    def __init__(self, client: Any, work: Work, callbacks: Callbacks) -> None:
        self._client, self._work, self._callbacks = client, work, callbacks
        self._seats: dict[str, _Seat] = {}
        self._futures: dict[Any, tuple[str, Task[Any] | str]] = {}
        """What each future is for: a task, or a job to be prepared, of which worker."""
        self._heard: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._payloads: dict[str, tuple[str, Any]] = {}
        self._looked = float("-inf")
        self._greeting: Any = None
        self._noted: set[str] = set()

    def run(self) -> None:
        while not self._work.finished:
            if self._callbacks.stop.is_set():
                raise cancelled()
            self._look()
            for address, seat in list(self._seats.items()):
                self._fill(address, seat)
            self._hear(0.1)

    def close(self) -> None:
        """Take back what was handed over; what a worker is doing it finishes."""
        futures = [*self._futures, *([self._greeting] if self._greeting is not None else [])]
        if futures and self._client.status == "running":
            self._client.cancel(futures, force=True)

    def _look(self) -> None:
        """Who came, who went."""
        now = time.monotonic()
        if now - self._looked < max(LOOK_SECONDS, len(self._seats) / 2000):
            return
        self._looked = now
        if self._client.status != "running":
            raise _scheduler_gone(f"a client that is {self._client.status}")
        there = set(self._client.scheduler_info(n_workers=-1)["workers"])
        for address in self._seats.keys() - there:
            self._gone(address)
        for address in there - self._seats.keys():
            self._seats[address] = _Seat()
        if not there and self._greeting is None:
            # An adaptive cluster grows when there is something to do, and tasks of ours are for workers that are there.
            self._greeting = self._client.submit(_greet, pure=False)
        elif there:
            self._greeting = None

    def _fill(self, address: str, seat: _Seat) -> None:
        """Hand a worker as many tasks as it has room for."""
        while seat.excluded is None and len(seat.running) + len(seat.waiting) < WINDOW:
            held = [*seat.running.values(), *seat.waiting]
            # What another worker has done meanwhile may hang: whatever follows it would hang behind it.
            if any(task.alone or not self._work.matters(task) for task in held):
                return
            task = self._work.take(address, idle=not held)
            if task is None:
                return
            if task.job in seat.ready:
                self._submit(address, seat, task)
                continue
            seat.waiting.append(task)
            if task.job not in seat.coming:
                self._bring(address, seat, task.job)

    def _submit(self, address: str, seat: _Seat, task: Task[Any]) -> None:
        token, _ = self._payload(task.job)
        future = self._client.submit(
            _run, token, task.keys, pure=False, workers=[address], allow_other_workers=False, retries=0
        )
        seat.running[future] = task
        self._listen_to(future, address, task)

    def _bring(self, address: str, seat: _Seat, job: str) -> None:
        token, payload = self._payload(job)
        seat.coming.add(job)
        future = self._client.submit(
            _prepare, token, payload, pure=False, workers=[address], allow_other_workers=False, retries=0
        )
        self._listen_to(future, address, job)

    def _listen_to(self, future: Any, address: str, what: Task[Any] | str) -> None:
        self._futures[future] = (address, what)
        future.add_done_callback(self._heard.put)

    def _payload(self, job: str) -> tuple[str, Any]:
        """Its name on the workers, and itself, pickled."""
        if job not in self._payloads:
            import cloudpickle

            pickled: Any = cloudpickle.dumps(self._work.job(job))
            token = hashlib.sha256(pickled).hexdigest()
            if len(pickled) > INLINE_BYTES:
                pickled = self._client.scatter(pickled, hash=False)
            while len(self._payloads) >= 64:
                del self._payloads[next(iter(self._payloads))]
            self._payloads[job] = (token, pickled)
        return self._payloads[job]

    def _hear(self, seconds: float) -> None:
        """Take in what has finished: wait for the first, not for the others."""
        try:
            future = self._heard.get(timeout=seconds)
        except queue.Empty:
            return
        while True:
            self._take_in(future)
            try:
                future = self._heard.get_nowait()
            except queue.Empty:
                return

    def _take_in(self, future: Any) -> None:
        address, what = self._futures.pop(future, ("", ""))
        seat = self._seats.get(address)
        if seat is None:
            return  # of a worker that was given up
        if future.status == "cancelled" and self._client.status != "running":
            raise _scheduler_gone("cancelled work")
        if isinstance(what, str):
            self._prepared(address, seat, what, future)
            return
        task = seat.running.pop(future)
        try:
            outcome = future.result(timeout=RESULT_SECONDS)
        except _NotPrepared:
            seat.ready.discard(task.job)
            self._work.given_back(task, address)
        except GigatileError:
            raise
        except Exception as error:
            if _is_loss(error):
                self._work.lost(task, address)
                return
            raise
        else:
            self._work.done(task, address, outcome)

    def _prepared(self, address: str, seat: _Seat, job: str, future: Any) -> None:
        """The job is there, or the worker is of no use."""
        waiting = [task for task in seat.waiting if task.job == job]
        seat.waiting = [task for task in seat.waiting if task.job != job]
        seat.coming.discard(job)
        error = future.exception() if future.status == "error" else None
        if future.status == "cancelled":
            # Its data went with the worker that held it: it is brought again.
            self._payloads.pop(job, None)
        elif error is None:
            self._note(address, future)
            seat.ready.add(job)
            for task in waiting:
                self._submit(address, seat, task)
            return
        elif isinstance(error, GigatileError):
            seat.excluded = error
            self._callbacks.warn(f"worker {address} is not used: {error}")
        elif not _is_loss(error):
            raise error
        for task in waiting:
            self._work.given_back(task, address)
        reasons = [other.excluded for other in self._seats.values()]
        if reasons and all(reasons):
            raise reasons[0] or _scheduler_gone("no worker")

    def _note(self, address: str, future: Any) -> None:
        """Hand on what a worker has to say; a worker that dies at once is noticed in time."""
        try:
            notes = future.result(timeout=RESULT_SECONDS)
        except Exception as error:
            if not _is_loss(error):
                raise
            return
        for note in notes:
            if note not in self._noted:
                self._noted.add(note)
                self._callbacks.warn(f"worker {address} {note}")

    def _gone(self, address: str) -> None:
        """A worker died or was taken away."""
        seat = self._seats.pop(address)
        futures = [future for future, (owner, _) in self._futures.items() if owner == address]
        for future in futures:
            del self._futures[future]
        # What it finished before counts, if its answer had still been handed out.
        lost = dict(seat.running)
        for future, task in lost.items():
            if future.status == "error" and not _is_loss(future.exception()):
                raise future.exception()
            self._work.lost(task, address)
        for task in seat.waiting:
            self._work.given_back(task, address)
        if futures:
            self._client.cancel(futures, force=True)


def _is_loss(error: BaseException) -> bool:
    """Whether an error of a future says that its worker, and not its job, is the matter."""
    from concurrent.futures import CancelledError

    from distributed import KilledWorker
    from distributed.comm import CommClosedError

    return isinstance(error, CancelledError | KilledWorker | CommClosedError | TimeoutError | ConnectionError)


def _scheduler_gone(found: str) -> GigatileError:
    return GigatileError(
        "the Dask scheduler",
        expected="an answer",
        found=f"{found}: it went away, or someone cancelled the work",
        fix="Start it again and repeat the command: what is finished is kept.",
    )


class _NotPrepared(Exception):
    """A worker process was started anew at the same address."""


_JOBS: dict[str, Any] = {}
_JOBS_KEPT = 2
_ONE_AT_A_TIME = threading.Lock()


def _greet() -> None:
    """Something to do, so that there are workers."""


def _prepare(token: str, payload: bytes) -> tuple[str, ...]:
    """On a worker: take in a job, and find out whether it can be done here."""
    import cloudpickle

    with _ONE_AT_A_TIME:
        if token in _JOBS:
            return ()
        job = cloudpickle.loads(payload)
        notes = tuple(job.prepare())
        while len(_JOBS) >= _JOBS_KEPT:
            oldest = next(iter(_JOBS))
            _JOBS.pop(oldest).rest()
        _JOBS[token] = job
        return notes


def _run(token: str, keys: tuple[Any, ...]) -> Outcome:
    """On a worker: do some keys. One task at a time, whatever its number of threads, so that each is alone."""
    with _ONE_AT_A_TIME:
        job = _JOBS.get(token)
        if job is None:
            raise _NotPrepared(token)
        # Memory is planned for one job at a time; the last one in the table is the one that ran last.
        if next(reversed(_JOBS)) != token:
            _JOBS[next(reversed(_JOBS))].rest()
            _JOBS[token] = _JOBS.pop(token)
        outcome: Outcome = job(keys, True, threading.Event(), _ignore)
        return outcome


def _ignore(steps: int, size: int) -> None:
    """Progress inside a key does not travel."""
