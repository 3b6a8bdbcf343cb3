"""DICOM whole-slide images, through wsidicom: levels in several files, concatenations, optical paths.

::

    slide      level 0 ── instance (perhaps in several files) ── frames (tiles) of each optical path
               level 1 ── ...

Pixels are as stored: embedded ICC profiles are not applied, as nowhere in gigatile.
"""

from __future__ import annotations

import logging
import threading
import warnings
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from gigatile.errors import BlockError, DecodeError, GigatileError, ImageError
from gigatile.images.coded_size import refuse_larger
from gigatile.images.decode_units import chunks_of, is_reduction, make_level, out_of_memory, refuse_giant
from gigatile.images.dicom_files import Part, identity_of, slide_of
from gigatile.images.info import ImageInfo, Level
from gigatile.images.jpeg_colours import is_jfif, is_surely_ycbcr
from gigatile.images.openslide import local_path
from gigatile.images.optional import import_for
from gigatile.images.pixel_size import PixelSizeChoice, PixelSizeClaim, choose_pixel_size
from gigatile.images.places import absolute
from gigatile.units import PixelSize

Pixels = np.ndarray[Any, Any]
_COLOURS = ("red", "green", "blue")
_MOST_PX = 1 << 27
"""Height and width that are believed: the largest scans have 2**19."""
_MOST_ODD = 5
"""Warnings of pydicom's that become notes."""
_JPEG_BASELINE = "1.2.840.10008.1.2.4.50"

# wsidicom logs files that it cannot open, with a traceback, and Python would print that to stderr; what
# matters becomes an error here.
logging.getLogger("wsidicom").addHandler(logging.NullHandler())


@dataclass(frozen=True, slots=True)
class _Plane:
    """Where the pixels of one optical path of one level are."""

    data: Any
    """wsidicom's ImageData."""
    path: str
    """Identifier of the optical path."""
    z: float
    doubted: bool = False
    """Whether the header says RGB and frames, which are JPEGs, say YCbCr."""


class _Handle:
    """A slide opened by one thread, closed when that thread ends.

    wsidicom calls its ImageData safe for threads; read by eight of them, it gave wrong tiles now and then.
    """

    def __init__(self, wsidicom: Any, path: str, parts: Sequence[Part]) -> None:
        slide = wsidicom.WsiDicom.open([part.path for part in parts])
        weakref.finalize(self, slide.close)
        self.info, self.planes = _describe(path, slide, parts)


class DicomSource:
    """Reader of one slide in DICOM files on a disk. One handle a thread.

    Parameters
    ----------
    place : str or Path
        A folder with the files of a slide, or one of them.

    Raises
    ------
    ImageError
        wsidicom is not installed, or the files are no slide, several slides, or one that is not read.
    """

    def __init__(self, place: str | Path) -> None:
        self._place = str(place)
        self._path = local_path(place)
        self._wsidicom = import_for("wsidicom", "dicom", self._path)
        self._handles = threading.local()
        try:
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                self._parts = slide_of(self._path)
                handle = _Handle(self._wsidicom, self._path, self._parts)
            self._handles.handle, info = handle, handle.info
            odd = dict.fromkeys(f"DICOM: {str(each.message)[:200]}" for each in said)
            self._info: ImageInfo = replace(info, notes=(*info.notes, *list(odd)[:_MOST_ODD]))
        except GigatileError:
            raise
        except Exception as error:  # a damaged header can fail in any line of a parser
            raise ImageError(
                self._path,
                expected="a DICOM whole-slide image",
                found=f"{type(error).__name__}: {error}",
                fix="The files are truncated, damaged or of a kind that wsidicom does not read: fetch them again.",
            ) from error

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (absolute(self._place),)

    @property
    def info(self) -> ImageInfo:
        """What the files say of themselves."""
        return self._info

    def decode(self, level: int, row: int, col: int) -> Pixels:
        """Read and decode one unit: see `Source.decode`. Tiles that a sparse level leaves out are white, or 0."""
        grid = self._info.levels[level]
        shape = (grid.edges_y[row + 1] - grid.edges_y[row], grid.edges_x[col + 1] - grid.edges_x[col])
        where = f"{self._path}, level {level}"
        out = np.empty((len(self._info.channels), *shape), self._info.dtype)
        planes = self._handle().planes[level]
        samples = len(out) // len(planes)
        for i, j, ys, xs in chunks_of(grid, row, col):
            for index, plane in enumerate(planes):
                target = out[index * samples : (index + 1) * samples, ys, xs]
                _fill(target, plane, (i, j), f"{where}, tile {i}, {j}")
        return out

    def _handle(self) -> _Handle:
        """The slide as this thread has opened it."""
        handle: _Handle | None = getattr(self._handles, "handle", None)
        if handle is None:
            try:
                handle = self._handles.handle = _Handle(self._wsidicom, self._path, self._parts)
            except Exception as error:  # it could be opened once: the storage failed, or the files changed
                raise BlockError(
                    self._path,
                    expected="files that can be opened again",
                    found=f"{type(error).__name__}: {error}",
                    fix="See that the storage is there and may be read.",
                ) from error
        return handle

    def identity(self) -> Mapping[str, str | int]:
        """Number and size of the files that hold levels, and a digest of their sampled digests."""
        return identity_of(part.path for part in self._parts)


