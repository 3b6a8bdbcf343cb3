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

from gigatile.cli.tally import STAGES, Snapshot, Tally
from gigatile.events import BlockFinished, Event, PhaseStarted, RunEnded, TilesInferred
from gigatile.units import format_bytes, format_seconds

Clock = Callable[[], float]
LINE_SECONDS = 5.0
"""Least time between two plain lines."""
TILES_SECONDS = 0.5
"""Least time between two JSON lines about tiles."""
SHOWN_FAILURES = 5
"""Failed blocks that are told one by one; the rest is counted."""


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
    """Shows nothing but notices."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __call__(self, event: Event) -> None:
        """Show nothing."""

    def notice(self, text: str) -> None:
        """One line at once."""
        write_now(self._stream, f"gigatile: {text}\n")


class PlainDisplay:
    """A line of figures every few seconds, and one for each failed block; for logs."""

    def __init__(self, stream: TextIO, clock: Clock = time.monotonic) -> None:
        self._stream, self._clock = stream, clock
        self._lock = threading.Lock()
        self._tally = Tally(clock)
        self._due = clock() + LINE_SECONDS
        self._failures = Failures()
        self._memory = MemoryGauge(clock)

    def __call__(self, event: Event) -> None:
        """Show a line if the last one is long enough ago."""
        with self._lock:
            lines = [phase_ended(self._tally.snapshot(), event), self._failures.line(event)]
            self._tally.add(event)
            for line in filter(None, lines):
                write_now(self._stream, f"gigatile: {line}\n")
            now = self._clock()
            if now >= self._due or isinstance(event, RunEnded):
                self._due = now + LINE_SECONDS
                text = plain_line(self._tally.snapshot(), self._memory.bytes())
                write_now(self._stream, f"gigatile: {text}\n")

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


class Failures:
    """Tells the first failed blocks one by one."""

    def __init__(self) -> None:
        self._count = 0

    def line(self, event: Event) -> str:
        """What to say of this event; nothing for most."""
        if not isinstance(event, BlockFinished) or event.status != "failed":
            return ""
        self._count += 1
        if self._count > SHOWN_FAILURES + 1:
            return ""
        if self._count > SHOWN_FAILURES:
            return "more blocks failed; 'gigatile status DIR' tells all of them."
        return f"block {event.block} failed: {' '.join(event.error.split())}"


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


def event_name(event: Event) -> str:
    """``BlockFinished`` as ``block_finished``."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", type(event).__name__).lower()


def plain_line(state: Snapshot, memory_bytes: int) -> str:
    """All figures in one line."""
    parts = [f"{state.phase or 'starting'} {state.blocks_done}/{state.blocks_total} blocks"]
    parts.append(f"{100 * state.fraction:.0f} %")
    parts.append(f"{state.pixels_per_second / 1e6:.2f} Mpx/s")
    parts.append(f"in {format_seconds(state.elapsed_seconds)}" if state.ended else f"ETA {eta(state)}")
    parts.append(f"memory {memory(state, memory_bytes)}")
    parts += [state.verdict] if state.verdict else []
    parts += [f"{state.failed} failed"] if state.failed else []
    return ", ".join(parts)


def eta(state: Snapshot) -> str:
    """Time until the end of the phase."""
    return "unknown yet" if state.eta_seconds is None else format_seconds(state.eta_seconds)


def memory(state: Snapshot, memory_bytes: int) -> str:
    """``812 MiB of 2.0 GiB``."""
    budget = f" of {format_bytes(state.budget_bytes)}" if state.budget_bytes else ""
    return f"{format_bytes(memory_bytes)}{budget}"


def stages(state: Snapshot) -> str:
    """``read 9 %  infer 83 %  blend 3 %  write 5 %``."""
    shares = {stage: share for stage in STAGES if (share := state.shares.get(stage, 0.0)) > 0}
    return "  ".join(f"{stage} {100 * share:.0f} %" for stage, share in shares.items())


def phase_ended(before: Snapshot, event: Event) -> str:
    """What to leave behind of the prediction when the next phase starts; nothing for all other events."""
    if not isinstance(event, PhaseStarted) or before.phase != "predict":
        return ""
    took = f"{before.pixels_total / 1e6:,.1f} Mpx in {format_seconds(before.phase_seconds)}"
    verdict = f", {before.verdict}" if before.verdict else ""
    return f"predict: {before.blocks_done} of {before.blocks_total} blocks, {took}{verdict}"


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
