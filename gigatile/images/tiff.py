"""The TIFF family: SVS, NDPI, OME-TIFF, GeoTIFF and COG, plain pyramids; strips and tiles.

::

    open    tifffile parses the pages ─▶ `Pages` (which page is which) ─▶ `Plane` (segments) per level
    decode  unit ─▶ its segments, read at once ─▶ codec, one by one ─▶ (c, h, w)

A mask, inside or beside the file, is a channel of validity; overviews beside it are levels (`tiff_mask`).
Whatever the file and wherever it lies, segments are read by position and decoded on their own, by any number of
threads.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gigatile.errors import GigatileError, ImageError
from gigatile.images.decode_units import chunk_span, chunks_of, make_level, out_of_memory
from gigatile.images.info import ImageInfo
from gigatile.images.places import absolute
from gigatile.images.tiff_check import check_directories
from gigatile.images.tiff_info import describe, with_chatter
from gigatile.images.tiff_mask import (
    MASK,
    OVERVIEWS,
    LevelMask,
    level_masks,
    mask_planes,
    sidecar,
    with_mask,
)
from gigatile.images.tiff_pages import Pages, add_overviews, find_pages
from gigatile.images.tiff_segments import Plane, read_plane, read_segments
from gigatile.storage.files import LocalFile, as_file, open_bytes
from gigatile.storage.reading import ByteSource

Pixels = np.ndarray[Any, Any]

# tifffile logs what it finds odd; without a handler Python would print that to stderr. An application
# that configures logging still gets it, and what was said while opening stands in the notes.
logging.getLogger("tifffile").addHandler(logging.NullHandler())


class TiffSource:
    """Reader of one TIFF file, at a path or a URL.

    Raises
    ------
    ImageError
        The file is missing, truncated, no TIFF, or holds what cannot be read as one plane of channels.
    StorageError
        A store or server does not answer.
    """

    def __init__(self, place: str | Path) -> None:
        self._place = str(place)
        self._file = open_bytes(place)
        try:
            with _tifffile_says() as said:
                self._content = _parse(self._file)
        except GigatileError:
            raise
        except Exception as error:  # a damaged header can fail in any line of a parser
            raise ImageError(
                self._file.name,
                expected="a TIFF file",
                found=f"{type(error).__name__}: {_without_object(str(error))}",
                fix="The file is truncated, damaged or no TIFF: fetch it again.",
            ) from error
        self._info = with_chatter(self._content.info, said)

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (absolute(self._place),)

    @property
    def info(self) -> ImageInfo:
        """What the file says of itself."""
        return self._info

    def decode(self, level: int, row: int, col: int) -> Pixels:
        """Read and decode one unit: see `Source.decode`.

        Segments that the file leaves out are nodata, or 0 where it declares none. A mask is 0 or 1 in the channel of
        its own, or makes alpha 0.
        """
        grid = self._info.levels[level]
        height = grid.edges_y[row + 1] - grid.edges_y[row]
        width = grid.edges_x[col + 1] - grid.edges_x[col]
        where = f"{self._file.name}, level {level}"
        try:
            out = np.empty((len(self._info.channels), height, width), self._info.dtype)
            span = chunk_span(grid, row, col)
            if not all(plane.is_complete(*span) for plane in self._content.levels[level].planes):
                out[...] = 0 if self._info.nodata is None else self._info.nodata
            self._fill(out, level, (row, col), where)
            if self._content.masks:
                self._mask(out, level, (row, col))
        except MemoryError as error:
            raise out_of_memory(f"{where}, unit {row}, {col}", (height, width)) from error
        return out

    def _fill(self, out: Pixels, level: int, unit: tuple[int, int], where: str) -> None:
        first = 0
        jobs = []
        for plane in self._content.levels[level].planes:
            channels = out[first : first + plane.samples]
            for i, j, ys, xs in chunks_of(self._info.levels[level], *unit):
                jobs += [(plane, segment, channels[:, ys, xs]) for segment in plane.segments(i, j, where)]
            first += plane.samples
        if jobs:
            contents = read_segments(self._content.levels[level].file, [segment for _, segment, _ in jobs], where)
            for (plane, segment, target), data in zip(jobs, contents, strict=True):
                plane.fill(segment, data, target, where)

    def _mask(self, out: Pixels, level: int, unit: tuple[int, int]) -> None:
        assert self._content.masks and self._info.alpha is not None
        grid, (row, col) = self._info.levels[level], unit
        mask = self._content.masks[level]
        where = f"{mask.stored.file.name}, mask of level {level}"
        ends = (grid.edges_y[row], grid.edges_y[row + 1]), (grid.edges_x[col], grid.edges_x[col + 1])
        valid = mask.window(*ends, where)
        if self._content.has_alpha:
            out[self._info.alpha][~valid] = 0
        else:
            out[self._info.alpha] = valid

    def identity(self) -> Mapping[str, str | int]:
        """Size and sampled digest of the file and of mask and overviews beside it, or the ETag of an object."""
        beside = [(Path(file.name).suffix[1:], file.identity()) for file in self._content.beside]
        return {**self._file.identity(), **{f"{kind}_{key}": v for kind, own in beside for key, v in own.items()}}


@dataclass(frozen=True, slots=True)
class _Stored:
    """Where the pixels of a level are."""

    file: ByteSource
    planes: list[Plane]


@dataclass(frozen=True, slots=True)
class _Content:
    """All that was parsed."""

    info: ImageInfo
    levels: list[_Stored]
    masks: list[LevelMask] | None
    """One a level; None: no mask."""
    has_alpha: bool
    """Whether the pixels have an alpha channel, which a mask joins."""
    beside: list[LocalFile]
    """Files beside the image that are read with it."""


def _parse(file: ByteSource) -> _Content:
    """Metadata, and the segments of every plane of every level."""
    import tifffile

    check_directories(file)
    with ExitStack() as stack:
        tif = stack.enter_context(tifffile.TiffFile(file.path if isinstance(file, LocalFile) else as_file(file)))
        pages = find_pages(tif, file.name)
        beside = _beside(stack, file, pages)
        owners: dict[int, ByteSource] = {id(tif): file} | {id(other): own for own, other in beside.values()}
        if OVERVIEWS in beside:
            add_overviews(pages, list(beside[OVERVIEWS][1].pages))
        stored = [_stored(level, owners[id(level[0].parent)]) for level in pages.levels]
        outside = mask_planes(list(beside[MASK][1].pages), beside[MASK][0]) if MASK in beside else []
        inside = [plane for page in pages.masks for plane in mask_planes([page], owners[id(page.parent)])]
        shapes = [level.planes[0].shape for level in stored]
        masks = level_masks(shapes, inside, outside)
        if masks is None and (outside or inside):
            pages.notes.append("the mask has another size than the image and is not read")
        base = stored[0].planes
        own = base[0].dtype.itemsize
        pixel_bytes = sum(plane.samples for plane in base) * own + (own if masks else 0)
        levels = tuple(make_level(p.planes[0].shape, shapes[0], p.planes[0].chunk, pixel_bytes) for p in stored)
        info = describe(tif, file.name, pages, levels)
    has_alpha = info.alpha is not None
    files = [own for own, _ in beside.values()]
    return _Content(with_mask(info) if masks else info, stored, masks, has_alpha, files)


def _beside(stack: ExitStack, file: ByteSource, pages: Pages) -> dict[str, tuple[LocalFile, Any]]:
    """Overviews and mask beside a local file, where there are none inside; open as long as the stack is."""
    if not isinstance(file, LocalFile) or pages.format not in ("tiff", "geotiff"):
        return {}
    wanted = [OVERVIEWS] if len(pages.levels) == 1 else []
    wanted += [] if pages.masks else [MASK]
    found = ((suffix, stack.enter_context(sidecar(file.path, suffix))) for suffix in wanted)
    return {suffix: each for suffix, each in found if each}


def _stored(level: list[Any], file: ByteSource) -> _Stored:
    planes = [read_plane(page, file, len(level)) for page in level]
    if any(plane.chunk != planes[0].chunk or plane.shape != planes[0].shape for plane in planes):
        raise ImageError(
            file.name,
            expected="channels that are stored alike",
            found="planes of different shape or tile size",
            fix="Write the image again with one tile size.",
        )
    return _Stored(file, planes)


@contextmanager
def _tifffile_says() -> Iterator[list[str]]:
    """Collect the warnings that tifffile logs in this thread."""
    said: list[str] = []
    thread = threading.get_ident()

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            text = record.getMessage()
            if record.thread == thread and "GDAL_NODATA" not in text:  # that tag we read ourselves
                said.append(_without_object(text))

    collector = Collector(logging.WARNING)
    logger = logging.getLogger("tifffile")
    logger.addHandler(collector)
    try:
        yield said
    finally:
        logger.removeHandler(collector)


def _without_object(message: str) -> str:
    """A message of tifffile's without the ``<tifffile.TiffPage 0 @8>`` that it starts with."""
    return re.sub(r"<tifffile\.\S+(?: [^>]*)?> ?", "", message)[:200]
