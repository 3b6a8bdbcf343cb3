"""What GDAL says of a dataset beyond its pixels, in our words."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from gigatile.errors import ImageError
from gigatile.images.axes import require_numbers
from gigatile.images.channels import distinct
from gigatile.images.decode_units import is_reduction, make_level, refuse_giant
from gigatile.images.geotiff import read_nodata
from gigatile.images.info import ImageInfo, Level, Transform
from gigatile.units import PixelSize

_NO_COLOUR = ("gray", "grey", "undefined", "palette", "alpha")
_IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
"""GDAL's answer where there is no transform, north up or as VRTs write it."""
_METRES = {"metre": 1.0, "foot": 0.3048, "US survey foot": 1200 / 3937, "kilometre": 1000.0}

Overview = Callable[[int], AbstractContextManager[Any]]
"""Opens one of the overviews."""


CACHE_BYTES = 64 << 20
"""GDAL's own cache of blocks, one for the process; it would take 5 % of the machine."""


def describe(dataset: Any, path: str, overview: Overview) -> tuple[ImageInfo, int, tuple[int | None, ...]]:
    """Everything a dataset says of itself.

    Parameters
    ----------
    dataset : rasterio.DatasetReader
        Open.
    path : str
        How messages name it.
    overview : callable
        Opens an overview by its index.

    Returns
    -------
    info : ImageInfo
        With a channel ``mask`` behind the bands (`info.alpha`) where GDAL has one that is neither nodata nor a band.
    bands : int
        Channels that are bands.
    overviews : tuple
        For each level the index of the overview; None for level 0.

    Raises
    ------
    ImageError
        The dataset has several images, no band, complex numbers, or blocks that cannot be decoded in bounded memory.
    """
    _refuse_several(dataset, path)
    dtype, notes = _dtype(dataset, path)
    names, alpha, name_notes = _channels(dataset)
    nodata, is_uniform, nodata_notes = _nodata(dataset, dtype)
    bands = len(names)
    if alpha is None and _has_mask(dataset, is_uniform):
        alpha, names = bands, [*names, "mask"]
    levels, overviews, level_notes = _levels(dataset, path, len(names) * dtype.itemsize, overview)
    transform, size, crs, place_notes = _place(dataset)
    info = ImageInfo(
        path=path,
        format=str(dataset.driver).lower(),
        dtype=dtype,
        channels=distinct(names),
        levels=levels,
        pixel_size=size,
        pixel_size_from="the geotransform" if size else "",
        crs=crs,
        transform=transform,
        nodata=nodata,
        alpha=alpha,
        reader_bytes=CACHE_BYTES,
        shared_bytes=CACHE_BYTES,
        notes=(*notes, *name_notes, *nodata_notes, *level_notes, *place_notes, *_value_notes(dataset)),
    )
    return info, bands, overviews


def _refuse_several(dataset: Any, path: str) -> None:
    """A container with several images needs a choice; one with a single image is opened as such by GDAL."""
    if dataset.count:
        return
    names = list(dataset.subdatasets)
    shown = ", ".join(name.rpartition(":")[2].strip('/"') for name in names[:8])
    raise ImageError(
        path,
        expected="one image",
        found=f"{len(names)} ({shown}{', ...' if len(names) > 8 else ''})" if names else "none",
        fix=f"Name one by a VRT: `gdal_translate -of VRT '{names[0]}' one.vrt`." if names else "",
    )


def _dtype(dataset: Any, path: str) -> tuple[np.dtype[Any], tuple[str, ...]]:
    """One dtype that holds the values of all bands exactly."""
    kinds = list(dict.fromkeys(dataset.dtypes))
    if any("complex" in kind for kind in kinds):
        raise ImageError(path, expected="real numbers", found=f"bands of {', '.join(kinds)}", fix="Write magnitudes.")
    dtype = require_numbers(np.result_type(*kinds), path)
    return dtype, ((f"bands are {', '.join(kinds)}: read as {dtype}",) if len(kinds) > 1 else ())


def _channels(dataset: Any) -> tuple[list[str], int | None, tuple[str, ...]]:
    colours = [colour.name for colour in dataset.colorinterp]
    names = [str(i) if colour in _NO_COLOUR else colour for i, colour in enumerate(colours)]
    names = [text or name for text, name in zip(dataset.descriptions, names, strict=True)]
    alpha = colours.index("alpha") if "alpha" in colours and len(colours) > 1 else None
    if alpha is not None:
        names[alpha] = "alpha"
    palette = "palette" in colours
    return names, alpha, (("pixels are indices into a palette: values are as stored",) if palette else ())


