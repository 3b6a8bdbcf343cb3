"""Lanes as threads of this process."""

from __future__ import annotations

import queue
import threading
from dataclasses import dataclass
from typing import Any

from gigatile.errors import Cancelled
from gigatile.executors.executor import Callbacks, Outcome, Task, Work, cancelled

HERE = "this process"
"""The one worker that all lanes are parts of: they share what is decoded, and they die together."""
_PAUSE_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class _Report:
    """A lane came back with a task."""

    task: Task[Any]
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class _LaneEnded:
    """A lane's last report."""

    error: BaseException | None
    """Why it broke; None: there was no more work."""


class ThreadExecutor:
    """`lanes` threads that take one task after the other.

    Memory bound
    ------------
    Two tasks a lane: one in work, one whose outcome waits for the calling thread, which only reports.
    """

    def __init__(self, lanes: int) -> None:
        self.lanes = lanes

    def run(self, work: Work, callbacks: Callbacks) -> None:
        """See `Executor.run`. The calling thread reports, and notices the stop signal."""
        _Lanes(self.lanes, work, callbacks).run()


class _Lanes:
    """One run of the threads."""

    def __init__(self, lanes: int, work: Work, callbacks: Callbacks) -> None:
        self._lanes, self._work, self._callbacks = lanes, work, callbacks
        self._halt = threading.Event()
        self._turn = threading.Lock()
        """Held by whoever talks to the work."""
        self._busy = 0
        self._alone = False
        self._window = threading.Semaphore(2 * lanes)
        self._reports: queue.SimpleQueue[_Report | _LaneEnded] = queue.SimpleQueue()

    def run(self) -> None:
        threads = [
            threading.Thread(target=self._lane, name=f"gigatile-lane-{i}", daemon=True) for i in range(self._lanes)
        ]
        for thread in threads:
            thread.start()
        try:
            error = self._listen()
        finally:
            self._halt.set()
            for thread in threads:
                thread.join()
        if error is not None:
            raise error
        if self._callbacks.stop.is_set() and not self._work.finished:
            raise cancelled()

    def _listen(self) -> BaseException | None:
        """Report until all lanes have ended; the reason, if one broke."""
        first_error: BaseException | None = None
        alive = self._lanes
        while alive:
            # Before each report, too: tasks may be finished faster than the queue is ever empty.
            if self._callbacks.stop.is_set():
                self._halt.set()
            try:
                report = self._reports.get(timeout=0.1)
            except queue.Empty:
                continue
            if isinstance(report, _Report):
                with self._turn:
                    self._work.done(report.task, HERE, report.outcome)
                self._window.release()
                continue
            alive -= 1
            # Lanes that were merely told to stop do not hide the reason.
            if report.error is not None and (first_error is None or isinstance(first_error, Cancelled)):
                first_error = report.error
        return first_error

    def _lane(self) -> None:
        try:
            while not self._halt.is_set():
                if not self._window.acquire(timeout=0.1):
                    continue
                task, job = self._take()
                if task is None:
                    self._window.release()
                    with self._turn:
                        if self._work.finished:
                            break
                    # Others are still at it: they may fail, and what follows may need them.
                    self._halt.wait(_PAUSE_SECONDS)
                    continue
                try:
                    outcome = job(task.keys, task.alone, self._halt, self._callbacks.notify)
                finally:
                    with self._turn:
                        self._busy -= 1
                        self._alone = False
                self._reports.put(_Report(task, outcome))
            self._reports.put(_LaneEnded(None))
        except BaseException as error:  # noqa: BLE001  raised by the calling thread
            self._halt.set()
            self._reports.put(_LaneEnded(error))

    def _take(self) -> tuple[Task[Any] | None, Any]:
        with self._turn:
            if self._alone:
                return None, None
            task = self._work.take(HERE, idle=self._busy == 0)
            if task is None:
                return None, None
            self._busy += 1
            self._alone = task.alone
            return task, self._work.job(task.job)
