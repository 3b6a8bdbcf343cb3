"""Several files as one image: their channels stacked on the grid of the finest.

::

    B04.tif  10 m  ┌─┬─┬─┬─┐ as stored             levels are those of the finest file; the pixels of the others come
                   ├─┼─┼─┼─┤                       from the coarsest of their own levels that is not coarser: as they
    B05.tif  20 m  ┌───┬───┐ interpolated          are, by area means, or bilinear between pixel centres
                   │   │   │
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from gigatile.errors import ImageError
from gigatile.images.cache import Key, UnitCache
from gigatile.images.channels import distinct
from gigatile.images.image import REFLECT, Image
from gigatile.images.info import ImageInfo, Level, Source
from gigatile.images.resample import FINEST_RATIO, ScaledGrid, level_factors, read_on_grid
from gigatile.images.scene import Scene, StatedNodata
from gigatile.tiling.region import Region
from gigatile.tiling.scales import NEAR, sampling

Pixels = np.ndarray[Any, Any]
CACHE_BYTES = 64 << 20
"""Decoded units of files whose units are not those of the stack, all together, at least."""
FILE_CACHE_BYTES = 16 << 20
"""The same for each of them. A 20 m band of Sentinel-2 needs two rows of 3 units, 2 MiB each, within a block of 4,096
px; with 5 MiB a file each unit was decoded 5.8 times."""
_BAND = re.compile(r"(?<![A-Za-z0-9])(B[0-9]{1,2}A?)(?![A-Za-z0-9])")
"""Band names of Sentinel-2 and Landsat in file names."""
_SAME_CORNER = 0.05
"""Outer corners may differ by this part of the finest pixel: writers round."""


@dataclass(frozen=True, slots=True)
class _Part:
    """One file of the stack."""

    source: Source
    bands: tuple[int, ...]
    """Its channels but alpha."""
    place: range
    """Which channels of the stack these are."""
    grids: tuple[ScaledGrid, ...]
    """For each level of the stack, where its pixels come from."""
    cache: UnitCache[Pixels]

    def read(self, level: int, region: Region) -> Pixels:
        """A window inside one of its own levels, all channels. On this thread: the pool may be full of stacks."""
        info = self.source.info
        grid = info.levels[level]
        out = np.empty((len(info.channels), *region.shape), info.dtype)
        for row, col in grid.units(region.y0, region.y1, region.x0, region.x1):
            box = Region(grid.edges_y[row], grid.edges_x[col], grid.edges_y[row + 1], grid.edges_x[col + 1])
            key: Key = (level, row, col)
            # Units that are the window's are asked for once.
            unit = self.source.decode(*key) if box == region else self.cache.get(key, self._decode)
            part = box.clipped(region)
            target, origin = part.shifted(-region.y0, -region.x0), part.shifted(-box.y0, -box.x0)
            out[(slice(None), *target.slices())] = unit[(slice(None), *origin.slices())]
        return out

    def _decode(self, key: Key) -> Pixels:
        return self.source.decode(*key)

    def on_grid(self, level: int, region: Region, dtype: np.dtype[Any]) -> tuple[Pixels, Pixels]:
        """A window of a level of the stack: its bands, and whether each value means something; shapes (c, y, x)."""
        grid = self.grids[level]
        if grid.is_level:
            pixels = self.read(grid.level, region)
            return pixels[list(self.bands)].astype(dtype, copy=False), self._valid(pixels)
        out = np.empty((len(self.bands), *region.shape), dtype)
        known = np.ones(out.shape, bool)
        for i, band in enumerate(self.bands):

            def read(window: Region, i: int = i, band: int = band) -> tuple[Pixels, Pixels | None]:
                pixels = self.read(grid.level, window)
                return pixels[band : band + 1], self._valid(pixels)[i]

            means, valid = read_on_grid(grid, 1, region, REFLECT, read)
            out[i] = np.rint(means[0]) if dtype.kind in "bui" else means[0]
            if valid is not None:
                known[i] = valid
        nodata = self.source.info.nodata
        if nodata is not None:
            out[~known] = nodata
        return out, known

    def _valid(self, pixels: Pixels) -> Pixels:
        """Of all channels of the file, which values of its bands mean something."""
        info, bands = self.source.info, pixels[list(self.bands)]
        valid: Pixels = np.ones(bands.shape, bool)
        if bands.dtype.kind == "f":
            valid &= ~np.isnan(bands)
        if info.nodata is not None and not np.isnan(info.nodata):
            valid &= bands != info.nodata
        if info.alpha is not None:
            valid &= pixels[info.alpha] != 0
        return valid


class StackSource:
    """The channels of several files on the grid of the finest.

    Values that are interpolated or averaged are rounded where the stack holds integers; nodata does not enter them, and
    is where the pixel under the centre is nodata.

    Parameters
    ----------
    sources : sequence of Source
        In the order of the channels, of one CRS and extent.
    scene : Scene, optional
        What they are together, where a folder or an item says it: gives path, format and channel names.
    decoded : collection of int, optional
        Indices of the files that are decoded, see `reading`; all if not given.

    Memory bound
    ------------
    `CACHE_BYTES`, or `FILE_CACHE_BYTES` for each file that is cut into other units than the finest if that is more, of
    their decoded units, besides one unit of the stack a thread.

    Raises
    ------
    ImageError
        The files differ in CRS or extent, or are not what the scene says.
    """

    def __init__(
        self, sources: Sequence[Source], scene: Scene | None = None, decoded: Collection[int] | None = None
    ) -> None:
        self._sources, self._scene = tuple(sources), scene
        self._decoded = frozenset(range(len(self._sources)) if decoded is None else decoded)
        infos = [source.info for source in self._sources]
        if scene is not None:
            scene.check(tuple(infos))
        finest = min(range(len(infos)), key=lambda i: (_pixel(infos[i]), i))
        base = self._sources[finest]
        names = _names(infos) if scene is None else [name for file in scene.files for name in file.channels]
        notes = [] if scene is None else list(scene.notes)
        steps = [_step(base.info, info) for info in infos]
        grids = [_grids(base, source, step) for source, step in zip(self._sources, steps, strict=True)]
        cached = {i for i, info in enumerate(infos) if _has_own_units(base.info, info, grids[i])}
        cache_bytes = max(CACHE_BYTES, FILE_CACHE_BYTES * len(cached))
        share = cache_bytes // max(len(cached & self._decoded), 1)
        parts: list[_Part] = []
        for source, own in zip(self._sources, grids, strict=True):
            bands = tuple(i for i in range(len(source.info.channels)) if i != source.info.alpha)
            first = parts[-1].place.stop if parts else 0
            parts.append(_Part(source, bands, range(first, first + len(bands)), own, UnitCache(share)))
        self._parts = tuple(parts)
        notes += [
            f"{_file(info)} is resampled by {float(1 / step[0]):g}, bilinear"
            for info, step, own in zip(infos, steps, grids, strict=True)
            if not own[0].is_level
        ]
        shared = max(info.shared_bytes for info in infos)
        dtype = np.result_type(*(info.dtype for info in infos))
        nodata, self._has_mask, said = _nodata(infos)
        self._info = ImageInfo(
            path="+".join(info.path for info in infos) if scene is None else scene.path,
            format="stack" if scene is None else scene.format,
            dtype=dtype,
            channels=distinct([*names, *(["mask"] if self._has_mask else [])]),
            levels=base.info.levels,
            pixel_size=base.info.pixel_size,
            pixel_size_from=base.info.pixel_size_from,
            crs=base.info.crs,
            transform=base.info.transform,
            nodata=nodata,
            alpha=len(names) if self._has_mask else None,
            reader_bytes=cache_bytes + shared + sum(info.reader_bytes - info.shared_bytes for info in infos),
            shared_bytes=shared,
            notes=(*notes, *said, *(f"{_file(info)}: {note}" for info in infos for note in info.notes)),
        )

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self._sources, self._scene, tuple(sorted(self._decoded)))

    @property
    def info(self) -> ImageInfo:
        """What is known of the stack."""
        return self._info

    def decode(self, level: int, row: int, col: int) -> Pixels:
        """Read one unit from all files: see `Source.decode`. A mask, if there is one, is the last channel, 0 or 1."""
        grid: Level = self._info.levels[level]
        region = Region(grid.edges_y[row], grid.edges_x[col], grid.edges_y[row + 1], grid.edges_x[col + 1])
        # Zeros that nobody writes take no memory.
        out = np.zeros((len(self._info.channels), *region.shape), self._info.dtype)
        some = np.zeros(region.shape, bool)
        for i in sorted(self._decoded):
            part = self._parts[i]
            out[part.place.start : part.place.stop], valid = part.on_grid(level, region, self._info.dtype)
            some |= valid.any(axis=0)
        if self._has_mask:
            out[-1] = some
        return out

    def reading(self, channels: Collection[int]) -> StackSource:
        """The same stack, in which only files with these channels are decoded: see `ChannelwiseSource`.

        With a mask, which is of all files, that is every file.
        """
        files = enumerate(self._parts)
        wanted = frozenset(i for i, part in files if self._has_mask or not set(channels).isdisjoint(part.place))
        return self if wanted == self._decoded else StackSource(self._sources, self._scene, wanted)

    def identity(self) -> Mapping[str, str | int]:
        """Those of all files, in their order."""
        own = [source.identity() for source in self._sources]
        return {f"{i}_{key}": value for i, each in enumerate(own) for key, value in each.items()}


def open_scene(scene: Scene, open_file: Callable[[str], Source]) -> StackSource:
    """The files of a scene as one image.

    Parameters
    ----------
    scene : Scene
    open_file : callable
        The reader for one of its places.

    Raises
    ------
    ImageError
        As for `StackSource`, or from a reader.
    """
    sources = []
    for file in scene.files:
        source = open_file(file.place)
        sources.append(source if file.nodata is None else StatedNodata(source, file.nodata))
    return StackSource(sources, scene)


def _file(info: ImageInfo) -> str:
    return PurePosixPath(info.path).name


def _pixel(info: ImageInfo) -> float:
    """Area of a pixel, for comparing; without a place the image with most pixels is the finest."""
    if info.transform is None:
        height, width = info.levels[0].shape
        return 1 / (height * width)
    a, b, _, d, e, _ = info.transform
    return abs(a * e - b * d)


def _step(base: ImageInfo, other: ImageInfo) -> tuple[Fraction, Fraction]:
    """Pixels of a file per pixel of the finest, along y and x.

    Raises
    ------
    ImageError
        The two do not cover the same ground.
    """
    fix = f"Bring it onto the grid of {_file(base)}, for instance with `gdalwarp -t_srs ... -te ...`."
    if base.crs != other.crs:
        raise ImageError(other.path, expected=f"the CRS {base.crs}", found=f"{other.crs}", fix=fix)
    shape, own = base.levels[0].shape, other.levels[0].shape
    if base.transform is None or other.transform is None:
        if base.transform != other.transform or shape != own:
            place = "no transform" if other.transform is None else "a transform"
            expected = f"{shape[0]} x {shape[1]} pixels, as both files must have one without a place"
            raise ImageError(other.path, expected=expected, found=f"{own[0]} x {own[1]} and {place}", fix=fix)
        return Fraction(1), Fraction(1)
    (a, b, c, d, e, f), (a2, b2, c2, d2, e2, f2) = base.transform, other.transform
    down, right = np.hypot(b, e) / np.hypot(b2, e2), np.hypot(a, d) / np.hypot(a2, d2)
    step = Fraction(float(down)).limit_denominator(FINEST_RATIO), Fraction(float(right)).limit_denominator(FINEST_RATIO)
    if not np.allclose((a, d), np.multiply((a2, d2), right), rtol=1e-6) or not np.allclose(
        (b, e), np.multiply((b2, e2), down), rtol=1e-6
    ):
        expected = f"pixels turned as those of {_file(base)} are"
        raise ImageError(other.path, expected=expected, found=f"transform {other.transform}", fix=fix)
    allowed = _SAME_CORNER * max(np.hypot(a, d), np.hypot(b, e))
    # Grids are cut to whole pixels: far edges may differ by less than one of the coarser.
    cut = [abs(n * float(s) - m) for n, m, s in zip(shape, own, step, strict=True)]
    if np.hypot(c - c2, f - f2) > allowed or max(cut) >= 1:
        expected = f"the extent of {_file(base)}, {_extent(base)}"
        raise ImageError(other.path, expected=expected, found=_extent(other), fix=fix)
    return step


def _extent(info: ImageInfo) -> str:
    assert info.transform is not None
    (a, b, c, d, e, f), (height, width) = info.transform, info.levels[0].shape
    return f"({c:.10g}, {f:.10g}) to ({a * width + b * height + c:.10g}, {d * width + e * height + f:.10g})"


def _has_own_units(base: ImageInfo, other: ImageInfo, grids: Sequence[ScaledGrid]) -> bool:
    """Whether a file is cut otherwise than the stack at some level, so that its units are looked at several times."""
    return any(
        not grid.is_level
        or other.levels[grid.level].edges_y != level.edges_y
        or other.levels[grid.level].edges_x != level.edges_x
        for level, grid in zip(base.levels, grids, strict=True)
    )


def _grids(base: Source, other: Source, step: tuple[Fraction, Fraction]) -> tuple[ScaledGrid, ...]:
    """For each level of the stack, where its pixels come from in a file."""
    return tuple(_grid(base, other, level, step) for level in range(len(base.info.levels)))


def _grid(base: Source, other: Source, level: int, step: tuple[Fraction, Fraction]) -> ScaledGrid:
    """Where the pixels of a level of the stack come from in a file."""
    image = Image(other)
    factors = level_factors(Image(base), level)
    target = [s * f for s, f in zip(step, factors, strict=True)]
    best = 0
    for own in range(1, len(image.levels)):
        if all(f <= NEAR * t for f, t in zip(level_factors(image, own), target, strict=True)):
            best = own
    lengths, sizes = base.info.levels[level].shape, other.info.levels[best].shape
    if sizes == lengths and all(
        abs(f / t - 1) * n < 1 for f, t, n in zip(level_factors(image, best), target, sizes, strict=True)
    ):
        target = list(level_factors(image, best))  # the same pixels, whose factors are rounded differently
    axes = [
        sampling((t / f).limit_denominator(FINEST_RATIO), size, length)
        for t, f, size, length in zip(target, level_factors(image, best), sizes, lengths, strict=True)
    ]
    return ScaledGrid(best, axes[0], axes[1])


def _nodata(infos: Sequence[ImageInfo]) -> tuple[float | None, bool, tuple[str, ...]]:
    """The nodata value of all, whether a mask stands for unlike ones, and notes."""
    values = {str(info.nodata) for info in infos}
    if len(values) == 1 and all(info.alpha is None for info in infos):
        return infos[0].nodata, False, ()
    silent = [_file(info) for info in infos if info.nodata is None and info.alpha is None and info.dtype.kind != "f"]
    if silent:
        return None, False, (f"{', '.join(silent)} cannot say what is nodata, so that no pixel is invalid",)
    return None, True, ("files differ in nodata or have masks: a pixel is valid where one of them is",)


def _names(infos: Sequence[ImageInfo]) -> list[str]:
    """Channel names: what tells the files apart, and for those of several channels theirs behind a colon."""
    stems = [_file(info).partition(".")[0] for info in infos]
    bands = [_BAND.findall(stem.replace("_", " ")) for stem in stems]
    if all(len(found) == 1 for found in bands) and len({found[0] for found in bands}) == len(bands):
        stems = [found[0] for found in bands]
    names = []
    for stem, info in zip(stems, infos, strict=True):
        own = [name for i, name in enumerate(info.channels) if i != info.alpha]
        names += [stem] if len(own) == 1 else [f"{stem}:{name}" for name in own]
    return names
