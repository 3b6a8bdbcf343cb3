"""Slides that OpenSlide reads: MIRAX, Hamamatsu VMS and NDPI, Ventana, Leica, Philips, Sakura ...

::

    the file's own level 0          the image, as in QuPath
    ┌────────────────────┐
    │     bounds-x       │         ┌───────┐      read_region takes places in level 0 of the file, for every level:
    │      ┌───────┐     │   ──▶   │ scan  │      (bounds + downsample * place in the level of the image)
    │      │ scan  │     │         │       │
    │      └───────┘     │         └───────┘      bounds_offset = (bounds-y, bounds-x)
    └────────────────────┘

Where a downsample is no whole number, OpenSlide reads between the pixels of a level and mixes neighbours, unless it
begins at the origin. Small levels are therefore read whole; what remains is noted.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gigatile.errors import DecodeError, ImageError
from gigatile.images.decode_units import edges, out_of_memory
from gigatile.images.info import ImageInfo, Level
from gigatile.images.optional import import_for
from gigatile.images.pixel_size import PixelSizeChoice, PixelSizeClaim, choose_pixel_size, number_in
from gigatile.images.places import absolute
from gigatile.storage.files import LocalFile
from gigatile.storage.url import redacted, scheme_of
from gigatile.units import PixelSize

Pixels = np.ndarray[Any, Any]
UNIT_SIDE_PX = 512
"""Tiles are read together up to this side: a call costs some 100 us, and what MIRAX stitches some ms more."""
WHOLE_PX = 4 << 20
"""Levels of odd downsamples up to this size are one unit (16 MiB as RGBA)."""
CACHE_BYTES = 32 << 20
"""Of tiles that OpenSlide has decoded, for all threads together; its own default is as much for each handle."""
_OPAQUE = ("aperio", "hamamatsu")
"""Vendors whose scans have no gaps, so that alpha says nothing."""
_UNKNOWN = ("", "generic-tiff")
"""What OpenSlide calls files that it knows no better than our own reader of TIFFs."""
_UM_PER_RESOLUTION_UNIT = {"centimeter": 10000.0, "inch": 25400.0}
_COLOURS = ("red", "green", "blue")


@dataclass(frozen=True, slots=True)
class _Bounds:
    """The scanned rectangle in pixels of the file's level 0."""

    y: int
    x: int
    height: int
    width: int


