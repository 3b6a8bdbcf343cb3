"""The figures of a run, or of a run over many images, at one moment: what displays show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class ActiveImage:
    """One of the images that are being worked on."""

    name: str
    blocks_done: int
    """Blocks of the prediction with a record, those of earlier runs included."""
    blocks_total: int
    later: str = ""
    """What is being made now that the model has seen the image, such as its pyramid."""


@dataclass(frozen=True, slots=True)
class ImagesSnapshot:
    """How far the images of a cohort are."""

    total: int
    complete: int = 0
    resumed: int = 0
    """Of the complete ones, those in which nothing was left to do."""
    failed: int = 0
    """Images that failed, wholly or in part."""
    refused: int = 0
    unplanned: int = 0
    """Images of which nothing is known yet: their pixels are guessed from the others."""
    pixels_before: float = 0.0
    """Of what is done, pixels of blocks that earlier runs finished, about."""
    active: tuple[ActiveImage, ...] = ()
    """All that are being worked on, in the order in which they began."""

    @property
    def ended(self) -> int:
        """Images to which nothing more will happen."""
        return self.complete + self.failed + self.refused


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state of a run at one moment."""

    directory: str = ""
    phase: str = ""
    """As in `gigatile.events.Phase`; ``images`` in a cohort, whose images are in different ones at the same time."""
    blocks_done: int = 0
    """Blocks of this phase with a record, those of earlier runs included; of the prediction in a cohort."""
    blocks_total: int = 0
    """In a cohort those of the images that are planned."""
    resumed: int = 0
    """Blocks that an earlier run finished."""
    failed: int = 0
    """Failed blocks."""
    fraction: float = 0.0
    """Share of this phase that is done, work in flight included where it is told; of the images in a cohort."""
    pixels_done: float = 0.0
    pixels_total: float = 0.0
    """0 where it is not known: the pyramid. In a cohort a guess as long as some images are not planned."""
    pixels_per_second: float = 0.0
    eta_seconds: float | None = None
    """Until the end of this phase, or of the predictions of a cohort; None while there is nothing to tell it from."""
    elapsed_seconds: float = 0.0
    """Since the run began."""
    phase_seconds: float = 0.0
    """Since the phase began."""
    peak_rss_bytes: int = 0
    """Highest that a process that finished a block has told."""
    budget_bytes: int = 0
    shares: Mapping[str, float] = field(default_factory=dict)
    """Share of the busy seconds of this phase, or of all of a cohort, per stage; they sum to 1."""
    ended: bool = False
    images: ImagesSnapshot | None = None
    """Of a cohort."""

    @property
    def verdict(self) -> str:
        """``limited by: infer 83 %``, or nothing while no block has told."""
        if not self.shares:
            return ""
        stage = max(self.shares, key=lambda name: self.shares[name])
        return f"limited by: {stage} {100 * self.shares[stage]:.0f} %"
