"""An image on a coarser grid, read lazily: exact area means over the best level of its pyramid.

::

    level of the file   ┌─┬─┬─┬─┬─┐      each scaled pixel is the mean over its footprint, pixels at its edges
                        │▒│█│█│▒│ │      weighted by the part that lies inside: the low-pass before decimation
                        └─┴─┴─┴─┴─┘
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from gigatile.images.cache import Schedule
from gigatile.images.image import REFLECT, Image
from gigatile.tiling.border import Border
from gigatile.tiling.region import Region
from gigatile.tiling.scales import Footprints, Taps

Pixels = np.ndarray[Any, Any]
SLAB_BYTES = 2 * 2**20
"""Source pixels, as float64, that are averaged at once, unless one scaled row takes more."""
NEAR = Fraction(101, 100)
"""A level that is coarser than the grid by less than this counts as not coarser."""


@dataclass(frozen=True, slots=True)
class ScaledGrid:
    """Where the pixels of a coarser grid come from."""

    level: int
    """The level of the file that is read."""
    y: Footprints
    x: Footprints

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in scaled pixels."""
        return self.y.length, self.x.length


def scaled_grid(image: Image, scale: Fraction) -> ScaledGrid:
    """The grid of `scale` times the resolution that is worked on, corner-aligned with it; a last, cut pixel counts.

    It is read from the coarsest level that is not coarser, which at worst is the level that is worked on.

    Parameters
    ----------
    image : Image
        With the level that is worked on.
    scale : Fraction
        Above 0 and up to 1.
    """
    best, factors = image.level, (Fraction(1), Fraction(1))
    for level in range(len(image.levels)):
        finer = _relative(image, level)
        if max(finer) * scale <= NEAR and min(finer) > min(factors):
            best, factors = level, finer
    axes = [
        Footprints(1 / (scale * factor), size, -int(-worked * scale // 1))
        for factor, size, worked in zip(factors, image.levels[best].shape, image.grid_shape, strict=True)
    ]
    return ScaledGrid(best, axes[0], axes[1])


def _relative(image: Image, level: int) -> tuple[Fraction, Fraction]:
    """Pixels of the level that is worked on per pixel of another level, along y and x."""
    pairs = zip(image.select(level=level).scale, image.scale, strict=True)
    ratios = [Fraction(a).limit_denominator(10**6) / Fraction(b).limit_denominator(10**6) for a, b in pairs]
    return ratios[0], ratios[1]


class Resampled:
    """Windows of an image on a coarser grid, float32 in the units of the stored pixels.

    Has a reader's state of its own: what it decodes counts neither for the cache nor for the counter of `image`.

    Memory bound
    ------------
    That of an `Image`, and besides the window four times `SLAB_BYTES` (or one scaled row, if larger).
    """

    def __init__(self, image: Image, grid: ScaledGrid) -> None:
        self._image = image.apart(grid.level)
        self._grid = grid

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, and height and width in scaled pixels."""
        return len(self._image.selected), *self._grid.shape

    @property
    def image(self) -> Image:
        """The image at the level that is read, with the cache and the counter of these reads."""
        return self._image

    def use_cache(self, budget_bytes: int, schedule: Schedule | None) -> None:
        """See `Image.use_cache`; units are those of the level that is read."""
        self._image.use_cache(budget_bytes, schedule)

    def read(self, region: Region, border: Border = REFLECT) -> Pixels:
        """Read a window.

        Parameters
        ----------
        region : Region
            In scaled pixels; what hangs over the image is filled by the border rule.

        Returns
        -------
        ndarray, float32, shape (c, y, x)
            Means over all pixels but NaN; NaN where there is no other.

        Raises
        ------
        BlockError
            Bytes of the file cannot be read or decoded.
        """
        return self._window(region, border, lambda window: (self._image.read(window), None))[0]

    def read_with_validity(self, region: Region, border: Border) -> tuple[Pixels, Pixels | None]:
        """Read a window as means over valid pixels only.

        Returns
        -------
        pixels : ndarray, float32, shape (c, y, x)
            Where no pixel of a footprint is valid, the mean over what is stored there.
        valid : ndarray of bool, shape (y, x), or None
            True where a pixel of the footprint is valid. None where the image has no way of saying so.
        """
        return self._window(region, border, lambda window: self._image.read_with_validity(window, REFLECT))

    def _window(
        self, region: Region, border: Border, read: Callable[[Region], tuple[Pixels, Pixels | None]]
    ) -> tuple[Pixels, Pixels | None]:
        height, width = self._grid.shape
        if region.clipped(Region(0, 0, height, width)) == region:
            return self._means(region, read)
        rows = border.index(region.y0, region.y1, height)
        cols = border.index(region.x0, region.x1, width)
        if rows.max(initial=-1) < 0 or cols.max(initial=-1) < 0:
            return np.full((self.shape[0], *region.shape), border.value, np.float32), None
        inside_y, inside_x = rows[rows >= 0], cols[cols >= 0]
        hull = Region(int(inside_y.min()), int(inside_x.min()), int(inside_y.max()) + 1, int(inside_x.max()) + 1)
        means, valid = self._means(hull, read)
        at_y, at_x = np.maximum(rows - hull.y0, 0), np.maximum(cols - hull.x0, 0)
        out = np.take(np.take(means, at_x, axis=2), at_y, axis=1)
        out[:, rows < 0] = border.value
        out[:, :, cols < 0] = border.value
        return out, None if valid is None else valid[np.ix_(at_y, at_x)]

    def _means(
        self, region: Region, read: Callable[[Region], tuple[Pixels, Pixels | None]]
    ) -> tuple[Pixels, Pixels | None]:
        """A window that lies inside the grid, a few rows at a time."""
        out = np.empty((self.shape[0], *region.shape), np.float32)
        known: Pixels | None = None
        if not region.pixels:
            return out, known
        left, right = self._grid.x.sources(region.x0, region.x1)
        cols = _shifted(self._grid.x.taps(region.x0, region.x1), left)
        deep = self.shape[0] * 8 * (right - left)
        height = max(SLAB_BYTES // (deep * (int(self._grid.y.step) + 2)), 1)
        for start in range(region.y0, region.y1, height):
            stop = min(start + height, region.y1)
            top, bottom = self._grid.y.sources(start, stop)
            rows = _shifted(self._grid.y.taps(start, stop), top)
            pixels, valid = read(Region(top, left, bottom, right))
            part = slice(start - region.y0, stop - region.y0)
            out[:, part], some = area_means(pixels, valid, rows, cols)
            if some is not None:
                known = np.ones(region.shape, bool) if known is None else known
                known[part] = some
        return out, known


def area_means(pixels: Pixels, valid: Pixels | None, rows: Taps, cols: Taps) -> tuple[Pixels, Pixels | None]:
    """Weighted means over valid pixels that are not NaN; the same bits whatever else is in the window.

    Parameters
    ----------
    pixels : ndarray, shape (c, y, x), any real dtype
    valid : ndarray of bool, shape (y, x), or None
        True where valid; None: everywhere.
    rows, cols : Taps
        Indices into `pixels`.

    Returns
    -------
    means : ndarray, float32, shape (c, n rows, n cols)
        Over what is stored where no pixel counts.
    valid : ndarray of bool, shape (n rows, n cols), or None
    """
    area = _sums(np.broadcast_to(rows.total[None, :, None], (1, rows.total.size, int(cols.index.max()) + 1)), cols, 2)
    counted = None if valid is None else valid[None]
    if pixels.dtype.kind == "f":
        number = ~np.isnan(pixels)
        counted = number if counted is None else counted & number
    if counted is None or counted.all():
        some = None if valid is None else np.ones(area.shape[1:], bool)
        return (_both(pixels, rows, cols) / area).astype(np.float32), some
    weight = _both(counted, rows, cols)
    total = _both(np.where(counted, pixels, pixels.dtype.type(0)), rows, cols)
    empty = np.broadcast_to(weight == 0, total.shape)
    means = total / np.where(weight == 0, 1, weight)
    if empty.any():
        means[empty] = (_both(pixels, rows, cols) / area)[empty]
    some = None if valid is None else _both(valid[None], rows, cols)[0] > 0
    return means.astype(np.float32), some


def _both(values: Pixels, rows: Taps, cols: Taps) -> Pixels:
    return _sums(_sums(values, rows, 1), cols, 2)


def _sums(values: Pixels, taps: Taps, axis: int) -> Pixels:
    """Weighted sums along an axis in float64, tap by tap, so that no window changes the order of additions."""
    shape = [1, 1, 1]
    shape[axis] = -1
    out: Pixels = np.take(values, taps.index[0], axis) * taps.weights[0].reshape(shape)
    for index, weights in zip(taps.index[1:], taps.weights[1:], strict=True):
        out += np.take(values, index, axis) * weights.reshape(shape)
    return out


def _shifted(taps: Taps, origin: int) -> Taps:
    return Taps(taps.index - origin, taps.weights)
