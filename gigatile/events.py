"""What happens during a run, as values handed to callbacks; who shows them is not the engine's business."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

Stage = Literal["read", "infer", "blend", "write"]
"""The four stages of a block; ``seconds`` below are busy seconds per stage."""


Phase = Literal["predict", "find", "merge", "labels", "pyramid"]
"""Kinds of work: maps of the image, or the objects in it; their tables, their labels; coarser levels."""
IMAGE_PHASES: tuple[Phase, ...] = ("predict", "find")
"""Those in which the model sees the image: the first of each run."""


@dataclass(frozen=True, slots=True)
class RunStarted:
    """The plan is fixed, the directory is ours, work begins."""

    directory: str
    blocks: int
    """Blocks of the prediction."""
    finished: int
    """Of these, finished by an earlier run."""
    pixels: int
    """Pixels of the processing grid."""
    lanes: int
    """Blocks that are worked on at the same time."""
    budget_bytes: int


@dataclass(frozen=True, slots=True)
class PhaseStarted:
    """A new kind of work."""

    name: Phase
    blocks: int
    """Blocks to do in this phase."""


@dataclass(frozen=True, slots=True)
class TilesInferred:
    """Some tiles went through the model (only told by executors in this process)."""

    tiles: int
    pixels: int
    """Output pixels that these tiles own (their cores)."""


@dataclass(frozen=True, slots=True)
class BlockFinished:
    """A block's record is in the ledger."""

    phase: Phase
    block: str
    """``stage/row/col``."""
    status: Literal["done", "empty", "failed"]
    pixels: int
    """Pixels of the processing grid in the block."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Busy seconds per `Stage`."""
    peak_rss_bytes: int = 0
    """Peak resident memory of the process that did it."""
    error: str = ""
    """First paragraph of what went wrong, for failed blocks."""
    image: str = ""
    """Name of the image among those of a cohort."""


@dataclass(frozen=True, slots=True)
class CohortStarted:
    """Several images, each with a directory of its own; their blocks and warnings follow, with their names."""

    directory: str
    images: int
    lanes: int
    """Blocks that are worked on at the same time; 0 where a cluster decides."""
    budget_bytes: int


@dataclass(frozen=True, slots=True)
class ImageStarted:
    """One of them is planned, and what is left of it joins the queue."""

    image: str
    blocks: int
    """Of the prediction."""
    finished: int
    """Of these, finished by an earlier run."""
    pixels: int


@dataclass(frozen=True, slots=True)
class ImageEnded:
    """Nothing more will happen to one of them."""

    image: str
    state: Literal["complete", "failed", "refused"]
    error: str = ""
    """One paragraph, where something went wrong."""


@dataclass(frozen=True, slots=True)
class CohortEnded:
    """Nothing more will happen."""

    complete: int
    failed: int
    """Images that failed or were refused."""


@dataclass(frozen=True, slots=True)
class Warned:
    """Something that the user should know, and that ends nothing."""

    message: str


@dataclass(frozen=True, slots=True)
class RunEnded:
    """Nothing more will happen."""

    complete: bool
    failed: int
    """Blocks recorded as failed."""


Event = (
    RunStarted
    | PhaseStarted
    | TilesInferred
    | BlockFinished
    | Warned
    | RunEnded
    | CohortStarted
    | ImageStarted
    | ImageEnded
    | CohortEnded
)
OnEvent = Callable[[Event], None]


def ignore(event: Event) -> None:
    """The callback of those who do not want to know."""
