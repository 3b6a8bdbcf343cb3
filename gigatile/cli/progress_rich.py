"""The progress display for terminals.

::

    predict   ━━━━━━━━━━━━━━━━╸━━━━━━━━━━━━━━━━━━━━━  43 %
    blocks    28 of 64 (16 by an earlier run)          ETA 2m 05s
    pixels    115.3 of 268.4 Mpx                       3.42 Mpx/s
    memory    812.0 MiB of 2.0 GiB                     peak 1.1 GiB
    busy      read 9 %  infer 83 %  blend 3 %  write 5 %    limited by: infer 83 %
    failed    0
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from gigatile.cli.progress import Failures, MemoryGauge, eta, memory, phase_ended, stages
from gigatile.cli.tally import Snapshot, Tally
from gigatile.events import Event, RunStarted
from gigatile.units import format_bytes, format_seconds


class RichDisplay:
    """A few lines that are redrawn four times a second while the run goes on."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        # Forced: whoever types --progress rich wants it also where the terminal is not recognised.
        self._console = Console(file=stream, force_terminal=True, highlight=False)
        self._lock = threading.Lock()
        self._tally = Tally(clock)
        self._memory = MemoryGauge(clock)
        self._failures = Failures()
        self._notice = ""
        # stdout carries results, so rich must not take it over.
        self._live = Live(
            console=self._console, get_renderable=self._frame, redirect_stdout=False, refresh_per_second=4
        )

    def __call__(self, event: Event) -> None:
        """Take an event into account; the next frame shows it."""
        with self._lock:
            ended = phase_ended(self._tally.snapshot(), event)
            line = self._failures.line(event)
            self._tally.add(event)
        if isinstance(event, RunStarted):
            self._live.start()
        # Outside the lock: printing redraws the frame, which takes it.
        if ended:
            self._console.print(Text(ended))
        if line:
            self._console.print(Text(line, style="red"))

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
            state = self._tally.snapshot()
            used = self._memory.bytes()
        return frame(state, used, self._notice)


def frame(state: Snapshot, memory_bytes: int, notice: str = "") -> RenderableType:
    """The figures as lines of label, value and remark."""
    bar = Table.grid(padding=(0, 2), expand=True)
    bar.add_column(width=8)
    bar.add_column(ratio=1)
    bar.add_column(width=6, justify="right")
    bar.add_row(
        Text(state.phase or "starting", style="bold"),
        ProgressBar(total=1.0, completed=state.fraction, width=None),
        f"{100 * state.fraction:.0f} %",
    )
    rows = Table.grid(padding=(0, 2))
    rows.add_column(width=8, style="dim")
    rows.add_column(min_width=34)
    rows.add_column()
    for row in _rows(state, memory_bytes):
        rows.add_row(*row)
    lines: list[RenderableType] = [bar, rows]
    if notice:
        lines.append(Text(notice, style="yellow"))
    return Group(*lines)


def _rows(state: Snapshot, memory_bytes: int) -> list[tuple[RenderableType, ...]]:
    earlier = f" ({state.resumed} by an earlier run)" if state.resumed and state.phase == "predict" else ""
    took = f"took {format_seconds(state.elapsed_seconds)}" if state.ended else f"ETA {eta(state)}"
    pixels = f"{state.pixels_done / 1e6:,.1f}"
    pixels += f" of {state.pixels_total / 1e6:,.1f} Mpx" if state.pixels_total else " Mpx"
    over = bool(state.budget_bytes) and memory_bytes > state.budget_bytes
    peak = max(state.peak_rss_bytes, memory_bytes)
    return [
        ("blocks", f"{state.blocks_done} of {state.blocks_total}{earlier}", took),
        ("pixels", pixels, f"{state.pixels_per_second / 1e6:.2f} Mpx/s"),
        (
            "memory",
            Text(memory(state, memory_bytes), style="red" if over else ""),
            f"peak {format_bytes(peak)}",
        ),
        ("busy", stages(state) or "unknown yet", Text(state.verdict, style="bold")),
        ("failed", Text(str(state.failed), style="bold red" if state.failed else ""), ""),
    ]
