"""Figures for people from the events of a run: how far, how fast, how long still, and what limits it."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from gigatile.events import BlockFinished, Event, PhaseStarted, RunEnded, RunStarted, TilesInferred

STAGES = ("read", "infer", "blend", "write")
WINDOW_SECONDS = 20.0
"""How far back the current speed looks at least; further where blocks are slow."""
SAMPLE_SECONDS = 0.25
ALMOST = 0.99
"""As far as an estimate can take the bar while blocks are missing."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state of a run at one moment."""

    directory: str = ""
    phase: str = ""
    blocks_done: int = 0
    """Blocks of this phase with a record, those of earlier runs included."""
    blocks_total: int = 0
    resumed: int = 0
    """Blocks that an earlier run finished."""
    failed: int = 0
    fraction: float = 0.0
    """Share of this phase that is done, work in flight included where it is told."""
    pixels_done: float = 0.0
    pixels_total: int = 0
    """0 where it is not known: the pyramid."""
    pixels_per_second: float = 0.0
    eta_seconds: float | None = None
    """Until the end of this phase; None while nothing has moved yet."""
    elapsed_seconds: float = 0.0
    """Since the run began."""
    phase_seconds: float = 0.0
    """Since the phase began."""
    peak_rss_bytes: int = 0
    """Highest that a process that finished a block has told."""
    budget_bytes: int = 0
    shares: Mapping[str, float] = field(default_factory=dict)
    """Share of the busy seconds of this phase, per stage; they sum to 1."""
    ended: bool = False

    @property
    def verdict(self) -> str:
        """``limited by: infer 83 %``, or nothing while no block has told."""
        if not self.shares:
            return ""
        stage = max(self.shares, key=lambda name: self.shares[name])
        return f"limited by: {stage} {100 * self.shares[stage]:.0f} %"


class Tally:
    """Adds up events. Not safe for several threads: the display that owns it holds a lock.

    Memory bound
    ------------
    One sample a quarter of a second within the window, 4,096 at most.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._started = clock()
        self._run = RunStarted("", 0, 0, 0, 1, 0)
        self._failed = 0
        self._peak = 0
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
                self._sample()
            case BlockFinished():
                self._finish(event)
                self._sample()
            case RunEnded():
                self._failed = event.failed
                self._ended = True

    def snapshot(self) -> Snapshot:
        """The figures of now."""
        now = self._clock()
        fraction = self._fraction()
        then, fraction_then, pixels_then = self._baseline(now)
        seconds = max(now - then, 1e-9)
        moved = fraction - fraction_then
        eta = (1 - fraction) * seconds / moved if moved > 0 else None
        busy = sum(self._busy.values())
        predicting = self._phase == "predict"
        resumed = self._resumed if predicting else 0
        return Snapshot(
            directory=self._run.directory,
            phase=self._phase,
            blocks_done=resumed + self._done,
            blocks_total=resumed + self._todo,
            resumed=self._run.finished,
            failed=self._failed,
            fraction=fraction,
            pixels_done=fraction * self._run.pixels if predicting else self._pixels,
            pixels_total=self._run.pixels if predicting else 0,
            pixels_per_second=max(self._pixels_done() - pixels_then, 0.0) / seconds,
            eta_seconds=0.0 if self._ended else eta,
            elapsed_seconds=now - self._started,
            phase_seconds=now - self._phase_started,
            peak_rss_bytes=self._peak,
            budget_bytes=self._run.budget_bytes,
            shares={stage: self._busy[stage] / busy for stage in STAGES} if busy > 0 else {},
            ended=self._ended,
        )

    def _begin(self, event: PhaseStarted) -> None:
        self._phase = event.name
        self._todo = event.blocks
        self._resumed = max(self._run.blocks - event.blocks, 0) if event.name == "predict" else 0
        self._done = 0
        self._pixels = 0
        self._in_flight = 0.0
        self._furthest = 0.0
        self._busy: Counter[str] = Counter()
        self._phase_started = self._clock()
        self._samples: deque[tuple[float, float, float]] = deque(maxlen=4096)

    def _finish(self, event: BlockFinished) -> None:
        self._done += 1
        self._pixels += event.pixels
        self._failed += event.status == "failed"
        self._peak = max(self._peak, event.peak_rss_bytes)
        for stage, seconds in event.seconds.items():
            self._busy[stage] += int(seconds * 1e6)
        if event.status == "done":
            # One of the lanes is done with what it had in flight. Not minus the pixels of the block: tiles at
            # block edges are inferred in two blocks, and the surplus would add up.
            lanes = max(self._run.lanes, 1)
            self._in_flight *= (lanes - 1) / lanes

    def _fraction(self) -> float:
        if self._ended and not self._failed and self._done >= self._todo:
            return 1.0
        total = self._resumed + self._todo
        if not total:
            return 0.0
        before = self._resumed / total
        if self._phase == "predict" and self._run.pixels and self._todo:
            # Blocks at the right and bottom are smaller, so pixels tell more than blocks.
            mine = max(self._run.pixels * (1 - before), 1.0)
            reached = before + (1 - before) * min(self._pixels_done() / mine, 1.0)
        else:
            reached = before + self._done / total
        reached = 1.0 if self._done >= self._todo else min(reached, ALMOST)
        # In flight is an estimate; what has been shown is not taken back.
        self._furthest = max(self._furthest, reached)
        return self._furthest

    def _pixels_done(self) -> float:
        return self._pixels + self._in_flight

    def _sample(self) -> None:
        now = self._clock()
        sample = (now, self._fraction(), self._pixels_done())
        if self._samples and now - self._samples[-1][0] < SAMPLE_SECONDS:
            return
        self._samples.append(sample)

    def _baseline(self, now: float) -> tuple[float, float, float]:
        """The sample that the current speed is measured from."""
        apart = (now - self._phase_started) / (self._done + 1)
        start = now - max(WINDOW_SECONDS, 4 * apart)
        total = self._resumed + self._todo
        before = (self._phase_started, self._resumed / total if total else 0.0, 0.0)
        while self._samples and self._samples[0][0] <= start:
            # Kept as the baseline until the next one is old enough, too.
            if len(self._samples) > 1 and self._samples[1][0] <= start:
                self._samples.popleft()
                continue
            return self._samples[0]
        return before
