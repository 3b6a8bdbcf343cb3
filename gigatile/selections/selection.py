"""One question about the pixels that are worked on: which are kept? Answered without decoding the image.

::

    level 0      ┼───┼───┼───┼───┼       a pixel of the grid is kept where its centre is: in a box or polygon,
    grid         ├─────∙─────┼─────∙     or over a pixel of a mask that says so
                       ↑ kept?

Boxes and outlines are half-open: a centre on the left or upper edge is inside, on the right or lower edge outside.
So selections that share an edge share no pixel, and leave out none.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from typing import Any, Protocol

import numpy as np

from gigatile.tiling.region import Region

Kept = np.ndarray[Any, Any]
"""bool, shape (y, x): True where kept."""
STRIP_PX = 1 << 18
"""Pixels that are looked at at once."""


@dataclass(frozen=True, slots=True)
class Frame:
    """Where the pixels that are worked on lie."""

    shape: tuple[int, int]
    """Height and width of the grid."""
    scale: tuple[float, float]
    """Pixels of level 0 per pixel of the grid, along y and x."""

    @property
    def region(self) -> Region:
        """All pixels."""
        return Region(0, 0, *self.shape)


class Selection(Protocol):
    """Pixels of one grid. The same answers for the same content, wherever it came from; picklable."""

    @property
    def bounds(self) -> Region:
        """A box inside the grid beyond which nothing is kept."""
        ...

    @property
    def nbytes(self) -> int:
        """Memory that it takes in each process."""
        ...

    def window(self, region: Region) -> Kept:
        """Which pixels of a window are kept; none beyond the grid.

        Returns
        -------
        ndarray of bool, shape of the region
        """
        ...

    def touches(self, region: Region) -> bool:
        """Whether a pixel of the window is kept: exact."""
        ...

    def describe(self) -> dict[str, Any]:
        """For the fingerprint: the content, as JSON."""
        ...


@dataclass(frozen=True, slots=True)
class Box:
    """The pixels whose centres lie in a box."""

    bounds: Region

    @classmethod
    def of_level0(cls, xmin: float, ymin: float, xmax: float, ymax: float, frame: Frame) -> Box:
        """From edges in pixels of level 0."""
        y0, y1 = (ceil(edge / frame.scale[0] - 0.5) for edge in (ymin, ymax))
        x0, x1 = (ceil(edge / frame.scale[1] - 0.5) for edge in (xmin, xmax))
        return cls(Region(y0, x0, y1, x1).clipped(frame.region))

    @property
    def nbytes(self) -> int:
        """Next to nothing."""
        return 0

    def window(self, region: Region) -> Kept:
        """See `Selection.window`."""
        kept = np.zeros(region.shape, bool)
        kept[region.clipped(self.bounds).shifted(-region.y0, -region.x0).slices()] = True
        return kept

    def touches(self, region: Region) -> bool:
        """See `Selection.touches`."""
        return region.clipped(self.bounds).pixels > 0

    def describe(self) -> dict[str, Any]:
        """Its edges in pixels of the grid."""
        return {"box": [self.bounds.y0, self.bounds.x0, self.bounds.y1, self.bounds.x1]}


@dataclass(frozen=True, slots=True)
class All:
    """What several selections all keep."""

    parts: tuple[Selection, ...]

    @property
    def bounds(self) -> Region:
        """The box that their boxes share."""
        box = self.parts[0].bounds
        for part in self.parts[1:]:
            box = part.bounds.clipped(box)
        return box

    @property
    def nbytes(self) -> int:
        """Of all parts."""
        return sum(part.nbytes for part in self.parts)

    def window(self, region: Region) -> Kept:
        """See `Selection.window`."""
        kept = self.parts[0].window(region)
        for part in self.parts[1:]:
            kept &= part.window(region)
        return kept

    def touches(self, region: Region) -> bool:
        """See `Selection.touches`."""
        region = region.clipped(self.bounds)
        return all(part.touches(region) for part in self.parts) and any_in_strips(self.window, region)

    def describe(self) -> dict[str, Any]:
        """The parts."""
        return {"all": [part.describe() for part in self.parts]}


def any_in_strips(window: Callable[[Region], Kept], region: Region) -> bool:
    """Whether anything in a window is kept, found out a few rows at a time."""
    height, width = region.shape
    rows = max(STRIP_PX // max(width, 1), 1)
    return width > 0 and any(
        bool(window(Region(y, region.x0, min(y + rows, region.y1), region.x1)).any())
        for y in range(region.y0, region.y0 + height, rows)
    )
