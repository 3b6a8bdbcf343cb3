"""One lazy image for all formats: levels, metadata, and windows of pixels.

::

    read(region)                       ┌──────────────┐ region, hanging over the image
      1. fold the overhang back        │  ┌───────────┼────
      2. decode the units it touches   │  │ units     │  image
      3. copy, then gather the border  └──┼───────────┘
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from functools import cached_property
from itertools import islice
from typing import Any, get_args

import numpy as np

from gigatile.errors import ImageError, UsageError
from gigatile.images.bad_units import BadUnits, Filled, OnBadChunk, Unit, decoded_or_filled
from gigatile.images.cache import Key, Schedule, UnitCache
from gigatile.images.decoding import DecodeCounter, decode_pool
from gigatile.images.info import ChannelwiseSource, ImageInfo, Level, Source, Transform, fill_value
from gigatile.images.pixel_size import RestatedSource
from gigatile.images.resample import ScaledGrid, grid_at, level_grid, read_on_grid
from gigatile.machine import available_cores
from gigatile.tiling.border import Border
from gigatile.tiling.region import Region
from gigatile.units import PixelSize

Pixels = np.ndarray[Any, Any]
DEFAULT_CACHE_BYTES = 64 * 2**20
IN_FLIGHT_BYTES = 32 * 2**20
"""Units decoded ahead while a window is read, unless one alone is larger."""
REFLECT = Border("reflect")


class Image:
    """An image that is read only where it is looked at.

    Safe to use from many threads. Copies made by `select` share the reader and its cache, unless the reader can leave
    out channels that are not selected.

    Memory bound
    ------------
    `cache.budget_bytes` of decoded units, and `IN_FLIGHT_BYTES` (or one unit, if larger) a window being read.
    """

    def __init__(
        self,
        source: Source,
        *,
        channels: tuple[int, ...] | None = None,
        level: int = 0,
        on_bad_chunk: OnBadChunk = "fail",
        grid: ScaledGrid | None = None,
    ) -> None:
        self.source = source
        self.info: ImageInfo = source.info
        self.level = level if grid is None else grid.level
        """The level that `read` reads where none is named."""
        self.grid: ScaledGrid = level_grid(self, level) if grid is None else grid
        """The pixels that are worked on: those of the level, or means of them; see `at`."""
        colours = tuple(i for i in range(len(self.info.channels)) if i != self.info.alpha)
        self.selected = colours if channels is None else channels
        """Indices of the channels that are read, in order; alpha is validity, not a channel."""
        self.on_bad_chunk: OnBadChunk = on_bad_chunk
        """``fill``: chunks that do not decode are nodata, invalid, and noted in `bad_units`."""
        self.cache: UnitCache[Unit] = UnitCache(DEFAULT_CACHE_BYTES)
        self.counter = DecodeCounter()
        self.bad_units = BadUnits()

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (self.source, self.selected, self.on_bad_chunk, self.grid)

    def __repr__(self) -> str:
        channels, height, width = self.shape
        return f"Image({self.info.path!r}, {channels} x {height} x {width} {self.dtype}, {self.info.format})"

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width at level 0."""
        return len(self.selected), *self.info.levels[0].shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """dtype of the pixels that are worked on: as stored, float32 of another grid."""
        return self.info.dtype if self.grid.is_level else np.dtype(np.float32)

    @property
    def levels(self) -> tuple[Level, ...]:
        """The pyramid, full resolution first."""
        return self.info.levels

    @property
    def grid_shape(self) -> tuple[int, int]:
        """Height and width of the level or grid that is worked on."""
        return self.grid.shape

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the channels that are read."""
        return tuple(self.info.channels[i] for i in self.selected)

    @property
    def pixel_size(self) -> PixelSize | None:
        """Size of a pixel of level 0."""
        return self.info.pixel_size

    @property
    def crs(self) -> str | None:
        """``EPSG:n``, WKT2, or None."""
        return self.info.crs

    @property
    def transform(self) -> Transform | None:
        """From pixel corners of level 0 to CRS coordinates, in rasterio's order."""
        return self.info.transform

    @property
    def nodata(self) -> float | None:
        """The stored value that means "no pixel"."""
        return self.info.nodata

    @property
    def scale(self) -> tuple[float, float]:
        """Pixels of level 0 per pixel of the level or grid that is worked on, along y and x."""
        (h0, w0), (h, w) = self.info.levels[0].shape, self.info.levels[self.level].shape
        exact = self.info.levels[self.level].downsample
        steps = float(self.grid.y.step), float(self.grid.x.step)
        # Levels are cut to whole pixels: their nominal factor is exact where the ratio of sizes confirms it.
        near = round(exact)
        if self.level and abs(exact - near) * max(h, w) < near:
            return near * steps[0], near * steps[1]
        return h0 / h * steps[0], w0 / w * steps[1]

    def at(self, pixel_size: float) -> Image:
        """The same image worked on at another pixel size, corner-aligned with level 0.

        A level whose pixels differ by less than 1 % is taken as it is; else the coarsest level that is not coarser
        is averaged (exact area means), or level 0 interpolated (bilinear), to float32 in units of the stored pixels.

        Parameters
        ----------
        pixel_size : float
            In micrometres for slides, in units of the CRS for scenes.

        Raises
        ------
        UsageError
            The image does not say its own pixel size, or the number is no size for it.
        """
        grid = grid_at(self, pixel_size)
        if grid.upsamples and self.pixel_size is not None:
            warnings.warn(
                f"{self.info.path}: pixels of {pixel_size:g} {self.pixel_size.unit} are smaller than its own, "
                f"{self.pixel_size.y:g} x {self.pixel_size.x:g}: they are interpolated and show nothing more.",
                stacklevel=2,
            )
        return self.on(grid)

    def on(self, grid: ScaledGrid) -> Image:
        """The same channels on a grid, with a cache and a counter of its own; notes on bad units are shared."""
        other = Image(self.source, channels=self.selected, on_bad_chunk=self.on_bad_chunk, grid=grid)
        other.bad_units = self.bad_units
        return other

    def select(self, channels: Sequence[int | str] | None = None, level: int | None = None) -> Image:
        """The same image with other channels or working on another level.

        Raises
        ------
        UsageError
            There is no such channel or level.
        """
        chosen = self.selected if channels is None else tuple(self._channel_index(c) for c in channels)
        if level is not None and not 0 <= level < len(self.levels):
            raise UsageError(
                f"{self.info.path}, level",
                expected=f"0 to {len(self.levels) - 1}",
                found=str(level),
                fix="`gigatile info` lists the levels.",
            )
        other = self.on(self.grid) if level is None else self.apart(level)
        other.selected, other.counter = chosen, self.counter
        if isinstance(self.source, ChannelwiseSource):
            other.source = self.source.reading(chosen)
        if other.source is self.source:  # else its units lack channels that this image reads
            other.cache = self.cache
        return other

    def apart(self, level: int) -> Image:
        """The same channels at a level, with a cache and a counter of its own; notes on bad units are shared."""
        return self.on(level_grid(self, level))

    def noting(self) -> Image:
        """The same image, reader, cache and counter, with notes on bad units of its own: those that it meets itself."""
        other = self.select()
        other.bad_units = BadUnits()
        return other

    def with_bad_chunks(self, rule: OnBadChunk) -> Image:
        """The same image with another way to treat chunks that do not decode.

        Under ``fill`` a decode unit with such a chunk is nodata as a whole (`info.fill_value`), invalid in
        `read_with_validity` even if the image declares no nodata, and noted in `bad_units`. `read`, which a run
        without a mask uses, gives the same pixels and can only note it. A failing storage is no bad chunk.

        Parameters
        ----------
        rule : {"fail", "fill"}

        Raises
        ------
        UsageError
            There is no such rule.
        """
        if rule not in get_args(OnBadChunk):
            raise UsageError("on_bad_chunk", expected=" or ".join(get_args(OnBadChunk)), found=repr(rule))
        return Image(self.source, channels=self.selected, on_bad_chunk=rule, grid=self.grid)

    def with_pixel_size(self, size_um: float) -> Image:
        """The same image with pixels of level 0 that are `size_um` micrometres high and wide, whatever the file says.

        Raises
        ------
        UsageError
            The size is not above 0, the image is georeferenced, or a grid was already chosen by another size.
        """
        if not self.grid.is_level:
            raise UsageError(f"{self.info.path}, pixel size", expected="the true size before `at`", found="it after")
        source = RestatedSource(self.source, size_um)
        return Image(source, channels=self.selected, on_bad_chunk=self.on_bad_chunk, grid=self.grid)

    def read(self, region: Region, level: int | None = None, border: Border = REFLECT) -> Pixels:
        """Read a window of one level, or of the grid that is worked on.

        Parameters
        ----------
        region : Region
            In pixels of that level; what hangs over the image is filled by the border rule.
        level : int, optional
            The level or grid that is worked on if not given.

        Returns
        -------
        ndarray, shape (c, y, x), dtype of the image
            The selected channels; of a level, as they are stored.

        Raises
        ------
        BlockError
            Bytes of the file cannot be read or decoded.
        """
        if level is None and not self.grid.is_level:
            return read_on_grid(self.grid, len(self.selected), region, border, self._unmasked)[0]
        level = self.level if level is None else level
        return self._window(region, level, border, self.selected)[0]

    def read_with_validity(self, region: Region, border: Border) -> tuple[Pixels, Pixels | None]:
        """Read a window of the level or grid that is worked on, and which of its pixels mean something.

        Returns
        -------
        pixels : ndarray, shape (c, y, x)
        valid : ndarray of bool, shape (y, x), or None
            True where valid. A pixel is invalid where its alpha is 0, where every selected channel is
            nodata or NaN, or where it was filled; a mean is invalid where all of its pixels are. None where
            the image has no way of saying so.
        """
        if self.grid.is_level:
            return self._masked(region, border)
        return read_on_grid(self.grid, len(self.selected), region, border, self._masked)

    def _unmasked(self, region: Region) -> tuple[Pixels, None]:
        return self._window(region, self.level, REFLECT, self.selected)[0], None

    def _masked(self, region: Region, border: Border = REFLECT) -> tuple[Pixels, Pixels | None]:
        """Pixels of the level and which are valid."""
        alpha = self.info.alpha
        wanted = self.selected if alpha is None else (*self.selected, alpha)
        pixels, filled = self._window(region, self.level, border, wanted)
        masks = [] if filled is None else [~filled]
        if alpha is not None:
            masks.append(pixels[-1] != 0)
            pixels = pixels[:-1]
        valid = self._validity(pixels)
        for mask in masks:
            valid = mask if valid is None else valid & mask
        return pixels, valid

    def dask(self, level: int = 0) -> Any:
        """The level as a lazy dask array, shape (c, y, x), one dask chunk per decode unit."""
        import dask.array as da

        edges_y, edges_x = self.levels[level].edges_y, self.levels[level].edges_x
        chunks = ((len(self.selected),), tuple(np.diff(edges_y)), tuple(np.diff(edges_x)))

        def block(block_info: Any = None) -> Pixels:
            (_, (y0, y1), (x0, x1)) = block_info[None]["array-location"]
            return self.read(Region(y0, x0, y1, x1), level)

        stored = self.info.dtype
        return da.map_blocks(block, chunks=chunks, dtype=stored, meta=np.empty((0, 0, 0), stored))

    def use_cache(self, budget_bytes: int, schedule: Schedule | None) -> None:
        """Replace the cache by one of another size that knows when units are needed again."""
        self.cache = UnitCache(budget_bytes, schedule)

    def unit_bytes(self, level: int) -> int:
        """Size of the largest decoded unit of a level."""
        edges_y, edges_x = self.levels[level].edges_y, self.levels[level].edges_x
        side_y, side_x = int(np.diff(edges_y).max()), int(np.diff(edges_x).max())
        return len(self.info.channels) * side_y * side_x * self.info.dtype.itemsize

    def _window(
        self, region: Region, level: int, border: Border, channels: tuple[int, ...]
    ) -> tuple[Pixels, Pixels | None]:
        """Pixels, shape (c, y, x), and where they were filled, shape (y, x); None: nowhere."""
        height, width = self.levels[level].shape
        image = Region(0, 0, height, width)
        if region.clipped(image) == region:
            return self._inside(region, level, channels)
        rows = border.index(region.y0, region.y1, height)
        cols = border.index(region.x0, region.x1, width)
        out = np.empty((len(channels), len(rows), len(cols)), self.info.dtype)
        if rows.max(initial=-1) < 0 or cols.max(initial=-1) < 0:
            out[...] = border.value
            return out, None
        inside_y, inside_x = rows[rows >= 0], cols[cols >= 0]
        hull = Region(int(inside_y.min()), int(inside_x.min()), int(inside_y.max()) + 1, int(inside_x.max()) + 1)
        pixels, filled = self._inside(hull, level, channels)
        at_y, at_x = np.maximum(rows - hull.y0, 0), np.maximum(cols - hull.x0, 0)
        # One axis at a time: two small gathers instead of one over all pairs of indices.
        np.take(np.take(pixels, at_x, axis=2), at_y, axis=1, out=out)
        out[:, rows < 0] = border.value
        out[:, :, cols < 0] = border.value
        return out, None if filled is None else filled[np.ix_(at_y, at_x)] & (rows >= 0)[:, None] & (cols >= 0)

    def _inside(self, region: Region, level: int, channels: tuple[int, ...]) -> tuple[Pixels, Pixels | None]:
        """A window that lies inside the level, assembled from decoded units."""
        out = np.empty((len(channels), *region.shape), self.info.dtype)
        filled: Pixels | None = None
        if not region.pixels:
            return out, filled
        chosen: Any = channels
        if channels == tuple(range(channels[0], channels[0] + len(channels))):
            chosen = slice(channels[0], channels[0] + len(channels))
        edges_y, edges_x = self.levels[level].edges_y, self.levels[level].edges_x
        keys = [(level, row, col) for row, col in self._units(region, level)]
        for (_, row, col), unit in self._decoded(keys):
            box = Region(edges_y[row], edges_x[col], edges_y[row + 1], edges_x[col + 1])
            part = box.clipped(region)
            target = part.shifted(-region.y0, -region.x0).slices()
            if isinstance(unit, Filled):
                self.bad_units.note(unit.place)
                filled = np.zeros(region.shape, bool) if filled is None else filled
                filled[target] = True
                out[(slice(None), *target)] = fill_value(self.info)
            else:
                out[(slice(None), *target)] = unit[(chosen, *part.shifted(-box.y0, -box.x0).slices())]
        return out, filled

    def _units(self, region: Region, level: int) -> list[tuple[int, int]]:
        return self.levels[level].units(region.y0, region.y1, region.x0, region.x1)

    def _decoded(self, keys: list[Key]) -> Iterator[tuple[Key, Unit]]:
        """The units in order, a few of them decoded ahead by the pool; bounded whatever the window."""
        if len(keys) == 1:
            yield keys[0], self.cache.get(keys[0], self._decode)
            return
        ahead: list[tuple[Key, Future[Unit]]] = []
        waiting = iter(keys)
        pool = decode_pool()
        fit = max(IN_FLIGHT_BYTES // self.unit_bytes(keys[0][0]), 1)
        for key in islice(waiting, min(2 * available_cores(), fit)):
            ahead.append((key, pool.submit(self.cache.get, key, self._decode)))
        while ahead:
            key, future = ahead.pop(0)
            unit = future.result()
            for following in islice(waiting, 1):
                ahead.append((following, pool.submit(self.cache.get, following, self._decode)))
            yield key, unit

    def _decode(self, key: Key) -> Unit:
        fills = self.on_bad_chunk == "fill"
        unit = decoded_or_filled(self.source, key) if fills else self.source.decode(*key)
        self.counter.add()
        return unit

    def _validity(self, pixels: Pixels) -> Pixels | None:
        nodata = self.info.nodata
        invalid = None
        if pixels.dtype.kind == "f":
            invalid = np.isnan(pixels).all(axis=0)
        if nodata is not None and not np.isnan(nodata):
            equal = (pixels == nodata).all(axis=0)
            invalid = equal if invalid is None else equal | invalid
        return None if invalid is None else np.logical_not(invalid)

    def _channel_index(self, channel: int | str) -> int:
        names = self.info.channels
        if isinstance(channel, str) and channel in names:
            return names.index(channel)
        if isinstance(channel, int) and 0 <= channel < len(names):
            return channel
        raise ImageError(
            f"{self.info.path}, channels",
            expected=f"an index from 0 to {len(names) - 1} or one of {', '.join(names)}",
            found=repr(channel),
        )

    @cached_property
    def has_validity(self) -> bool:
        """Whether the image can say that a pixel is invalid."""
        declares = self.info.alpha is not None or self.info.nodata is not None or self.info.dtype.kind == "f"
        return declares or self.on_bad_chunk == "fill"


def _rebuild(source: Source, channels: tuple[int, ...], on_bad_chunk: OnBadChunk, grid: ScaledGrid) -> Image:
    return Image(source, channels=channels, on_bad_chunk=on_bad_chunk, grid=grid)
