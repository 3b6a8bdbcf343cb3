"""Ctrl-C and SIGTERM during a run: ask it to stop, remember which signal it was."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

STOPPING = (
    "{name}: stopping; blocks in flight are abandoned, finished ones are kept. The same command resumes. "
    "Ctrl-C again exits at once."
)


class Stopper:
    """The stop event of a run, and the signal that set it."""

    def __init__(self, notice: Callable[[str], None]) -> None:
        self.event = threading.Event()
        self.signal: int | None = None
        self._notice = notice

    @property
    def exit_code(self) -> int | None:
        """130 after Ctrl-C, 143 after SIGTERM, None if neither came."""
        return None if self.signal is None else 128 + self.signal

    def receive(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal; the second Ctrl-C ends the process, which the ledger is made for."""
        if self.signal is not None:
            if number == signal.SIGINT:
                os._exit(128 + signal.SIGINT)
            return
        self.signal = number
        self.event.set()
        self._notice(STOPPING.format(name="Ctrl-C" if number == signal.SIGINT else "SIGTERM"))


@contextmanager
def stop_on_signals(notice: Callable[[str], None]) -> Iterator[Stopper]:
    """Catch SIGINT and SIGTERM for the length of the block; outside the main thread nothing is caught."""
    stopper = Stopper(notice)
    if threading.current_thread() is not threading.main_thread():
        yield stopper
        return
    before = {number: signal.signal(number, stopper.receive) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopper
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