def _nodata(dataset: Any, dtype: np.dtype[Any]) -> tuple[float | None, bool, tuple[str, ...]]:
    """nodata, whether it is that of all bands, and notes."""
    values = dataset.nodatavals
    if any(str(value) != str(values[0]) for value in values):
        stated = ", ".join("none" if value is None else f"{value:g}" for value in values)
        return None, False, (f"bands differ in nodata ({stated}): a pixel is valid where one of its bands is",)
    value, notes = read_nodata(None if values[0] is None else repr(float(values[0])), dtype)
    return value, True, tuple(note.replace("GDAL_NODATA", "nodata") for note in notes)


def _has_mask(dataset: Any, is_uniform: bool) -> bool:
    """Whether validity is known from a mask of the dataset or its bands, or from unlike nodata values."""
    flags = [{flag.name for flag in band} for band in dataset.mask_flag_enums]
    own = [not band & {"all_valid", "nodata", "alpha"} for band in flags]
    return any(own) or not is_uniform


def _levels(
    dataset: Any, path: str, pixel_bytes: int, overview: Overview
) -> tuple[tuple[Level, ...], tuple[int | None, ...], tuple[str, ...]]:
    full = dataset.shape
    refuse_giant(path, dataset.block_shapes[0], pixel_bytes)
    levels, places, notes = [make_level(full, full, dataset.block_shapes[0], pixel_bytes)], [None], []
    counts = {len(dataset.overviews(band)) for band in dataset.indexes}
    if len(counts) > 1:
        notes.append("bands differ in their overviews: those that all have count")
    indexes: list[int | None] = list(places)
    for index in range(min(counts)):
        with overview(index) as reduced:
            shape, block = reduced.shape, reduced.block_shapes[0]
        if is_reduction(full, shape) and is_reduction(levels[-1].shape, shape):
            refuse_giant(path, block, pixel_bytes)
            levels.append(make_level(shape, full, block, pixel_bytes))
            indexes.append(index)
        else:
            notes.append(f"an overview of {shape[0]} x {shape[1]} is not a level: no single factor leads to it")
    return tuple(levels), tuple(indexes), tuple(notes)


def _place(dataset: Any) -> tuple[Transform | None, PixelSize | None, str | None, tuple[str, ...]]:
    """Transform, pixel size, CRS, and notes; control points and RPCs are told, not applied."""
    notes = []
    points, points_crs = dataset.gcps
    if points:
        stated = f" in {crs_text(points_crs)}" if points_crs else ""
        notes.append(f"{len(points)} ground control points{stated}: told, not applied")
    if dataset.rpcs:
        notes.append("rational polynomial coefficients (RPC): told, not applied")
    affine = tuple(float(v) for v in tuple(dataset.transform)[:6])
    a, b, c, d, e, f = affine
    has_place = (a, b, c, d, abs(e), f) != _IDENTITY and a * e != b * d
    transform = (a, b, c, d, e, f) if has_place else None
    crs = crs_text(dataset.crs) if dataset.crs else None
    if transform is None:
        return None, None, crs, tuple(notes)
    if not dataset.crs:
        notes.append("there is a transform but no CRS, so the unit of its pixel size is unknown")
        return transform, None, None, tuple(notes)
    return transform, PixelSize(math.hypot(b, e), math.hypot(a, d), _unit(dataset.crs)), crs, tuple(notes)


def _unit(crs: Any) -> str:
    """The unit by its length, as its name has many spellings."""
    name, factor = crs.units_factor
    if crs.is_geographic:
        return "degree" if math.isclose(factor, math.pi / 180, rel_tol=1e-6) else str(name)
    return next((unit for unit, metres in _METRES.items() if math.isclose(factor, metres, rel_tol=1e-9)), str(name))


def crs_text(crs: Any) -> str:
    """``EPSG:n`` where the CRS is exactly that one, else WKT2.

    Parameters
    ----------
    crs : rasterio.crs.CRS
    """
    code = crs.to_epsg(confidence_threshold=100)
    return f"EPSG:{code}" if code else str(crs.to_wkt(version="WKT2_2019"))


def _value_notes(dataset: Any) -> tuple[str, ...]:
    if all(scale == 1 for scale in dataset.scales) and all(offset == 0 for offset in dataset.offsets):
        return ()
    return ("the bands have a scale and offset, which are not applied: pixels are as stored",)
