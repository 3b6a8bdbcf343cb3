"""From blended channels to the values that are stored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from gigatile.errors import BlockError, UsageError
from gigatile.tiling.axis import Blend

Output = Literal["classes", "probabilities", "raw"]
Array = np.ndarray[Any, Any]
PROBABILITY_SLACK = 1e-3
"""How far outside [0, 1] a probability may lie before it is no rounding error."""


@dataclass(frozen=True, slots=True)
class OutputRule:
    """What is stored for a pixel, and as what."""

    output: Output
    dtype: np.dtype[Any]
    """dtype of the result."""

    @property
    def fill(self) -> float | int:
        """The value of invalid pixels: the largest integer of the dtype, or NaN."""
        return float("nan") if self.dtype.kind == "f" else int(np.iinfo(self.dtype).max)

    def finished(self, band: Array, valid: Array | None, where: str) -> Array:
        """Store-ready values of some rows.

        Parameters
        ----------
        band : ndarray, shape (k, y, x)
            Blended channels.
        valid : ndarray of bool, shape (y, x), or None
            True where valid; None: everywhere.

        Returns
        -------
        ndarray, shape (y, x) for classes, else (k, y, x)
            A new array of the result's dtype.

        Raises
        ------
        BlockError
            The model gave NaN at a valid pixel, or values outside [0, 1] that shall be stored as uint8.
        """
        self._refuse_nan(band, valid, where)
        if self.output == "classes":
            result = classes(band, self.dtype)
        elif self.dtype == np.uint8 and self.output == "probabilities":
            result = self._as_bytes(band, valid, where)
        else:
            result = np.array(band, self.dtype)
        if valid is not None:
            result[..., ~valid] = self.fill
        return result

    def _refuse_nan(self, band: Array, valid: Array | None, where: str) -> None:
        # A sum is NaN if any term is: one cheap pass in the usual case that all is well.
        with np.errstate(over="ignore", invalid="ignore"):
            if band.dtype.kind != "f" or not np.isnan(band.sum(dtype=band.dtype)):
                return
        bad = np.isnan(band).any(axis=0)
        if valid is not None:
            bad &= valid
        if bad.any():
            y, x = np.argwhere(bad)[0]
            raise BlockError(
                where,
                expected="numbers from the model where the input is valid",
                found=f"NaN at {int(bad.sum())} pixels, the first {y} rows down and {x} columns right",
                fix="Check the model's input scaling (--scale, --mean, --std).",
            )

    def _as_bytes(self, band: Array, valid: Array | None, where: str) -> Array:
        kept = band if valid is None else np.where(valid, band, 0)
        low, high = float(kept.min()), float(kept.max())
        if low < -PROBABILITY_SLACK or high > 1 + PROBABILITY_SLACK:
            raise BlockError(
                where,
                expected="probabilities between 0 and 1 to store as uint8",
                found=f"{low:.4g} to {high:.4g}",
                fix="Add --activation sigmoid or softmax, or store float32.",
            )
        return np.asarray(np.rint(254 * np.clip(kept, 0, 1)).astype(np.uint8))


def classes(band: Array, dtype: np.dtype[Any]) -> Array:
    """The channel with the largest value, the lowest on ties; with one channel ``> 0.5``."""
    if len(band) == 1:
        return np.asarray(band[0] > 0.5, dtype)
    result = np.zeros(band.shape[1:], dtype)
    best = band[0].copy()
    for index in range(1, len(band)):
        np.copyto(result, index, where=band[index] > best, casting="unsafe")
        np.maximum(best, band[index], out=best)
    return result


def output_rule(output: str, dtype: str | None, model_dtype: np.dtype[Any], channels: int, blend: Blend) -> OutputRule:
    """What will be stored, from what was asked for and what the model gives.

    Raises
    ------
    UsageError
        The options contradict each other or the model.
    """
    if output not in get_args(Output):
        raise UsageError("output", expected="one of " + ", ".join(get_args(Output)), found=repr(output))
    if dtype is not None and dtype not in ("float32", "float16", "uint8"):
        raise UsageError("dtype", expected="float32, float16 or uint8", found=repr(dtype))
    if output == "classes":
        own = np.dtype(np.uint8 if channels <= 255 else np.uint16)
    elif output == "raw":
        own = np.dtype(np.uint8) if model_dtype.kind == "b" else model_dtype
        if model_dtype.kind != "f" and blend != "trim":
            raise UsageError(
                "output raw",
                expected="a model that gives floats, to blend them",
                found=f"{model_dtype}",
                fix="Type --blend trim.",
            )
    else:
        return OutputRule(output, np.dtype(dtype or "float32"))  # type: ignore[arg-type]
    if dtype is not None and np.dtype(dtype) != own:
        raise UsageError(
            "dtype",
            expected=f"no --dtype, since --output {output} is stored as {own}",
            found=dtype,
            fix="Leave it out, or type --output probabilities.",
        )
    return OutputRule(output, own)  # type: ignore[arg-type]
