"""What finished blocks add up to, whichever image they are of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from gigatile.events import BlockFinished

STAGES = ("read", "infer", "blend", "write")


@dataclass(slots=True)
class Counts:
    """Sums over blocks."""

    failed: int = 0
    peak_rss_bytes: int = 0
    blocks: int = 0
    pixels: int = 0
    _busy: Counter[str] = field(default_factory=Counter)
    """Microseconds per stage."""

    def add(self, event: BlockFinished) -> None:
        """Take a block into account."""
        self.blocks += 1
        self.pixels += event.pixels
        self.add_cost(event)

    def add_cost(self, event: BlockFinished) -> None:
        """Take into account what a block took, but not what it brought: the pyramid of an image in a cohort."""
        self.failed += event.status == "failed"
        self.peak_rss_bytes = max(self.peak_rss_bytes, event.peak_rss_bytes)
        for stage, seconds in event.seconds.items():
            self._busy[stage] += int(seconds * 1e6)

    def afresh(self) -> Counts:
        """For the next phase: only failures and the peak are those of the whole run."""
        return Counts(self.failed, self.peak_rss_bytes)

    @property
    def shares(self) -> Mapping[str, float]:
        """Share of the busy time per stage; nothing while no block has told."""
        busy = sum(self._busy[stage] for stage in STAGES)
        return {stage: self._busy[stage] / busy for stage in STAGES} if busy else {}
