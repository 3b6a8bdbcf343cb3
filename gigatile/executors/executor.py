"""What an executor is: it lets workers take tasks, and says what became of them. It knows no image words.

::

    Work ──take──▶ Task (keys of one job) ──▶ Job on a worker ──▶ done | failed keys | lost with the worker ──▶ Work
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass, field
from threading import Event
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from gigatile.errors import BlockError, Cancelled, GigatileError

K = TypeVar("K", bound=Hashable)
R = TypeVar("R")
K_contra = TypeVar("K_contra", contravariant=True)
R_co = TypeVar("R_co", covariant=True)
Notify = Callable[[int, int], None]
"""Told about progress inside a key, where that is possible: a number of steps, and their size together."""


@dataclass(frozen=True, slots=True)
class Task(Generic[K]):
    """Some keys that one worker does in one go."""

    number: int
    """Of this task among all of its work."""
    job: str
    """Which job it is for, see `Work.job`."""
    keys: tuple[K, ...]
    alone: bool = False
    """Nothing else may run in the worker's process: it died of these keys before, or of what ran beside them."""


class Failure(NamedTuple):
    """A key that could not be done, and why."""

    key: Any
    error: BlockError


class Outcome(NamedTuple):
    """What became of the keys of a task whose worker lived on."""

    results: Sequence[Any]
    """One for each key that was done."""
    failures: Sequence[Failure] = ()
    """The others."""


class Job(Protocol[K_contra]):
    """Does keys and makes their results durable. Picklable if it is to leave the process."""

    def prepare(self) -> Sequence[str]:
        """Raise what would keep this process from doing any key, such as a file that it does not see; returns what
        the user should know."""
        ...

    def rest(self) -> None:
        """Let go of what is held between calls, such as caches; it may be called again later."""
        ...

    def __call__(self, keys: Sequence[K_contra], alone: bool, stop: Event, notify: Notify) -> Outcome:
        """Do them one after the other.

        Raises
        ------
        GigatileError
            The whole run has to end. What is wrong with one key is an `Outcome`.
        """
        ...


class Work(Protocol):
    """Where an executor gets its tasks; its methods are called by one thread at a time."""

    @property
    def finished(self) -> bool:
        """Whether nothing is left, and nothing in flight matters any more."""
        ...

    def take(self, worker: str, *, idle: bool, without: Collection[str] = ()) -> Task[Any] | None:
        """The next task for a worker; None: nothing for it now.

        Parameters
        ----------
        worker : str
            Anything that is the same for the same process.
        idle : bool
            Whether it has nothing else in hand.
        without : collection of str
            Jobs that it cannot do.
        """
        ...

    def refused(self, job: str, error: GigatileError) -> None:
        """No worker can do a job: raise the error, or go on with the others."""
        ...

    def job(self, token: str) -> Job[Any]:
        """The job of a task."""
        ...

    def done(self, task: Task[Any], worker: str, outcome: Outcome) -> None:
        """A worker came back."""
        ...

    def lost(self, task: Task[Any], worker: str) -> None:
        """A worker died, or went away, with a task that it may have begun."""
        ...

    def given_back(self, task: Task[Any], worker: str) -> None:
        """A worker refused a task before it began it."""
        ...

    def matters(self, task: Task[Any]) -> bool:
        """Whether the task is still worth waiting for: not once another worker has done its keys."""
        ...


@dataclass(frozen=True)
class Callbacks:
    """How an executor is told to stop, and what it tells besides what became of tasks."""

    stop: Event = field(default_factory=Event)
    """Set from outside to end early: tasks in flight are given up."""
    notify: Notify = lambda steps, size: None
    """Passed to jobs in this process."""
    warn: Callable[[str], None] = lambda text: None
    """Told what the user should know, such as a worker that cannot be used."""


class Executor(Protocol):
    """Has workers do work, never holding more than a window of its tasks."""

    def run(self, work: Work, callbacks: Callbacks) -> None:
        """Run until the work is finished, a job raises, or `callbacks.stop` is set.

        Raises
        ------
        GigatileError
            What a job raised; the others have been told to stop.
        Cancelled
            `callbacks.stop` was set.
        """
        ...


def cancelled() -> Cancelled:
    """The error that says that the user asked to stop."""
    return Cancelled("the run", found="a request to stop", fix="Repeat the command to resume.")
