"""Which pixels of an image statistics are taken from: all of a level that is small enough, or a lattice of units.

::

    a level of at most SAMPLE_PX        a larger one, without smaller levels
    ┌─────────────┐                     ┌─┬─┬─┬─┬─┬─┐
    │█████████████│                     ├─┼█┼─┼─┼█┼─┤     decode units at even distances,
    │█████████████│                     ├─┼─┼─┼─┼─┼─┤     whole, or thinned where they are huge
    │█████████████│                     ├─┼█┼─┼─┼█┼─┤
    └─────────────┘                     └─┴─┴─┴─┴─┴─┘
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby, pairwise
from math import sqrt
from typing import Any

import numpy as np

from gigatile.images.image import REFLECT, Image
from gigatile.images.info import Level
from gigatile.models.percentile import Sample
from gigatile.tiling.region import Region

Pixels = np.ndarray[Any, Any]
SAMPLE_PX = 1 << 24
"""Most pixels that statistics are taken from."""
WINDOW_BYTES = 1 << 24
"""Read at once, unless one decode unit is larger."""
SLAB_PX = 1 << 18
"""Handed out at once, so that temporary arrays have this many values."""
FEWEST_UNITS = 16
"""Places that a lattice has at least, where the image has so many decode units."""


class PixelSample:
    """Pixels of an image, in an order that depends on its levels alone; `slabs` and `values` may be called again.

    Memory bound
    ------------
    A window of `WINDOW_BYTES`, or one decode unit if that is larger, and what the image decodes ahead. Nothing is
    cached: a pass needs each unit once.
    """

    def __init__(self, image: Image) -> None:
        pixel_bytes = len(image.info.channels) * image.info.dtype.itemsize
        self.level, self.thinned = _choose(image)
        """The level, and whether its pixels are too many to look at all of them."""
        level = image.levels[self.level]
        self._windows = tuple(_lattice(level) if self.thinned else _everything(level, WINDOW_BYTES // pixel_bytes))
        self._step = 1
        while _count(self._windows, self._step) > SAMPLE_PX:
            self._step += 1
        self.pixels = _count(self._windows, self._step)
        """Pixels in the sample."""
        self.valid = 0
        """Those of them that are valid; known once a pass is over."""
        # Another Image on the same source, so that the caller's cache is not emptied of what it will need.
        self._image = image.apart(self.level)
        self._image.use_cache(0, None)
        self.names = [f"{image.info.path}, channel {name}" for name in image.channels]
        """How messages name the channels."""
        stored = image.info.dtype
        self.dtype = stored if stored.itemsize <= 8 else np.dtype(np.float64)
        """Of the values."""

    def slabs(self) -> Iterator[tuple[Pixels, Pixels | None]]:
        """Pixels, shape (c, y, x), and where they are valid, shape (y, x) (None: everywhere), a few rows at a time.

        Raises
        ------
        BlockError
            Bytes of the file cannot be read or decoded.
        """
        self.valid = 0
        for window in self._windows:
            pixels, valid = self._image.read_with_validity(window, REFLECT)
            pixels = pixels[:, :: self._step, :: self._step]
            valid = None if valid is None else valid[:: self._step, :: self._step]
            rows = max(SLAB_PX // pixels.shape[2], 1)
            for y in range(0, pixels.shape[1], rows):
                part, here = pixels[:, y : y + rows], None if valid is None else valid[y : y + rows]
                self.valid += part[0].size if here is None else int(here.sum())
                yield part, here

    def values(self) -> Iterator[list[Sample]]:
        """The finite values of the valid pixels, one 1-D array a channel."""
        for pixels, valid in self.slabs():
            parts: list[Sample] = []
            for channel in pixels:
                values = (channel.ravel() if valid is None else channel[valid]).astype(self.dtype, copy=False)
                parts.append((values[np.isfinite(values)] if self.dtype.kind == "f" else values, None))
            yield parts


def _choose(image: Image) -> tuple[int, bool]:
    """The finest level that is small enough, not finer than the one worked on; else the smallest, and True."""
    sizes = {i: image.levels[i].shape[0] * image.levels[i].shape[1] for i in range(image.level, len(image.levels))}
    for number, size in sizes.items():
        if size <= SAMPLE_PX:
            return number, False
    return min(sizes, key=lambda number: sizes[number]), True


def _count(windows: Sequence[Region], step: int) -> int:
    """Pixels of windows of which every step-th row and column is taken."""
    return sum(-(-w.shape[0] // step) * -(-w.shape[1] // step) for w in windows)


def _everything(level: Level, limit_px: int) -> Iterator[Region]:
    """Every unit once, row by row, neighbours taken together up to a limit."""
    for y0, y1 in pairwise(level.edges_y):
        wide = max(limit_px // (y1 - y0), 1)
        for _, group in groupby(pairwise(level.edges_x), key=lambda edges: edges[0] // wide):
            columns = list(group)
            yield Region(y0, columns[0][0], y1, columns[-1][1])


def _lattice(level: Level) -> Iterator[Region]:
    """Units at even distances along both axes, the outermost half a distance from the border."""
    rows, cols = len(level.edges_y) - 1, len(level.edges_x) - 1
    side_y, side_x = (max(b - a for a, b in pairwise(edges)) for edges in (level.edges_y, level.edges_x))
    count = min(max(SAMPLE_PX // (side_y * side_x), FEWEST_UNITS), rows * cols)
    across = min(max(round(sqrt(count * cols / rows)), 1), cols)
    down = min(max(count // across, 1), rows)
    across = min(max(count // down, 1), cols)
    for i in range(down):
        row = (2 * i + 1) * rows // (2 * down)
        for j in range(across):
            col = (2 * j + 1) * cols // (2 * across)
            yield Region(level.edges_y[row], level.edges_x[col], level.edges_y[row + 1], level.edges_x[col + 1])
