"""The mask or class map that is labelled: where it lies, which pixels are foreground, what it says of its place."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from gigatile.errors import ImageError, RunRefused, UsageError
from gigatile.images.image import Image
from gigatile.images.open import open_source
from gigatile.images.zarr_info import axis_names, multiscale
from gigatile.images.zarr_tree import open_tree
from gigatile.objects.connected import BAND_PX, Rule
from gigatile.outputs.omezarr import ResultMetadata
from gigatile.tiling.region import Region
from gigatile.units import PixelSize

Array = np.ndarray[Any, Any]
_ADVICE = (
    "Give a mask: a run with --output classes makes one; in Python, gigatile.label(array > 0.5, out) for a dask or "
    "numpy array."
)


@dataclass(frozen=True, slots=True)
class LabelInput:
    """One plane of values, read in windows."""

    image: Image
    about: ResultMetadata
    """What the labels say of their place, as the input does."""
    path: Path | None
    """Where it lies, if on this machine."""

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.image.levels[0].shape

    def read(self, region: Region, rule: Rule) -> Array:
        """The foreground of a window.

        Returns
        -------
        ndarray, shape (y, x), bool or integer
            With ``joined`` whether a pixel is foreground; else a number that is the same for equal values, 0 for
            background. Invalid pixels are background.

        Raises
        ------
        UsageError
            The values are no classes: fractions.
        BlockError
            The input cannot be read.
        """
        pixels = self.image.read(region, 0)[0]
        kind, is_mask = pixels.dtype.kind, rule.classes == "joined" or pixels.dtype.kind == "b"
        keys: Any = np.bool_ if is_mask else np.int64 if kind == "f" or pixels.dtype.itemsize > 2 else np.int32
        values = np.empty(pixels.shape, keys)
        step = max(1, BAND_PX // pixels.shape[1])
        for y0 in range(0, len(pixels), step):
            band = pixels[y0 : y0 + step]
            shown = self._foreground(band)
            if is_mask:
                values[y0 : y0 + step] = shown
            else:
                # Equal numbers have equal bits once -0.0 is none of them.
                same = (band.astype(np.float64) + 0.0).view(np.int64) if kind == "f" else band
                values[y0 : y0 + step] = np.where(shown, same, 0)
        return values

    def _foreground(self, band: Array) -> Array:
        shown = band != 0
        nodata = self.image.nodata
        if band.dtype.kind == "f":
            shown &= ~np.isnan(band)
            fractions = shown & (band != np.rint(band))
            if fractions.any():
                raise UsageError(
                    self.image.info.path,
                    expected="a mask or class map, whose values are whole numbers",
                    found=f"{float(band[fractions][0]):.6g}, as in a map of probabilities",
                    fix=_ADVICE,
                )
        if nodata is not None and not np.isnan(nodata):
            shown &= band != nodata
        return np.asarray(shown)


def open_input(target: str | Path | Any) -> LabelInput:
    """Open what is to be labelled.

    Parameters
    ----------
    target : str, Path, numpy or dask array, or Image
        A Zarr array or OME-Zarr image, of which level 0 is taken; a run directory; any other image of one channel; an
        array of two axes that are longer than 1, at most.

    Raises
    ------
    UsageError
        It has several channels, or says that it holds probabilities.
    RunRefused
        It is a result that is not complete.
    ImageError
        It cannot be opened.
    """
    path: Path | None = None
    group: Mapping[str, Any] = {}
    if isinstance(target, Image):
        image = target
    elif isinstance(target, str | Path):
        place = _result_in(str(target))
        image = Image(open_source(place))
        path = None if "://" in place else Path(place).absolute()
        group = _attributes(place) if image.info.format == "ome-zarr" else {}
    else:
        image = Image(open_source(_planar(target), "yx"))
    _refuse_other_values(image, group)
    return LabelInput(image, _about(image, group), path)


def _result_in(place: str) -> str:
    """The result, if this is the directory of a run."""
    if "://" in place and not place.startswith("file://"):
        return place
    folder = Path(place.removeprefix("file://"))
    inside = folder / "prediction.zarr"
    return str(inside if (folder / "run.json").is_file() and inside.is_dir() else folder)


def _planar(array: Any) -> Any:
    """Without axes of length 1, the first of which go first, until two are left."""
    known = isinstance(array, np.ndarray) or (
        "dask.array" in sys.modules and isinstance(array, sys.modules["dask.array"].Array)
    )
    if known:
        while array.ndim > 2 and 1 in array.shape:
            array = array.squeeze(axis=array.shape.index(1))
        if array.ndim != 2:
            raise ImageError(
                "<array>",
                expected="two axes, y and x, besides axes of length 1",
                found=f"shape {array.shape}",
                fix="Choose one plane.",
            )
    return array


def _attributes(place: str) -> Mapping[str, Any]:
    """Of the group that holds the image."""
    import zarr

    tree = open_tree(place)

    def read() -> Mapping[str, Any]:
        found: Mapping[str, Any] = zarr.open_group(tree.store(), mode="r").attrs.asdict()
        return found

    return tree.reading(read)


def _refuse_other_values(image: Image, group: Mapping[str, Any]) -> None:
    where = image.info.path
    ours = group.get("gigatile")
    described = multiscale(group, where)[0] or {}
    if isinstance(ours, Mapping) and ours.get("complete") is False:
        raise RunRefused(
            where,
            expected="a complete result",
            found="one with blocks that are missing or failed, which would cut objects",
            fix="Repeat the command of the run first; 'gigatile status' tells more.",
        )
    if len(image.info.channels) != 1:
        channels = len(image.info.channels)
        raise UsageError(where, expected="one plane: a mask or class map", found=f"{channels} channels", fix=_ADVICE)
    if isinstance(ours, Mapping) and described.get("type") == "mean":
        raise UsageError(where, expected="a mask or class map", found="probabilities or raw values", fix=_ADVICE)


def _about(image: Image, group: Mapping[str, Any]) -> ResultMetadata:
    """Pixel size and place of the input; without a known unit as NGFF's bare numbers."""
    about = ResultMetadata(
        "nearest", image.pixel_size, image.pixel_size, crs=image.crs, transform=image.transform, is_labels=True
    )
    described = multiscale(group, image.info.path)[0]
    names = None if described is None else axis_names(described)
    if described is None or names is None or not {"y", "x"} <= set(names):
        return about
    scale, offset = ([_last(described, kind, names.index(axis)) for axis in "yx"] for kind in ("scale", "translation"))
    if scale[0] is None or scale[1] is None:
        return about
    size = image.pixel_size or PixelSize(scale[0], scale[1], "")
    # A result's origin is the centre of its source's first pixel: half the difference of pixels is the translation.
    source = PixelSize(
        size.y - 2 * (offset[0] or 0.0) * size.y / scale[0],
        size.x - 2 * (offset[1] or 0.0) * size.x / scale[1],
        size.unit,
    )
    return replace(about, pixel_size=size, source_pixel_size=source)


def _last(described: Mapping[str, Any], kind: str, axis: int) -> float | None:
    """What the transformations of level 0 say of an axis; None where they do not."""
    found = None
    for step in described["datasets"][0].get("coordinateTransformations") or ():
        values = step.get(kind)
        if step.get("type") == kind and isinstance(values, list) and len(values) > axis:
            found = float(values[axis])
    return found
