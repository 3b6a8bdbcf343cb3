"""A selection, asked in pixels of the result; and the tiles that it leaves something to do.

::

    kept pixels of a block      tiles whose support holds one: inferred      the others: skipped
    ░░░▓▓▓░░░░░░░░░░░░          ├────┼────┤                                  ├────┼────┼────
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from gigatile.plans.scales import ScaledPass
from gigatile.selections.selection import Selection
from gigatile.tiling.output_grid import OutputGrid
from gigatile.tiling.region import Region
from gigatile.tiling.tiling import Blocks, Grid

Mask = np.ndarray[Any, Any]
MOST_LOOKED_AT = 1 << 29
"""Pixels of blocks whose tiles a plan looks at one by one."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A selection on the grid of the result: a pixel is kept where the image's pixel under its centre is."""

    selection: Selection
    image_shape: tuple[int, int]
    """Height and width of the grid that is worked on."""
    output: OutputGrid

    def window(self, region: Region) -> Mask:
        """Which pixels of a region of the result are kept; bool, of its shape."""
        if self.output.scale == 1:
            return self.selection.window(region)
        # A last, cut pixel may have its centre beyond the image: it goes with the image's last.
        rows = np.minimum(self.output.sources(region.y0, region.y1), self.image_shape[0] - 1)
        cols = np.minimum(self.output.sources(region.x0, region.x1), self.image_shape[1] - 1)
        hull = Region(int(rows[0]), int(cols[0]), int(rows[-1]) + 1, int(cols[-1]) + 1)
        return self.selection.window(hull)[np.ix_(rows - hull.y0, cols - hull.x0)]

    @property
    def bounds(self) -> Region:
        """A box, in pixels of the result, beyond which nothing is kept."""
        box, scale = self.selection.bounds, self.output.scale
        if not box.pixels:
            return Region(0, 0, 0, 0)
        # A pixel more at the end, for a last, cut one whose centre lies beyond the image.
        ends = [
            min(int(-(-edge * scale // 1)) + 1, self.output.length(size))
            for edge, size in zip((box.y1, box.x1), self.image_shape, strict=True)
        ]
        return Region(int(box.y0 * scale // 1), int(box.x0 * scale // 1), ends[0], ends[1])

    def touches(self, region: Region) -> bool:
        """Whether a pixel of a region is kept."""
        if self.output.scale == 1:
            return self.selection.touches(region)
        rows = np.minimum(self.output.sources(region.y0, region.y1), self.image_shape[0] - 1)
        cols = np.minimum(self.output.sources(region.x0, region.x1), self.image_shape[1] - 1)
        hull = Region(int(rows[0]), int(cols[0]), int(rows[-1]) + 1, int(cols[-1]) + 1)
        return self.selection.touches(hull) and (self.output.scale > 1 or bool(self.window(region).any()))


class Wanted(Protocol):
    """Which tiles have to be inferred for a region."""

    def tile(self, row: int, col: int) -> bool:
        """Whether the tile contributes to a pixel that is kept."""
        ...

    def rows(self, start: int, stop: int) -> Mask | None:
        """Which pixels of some rows of the region are kept; None: all, or nobody asks."""
        ...


class Everything:
    """All tiles, all pixels."""

    def tile(self, row: int, col: int) -> bool:
        """Yes."""
        return True

    def rows(self, start: int, stop: int) -> Mask | None:
        """All."""
        return None


@dataclass(frozen=True, slots=True, eq=False)
class WantedTiles:
    """The tiles of one block, at scale 1."""

    grid: Grid
    region: Region
    """The block."""
    mask: Mask
    """What is kept of it."""

    def tile(self, row: int, col: int) -> bool:
        """See `Wanted.tile`."""
        (y0, y1), (x0, x1) = self.grid.y.support(row), self.grid.x.support(col)
        return _any(self.mask, self.region, Region(y0, x0, y1, x1))

    def rows(self, start: int, stop: int) -> Mask | None:
        """See `Wanted.rows`."""
        return self.mask[start - self.region.y0 : stop - self.region.y0]


@dataclass(frozen=True, slots=True, eq=False)
class WantedScaledTiles:
    """The tiles of one block at another scale: those that a kept pixel is interpolated from.

    What lies beside the kept pixels is as true as ever: no row of it is called invalid.
    """

    scaled: ScaledPass
    region: Region
    mask: Mask

    def tile(self, row: int, col: int) -> bool:
        """See `Wanted.tile`."""
        y, x = self.scaled.y, self.scaled.x
        y0, y1 = y.up.reached(*y.axis.support(row), self.region.y1)
        x0, x1 = x.up.reached(*x.axis.support(col), self.region.x1)
        return _any(self.mask, self.region, Region(y0, x0, y1, x1))

    def rows(self, start: int, stop: int) -> Mask | None:
        """All."""
        return None


@dataclass(frozen=True, slots=True, eq=False)
class KeptShare:
    """How much of the work of a run a selection leaves."""

    blocks: npt.NDArray[np.bool_]
    """Blocks in which something is kept; shape (rows, cols)."""
    pixels: float
    """Share of the result's pixels that lie in them."""
    tiles: int
    """Tiles of the grid whose support holds a kept pixel."""
    inferred: int
    """Tiles of all scales, those at block edges counted as often as they are inferred."""


def kept_share(kept: Kept | None, grid: Grid, blocks: Blocks, passes: Sequence[ScaledPass]) -> KeptShare:
    """Look at every block and, where they are not too many, at every tile.

    Of more kept blocks than make up `MOST_LOOKED_AT` pixels only so many, at even distances, are looked at tile by
    tile, and stand for the others.
    """
    everything = blocks.inferred(grid) + sum(scaled.inferred(blocks) for scaled in passes)
    if kept is None:
        return KeptShare(np.ones(blocks.grid, bool), 1.0, grid.tiles, everything)
    touched = np.zeros(blocks.grid, bool)
    bounds = kept.bounds
    for row in range(bounds.y0 // blocks.side[0], -(-bounds.y1 // blocks.side[0])):
        for col in range(bounds.x0 // blocks.side[1], -(-bounds.x1 // blocks.side[1])):
            touched[row, col] = kept.touches(blocks.region(row, col))
    places = np.argwhere(touched)
    most = max(MOST_LOOKED_AT // (blocks.side[0] * blocks.side[1]), 1)
    step = -(-max(len(places), 1) // most)
    some = [blocks.region(int(row), int(col)) for row, col in places[::step]]
    factor = len(places) / max(len(some), 1)
    inferred = 0
    tiles: set[tuple[int, int]] = set()
    for region in some:
        mask = kept.window(region)
        wanted = WantedTiles(grid, region, mask)
        rows, cols = grid.covering(region)
        here = [(row, col) for row in rows for col in cols if wanted.tile(row, col)]
        inferred += len(here)
        tiles.update(here)
        for scaled in passes:
            needed = WantedScaledTiles(scaled, region, mask)
            rows, cols = scaled.grid.covering(scaled.region(region))
            inferred += sum(needed.tile(row, col) for row in rows for col in cols)
    pixels = sum(blocks.region(int(row), int(col)).pixels for row, col in places)
    share = pixels / (blocks.shape[0] * blocks.shape[1])
    # Neighbours that are not looked at would have met the tiles of the ring as well.
    once = 1.0 if step == 1 else grid.tiles / blocks.inferred(grid)
    return KeptShare(touched, share, round(len(tiles) * factor * once), round(inferred * factor))


def objects_share(kept: Kept | None, grid: Grid, blocks: Blocks, around: int) -> KeptShare:
    """The same of a run that looks for objects.

    Parameters
    ----------
    kept : Kept or None
    grid : Grid
    blocks : Blocks
    around : int
        Pixels around a block that are predicted for it, too; 0 where each tile belongs to one block, and is inferred
        for that alone. Then tiles are counted where any of their block may be wanted.
    """
    whole = Region(0, 0, *grid.shape)
    margins = (around, around) if around else (grid.y.halo, grid.x.halo)

    def tiles(region: Region) -> int:
        if around:
            return grid.tiles_of(region.grown(*margins).clipped(whole))
        y, x = grid.stride
        return (-(-region.y1 // y) - region.y0 // y) * (-(-region.x1 // x) - region.x0 // x)

    if kept is None:
        rows, cols = blocks.grid
        per_row = (blocks.region(row, 0) for row in range(rows))
        per_col = (blocks.region(0, col) for col in range(cols))
        if not around:
            return KeptShare(np.ones(blocks.grid, bool), 1.0, grid.tiles, grid.tiles)
        high = sum(len(grid.y.covering(max(r.y0 - around, 0), min(r.y1 + around, grid.shape[0]))) for r in per_row)
        wide = sum(len(grid.x.covering(max(r.x0 - around, 0), min(r.x1 + around, grid.shape[1]))) for r in per_col)
        return KeptShare(np.ones(blocks.grid, bool), 1.0, grid.tiles, high * wide)
    touched = np.zeros(blocks.grid, bool)
    pixels = inferred = 0
    for row, col in blocks:
        region = blocks.region(row, col)
        touched[row, col] = kept.touches(region.grown(*margins).clipped(whole))
        if touched[row, col]:
            pixels += region.pixels
            inferred += tiles(region)
    share = pixels / (blocks.shape[0] * blocks.shape[1])
    return KeptShare(touched, share, min(inferred, grid.tiles), inferred)


def _any(mask: Mask, region: Region, part: Region) -> bool:
    return bool(mask[part.clipped(region).shifted(-region.y0, -region.x0).slices()].any())