class OpenSlideSource:
    """Reader of one slide through OpenSlide. One handle a thread, one cache of tiles for all of them.

    Memory bound
    ------------
    `CACHE_BYTES` of decoded tiles, and what OpenSlide holds of a file's index: once a thread.

    Raises
    ------
    ImageError
        OpenSlide is not installed, the file is not on this machine's disks, or is no slide that OpenSlide opens.
    """

    def __init__(self, place: str | Path) -> None:
        self._place = str(place)
        self._path = local_path(place)
        self._openslide = import_for("openslide", "openslide", self._path)
        self._file = LocalFile(self._path)
        self._handles = threading.local()
        self._cache = self._openslide.OpenSlideCache(CACHE_BYTES)
        slide = self._handle()
        self._properties = dict(slide.properties)
        self._info, self._origin = _describe(self._path, slide)
        self._background = _background(self._properties)

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (absolute(self._place),)

    @property
    def info(self) -> ImageInfo:
        """What the file says of itself."""
        return self._info

    def decode(self, level: int, row: int, col: int) -> Pixels:
        """Read one unit: see `Source.decode`. Transparent pixels have the background colour that the slide states."""
        grid = self._info.levels[level]
        ys, xs = grid.edges_y[row : row + 2], grid.edges_x[col : col + 2]
        shape = (ys[1] - ys[0], xs[1] - xs[0])
        where = f"{self._path}, level {level}, pixels {ys[0]}:{ys[1]}, {xs[0]}:{xs[1]}"
        y, x = (o + round(e[0] * grid.downsample) for o, e in zip(self._origin, (ys, xs), strict=True))
        try:
            rgba = np.asarray(self._handle().read_region((x, y), level, (shape[1], shape[0])))
        except self._openslide.OpenSlideError as error:
            self._handles.slide = None  # a handle that met an error gives nothing but that error
            raise DecodeError(
                where,
                expected="tiles that decode",
                found=f"{type(error).__name__}: {error}",
                fix="The file is damaged here: fetch it again or restore it, or go on with --on-bad-chunk fill.",
            ) from error
        except MemoryError as error:
            raise out_of_memory(where, shape) from error
        pixels = np.ascontiguousarray(np.moveaxis(rgba, -1, 0)[: len(self._info.channels)])
        if self._info.alpha is not None:
            gaps = pixels[3] == 0
            if gaps.any():
                pixels[:3, gaps] = self._background
        return pixels

    def identity(self) -> Mapping[str, str | int]:
        """Size and sampled digest of the file, OpenSlide's own hash, and sizes of the files beside (MIRAX)."""
        found: dict[str, str | int] = dict(self._file.identity())
        if quickhash := self._properties.get("openslide.quickhash-1"):
            found["quickhash"] = quickhash
        beside = Path(self._path).with_suffix("")
        if self._info.format == "mirax" and beside.is_dir():
            sizes = sorted((entry.name, entry.stat().st_size) for entry in beside.iterdir())
            found["beside"] = ", ".join(f"{name} {size}" for name, size in sizes)
        return found

    def _handle(self) -> Any:
        """OpenSlide's handle of this thread."""
        slide = getattr(self._handles, "slide", None)
        if slide is None:
            try:
                slide = self._openslide.OpenSlide(self._path)
            except (self._openslide.OpenSlideError, OSError) as error:
                raise ImageError(
                    self._path,
                    expected="a slide that OpenSlide opens",
                    found=f"{type(error).__name__}: {error}",
                    fix="Check that all of the slide's files are there; if they are, fetch them again.",
                ) from error
            slide.set_cache(self._cache)
            self._handles.slide = slide
        return slide


def local_path(place: str | Path) -> str:
    """The path of a file that a library opens by itself.

    Raises
    ------
    ImageError
        It is a URL: such libraries read files on disks only.
    """
    text = str(place)
    if scheme_of(text) in ("", "file"):
        return text.removeprefix("file://")
    raise ImageError(
        redacted(text),
        expected="a file on a disk, which the library for this format needs",
        found="a URL",
        fix="Copy the slide, with all of its files, to a disk; TIFFs, SVS and Zarrs are read by URL.",
    )


def openslide_instead(place: str, refused: ImageError) -> OpenSlideSource:
    """OpenSlide's reader for a file that was refused by ours.

    Raises
    ------
    ImageError
        `refused`, where OpenSlide is not installed or does not know the file either; or that it cannot be opened.
    """
    path = local_path(place)
    try:
        openslide = import_for("openslide", "openslide", path)
    except ImageError as missing:
        fix = f"If it is a slide, type: pip install 'gigatile[openslide]'. {refused.fix}"
        raise ImageError(path, expected=refused.expected, found=refused.found, fix=fix) from missing
    if (openslide.OpenSlide.detect_format(path) or "") in _UNKNOWN:
        raise refused
    return OpenSlideSource(place)


