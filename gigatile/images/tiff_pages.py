"""Which pages of a TIFF are the image, which are its pyramid, and which are neither.

::

    SVS        0 full │ 1 thumbnail │ 2.. tiled levels │ label, macro        (levels are tiled)
    OME-TIFF   0..c-1 channels, each with its levels as SubIFDs
    COG        0 full │ 1 mask │ 2.. reduced images and their masks          (flags in NewSubfileType)
    NDPI       levels │ macro, map                                            (SourceLens > 0)
    plain      0 full, reduced pages in the chain or as SubIFDs
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod
from typing import Any

from gigatile.errors import ImageError
from gigatile.images.decode_units import is_reduction
from gigatile.images.optional import NeedsReader

_REDUCED, _MASK = 1, 4
_NDPI_SOURCE_LENS = 65421

_VENDORS = {
    "is_bif": "Ventana BIF",
    "is_scn": "Leica SCN",
    "is_philips": "Philips TIFF",
    "is_lsm": "Zeiss LSM",
    "is_stk": "MetaMorph STK",
    "is_dng": "camera raw",
    "is_eer": "EER",
}
"""TIFFs whose pixels need more than the pages say: stitching, padding, several images."""


@dataclass(slots=True)
class Pages:
    """The pages of the image, level by level."""

    format: str
    levels: list[list[Any]]
    """tifffile pages; several in a level are planes of channels."""
    notes: list[str] = field(default_factory=list)
    masks: list[Any] = field(default_factory=list)
    """Pages that are masks of levels."""


def find_pages(tif: Any, path: str) -> Pages:
    """Sort the pages of an open `tifffile.TiffFile`.

    Raises
    ------
    ImageError
        The file has no image, planes along Z or T, or is of a kind that is not read yet.
    """
    for flag, name in _VENDORS.items():
        if getattr(tif, flag):
            raise NeedsReader(
                path,
                expected="SVS, NDPI, OME-TIFF, GeoTIFF, a plain TIFF or what OpenSlide reads",
                found=name,
                fix="Convert it to OME-TIFF (`bfconvert`, or `vips tiffsave --tile --pyramid`).",
            )
    if not len(tif.pages):
        raise ImageError(path, expected="a TIFF with an image", found="no page", fix="Fetch it again.")
    if tif.is_ome:
        return _series(tif, path, "ome-tiff")
    if tif.is_ndpi:
        return _ndpi(tif, path)
    if tif.is_svs:
        return _svs(tif, path)
    return _plain(tif, path)


def _ndpi(tif: Any, path: str) -> Pages:
    pages = [p for p in tif.pages if (p.tags.valueof(_NDPI_SOURCE_LENS) or 0) > 0]
    if not pages:
        raise ImageError(path, expected="an NDPI with a slide", found="only macro or map images")
    pages.sort(key=lambda p: -p.imagelength * p.imagewidth)
    _refuse_stack([p for p in pages if p.shape == pages[0].shape], path)
    found = Pages("ndpi", [[pages[0]]])
    return _with_levels(found, pages[1:])


def _svs(tif: Any, path: str) -> Pages:
    base = tif.pages.first
    tiled = [p for p in tif.pages if p.is_tiled and p.index != base.index]
    _refuse_stack([base, *(p for p in tiled if p.shape == base.shape)], path)
    found = Pages("svs", [[base]])
    return _with_levels(found, tiled)


def _plain(tif: Any, path: str) -> Pages:
    pages = list(tif.pages)
    images = [p for p in pages if not int(p.subfiletype) & (_REDUCED | _MASK)]
    base = images[0] if images else pages[0]
    if base.subfiletype and int(base.subfiletype) & _MASK:
        base = pages[0]
    stack = [p for p in images if p.shape == base.shape and p.dtype == base.dtype]
    kind = "geotiff" if tif.is_geotiff or base.tags.valueof(34264) or base.tags.valueof(33922) else "tiff"
    if len(stack) > 1 or _is_virtual_stack(tif, base):
        return _series(tif, path, kind)
    found = Pages(kind, [[base]])
    reduced = [p for p in pages if p is not base and int(p.subfiletype) & _REDUCED]
    aside = [p for p in images if p is not base]
    if aside:
        found.notes.append(f"{len(aside)} further images of other sizes are left aside")
    found.masks = [p for p in (*pages, *(base.pages or ())) if p is not base and int(p.subfiletype) & _MASK]
    return _with_levels(found, [*reduced, *(base.pages or ())])


def add_overviews(found: Pages, pages: list[Any]) -> None:
    """Add the pages of a file of overviews: each is a level, or a mask of one."""
    found.masks += [page for page in pages if int(page.subfiletype) & _MASK]
    _with_levels(found, pages)


def _is_virtual_stack(tif: Any, base: Any) -> bool:
    """Several planes behind a single page, as ImageJ writes beyond 4 GB: the page shows only the first."""
    return bool((tif.is_imagej or tif.is_shaped) and prod(tif.series[0].shape) > prod(base.shape))


def _series(tif: Any, path: str, kind: str) -> Pages:
    """Planes and levels as tifffile understands them from OME-XML, ImageJ's or its own description."""
    series = tif.series[0]
    sizes = dict(zip(series.axes, series.shape, strict=True))
    long = {axis: size for axis, size in sizes.items() if axis not in "CSYX" and size > 1}
    if long:
        what = ", ".join(f"{size} along {_AXES.get(axis, axis)}" for axis, size in long.items())
        raise ImageError(
            path,
            expected="one plane with channels",
            found=f"a stack of planes: {what} (axes {series.axes}, shape {series.shape})",
            fix="--channels cannot choose a plane yet: extract one (`bfconvert -z 0 -timepoint 0`).",
        )
    if not {"Y", "X"} <= sizes.keys():
        raise ImageError(path, expected="an image with axes Y and X", found=f"axes {series.axes}")
    found = Pages(kind, [_planes(tif, series, path)])
    if len(tif.series) > 1 and kind != "ome-tiff":
        found.notes.append(f"{len(tif.series) - 1} further images of the file are left aside")
    base = found.levels[0]
    for reduced in series.levels[1:]:
        pages = _planes(tif, reduced, path)
        why = "another number of channels" if len(pages) != len(base) else _misfit(found.levels, pages[0])
        if why:
            found.notes.append(f"a smaller image of {_shape(pages[0])} is not a level: {why}")
        else:
            found.levels.append(pages)
    return found


