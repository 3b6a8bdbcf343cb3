"""How fast a figure grows now, where now is a window that fits the work."""

from __future__ import annotations

from collections import deque

WINDOW_SECONDS = 20.0
"""How far back the current speed looks at least; further where blocks are slow."""
SAMPLE_SECONDS = 0.25
_SAMPLES = 128
"""Samples in a window, so that long windows cost no more than short ones."""
_BLOCKS = 4
"""Blocks that a window spans at least, at their mean distance."""


class Meter:
    """The growth of one figure over a window that ends now.

    Parameters
    ----------
    now : float
        Seconds of the clock that all other times are told by.
    value : float
        The figure at the start.
    share : float
        Of the time since the start, that the window spans at least: 0.5 is steady, and still forgets a slow start.

    Memory bound
    ------------
    One sample a 128th of the window, or a quarter of a second; fewer than 400.
    """

    def __init__(self, now: float, value: float = 0.0, *, share: float = 0.0) -> None:
        self._share = share
        self._started = now
        self._blocks = 0
        self._samples = deque([(now, value)])

    def add(self, now: float, value: float, blocks: int) -> None:
        """Note the figure, and how many blocks were finished by now."""
        self._blocks = blocks
        if now - self._samples[-1][0] >= max(SAMPLE_SECONDS, self._window(now) / _SAMPLES):
            self._samples.append((now, value))
            self._forget(now)

    def rate(self, now: float, value: float) -> float:
        """Growth a second from the start of the window until now; never negative."""
        self._forget(now)
        then, before = self._samples[0]
        return max(value - before, 0.0) / max(now - then, 1e-9)

    def _window(self, now: float) -> float:
        elapsed = now - self._started
        return max(WINDOW_SECONDS, self._share * elapsed, _BLOCKS * elapsed / (self._blocks + 1))

    def _forget(self, now: float) -> None:
        """Keep one sample from before the window: what is measured from."""
        start = now - self._window(now)
        while len(self._samples) > 1 and self._samples[1][0] <= start:
            self._samples.popleft()
