"""Worker processes of a Dask cluster: one started here for the run, or one that is already there.

Keys are submitted in a window of a few per worker, so that neither the client nor the scheduler holds more than
that, a dying worker is blamed for few of them, and workers that come later get their share. A worker process does
one key at a time, whatever its number of threads.
"""

from __future__ import annotations

import hashlib
import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

from gigatile.errors import GigatileError, UsageError
from gigatile.executors.executor import Callbacks, Job, K, R, cancelled

WINDOW_PER_WORKER = 2
"""One that runs, one that waits, so that no worker is idle between two keys."""
INLINE_BYTES = 1 << 20
"""Jobs up to this size travel with each key; larger ones (an array in memory) are sent to the workers once."""


@dataclass(frozen=True, slots=True)
class DaskExecutor:
    """Runs jobs on the workers of a cluster.

    Memory bound
    ------------
    `WINDOW_PER_WORKER` futures a worker.
    """

    client: Any
    """A ``distributed.Client``."""

    def run(self, job: Job[K, R], keys: Iterator[K], callbacks: Callbacks[K, R]) -> None:
        """See `Executor.run`. Keys that a worker is doing when the run is stopped are finished there.

        Raises
        ------
        GigatileError
            The scheduler went away.
        """
        from concurrent.futures import CancelledError

        import cloudpickle
        from distributed.comm import CommClosedError

        payload: Any = cloudpickle.dumps(job)
        token = hashlib.sha256(payload).hexdigest()
        if len(payload) > INLINE_BYTES:
            payload = self.client.scatter(payload, broadcast=True, hash=False)
        held: dict[Any, K] = {}
        # distributed.wait asks for the current client, not for that of the futures.
        with self.client.as_current():
            try:
                submit = partial(self.client.submit, _run, token, payload, pure=False)
                self._drain(held, submit, keys, callbacks)
            except (CancelledError, CommClosedError) as error:
                raise GigatileError(
                    "the Dask scheduler",
                    expected="an answer",
                    found=f"{type(error).__name__}: it went away, or someone cancelled the work",
                    fix="Start it again and repeat the command: what is finished is kept.",
                ) from error

    def _drain(
        self, held: dict[Any, K], submit: Callable[[K], Any], keys: Iterator[K], callbacks: Callbacks[K, R]
    ) -> None:
        try:
            while True:
                # Workers may have left meanwhile: then the window is smaller than what is held.
                for key in islice(keys, max(self._window() - len(held), 0)):
                    held[submit(key)] = key
                if not held:
                    return
                if callbacks.stop.is_set():
                    raise cancelled()
                for future in _finished(list(held)):
                    self._report(future, held.pop(future), callbacks)
        finally:
            self.client.cancel(list(held), force=True)

    @staticmethod
    def _report(future: Any, key: K, callbacks: Callbacks[K, R]) -> None:
        from distributed import KilledWorker

        error = future.exception()
        if isinstance(error, KilledWorker):
            callbacks.lost(key, error)
        elif error is not None:
            raise error
        else:
            callbacks.done(future.result())

    def _window(self) -> int:
        # A cluster that is still empty gets work for one worker, so that an adaptive one starts to grow.
        return WINDOW_PER_WORKER * max(len(self.client.scheduler_info(n_workers=-1)["workers"]), 1)


def _finished(futures: list[Any]) -> list[Any]:
    """Those that are done, after waiting for at most a moment: the stop signal must be seen."""
    from distributed import wait

    try:
        return list(wait(futures, timeout=0.2, return_when="FIRST_COMPLETED").done)
    except TimeoutError:
        return []


@contextmanager
def local_cluster(workers: int) -> Iterator[Any]:
    """A client of `workers` processes on this machine, which end with the block."""
    from distributed import Client, LocalCluster

    with ExitStack() as stack:
        with _deaf_to_interrupts():
            # Our budget is ours: at its own limit a nanny would pause and kill workers.
            cluster = LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                processes=True,
                memory_limit=0,
                # Its pages are served in any case; on port 8787 a second run on this machine would be warned of.
                dashboard_address="127.0.0.1:0",
                silence_logs=50,
            )
        stack.enter_context(cluster)
        yield stack.enter_context(Client(cluster))


@contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """Processes started meanwhile do not die of the Ctrl-C that a terminal sends to all: we stop them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def existing_cluster(address: Any) -> Iterator[Any]:
    """A client of a scheduler that is already there; a client that is passed in stays open.

    Raises
    ------
    UsageError
        Nobody answers at the address.
    """
    from distributed import Client

    if isinstance(address, Client):
        yield address
        return
    try:
        client = Client(address, timeout="10s", set_as_default=False)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"executor {address}",
            expected="a Dask scheduler at this address",
            found=str(error).splitlines()[0],
            fix="Start one with `dask scheduler`, and workers with `dask worker tcp://HOST:PORT`.",
        ) from error
    # What goes wrong is raised here; distributed would print its tracebacks besides.
    logger = logging.getLogger("distributed.client")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        with client:
            yield client
    finally:
        logger.setLevel(level)


def worker_limits(client: Any) -> list[int]:
    """Memory limits, in bytes, of the workers that are there now; 0 for one without."""
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    return [int(worker["memory_limit"] or 0) for worker in workers]


_JOBS: dict[str, Any] = {}
_ONE_AT_A_TIME = threading.Lock()


def _run(token: str, payload: bytes, key: Any) -> Any:
    """On a worker: load the job once, then do one key after the other."""
    import cloudpickle

    with _ONE_AT_A_TIME:
        job = _JOBS.get(token)
        if job is None:
            _JOBS.clear()
            job = _JOBS[token] = cloudpickle.loads(payload)
        return job(key, threading.Event(), _ignore)


def _ignore(count: int) -> None:
    """Progress inside a key does not travel."""
