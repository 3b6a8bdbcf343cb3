"""Displays of a run's progress, fed by events: rich on a terminal, plain lines, JSON lines, or nothing."""

from __future__ import annotations

import json
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any, Protocol, TextIO

from gigatile.cli.account import Account, Warnings
from gigatile.cli.memory_gauge import MemoryGauge
from gigatile.cli.progress_text import plain_line
from gigatile.events import BlockFinished, CohortEnded, Event, RunEnded, TilesInferred, Warned

Clock = Callable[[], float]
LINE_SECONDS = 5.0
"""Least time between two plain lines."""
RARE_SECONDS = 60.0
"""Most of it: the longer a run takes, the rarer they become, a hundred in each time that it has taken so far."""
TILES_SECONDS = 0.5
"""Least time between two JSON lines about tiles."""


class Display(Protocol):
    """What shows a run; called from many threads."""

    def __call__(self, event: Event) -> None:
        """Take an event into account and show it in time."""
        ...

    def notice(self, text: str) -> None:
        """Say one thing at once; called from a signal handler, so it takes no lock that a thread may hold."""
        ...


@contextmanager
def open_display(kind: str, stream: TextIO | None = None) -> Iterator[Display]:
    """The display that ``--progress`` asks for, on stderr; closed at the end whatever happens."""
    stream = stream or sys.stderr
    smart = stream.isatty() and os.environ.get("TERM") != "dumb"
    if kind == "rich" or (kind == "auto" and smart):
        from gigatile.cli.progress_rich import RichDisplay

        display = RichDisplay(stream)
        try:
            yield display
        finally:
            display.close()
    elif kind == "json":
        yield JsonDisplay(stream)
    elif kind == "none":
        yield Silence(stream)
    else:
        yield PlainDisplay(stream)


class Silence:
    """Shows nothing but notices and warnings, which are no progress."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self._warnings = Warnings()

    def __call__(self, event: Event) -> None:
        """Show nothing, unless it is a warning."""
        if isinstance(event, Warned):
            with self._lock:
                for line in self._warnings.lines(event):
                    self.notice(line.text)

    def notice(self, text: str) -> None:
        """One line at once."""
        write_now(self._stream, f"gigatile: {text}\n")


class PlainDisplay:
    """A line of figures every few seconds, and one for each warning and each of the first failures; for logs."""

    def __init__(self, stream: TextIO, clock: Clock = time.monotonic) -> None:
        self._stream, self._clock = stream, clock
        self._lock = threading.Lock()
        self._account = Account(clock)
        self._started = clock()
        self._due = self._started + LINE_SECONDS
        self._memory = MemoryGauge(clock)

    def __call__(self, event: Event) -> None:
        """Show a line if the last one is long enough ago."""
        with self._lock:
            for line in self._account.add(event):
                self.notice(line.text)
            now = self._clock()
            # A cohort ends with a line of its own.
            if isinstance(event, RunEnded) or (now >= self._due and not isinstance(event, CohortEnded)):
                self._due = now + min(max(LINE_SECONDS, (now - self._started) / 100), RARE_SECONDS)
                self.notice(plain_line(self._account.snapshot(), self._memory.bytes()))

    def notice(self, text: str) -> None:
        """One line at once."""
        write_now(self._stream, f"gigatile: {text}\n")


class JsonDisplay:
    """One JSON object a line: ``event`` in snake case, ``elapsed`` seconds, and the fields of the event."""

    def __init__(self, stream: TextIO, clock: Clock = time.monotonic) -> None:
        self._stream, self._clock = stream, clock
        self._lock = threading.Lock()
        self._started = clock()
        self._told = float("-inf")
        self._tiles = TilesInferred(0, 0)

    def __call__(self, event: Event) -> None:
        """Write the event; tiles are added up and told at most twice a second."""
        with self._lock:
            if isinstance(event, TilesInferred):
                tiles, pixels = self._tiles.tiles + event.tiles, self._tiles.pixels + event.pixels
                self._tiles = replace(self._tiles, tiles=tiles, pixels=pixels)
                if self._clock() - self._told >= TILES_SECONDS:
                    self._flush_tiles()
                return
            if not isinstance(event, BlockFinished):
                # So that the tiles of a phase are all told before the next one starts.
                self._flush_tiles()
            self._write(event_name(event), asdict(event))

    def notice(self, text: str) -> None:
        """Tell it as an event of its own."""
        self._write("notice", {"message": text})

    def _flush_tiles(self) -> None:
        if self._tiles.tiles:
            self._write(event_name(self._tiles), asdict(self._tiles))
        self._tiles, self._told = TilesInferred(0, 0), self._clock()

    def _write(self, name: str, fields: dict[str, Any]) -> None:
        record = {"event": name, "elapsed": round(self._clock() - self._started, 3), **fields}
        write_now(self._stream, json.dumps(record, default=dict) + "\n")


def event_name(event: Event) -> str:
    """``BlockFinished`` as ``block_finished``."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", type(event).__name__).lower()


def write_now(stream: TextIO, text: str) -> None:
    """Write whole lines at once, so that those of other threads and of signal handlers do not mix in."""
    try:
        descriptor = stream.fileno()
    except OSError:  # io.UnsupportedOperation: a stream in memory
        stream.write(text)
        return
    try:
        stream.flush()
        os.write(descriptor, text.encode())
    except BrokenPipeError:
        return  # whoever read along has left; the run goes on
