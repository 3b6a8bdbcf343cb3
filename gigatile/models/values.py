"""The numbers that go into a model and come out of it (the contract's section "Values")."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, Literal, get_args

import numpy as np

from gigatile.errors import ImageError, UsageError
from gigatile.models.augment import Augmentation
from gigatile.models.normalise import Normalisation, parse_normalisation
from gigatile.tiling.scales import parse_scales

Activation = Literal["none", "sigmoid", "softmax"]
Pixels = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Values:
    """Scaling and normalisation before a model, activation after it."""

    scale: float | None = None
    """Factor on stored pixels; None: 1/255 for uint8 and 1 otherwise."""
    mean: tuple[float, ...] = ()
    """Subtracted after scaling; one number, or one per channel."""
    std: tuple[float, ...] = ()
    """Divided by at last; one number, or one per channel."""
    activation: Activation = "none"
    """Applied to each tile, before blending."""
    augmentation: Augmentation = "none"
    """Copies of a tile whose predictions, after the activation, are averaged."""
    normalize: str = "none"
    """Method of `gigatile.models.normalise`, in the place of scaling."""
    statistics: Normalisation | None = None
    """What was measured for it, on the whole image; before a run begins it is not known."""
    multiscale: tuple[Fraction, ...] = (Fraction(1),)
    """Scales whose predictions are averaged, the largest, 1, first; see `parse_scales`."""

    def __post_init__(self) -> None:
        parse_scales(self.multiscale)
        if self.augmentation not in get_args(Augmentation):
            raise UsageError(
                "tta", expected="one of " + ", ".join(get_args(Augmentation)), found=repr(self.augmentation)
            )
        if self.activation not in get_args(Activation):
            raise UsageError(
                "activation",
                expected="one of " + ", ".join(get_args(Activation)),
                found=repr(self.activation),
            )
        if self.normalize != "none":
            parse_normalisation(self.normalize)
            if self.scale is not None or self.mean or self.std:
                raise UsageError(
                    "normalize",
                    expected="either --normalize or --scale, --mean and --std",
                    found="both",
                    fix="Leave one of them out.",
                )
        if any(s == 0 for s in self.std):
            raise UsageError("std", expected="numbers other than 0", found=str(self.std))

    def scale_for(self, dtype: np.dtype[Any]) -> float:
        """The factor for pixels of a dtype."""
        if self.scale is not None:
            return self.scale
        return 1 / 255 if dtype == np.uint8 else 1.0

    def for_means_of(self, dtype: np.dtype[Any]) -> Values:
        """The same for means of pixels of a dtype: they are floats, but in its units."""
        return self if self.normalize != "none" else replace(self, scale=self.scale_for(dtype))

    @property
    def needs_bytes(self) -> bool:
        """Whether means have to be rounded, as a stored pyramid would have them: stains are defined on bytes."""
        return self.normalize in ("macenko", "reinhard")

    def check(self, channels: int) -> None:
        """Refuse means and deviations that do not fit the number of channels."""
        for name in ("mean", "std"):
            given = len(getattr(self, name))
            if given not in (0, 1, channels):
                raise UsageError(name, expected=f"1 or {channels} numbers", found=str(given))

    def normalised(self, pixels: Pixels) -> Pixels:
        """``(pixel * float32(scale) - mean) / std``, absent steps skipped; NaN becomes 0.

        Parameters
        ----------
        pixels : ndarray, shape (c, y, x), any real dtype

        Returns
        -------
        ndarray, float32, shape (c, y, x)
            Always a new array.
        """
        if self.statistics is not None:
            out = self.statistics.apply(pixels)
            out[np.isnan(out)] = 0
            return out
        out = np.array(pixels, dtype=np.float32, order="C")
        scale = self.scale_for(pixels.dtype)
        if scale != 1:
            out *= np.float32(scale)
        if self.mean:
            out -= np.asarray(self.mean, np.float32)[:, None, None]
        if self.std:
            out /= np.asarray(self.std, np.float32)[:, None, None]
        if pixels.dtype.kind == "f":
            out[np.isnan(out)] = 0
        return out

    def activated(self, prediction: Pixels) -> Pixels:
        """Apply the activation to ``(n, k, y, x)``; float32 out unless there is none to apply.

        Raises
        ------
        UsageError
            softmax over a single channel, which is 1 everywhere.
        """
        if self.activation == "none":
            return prediction
        x = prediction.astype(np.float32)
        if self.activation == "sigmoid":
            with np.errstate(over="ignore"):
                return np.asarray(1 / (1 + np.exp(-x)))
        if x.shape[1] == 1:
            raise UsageError("activation softmax", expected="at least 2 channels", found="1", fix="Use sigmoid.")
        np.exp(x - x.max(axis=1, keepdims=True), out=x)
        return np.asarray(x / x.sum(axis=1, keepdims=True))


def check_dtype(where: str, dtype: np.dtype[Any]) -> None:
    """Refuse pixels that are no real numbers.

    Raises
    ------
    ImageError
        The image is complex or structured.
    """
    if dtype.kind not in "fiub":
        raise ImageError(where, expected="pixels that are real numbers", found=f"dtype {dtype}")
