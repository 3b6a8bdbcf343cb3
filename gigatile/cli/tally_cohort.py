"""Figures of a run over many images: their blocks come interleaved, and not all images are known from the start."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from gigatile.cli.counts import Counts
from gigatile.cli.meter import Meter
from gigatile.cli.snapshot import ActiveImage, ImagesSnapshot, Snapshot
from gigatile.events import (
    IMAGE_PHASES,
    BlockFinished,
    CohortEnded,
    CohortStarted,
    Event,
    ImageEnded,
    ImageStarted,
    TilesInferred,
)


@dataclass(slots=True)
class _Image:
    """One that is planned and not ended."""

    plan: ImageStarted | None = None
    """Not there yet where an earlier run ended by poison: such blocks fail before work begins."""
    blocks: int = 0
    """Of the prediction, finished by this run."""
    pixels: int = 0
    later: str = ""

    @property
    def touched(self) -> bool:
        return self.blocks > 0 or bool(self.later)

    @property
    def reached(self) -> int:
        return self.blocks + (self.plan.finished if self.plan else 0)

    @property
    def fraction(self) -> float:
        return min(self.reached / self.plan.blocks, 1.0) if self.plan and self.plan.blocks else 0.0

    @property
    def pixels_before(self) -> float:
        """Pixels of blocks that earlier runs finished; blocks at the edges are smaller, so about."""
        return self.plan.pixels * self.plan.finished / self.plan.blocks if self.plan and self.plan.blocks else 0.0

    @property
    def pixels_left(self) -> float:
        if self.plan is None or self.reached >= self.plan.blocks:
            return 0.0
        return max(self.plan.pixels - self.pixels_before - self.pixels, 0.0)


class CohortTally:
    """Adds up events of a cohort.

    The bar goes by images, each counted as far as it is, so that it never goes back when a large one is planned. The
    time left goes by pixels: those of planned images are known, others are taken to be as large as their mean.

    Memory bound
    ------------
    A few numbers for each image that is being worked on; those that ended are sums.
    """

    def __init__(self, cohort: CohortStarted, clock: Callable[[], float]) -> None:
        self._cohort, self._clock = cohort, clock
        self._started = now = clock()
        self._counts = Counts()
        self._active: dict[str, _Image] = {}
        self._ended: Counter[str] = Counter()
        """Images by state."""
        self._resumed_images = 0
        self._planned = 0
        self._planned_blocks = 0
        self._planned_pixels = 0
        self._finished_before = 0
        self._pixels_before = 0.0
        self._given_up = 0
        """Images that ended without a plan."""
        self._in_flight = 0
        self._speed = Meter(now)
        # Images differ and pyramids come in between: the last seconds would make the time left jump.
        self._steady = Meter(now, share=0.5)
        self._end: CohortEnded | None = None

    def add(self, event: Event) -> None:
        """Take one event into account."""
        match event:
            case ImageStarted():
                self._start(event)
            case TilesInferred():
                self._in_flight += event.pixels
            case BlockFinished():
                self._finish(event)
            case ImageEnded():
                self._leave(event)
            case CohortEnded():
                self._end = event

    def snapshot(self) -> Snapshot:
        """The figures of now; its cost grows with the images that are being worked on."""
        now = self._clock()
        images = self._images()
        left = sum(image.pixels_left for image in self._active.values())
        left += images.unplanned * self._planned_pixels / self._planned if self._planned else 0.0
        # Tiles tell no image, so they cannot be taken out again where it ends early; but a first figure they give.
        done = self._counts.pixels or self._in_flight
        steady = self._steady.rate(now, done)
        eta = left / steady if left > 0 and steady > 0 else None
        reached = images.ended + sum(image.fraction for image in self._active.values())
        return Snapshot(
            directory=self._cohort.directory,
            phase="images",
            blocks_done=self._finished_before + self._counts.blocks,
            blocks_total=self._planned_blocks,
            resumed=self._finished_before,
            failed=self._counts.failed,
            fraction=1.0 if self._end else min(reached / max(self._cohort.images, 1), 1.0),
            pixels_done=self._pixels_before + self._counts.pixels,
            pixels_total=self._planned_pixels * (1 + images.unplanned / self._planned) if self._planned else 0.0,
            pixels_per_second=self._speed.rate(now, done),
            eta_seconds=0.0 if self._end else eta,
            elapsed_seconds=now - self._started,
            phase_seconds=now - self._started,
            peak_rss_bytes=self._counts.peak_rss_bytes,
            budget_bytes=self._cohort.budget_bytes,
            shares=self._counts.shares,
            ended=self._end is not None,
            images=images,
        )

    def _images(self) -> ImagesSnapshot:
        refused, failed = self._ended["refused"], self._ended["failed"]
        if self._end:
            # Some were known to be bad before anything began, and were never told.
            failed = max(self._end.failed - refused, 0)
        unplanned = max(self._cohort.images - self._planned - self._given_up, 0)
        return ImagesSnapshot(
            total=self._cohort.images,
            complete=self._end.complete if self._end else self._ended["complete"],
            resumed=self._resumed_images,
            failed=failed,
            refused=refused,
            unplanned=0 if self._end else unplanned,
            pixels_before=self._pixels_before,
            active=tuple(
                ActiveImage(name, image.reached, image.plan.blocks, image.later)
                for name, image in self._active.items()
                if image.plan
            ),
        )

    def _start(self, event: ImageStarted) -> None:
        image = self._active.setdefault(event.image, _Image())
        image.plan = event
        self._planned += 1
        self._planned_blocks += event.blocks
        self._planned_pixels += event.pixels
        self._finished_before += event.finished
        self._pixels_before += image.pixels_before

    def _finish(self, event: BlockFinished) -> None:
        image = self._active.setdefault(event.image, _Image())
        if event.phase in IMAGE_PHASES:
            image.blocks += 1
            image.pixels += event.pixels
            self._counts.add(event)
        else:
            image.later = event.phase
            self._counts.add_cost(event)
        now = self._clock()
        for meter in (self._speed, self._steady):
            meter.add(now, self._counts.pixels, self._counts.blocks)

    def _leave(self, event: ImageEnded) -> None:
        image = self._active.pop(event.image, _Image())
        self._ended[event.state] += 1
        if image.plan is None:
            self._given_up += 1
        elif event.state == "complete" and not image.touched:
            self._resumed_images += 1
