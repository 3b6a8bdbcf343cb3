"""What is read of the file for a region of the result, where the tiles lie on another grid than its pixels.

::

    pixels of the result ──▶ tiles that cover them ──▶ pixels of the grid ──▶ pixels of a level
                  (supports, halos)            (footprints)
"""

from __future__ import annotations

from dataclasses import dataclass

from gigatile.images.resample import ScaledGrid
from gigatile.tiling.axis import Axis
from gigatile.tiling.scales import Sampling
from gigatile.tiling.tiling import Grid


@dataclass(frozen=True, slots=True)
class AxisSourceReads:
    """One axis."""

    axis: Axis
    sampling: Sampling
    beyond: int
    """Pixels of the grid that may be read beyond the tiles, to continue a footprint."""

    def reads(self, start: int, stop: int) -> tuple[int, int]:
        """Pixels of the level that are read for the pixels ``[start, stop)`` of the result, mirrored included."""
        low, high = self.axis.reads(start, stop)
        return self.sampling.sources(max(low - self.beyond, 0), min(high + self.beyond, self.axis.size))


@dataclass(frozen=True, slots=True)
class SourceReads:
    """Both axes; see `gigatile.engine.schedule.Reads`."""

    y: AxisSourceReads
    x: AxisSourceReads


def source_reads(grid: Grid, source: ScaledGrid, beyond: int = 0) -> SourceReads:
    """The reads of tiles on a grid that is made from a level, and `beyond` pixels of the grid on each side."""
    return SourceReads(AxisSourceReads(grid.y, source.y, beyond), AxisSourceReads(grid.x, source.x, beyond))