def _fill(out: Pixels, plane: _Plane, tile: tuple[int, int], where: str) -> None:
    """Decode a tile into `out`, shape (samples, h, w), which the edge of the level may cut."""
    from wsidicom.geometry import Point

    try:
        pixels = _decoded(plane, Point(tile[1], tile[0]), out.size)
        pixels = pixels if pixels.ndim == 3 else pixels[..., np.newaxis]
        part = pixels[: out.shape[1], : out.shape[2]]
        if part.shape != (*out.shape[1:], out.shape[0]):
            raise ValueError(f"decoded to {pixels.shape}")  # numpy would broadcast a short tile
        out[...] = part.transpose(2, 0, 1)
    except MemoryError as error:
        raise out_of_memory(where, (out.shape[1], out.shape[2])) from error
    except OSError as error:
        raise BlockError(
            where,
            expected="storage that can be read",
            found=f"{type(error).__name__}: {error}",
            fix="See that the storage is there and may be read.",
        ) from error
    except Exception as error:  # every codec has its own exceptions; none may pass without a place
        raise DecodeError(
            where,
            expected=f"a frame that decodes to {out.shape[1]} x {out.shape[2]} pixels",
            found=f"{type(error).__name__}: {error}",
            fix="The file is damaged here: fetch it again or restore it, or go on with --on-bad-chunk fill.",
        ) from error


def _decoded(plane: _Plane, tile: Any, samples: int) -> Pixels:
    """A tile as wsidicom decodes it; or, where header and frame differ and the frame is sure, by the frame."""
    if plane.doubted:
        frame = plane.data.get_encoded_tile(tile, plane.z, plane.path)
        if is_surely_ycbcr(frame):
            import imagecodecs

            refuse_larger(frame, samples)
            return np.asarray(imagecodecs.jpeg8_decode(frame))
    return np.asarray(plane.data.get_decoded_tile(tile, plane.z, plane.path, cache=False))


def _describe(path: str, slide: Any, parts: Sequence[Part]) -> tuple[ImageInfo, list[list[_Plane]]]:
    """Metadata, and the planes of each level."""
    notes = [f"{len(slide.pyramids) - 1} further pyramids are left aside"] if len(slide.pyramids) > 1 else []
    stored = list(slide.pyramids[0])
    base = stored[0].default_instance.image_data
    _refuse_stack(path, base)
    paths = _optical_paths(stored[0], parts, notes)
    full = (base.image_size.height, base.image_size.width)
    widest = parts[0].columns
    if full[1] != widest:  # levels are told by their spacing: of two that claim the same, one is lost
        raise ValueError(f"a level 0 of {full[1]} pixels wide, where the files have one of {widest}")
    if max(full) > _MOST_PX:
        raise ImageError(path, expected=f"a slide of up to {_MOST_PX} pixels a side", found=f"{full[0]} x {full[1]}")
    levels: list[Level] = []
    planes: list[list[_Plane]] = []
    for level in stored:
        data = level.default_instance.image_data
        shape = (data.image_size.height, data.image_size.width)
        if levels and not (_alike(data, base) and is_reduction(full, shape) and is_reduction(levels[-1].shape, shape)):
            notes.append(f"a smaller image of {shape[0]} x {shape[1]} is not a level: it is no reduction of level 0")
            continue
        found = [_plane(level, name) for name in paths]
        chunk = (data.tile_size.height, data.tile_size.width)
        pixel_bytes = base.samples_per_pixel * len(found) * base.dtype.itemsize
        refuse_giant(path, chunk, pixel_bytes)
        levels.append(make_level(shape, full, chunk, pixel_bytes))
        planes.append(found)
        if found[0].doubted:
            notes.append(_doubt(found[0], len(levels) - 1))
    size = _pixel_size(stored[0], parts[0])
    if base.photometric_interpretation == "MONOCHROME1":
        notes.append("white is zero (MONOCHROME1): values are as stored")
    info = ImageInfo(
        path=path,
        format="dicom",
        dtype=np.dtype(base.dtype),
        channels=_channels(base.samples_per_pixel, paths, parts),
        levels=tuple(levels),
        pixel_size=size.size,
        pixel_size_from=size.origin,
        notes=(*size.notes, *notes),
    )
    return info, planes


