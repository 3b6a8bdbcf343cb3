"""Half-open boxes in pixels of one level.

::

        x0        x1
    y0  ┌─────────┐      [y0, y1) x [x0, x1); corners may lie outside the image:
        │ Region  │      a padded window hangs over the border with negative y0, x0
    y1  └─────────┘
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Region:
    """The box ``[y0, y1) x [x0, x1)``; any origin is legal, an empty box has no pixels."""

    y0: int
    x0: int
    y1: int
    x1: int

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels, never negative."""
        return max(self.y1 - self.y0, 0), max(self.x1 - self.x0, 0)

    @property
    def pixels(self) -> int:
        """Number of pixels inside."""
        return self.shape[0] * self.shape[1]

    def grown(self, y: int, x: int) -> Region:
        """The box with `y` rows and `x` columns more on each side."""
        return Region(self.y0 - y, self.x0 - x, self.y1 + y, self.x1 + x)

    def clipped(self, other: Region) -> Region:
        """The part that lies inside `other` (empty, at a corner of `other`, if none does)."""
        y0, x0 = max(self.y0, other.y0), max(self.x0, other.x0)
        return Region(y0, x0, max(min(self.y1, other.y1), y0), max(min(self.x1, other.x1), x0))

    def shifted(self, y: int, x: int) -> Region:
        """The box moved by `y` rows and `x` columns."""
        return Region(self.y0 + y, self.x0 + x, self.y1 + y, self.x1 + x)

    def slices(self) -> tuple[slice, slice]:
        """Index of the box in an array whose origin is (0, 0)."""
        return slice(self.y0, self.y1), slice(self.x0, self.x1)
