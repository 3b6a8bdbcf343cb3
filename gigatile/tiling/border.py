"""What lies beyond the edge of an image, as an index into the image.

::

    reflect     d c b | a b c d | c b a      numpy's: the edge pixel is not repeated
    symmetric   c b a | a b c d | d c b      what dask calls "reflect"
    edge        a a a | a b c d | d d d
    constant:V  V V V | a b c d | V V V
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from gigatile.errors import UsageError

_RULES = "reflect, symmetric, edge or constant:V"


@dataclass(frozen=True, slots=True)
class Border:
    """A border rule."""

    rule: Literal["reflect", "symmetric", "edge", "constant"]
    value: float = 0.0
    """Stored pixel value beyond the edge, for `constant`."""

    def index(self, start: int, stop: int, size: int) -> npt.NDArray[np.intp]:
        """Where the pixels ``[start, stop)`` of an axis come from.

        Returns
        -------
        ndarray, shape (stop - start,), intp
            Positions in ``[0, size)``; -1 for pixels that take the constant.
        """
        return self.folded(np.arange(start, stop), size)

    def folded(self, position: npt.NDArray[Any], size: int | npt.NDArray[Any]) -> npt.NDArray[np.intp]:
        """Where pixels at any positions of axes come from.

        Parameters
        ----------
        position : ndarray of int, shape (n,)
            0 is the first pixel of the axis.
        size : int, or ndarray of int, shape (n,)
            Of the axis, or of the one that each position counts along.

        Returns
        -------
        ndarray, shape (n,), intp
            As `index` gives them.
        """
        position = position.astype(np.intp)
        if self.rule == "edge":
            clipped: npt.NDArray[np.intp] = np.clip(position, 0, size - 1)
            return clipped
        if self.rule == "constant":
            return np.where((position < 0) | (position >= size), -1, position)
        if self.rule == "symmetric":
            folded = position % (2 * size)
            return np.where(folded >= size, 2 * size - 1 - folded, folded)
        # The period of reflect is 2 (size - 1); a single pixel is its own mirror image.
        period = np.maximum(2 * (size - 1), 1)
        folded = position % period
        return np.where(folded >= size, period - folded, folded)


def parse_border(text: str) -> Border:
    """Read a border rule as the command line gives it.

    Raises
    ------
    UsageError
        The text names no rule, or the constant is no number.
    """
    if text in ("reflect", "symmetric", "edge"):
        return Border(text)  # type: ignore[arg-type]
    rule, _, value = text.partition(":")
    if rule != "constant":
        raise UsageError("border", expected=_RULES, found=repr(text))
    try:
        return Border("constant", float(value))
    except ValueError:
        raise UsageError("border", expected="a number after constant:", found=repr(text)) from None


def check_border(border: Border, dtype: np.dtype[Any]) -> None:
    """Refuse a constant that pixels of a dtype cannot hold.

    Raises
    ------
    UsageError
        It is no whole number, or lies outside the range of the dtype.
    """
    if border.rule != "constant" or dtype.kind == "f":
        return
    low, high = (0, 1) if dtype.kind == "b" else (int(np.iinfo(dtype).min), int(np.iinfo(dtype).max))
    if not (border.value == np.rint(border.value) and low <= border.value <= high):
        raise UsageError(
            "border",
            expected=f"a whole number from {low} to {high} for {dtype} pixels",
            found=f"constant:{border.value:g}",
        )
