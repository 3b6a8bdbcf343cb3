"""The TIFF family: SVS, NDPI, OME-TIFF, GeoTIFF and COG, plain pyramids; strips and tiles.

::

    open    tifffile parses the pages ─▶ `Pages` (which page is which) ─▶ `Plane` (segments) per level
    decode  unit ─▶ its segments, read at once ─▶ codec, one by one ─▶ (c, h, w)

Whatever the file and wherever it lies, segments are read by position and decoded on their own, by any number of
threads.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from gigatile.errors import GigatileError, ImageError
from gigatile.images.decode_units import chunk_span, chunks_of, make_level, out_of_memory
from gigatile.images.info import ImageInfo
from gigatile.images.places import absolute
from gigatile.images.tiff_check import check_directories
from gigatile.images.tiff_info import describe, with_chatter
from gigatile.images.tiff_pages import find_pages
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
                self._info, self._planes = _parse(self._file)
        except GigatileError:
            raise
        except Exception as error:  # a damaged header can fail in any line of a parser
            raise ImageError(
                self._file.name,
                expected="a TIFF file",
                found=f"{type(error).__name__}: {_without_object(str(error))}",
                fix="The file is truncated, damaged or no TIFF: fetch it again.",
            ) from error
        self._info = with_chatter(self._info, said)

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (absolute(self._place),)

    @property
    def info(self) -> ImageInfo:
        """What the file says of itself."""
        return self._info

    def decode(self, level: int, row: int, col: int) -> Pixels:
        """Read and decode one unit: see `Source.decode`.

        Segments that the file leaves out are nodata, or 0 where it declares none.
        """
        grid = self._info.levels[level]
        height = grid.edges_y[row + 1] - grid.edges_y[row]
        width = grid.edges_x[col + 1] - grid.edges_x[col]
        where = f"{self._file.name}, level {level}"
        try:
            out = np.empty((len(self._info.channels), height, width), self._info.dtype)
            span = chunk_span(grid, row, col)
            if not all(plane.is_complete(*span) for plane in self._planes[level]):
                out[...] = 0 if self._info.nodata is None else self._info.nodata
            self._fill(out, level, (row, col), where)
        except MemoryError as error:
            raise out_of_memory(f"{where}, unit {row}, {col}", (height, width)) from error
        return out

    def _fill(self, out: Pixels, level: int, unit: tuple[int, int], where: str) -> None:
        first = 0
        jobs = []
        for plane in self._planes[level]:
            channels = out[first : first + plane.samples]
            for i, j, ys, xs in chunks_of(self._info.levels[level], *unit):
                jobs += [(plane, segment, channels[:, ys, xs]) for segment in plane.segments(i, j, where)]
            first += plane.samples
        if jobs:
            contents = read_segments(self._file, [segment for _, segment, _ in jobs], where)
            for (plane, segment, target), data in zip(jobs, contents, strict=True):
                plane.fill(segment, data, target, where)

    def identity(self) -> Mapping[str, str | int]:
        """Size and sampled digest of the file, or the ETag of an object."""
        return self._file.identity()


def _parse(file: ByteSource) -> tuple[ImageInfo, list[list[Plane]]]:
    """Metadata and the segments of every plane of every level."""
    import tifffile

    check_directories(file)
    with tifffile.TiffFile(file.path if isinstance(file, LocalFile) else as_file(file)) as tif:
        pages = find_pages(tif, file.name)
        planes = [[read_plane(page, file, len(level)) for page in level] for level in pages.levels]
        pixel_bytes = sum(plane.samples for plane in planes[0]) * planes[0][0].dtype.itemsize
        full = planes[0][0].shape
        levels = tuple(make_level(p[0].shape, full, p[0].chunk, pixel_bytes) for p in planes)
        for level in planes:
            if any(plane.chunk != level[0].chunk or plane.shape != level[0].shape for plane in level):
                raise ImageError(
                    file.name,
                    expected="channels that are stored alike",
                    found="planes of different shape or tile size",
                    fix="Write the image again with one tile size.",
                )
        return describe(tif, file.name, pages, levels), planes


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
