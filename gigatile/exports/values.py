"""What becomes of stored values: as they are, or in a dtype that the format or the user wants."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from gigatile.errors import UsageError
from gigatile.exports.result import Result
from gigatile.outputs.rule import OutputRule

Array = np.ndarray[Any, Any]
PROBABILITY_SCALE = 1 / 254
"""Of probabilities as uint8 (255 = invalid): value = this times the pixel."""


@dataclass(frozen=True, slots=True)
class Values:
    """From stored pixels to exported ones."""

    dtype: np.dtype[Any]
    """Of the exported pixels, little-endian."""
    fill: float
    """Value of invalid ones; NaN for floats."""
    scale: float | None
    """What an exported pixel is multiplied by to get the value it stands for; None: it is the value."""
    where: str
    """The result, for messages."""

    def convert(self, pixels: Array) -> Array:
        """Pixels, shape (y, x), of the stored dtype, in `dtype`.

        Raises
        ------
        BlockError
            Values outside [0, 1] that shall be probabilities of uint8.
        """
        if pixels.dtype == self.dtype:
            return pixels
        if self.dtype == np.uint8:
            rule = OutputRule("probabilities", self.dtype)
            band = rule.finished(pixels[np.newaxis].astype(np.float32), ~np.isnan(pixels), self.where)
            return np.asarray(band[0])
        return np.asarray(pixels, self.dtype)

    def are_fill(self, pixels: Array) -> bool:
        """Whether all pixels of an array of any shape, dtype `dtype`, are invalid."""
        if math.isnan(self.fill):
            return bool(np.isnan(pixels.flat[0])) and bool(np.isnan(pixels).all())
        return bool(pixels.flat[0] == self.fill) and bool((pixels == self.fill).all())


def exported_values(result: Result, wanted: str | None, *, halves: bool) -> Values:
    """How the pixels of a result are exported.

    Parameters
    ----------
    result : Result
    wanted : str or None
        ``uint8``: probabilities as ``round(254 * p)``; None: as they are stored.
    halves : bool
        Whether the format has floats of 16 bits; they become 32 bits where it has not, which loses nothing.

    Raises
    ------
    UsageError
        uint8 of something other than probabilities.
    """
    layout = result.layouts[0]
    dtype, fill = layout.dtype, layout.fill
    if wanted is not None and wanted != "uint8":
        raise UsageError("--dtype", expected="uint8", found=wanted, fix="Leave it out to keep the stored values.")
    if wanted is not None and result.output != "probabilities":
        raise UsageError(
            "--dtype uint8",
            expected="probabilities",
            found=f"--output {result.output}",
            fix="Leave it out: the values are exported as they are.",
        )
    if wanted is not None and dtype.kind == "f":
        dtype, fill = np.dtype("u1"), 255
    elif dtype.itemsize == 2 and dtype.kind == "f" and not halves:
        dtype = np.dtype("<f4")
    is_scaled = result.output == "probabilities" and dtype == np.uint8
    return Values(dtype, fill, PROBABILITY_SCALE if is_scaled else None, result.store.name)
