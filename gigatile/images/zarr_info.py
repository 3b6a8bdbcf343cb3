"""What the attributes of a Zarr hierarchy say: OME-Zarr 0.4 and 0.5, and the spatial and proj conventions.

Sources: NGFF 0.4 and 0.5 (ngff.openmicroscopy.org), zarr-conventions spatial and proj v0.1
(github.com/zarr-conventions).
"""

from __future__ import annotations

import base64
import binascii
import struct
from collections.abc import Mapping, Sequence
from math import hypot
from typing import Any

from gigatile.errors import ImageError
from gigatile.images.info import Transform
from gigatile.images.ome import MICROMETERS
from gigatile.units import PixelSize

Attributes = Mapping[str, Any]
_CRS_UNITS = {
    "meter": "metre",
    "metre": "metre",
    "kilometer": "kilometre",
    "foot": "foot",
    "degree": "degree",
}
"""NGFF's names of units, as CRSs call them."""


def multiscale(attributes: Attributes, where: str) -> tuple[Mapping[str, Any] | None, tuple[str, ...]]:
    """The first multiscale image of a group, or None; and notes.

    Raises
    ------
    ImageError
        The group is a plate or a well: many images.
    """
    ome = attributes.get("ome")
    ome = ome if isinstance(ome, Mapping) else attributes
    for kind in ("plate", "well"):
        if kind in ome:
            raise ImageError(
                where,
                expected="one image",
                found=f"an OME-Zarr {kind} of several",
                fix="Give the path of one of them, for instance plate.zarr/A/1/0.",
            )
    found = ome.get("multiscales")
    if not isinstance(found, Sequence) or not found or not found[0].get("datasets"):
        return None, ()
    for dataset in found[0]["datasets"]:
        _refuse_escape(dataset["path"], where)
    notes = (f"{len(found) - 1} further multiscale images are left aside",) if len(found) > 1 else ()
    return found[0], notes


def _refuse_escape(path: object, where: str) -> None:
    """Refuse a dataset that lies elsewhere than in the group that names it."""
    parts = path.split("/") if isinstance(path, str) else [".."]
    if ".." in parts or "." in parts or parts[0] == "" or "\\" in str(path) or ":" in parts[0]:
        raise ImageError(
            where,
            expected="datasets inside of the image",
            found=f"the path {path!r}",
            fix="Write the OME-Zarr metadata again, with paths relative to the group.",
        )


def axis_names(image: Mapping[str, Any]) -> list[str] | None:
    """Names of the axes; None where the metadata are older than 0.3."""
    axes = image.get("axes")
    if not axes:
        return None
    return [axis["name"] if isinstance(axis, Mapping) else str(axis) for axis in axes]


def channel_names(attributes: Attributes, count: int) -> tuple[str, ...]:
    """Labels from `omero`, or the classes of a result of ours, where there are as many as channels."""
    ome = attributes.get("ome")
    omero = (ome if isinstance(ome, Mapping) else attributes).get("omero") or {}
    labels = [channel.get("label") for channel in omero.get("channels", ())]
    classes = (attributes.get("gigatile") or {}).get("class_names", ())
    for names in (labels, classes):
        if len(names) == count and all(name is not None for name in names):
            texts = [str(name) for name in names]
            return tuple(f"{t} {i}" if texts.count(t) > 1 else t for i, t in enumerate(texts))
    return tuple(str(i) for i in range(count))


