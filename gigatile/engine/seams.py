"""How much neighbouring tiles disagree where both see a pixel: a number on the seam.

::

    blend    │ tile 0 ░░░░░░│          wherever a tile is added to what earlier ones left, the two are compared
                    │░░░░░░ tile 1 │
    trim     │ tile 0       │          just beyond its core a tile is compared with the one whose core begins there,
                           |│ tile 1   if that lies outside the margin

A pixel counts once for each pair of neighbours, whatever the blocks (but for trim, whose blocks do not overlap, the
seams between blocks are not seen). Where tiles equal the whole image the difference is 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


@dataclass(slots=True)
class SeamTally:
    """Differences between neighbouring tiles, summed. A monoid."""

    pixels: int = 0
    """Pixels compared."""
    difference: float = 0.0
    """Sum, over those pixels, of the absolute difference, mean over channels."""
    disagreements: int = 0
    """Those of another class."""

    def compare(self, before: Array, now: Array, valid: Array | None) -> None:
        """Compare two predictions of the same pixels.

        Parameters
        ----------
        before, now : ndarray, shape (k, y, x)
        valid : ndarray of bool, shape (y, x), or None
            Pixels that count; None: all.
        """
        if not before[0].size:
            return
        apart = np.abs(np.subtract(now, before, dtype=before.dtype)).mean(axis=0, dtype=np.float64)
        other = _classes(before) != _classes(now)
        if valid is not None:
            apart, other = apart[valid], other[valid]
        self.pixels += apart.size
        self.difference += float(apart.sum())
        self.disagreements += int(other.sum())


def _classes(prediction: Array) -> Array:
    return np.asarray(prediction[0] > 0.5 if len(prediction) == 1 else prediction.argmax(axis=0))
