"""The keys of one phase: who does which next, and what happens to those that fail or kill their worker.

::

    keys      0 1 2 3 4 5 6 7 8 9 ...      in one order, known by its length only
              └─ worker A ─┘└─ worker B ─   each worker goes on where it was, in batches of about a second;
                                           one without keys takes half of the longest interval left

Neighbouring keys stay with one worker, because they share what it has decoded. Pure: no processes, no clock of
its own.
"""

from __future__ import annotations

import itertools
import statistics
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from gigatile.errors import BlockError
from gigatile.executors.executor import Failure, Task

K = TypeVar("K", bound=Hashable)
UNBEGUN = 3
"""Times as many deaths as for poison until a key is blamed of which no beginning is known."""
_NUMBERS = itertools.count(1)
"""Of tasks, so that a late answer is never taken for that of another queue's task."""


@dataclass(frozen=True, slots=True)
class Policy:
    """How hard a queue tries."""

    tries: int = 3
    """How often a key may fail before it counts as failed."""
    backoff_seconds: float = 0.5
    """Pause before the second try; four times as long before each further one."""
    deaths: int = 3
    """Workers that may die of a key while they do nothing else."""
    batch_seconds: float = 1.0
    """What a task should take, so that handing it out costs little."""
    most_keys: int = 512
    """In a task."""
    tasks_per_second: float = 100.0
    """What one client can hand out and hear of; with many workers tasks grow accordingly."""
    patience: float = 3.0
    """A task that takes this many times the median is given to a second worker, once nothing else is left."""
    least_patience_seconds: float = 5.0
    duplicates: bool = True
    """Whether that makes sense: not among threads that share cores and fate."""
    elsewhere_seconds: float = 30.0
    """How long a key that failed waits for another worker before the same one may try again; and how long a worker
    may have nothing in hand and not ask for anything before it counts as gone."""


@dataclass(frozen=True, slots=True)
class Deaths:
    """Workers that died while they did a key."""

    total: int = 0
    alone: int = 0
    """Of these, while they did nothing else: then it was this key."""


@dataclass(slots=True)
class _Interval:
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(slots=True)
class _Retry(Generic[K]):
    key: K
    due: float
    avoid: set[str] = field(default_factory=set)
    """Workers that failed at it; none: no worker is known to have begun it."""


@dataclass(slots=True)
class _InFlight(Generic[K]):
    task: Task[K]
    worker: str
    since: float
    twin: _InFlight[K] | None = None
    """The task that does the same keys elsewhere."""
    void: bool = False
    """Its twin was first."""


