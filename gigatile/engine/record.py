"""What the ledger keeps of a block."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

Status = Literal["done", "empty", "failed"]


class BlockKey(NamedTuple):
    """A block of one stage of a run."""

    stage: int
    row: int
    col: int

    def __str__(self) -> str:
        return f"{self.stage}/{self.row}/{self.col}"

    @classmethod
    def parse(cls, text: str) -> BlockKey:
        """The inverse of ``str``."""
        stage, row, col = text.split("/")
        return cls(int(stage), int(row), int(col))


@dataclass(frozen=True, slots=True)
class BlockRecord:
    """What happened to one block."""

    block: BlockKey
    status: Status
    pixels: int
    """Pixels of the block, on the level that its stage works on."""
    nbytes: int = 0
    digest: str = ""
    """sha256 of the bytes of its artifact; empty where there is none."""
    tiles: int = 0
    """Tiles inferred."""
    skipped: int = 0
    """Tiles without a pixel to keep."""
    units_decoded: int = 0
    """Units of the source (chunks, or groups of small ones) that this process decoded since its last record."""
    seam_pixels: int = 0
    """Pixels that two neighbouring tiles see, outside their margins."""
    seam_difference: float = 0.0
    """Sum of the absolute differences there, mean over channels."""
    seam_disagreements: int = 0
    """Those of another class."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Busy seconds by stage, with those of the tries in this process that failed since its last record."""
    peak_rss_bytes: int = 0
    error: str = ""
    """One paragraph."""
    trace: str = ""
    """The traceback behind it."""
    filled: tuple[str, ...] = ()
    """Places of the source that could not be decoded and were filled with nodata."""
    attempt: str = ""
    """The try that this record ends."""
