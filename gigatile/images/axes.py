"""Which axis of an array is which: everything becomes (c, y, x) at the edge and stays so inside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gigatile.errors import ImageError

_ALIASES = {
    "y": "y", "row": "y", "rows": "y", "lat": "y", "latitude": "y", "northing": "y", "height": "y",
    "x": "x", "col": "x", "cols": "x", "lon": "x", "longitude": "x", "easting": "x", "width": "x",
    "c": "c", "s": "c", "channel": "c", "channels": "c", "band": "c", "bands": "c", "wavelength": "c",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class AxisOrder:
    """Positions of y, x and c in an array; all other axes have size 1 and are dropped."""

    ndim: int
    y: int
    x: int
    c: int | None = None
    """None where the array has no channel axis: it is one channel."""
    note: str = ""
    """What had to be guessed."""

    def index(self, ys: slice, xs: slice) -> tuple[int | slice, ...]:
        """Index of a window, all channels."""
        places: dict[int | None, int | slice] = {self.c: slice(None), self.y: ys, self.x: xs}
        return tuple(places.get(axis, 0) for axis in range(self.ndim))

    def arrange(self, window: Any) -> Any:
        """What `index` selected, as (c, y, x); numpy or dask."""
        kept = sorted(axis for axis in (self.c, self.y, self.x) if axis is not None)
        if self.c is None:
            return window.transpose([kept.index(self.y), kept.index(self.x)])[np.newaxis]
        return window.transpose([kept.index(self.c), kept.index(self.y), kept.index(self.x)])

    def channels(self, shape: Sequence[int]) -> int:
        """Number of channels of an array of this shape."""
        return 1 if self.c is None else int(shape[self.c])


def order_axes(shape: Sequence[int], names: Sequence[str] | None, where: str) -> AxisOrder:
    """Find y, x and c.

    Parameters
    ----------
    shape : sequence of int
        Shape of the array.
    names : sequence of str, optional
        One name per axis, or a string such as ``"yxc"``. Without names two axes are y, x; three are
        c, y, x unless the last is at most 4 and the first is longer, which is how pictures are stored.

    Raises
    ------
    ImageError
        The names do not fit, or an axis that is neither y, x nor c is longer than 1.
    """
    if min(shape, default=0) < 1:
        raise ImageError(where, expected="an array with pixels", found=f"shape {tuple(shape)}")
    if names is None:
        return _guess(shape, where)
    if len(names) != len(shape):
        raise ImageError(
            where,
            expected=f"axes for shape {tuple(shape)}",
            found=f"{len(names)} names: {''.join(names) if isinstance(names, str) else list(names)}",
            fix='Name each axis once, for instance axes="cyx" or axes="yxc".',
        )
    found: dict[str, int] = {}
    for axis, name in enumerate(names):
        meaning = _ALIASES.get(name.lower())
        if meaning is not None and meaning not in found:
            found[meaning] = axis
        elif shape[axis] > 1:
            raise ImageError(
                where,
                expected="axes y, x and at most c longer than 1",
                found=f"{shape[axis]} along {name!r} (shape {tuple(shape)})",
                fix="Select one plane first: --channels cannot choose along this axis yet.",
            )
    if not {"y", "x"} <= found.keys():
        raise ImageError(where, expected="axes y and x", found=f"axes {list(names)}", fix='Give axes="cyx".')
    return AxisOrder(len(shape), found["y"], found["x"], found.get("c"))


def _guess(shape: Sequence[int], where: str) -> AxisOrder:
    ndim = len(shape)
    extra = [axis for axis in range(ndim - 3) if shape[axis] > 1]
    if ndim < 2 or extra:
        raise ImageError(
            where,
            expected="axes y, x or c, y, x",
            found=f"shape {tuple(shape)} without names of axes",
            fix='Select a plane, and give axes="cyx" or axes="yxc".',
        )
    if ndim == 2:
        return AxisOrder(2, 0, 1)
    first, last = shape[-3], shape[-1]
    if last <= 4 < first:
        note = f"axes taken as yxc, because the last of shape {tuple(shape)} is at most 4; axes= says otherwise"
        return AxisOrder(ndim, ndim - 3, ndim - 2, ndim - 1, note)
    return AxisOrder(ndim, ndim - 2, ndim - 1, ndim - 3)


def require_numbers(dtype: np.dtype[Any], where: str) -> np.dtype[Any]:
    """The dtype in native byte order, if pixels may have it.

    Raises
    ------
    ImageError
        Complex numbers, text, records.
    """
    if dtype.kind not in "buif":
        raise ImageError(
            where,
            expected="pixels that are integers, booleans or real numbers",
            found=f"dtype {dtype}",
            fix="Convert them first, for instance to their magnitude.",
        )
    return dtype.newbyteorder("=")
