"""The same image on a coarser grid, along one axis: down by area mean, and back by interpolation.

::

    source   ├───┼───┼───┼───┼───┼───┼──┤        footprint of scaled pixel i: [i * step, (i + 1) * step),
    scaled   ├────────┼────────┼────────┤        cut at the edge of the image
                 ∙        ∙        ∙             centres of scaled pixels
    result   ├──∙──┼──∙──┼──∙──┼──∙──┼──┤        each result pixel lies between two of them; beyond the
                                                 first and the last centre the nearest counts alone

All positions are ratios of whole numbers, so that a pixel has the same weights in whatever window it is computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from gigatile.errors import UsageError

FINEST = 10_000
"""Scales are ratios with denominators up to this: four decimals, or 1/3."""
NEAR = Fraction(101, 100)
"""Grids whose pixels differ by less than this factor count as equally fine."""


@dataclass(frozen=True, slots=True)
class Taps:
    """Which pixels make up each of n others, and with which weights."""

    index: npt.NDArray[np.intp]
    """Shape (taps, n)."""
    weights: npt.NDArray[np.float64]
    """Shape (taps, n)."""

    @property
    def total(self) -> npt.NDArray[np.float64]:
        """Sum of the weights, shape (n,), in the order of the taps."""
        total = np.zeros(self.weights.shape[1])
        for weights in self.weights:
            total += weights
        return total


class Sampling(Protocol):
    """How the pixels of another grid follow from source pixels, along one axis."""

    @property
    def step(self) -> Fraction:
        """Source pixels per pixel of the grid."""
        ...

    @property
    def size(self) -> int:
        """Source pixels along the axis."""
        ...

    @property
    def length(self) -> int:
        """Pixels of the grid along the axis."""
        ...

    def sources(self, start: int, stop: int) -> tuple[int, int]:
        """The source pixels that the pixels ``[start, stop)`` of the grid, at least one, are made of."""
        ...

    def taps(self, start: int, stop: int) -> Taps:
        """Those, with their weights."""
        ...

    def cover(self, start: int, stop: int) -> Taps:
        """The source pixels of which one has to be valid for a pixel to be."""
        ...


@dataclass(frozen=True, slots=True)
class Footprints:
    """Scaled pixels as intervals of source pixels."""

    step: Fraction
    """Source pixels per scaled pixel; at least about 1."""
    size: int
    """Source pixels along the axis."""
    length: int
    """Scaled pixels along the axis."""

    def sources(self, start: int, stop: int) -> tuple[int, int]:
        """The source pixels that the scaled pixels ``[start, stop)`` touch; not empty unless they are none."""
        first, last = int(start * self.step // 1), int(-(-stop * self.step // 1))
        return min(first, self.size - 1), min(max(last, first + 1), self.size)

    def taps(self, start: int, stop: int) -> Taps:
        """The weights of an area mean: the length of each source pixel inside the footprint.

        A level may be cut to whole pixels before the image ends: footprints beyond it take its last pixel.
        """
        p, q = self.step.numerator, self.step.denominator
        index = np.arange(start, stop, dtype=np.int64)
        low = np.minimum(index * p, (self.size - 1) * q)
        high = np.minimum((index + 1) * p, self.size * q)
        first, last = low // q, -(-high // q) - 1
        most = (p + q - 2) // q + 1
        places = np.minimum(first + np.arange(most)[:, None], last)
        ends = np.minimum(high, (first + np.arange(most)[:, None] + 1) * q)
        starts = np.maximum(low, (first + np.arange(most)[:, None]) * q)
        return Taps(places.astype(np.intp), np.maximum(ends - starts, 0) / q)

    def cover(self, start: int, stop: int) -> Taps:
        """All that the mean is over."""
        return self.taps(start, stop)


@dataclass(frozen=True, slots=True)
class Interpolation:
    """Pixels of a finer grid, each between the centres of two source pixels; edges continued."""

    step: Fraction
    """Source pixels per pixel of the grid, at most 1."""
    size: int
    """Source pixels along the axis."""
    length: int
    """Pixels of the grid along the axis."""

    def sources(self, start: int, stop: int) -> tuple[int, int]:
        """The source pixels that the pixels ``[start, stop)``, at least one, lie between."""
        low, high = self._lower(start)[0], self._lower(stop - 1)[0] + 1
        return int(min(max(low, 0), self.size - 1)), int(min(max(high, 0), self.size - 1)) + 1

    def taps(self, start: int, stop: int) -> Taps:
        """The two neighbours of each pixel, the nearer with the larger weight."""
        low, share = self._lower(np.arange(start, stop, dtype=np.int64))
        index = np.clip(np.stack([low, low + 1]), 0, self.size - 1).astype(np.intp)
        return Taps(index, np.stack([1 - share, share]))

    def cover(self, start: int, stop: int) -> Taps:
        """The source pixel under each pixel's centre: nothing invalid grows."""
        index = (2 * np.arange(start, stop, dtype=np.int64) + 1) * self.step.numerator // (2 * self.step.denominator)
        under = np.clip(index, 0, self.size - 1).astype(np.intp)[None]
        return Taps(under, np.ones(under.shape))

    def _lower(self, index: Any) -> tuple[Any, Any]:
        """``(index + 1/2) * step - 1/2`` as the pixel below, and the rest."""
        unit = 2 * self.step.denominator
        place = (2 * index + 1) * self.step.numerator - self.step.denominator
        return place // unit, place % unit / unit


