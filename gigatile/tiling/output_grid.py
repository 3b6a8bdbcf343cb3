"""Where the pixels of a model's output lie in its input.

::

    input    ├──crop──┼───────────────────┼──crop──┤   the model cuts `crop` pixels off at each side
    output            ├ ─ ─ ─ ─ ─ ─ ─ ─ ─ ┤            and gives `scale` output pixels per input pixel
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from gigatile.errors import ModelError

SCALES = (Fraction(1, 8), Fraction(1, 4), Fraction(1, 2), *map(Fraction, (1, 2, 3, 4, 8)))
"""Ratios of resolutions that a model of one size is believed to have."""


@dataclass(frozen=True, slots=True)
class OutputGrid:
    """Resolution and cut of an output, the same along both axes."""

    scale: Fraction = Fraction(1)
    """Output pixels per input pixel."""
    crop: int = 0
    """Input pixels cut off at each side."""

    def length(self, size: int) -> int:
        """Output pixels for an image of `size` input pixels; a last, cut one counts."""
        return size if self.scale == 1 else -int(-size * self.scale // 1)

    def of_tile(self, side: int) -> int:
        """Output pixels for one tile."""
        return int((side - 2 * self.crop) * self.scale)

    def sources(self, start: int, stop: int) -> np.ndarray[Any, Any]:
        """The input pixel under the centre of each output pixel in ``[start, stop)``."""
        doubled = 2 * np.arange(start, stop) + 1
        return doubled * self.scale.denominator // (2 * self.scale.numerator)


SAME = OutputGrid()
"""The output has the input's pixels."""


def from_one_size(where: str, given: int, got: int) -> OutputGrid:
    """What a model of one size does: another resolution if the ratio is a usual one, else it crops itself.

    Raises
    ------
    ModelError
        Neither explains the size.
    """
    ratio = Fraction(got, given)
    # One number for a whole tile is what a classifier of patches gives.
    if ratio in SCALES or got == 1 < given:
        return OutputGrid(ratio)
    if 0 < got < given and (given - got) % 2 == 0:
        return OutputGrid(crop=(given - got) // 2)
    expected = "an output of the input's size, 1/8 to 8 times it, or cut off evenly"
    raise ModelError(where, expected=expected, found=f"{given} px in, {got} px out")


def from_two_sizes(where: str, small: tuple[int, int], large: tuple[int, int]) -> OutputGrid:
    """Scale and crop from two pairs of sizes (given, got).

    Raises
    ------
    ModelError
        The output does not grow with the input, or would be larger at its edges.
    """
    scale = Fraction(large[1] - small[1], large[0] - small[0])
    crop = (small[0] - small[1] / scale) / 2 if scale > 0 else Fraction(-1)
    if crop < 0 or crop.denominator != 1:
        found = f"{small[0]} -> {small[1]} and {large[0]} -> {large[1]}"
        raise ModelError(where, expected="an output that grows with the tile and is cut off evenly", found=found)
    return OutputGrid(scale, int(crop))