_AXES = {"Z": "Z (depth)", "T": "T (time)", "Q": "an axis without a name", "I": "an axis without a name"}


def _planes(tif: Any, series: Any, path: str) -> list[Any]:
    """The pages of one level, channel after channel."""
    count = prod(series.shape) // prod(series.keyframe.shape)
    pages = list(series.pages)
    if len(pages) < count:
        raise ImageError(
            path,
            expected=f"a page for each of {count} planes",
            found=f"{len(pages)}",
            fix="Write it again as OME-TIFF, one page a channel.",
        )
    for page in pages:
        if page is None or page.parent.filehandle.path != tif.filehandle.path:
            raise ImageError(
                path,
                expected="all channels in one file",
                found="an OME-TIFF that refers to other files" if page else "an OME-TIFF with planes missing",
                fix="Merge it into one file (`bfconvert in.ome.tif out.ome.tif`).",
            )
    return pages


def _with_levels(found: Pages, candidates: list[Any]) -> Pages:
    """Add the candidates that are reductions of level 0, largest first; note the others."""
    for page in sorted(candidates, key=lambda p: -p.imagelength * p.imagewidth):
        if int(page.subfiletype) & _MASK:
            continue
        why = _misfit(found.levels, page)
        if why:
            found.notes.append(f"a smaller image of {_shape(page)} is not a level: {why}")
        else:
            found.levels.append([page])
    return found


def _misfit(levels: list[list[Any]], page: Any) -> str:
    """Why a page cannot be the next level; empty if it can."""
    base, last, page = levels[0][0].keyframe, levels[-1][0].keyframe, page.keyframe
    if page.dtype != base.dtype or page.samplesperpixel != base.samplesperpixel:
        return f"{page.samplesperpixel} x {page.dtype}, not {base.samplesperpixel} x {base.dtype}"
    full, shape = (base.imagelength, base.imagewidth), (page.imagelength, page.imagewidth)
    if not is_reduction(full, shape):
        return f"no single factor leads from {_shape(base)} to it"
    if not is_reduction((last.imagelength, last.imagewidth), shape):
        return "another level is as small"
    return ""


def _refuse_stack(pages: list[Any], path: str) -> None:
    if len(pages) > 1:
        raise ImageError(
            path,
            expected="one plane with channels",
            found=f"{len(pages)} pages of {_shape(pages[0])} (focal planes)",
            fix="--channels cannot choose a plane yet: extract one with `bfconvert -z 0`.",
        )


def _shape(page: Any) -> str:
    return f"{page.keyframe.imagelength} x {page.keyframe.imagewidth}"
