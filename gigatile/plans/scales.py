"""The further scales of a multi-scale run: their grids, and what a block of the result needs of each.

::

    block of the result ──▶ scaled rows and columns around it ──▶ tiles of the scaled grid ──▶ source pixels
                  (interpolation)                   (supports, halos)             (footprints)

Each scale has a global tile grid of its own, anchored at pixel (0, 0) of the scaled image.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

from gigatile.images.footprint import beyond_px, continuing_bytes
from gigatile.images.image import Image
from gigatile.images.resample import SLAB_BYTES, ScaledGrid, scaled_grid
from gigatile.models.warmup import Trial
from gigatile.tiling.axis import Axis
from gigatile.tiling.output_grid import OutputGrid
from gigatile.tiling.region import Region
from gigatile.tiling.scales import Sampling, Upsampling
from gigatile.tiling.tiling import Blocks, Grid, Tiling

PIECE_BYTES = 2**20
"""Rows of the result that are interpolated and averaged at once, unless one row takes more."""


@dataclass(frozen=True, slots=True)
class PassAxis:
    """One axis of a scaled pass; `start` and `stop` count pixels of the result."""

    axis: Axis
    """Tiles of the scaled image."""
    down: Sampling
    up: Upsampling
    beyond: int
    """Pixels of the scaled image that may be read beyond the tiles, to continue a footprint."""

    def covering(self, start: int, stop: int) -> range:
        """The tiles that are needed for some pixels of the result."""
        return self.axis.covering(*self.up.needed(start, stop))

    def reads(self, start: int, stop: int) -> tuple[int, int]:
        """Pixels of the source level that those tiles read, mirrored included."""
        low, high = self.axis.reads(*self.up.needed(start, stop))
        return self.down.sources(max(low - self.beyond, 0), min(high + self.beyond, self.axis.size))


@dataclass(frozen=True, slots=True)
class ScaledPass:
    """The model over the image at one scale below 1."""

    scale: Fraction
    level: int
    """The level of the file that it reads."""
    y: PassAxis
    x: PassAxis

    @property
    def grid(self) -> Grid:
        """The tiles of the scaled image."""
        return Grid(self.y.axis, self.x.axis)

    @property
    def source(self) -> ScaledGrid:
        """Where the scaled pixels come from."""
        return ScaledGrid(self.level, self.y.down, self.x.down)

    def region(self, region: Region) -> Region:
        """What a region of the result is interpolated from, in pixels of the scaled result."""
        y0, y1 = self.y.up.needed(region.y0, region.y1)
        x0, x1 = self.x.up.needed(region.x0, region.x1)
        return Region(y0, x0, y1, x1)

    def inferred(self, blocks: Blocks) -> int:
        """Tiles inferred when each block infers all tiles that it needs."""
        rows, cols = blocks.grid
        per_row = (blocks.region(row, 0) for row in range(rows))
        per_col = (blocks.region(0, col) for col in range(cols))
        return sum(len(self.y.covering(r.y0, r.y1)) for r in per_row) * sum(
            len(self.x.covering(r.x0, r.x1)) for r in per_col
        )


def scaled_passes(
    image: Image, tiling: Tiling, output: OutputGrid, scales: tuple[Fraction, ...]
) -> tuple[ScaledPass, ...]:
    """The passes beside the one at scale 1, with the same tiling.

    Parameters
    ----------
    image : Image
        With the level that is worked on.
    tiling : Tiling
        Resolved.
    output : OutputGrid
        Of the model; results of all scales lie on it alike.
    scales : tuple of Fraction
        As `parse_scales` gives them.
    """
    passes = []
    for scale in scales:
        if scale == 1:
            continue
        source = scaled_grid(image, scale)
        grid = tiling.grid(source.shape, output)
        y, x = (
            PassAxis(axis, down, Upsampling(scale, axis.length), beyond_px(image, tiling))
            for axis, down in ((grid.y, source.y), (grid.x, source.x))
        )
        passes.append(ScaledPass(scale, source.level, y, x))
    return tuple(passes)


@dataclass(frozen=True, slots=True)
class _Extent:
    """The most that any block needs, along one axis."""

    pixels: int
    """Of the scaled result."""
    tiles: int
    reads: int
    """Of the source level."""
    shared: int
    """Pixels of the source level that a block reads and the next one reads again."""


def _extent(axis: PassAxis, spans: list[tuple[int, int]]) -> _Extent:
    needed = [axis.up.needed(*span) for span in spans]
    reads = [axis.reads(*span) for span in spans]
    return _Extent(
        pixels=max(stop - start for start, stop in needed),
        tiles=max(len(axis.covering(*span)) for span in spans),
        reads=max(stop - start for start, stop in reads),
        shared=max((before[1] - after[0] for before, after in pairwise(reads)), default=0),
    )


def _extents(scaled: ScaledPass, blocks: Blocks) -> tuple[_Extent, _Extent]:
    rows, cols = blocks.grid
    down = [(r.y0, r.y1) for r in (blocks.region(row, 0) for row in range(rows))]
    across = [(r.x0, r.x1) for r in (blocks.region(0, col) for col in range(cols))]
    return _extent(scaled.y, down), _extent(scaled.x, across)


def lane_bytes(scaled: ScaledPass, image: Image, blocks: Blocks, trial: Trial, batch: int) -> int:
    """What a lane holds for one pass at its peak, on top of what it holds for scale 1; the model counts there."""
    y, x = _extents(scaled, blocks)
    grid = scaled.grid
    c, k, item = len(image.selected), trial.channels_out, max(trial.dtype.itemsize, 4)
    band_width = x.tiles * grid.x.step + 2 * grid.x.halo
    # Float pixels and their validity; copies as for scale 1.
    bands = 5 * grid.y.tile * band_width * (4 * c + 1)
    read_width = band_width + 2 * scaled.x.beyond
    source_row = (c + 1) * 8 * (int(scaled.y.down.step) + 2) * int(read_width * scaled.x.down.step + 2)
    output = grid.y.output
    given, got = grid.y.tile * grid.x.tile, output.of_tile(grid.y.tile) * output.of_tile(grid.x.tile)
    support = min(grid.y.stride + 2 * grid.y.reach, y.pixels)
    rows = min(support + 1, y.pixels)
    held = k * item * x.pixels * (rows + 2) + PIECE_BYTES
    open_rows = (support + rows + 4 * grid.y.reach) * x.pixels + 4 * support * grid.x.reach
    pieces = 6 * max(PIECE_BYTES, 8 * k * min(blocks.side[1], blocks.shape[1]))
    return (
        bands
        + continuing_bytes(image, (grid.y.tile, band_width), scaled.y.beyond, 4)
        + 4 * max(SLAB_BYTES, source_row)
        + batch * (2 * 4 * c * given + k * item * got)
        + k * item * open_rows
        + 2 * held
        + pieces
        + y.pixels * x.pixels
    )


def useful_cache(scaled: ScaledPass, image: Image, blocks: Blocks, lanes: int) -> tuple[int, int]:
    """Bytes below which bands of one block are decoded again, and beyond which more cache is of no use."""
    level, grid = image.levels[scaled.level], scaled.grid
    y, x = _extents(scaled, blocks)
    unit_y, unit_x = (max(b - a for a, b in pairwise(edges)) for edges in (level.edges_y, level.edges_x))
    deep = len(image.info.channels) * image.info.dtype.itemsize
    across = min(x.reads + 2 * unit_x, level.shape[1] + unit_x)
    tall = min(y.reads + 2 * unit_y, level.shape[0] + unit_y)
    least = lanes * across * (int(2 * (grid.y.halo + scaled.y.beyond) * scaled.y.down.step) + 2 * unit_y) * deep
    band = int((grid.y.tile + 2 * scaled.y.beyond) * scaled.y.down.step) + 2 * unit_y
    below, beside = y.shared + 2 * unit_y, x.shared + 2 * unit_x
    held = (level.shape[1] + unit_x) * below + lanes * (beside * tall + across * band)
    return least, max(least, int(held * deep / 0.9))
