"""The TIFF family: SVS, NDPI, OME-TIFF, GeoTIFF and COG, plain pyramids; strips and tiles.

::

    open    tifffile parses the pages ─▶ `Pages` (which page is which) ─▶ `Plane` (segments) per level
    decode  unit ─▶ its segments: a positional read each ─▶ codec ─▶ (c, h, w)

Whatever the file, a segment is read by position and decoded on its own, by any number of threads.
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
from gigatile.images.decode_units import chunk_span, chunks_of, make_level
from gigatile.images.file import PositionalFile, file_identity
from gigatile.images.info import ImageInfo
from gigatile.images.tiff_check import check_directories
from gigatile.images.tiff_info import describe, with_chatter
from gigatile.images.tiff_pages import find_pages
from gigatile.images.tiff_segments import Plane, read_plane

Pixels = np.ndarray[Any, Any]

# tifffile logs what it finds odd; without a handler Python would print that to stderr. An application
# that configures logging still gets it, and what was said while opening stands in the notes.
logging.getLogger("tifffile").addHandler(logging.NullHandler())


class TiffSource:
    """Reader of one TIFF file.

    Raises
    ------
    ImageError
        The file is missing, truncated, no TIFF, or holds what cannot be read as one plane of channels.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = str(path)
        self._file = PositionalFile(path)
        try:
            with _tifffile_says() as said:
                self._info, self._planes = _parse(self._file)
        except GigatileError:
            raise
        except Exception as error:  # a damaged header can fail in any line of a parser
            raise ImageError(
                self._path,
                expected="a TIFF file",
                found=f"{type(error).__name__}: {_without_object(str(error))}",
                fix="The file is truncated, damaged or no TIFF: fetch it again.",
            ) from error
        self._info = with_chatter(self._info, said)

    def __reduce__(self) -> tuple[object, ...]:
        # A worker may have another working directory.
        return type(self), (str(Path(self._path).absolute()),)

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
        out = np.empty((len(self._info.channels), height, width), self._info.dtype)
        span = chunk_span(grid, row, col)
        if not all(plane.is_complete(*span) for plane in self._planes[level]):
            out[...] = 0 if self._info.nodata is None else self._info.nodata
        first = 0
        for plane in self._planes[level]:
            channels = out[first : first + plane.samples]
            for i, j, ys, xs in chunks_of(grid, row, col):
                plane.fill(self._file, (i, j), channels[:, ys, xs], f"{self._path}, level {level}")
            first += plane.samples
        return out

    def chunks_in(self, level: int, row: int, col: int) -> int:
        """Number of tiles or strips that the file stores in a unit, all planes together."""
        span = chunk_span(self._info.levels[level], row, col)
        return sum(plane.stored(*span) for plane in self._planes[level])

    def identity(self) -> Mapping[str, str | int]:
        """Size and sampled digest of the file."""
        return file_identity(self._file)


def _parse(file: PositionalFile) -> tuple[ImageInfo, list[list[Plane]]]:
    """Metadata and the segments of every plane of every level."""
    import tifffile

    with tifffile.TiffFile(file.path) as tif:
        check_directories(tif, file)
        pages = find_pages(tif, file.path)
        planes = [[read_plane(page, file, len(level)) for page in level] for level in pages.levels]
        pixel_bytes = sum(plane.samples for plane in planes[0]) * planes[0][0].dtype.itemsize
        full = planes[0][0].shape
        levels = tuple(make_level(p[0].shape, full, p[0].chunk, pixel_bytes) for p in planes)
        for level in planes:
            if any(plane.chunk != level[0].chunk or plane.shape != level[0].shape for plane in level):
                raise ImageError(
                    file.path,
                    expected="channels that are stored alike",
                    found="planes of different shape or tile size",
                    fix="Write the image again with one tile size.",
                )
        return describe(tif, file.path, pages, levels), planes


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
