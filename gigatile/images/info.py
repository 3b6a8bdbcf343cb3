"""What is known of an image without reading its pixels, and what a reader must provide.

::

    Source (one per format)          Image (one for all)
    ───────────────────────          ───────────────────────────────────────────
    info  : ImageInfo          ──▶   levels, shape, pixel_size, crs, nodata ...
    decode(level, row, col)    ──▶   read(region, level): cache, channels, border
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from gigatile.units import PixelSize

Transform = tuple[float, float, float, float, float, float]
"""``(a, b, c, d, e, f)`` in rasterio's order: ``X = a x + b y + c``, ``Y = d x + e y + f`` for the
outer corner of pixel (x, y)."""


@dataclass(frozen=True, slots=True)
class Level:
    """One step of the pyramid, and how it is cut into chunks that are decoded at once."""

    shape: tuple[int, int]
    """Height and width in pixels."""
    downsample: float
    """Factor to level 0 (1.0 for level 0); the mean of both axes."""
    chunks: tuple[int, int]
    """Height and width of a chunk as the file stores it (tile, strip, Zarr chunk)."""
    edges_y: tuple[int, ...]
    """Borders of the decode units along y: ``0 = e0 < e1 < ... < en = height``."""
    edges_x: tuple[int, ...]
    """Borders of the decode units along x."""

    @property
    def unit_count(self) -> int:
        """Number of decode units."""
        return (len(self.edges_y) - 1) * (len(self.edges_x) - 1)

    def units(self, y0: int, y1: int, x0: int, x1: int) -> list[tuple[int, int]]:
        """(row, col) of the decode units that touch a non-empty box inside the level."""
        rows = range(bisect_right(self.edges_y, y0) - 1, bisect_right(self.edges_y, y1 - 1))
        cols = range(bisect_right(self.edges_x, x0) - 1, bisect_right(self.edges_x, x1 - 1))
        return [(row, col) for row in rows for col in cols]


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """Everything a file says of itself; pixels excluded."""

    path: str
    """Where it is: a path, or a URL without secrets; ``<array>`` for data in memory."""
    format: str
    """`svs`, `ome-tiff`, `geotiff`, `tiff`, `ome-zarr`, `zarr`, `stack`, `safe`, `stac`, `numpy`, `dask` ..."""
    dtype: np.dtype[Any]
    """dtype of the stored pixels."""
    channels: tuple[str, ...]
    """Channel names, alpha included; as many as ``decode`` returns."""
    levels: tuple[Level, ...]
    """The pyramid, full resolution first."""
    pixel_size: PixelSize | None = None
    """Size of a pixel of level 0, where the file says one that means something."""
    pixel_size_from: str = ""
    """Where that size stands: ``Aperio's MPP``; empty where there is none."""
    crs: str | None = None
    """``EPSG:n`` or WKT2."""
    transform: Transform | None = None
    """Pixel corner to CRS coordinates, level 0."""
    nodata: float | None = None
    """Stored value that means "no pixel" (may be NaN)."""
    alpha: int | None = None
    """Index of the alpha channel, if there is one: validity, not a channel."""
    bounds_offset: tuple[int, int] | None = None
    """Row and column in the file's own level 0 of the first pixel, where the image is the scanned rectangle of it."""
    reader_bytes: int = 0
    """What the reader keeps beside the units that it hands out, at most."""
    shared_bytes: int = 0
    """The part of that which all readers of its kind in a process keep together (GDAL's cache)."""
    notes: tuple[str, ...] = ()
    """What disagreed or was left aside, for ``gigatile info``."""


def fill_value(info: ImageInfo) -> float:
    """What stands for pixels that cannot be decoded: the nodata value, else NaN for floats, else 0."""
    nodata, kind = info.nodata, info.dtype.kind
    if kind == "f":
        return float("nan") if nodata is None else nodata
    low, high = (0, 1) if kind == "b" else (int(np.iinfo(info.dtype).min), int(np.iinfo(info.dtype).max))
    # Files declare values that their pixels cannot hold, -9999 for bytes.
    return nodata if nodata is not None and low <= nodata <= high and nodata == int(nodata) else 0


class Source(Protocol):
    """A reader of one format. Safe to call from many threads; picklable (reopens by path or URL)."""

    @property
    def info(self) -> ImageInfo:
        """What the file says of itself."""
        ...

    def decode(self, level: int, row: int, col: int) -> np.ndarray[Any, Any]:
        """Read and decode one unit.

        Returns
        -------
        ndarray, shape (c, h, w), dtype ``info.dtype``
            All channels of the unit ``edges_y[row]:edges_y[row + 1]`` x ``edges_x[col]:...``,
            clipped to the level.

        Raises
        ------
        DecodeError
            The bytes end too early or do not decode: names file, level and offset.
        BlockError
            The storage failed, or the memory does not hold the unit: it may go better another time.
        """
        ...

    def identity(self) -> Mapping[str, str | int]:
        """Same for the same content wherever it lies: size, digest of header and sampled spans."""
        ...


@runtime_checkable
class ChannelwiseSource(Source, Protocol):
    """A reader whose channels lie in files of their own, so that those that nobody looks at need not be decoded."""

    def reading(self, channels: Collection[int]) -> Source:
        """The same image, of which only some channels are decoded.

        Parameters
        ----------
        channels : collection of int
            Indices of `info.channels`; alpha is always decoded.

        Returns
        -------
        Source
            Of the same `info` and identity; what `decode` gives in other channels means nothing. The reader itself
            where it decodes just these.
        """
        ...