def _describe(path: str, slide: Any) -> tuple[ImageInfo, tuple[int, int]]:
    """Metadata, and row and column of the image in the file's level 0."""
    properties = slide.properties
    vendor = properties.get("openslide.vendor", "openslide")
    width, height = slide.dimensions
    declared = _declared_bounds(properties)
    bounds = declared or _Bounds(0, 0, height, width)
    notes: list[str] = []
    levels: list[Level] = []
    for index, ((level_width, level_height), downsample) in enumerate(
        zip(slide.level_dimensions, slide.level_downsamples, strict=True)
    ):
        shape = (level_height, level_width)
        if declared:
            shape = int(bounds.height / downsample), int(bounds.width / downsample)
        if min(shape) < 1:
            break
        tile = _tile(properties, index)
        levels.append(_level(shape, downsample, tile))
        if levels[-1].unit_count > 1 and not float(downsample).is_integer():
            shift = 0.5 / downsample
            notes.append(
                f"level {index} is {downsample:.6g} times smaller, no whole number: OpenSlide reads it up to "
                f"{shift:.2g} pixels beside its own pixels and mixes neighbours"
            )
    choice = _pixel_size(properties)
    is_opaque = vendor in _OPAQUE
    info = ImageInfo(
        path=path,
        format=vendor,
        dtype=np.dtype(np.uint8),
        channels=_COLOURS if is_opaque else (*_COLOURS, "alpha"),
        levels=tuple(levels),
        pixel_size=choice.size,
        pixel_size_from=choice.origin,
        alpha=None if is_opaque else 3,
        bounds_offset=(bounds.y, bounds.x) if declared else None,
        reader_bytes=CACHE_BYTES,
        notes=(*choice.notes, *notes),
    )
    return info, (bounds.y, bounds.x)


def _declared_bounds(properties: Mapping[str, str]) -> _Bounds | None:
    """``openslide.bounds-*``: the rectangle in which something was scanned."""
    values = [properties.get(f"openslide.bounds-{name}") for name in ("y", "x", "height", "width")]
    if not all(values):
        return None
    y, x, height, width = (int(value or 0) for value in values)
    return _Bounds(y, x, height, width) if min(height, width) > 0 else None


def _tile(properties: Mapping[str, str], level: int) -> tuple[int, int]:
    """Height and width of the tiles of a level; those of MIRAX overlap, and are of no whole size."""
    sides = [properties.get(f"openslide.level[{level}].tile-{name}") for name in ("height", "width")]
    height, width = (int(number_in(side)) if side else UNIT_SIDE_PX for side in sides)
    return max(1, height), max(1, width)


def _level(shape: tuple[int, int], downsample: float, tile: tuple[int, int]) -> Level:
    chunk = min(tile[0], shape[0]), min(tile[1], shape[1])
    unit = _unit(chunk)
    if not float(downsample).is_integer() and shape[0] * shape[1] <= WHOLE_PX:
        unit = shape
    return Level(
        shape=shape,
        downsample=float(downsample),
        chunks=chunk,
        edges_y=edges(shape[0], unit[0]),
        edges_x=edges(shape[1], unit[1]),
    )


def _unit(tile: tuple[int, int]) -> tuple[int, int]:
    """Whole tiles up to `UNIT_SIDE_PX`; a tile that is wide and flat (NDPI) or large is not cut below 2,048 px."""
    sides = [max(1, UNIT_SIDE_PX // side) * side for side in tile]
    height, width = (side if side <= 4 * UNIT_SIDE_PX else UNIT_SIDE_PX for side in sides)
    return height, width


def _pixel_size(properties: Mapping[str, str]) -> PixelSizeChoice:
    claims = []
    y, x = (number_in(properties.get(f"openslide.mpp-{axis}")) for axis in "yx")
    if y and x:
        claims.append(PixelSizeClaim(PixelSize(y, x), "OpenSlide's mpp"))
    unit = _UM_PER_RESOLUTION_UNIT.get(properties.get("tiff.ResolutionUnit", ""))
    y, x = (number_in(properties.get(f"tiff.{axis}Resolution")) for axis in "YX")
    if unit and y and x and not (unit == 25400.0 and y == x == 1.0):
        claims.append(PixelSizeClaim(PixelSize(unit / y, unit / x), "TIFF's XResolution and YResolution"))
    return choose_pixel_size(claims, number_in(properties.get("openslide.objective-power")) or None)


def _background(properties: Mapping[str, str]) -> Pixels:
    """Colour of what was not scanned, shape (3, 1): ``openslide.background-color`` or white."""
    colour = bytes.fromhex(properties.get("openslide.background-color", "FFFFFF"))
    return np.frombuffer(colour[:3], np.uint8)[:, None]
