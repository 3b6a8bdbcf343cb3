"""U units, kept while they will be needed again and evicted by next use.

When the order of the reads is known, the best unit to evict is the one whose next use is furthest away
(Belady, "A study of replacement algorithms for a virtual-storage computer", IBM Systems Journal 5(2), 1966).
The cache does not know blocks: it asks a `Schedule`.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

Key = tuple[int, int, int]
"""Level, and row and column of the decode unit."""
NEVER = float("inf")


class Sized(Protocol):
    """What is kept: an array, or what stands for one."""

    @property
    def nbytes(self) -> int:
        """Memory that it takes."""
        ...


U = TypeVar("U", bound=Sized)


class Schedule(Protocol):
    """Knows when a unit will be read again."""

    def next_use(self, key: Key) -> float:
        """Position of the next read of the unit in the order of reads, `NEVER` if there is none."""
        ...


@dataclass(slots=True)
class UnitCache(Generic[U]):
    """A bounded store of decoded units that decodes each at most once at a time.

    Memory bound
    ------------
    At most `budget_bytes` of finished units are held between calls; a unit that alone exceeds the budget, or
    that will never be read again, is handed out and not kept. Units being decoded come on top: one a thread.
    """

    budget_bytes: int
    schedule: Schedule | None = None
    """Without one, the least recently used unit goes first."""
    held_bytes: int = 0
    _units: OrderedDict[Key, U] = field(default_factory=OrderedDict)
    _pending: dict[Key, Future[U]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def get(self, key: Key, decode: Callable[[Key], U]) -> U:
        """The unit, from the cache, from another thread that is decoding it, or decoded here.

        Raises
        ------
        BlockError
            Whatever `decode` raises; every thread that waits for the unit gets it, the next call tries again.
        """
        with self._lock:
            unit = self._units.get(key)
            if unit is not None:
                self._units.move_to_end(key)
                return unit
            future = self._pending.get(key)
            mine = future is None
            if future is None:
                future = self._pending[key] = Future()
        if not mine:
            return future.result()
        try:
            unit = decode(key)
        except BaseException as error:
            with self._lock:
                del self._pending[key]
            future.set_exception(error)
            raise
        with self._lock:
            del self._pending[key]
            self._keep(key, unit)
        future.set_result(unit)
        return unit

    def _keep(self, key: Key, unit: U) -> None:
        if unit.nbytes > self.budget_bytes or self._next_use(key) == NEVER:
            return
        self._units[key] = unit
        self.held_bytes += unit.nbytes
        if self.held_bytes > self.budget_bytes:
            self._evict()

    def _evict(self) -> None:
        """Make room, a tenth more than needed so that units are not ranked at every insertion."""
        order = list(self._units)
        if self.schedule is not None:
            order.sort(key=self._next_use, reverse=True)
        for key in order:
            if self.held_bytes <= 0.9 * self.budget_bytes:
                return
            self.held_bytes -= self._units.pop(key).nbytes

    def _next_use(self, key: Key) -> float:
        return 0.0 if self.schedule is None else self.schedule.next_use(key)
