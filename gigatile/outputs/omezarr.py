"""The metadata of ``prediction.zarr``: an OME-Zarr 0.5 image; for scenes also the spatial and proj
conventions.

::

    prediction.zarr/zarr.json     group: ome.multiscales, gigatile {complete, classes}, proj:code ...
                    0/zarr.json   array: layout, dimension names, spatial:transform of this level ...
                    0/c/...       shards
                    1/ ...        half as large
                    x, y, spatial_ref     of scenes, see `coordinates`

Nothing here depends on time, place or the order of work, and the JSON is canonical: the same result, the same
bytes.

Sources: NGFF 0.5 (https://ngff.openmicroscopy.org/0.5), zarr-conventions spatial, proj and multiscales at
v0.1 (https://github.com/zarr-conventions). Readers recognise a convention by its UUID.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from gigatile.errors import RunRefused, UsageError
from gigatile.images.info import Transform
from gigatile.outputs.coordinates import (
    coordinate_chunks,
    coordinate_documents,
    crs_attribute,
    has_crs_code,
    mapped_attributes,
)
from gigatile.outputs.layout import ArrayLayout
from gigatile.storage.store import Store
from gigatile.units import PixelSize

Downsampling = Literal["nearest", "mean"]
"""How a level follows from the one below: the upper left pixel of each 2 x 2, or the mean of its valid
pixels."""

_UNITS = {
    "um": "micrometer",
    "µm": "micrometer",
    "micrometre": "micrometer",
    "micrometer": "micrometer",
    "m": "meter",
    "metre": "meter",
    "meter": "meter",
    "kilometre": "kilometer",
    "kilometer": "kilometer",
    "foot": "foot",
    "degree": "degree",
}
"""Names of units to those of NGFF, where it has one; a US survey foot is not a foot."""

_CONVENTIONS = {
    "multiscales": ("d35379db-88df-4056-af3a-620245f8e347", "Multiscale layout of zarr datasets"),
    "proj": (
        "f17cb550-5864-4468-aeb7-f3180cfb622f",
        "Coordinate reference system information for geospatial data",
    ),
    "spatial": ("689b58e2-cf7b-45e0-9fff-9cfc0883d6b4", "Spatial coordinate information"),
}


@dataclass(frozen=True, slots=True)
class ResultMetadata:
    """What the result is, beyond its arrays."""

    downsampling: Downsampling
    """How its pyramid is made."""
    pixel_size: PixelSize | None = None
    """Size of a pixel of the result's level 0; without unit, in pixels of the source, where that is not known."""
    source_pixel_size: PixelSize | None = None
    """The same of the source's level 0, whose first pixel's centre is the origin; None: that of the result."""
    crs: str | None = None
    """``AUTHORITY:code`` or WKT2."""
    transform: Transform | None = None
    """Pixel corner of the result's level 0 to CRS coordinates."""
    class_names: tuple[str, ...] = ()
    """Name of each class or channel, in order."""
    class_colors: tuple[str, ...] = ()
    """``#rrggbb`` of each class or channel, in order."""
    is_labels: bool = False
    """Whether pixels hold the numbers of objects, 0 where there is none."""


def create_result(store: Store, layouts: tuple[ArrayLayout, ...], description: ResultMetadata) -> None:
    """Write the metadata of the group and of each level's array; no pixels.

    Doing it again writes the same bytes, or none; a result that `mark_complete` has marked stays so.

    Parameters
    ----------
    store : Store
        That of ``prediction.zarr``; need not be there yet.
    layouts : tuple of ArrayLayout
        The levels, finest first, as `pyramid_layouts` makes them.
    description : ResultMetadata
        What goes into the group's attributes.

    Raises
    ------
    RunRefused
        The store holds arrays that are cut differently.
    StorageError
        It cannot be written.
    """
    for level, layout in enumerate(layouts):
        key = f"{level}/zarr.json"
        existing = _read_intact(store, key)
        if existing is not None and {**existing, "attributes": {}} != layout.metadata():
            raise RunRefused(
                store.where(key),
                expected=f"an array of {layout.shape} px, {layout.dtype}, shards of {layout.shard} px",
                found="another one",
                fix="Give the options of the run that began this directory, or choose another.",
            )
    for level, layout in enumerate(layouts):
        document = {**layout.metadata(), "attributes": _level_attributes(level, layout, description)}
        store.write(f"{level}/zarr.json", canonical_json(document))
    for key, content in _coordinates(layouts[0], description):
        store.write(key, content)
    group: dict[str, Any] = {
        "zarr_format": 3,
        "node_type": "group",
        "attributes": _group_attributes(layouts, description),
    }
    group["attributes"]["gigatile"]["complete"] = is_complete(store)
    store.write("zarr.json", canonical_json(group))


