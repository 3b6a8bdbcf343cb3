"""Building one shard of a coarser level from the level below.

::

    level n - 1   ┌───┬───┐         level n   ┌───┐      pixel (r, c) covers (2r, 2c) ... (2r + 1, 2c + 1);
                  │ a │ b │   ──▶             │ m │      at an odd edge only those that exist
                  ├───┼───┤                   └───┘
                  │ c │ d │         nearest: m = a       mean: m = mean of the valid ones of a, b, c, d
                  └───┴───┘
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from gigatile.outputs.layout import ArrayLayout
from gigatile.outputs.omezarr import Downsampling
from gigatile.outputs.reading import LevelReader
from gigatile.outputs.shard import ShardReceipt, ShardWriter
from gigatile.storage.store import Store
from gigatile.tiling.region import Region


def downsample_shard(
    store: Store,
    layouts: tuple[ArrayLayout, ...],
    level: int,
    row: int,
    col: int,
    *,
    method: Downsampling,
) -> ShardReceipt:
    """Write shard (`row`, `col`) of `level` from the shards of ``level - 1`` that lie below it, which must be
    finished.

    Memory bound
    ------------
    One row of chunks of the shard with all channels; the 2 x 2 chunks below one of its chunks: decoded and, for the
    mean, three times as float64; and what `LevelReader` holds of the level below.

    Parameters
    ----------
    store : Store
        That of ``prediction.zarr``.
    layouts : tuple of ArrayLayout
        Its levels.
    level : int
        At least 1.
    row, col : int
        Place in ``layouts[level].grid``.
    method : {'nearest', 'mean'}
        Nearest for classes and labels, mean for channels.

    Raises
    ------
    BlockError
        A shard of the level below is torn, or a chunk of it does not decode.
    StorageError
        The storage is full, went away or refuses.
    """
    layout, below = layouts[level], layouts[level - 1]
    source = LevelReader(store, level - 1, below)
    box = layout.region(row, col)
    with ShardWriter(store, f"{level}/{layout.shard_key(row, col)}", layout, box.shape) as writer:
        for y0 in range(box.y0, box.y1, layout.chunk[0]):
            band = Region(y0, box.x0, min(y0 + layout.chunk[0], box.y1), box.x1)
            writer.write(_band(source, below, band, layout.chunk[1], method))
        return writer.finish()


def reduce(pixels: np.ndarray[Any, Any], fill: float, method: Downsampling) -> np.ndarray[Any, Any]:
    """Halve the last two axes, rounding up.

    Parameters
    ----------
    pixels : ndarray, shape (..., y, x), integer or float dtype
        Pixels equal to `fill` are invalid.
    fill : float
        Value of invalid pixels; NaN is allowed for floats.
    method : {'nearest', 'mean'}
        The first of each 2 x 2, valid or not; or the mean of the valid ones, `fill` where there is none. The
        sum is in float64, so the mean of equal float32 values is that value; integers are rounded half to
        even.

    Returns
    -------
    ndarray, shape (..., ceil(y / 2), ceil(x / 2)), dtype of `pixels`
    """
    if method == "nearest":
        return pixels[..., ::2, ::2]
    shape = (*pixels.shape[:-2], -(-pixels.shape[-2] // 2), -(-pixels.shape[-1] // 2))
    total = np.zeros(shape, dtype=np.float64)
    count = np.zeros(shape, dtype=np.uint8)
    for quarter in (pixels[..., dy::2, dx::2] for dy in (0, 1) for dx in (0, 1)):
        valid = ~np.isnan(quarter) if math.isnan(fill) else quarter != fill
        part = (..., slice(quarter.shape[-2]), slice(quarter.shape[-1]))
        with np.errstate(invalid="ignore"):  # inf - inf is NaN, here as in any mean
            np.add(total[part], quarter, out=total[part], where=valid)
        count[part] += valid
    np.divide(total, count, out=total, where=count > 0)
    if pixels.dtype.kind != "f":
        np.rint(total, out=total)
    empty = count == 0
    total[empty] = 0
    means = total.astype(pixels.dtype)
    means[empty] = fill  # not before: float64 cannot hold the largest integers of 64 bits
    return means


def _band(
    source: LevelReader, below: ArrayLayout, band: Region, chunk_cols: int, method: Downsampling
) -> np.ndarray[Any, Any]:
    """One row of chunks, shape (c, rows, width) or (rows, width), made chunk by chunk from `source`, in the order
    in which these lie in it."""
    planes: Sequence[int | None] = [None] if below.channels is None else range(below.channels)
    result = np.empty((len(planes), *band.shape), dtype=below.dtype)
    for place, channel in enumerate(planes):
        for x0 in range(band.x0, band.x1, chunk_cols):
            part = Region(band.y0, x0, band.y1, min(x0 + chunk_cols, band.x1))
            doubled = Region(2 * part.y0, 2 * part.x0, 2 * part.y1, 2 * part.x1)
            window = doubled.clipped(Region(0, 0, *below.shape))
            cols = slice(part.x0 - band.x0, part.x1 - band.x0)
            result[place, :, cols] = reduce(source.read(window, channel), below.fill, method)
    return result[0] if below.channels is None else result
