"""What a TIFF says of itself beyond its pixels: pixel size, channel names, alpha, place on the Earth."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from gigatile.images.channels import distinct
from gigatile.images.gdal import own_crs
from gigatile.images.geotiff import GDAL_NODATA, Geo, read_geo, read_nodata
from gigatile.images.info import ImageInfo, Level
from gigatile.images.ome import MICROMETERS, OmePixels, read_ome
from gigatile.images.pixel_size import PixelSizeChoice, PixelSizeClaim, choose_pixel_size, number_in
from gigatile.images.tiff_pages import Pages
from gigatile.units import PixelSize

_NDPI_SOURCE_LENS = 65421
_PHOTOMETRIC_NOTES = {
    0: "white is zero (MinIsWhite): values are as stored",
    3: "pixels are indices into a palette: values are as stored",
    5: "pixels are CMYK: values are as stored",
    8: "pixels are CIE L*a*b*: values are as stored",
}
_RGB, _YCBCR = 2, 6
_BECOMES_RGB = (6, 7, 33003, 33005, 33007, 34712, 34892)
"""Compressions whose decoders turn YCbCr into RGB."""
_ORIENTATION = 274
_UM_PER_RESOLUTION_UNIT = {2: 25400.0, 3: 10000.0}
_ALPHA_SAMPLES = (1, 2)
_COLOURS = ("red", "green", "blue")
_NO_COLOUR = ("gray", "grey", "undefined", "palette")


def describe(tif: Any, path: str, pages: Pages, levels: tuple[Level, ...]) -> ImageInfo:
    """Everything a TIFF says of itself. `tif`, a `tifffile.TiffFile`, must be open."""
    base = pages.levels[0][0].keyframe
    dtype = np.dtype(base.dtype)
    if pages.format in ("geotiff", "tiff"):
        geo = read_geo(base.tags.valueof, dtype)
    else:  # GDAL's tag says what is invalid in OME-TIFFs, too: in class maps that are given as masks
        nodata, nodata_notes = read_nodata(base.tags.valueof(GDAL_NODATA), dtype)
        geo = Geo(nodata=nodata, notes=nodata_notes)
    ome = read_ome(tif.ome_metadata or "") if pages.format == "ome-tiff" else OmePixels()
    size = _pixel_size(tif, base, pages.format, ome)
    if geo.transform or pages.format == "geotiff":
        size = PixelSizeChoice(geo.pixel_size, "the geotransform" if geo.pixel_size else "")
    crs, crs_notes = geo.crs, geo.notes
    if geo.has_own_crs and (own := own_crs(path)):
        crs, crs_notes = own, (*geo.notes, "its WKT2 is GDAL's reading of the GeoTIFF keys")
    names, alpha = _channels(base, len(pages.levels[0]), geo, ome)
    return ImageInfo(
        path=path,
        format=pages.format,
        dtype=dtype,
        channels=names,
        levels=levels,
        pixel_size=size.size,
        pixel_size_from=size.origin,
        crs=crs,
        transform=geo.transform,
        nodata=geo.nodata,
        alpha=alpha,
        notes=(*pages.notes, *crs_notes, *ome.notes, *size.notes, *_page_notes(base), *_sidecars(path)),
    )


def _pixel_size(tif: Any, page: Any, kind: str, ome: OmePixels) -> PixelSizeChoice:
    """The stated pixel size in micrometres; resolution tags count where nothing better is stated."""
    claims: list[PixelSizeClaim] = []
    power: float | None = None
    if kind == "svs":
        if match := re.search(r"MPP\s*=\s*([^|\s]+)", page.description):
            mpp = number_in(match[1])
            claims.append(PixelSizeClaim(PixelSize(mpp, mpp), "Aperio's MPP"))
        match = re.search(r"AppMag\s*=\s*([^|\s]+)", page.description)
        power = number_in(match[1]) if match else None
    elif kind == "ndpi":
        power = number_in(page.tags.valueof(_NDPI_SOURCE_LENS))
    if ome.pixel_size:
        claims.append(PixelSizeClaim(ome.pixel_size, "OME-XML's PhysicalSize"))
    if tif.is_imagej and (size := _imagej_size(tif.imagej_metadata or {}, page)):
        claims.append(PixelSizeClaim(size, "ImageJ's metadata"))
    elif size := _resolution(page):
        claims.append(PixelSizeClaim(size, "TIFF's XResolution and YResolution"))
    return choose_pixel_size(claims, power)


def _resolution(page: Any) -> PixelSize | None:
    """Pixel size from XResolution and YResolution."""
    stated = page.tags.valueof(296)  # tifffile's member for "no unit" is false; no tag at all means inches (TIFF 6.0)
    unit = _UM_PER_RESOLUTION_UNIT.get(2 if stated is None else int(stated))
    sides = [_ratio(page.tags.valueof(code)) for code in (283, 282)]
    if unit is None or not all(sides) or sides == [1.0, 1.0]:  # one pixel an inch: a writer's default
        return None
    return PixelSize(unit / sides[0], unit / sides[1])


def _imagej_size(metadata: dict[str, Any], page: Any) -> PixelSize | None:
    """ImageJ states pixels per `unit` in the resolution tags."""
    unit = MICROMETERS.get(str(metadata.get("unit", "")).lower())
    sides = [_ratio(page.tags.valueof(code)) for code in (283, 282)]
    return PixelSize(unit / sides[0], unit / sides[1]) if unit and all(sides) else None


def _ratio(value: object) -> float:
    """A TIFF rational as a number; 0 where it is absent or senseless."""
    if isinstance(value, tuple) and len(value) == 2 and value[1]:
        return float(value[0]) / float(value[1])
    return float(value) if isinstance(value, int | float) and value > 0 else 0.0


def _channels(page: Any, planes: int, geo: Geo, ome: OmePixels) -> tuple[tuple[str, ...], int | None]:
    """Names of all channels, and which of them is alpha.

    Later statements win: index, colour of the pixels, GDAL's colours (which also tell that an "alpha" is
    in truth near infrared), descriptions of bands, names in OME-XML.
    """
    samples = page.samplesperpixel
    extras = [int(extra) for extra in page.extrasamples[:samples]]
    names = [str(i) for i in range(planes * samples)]
    is_rgb = page.photometric == _RGB or (page.photometric == _YCBCR and page.compression in _BECOMES_RGB)
    alpha = None
    if planes == 1 and samples > 1:
        first = samples - len(extras)
        alpha = next((first + i for i, extra in enumerate(extras) if extra in _ALPHA_SAMPLES), None)
    if geo.colours:
        alpha = next((i for i, colour in geo.colours if colour == "alpha" and i < len(names)), None)
    elif planes == 1 and is_rgb and samples >= len(_COLOURS):
        names[:3] = _COLOURS
    for i, name in (*((i, c) for i, c in geo.colours if c not in _NO_COLOUR), *geo.bands):
        if i < len(names) and i != alpha:
            names[i] = name
    if sum(ome.samples) == len(names) and all(n == 1 for n in ome.samples):
        names = [stated or name for stated, name in zip(ome.channels, names, strict=True)]
    if alpha is not None:
        names[alpha] = "alpha"
    return distinct(names), alpha


def _page_notes(page: Any) -> tuple[str, ...]:
    notes = [note for code, note in _PHOTOMETRIC_NOTES.items() if page.photometric == code]
    if page.photometric == _YCBCR and page.compression not in _BECOMES_RGB:
        notes.append("pixels are YCbCr: values are as stored")
    orientation = page.tags.valueof(_ORIENTATION) or 1
    if orientation != 1:
        notes.append(f"the orientation tag is {int(orientation)}: pixels are as stored, neither turned nor flipped")
    return tuple(notes)


def _sidecars(path: str) -> tuple[str, ...]:
    """Files beside the image that other programs would read with it."""
    is_there = Path(f"{path}.aux.xml").exists()
    return (f"{Path(path).name}.aux.xml (GDAL's metadata) lies beside it and is not read",) if is_there else ()


def with_chatter(info: ImageInfo, said: Sequence[str]) -> ImageInfo:
    """The same with what tifffile complained about as further notes, each once."""
    return replace(info, notes=(*info.notes, *(f"tifffile: {line}" for line in dict.fromkeys(said))))
