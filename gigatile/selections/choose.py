"""What the user says of region and mask, as one selection on the grid that is worked on."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gigatile.errors import ImageError, UsageError
from gigatile.images.image import Image
from gigatile.images.tissue import find_tissue
from gigatile.selections.geojson import read_geojson
from gigatile.selections.polygons import Polygons
from gigatile.selections.raster import Cells, Raster, cells_of_array, cells_of_image
from gigatile.selections.selection import All, Box, Frame, Selection
from gigatile.tiling.region import Region

Roi = Region | str | Path | Mapping[str, Any] | None
"""Pixels of level 0, ``XMIN,YMIN,XMAX,YMAX``, a GeoJSON file, or GeoJSON."""
GEOJSON = (".geojson", ".json")


def selection_of(image: Image, roi: Roi, mask: str | Path) -> Selection | None:
    """What is kept of an image, beside its own nodata; None: all of it.

    Parameters
    ----------
    image : Image
        With the level or grid that is worked on.
    roi : Region, str, Path, mapping or None
        See `Roi`.
    mask : {"none", "nodata", "tissue"} or path
        A path is that of a raster (kept where not 0) or of a GeoJSON file. Rasters and tissue are read once, now.

    Raises
    ------
    UsageError, ImageError
        It cannot be read, or does not lie on the image.
    """
    if not isinstance(mask, str | Path):
        raise UsageError("mask", expected="none, nodata, tissue or a path", found=repr(mask))
    frame = Frame(image.grid_shape, image.scale)
    parts: list[Selection] = []
    if roi is not None:
        parts.append(_region(roi, image, frame))
    if str(mask) not in ("none", "nodata"):
        parts.append(_mask(mask, image, frame))
        if not parts[-1].bounds.pixels:
            warnings.warn(f"mask {mask} keeps nothing of {image.info.path}: the result is empty.", stacklevel=3)
    if not parts:
        return None
    return parts[0] if len(parts) == 1 else All(tuple(parts))


def _region(roi: Region | str | Path | Mapping[str, Any], image: Image, frame: Frame) -> Selection:
    selection: Selection
    if isinstance(roi, Region):
        selection, found = Box.of_level0(roi.x0, roi.y0, roi.x1, roi.y1, frame), repr(roi)
    elif isinstance(roi, str) and Path(roi).suffix.lower() not in GEOJSON:
        selection, found = _box(roi, frame), roi
    elif isinstance(roi, str | Path | Mapping):
        polygons = read_geojson(roi, image, "roi")
        selection = Polygons.of_level0(polygons, frame)
        points = np.concatenate([ring for rings in polygons for ring in rings])
        (x0, y0), (x1, y1) = points.min(axis=0), points.max(axis=0)
        found = f"polygons from x {x0:.6g}, y {y0:.6g} to x {x1:.6g}, y {y1:.6g} in these"
    else:
        raise UsageError("roi", expected="a Region, a path or GeoJSON", found=repr(roi))
    if not selection.bounds.pixels:
        height, width = image.shape[1:]
        raise UsageError(
            f"roi {roi if isinstance(roi, str | Path) else ''}".strip(),
            expected=f"an area with the centre of a pixel of the image, {width} x {height} pixels of level 0",
            found=found,
            fix="Boxes, and polygons on slides, count pixels of level 0; polygons on scenes are in their `crs`, "
            "else longitude and latitude.",
        )
    return selection


def _box(text: str, frame: Frame) -> Box:
    try:
        xmin, ymin, xmax, ymax = (float(word) for word in text.split(","))
    except ValueError:
        raise UsageError("roi", expected="XMIN,YMIN,XMAX,YMAX or FILE.geojson", found=repr(text)) from None
    if not (xmin < xmax and ymin < ymax and np.isfinite([xmin, ymin, xmax, ymax]).all()):
        raise UsageError(
            "roi",
            expected="XMIN,YMIN,XMAX,YMAX with XMIN < XMAX and YMIN < YMAX",
            found=text,
            fix="The maxima are no width and height.",
        )
    return Box.of_level0(xmin, ymin, xmax, ymax, frame)


def _mask(mask: str | Path, image: Image, frame: Frame) -> Selection:
    if mask == "tissue":
        found = find_tissue(image)
        step = (frame.scale[0] / found.scale[0], frame.scale[1] / found.scale[1])
        return Raster(cells_of_array(found.kept), frame, step, (0.0, 0.0))
    if Path(mask).suffix.lower() in GEOJSON:
        return Polygons.of_level0(read_geojson(mask, image, "mask"), frame)
    from gigatile.images.open import open as open_image

    try:
        raster = open_image(str(mask))
    except ImageError as error:
        fix = f"A mask is none, nodata, tissue, a raster or a GeoJSON file. {error.fix}".strip()
        raise ImageError(f"mask {error.where}", expected=error.expected, found=error.found, fix=fix) from error
    step, origin = _alignment(raster, image, str(mask))
    onto = (step[0] * frame.scale[0], step[1] * frame.scale[1])
    cells: Cells = cells_of_image(raster)
    return Raster(cells, frame, onto, origin)


def _alignment(mask: Image, image: Image, name: str) -> tuple[tuple[float, float], tuple[float, float]]:
    """Pixels of the mask per pixel of the image's level 0, and where its corner lies in the mask; along y and x."""
    if mask.transform is not None and image.transform is not None:
        return _by_transform(mask, image, name)
    (_, h0, w0), (_, h, w) = image.shape, mask.shape
    if mask.pixel_size is not None and image.pixel_size is not None and mask.pixel_size.unit == image.pixel_size.unit:
        factors = (mask.pixel_size.y / image.pixel_size.y, mask.pixel_size.x / image.pixel_size.x)
        if _covers((h0, w0), (h, w), factors):
            return (1 / factors[0], 1 / factors[1]), (0.0, 0.0)
    for whole in {float(max(round(h0 / h), 1)), float(max(round(w0 / w), 1))}:
        if _covers((h0, w0), (h, w), (whole, whole)):
            return (1 / whole, 1 / whole), (0.0, 0.0)
    # The same extent, stretched: sides differ from one factor by less than a pixel of the mask.
    if abs(h0 / h - w0 / w) * min(h, w) <= max(h0 / h, w0 / w):
        return (h / h0, w / w0), (0.0, 0.0)
    raise ImageError(
        f"mask {name}",
        expected=f"the extent of the image, {h0} x {w0} px, at any resolution",
        found=f"{h} x {w} px",
        fix="Export it for the whole image, or give both a georeference.",
    )


