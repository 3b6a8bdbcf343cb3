"""The threads that decode, and the count of what they decoded."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor

from gigatile.machine import available_cores


class DecodeCounter:
    """Counts decoded units, over all threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.units = 0

    def add(self) -> None:
        """Count one more."""
        with self._lock:
            self.units += 1

    def take(self) -> int:
        """The count since the last call, so that the sum over all calls is exact whoever calls."""
        with self._lock:
            units, self.units = self.units, 0
            return units


_POOLS: dict[int, ThreadPoolExecutor] = {}
_POOLS_LOCK = threading.Lock()


def decode_pool() -> ThreadPoolExecutor:
    """The threads that decode, shared by all images of this process, one a core (made anew after a fork)."""
    with _POOLS_LOCK:
        pool = _POOLS.get(os.getpid())
        if pool is None:
            pool = _POOLS[os.getpid()] = ThreadPoolExecutor(available_cores(), thread_name_prefix="gigatile-decode")
        return pool