def sampling(step: Fraction, size: int, length: int) -> Sampling:
    """Area means where the grid is not finer than its source (by 1 % at most), else interpolation."""
    return Footprints(step, size, length) if step * NEAR >= 1 else Interpolation(step, size, length)


@dataclass(frozen=True, slots=True)
class Upsampling:
    """Bilinear interpolation from the scaled grid, pixel centres aligned, edges continued."""

    scale: Fraction
    """Scaled pixels per result pixel, at most 1."""
    length: int
    """Scaled pixels along the axis."""

    def needed(self, start: int, stop: int) -> tuple[int, int]:
        """The scaled pixels that the result pixels ``[start, stop)``, at least one, lie between."""
        first, last = self._floor(start), self._floor(stop - 1) + 1
        return min(max(first, 0), self.length - 1), min(last, self.length - 1) + 1

    def reached(self, start: int, stop: int, size: int) -> tuple[int, int]:
        """The result pixels, of `size`, that may be interpolated from the scaled pixels ``[start, stop)``."""
        low = 0 if start <= 0 else int((start - 1) // self.scale) - 1
        high = size if stop >= self.length else int(-(-(stop + 1) // self.scale)) + 1
        return max(low, 0), min(high, size)

    def between(
        self, start: int, stop: int
    ) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], npt.NDArray[np.float32]]:
        """The two scaled pixels that each result pixel lies between, and the share of the second."""
        place, unit = self._doubled(np.arange(start, stop, dtype=np.int64))
        low = place // unit
        lower, upper = (np.clip(at, 0, self.length - 1).astype(np.intp) for at in (low, low + 1))
        return lower, upper, (place % unit / unit).astype(np.float32)

    def _doubled(self, index: Any) -> tuple[Any, int]:
        """``(index + 1/2) * scale - 1/2`` as numerator and denominator."""
        return (2 * index + 1) * self.scale.numerator - self.scale.denominator, 2 * self.scale.denominator

    def _floor(self, index: int) -> int:
        place, unit = self._doubled(index)
        return int(place // unit)


def parse_scales(given: Sequence[float | Fraction]) -> tuple[Fraction, ...]:
    """Scales as exact ratios, the largest first, whatever their order.

    Raises
    ------
    UsageError
        A scale is not in (0, 1], stands twice, or 1 is not among them.
    """
    numbers = tuple(given)
    fix = "Type for example 1,0.5: 1 is the grid that the result is on."
    expected = "different numbers above 0 and up to 1, and 1 among them"
    if not all(isinstance(n, int | float | Fraction) and not isinstance(n, bool) and 0 < n <= 1 for n in numbers):
        raise UsageError("multiscale", expected=expected, found=_shown(numbers), fix=fix)
    scales = tuple(Fraction(number).limit_denominator(FINEST) for number in numbers)
    if 1 not in scales or len(set(scales)) < len(scales) or min(scales) == 0:
        raise UsageError("multiscale", expected=expected, found=_shown(numbers), fix=fix)
    return tuple(sorted(scales, reverse=True))


def _shown(numbers: tuple[object, ...]) -> str:
    return ",".join(str(number) for number in numbers) or "none"