def _coordinates(layout: ArrayLayout, description: ResultMetadata) -> Iterator[tuple[str, bytes]]:
    """The objects of the coordinates of level 0, by key; none without a transform."""
    transform = description.transform
    if transform is None:
        return
    unit = "" if description.pixel_size is None else description.pixel_size.unit
    yield from coordinate_chunks(layout.shape, transform)
    for key, document in coordinate_documents(layout.shape, transform, description.crs, unit):
        yield key, canonical_json(document)


def mark_complete(store: Store) -> None:
    """Record in the group's attributes that every shard of every level is there; the last write of a run.

    Raises
    ------
    UsageError
        `create_result` has not been here.
    """
    document = _read(store, "zarr.json")
    if document is None:
        raise UsageError(store.name, expected="the metadata of a result", found="none")
    document["attributes"]["gigatile"]["complete"] = True
    store.write("zarr.json", canonical_json(document))


def is_complete(store: Store) -> bool:
    """Whether `mark_complete` was reached."""
    document = _read_intact(store, "zarr.json")
    return document is not None and document["attributes"].get("gigatile", {}).get("complete") is True


def read_layouts(store: Store) -> tuple[ArrayLayout, ...]:
    """The levels of an existing result, finest first; empty if there is none.

    Raises
    ------
    UsageError
        An array there is not one that `create_result` wrote.
    """
    layouts: list[ArrayLayout] = []
    while (document := _read(store, f"{len(layouts)}/zarr.json")) is not None:
        layouts.append(ArrayLayout.from_metadata(document))
    return tuple(layouts)


def canonical_json(document: dict[str, Any]) -> bytes:
    """One text for one content: sorted keys, indent 2, no NaN, a final newline; UTF-8."""
    text = json.dumps(document, sort_keys=True, indent=2, allow_nan=False, ensure_ascii=False)
    return (text + "\n").encode()


def _read(store: Store, key: str) -> dict[str, Any] | None:
    content = store.read(key)
    if content is None:
        return None
    try:
        document = json.loads(content)
    except ValueError as error:
        raise UsageError(store.where(key), expected="Zarr metadata in JSON", found=str(error)) from error
    if not isinstance(document, dict) or not isinstance(document.get("attributes"), dict):
        raise UsageError(store.where(key), expected="Zarr v3 metadata with attributes", found="something else")
    return document


def _read_intact(store: Store, key: str) -> dict[str, Any] | None:
    """The document, or None where it is missing or damaged: what belongs there is known, and is written again."""
    try:
        return _read(store, key)
    except UsageError:
        return None


def _group_attributes(layouts: tuple[ArrayLayout, ...], description: ResultMetadata) -> dict[str, Any]:
    own: dict[str, Any] = {"complete": False}
    if description.class_names:
        own["class_names"] = list(description.class_names)
    if description.class_colors:
        own["class_colors"] = list(description.class_colors)
    # By which readers of NGFF tell numbers of objects from intensities.
    labels: dict[str, Any] = {"image-label": {}} if description.is_labels else {}
    return {
        "ome": {"version": "0.5", "multiscales": [_multiscale(layouts, description)], **labels},
        "gigatile": own,
        **_group_geography(layouts, description),
    }