def ngff_pixel_size(
    image: Mapping[str, Any], names: Sequence[str], is_scene: object
) -> tuple[PixelSize | None, tuple[str, ...]]:
    """Pixel size of level 0 in micrometres (in the CRS's unit for scenes), and notes."""
    scales = [1.0] * len(names)
    for step in (
        *(image["datasets"][0].get("coordinateTransformations") or ()),
        *(image.get("coordinateTransformations") or ()),
    ):
        if step.get("type") == "scale" and len(step.get("scale", ())) == len(names):
            scales = [a * float(b) for a, b in zip(scales, step["scale"], strict=True)]
    units = dict(zip(names, (axis_unit(axis) for axis in image.get("axes", ())), strict=False))
    unit_y, unit_x = units.get("y", ""), units.get("x", "")
    y, x = (scales[list(names).index(name)] for name in "yx")
    if is_scene:  # the transform says where it begins
        same = unit_y == unit_x and unit_y in _CRS_UNITS
        return (PixelSize(abs(y), abs(x), _CRS_UNITS[unit_x]) if same else None), ()
    if unit_y not in MICROMETERS or unit_x not in MICROMETERS:
        what = f"the unit {unit_x!r}, which is no length" if unit_x else "no unit"
        return None, (f"the axes have {what}: no pixel size",)
    size = PixelSize(y * MICROMETERS[unit_y], x * MICROMETERS[unit_x])
    if not min(size.y, size.x) > 0:
        return None, ("the scale is not positive: no pixel size",)
    return size, _origin_notes(image, names)


def _origin_notes(image: Mapping[str, Any], names: Sequence[str]) -> tuple[str, ...]:
    """That an image begins elsewhere than at 0, which results do."""
    steps = (image["datasets"][0].get("coordinateTransformations") or (), image.get("coordinateTransformations") or ())
    moved = [
        step["translation"]
        for step in (*steps[0], *steps[1])
        if step.get("type") == "translation" and len(step.get("translation", ())) == len(names)
    ]
    moved = [[float(move[list(names).index(name)]) for name in "yx"] for move in moved]
    if not any(any(move) for move in moved):
        return ()
    where = "; ".join(f"y {y:g}, x {x:g}" for y, x in moved)
    return (f"its translation ({where}) is left aside: results are placed from the corner of its first pixel",)


def axis_unit(axis: object) -> str:
    """Unit of an axis, in small letters; empty where it has none."""
    return str(axis.get("unit") or "").lower() if isinstance(axis, Mapping) else ""


def crs_of(*attributes: Attributes) -> str | None:
    """CRS by the proj convention, from the first that states one."""
    for found in attributes:
        if value := found.get("proj:code") or found.get("proj:wkt2"):
            return str(value)
    return None


def transform_of(*attributes: Attributes) -> tuple[Transform | None, tuple[str, ...]]:
    """Pixel corner to CRS by the spatial convention, from the first that states one; and notes."""
    for found in attributes:
        values = found.get("spatial:transform")
        if values is None:
            continue
        kind = found.get("spatial:transform_type", "affine")
        if kind != "affine" or not isinstance(values, Sequence) or len(values) != 6:
            return None, (f"spatial:transform of type {kind!r} is not an affine one: left aside",)
        a, b, c, d, e, f = (float(v) for v in values)
        if found.get("spatial:registration", "pixel") == "node":  # places the centre of a pixel
            c, f = c - (a + b) / 2, f - (d + e) / 2
        return (a, b, c, d, e, f), ()
    return None, ()


def transform_pixel_size(transform: Transform, unit: str) -> PixelSize:
    """Lengths of a pixel's sides in the unit of the CRS."""
    a, b, _, d, e, _ = transform
    return PixelSize(hypot(b, e), hypot(a, d), unit)


def nodata_of(fill_value: Any, group: Attributes, array: Attributes) -> float | None:
    """The value that means "no pixel", where an attribute says that there is one.

    The fill value alone says only what chunks hold that were never written; in a result of ours it is
    what invalid pixels are.
    """
    if isinstance(group.get("gigatile"), Mapping) and fill_value is not None:
        return float(fill_value)
    for key in ("_FillValue", "missing_value", "nodata"):
        value = array.get(key, group.get(key))
        if isinstance(value, int | float):
            return float(value)
        if isinstance(value, str):
            return _float_of(value)
    return None


def _float_of(text: str) -> float | None:
    """A number as text, or as xarray stores it for Zarr v3: base64 of a little-endian double."""
    try:
        return float(text)
    except ValueError:
        pass
    try:
        return float(struct.unpack("<d", base64.standard_b64decode(text))[0])
    except (binascii.Error, struct.error):
        return None
