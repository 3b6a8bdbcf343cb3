"""An image on another grid, read lazily: exact area means over the best level of its pyramid, or interpolation.

::

    level of the file   ┌─┬─┬─┬─┬─┐      each pixel of a coarser grid is the mean over its footprint, pixels at its
                        │▒│█│█│▒│ │      edges weighted by the part that lies inside: the low-pass before decimation
                        └─┴─┴─┴─┴─┘
    finer grid          each pixel lies between the centres of 2 x 2 pixels of level 0: bilinear

All grids share the outer corner of the first pixel of level 0. A pixel is computed in float64 in an order that does
not depend on the window, and stored as float32: any window has the bits of the whole.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from gigatile.errors import UsageError
from gigatile.tiling.border import Border
from gigatile.tiling.region import Region
from gigatile.tiling.scales import NEAR, Footprints, Interpolation, Sampling, Taps, sampling

if TYPE_CHECKING:
    from gigatile.images.image import Image

Pixels = np.ndarray[Any, Any]
ReadLevel = Callable[[Region], tuple[Pixels, Pixels | None]]
"""Pixels (c, y, x) of a window inside a level, and which are valid (y, x); None: all, or not asked for."""
SLAB_BYTES = 2 * 2**20
"""Source pixels, as float64, that are averaged at once, unless one row of the grid takes more."""
FINEST_RATIO = 10**6
"""Ratios of pixel sizes have denominators up to this: over a million pixels it moves none by 1e-6."""
MOST_UPSAMPLING = 64
"""Grids finer by more than this are taken for a mistake in the unit."""
MOST_EXTENTS = 2
"""So are pixels larger than the image by more than this."""


@dataclass(frozen=True, slots=True)
class ScaledGrid:
    """Where the pixels of a grid come from."""

    level: int
    """The level of the file that is read."""
    y: Sampling
    x: Sampling
    pixel_size: float | None = None
    """What was asked for, where this grid is made to it: steps are ratios, and only near what it takes."""

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels of the grid."""
        return self.y.length, self.x.length

    @property
    def is_level(self) -> bool:
        """Whether its pixels are those of the level."""
        return all(axis.step == 1 and axis.length == axis.size for axis in (self.y, self.x))

    @property
    def upsamples(self) -> bool:
        """Whether it is finer than what it is made of."""
        return isinstance(self.y, Interpolation) or isinstance(self.x, Interpolation)

    def first_row(self, row: int) -> int:
        """First source row of a row of the grid that may lie beyond the edge."""
        inside = min(max(row, 0), self.y.length - 1)
        return self.y.sources(inside, inside + 1)[0]


def level_grid(image: Image, level: int) -> ScaledGrid:
    """The pixels of a level as they are."""
    height, width = image.levels[level].shape
    return ScaledGrid(level, Footprints(Fraction(1), height, height), Footprints(Fraction(1), width, width))


