"""How much memory a run takes, for displays."""

from __future__ import annotations

import time
from collections.abc import Callable

Clock = Callable[[], float]


class MemoryGauge:
    """Resident memory of this process and its children, looked at once a second at most."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        import psutil

        self._process, self._gone = psutil.Process(), psutil.Error
        self._clock = clock
        self._looked = float("-inf")
        self._bytes = 0

    def bytes(self) -> int:
        """Resident bytes now; shared pages count once in each process."""
        if self._clock() - self._looked >= 1.0:
            self._bytes = self._process.memory_info().rss
            for child in self._process.children(recursive=True):
                try:
                    self._bytes += child.memory_info().rss
                except self._gone:
                    continue  # it ended between being listed and being looked at
            self._looked = self._clock()
        return self._bytes
