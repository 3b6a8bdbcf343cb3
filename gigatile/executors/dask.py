"""Worker processes of a Dask cluster: those of `gigatile.executors.clusters`.

::

    worker seen ──▶ seat: the job is brought there and prepared ──▶ two tasks at most, pinned to it ──▶ gone: lost

Each task is pinned to the worker that took it, so that who died of what is known, and neighbours stay where their
chunks are. Nothing is left to Dask's own retries, queues, resources or locks: a window of `WINDOW` tasks a worker
is all that the client and the scheduler ever hold.
"""

from __future__ import annotations

import queue
import time
import uuid
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from gigatile.errors import GigatileError
from gigatile.executors import worker
from gigatile.executors.executor import Callbacks, Task, Work, cancelled

WINDOW = 2
"""Tasks a worker: one that runs, one that waits, so that no worker is idle between two."""
LOOK_SECONDS = 0.5
"""Between two looks at who is there; longer with thousands of workers."""
LONELY_SECONDS = 10.0
"""Without any worker, after which the user is told what is being waited for."""
INLINE_BYTES = 1 << 20
"""Jobs up to this size travel with the message that brings them; larger ones are spread by the workers."""
PAYLOADS_KEPT = 16
"""Pickled jobs that the client keeps; others are pickled again for workers that come late."""
DEATHS_PREPARING = 5
"""Workers that may die in a row while they take in a job that none ever took in: then it is the job."""


class _Answer(NamedTuple):
    """What came of a future."""

    future: Any
    value: Any
    error: Exception | None


@dataclass(slots=True)
class _Seat:
    """A worker process, as the client sees it."""

    open: bool = True
    """Whether it begins what it is sent: not while it is being retired, nor while Dask pauses it."""
    process: str = ""
    """Name of the process that prepared its jobs."""
    ready: dict[str, None] = field(default_factory=dict)
    """Jobs that it has prepared and keeps, the last one used at the end."""
    coming: set[str] = field(default_factory=set)
    """Jobs that are being brought to it."""
    waiting: list[Task[Any]] = field(default_factory=list)
    """Tasks that wait for their job."""
    running: dict[Any, Task[Any]] = field(default_factory=dict)
    """Futures of those that were handed over."""
    refused: dict[str, GigatileError] = field(default_factory=dict)
    """Jobs that it cannot do, and why."""


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
                try:
                    dispatcher.run()
                finally:
                    dispatcher.close()
            except (CancelledError, CommClosedError) as error:
                raise _scheduler_gone(type(error).__name__) from error


