"""Reading: bands of the image, one row of tiles at a time, cut into normalised tiles."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gigatile.engine.batches import Inference, Tile
from gigatile.engine.pipes import Clock
from gigatile.plans.kept import Wanted
from gigatile.tiling.region import Region
from gigatile.tiling.tiling import Grid

Array = np.ndarray[Any, Any]
Read = Callable[[Region], tuple[Array, Array | None]]
"""Pixels (c, y, x) of a window that may hang over the image, and which are valid (y, x) or None for all."""


@dataclass(frozen=True, slots=True)
class Band:
    """One row of tiles, read at once."""

    row: int
    cols: frozenset[int]
    """Of the tiles that are wanted."""
    left: int
    """First column, in pixels of the image."""
    pixels: Array
    window: Region
    """The same place in pixels of the result."""
    valid: Array | None
    """On the window."""


@dataclass(frozen=True, slots=True)
class Asked:
    """The tiles of a region, and what for."""

    rows: Sequence[int]
    cols: Sequence[int]
    wanted: Wanted
    """Which of them have to be inferred."""
    matters: Callable[[int, int], Region]
    """The pixels of the result for which a tile (row, col) is inferred: it is left out where none of them is valid."""


class Validity:
    """Which pixels of a region are valid, known row by row as its bands are read.

    Memory bound
    ------------
    One byte a pixel of the region, and only once a band with invalid pixels has been met.
    """

    def __init__(self, region: Region) -> None:
        self._region = region
        self._mask: Array | None = None

    def add(self, window: Region, valid: Array | None) -> None:
        """Take over what a window (in pixels of the result) says of the region."""
        if valid is None or (self._mask is None and valid.all()):
            return
        if self._mask is None:
            self._mask = np.ones(self._region.shape, bool)
        part = window.clipped(self._region)
        inside = part.shifted(-self._region.y0, -self._region.x0).slices()
        self._mask[inside] = valid[part.shifted(-window.y0, -window.x0).slices()]

    def rows(self, start: int, stop: int) -> Array | None:
        """The mask of some rows, in pixels of the image; None where all are valid."""
        if self._mask is None:
            return None
        return self._mask[start - self._region.y0 : stop - self._region.y0]


def bands(grid: Grid, asked: Asked, read: Read, clock: Clock) -> Iterator[Band | int]:
    """What the wanted tiles of each row read; the row alone where there is none."""
    for row in asked.rows:
        cols = [col for col in asked.cols if asked.wanted.tile(row, col)]
        if not cols:
            yield row
            continue
        region = grid.band(row, range(cols[0], cols[-1] + 1))
        with clock.stage("read"):
            pixels, valid = read(region)
            window, valid = on_result(grid, region, valid)
        yield Band(row, frozenset(cols), region.x0, pixels, window, valid)


def on_result(grid: Grid, region: Region, valid: Array | None) -> tuple[Region, Array | None]:
    """A window of the image in pixels of the result, and which of those are valid: as the pixels under their centres.

    Parameters
    ----------
    region : Region
        In pixels of the image.
    valid : ndarray of bool, shape of the region, or None
    """
    output = grid.y.output
    if output.scale == 1:
        return region, valid
    scaled = [-int(-edge * output.scale // 1) for edge in (region.y0, region.x0)]
    ends = [int(edge * output.scale // 1) for edge in (region.y1, region.x1)]
    window = Region(scaled[0], scaled[1], ends[0], ends[1])
    if valid is None:
        return window, None
    rows = output.sources(window.y0, window.y1) - region.y0
    cols = output.sources(window.x0, window.x1) - region.x0
    return window, valid[np.ix_(rows, cols)]


def tiles(how: Inference, asked: Asked, found: Iterable[Band | int], validity: Validity) -> Iterator[Tile]:
    """Cut bands into normalised tiles, without those of which nothing that matters is valid; tell `validity` what the
    bands say."""
    for band in found:
        if isinstance(band, int):
            yield from (Tile(band, col, None) for col in asked.cols)
            continue
        validity.add(band.window, band.valid)
        for col in asked.cols:
            # What matters of a tile that is not wanted may lie beside what was read.
            kept = asked.matters(band.row, col).clipped(band.window)
            inside = kept.shifted(-band.window.y0, -band.window.x0).slices()
            if col not in band.cols or (band.valid is not None and not band.valid[inside].any()):
                yield Tile(band.row, col, None)
                continue
            x0 = how.grid.x.read(col)[0] - band.left
            pixels = band.pixels[:, :, x0 : x0 + how.grid.x.tile]
            yield Tile(band.row, col, how.model.values.normalised(pixels))
