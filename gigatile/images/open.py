"""From a path or an array to an `Image`: the content decides which reader is used, not the name."""

from __future__ import annotations

import sys
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from gigatile.errors import ImageError, UsageError
from gigatile.images.dicom_files import holds_dicom, is_dicom
from gigatile.images.gdal import GdalSource, gdal_format, is_gdal_image
from gigatile.images.image import Image
from gigatile.images.info import Source
from gigatile.images.memory import ArraySource, DaskSource
from gigatile.images.optional import NeedsReader
from gigatile.images.picture import JPEG_MAGIC, PNG_MAGIC, PictureSource
from gigatile.images.places import is_safe, stack_parts
from gigatile.images.stack import StackSource, open_scene
from gigatile.storage.files import is_prefix, open_bytes
from gigatile.storage.url import scheme_of

_TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

_NOT_YET = (
    (b"ZISRAWFILE", "Zeiss CZI"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x93NUMPY", "a numpy file (in Python: `gigatile.open(numpy.load(path))`)"),
)
"""First bytes of formats that need an optional reader or a conversion."""
STAC_SUFFIXES = (".json", ".geojson")
_BY_OPENSLIDE = (".mrxs", ".vms", ".vmu", ".svslide")
"""Slides whose first bytes are those of something else, because the file is only an index or a thumbnail."""
_NOT_YET_SUFFIXES = {".vsi": "Olympus VSI"}
"""The same, which no reader here takes."""
_CONVERT = (
    "Convert it to a tiled, pyramidal TIFF (`gdal_translate -of COG`, `vips tiffsave --tile --pyramid`, `bfconvert`)."
)


def open(target: str | Path | Any, *, axes: str | None = None) -> Image:
    """Open an image lazily.

    Parameters
    ----------
    target : str, Path, numpy or dask array
        A TIFF of any kind, a PNG or JPEG, the directory of a Zarr array or OME-Zarr image: a path or a URL
        (``s3://``, ``gs://``, ``az://``, ``https://``); the path of what GDAL reads (with ``gigatile[gdal]``);
        several of these with ``+`` between them, whose channels are stacked on the grid of the finest; a SAFE folder of
        Sentinel-2 or the JSON file of a STAC item, whose bands are stacked so; or an array.
    axes : str, optional
        For arrays and Zarr: ``"yx"``, ``"cyx"``, ``"yxc"``; other formats say it themselves.

    Raises
    ------
    ImageError
        There is no such file, or it cannot be read as one plane of channels.
    StorageError
        A store or server does not answer.
    """
    return Image(open_source(target, axes))


def open_source(target: str | Path | Any, axes: str | None = None) -> Source:
    """The reader for a path or an array.

    Raises
    ------
    ImageError
        As for `open`.
    UsageError
        The target is neither a path nor an array, or `axes` is given for a file that states its own.
    """
    if isinstance(target, np.ndarray):
        return ArraySource(target, axes)
    if "dask.array" in sys.modules and isinstance(target, sys.modules["dask.array"].Array):
        return DaskSource(target, axes)  # whoever holds a dask array has imported dask
    if not isinstance(target, str | Path):
        raise UsageError(
            "image",
            expected="a path, a numpy array or a dask array",
            found=type(target).__name__,
            fix="For a zarr.Array give the path of its directory, or dask.array.from_zarr(array).",
        )
    place = str(target)
    parts = stack_parts(place)
    if len(parts) > 1 and "" in parts:
        raise UsageError("image", expected="a file on each side of +", found=repr(place), fix="Leave out the last +.")
    if len(parts) > 1:
        return StackSource([open_source(part, axes) for part in parts])
    if scheme_of(place) not in ("", "file"):
        return _open_url(place, axes)
    path = Path(place.removeprefix("file://"))
    if not path.exists():
        raise _missing(str(path))
    if path.is_dir():
        return _open_directory(path, axes)
    return _open_item(path, axes) if _is_json(path) else _open_file(str(path), axes)


def _is_json(path: Path) -> bool:
    """Whether it may be a STAC item. Its suffix counts, too: pixels without a header may begin with anything."""
    if path.suffix.lower() not in STAC_SUFFIXES or not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{")


def _open_item(path: Path, axes: str | None) -> Source:
    from gigatile.images.stac import stac_scene

    if axes is not None:
        raise _no_axes(str(path), axes)
    # Not open_source: an asset that is an item could lead in circles.
    return open_scene(
        stac_scene(path), lambda place: _open_url(place, None) if scheme_of(place) else _open_file(place, None)
    )


def _no_axes(name: str, axes: str) -> UsageError:
    return UsageError(name, found=f"axes={axes!r}", expected="no axes: the file states its own")


def _open_url(url: str, axes: str | None) -> Source:
    """An object if there is one with this name, else the Zarr hierarchy below it."""
    if url.rstrip("/").lower().endswith(".zarr") or url.endswith("/"):
        return _open_hierarchy(url, axes)
    try:
        return _open_file(url, axes)
    except ImageError as error:
        if error.found != "no such object" or not is_prefix(url):
            raise
    return _open_hierarchy(url, axes)


def _open_directory(path: Path, axes: str | None) -> Source:
    from gigatile.images.zarr import ZarrSource

    if is_safe(path):
        from gigatile.images.safe import safe_scene

        if axes is not None:
            raise _no_axes(str(path), axes)
        return open_scene(safe_scene(path), lambda place: _open_file(place, None))
    if not (path / "zarr.json").exists() and holds_dicom(path):
        from gigatile.images.dicom import DicomSource

        return DicomSource(path)
    if (path / "run.json").is_file() and (path / "prediction.zarr").is_dir():
        result = path / "prediction.zarr"
        raise ImageError(str(path), expected="an image", found="a run directory", fix=f"Give its result: {result}")
    return ZarrSource(path, axes)


def _open_hierarchy(url: str, axes: str | None) -> Source:
    from gigatile.images.zarr import ZarrSource

    return ZarrSource(url.rstrip("/"), axes)


def _open_file(place: str, axes: str | None) -> Source:
    file = open_bytes(place)
    name = file.name
    if axes is not None:
        raise _no_axes(name, axes)
    head = file.read(0, min(file.size, 132))
    suffix = PurePosixPath(name).suffix.lower()
    if suffix in _BY_OPENSLIDE:
        from gigatile.images.openslide import OpenSlideSource

        return OpenSlideSource(place)
    if vendor := _NOT_YET_SUFFIXES.get(suffix):
        raise ImageError(name, expected="a format with a reader", found=vendor, fix=_CONVERT)
    if head.startswith(_TIFF_MAGIC):
        return _open_tiff(place)
    if head.startswith((PNG_MAGIC, JPEG_MAGIC)):
        return PictureSource(place)
    if is_dicom(head):
        from gigatile.images.dicom import DicomSource

        return DicomSource(place)
    if gdal_format(head):
        return GdalSource(place)
    found = next((name for magic, name in _NOT_YET if head.startswith(magic)), "")
    if found:
        raise ImageError(name, expected="a format with a reader", found=found, fix=_CONVERT)
    if not scheme_of(place) and is_gdal_image(place):  # ENVI and others have nothing to be known by at their begin
        return GdalSource(place)
    raise ImageError(
        name,
        expected="a TIFF, PNG, JPEG or Zarr image",
        found=f"a file that begins with {head[:8]!r}",
        fix="Check that this is the image; what GDAL knows is read with gigatile[gdal], the rest after a conversion.",
    )


def _open_tiff(place: str) -> Source:
    from gigatile.images.tiff import TiffSource

    try:
        source = TiffSource(place)
    except NeedsReader as refused:
        from gigatile.images.openslide import openslide_instead

        return openslide_instead(place, refused)
    if source.info.format != "ndpi":
        return source
    from gigatile.images.ndpi import open_ndpi

    return open_ndpi(place, source)


def _missing(target: str) -> ImageError:
    return ImageError(target, expected="an image", found="no such file or directory", fix="Check the path.")
