"""The lazy face: a dask array in, a dask array out, for people who build their own graphs.

``dask.array.map_overlap`` hands each chunk its neighbours' pixels; what lies beyond the image is mirrored here, inside
the chunk's own function, because dask's ``boundary="reflect"`` repeats the edge pixel (numpy calls that "symmetric")
and its ``da.pad`` differs from numpy where the padding is as wide as the array.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from threading import Event
from typing import Any

import numpy as np

from gigatile.engine.batches import Inference, Progress, Tally
from gigatile.engine.pipes import Clock
from gigatile.engine.region import infer_region
from gigatile.errors import UsageError
from gigatile.models.load import load_model
from gigatile.models.model import LoadedModel
from gigatile.models.warmup import try_model
from gigatile.outputs.rule import output_rule
from gigatile.plans.build import block_sides
from gigatile.plans.overlap import choose_overlap, with_tile
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
    if loaded.values.normalize != "none":
        fix = "Use gt.run, or normalise the array first."
        raise UsageError("map_overlap", expected="a model without normalize", found=loaded.values.normalize, fix=fix)
    if len(loaded.values.multiscale) > 1:
        found = "multiscale " + ",".join(str(scale) for scale in loaded.values.multiscale)
        raise UsageError("map_overlap", expected="a model at one scale", found=found, fix="Use gt.run.")
    if tiling is not None and tiling.border_of != "image":
        fix = "Use gt.run: a dask array does not say which of its pixels are valid."
        raise UsageError("map_overlap", expected="border_of image", found=f"border_of {tiling.border_of}", fix=fix)
    channels, height, width = (int(size) for size in array.shape)
    tiling = with_tile(tiling or Tiling(), loaded)
    check_border(tiling.parsed_border, array.dtype)
    fixed = loaded.model.fixed_batch
    trial = try_model(loaded, channels, tiling.tile_yx, fixed or 1)
    loaded = replace(loaded, output=trial.output)
    tiling, _ = choose_overlap(tiling, loaded, channels)
    grid = tiling.grid((height, width), loaded.output)
    down, across = (
        _cut(axis, side // axis.stride) for axis, side in zip((grid.y, grid.x), block_sides(tiling, grid), strict=True)
    )
    dtype = output_rule("raw", None, trial.dtype, trial.channels_out, tiling.blend or "hann").dtype
    how = Inference(grid, loaded, trial.channels_out, trial.dtype, batch=fixed or 1, pads_batches=fixed is not None)
    border, step = tiling.parsed_border, chunk_side(grid.y.stride)

    def infer(window: Array, block_info: Any = None) -> Array:
        row, col = block_info[0]["chunk-location"][1:]
        region = Region(*down.result(row)[:1], *across.result(col)[:1], *down.result(row)[1:], *across.result(col)[1:])
        origin = (down.origin(row), across.origin(col))
        source = _Window(window, origin, (height, width), border)
        out = np.empty((trial.channels_out, *region.shape), dtype)
        progress = Progress(Clock(), Tally(), Event(), lambda tiles: None)
        for y, band, _ in infer_region(how, region, source.read, step, progress):
            out[:, y - region.y0 : y - region.y0 + band.shape[1]] = band
        return out

    rechunked = array.rechunk({0: channels, 1: down.chunks, 2: across.chunks})
    return da.map_overlap(
        infer,
        rechunked,
        depth={0: 0, 1: down.depth, 2: across.depth},
        boundary="none",
        trim=False,
        allow_rechunk=False,
        chunks=((trial.channels_out,), down.result_chunks, across.result_chunks),
        dtype=dtype,
        meta=np.empty((0, 0, 0), dtype),
    )


@dataclass(frozen=True, slots=True)
class _Cut:
    """One axis in chunks of whole cores."""

    axis: Axis
    cores: tuple[int, ...]
    """First core of each chunk."""
    depth: int
    """Pixels of the image that a chunk needs of its neighbours."""

    @property
    def chunks(self) -> tuple[int, ...]:
        """Pixels of the image in each chunk."""
        return self._lengths(self.axis.step, self.axis.size)

    @property
    def result_chunks(self) -> tuple[int, ...]:
        """Pixels of the result in each chunk."""
        return self._lengths(self.axis.stride, self.axis.length)

    def origin(self, index: int) -> int:
        """First pixel of the image that chunk `index` is handed."""
        return max(self.cores[index] * self.axis.step - self.depth, 0)

    def result(self, index: int) -> tuple[int, int]:
        """Pixels of the result in chunk `index`."""
        start = self.cores[index] * self.axis.stride
        return start, start + self.result_chunks[index]

    def _lengths(self, unit: int, total: int) -> tuple[int, ...]:
        edges = [core * unit for core in self.cores] + [total]
        return tuple(b - a for a, b in pairwise(edges))


def _cut(axis: Axis, cores: int) -> _Cut:
    """Chunks of `cores` cores or more: none may be narrower than what its neighbours need of it."""
    depth = 0
    for first in range(0, axis.count, cores):
        start, stop = first * axis.stride, min((first + cores) * axis.stride, axis.length)
        low, high = axis.reads(start, stop)
        depth = max(depth, first * axis.step - low, high - min((first + cores) * axis.step, axis.size))
    cores = max(cores, -(-depth // axis.step))
    firsts = list(range(0, axis.count, cores))
    if len(firsts) > 1 and axis.size - firsts[-1] * axis.step < depth:
        firsts.pop()
    return _Cut(axis, tuple(firsts), depth if len(firsts) > 1 else 0)


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
