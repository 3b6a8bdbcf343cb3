"""The lazy face: a dask array in, a dask array out, for people who build their own graphs.

``dask.array.map_overlap`` hands each chunk its neighbours' pixels; what lies beyond the image is mirrored here, inside
the chunk's own function, because dask's ``boundary="reflect"`` repeats the edge pixel (numpy calls that "symmetric")
and its ``da.pad`` differs from numpy where the padding is as wide as the array.
"""

from __future__ import annotations

from threading import Event
from typing import Any

import numpy as np

from gigatile.engine.pipes import Clock
from gigatile.engine.region import Inference, Progress, Tally, infer_region
from gigatile.errors import UsageError
from gigatile.models.load import load_model
from gigatile.models.model import LoadedModel
from gigatile.models.warmup import try_model
from gigatile.outputs.rule import output_rule
from gigatile.plans.build import block_sides, resolved_tiling
from gigatile.tiling.axis import Axis
from gigatile.tiling.border import Border, check_border
from gigatile.tiling.region import Region
from gigatile.tiling.tiling import Tiling, chunk_side

Array = np.ndarray[Any, Any]


def map_overlap(array: Any, model: LoadedModel | Any, tiling: Tiling | None = None) -> Any:
    """Run a model over a dask array, lazily: the blended channels, in the model's dtype.

    Without an activation these are the values that `run` stores for ``output="raw"``.

    Parameters
    ----------
    array : dask.array.Array, shape (c, y, x)
    model : LoadedModel, path, "module:name" or callable
        Called once, on zeros, to learn the number of channels; never on an empty array.
    tiling : Tiling, optional
        As for `plan`.

    Returns
    -------
    dask.array.Array, shape (k, y, x)
        Blended channels; chunks are whole strides along y and x, but for the last.

    Raises
    ------
    UsageError
        The array is not (c, y, x), its size is unknown, or model and tiling do not fit.
    """
    import dask.array as da

    if getattr(array, "ndim", None) != 3 or not all(size > 0 for size in array.shape):
        found = f"shape {getattr(array, 'shape', None)}"
        raise UsageError("map_overlap", expected="a dask array of axes (c, y, x) and known size", found=found)
    loaded = load_model(model)
    channels, height, width = (int(size) for size in array.shape)
    tiling = resolved_tiling(tiling or Tiling(), loaded, channels)
    check_border(tiling.parsed_border, array.dtype)
    fixed = loaded.model.fixed_batch
    trial = try_model(loaded, channels, tiling.tile_yx, fixed or 1)
    grid = tiling.grid((height, width))
    side_y, side_x = block_sides(tiling, (height, width))
    axes = [_cut(grid.y, side_y), _cut(grid.x, side_x)]
    dtype = output_rule("raw", None, trial.dtype, trial.channels_out, tiling.blend or "hann").dtype
    how = Inference(grid, loaded, trial.channels_out, trial.dtype, batch=fixed or 1, pads_batches=fixed is not None)
    border, step = tiling.parsed_border, chunk_side(grid.y.stride)
    (chunks_y, depth_y), (chunks_x, depth_x) = axes

    def infer(window: Array, block_info: Any = None) -> Array:
        row, col = block_info[0]["chunk-location"][1:]
        region = Region(sum(chunks_y[:row]), sum(chunks_x[:col]), sum(chunks_y[: row + 1]), sum(chunks_x[: col + 1]))
        origin = (max(region.y0 - depth_y, 0), max(region.x0 - depth_x, 0))
        source = _Window(window, origin, (height, width), border)
        out = np.empty((trial.channels_out, *region.shape), dtype)
        progress = Progress(Clock(), Tally(), Event(), lambda tiles: None)
        for y, band, _ in infer_region(how, region, source.read, step, progress):
            out[:, y - region.y0 : y - region.y0 + band.shape[1]] = band
        return out

    rechunked = array.rechunk({0: channels, 1: chunks_y, 2: chunks_x})
    return da.map_overlap(
        infer,
        rechunked,
        depth={0: 0, 1: depth_y, 2: depth_x},
        boundary="none",
        trim=False,
        allow_rechunk=False,
        chunks=((trial.channels_out,), chunks_y, chunks_x),
        dtype=dtype,
        meta=np.empty((0, 0, 0), dtype),
    )


def _cut(axis: Axis, side: int) -> tuple[tuple[int, ...], int]:
    """Chunks of whole strides, none narrower than what its neighbours need of it, and that depth."""
    blocks = [(start, min(start + side, axis.size)) for start in range(0, axis.size, side)]
    reads = [axis.reads(*block) for block in blocks]
    depth = max(max(b0 - r0, r1 - b1) for (b0, b1), (r0, r1) in zip(blocks, reads, strict=True))
    side = max(side, -(-depth // axis.stride) * axis.stride)
    edges = list(range(0, axis.size, side))
    if len(edges) > 1 and axis.size - edges[-1] < depth:
        edges.pop()
    if len(edges) == 1:
        return (axis.size,), 0
    return tuple(int(n) for n in np.diff([*edges, axis.size])), depth


class _Window:
    """A part of an image, read in coordinates of the whole image."""

    def __init__(self, pixels: Array, origin: tuple[int, int], shape: tuple[int, int], border: Border) -> None:
        self._pixels, self._origin, self._shape, self._border = pixels, origin, shape, border

    def read(self, region: Region) -> tuple[Array, None]:
        """Pixels of a region that may hang over the image; everything is valid."""
        rows = self._border.index(region.y0, region.y1, self._shape[0])
        cols = self._border.index(region.x0, region.x1, self._shape[1])
        out = self._pixels[:, np.maximum(rows - self._origin[0], 0)][:, :, np.maximum(cols - self._origin[1], 0)]
        out[:, rows < 0] = self._border.value
        out[:, :, cols < 0] = self._border.value
        return out, None