class Queue(Generic[K]):
    """What is still to do of one phase.

    Memory bound
    ------------
    The keys are asked for one by one; held are an interval and the tasks in flight of each worker, and an entry for
    each key that failed.

    Parameters
    ----------
    keys : sequence
        In an order in which neighbours share work; indexed, never copied.
    job : str
        Name of the job, for the tasks.
    policy : Policy
    clock : callable
        Seconds, such as ``time.monotonic``.
    deaths : mapping
        Workers that died of some of the `keys` before, in earlier runs; those keys come first, alone.
    """

    def __init__(
        self,
        keys: Sequence[K],
        job: str,
        policy: Policy,
        clock: Callable[[], float],
        deaths: Mapping[K, Deaths] | None = None,
    ) -> None:
        self._keys, self._job, self._policy, self._clock = keys, job, policy, clock
        self._deaths: dict[K, Deaths] = dict(deaths or {})
        self._suspects: deque[K] = deque(self._deaths)
        self._unowned = [_Interval(0, len(keys))]
        self._owned: dict[str, _Interval] = {}
        self._again: list[_Retry[K]] = []
        self._errors: dict[K, int] = {}
        self._losses: dict[K, int] = {}
        self._in_flight: dict[int, _InFlight[K]] = {}
        self._workers: dict[str, float] = {}
        """When each asked last."""
        self._looked = clock()
        self._left = len(keys) - len(self._suspects)
        """Keys that were never handed out, suspects aside."""
        self._draining: str | None = None
        self._seconds_per_key: float | None = None
        self._durations: deque[float] = deque(maxlen=100)

    @property
    def finished(self) -> bool:
        """Whether every key is done or given up, wherever else some are still being done again."""
        waiting = self._suspects or self._again or self._left
        return not waiting and all(flight.void for flight in self._in_flight.values())

    @property
    def in_flight(self) -> int:
        """Tasks handed out and not heard of."""
        return len(self._in_flight)

    def drains(self, worker: str) -> bool:
        """Whether a worker gets nothing until it is idle, because a suspect waits for it."""
        return bool(self._suspects) and self._draining == worker

    def take(self, worker: str, *, idle: bool) -> Task[K] | None:
        """See `Work.take`."""
        self._seen(worker)
        if self._suspects and idle:
            self._draining = None
            return self._sent((self._suspects.popleft(),), worker, alone=True).task
        if self._suspects and self._draining in (None, worker):
            # One worker is let run dry, so that a suspect need not wait for the end.
            self._draining = worker
            return None
        again = self._due(worker)
        if again:
            return self._sent(again, worker).task
        while (interval := self._interval(worker)) is not None:
            count = min(self._batch(), len(interval))
            batch = [self._keys[i] for i in range(interval.start, interval.start + count)]
            interval.start += count
            # Suspects of earlier runs have their own turn.
            batch = [key for key in batch if key not in self._deaths]
            self._left -= len(batch)
            if batch:
                return self._sent(tuple(batch), worker).task
        return self._duplicate(worker) if idle and self._policy.duplicates else None

    def matters(self, task: Task[K]) -> bool:
        """See `Work.matters`."""
        flight = self._in_flight.get(task.number)
        return flight is not None and not flight.void

    def done(self, task: Task[K], worker: str, failures: Sequence[Failure]) -> list[Failure]:
        """A worker came back; returns the keys that count as failed now.

        Keys that it failed at are tried again, elsewhere if there is an elsewhere.
        """
        flight = self._in_flight.pop(task.number, None)
        if flight is None or flight.void:
            return []
        self._learn(self._clock() - flight.since, len(task.keys))
        if flight.twin is not None:
            if len(failures) == len(task.keys):
                # Nothing was done, which may be this worker's fault: its twin goes on.
                flight.twin.twin = None
                return []
            flight.twin.void = True
        return self._failed(failures, worker)

    def lost(self, task: Task[K], worker: str, begun: Iterable[K], finished: Iterable[K]) -> list[Failure]:
        """A worker died; returns the keys that count as failed now, as poison.

        Parameters
        ----------
        begun : iterable of keys
            Those of the task that it had begun this time, finished ones included.
        finished : iterable of keys
            Those that it, or anybody, had finished.
        """
        self.left(worker)
        done = set(finished)
        flight = self._in_flight.pop(task.number, None)
        if flight is None or flight.void:
            return []
        if flight.twin is not None:
            flight.twin.twin = None
            if not done:
                return []
            # What was done has been told: no second answer may tell it again.
            flight.twin.void = True
        suspects = set(begun) - done
        given_up: list[Failure] = []
        for key in task.keys:
            if key in done:
                continue
            if key in suspects:
                given_up += self._blamed(key, alone=task.alone or len(suspects) == 1)
            else:
                given_up += self._unbegun(key)
        return given_up

    def deaths_of(self, key: K) -> Deaths:
        """What is known of a key so far."""
        return self._deaths.get(key, Deaths())

    def given_back(self, task: Task[K], worker: str) -> None:
        """A worker refused the task: nobody's fault."""
        self.left(worker)
        flight = self._in_flight.pop(task.number, None)
        if flight is None or flight.void:
            return
        if flight.twin is not None:
            flight.twin.twin = None
        elif task.alone:
            self._suspects.extend(task.keys)
        else:
            self._again += [_Retry(key, self._clock()) for key in task.keys]

    def left(self, worker: str) -> None:
        """A worker is gone: its interval is anybody's. One that is not comes back by asking."""
        self._workers.pop(worker, None)
        if self._draining == worker:
            self._draining = None
        interval = self._owned.pop(worker, None)
        if interval is not None and len(interval):
            self._unowned.append(interval)

    def _sent(self, keys: tuple[K, ...], worker: str, *, alone: bool = False) -> _InFlight[K]:
        task = Task(next(_NUMBERS), self._job, keys, alone)
        flight = self._in_flight[task.number] = _InFlight(task, worker, self._clock())
        return flight

    def _seen(self, worker: str) -> None:
        """Note that a worker asks; now and then, forget those that have nothing in hand and no longer do."""
        now = self._workers[worker] = self._clock()
        if now - self._looked > self._policy.elsewhere_seconds:
            busy = {flight.worker for flight in self._in_flight.values()}
            for other in [other for other, asked in self._workers.items() if asked < self._looked]:
                if other not in busy:
                    self.left(other)
            self._looked = now

    def _due(self, worker: str) -> tuple[K, ...]:
        """A key that failed, once its pause is over; or some that are not known to have been begun."""
        now = self._clock()
        unblamed: list[int] = []
        most = self._batch()
        for place, retry in enumerate(self._again):
            if retry.due > now:
                continue
            if not retry.avoid:
                unblamed.append(place)
            elif not unblamed and self._may_retry(retry, worker, now):
                del self._again[place]
                return (retry.key,)
            if len(unblamed) == most:
                break
        keys = tuple(self._again[place].key for place in unblamed)
        for place in reversed(unblamed):
            del self._again[place]
        return keys

    def _may_retry(self, retry: _Retry[K], worker: str, now: float) -> bool:
        """Whether it is another worker, or there is no other, or none came for long."""
        nobody_else = self._workers.keys() <= retry.avoid
        return worker not in retry.avoid or nobody_else or now >= retry.due + self._policy.elsewhere_seconds

    def _interval(self, worker: str) -> _Interval | None:
        """The worker's own interval, or what is left unowned, or the second half of the longest of the others."""
        if not self._left:
            return None
        own = self._owned.get(worker)
        if own is not None and len(own):
            return own
        free = max(self._unowned, key=len, default=None)
        if free is not None and len(free):
            self._unowned.remove(free)
            self._owned[worker] = free
            return free
        longest = max(self._owned.values(), key=len, default=None)
        if longest is None or not len(longest):
            return None
        middle = longest.start + len(longest) // 2
        taken = _Interval(middle, longest.stop)
        longest.stop = middle
        self._owned[worker] = taken
        return taken

    def _batch(self) -> int:
        """Keys of the next task: enough for it to be worth its trouble, few enough for all to end at the same time."""
        if self._seconds_per_key is None:
            return 1
        workers = max(len(self._workers), 1)
        seconds = max(self._policy.batch_seconds, workers / self._policy.tasks_per_second)
        wanted = int(seconds / max(self._seconds_per_key, 1e-6))
        return max(1, min(wanted, self._policy.most_keys, self._left // (4 * workers)))

    def _learn(self, seconds: float, keys: int) -> None:
        each = seconds / keys
        before = self._seconds_per_key
        self._seconds_per_key = each if before is None else 0.8 * before + 0.2 * each
        self._durations.append(seconds)

    def _failed(self, failures: Sequence[Failure], worker: str) -> list[Failure]:
        given_up = []
        for failure in failures:
            count = self._errors[failure.key] = self._errors.get(failure.key, 0) + 1
            if count >= self._policy.tries:
                del self._errors[failure.key]
                given_up.append(failure)
                continue
            pause = self._policy.backoff_seconds * 4 ** (count - 1)
            self._again.append(_Retry(failure.key, self._clock() + pause, {worker}))
        return given_up

    def _blamed(self, key: K, *, alone: bool) -> list[Failure]:
        before = self._deaths.get(key, Deaths())
        deaths = self._deaths[key] = Deaths(before.total + 1, before.alone + alone)
        if deaths.alone >= self._policy.deaths:
            return [poison(key, deaths)]
        self._suspects.append(key)
        return []

    def _unbegun(self, key: K) -> list[Failure]:
        """A key that was not begun, as far as is known: nobody's fault.

        Word of a beginning may be lost with its machine: so a key to which that happens often is done alone, and if
        it goes on it counts as poison all the same.
        """
        count = self._losses[key] = self._losses.get(key, 0) + 1
        if key not in self._deaths and count < self._policy.deaths:
            self._again.append(_Retry(key, self._clock()))
            return []
        if count >= UNBEGUN * self._policy.deaths:
            return self._blamed(key, alone=True)
        self._suspects.append(key)
        return []

    def _duplicate(self, worker: str) -> Task[K] | None:
        """What takes far longer than the rest, for a second worker: the first to finish counts."""
        if not self._durations:
            return None
        policy = self._policy
        patience = max(policy.patience * statistics.median(self._durations), policy.least_patience_seconds)
        now = self._clock()
        for flight in self._in_flight.values():
            # In the order in which they began.
            if now - flight.since <= patience:
                return None
            single = flight.twin is None and not flight.void and not flight.task.alone
            if single and flight.worker != worker:
                twin = self._sent(flight.task.keys, worker)
                twin.twin, flight.twin = flight, twin
                return twin.task
        return None


def poison(key: Hashable, deaths: Deaths) -> Failure:
    """A key that no worker survives."""
    return Failure(
        key,
        BlockError(
            f"block {key}",
            expected="a worker that survives it",
            found=f"{deaths.total} that died while they did it, {deaths.alone} of them while doing nothing else",
            fix="Look at the workers' logs: a crash inside the model, or memory. Mend it, then use --retry-failed.",
        ),
    )
