"""Whatever GDAL reads and no reader of ours does: JPEG 2000, VRT, IMG, ENVI, NetCDF and HDF5 with one image, and more.

::

    open    one dataset ─▶ levels (overviews), place, bands, mask ─▶ ImageInfo; closed again
    decode  unit ─▶ this thread's dataset of the level ─▶ all bands and, where there is one, the mask

A GDAL dataset may be used by one thread at a time, so each thread opens its own. Needs rasterio: `gigatile[gdal]`.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from gigatile.errors import BlockError, DecodeError, ImageError, UsageError
from gigatile.images.decode_units import out_of_memory
from gigatile.images.gdal_info import CACHE_BYTES, crs_text, describe
from gigatile.images.info import ImageInfo
from gigatile.images.optional import import_for
from gigatile.images.places import absolute
from gigatile.images.vrt import referred
from gigatile.storage.files import LocalFile, file_identity
from gigatile.storage.url import scheme_of

Pixels = np.ndarray[Any, Any]

DRIVERS = (
    "VRT", "JP2OpenJPEG", "JP2KAK", "JP2ECW", "JP2MrSID", "HFA", "ENVI", "EHdr", "netCDF", "HDF5", "HDF5Image",
    "HDF4", "HDF4Image", "BMP", "GIF", "BIGGIF", "WEBP", "NITF", "PCIDSK", "GRIB", "AAIGrid", "SAGA", "RST",
    "RRASTER", "ILWIS", "ISIS3", "PDS", "PDS4", "VICAR", "FIT", "PNM", "ERS", "DTED", "SRTMHGT", "USGSDEM",
    "GSAG", "GSBG", "GS7BG", "SGI", "RMF", "Terragen", "BT", "ROI_PAC", "ISCE", "PCRaster", "DIMAP", "MFF", "KEA",
    "JPEGXL", "HEIF", "AVIF",
)  # fmt: skip
"""Of files that are images themselves. Left out: all that asks a server (WMS, WCS, EEDA, STACIT ...), indexes of files
(GTI, MRF), vectors, documents (PDF), and what readers of ours open (TIFF, PNG, JPEG, Zarr)."""
MAGIC = (
    (b"\0\0\0\x0cjP", "JPEG 2000 (JP2)"),
    (b"\xff\x4f\xff\x51", "a JPEG 2000 code stream"),
    (b"<VRTDataset", "a GDAL virtual raster (VRT)"),
    (b"\x89HDF", "HDF5 or NetCDF 4"),
    (b"CDF", "NetCDF"),
    (b"EHFA_HEADER_TAG", "Erdas Imagine (IMG)"),
    (b"BM", "BMP"),
    (b"GIF8", "GIF"),
    (b"RIFF", "WebP or another RIFF file"),
)
"""First bytes of formats that can be known by them; others, as ENVI's, GDAL is asked for."""
CONFIG = {
    "GDAL_CACHEMAX": CACHE_BYTES,
    "CPL_VSIL_CURL_ALLOWED_FILENAME": "none",
    "CPL_VSIL_CURL_USE_HEAD": "NO",
    "GDAL_VRT_ENABLE_PYTHON": "NO",
    "GDAL_PAM_ENABLED": "YES",
    "GDAL_NUM_THREADS": "1",
}
"""No file makes GDAL ask a server by ``/vsicurl/``, ``/vsis3/`` and the like, or run code; our threads are enough."""

_OPENING = threading.Lock()
"""Filters of warnings belong to the process: two threads that open at once would restore each other's."""

# rasterio logs what GDAL says; without a handler Python would print that to stderr.
logging.getLogger("rasterio").addHandler(logging.NullHandler())