def _multiscale(layouts: tuple[ArrayLayout, ...], description: ResultMetadata) -> dict[str, Any]:
    size = description.pixel_size or PixelSize(1.0, 1.0, "")
    source = description.source_pixel_size or size
    unit = _UNITS.get(size.unit.lower())
    space = {"type": "space"} if unit is None else {"type": "space", "unit": unit}
    planar = layouts[0].channels is None
    axes = [] if planar else [{"name": "c", "type": "channel"}]
    datasets = []
    for level in range(len(layouts)):
        pixel = size.scaled(2**level, 2**level)
        scale = [pixel.y, pixel.x]
        # NGFF counts from pixel centres: the centre of a coarse pixel lies beyond that of the source's first one.
        translation = [(pixel.y - source.y) / 2, (pixel.x - source.x) / 2]
        steps = [
            {"type": "scale", "scale": scale if planar else [1.0, *scale]},
            {"type": "translation", "translation": translation if planar else [0.0, *translation]},
        ]
        datasets.append({"path": str(level), "coordinateTransformations": steps})
    return {
        "axes": [*axes, {"name": "y", **space}, {"name": "x", **space}],
        "datasets": datasets,
        "type": description.downsampling,
    }


def _group_geography(layouts: tuple[ArrayLayout, ...], description: ResultMetadata) -> dict[str, Any]:
    """CRS for all levels and, by the multiscales convention, the transform of each (GDAL's overviews)."""
    if description.transform is None:
        return _projection(description, ())
    layout: list[dict[str, Any]] = []
    planar = layouts[0].channels is None
    for level, array in enumerate(layouts):
        item: dict[str, Any] = {
            "asset": str(level),
            "spatial:shape": list(array.shape),
            "spatial:transform": _scaled(description.transform, level),
        }
        if level:
            factors, zeros = [2.0, 2.0], [0.0, 0.0]
            item["derived_from"] = str(level - 1)
            item["transform"] = {
                "scale": factors if planar else [1.0, *factors],
                "translation": zeros if planar else [0.0, *zeros],
            }
        layout.append(item)
    average = "average" if description.downsampling == "mean" else description.downsampling
    return {
        **_projection(description, ("multiscales", "spatial")),
        "multiscales": {"layout": layout, "resampling_method": average},
        "spatial:bbox": _bbox(description.transform, layouts[0].shape),
        "spatial:dimensions": ["y", "x"],
    }


def _level_attributes(level: int, layout: ArrayLayout, description: ResultMetadata) -> dict[str, Any]:
    crs = crs_attribute(description.crs)
    if description.transform is None:
        return {**crs, **_projection(description, ())}
    transform = _scaled(description.transform, level)
    return {
        **crs,
        **(mapped_attributes(layout.fill) if level == 0 else {}),
        **_projection(description, ("spatial",)),
        "spatial:bbox": _bbox(transform, layout.shape),
        "spatial:dimensions": ["y", "x"],
        "spatial:registration": "pixel",
        "spatial:shape": list(layout.shape),
        "spatial:transform": transform,
        "spatial:transform_type": "affine",
    }


def _projection(description: ResultMetadata, conventions: tuple[str, ...]) -> dict[str, Any]:
    """The CRS, and the registration of proj and of the other conventions used beside it."""
    crs: dict[str, Any] = {}
    if description.crs is not None:
        crs["proj:code" if has_crs_code(description.crs) else "proj:wkt2"] = description.crs
        conventions = (*conventions, "proj")
    if not conventions:
        return {}
    return {**crs, "zarr_conventions": [_registration(name) for name in sorted(conventions)]}


def _registration(name: str) -> dict[str, str]:
    uuid, text = _CONVENTIONS[name]
    return {
        "name": name,
        "uuid": uuid,
        "description": text,
        "schema_url": f"https://raw.githubusercontent.com/zarr-conventions/{name}/refs/tags/v0.1/schema.json",
        "spec_url": f"https://github.com/zarr-conventions/{name}/blob/v0.1/README.md",
    }


def _scaled(transform: Transform, level: int) -> list[float]:
    """The transform of a level: pixels `2**level` times as large from the same outer corner."""
    a, b, c, d, e, f = transform
    factor = 2.0**level
    return [a * factor, b * factor, float(c), d * factor, e * factor, float(f)]


def _bbox(transform: list[float] | Transform, shape: tuple[int, int]) -> list[float]:
    """xmin, ymin, xmax, ymax of the corners of an array."""
    a, b, c, d, e, f = transform
    corners = [(col, row) for col in (0, shape[1]) for row in (0, shape[0])]
    xs = [a * col + b * row + c for col, row in corners]
    ys = [d * col + e * row + f for col, row in corners]
    return [min(xs), min(ys), max(xs), max(ys)]
