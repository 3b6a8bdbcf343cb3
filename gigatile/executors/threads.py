"""Lanes as threads of this process."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass

from gigatile.errors import Cancelled
from gigatile.executors.executor import Callbacks, Job, K, R, cancelled


@dataclass(frozen=True, slots=True)
class ThreadExecutor:
    """`lanes` threads that take one key after the other.

    Memory bound
    ------------
    One key a lane; results wait for the calling thread, which does nothing but report them.
    """

    lanes: int

    def run(self, job: Job[K, R], keys: Iterator[K], callbacks: Callbacks[K, R]) -> None:
        """See `Executor.run`. The calling thread reports, and notices the stop signal."""
        halt, taking = threading.Event(), threading.Lock()
        # (result, None) for a finished key, (None, error) when a lane breaks, (None, None) when it ends.
        reports: queue.SimpleQueue[tuple[R | None, BaseException | None]] = queue.SimpleQueue()

        def lane() -> None:
            try:
                while not halt.is_set():
                    with taking:
                        key = next(keys, None)
                    if key is None:
                        break
                    reports.put((job(key, halt, callbacks.notify), None))
                reports.put((None, None))
            except BaseException as error:  # noqa: BLE001  raised by the calling thread
                halt.set()
                reports.put((None, error))

        threads = [threading.Thread(target=lane, name=f"gigatile-lane-{i}", daemon=True) for i in range(self.lanes)]
        for thread in threads:
            thread.start()
        first_error: BaseException | None = None
        alive = len(threads)
        try:
            while alive:
                try:
                    result, error = reports.get(timeout=0.1)
                except queue.Empty:
                    if callbacks.stop.is_set():
                        halt.set()
                    continue
                if result is not None:
                    callbacks.done(result)
                    continue
                alive -= 1
                # Lanes that were merely told to stop do not hide the reason.
                if error is not None and (first_error is None or isinstance(first_error, Cancelled)):
                    first_error = error
        finally:
            halt.set()
            for thread in threads:
                thread.join()
        if first_error is not None:
            raise first_error
        if callbacks.stop.is_set():
            raise cancelled()