class GdalSource:
    """Reader of one file by rasterio. Local files only.

    Memory bound
    ------------
    `CACHE_BYTES` of GDAL's block cache for the whole process (unless the process has used GDAL before, which keeps its
    own), and for each thread that decodes one open dataset a level.

    Raises
    ------
    ImageError
        rasterio is not installed, GDAL does not know the file, or it is not one plane of channels.
    UsageError
        The place is a URL.
    """

    def __init__(self, place: str | Path) -> None:
        self._path = str(place).removeprefix("file://")
        if scheme_of(self._path):
            raise UsageError(
                "images", expected="a local file for the reader by GDAL", found=f"{scheme_of(self._path)}://",
                fix="Fetch it, or convert it to a COG, which is read in place.",
            )  # fmt: skip
        self._file = LocalFile(self._path)
        kind = gdal_format(self._file.read(0, min(64, self._file.size)))
        import_for("rasterio", "gdal", self._path)
        self._files = referred(self._path) if "VRT" in kind else [self._path]
        self._threads = threading.local()
        try:
            with _gdal(), _opened(self._path) as dataset:
                self._info, self._bands, self._overviews = describe(dataset, self._path, self._overview)
                self._files += [name for name in dataset.files if name not in self._files and Path(name).is_file()]
        except _rasterio_error() as error:
            raise ImageError(
                self._path,
                expected=f"{kind or 'a format'} that GDAL reads",
                found=str(error),
                fix="Check that the file is whole; `gdalinfo` says which formats this GDAL has.",
            ) from error

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (absolute(self._path),)

    @property
    def info(self) -> ImageInfo:
        """What the file says of itself."""
        return self._info

    def decode(self, level: int, row: int, col: int) -> Pixels:
        """Read and decode one unit: see `Source.decode`. The mask, where there is one, is the last channel, 0 or 1."""
        grid = self._info.levels[level]
        ys, xs = (grid.edges_y[row], grid.edges_y[row + 1]), (grid.edges_x[col], grid.edges_x[col + 1])
        shape = ys[1] - ys[0], xs[1] - xs[0]
        where = f"{self._path}, level {level}, rows {ys[0]}:{ys[1]}, columns {xs[0]}:{xs[1]}"
        try:
            out = np.empty((len(self._info.channels), *shape), self._info.dtype)
            with _gdal():
                dataset = self._dataset(level)
                dataset.read(list(range(1, self._bands + 1)), out=out[: self._bands], window=(ys, xs))
                if len(out) > self._bands:
                    out[-1] = dataset.read_masks(window=(ys, xs)).any(axis=0)
        except MemoryError as error:
            raise out_of_memory(where, shape) from error
        except _rasterio_error() as error:
            raise self._failed(where, error) from error
        return out

    def _overview(self, index: int) -> AbstractContextManager[Any]:
        return _opened(self._path, index)

    def _dataset(self, level: int) -> Any:
        """This thread's dataset of a level."""
        opened: dict[int, Any] | None = getattr(self._threads, "opened", None)
        if opened is None:
            opened = self._threads.opened = {}
        if level not in opened:
            opened[level] = _dataset(self._path, self._overviews[level])
        return opened[level]

    def _failed(self, where: str, error: Exception) -> BlockError:
        found = f"{type(error).__name__}: {error.__cause__ or error}"
        gone = [name for name in self._files if not Path(name).is_file()]
        if gone:
            return BlockError(where, expected=f"the file {gone[0]}", found="no such file", fix="See that it is there.")
        fix = "The file is damaged here: fetch it again or restore it, or go on with --on-bad-chunk fill."
        return DecodeError(where, expected="bytes that decode", found=found, fix=fix)

    def identity(self) -> Mapping[str, str | int]:
        """Size and sampled digest of the file; where it is several files, of each of them."""
        own = file_identity(self._file)
        others = sorted(name for name in self._files if name != self._path)
        if not others:
            return own
        digest = sha256()
        for each in sorted(f"{Path(name).name} {file_identity(LocalFile(name))}" for name in others):
            digest.update(each.encode())
        return {**own, "files": len(others), "files_sha256": digest.hexdigest()}


def gdal_format(head: bytes) -> str:
    """What a file is, by its first bytes, if it is one of `MAGIC`; else empty."""
    return next((name for magic, name in MAGIC if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(magic)), "")


def is_gdal_image(path: str) -> bool:
    """Whether rasterio is there and one of `DRIVERS` opens the file."""
    try:
        import_for("rasterio", "gdal", path)
    except ImageError:
        return False
    try:
        with _gdal(), _opened(path):
            return True
    except _rasterio_error():
        return False


def own_crs(path: str) -> str | None:
    """The CRS of a local GeoTIFF as GDAL understands it (`crs_text`); None where rasterio or the CRS is missing."""
    if not Path(path).is_file():
        return None
    try:
        import_for("rasterio", "gdal", path)
    except ImageError:
        return None
    try:
        with _gdal(), _dataset(path, None, ("GTiff",)) as dataset:
            return crs_text(dataset.crs) if dataset.crs else None
    except _rasterio_error():
        return None  # GDAL is stricter than we are with damaged files; the pixels are not its business


def _rasterio_error() -> type[Exception]:
    """What rasterio raises."""
    from rasterio.errors import RasterioError

    kind: type[Exception] = RasterioError
    return kind


@contextmanager
def _gdal() -> Iterator[None]:
    """GDAL configured as in `CONFIG`, for this thread, its messages logged."""
    import rasterio

    with rasterio.Env(**CONFIG):
        yield


def _dataset(path: str, overview: int | None, drivers: Sequence[str] = DRIVERS) -> Any:
    """Open a file (or one of its overviews) for the thread that asks; inside of `_gdal` only."""
    import warnings

    from rasterio.errors import NotGeoreferencedWarning
    from rasterio.io import DatasetReader

    level = {} if overview is None else {"overview_level": overview}
    with _OPENING, warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        # not rasterio.open, which takes one driver only
        return DatasetReader(path, driver=list(drivers), sharing=False, **level)


@contextmanager
def _opened(path: str, overview: int | None = None) -> Iterator[Any]:
    with _dataset(path, overview) as dataset:
        yield dataset
