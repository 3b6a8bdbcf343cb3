"""What a display keeps of a run: its figures, and what is said once, in a line of its own."""

from __future__ import annotations

import time
from collections.abc import Callable
from enum import Enum
from typing import NamedTuple

from gigatile.cli.progress_text import cohort_ended, phase_ended
from gigatile.cli.snapshot import Snapshot
from gigatile.cli.tally import Tally
from gigatile.events import IMAGE_PHASES, BlockFinished, CohortEnded, Event, ImageEnded, PhaseStarted, Warned
from gigatile.units import one_line

SHOWN_FAILURES = 5
"""Failed blocks, and failed images, that are told one by one; the rest is counted."""
SHOWN_WARNINGS = 20


class Tone(Enum):
    """How a line is meant."""

    PLAIN = "plain"
    WARNING = "warning"
    FAILURE = "failure"


class Line(NamedTuple):
    """Something that is said once."""

    text: str
    tone: Tone


class Account:
    """Takes events into account, and says what is to be said of them. Not safe for several threads.

    Memory bound
    ------------
    That of `Tally`, and the texts of 20 warnings.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._tally = Tally(clock)
        self._warnings = Warnings()
        self._blocks, self._images = Failures("blocks"), Failures("images")

    def add(self, event: Event) -> list[Line]:
        """Take an event into account; the lines to show at once, for most events none."""
        # Before the phase is another one.
        figures = self._phase_ended(event)
        self._tally.add(event)
        match event:
            case Warned():
                return self._warnings.lines(event)
            case BlockFinished(status="failed"):
                of = f" of {one_line(event.image)}" if event.image else ""
                return self._blocks.lines(f"block {event.block}{of} failed", event.error)
            case ImageEnded(state="failed" | "refused"):
                return self._images.lines(f"image {one_line(event.image)} {event.state}", event.error)
            case CohortEnded():
                return self._cohort_ended()
        return figures

    def snapshot(self) -> Snapshot:
        """The figures of now."""
        return self._tally.snapshot()

    def _phase_ended(self, event: Event) -> list[Line]:
        if not isinstance(event, PhaseStarted) or (state := self._tally.snapshot()).phase not in IMAGE_PHASES:
            return []
        return [Line(phase_ended(state), Tone.PLAIN)]

    def _cohort_ended(self) -> list[Line]:
        state = self._tally.snapshot()
        return [] if state.images is None else [Line(cohort_ended(state, state.images), Tone.PLAIN)]


class Failures:
    """The first failures of a kind one by one, and then that there are more."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._count = 0

    def lines(self, what: str, error: str) -> list[Line]:
        """What to say of one more."""
        self._count += 1
        if self._count > SHOWN_FAILURES + 1:
            return []
        if self._count > SHOWN_FAILURES:
            return [Line(f"more {self._kind} failed; 'gigatile status DIR' tells all of them.", Tone.FAILURE)]
        reason = one_line(error)
        return [Line(f"{what}: {reason}" if reason else what, Tone.FAILURE)]


class Warnings:
    """Different warnings one by one, and in the end that there are more: each image of thousands may have one."""

    def __init__(self) -> None:
        self._told: set[str] = set()
        self._more = False

    def lines(self, event: Warned) -> list[Line]:
        """What to say of one more."""
        if event.message in self._told or self._more:
            return []
        if len(self._told) >= SHOWN_WARNINGS:
            self._more = True
            return [Line("more warnings follow; '--progress json' tells all of them.", Tone.WARNING)]
        self._told.add(event.message)
        return [Line(f"warning: {one_line(event.message)}", Tone.WARNING)]
