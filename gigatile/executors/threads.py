"""Lanes as threads of this process."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass

from gigatile.errors import Cancelled
from gigatile.executors.executor import Callbacks, Job, K, R, cancelled


@dataclass(frozen=True, slots=True)
class _LaneEnded:
    """A lane's last report."""

    error: BaseException | None
    """Why it broke; None: there were no more keys."""


@dataclass(frozen=True, slots=True)
class ThreadExecutor:
    """`lanes` threads that take one key after the other.

    Memory bound
    ------------
    Two keys a lane: one in work, one whose result waits for the calling thread, which only reports.
    """

    lanes: int

    def run(self, job: Job[K, R], keys: Iterator[K], callbacks: Callbacks[K, R]) -> None:
        """See `Executor.run`. The calling thread reports, and notices the stop signal."""
        halt, taking = threading.Event(), threading.Lock()
        window = threading.Semaphore(2 * self.lanes)
        reports: queue.SimpleQueue[R | _LaneEnded] = queue.SimpleQueue()

        def lane() -> None:
            try:
                while not halt.is_set():
                    if not window.acquire(timeout=0.1):
                        continue
                    with taking:
                        key = next(keys, None)
                    if key is None:
                        break
                    reports.put(job(key, halt, callbacks.notify))
                reports.put(_LaneEnded(None))
            except BaseException as error:  # noqa: BLE001  raised by the calling thread
                halt.set()
                reports.put(_LaneEnded(error))

        threads = [threading.Thread(target=lane, name=f"gigatile-lane-{i}", daemon=True) for i in range(self.lanes)]
        for thread in threads:
            thread.start()
        first_error: BaseException | None = None
        alive = len(threads)
        try:
            while alive:
                # Before each report, too: keys may be finished faster than the queue is ever empty.
                if callbacks.stop.is_set():
                    halt.set()
                try:
                    report = reports.get(timeout=0.1)
                except queue.Empty:
                    continue
                if not isinstance(report, _LaneEnded):
                    callbacks.done(report)
                    window.release()
                    continue
                alive -= 1
                # Lanes that were merely told to stop do not hide the reason.
                if report.error is not None and (first_error is None or isinstance(first_error, Cancelled)):
                    first_error = report.error
        finally:
            halt.set()
            for thread in threads:
                thread.join()
        if first_error is not None:
            raise first_error
        if callbacks.stop.is_set():
            raise cancelled()