def scaled_grid(image: Image, scale: Fraction) -> ScaledGrid:
    """The grid of `scale` times the resolution that is worked on, corner-aligned with it; a last, cut pixel counts.

    It is read from the coarsest level that is not coarser, or from level 0.

    Parameters
    ----------
    image : Image
        With the level or grid that is worked on.
    scale : Fraction
        Above 0 and up to 1.
    """
    own = zip((image.grid.y, image.grid.x), level_factors(image, image.level), strict=True)
    target = [axis.step * factor / scale for axis, factor in own]
    lengths = [-int(-worked * scale // 1) for worked in image.grid_shape]
    return _read_from_best(image, (target[0], target[1]), (lengths[0], lengths[1]))


def grid_at(image: Image, pixel_size: float) -> ScaledGrid:
    """The grid of a pixel size, corner-aligned with level 0: ``ceil(size * own / pixel_size)`` pixels.

    A level whose pixels differ from it by less than 1 % is taken as it is; else pixels come from the coarsest level
    that is not coarser.

    Parameters
    ----------
    image : Image
    pixel_size : float
        In micrometres for slides, in units of the CRS for scenes.

    Raises
    ------
    UsageError
        The image does not say its own pixel size, or the number is no size for it.
    """
    own = image.pixel_size
    where = f"{image.info.path}, pixel size"
    if own is None:
        raise UsageError(
            where,
            expected="an image that says its own",
            found="none",
            fix=_how_to_state_it(image),
        )
    if not pixel_size > 0 or pixel_size == float("inf") or min(own.y, own.x) / pixel_size > MOST_UPSAMPLING:
        raise UsageError(
            where,
            expected=f"at least 1/{MOST_UPSAMPLING} of the image's own, {own.y:g} x {own.x:g} {own.unit}",
            found=f"{pixel_size:g}",
            fix="It is meant in that unit.",
        )
    extent = max(size * side for size, side in zip(image.levels[0].shape, (own.y, own.x), strict=True))
    if pixel_size > MOST_EXTENTS * extent:
        raise UsageError(
            where,
            expected=f"at most {MOST_EXTENTS} times the longer side of the image, {extent:g} {own.unit}",
            found=f"{pixel_size:g}",
            fix=f"It is meant in that unit; the image's own is {own.y:g} x {own.x:g} {own.unit}.",
        )
    near: list[tuple[float, int]] = []
    for level in range(len(image.levels)):
        ratios = [f * p / pixel_size for f, p in zip(level_factors(image, level), (own.y, own.x), strict=True)]
        off = max(max(float(ratio), 1 / float(ratio)) for ratio in ratios)
        if off < NEAR:
            near.append((off, level))
    if near:
        return level_grid(image, min(near)[1])
    return replace(grid_of_factor(image, (pixel_size / own.y, pixel_size / own.x)), pixel_size=pixel_size)


def _how_to_state_it(image: Image) -> str:
    """What helps where there is no pixel size."""
    if image.transform is not None:
        return "Name its CRS with gdal_edit.py -a_srs, or choose a level with --level."
    if image.crs is not None:
        return "Warp it to a grid (gdalwarp), or choose a level with --level."
    return "State it with --source-pixel-size, or choose a level with --level."


def grid_of_factor(image: Image, factors: tuple[float, float]) -> ScaledGrid:
    """The grid with pixels of so many pixels of level 0, along y and x, corner-aligned with it."""
    target = [Fraction(factor).limit_denominator(FINEST_RATIO) for factor in factors]
    lengths = [-int(-size // step) for size, step in zip(image.levels[0].shape, target, strict=True)]
    return _read_from_best(image, (target[0], target[1]), (lengths[0], lengths[1]))


def level_factors(image: Image, level: int) -> tuple[Fraction, Fraction]:
    """Pixels of level 0 per pixel of a level, along y and x."""
    y, x = (Fraction(factor).limit_denominator(FINEST_RATIO) for factor in image.select(level=level).scale)
    return y, x


def _read_from_best(image: Image, target: tuple[Fraction, Fraction], lengths: tuple[int, int]) -> ScaledGrid:
    """A grid with pixels of `target` pixels of level 0, from the coarsest level that is not coarser, or level 0."""
    best, factors = 0, level_factors(image, 0)
    for level in range(1, len(image.levels)):
        coarser = level_factors(image, level)
        if all(c <= NEAR * t for c, t in zip(coarser, target, strict=True)) and min(coarser) > min(factors):
            best, factors = level, coarser
    axes = [
        sampling((t / factor).limit_denominator(FINEST_RATIO), size, length)
        for t, factor, size, length in zip(target, factors, image.levels[best].shape, lengths, strict=True)
    ]
    return ScaledGrid(best, axes[0], axes[1])


def read_on_grid(
    grid: ScaledGrid, channels: int, region: Region, border: Border, read: ReadLevel
) -> tuple[Pixels, Pixels | None]:
    """A window of a grid.

    Parameters
    ----------
    grid : ScaledGrid
    channels : int
        That `read` gives.
    region : Region
        In pixels of the grid; what hangs over it is filled by the border rule.
    border : Border
    read : callable
        Reads the level that the grid is made from.

    Returns
    -------
    pixels : ndarray, float32, shape (c, y, x)
        In units of the stored pixels. Made of valid pixels that are not NaN; where there is none, of what is stored.
    valid : ndarray of bool, shape (y, x), or None
        True where a pixel of the footprint is valid, or, of a finer grid, the pixel under its centre. None where
        `read` does not say.

    Memory bound
    ------------
    The window, and four times `SLAB_BYTES` (or one row of the grid, if larger).
    """
    height, width = grid.shape
    if region.clipped(Region(0, 0, height, width)) == region:
        return _inside(grid, channels, region, read)
    rows = border.index(region.y0, region.y1, height)
    cols = border.index(region.x0, region.x1, width)
    if rows.max(initial=-1) < 0 or cols.max(initial=-1) < 0:
        return np.full((channels, *region.shape), border.value, np.float32), None
    inside_y, inside_x = rows[rows >= 0], cols[cols >= 0]
    hull = Region(int(inside_y.min()), int(inside_x.min()), int(inside_y.max()) + 1, int(inside_x.max()) + 1)
    means, valid = _inside(grid, channels, hull, read)
    at_y, at_x = np.maximum(rows - hull.y0, 0), np.maximum(cols - hull.x0, 0)
    out = np.take(np.take(means, at_x, axis=2), at_y, axis=1)
    out[:, rows < 0] = border.value
    out[:, :, cols < 0] = border.value
    return out, None if valid is None else valid[np.ix_(at_y, at_x)]


def _inside(grid: ScaledGrid, channels: int, region: Region, read: ReadLevel) -> tuple[Pixels, Pixels | None]:
    """A window that lies inside the grid, a few rows at a time."""
    out = np.empty((channels, *region.shape), np.float32)
    known: Pixels | None = None
    if not region.pixels:
        return out, known
    left, right = grid.x.sources(region.x0, region.x1)
    cols = _shifted(grid.x.taps(region.x0, region.x1), left)
    cover = _shifted(grid.x.cover(region.x0, region.x1), left)
    deep = channels * 8 * max(right - left, region.shape[1])
    height = max(SLAB_BYTES // (deep * (int(grid.y.step) + 2)), 1)
    for start in range(region.y0, region.y1, height):
        stop = min(start + height, region.y1)
        top, bottom = grid.y.sources(start, stop)
        pixels, valid = read(Region(top, left, bottom, right))
        part = slice(start - region.y0, stop - region.y0)
        out[:, part], some = area_means(pixels, valid, _shifted(grid.y.taps(start, stop), top), cols)
        if some is not None and valid is not None:
            if grid.upsamples:
                some = _both(valid[None], _shifted(grid.y.cover(start, stop), top), cover)[0] > 0
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
