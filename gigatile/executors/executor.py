"""What an executor is: one method over keys. It knows no image words."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from threading import Event
from typing import Any, Generic, Protocol, TypeVar

K = TypeVar("K")
R = TypeVar("R")
K_contra = TypeVar("K_contra", contravariant=True)
R_co = TypeVar("R_co", covariant=True)
Notify = Callable[[int], None]
"""Told about progress inside a key, where that is possible."""


class Job(Protocol[K_contra, R_co]):
    """Does the work of one key and makes its result durable. Picklable if it is to leave the process."""

    def __call__(self, key: K_contra, stop: Event, notify: Notify) -> R_co:
        """Do it; raise to end the whole run."""
        ...


@dataclass(frozen=True)
class Callbacks(Generic[K, R]):
    """Where an executor reports; called from one thread."""

    done: Callable[[R], None]
    """A job returned."""
    lost: Callable[[K, BaseException], None]
    """The process that held a key died, and no other could do it either."""
    notify: Notify
    """Passed to jobs in this process."""
    stop: Event
    """Set from outside to end the run early: keys in flight are given up."""


class Executor(Protocol):
    """Runs a job over keys, never holding more than a window of them."""

    def run(self, job: Job[K, R], keys: Iterator[K], callbacks: Callbacks[K, R]) -> None:
        """Run until the keys are used up, a job raises, or `callbacks.stop` is set.

        Raises
        ------
        GigatileError
            What a job raised; the others have been told to stop and have ended.
        Cancelled
            `callbacks.stop` was set.
        """
        ...


def cancelled() -> Any:
    """The error that says that the user asked to stop."""
    from gigatile.errors import Cancelled

    return Cancelled("the run", found="a request to stop", fix="Repeat the command to resume.")
