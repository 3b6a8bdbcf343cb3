"""The progress display for terminals.

::

    predict   ━━━━━━━━━━━━━━━━╸━━━━━━━━━━━━━━━━━━━━━  43 %
    blocks    28 of 64 (16 by an earlier run)          ETA 2m 05s
    pixels    115.3 of 268.4 Mpx                       3.42 Mpx/s
    memory    812.0 MiB of 2.0 GiB                     peak 1.1 GiB
    busy      read 9 %  infer 83 %  blend 3 %  write 5 %    limited by: infer 83 %
    failed    0

and of a cohort::

    images    ━━━━━━━━━━━━━━━━╸━━━━━━━━━━━━━━━━━━━━━  43 %
    done      12 of 40 (3 by an earlier run)           ETA 2h 05m
    blocks    280 of 640+ (16 by an earlier run)
    (pixels, memory, busy and failed as above)
    now       slide_a                               28 of 64 blocks
              slide_b                                3 of 64 blocks
              and 12 more
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TextIO

from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from gigatile.cli.account import Account, Tone
from gigatile.cli.memory_gauge import MemoryGauge
from gigatile.cli.progress_text import (
    blocks_total,
    earlier,
    failures,
    image_progress,
    memory,
    pixels,
    speed,
    stages,
)
from gigatile.cli.progress_text import eta as time_to_end
from gigatile.cli.snapshot import ImagesSnapshot, Snapshot
from gigatile.events import IMAGE_PHASES, CohortEnded, CohortStarted, Event, RunStarted
from gigatile.units import format_bytes, format_seconds, one_line

_STYLES = {Tone.PLAIN: "", Tone.WARNING: "yellow", Tone.FAILURE: "red"}
_ACTIVE_SHOWN = 4
"""Images that have a line; the rest is counted."""
_LABEL = 8
_GAP = 2


class RichDisplay:
    """A few lines that are redrawn four times a second while the run goes on."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        # Forced: whoever types --progress rich wants it also where the terminal is not recognised.
        self._console = Console(file=stream, force_terminal=True, highlight=False)
        self._lock = threading.Lock()
        self._account = Account(clock)
        self._memory = MemoryGauge(clock)
        self._notice = ""
        # stdout carries results, so rich must not take it over.
        self._live = Live(
            console=self._console, get_renderable=self._frame, redirect_stdout=False, refresh_per_second=4
        )

    def __call__(self, event: Event) -> None:
        """Take an event into account; the next frame shows it."""
        with self._lock:
            lines = self._account.add(event)
        if isinstance(event, RunStarted | CohortStarted):
            self._live.start()
        if isinstance(event, CohortEnded):
            # The summary comes below the last frame.
            self._live.stop()
        # Outside the lock: printing redraws the frame, which takes it.
        for line in lines:
            self._console.print(Text(line.text, style=_STYLES[line.tone]))

    def notice(self, text: str) -> None:
        """Show a line below the figures from the next frame on."""
        self._notice = text
        if not self._live.is_started:
            self._console.print(Text(text, style="yellow"))

    def close(self) -> None:
        """Leave the last frame on the terminal."""
        self._live.stop()

    def _frame(self) -> RenderableType:
        with self._lock:
            state = self._account.snapshot()
            used = self._memory.bytes()
        return frame(state, used, self._notice, self._console.width)


def frame(state: Snapshot, memory_bytes: int, notice: str = "", width: int = 80) -> RenderableType:
    """The figures as lines of label, value and remark, for a terminal of `width` columns."""
    bar = Table.grid(padding=(0, _GAP), expand=True)
    bar.add_column(width=_LABEL)
    bar.add_column(ratio=1)
    bar.add_column(width=6, justify="right")
    bar.add_row(
        Text(state.phase or "starting", style="bold"),
        ProgressBar(total=1.0, completed=state.fraction, width=None),
        f"{100 * state.fraction:.0f} %",
    )
    rows = Table.grid(padding=(0, _GAP))
    rows.add_column(width=_LABEL, style="dim")
    rows.add_column(min_width=34)
    rows.add_column()
    for row in _rows(state, memory_bytes):
        rows.add_row(*row)
    lines: list[RenderableType] = [bar, rows]
    if state.images is not None and state.images.active:
        lines.append(_active(state.images, width))
    if notice:
        lines.append(Text(notice, style="yellow"))
    return Group(*lines)


def _rows(state: Snapshot, memory_bytes: int) -> list[tuple[RenderableType, ...]]:
    resumed = earlier(state.resumed) if state.phase in {*IMAGE_PHASES, "images"} else ""
    took = f"took {format_seconds(state.elapsed_seconds)}" if state.ended else f"ETA {time_to_end(state)}"
    over = bool(state.budget_bytes) and memory_bytes > state.budget_bytes
    peak = max(state.peak_rss_bytes, memory_bytes)
    failed = failures(state)
    blocks = f"{state.blocks_done} of {blocks_total(state)}{resumed}"
    progress: list[tuple[RenderableType, ...]] = [("blocks", blocks, took)]
    if (images := state.images) is not None:
        done = f"{images.ended} of {images.total}{earlier(images.resumed)}"
        progress = [("done", done, took), ("blocks", blocks, "")]
    return [
        *progress,
        ("pixels", pixels(state), speed(state)),
        (
            "memory",
            Text(memory(state, memory_bytes), style="red" if over else ""),
            f"peak {format_bytes(peak)}",
        ),
        ("busy", stages(state) or "unknown yet", Text(state.verdict, style="bold")),
        ("failed", Text(failed or "0", style="bold red" if failed else ""), ""),
    ]


def _active(images: ImagesSnapshot, width: int) -> RenderableType:
    """The images that are being worked on, a line each."""
    rows = Table.grid(padding=(0, _GAP))
    rows.add_column(width=_LABEL, style="dim")
    rows.add_column(min_width=34, no_wrap=True)
    rows.add_column(no_wrap=True)
    active = [(one_line(image.name), image_progress(image)) for image in images.active[:_ACTIVE_SHOWN]]
    room = max(width - _LABEL - max(len(done) for _, done in active) - 2 * _GAP, 12)
    for number, (name, done) in enumerate(active):
        rows.add_row("" if number else "now", Text(shortened(name, room)), done)
    if len(images.active) > _ACTIVE_SHOWN:
        rows.add_row("", Text(f"and {len(images.active) - _ACTIVE_SHOWN} more"), "")
    return rows


def shortened(text: str, width: int) -> str:
    """At most `width` columns; the middle is left out, as names of many images differ at their ends."""
    if cell_len(text) <= width:
        return text
    for kept in range(min(len(text), width) - 1, 0, -1):
        tail = kept // 2
        short = f"{text[: kept - tail]}…{text[len(text) - tail :]}"
        # Characters may be two columns wide.
        if cell_len(short) <= width:
            return short
    return "…"
