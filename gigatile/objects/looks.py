"""How many tiles of a grid look at a place: what a score is shared by."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gigatile.tiling.axis import Axis
from gigatile.tiling.tiling import Grid

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class TileLooks:
    """The tiles whose read window has a place in it; windows are half-open and hang over the image at its borders."""

    grid: Grid

    def __call__(self, centres: Floats) -> Counts:
        """Count the tiles that look at each place.

        Parameters
        ----------
        centres : ndarray, float64 (k, 2)
            x, y in pixels of the grid's image.

        Returns
        -------
        ndarray, int64 (k,)
            0 where no tile looks: far outside the image.
        """
        return _along(self.grid.x, centres[:, 0]) * _along(self.grid.y, centres[:, 1])


def _along(axis: Axis, at: Floats) -> Counts:
    """Tile i sees ``[i * step - halo, i * step - halo + tile)``."""
    from_start = at + axis.halo
    last = np.minimum(from_start // axis.step, axis.count - 1)
    first = np.maximum((from_start - axis.tile) // axis.step + 1, 0)
    count: Counts = np.maximum(last - first + 1, 0).astype(np.int64)
    return count