def _refuse_stack(path: str, data: Any) -> None:
    planes = data.focal_planes
    if len(planes) > 1:
        raise ImageError(
            path,
            expected="one plane with channels",
            found=f"a stack of {len(planes)} focal planes, from {min(planes):g} to {max(planes):g} um",
            fix="--channels cannot choose a plane yet: extract one, for instance with wsidicom's `save`.",
        )


def _alike(data: Any, base: Any) -> bool:
    return bool(data.samples_per_pixel == base.samples_per_pixel and data.dtype == base.dtype)


def _optical_paths(level: Any, parts: Sequence[Part], notes: list[str]) -> list[str]:
    """Identifiers of the optical paths that are read: all where they are grey, the first where they are coloured.

    In the order of the headers: wsidicom's is that of a set, another in each process.
    """
    place = {name: index for index, name in enumerate(_descriptions(parts))}
    paths = sorted(map(str, level.optical_paths), key=lambda name: (place.get(name, len(place)), name))
    if level.default_instance.image_data.samples_per_pixel == 1 or len(paths) == 1:
        return paths
    notes.append(f"{len(paths) - 1} further optical paths in colour are left aside, {paths[0]!r} is read")
    return paths[:1]


def _descriptions(parts: Sequence[Part]) -> dict[str, str]:
    """Description of each optical path by its identifier, in the order in which the headers have them."""
    found: dict[str, str] = {}
    for part in parts:
        for identifier, description in part.optical_paths:
            found.setdefault(identifier, description)
    return found


def _plane(level: Any, path: str) -> _Plane:
    """The instance of a level that has an optical path."""
    for instance in level.instances.values():
        data = instance.image_data
        if path in data.optical_paths:
            plane = _Plane(data, path, data.default_z)
            return replace(plane, doubted=is_jfif(_first_frame(plane))) if _is_rgb_jpeg(data) else plane
    raise ValueError(f"a level without the optical path {path!r} that level 0 has")


def _is_rgb_jpeg(data: Any) -> bool:
    return bool(data.photometric_interpretation == "RGB" and str(data.transfer_syntax) == _JPEG_BASELINE)


def _first_frame(plane: _Plane) -> bytes:
    from wsidicom.geometry import Point

    return bytes(plane.data.get_encoded_tile(Point(0, 0), plane.z, plane.path))


def _doubt(plane: _Plane, level: int) -> str:
    """What is told of a level whose header and frames differ: writers are known to err there, in both ways."""
    said = f"level {level}: DICOM says RGB, its JPEGs say YCbCr (JFIF)"
    if is_surely_ycbcr(_first_frame(plane)):
        return f"{said} and have coarser colours: read as YCbCr; OpenSlide and wsidicom show them in false colours"
    return f"{said}: read as RGB, as OpenSlide"


def _channels(samples: int, paths: Sequence[str], parts: Sequence[Part]) -> tuple[str, ...]:
    """Colours; or the descriptions of the optical paths (stains), where they have one each."""
    if samples == len(_COLOURS):
        return _COLOURS
    described = _descriptions(parts)
    if len(paths) == 1 and not described.get(paths[0]):
        return ("0",)
    names = tuple(described.get(path) or path for path in paths)
    return names if len(set(names)) == len(names) else tuple(paths)


def _pixel_size(level: Any, part: Part) -> PixelSizeChoice:
    """Of level 0, from millimetres."""
    data = level.default_instance.image_data
    claims = []
    if data.pixel_spacing is not None:
        spacing = PixelSize(float(level.mpp.height), float(level.mpp.width))
        claims.append(PixelSizeClaim(spacing, "DICOM's PixelSpacing"))
    if (extent := data.imaged_size) is not None:
        height, width = data.image_size.height, data.image_size.width
        volume = PixelSize(float(extent.height) * 1000 / height, float(extent.width) * 1000 / width)
        claims.append(PixelSizeClaim(volume, "DICOM's ImagedVolume"))
    return choose_pixel_size(claims, part.power or None)