def _covers(image: tuple[int, int], mask: tuple[int, int], factors: tuple[float, float]) -> bool:
    """Whether the mask, its last pixels cut or filled up, has the extent of the image."""
    return all(abs(side / factor - pixels) < 1 for side, pixels, factor in zip(image, mask, factors, strict=True))


def _by_transform(mask: Image, image: Image, name: str) -> tuple[tuple[float, float], tuple[float, float]]:
    """Through CRS coordinates."""
    if not _same_crs(mask.crs, image.crs):
        raise ImageError(
            f"mask {name}",
            expected=f"the image's coordinate reference system, {image.crs}",
            found=str(mask.crs),
            fix="Warp the mask to it (gdalwarp -t_srs), or give it as GeoJSON.",
        )
    assert mask.transform is not None and image.transform is not None
    (a, b, c, d, e, f), (ma, mb, mc, md, me, mf) = image.transform, mask.transform
    inverse = np.linalg.inv(np.array([[ma, mb], [md, me]]))
    linear = inverse @ np.array([[a, b], [d, e]])
    corner = inverse @ np.array([c - mc, f - mf])
    largest = max(image.shape[1:])
    if max(abs(linear[0, 1]), abs(linear[1, 0])) * largest > 0.1:
        raise ImageError(
            f"mask {name}",
            expected="pixels along those of the image",
            found="a mask that is turned against it",
            fix="Warp the mask to the image's grid, or give it as GeoJSON.",
        )
    return (float(linear[1, 1]), float(linear[0, 0])), (float(corner[1]), float(corner[0]))


def _same_crs(one: str | None, other: str | None) -> bool:
    if one == other or one is None or other is None:
        return True
    try:
        from pyproj import CRS
    except ImportError:
        return False
    return bool(CRS.from_user_input(one).equals(CRS.from_user_input(other), ignore_axis_order=True))
