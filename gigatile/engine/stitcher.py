"""Predictions of overlapping tiles become finished rows of a block.

::

    tile row r      ┌────┬─┬────┬─┬────┐   along x: a running mean into one strip, as high as a support
                    │ t0 │▒│ t1 │▒│ t2 │
                    └────┴─┴────┴─┴────┘
    open rows       ░░░░░░░░░░░░░░░░░░░░   along y: the strip joins what earlier rows of tiles left open
    finished rows   ████████████████████   no later tile reaches them: handed out in whole chunk rows

Memory bound
------------
One strip (support height x block width) and the open rows (support plus chunk height x block width), for each
channel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from gigatile.engine.seams import SeamTally
from gigatile.tiling.axis import Axis
from gigatile.tiling.region import Region
from gigatile.tiling.tiling import Grid

Array = np.ndarray[Any, Any]


def _all_valid(start: int, stop: int) -> Array | None:
    return None


def _cut(mask: Array | None, rows: slice, columns: slice) -> Array | None:
    return None if mask is None else mask[rows, columns]


class RegionStitcher:
    """Blend the tiles of one region, handed over row by row and from left to right.

    Parameters
    ----------
    grid : Grid
        The tiles of the whole image.
    region : Region
        What is wanted of it; pixels outside are not computed.
    channels : int
    dtype : dtype
        Of the predictions. Half precision and whole numbers are blended in float32, those of 32 bits and more
        in float64; whole numbers stay what they are where each pixel comes from one tile.
    step : int
        Finished rows are handed out in multiples of `step` from the top of the region.
    valid : callable, optional
        Gives the mask of some rows of the region (True where valid, None for all), for the seams.
    """

    def __init__(
        self,
        grid: Grid,
        region: Region,
        channels: int,
        dtype: np.dtype[Any],
        step: int,
        *,
        valid: Callable[[int, int], Array | None] = _all_valid,
    ) -> None:
        self._grid, self._region, self._step, self._valid = grid, region, step, valid
        self.seams = SeamTally()
        """What neighbouring tiles disagreed."""
        self.rows, self.cols = grid.covering(region)
        """Rows and columns of the tiles that have to be added."""
        if dtype.kind == "f" or grid.y.reach or grid.x.reach:
            dtype = np.result_type(dtype, np.float32)
        reach = max(grid.y.support(row)[1] - grid.y.support(row)[0] for row in self.rows)
        height, width = region.shape
        self._strip = np.zeros((channels, min(reach, height), width), dtype)
        self._open = np.zeros((channels, min(reach + step, height), width), dtype)
        self._top = region.y0
        self._filled = self._handed_out = 0
        # For trim: what the tile to the left, and the row of tiles above, said of the pixels next to their cores.
        self._beside: Array | None = None
        self._below = [np.full((channels, width), np.nan, np.float32) for _ in range(2)] if grid.y.seam_px else []

    def add(self, row: int, col: int, prediction: Array | None) -> Iterator[tuple[int, Array]]:
        """Add one tile; after the last one of a row, hand out the rows that are finished.

        Parameters
        ----------
        row, col : int
            Place in the tile grid; the next one in row-major order.
        prediction : ndarray, shape (k, tile_y, tile_x), or None
            None for a tile whose support holds no pixel that is kept.

        Yields
        ------
        y : int
            First row, in pixels of the image.
        band : ndarray, shape (k, rows, width of the region)
            A view that is valid until the next call.
        """
        y = _part(self._grid.y, row, self._region.y0, self._region.y1)
        x = _part(self._grid.x, col, self._region.x0, self._region.x1)
        left = x.start - self._region.x0
        strip = self._strip[:, : y.length, left : left + x.length]
        if prediction is None:
            strip[:, :, x.fresh :] = 0
        else:
            part = prediction[:, y.tile, x.tile]
            if x.fresh:
                mask = self._valid(y.start, y.start + y.length)
                columns = slice(left, left + x.fresh)
                self.seams.compare(strip[:, :, : x.fresh], part[:, :, : x.fresh], _cut(mask, slice(None), columns))
            _join(strip, part, x, axis=2)
        if self._below:
            self._compare_cores(prediction, y, x)
        if col == self.cols[-1]:
            yield from self._close_row(row)

    def _compare_cores(self, prediction: Array | None, y: _Part, x: _Part) -> None:
        """For trim: the first column and row of a core against what its neighbours said of them."""
        columns = slice(x.start - self._region.x0, x.start - self._region.x0 + x.length)
        above, below = self._below
        if prediction is None:
            self._beside = None
            below[:, columns] = np.nan
            return
        mask = self._valid(y.start, y.start + y.length)
        core = prediction[:, y.tile, x.tile]
        if self._beside is not None and x.start > self._region.x0:
            self.seams.compare(
                self._beside, core[:, :, :1], _cut(mask, slice(None), slice(columns.start, columns.start + 1))
            )
        known = ~np.isnan(above[:, columns]).any(axis=0, keepdims=True)
        if known.any():
            first = _cut(mask, slice(0, 1), columns)
            both = np.asarray(known if first is None else known & first)
            self.seams.compare(above[:, None, columns], core[:, :1], both)
        self._beside = prediction[:, y.tile, x.tile.stop : x.tile.stop + 1].astype(np.float32)
        below[:, columns] = prediction[:, y.tile.stop, x.tile]

    def _close_row(self, row: int) -> Iterator[tuple[int, Array]]:
        self._drop_handed_out()
        y = _part(self._grid.y, row, self._region.y0, self._region.y1)
        above = y.start - self._top
        if y.fresh:
            mask = self._valid(y.start, y.start + y.fresh)
            self.seams.compare(self._open[:, above : above + y.fresh], self._strip[:, : y.fresh], mask)
        self._beside = None
        self._below.reverse()
        _join(self._open[:, above : above + y.length], self._strip[:, : y.length], y, axis=1)
        self._filled = above + y.length
        last = row == self.rows[-1]
        ready = (self._region.y1 if last else self._grid.y.support(row + 1)[0]) - self._top
        rows = ready if last else ready // self._step * self._step
        if rows > 0:
            self._handed_out = rows
            yield self._top, self._open[:, :rows]

    def _drop_handed_out(self) -> None:
        """Move the open rows up; only now, since what was handed out is a view of the same memory."""
        rows, kept = self._handed_out, self._filled - self._handed_out
        if rows:
            # The ranges may overlap; numpy copies through a buffer where they do.
            self._open[:, :kept] = self._open[:, rows : rows + kept]
            self._top += rows
            self._handed_out = 0


@dataclass(frozen=True, slots=True)
class _Part:
    """The part of a tile's support that lies in the region, along one axis."""

    start: int
    length: int
    fresh: int
    """Pixels from `start` on that earlier tiles cover, too."""
    tile: slice
    """Where the part lies in the prediction."""
    ratios: Array
    """Share of the tile in the running mean; over the part."""


def _part(axis: Axis, index: int, low: int, high: int) -> _Part:
    first, last = axis.support(index)
    start, stop = max(first, low), min(last, high)
    fresh = min(max(axis.fresh(index), start), stop)
    origin = axis.origin(index)
    ratios = axis.ratios(index)[start - first : stop - first]
    return _Part(start, stop - start, fresh - start, slice(start - origin, stop - origin), ratios)


def _join(mean: Array, value: Array, part: _Part, axis: int) -> None:
    """One step of the running mean, in place: ``m += ratio * (v - m)``; fresh pixels are copied."""
    old, new = [slice(None)] * 3, [slice(None)] * 3
    old[axis], new[axis] = slice(None, part.fresh), slice(part.fresh, None)
    mean[tuple(new)] = value[tuple(new)]
    if part.fresh:
        shape = [1, 1, 1]
        shape[axis] = part.fresh
        m = mean[tuple(old)]
        m += part.ratios[: part.fresh].reshape(shape) * (value[tuple(old)] - m)
