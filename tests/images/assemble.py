"""Put a level together from its decode units: the simplest thing that readers can be held against."""

from itertools import pairwise

import numpy as np

from gigatile.images.info import Source
from gigatile.tiling.region import Region


def whole(source: Source, level: int = 0) -> np.ndarray:
    """All pixels of a level, shape (c, y, x)."""
    return window(source, level, Region(0, 0, *source.info.levels[level].shape))


def window(source: Source, level: int, region: Region) -> np.ndarray:
    """A window of a level, shape (c, y, x); fails where a unit is not of the shape that it announces."""
    grid = source.info.levels[level]
    out = np.empty((len(source.info.channels), *region.shape), source.info.dtype)
    for row, col in grid.units(region.y0, region.y1, region.x0, region.x1):
        box = Region(grid.edges_y[row], grid.edges_x[col], grid.edges_y[row + 1], grid.edges_x[col + 1])
        unit = source.decode(level, row, col)
        assert unit.shape == (out.shape[0], *box.shape)
        assert unit.dtype == source.info.dtype
        part = box.clipped(region)
        target, origin = part.shifted(-region.y0, -region.x0), part.shifted(-box.y0, -box.x0)
        out[(slice(None), *target.slices())] = unit[(slice(None), *origin.slices())]
    return out


def random_regions(shape: tuple[int, int], count: int, rng: np.random.Generator) -> list[Region]:
    """Windows of up to 300 px a side inside a level."""
    corners = [(int(rng.integers(shape[0])), int(rng.integers(shape[1]))) for _ in range(count)]
    return [Region(y, x, min(shape[0], y + 300), min(shape[1], x + 300)) for y, x in corners]


def check_grid(source: Source) -> None:
    """Units cover each level once, in whole chunks."""
    for level in source.info.levels:
        for edges, size, chunk in (
            (level.edges_y, level.shape[0], level.chunks[0]),
            (level.edges_x, level.shape[1], level.chunks[1]),
        ):
            assert edges[0] == 0
            assert edges[-1] == size
            assert all(a < b for a, b in pairwise(edges))
            assert all(edge % chunk == 0 for edge in edges[:-1])


def channel_first(pixels: np.ndarray, axes: str) -> np.ndarray:
    """What tifffile returns, as (c, y, x)."""
    if axes.endswith("S"):
        pixels = np.moveaxis(pixels, -1, 0)
    return pixels[np.newaxis] if pixels.ndim == 2 else pixels
