"""Figures for people from the events of a run: how far, how fast, how long still, and what limits it.

::

    events ──▶ Tally ─┬─ RunTally      one image, phase after phase ─┬─▶ Snapshot
                      └─ CohortTally   many images, interleaved     ─┘
                           both of Counts (sums over blocks) and Meter (speed)
"""

from __future__ import annotations

import time
from collections.abc import Callable

from gigatile.cli.counts import Counts
from gigatile.cli.meter import Meter
from gigatile.cli.snapshot import Snapshot
from gigatile.cli.tally_cohort import CohortTally
from gigatile.events import (
    IMAGE_PHASES,
    BlockFinished,
    CohortStarted,
    Event,
    PhaseStarted,
    RunEnded,
    RunStarted,
    TilesInferred,
)

ALMOST = 0.99
"""As far as an estimate can take the bar while blocks are missing."""


class Tally:
    """Adds up events of a run, be it of one image or of many.

    Not safe for several threads: the display that owns it holds a lock.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._of: RunTally | CohortTally = RunTally(clock)

    def add(self, event: Event) -> None:
        """Take one event into account."""
        if isinstance(event, CohortStarted):
            self._of = CohortTally(event, self._clock)
        else:
            self._of.add(event)

    def snapshot(self) -> Snapshot:
        """The figures of now."""
        return self._of.snapshot()


class RunTally:
    """Adds up events of a run of one image."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._started = clock()
        self._run = RunStarted("", 0, 0, 0, 1, 0)
        self._counts = Counts()
        self._ended = False
        self._begin(PhaseStarted("predict", 0))
        self._phase = ""

    def add(self, event: Event) -> None:
        """Take one event into account."""
        match event:
            case RunStarted():
                self._run = event
                self._started = self._clock()
            case PhaseStarted():
                self._begin(event)
            case TilesInferred():
                self._in_flight += event.pixels
                self._measure()
            case BlockFinished():
                self._finish(event)
                self._measure()
            case RunEnded():
                self._counts.failed = event.failed
                self._ended = True

    def snapshot(self) -> Snapshot:
        """The figures of now."""
        now = self._clock()
        fraction = self._fraction()
        moving = self._progress.rate(now, fraction)
        eta = (1 - fraction) / moving if moving > 0 else None
        predicting = self._phase in IMAGE_PHASES
        resumed = self._resumed if predicting else 0
        return Snapshot(
            directory=self._run.directory,
            phase=self._phase,
            blocks_done=resumed + self._counts.blocks,
            blocks_total=resumed + self._todo,
            resumed=self._run.finished,
            failed=self._counts.failed,
            fraction=fraction,
            pixels_done=fraction * self._run.pixels if predicting else self._counts.pixels,
            pixels_total=self._run.pixels if predicting else 0,
            pixels_per_second=self._speed.rate(now, self._pixels_done()),
            eta_seconds=0.0 if self._ended else eta,
            elapsed_seconds=now - self._started,
            phase_seconds=now - self._phase_started,
            peak_rss_bytes=self._counts.peak_rss_bytes,
            budget_bytes=self._run.budget_bytes,
            shares=self._counts.shares,
            ended=self._ended,
        )

    def _begin(self, event: PhaseStarted) -> None:
        self._phase = event.name
        self._todo = event.blocks
        self._resumed = max(self._run.blocks - event.blocks, 0) if event.name in IMAGE_PHASES else 0
        self._counts = self._counts.afresh()
        self._in_flight = 0.0
        self._furthest = 0.0
        self._phase_started = now = self._clock()
        total = self._resumed + self._todo
        self._progress = Meter(now, self._resumed / total if total else 0.0)
        self._speed = Meter(now)

    def _finish(self, event: BlockFinished) -> None:
        self._counts.add(event)
        if event.status == "done":
            # One of the lanes is done with what it had in flight. Not minus the pixels of the block: tiles at
            # block edges are inferred in two blocks, and the surplus would add up.
            lanes = max(self._run.lanes, 1)
            self._in_flight *= (lanes - 1) / lanes

    def _fraction(self) -> float:
        done = self._counts.blocks
        if self._ended and not self._counts.failed and done >= self._todo:
            return 1.0
        total = self._resumed + self._todo
        if not total:
            return 0.0
        before = self._resumed / total
        if self._phase in IMAGE_PHASES and self._run.pixels and self._todo:
            # Blocks at the right and bottom are smaller, so pixels tell more than blocks.
            mine = max(self._run.pixels * (1 - before), 1.0)
            reached = before + (1 - before) * min(self._pixels_done() / mine, 1.0)
        else:
            reached = before + done / total
        reached = 1.0 if done >= self._todo else min(reached, ALMOST)
        # In flight is an estimate; what has been shown is not taken back.
        self._furthest = max(self._furthest, reached)
        return self._furthest

    def _pixels_done(self) -> float:
        return self._counts.pixels + self._in_flight

    def _measure(self) -> None:
        now, blocks = self._clock(), self._counts.blocks
        self._progress.add(now, self._fraction(), blocks)
        self._speed.add(now, self._pixels_done(), blocks)
