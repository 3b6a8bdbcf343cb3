"""What a worker process of a cluster does for `gigatile.executors.dask`: takes in jobs, and does keys of them.

Memory bound
------------
`JOBS_KEPT` jobs; one task at a time, whatever the number of the worker's threads.
"""

from __future__ import annotations

import asyncio
import pickle
import threading
import uuid
import zlib
from typing import Any, NamedTuple

from gigatile.executors.executor import Outcome

Token = tuple[str, str]
"""A run, and a job of it."""
_PROCESS = uuid.uuid4().hex
"""An address may be given to another process; this name is not."""
_JOBS: dict[Token, Any] = {}
"""The one that was used last at the end, as the client has it in mind; one that was only brought counts as used."""
_BEGUN: set[Token] = set()
"""Those that ran and did not rest since: one at most, for memory is planned for one job at a time."""
JOBS_KEPT = 2
"""By a process at a time; one that did more of them brings them in again."""
_ONE_AT_A_TIME = threading.Lock()
"""So that each task is alone in its process: it has all the memory, and it is known what a process died of."""


class Prepared(NamedTuple):
    """A process that has a job now."""

    process: str
    notes: tuple[str, ...]
    """What the user should know, see `Job.prepare`."""


class NotPreparedError(Exception):
    """The process does not have the job: it is another one by now, or had too many jobs since.

    Parameters
    ----------
    process : str
        Its name.
    """

    def __init__(self, process: str) -> None:
        super().__init__(process)
        self.process = process


def greet() -> None:
    """Something to do, so that there are workers."""


def prepare(token: Token, payload: bytes) -> Prepared:
    """Take in a pickled job, and find out whether it can be done here."""
    import cloudpickle

    with _ONE_AT_A_TIME:
        if token in _JOBS:
            return Prepared(_PROCESS, ())
        job = cloudpickle.loads(payload)
        notes = tuple(job.prepare())
        while len(_JOBS) >= JOBS_KEPT:
            _drop(next(iter(_JOBS)))
        _JOBS[token] = job
        return Prepared(_PROCESS, notes)


def packed(keys: tuple[Any, ...]) -> bytes:
    """Keys as they travel, 1 kB for 512 blocks.

    Dask keeps the last 1,000 messages to each worker, and the scheduler what is in them: as objects, 50 kB each.
    """
    return zlib.compress(pickle.dumps(keys), 1)


def run(token: Token, keys: bytes) -> Outcome:
    """Do some keys, which came `packed`.

    Raises
    ------
    NotPreparedError
        None of them was begun.
    GigatileError
        The whole run has to end.
    """
    import cloudpickle

    with _ONE_AT_A_TIME:
        job = _JOBS.get(token)
        if job is None:
            raise NotPreparedError(_PROCESS)
        for other in _BEGUN - {token}:
            _JOBS[other].rest()
            _BEGUN.remove(other)
        _BEGUN.add(token)
        _JOBS[token] = _JOBS.pop(token)
        outcome: Outcome = job(cloudpickle.loads(zlib.decompress(keys)), True, threading.Event(), _ignore)
        return outcome


async def forget(run: str) -> None:
    """Let go of a run's jobs as soon as nothing is done any more; for the event loop, which does not wait."""
    await asyncio.to_thread(_forget, run)


def _forget(run: str) -> None:
    with _ONE_AT_A_TIME:
        for token in [token for token in _JOBS if token[0] == run]:
            _drop(token)


def _drop(token: Token) -> None:
    _BEGUN.discard(token)
    _JOBS.pop(token).rest()


def _ignore(steps: int, size: int) -> None:
    """Progress inside a key does not travel."""