class _Dispatcher:
    """One run over the cluster: the loop that hands out and hears."""

    def __init__(self, client: Any, work: Work, callbacks: Callbacks) -> None:
        self._client, self._work, self._callbacks = client, work, callbacks
        self._seats: dict[str, _Seat] = {}
        self._futures: dict[Any, tuple[str, Task[Any] | str]] = {}
        """What each future is for: a task, or a job to be prepared, of which worker."""
        self._heard: queue.SimpleQueue[_Answer] = queue.SimpleQueue()
        self._name = uuid.uuid4().hex
        """Of this run, on the workers."""
        self._payloads: dict[str, Any] = {}
        self._looked = float("-inf")
        self._greeting: Any = None
        self._noted: set[str] = set()
        self._lonely_since: float | None = None
        self._taken_in: set[str] = set()
        """Jobs that some worker has prepared."""
        self._deaths: Counter[str] = Counter()
        """Workers that died while they prepared another job."""

    def run(self) -> None:
        while not self._work.finished:
            if self._callbacks.stop.is_set():
                raise cancelled()
            self._look()
            for address, seat in list(self._seats.items()):
                self._fill(address, seat)
            self._hear(0.1)

    def close(self) -> None:
        """Take back what was handed over; what a worker is doing it finishes, and then it forgets the jobs."""
        if self._client.status != "running":
            return
        futures = [*self._futures, *([self._greeting] if self._greeting is not None else [])]
        if futures:
            self._client.cancel(futures, force=True)
        used = [address for address, seat in self._seats.items() if seat.process]
        if used:
            self._client.run(worker.forget, self._name, workers=used, wait=False, on_error="ignore")

    def _look(self) -> None:
        """Who came, who went."""
        now = time.monotonic()
        if now - self._looked < max(LOOK_SECONDS, len(self._seats) / 2000):
            return
        self._looked = now
        if self._client.status != "running":
            raise _scheduler_gone(f"a client that is {self._client.status}")
        there = self._client.scheduler_info(n_workers=-1)["workers"]
        for address in self._seats.keys() - there.keys():
            self._gone(address)
        for address, known in there.items():
            seat = self._seats.setdefault(address, _Seat())
            seat.open = known["status"] == "running"
        self._greet(now)

    def _greet(self, now: float) -> None:
        """Without workers, or with none but such as cannot do what is left: say so after a while. Without any: make an
        adaptive cluster grow, for tasks of ours are for workers that are there."""
        if any(seat.running or seat.waiting or not seat.refused for seat in self._seats.values()):
            self._greeting = self._lonely_since = None
            return
        if self._greeting is None:
            self._greeting = self._client.submit(worker.greet, pure=False)
            self._lonely_since = now
        elif self._lonely_since is not None and now - self._lonely_since > LONELY_SECONDS:
            whose = "that can do the work " if self._seats else ""
            self._callbacks.warn(f"the cluster has no worker {whose}at present: the run waits for one")
            self._lonely_since = None

    def _fill(self, address: str, seat: _Seat) -> None:
        """Hand a worker as many tasks as it has room for."""
        while seat.open and len(seat.running) + len(seat.waiting) < WINDOW:
            held = [*seat.running.values(), *seat.waiting]
            # What another worker has done meanwhile may hang: whatever follows it would hang behind it.
            if any(task.alone or not self._work.matters(task) for task in held):
                return
            task = self._work.take(address, idle=not held, without=seat.refused.keys())
            if task is None:
                return
            if task.job in seat.ready:
                self._submit(address, seat, task)
                continue
            seat.waiting.append(task)
            if task.job not in seat.coming and not self._bring(address, seat, task.job):
                seat.waiting.remove(task)
                self._work.given_back(task, address)
                return

    def _submit(self, address: str, seat: _Seat, task: Task[Any]) -> None:
        seat.ready[task.job] = seat.ready.pop(task.job)
        future = self._pinned(address, worker.run, (self._name, task.job), worker.packed(task.keys))
        seat.running[future] = task
        self._listen_to(future, address, task)

    def _bring(self, address: str, seat: _Seat, job: str) -> bool:
        """Send a job to a worker; whether that was possible."""
        payload = self._payload(job)
        if payload is None:
            return False
        seat.coming.add(job)
        self._listen_to(self._pinned(address, worker.prepare, (self._name, job), payload), address, job)
        return True

    def _pinned(self, address: str, function: Any, *values: Any) -> Any:
        return self._client.submit(function, *values, pure=False, workers=[address], allow_other_workers=False)

    def _listen_to(self, future: Any, address: str, what: Task[Any] | str) -> None:
        self._futures[future] = (address, what)
        # Side by side in the client's own loop: one that does not come, since its worker died, holds up no other.
        self._client.loop.add_callback(self._fetch, future)

    async def _fetch(self, future: Any) -> None:
        try:
            self._heard.put(_Answer(future, await self._client.gather(future, asynchronous=True), None))
        except Exception as error:  # noqa: BLE001  judged by the thread that hears it
            self._heard.put(_Answer(future, None, error))

    def _payload(self, job: str) -> Any:
        """A job, pickled, or where workers find it; None: no worker could take it in just now."""
        if job not in self._payloads:
            import cloudpickle

            payload: Any = cloudpickle.dumps(self._work.job(job))
            if len(payload) > INLINE_BYTES:
                try:
                    payload = self._client.scatter(payload, hash=False)
                except OSError:  # TimeoutError is one: the worker that was chosen has gone
                    return None
            while len(self._payloads) >= PAYLOADS_KEPT:
                del self._payloads[next(iter(self._payloads))]
            self._payloads[job] = payload
        return self._payloads[job]

    def _hear(self, seconds: float) -> None:
        """Take in what has finished: wait for the first, not for the others."""
        try:
            answer = self._heard.get(timeout=seconds)
        except queue.Empty:
            return
        while True:
            self._take_in(answer)
            try:
                answer = self._heard.get_nowait()
            except queue.Empty:
                return

    def _take_in(self, answer: _Answer) -> None:
        address, what = self._futures.pop(answer.future, ("", ""))
        seat = self._seats.get(address)
        if seat is None:
            return  # of a worker that was given up
        if answer.error is not None and self._client.status != "running":
            raise _scheduler_gone("cancelled work") from answer.error
        if isinstance(what, str):
            self._prepared(address, seat, what, answer)
            return
        task = seat.running.pop(answer.future)
        if answer.error is None:
            self._work.done(task, address, answer.value)
        elif isinstance(answer.error, worker.NotPreparedError) and answer.error.process == seat.process:
            seat.ready.pop(task.job, None)
            self._work.given_back(task, address)
        elif isinstance(answer.error, worker.NotPreparedError):
            # Another process has the address now: the one that took the task in is dead.
            seat.ready.clear()
            self._work.lost(task, address)
        elif _is_loss(answer.error):
            self._work.lost(task, address)
        elif not self._work.matters(task):
            # Another was first, and its image may be over: what was being written then has been cleared away.
            self._work.given_back(task, address)
        else:
            raise answer.error

    def _prepared(self, address: str, seat: _Seat, job: str, answer: _Answer) -> None:
        """The job is there, or the worker is of no use."""
        waiting = [task for task in seat.waiting if task.job == job]
        seat.waiting = [task for task in seat.waiting if task.job != job]
        seat.coming.discard(job)
        if answer.error is not None:
            if _is_loss(answer.error):
                # What is spread by the workers may have gone with the one that held it: it is brought again.
                self._payloads.pop(job, None)
            else:
                self._refuse(address, seat, job, answer.error)
            for task in waiting:
                self._work.given_back(task, address)
            self._check_use(job)
            return
        prepared: worker.Prepared = answer.value
        self._taken_in.add(job)
        if prepared.process != seat.process:
            seat.process = prepared.process
            seat.ready.clear()
        while len(seat.ready) >= worker.JOBS_KEPT:
            del seat.ready[next(iter(seat.ready))]
        seat.ready[job] = None
        for note in prepared.notes:
            if note not in self._noted:
                self._noted.add(note)
                self._callbacks.warn(f"worker {address} {note}")
        for task in waiting:
            if self._work.matters(task):
                self._submit(address, seat, task)
            else:
                self._work.given_back(task, address)

    def _refuse(self, address: str, seat: _Seat, job: str, error: Exception) -> None:
        """A worker cannot do the job, for a reason that it gave or, without gigatile or in another version, did not."""
        if not isinstance(error, GigatileError):
            cause, error = (
                error,
                GigatileError(
                    f"worker {address}",
                    expected="a process that can take in the job",
                    found=f"{type(error).__name__}: {error}",
                    fix="Give all workers the client's versions of Python, gigatile, dask and what the model needs.",
                ),
            )
            error.__cause__ = cause
        seat.refused[job] = error
        note = f"worker {address} is not used: {error}"
        if note not in self._noted:
            self._noted.add(note)
            self._callbacks.warn(note)

    def _check_use(self, job: str) -> None:
        """Give a job up that no worker which is there can do."""
        reasons = [seat.refused.get(job) for seat in self._seats.values()]
        if reasons and all(reasons):
            self._work.refused(job, reasons[0] or _scheduler_gone("no worker"))
            for seat in self._seats.values():
                del seat.refused[job]  # nobody is asked to do it any more

    def _gone(self, address: str) -> None:
        """A worker died or was taken away."""
        seat = self._seats.pop(address)
        futures = [future for future, (owner, _) in self._futures.items() if owner == address]
        for future in futures:
            del self._futures[future]
        for task in seat.running.values():
            self._work.lost(task, address)
        for task in seat.waiting:
            self._work.given_back(task, address)
        if futures:
            self._client.cancel(futures, force=True)
        for job in seat.coming - self._taken_in:
            self._deaths[job] += 1
            if self._deaths[job] >= DEATHS_PREPARING:
                raise GigatileError(
                    "the workers of the cluster",
                    expected="to live on while they load the model and open the image",
                    found=f"{self._deaths[job]} that died of it, and none that did not",
                    fix="Look at their logs: memory, or a crash in a library. --executor threads shows it here.",
                )


def _is_loss(error: BaseException) -> bool:
    """Whether an error says that a worker went away; a job may raise any other, connection errors included."""
    from concurrent.futures import CancelledError

    from distributed import KilledWorker
    from distributed.comm import CommClosedError

    return isinstance(error, CancelledError | KilledWorker | CommClosedError)


def _scheduler_gone(found: str) -> GigatileError:
    return GigatileError(
        "the Dask scheduler",
        expected="an answer",
        found=f"{found}: it went away, or someone cancelled the work",
        fix="Start it again and repeat the command: what is finished is kept.",
    )
