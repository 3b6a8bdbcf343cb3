"""What a table of objects says of itself: its columns, and the metadata that stand with them.

::

    id class class_name score │ xmin ymin xmax ymax │ measurements ... │ geometry           │ bbox
    uint64 ... float32        │ float64, level-0 px │ float64          │ WKB, level-0 px or │ struct of the
                              │                     │                  │ CRS coordinates    │ geometry's bounds

    metadata   "geo"        GeoParquet 1.1.0: encoding, types, CRS, bounds, which column covers which
               "gigatile"   task, counts, names and colours of classes, size and place of the image

Source: https://geoparquet.org/releases/v1.1.0.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, cast

from gigatile.errors import UsageError
from gigatile.images.info import Transform
from gigatile.units import PixelSize

OBJECTS = "objects.parquet"
"""Name of the table in a run directory."""
GEO, OWN = b"geo", b"gigatile"
"""Keys of the metadata."""
BOX = ("xmin", "ymin", "xmax", "ymax")
ORIENTED = ("cx", "cy", "width", "height", "angle")
"""Columns of oriented boxes: level-0 pixels, and radians that turn x towards y."""

Task = Literal["segment", "detect", "instances"]


@dataclass(frozen=True, slots=True)
class ObjectsMetadata:
    """What is known of all objects of a table."""

    task: Task
    """What found them; `segment` for the polygons of a class map."""
    shape: tuple[int, int]
    """Height and width of the image's level 0 in pixels."""
    class_names: tuple[str, ...] = ()
    """Name of each class, from class 0 on."""
    class_colors: tuple[str, ...] = ()
    """``#rrggbb`` of each class, from class 0 on."""
    pixel_size: PixelSize | None = None
    """Of level 0."""
    crs: str | None = None
    """``AUTHORITY:code`` or WKT2 of the geometry; None: it counts level-0 pixels, or is in a CRS nobody knows."""
    transform: Transform | None = None
    """Pixel corner of level 0 to coordinates of the geometry; None: they are level-0 pixels."""

    def __post_init__(self) -> None:
        if self.crs is not None and self.transform is None:
            raise UsageError("objects", expected="a transform with the CRS", found=f"the CRS {self.crs[:40]} alone")

    def name_of(self, number: int) -> str | None:
        """Name of a class, where it has one."""
        return self.class_names[number] if 0 <= number < len(self.class_names) else None

    def to_json(self) -> dict[str, Any]:
        """As it stands in the file, counts excluded."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> ObjectsMetadata:
        """The inverse of `to_json`; other keys are left alone."""
        size, transform = document["pixel_size"], document["transform"]
        return cls(
            task=document["task"],
            shape=(document["shape"][0], document["shape"][1]),
            class_names=tuple(document["class_names"]),
            class_colors=tuple(document["class_colors"]),
            pixel_size=None if size is None else PixelSize(**size),
            crs=document["crs"],
            transform=None if transform is None else cast(Transform, tuple(transform)),
        )


@dataclass(frozen=True, slots=True)
class Counts:
    """How many objects a table has."""

    total: int
    per_class: Mapping[str, int]
    """By name, or by number for classes without one; in order of the numbers."""
    oversized: int = 0
    """Objects that were larger than what a tile sees, so that they may be cut."""

    def to_json(self) -> dict[str, Any]:
        """As ``gigatile status`` and ``run.json`` give it."""
        return {"total": self.total, "per_class": dict(self.per_class), "oversized": self.oversized}


def measurement_columns(channels: Sequence[str]) -> tuple[str, ...]:
    """Columns of measured instances: area and centroid in level-0 pixels, then mean and standard deviation of the
    stored values of each channel; one that the model sees several times (``--channels 0,0,0``) is measured once."""
    each = (f"{what}_{channel}" for channel in dict.fromkeys(channels) for what in ("mean", "std"))
    return ("area", "centroid_x", "centroid_y", *each)


def objects_schema(more: Sequence[str] = ()) -> Any:
    """The columns of a table of objects, in order.

    Parameters
    ----------
    more : sequence of str
        Names of float64 columns between the box and the geometry: `ORIENTED`, `measurement_columns`, or none.

    Returns
    -------
    pyarrow.Schema
        Without metadata.
    """
    pa = arrow()
    bounds = pa.struct([pa.field(name, pa.float64(), nullable=False) for name in BOX])
    return pa.schema(
        [
            pa.field("id", pa.uint64(), nullable=False),
            pa.field("class", pa.int32(), nullable=False),
            pa.field("class_name", pa.string()),
            pa.field("score", pa.float32()),
            *(pa.field(name, pa.float64(), nullable=False) for name in BOX),
            *(pa.field(name, pa.float64()) for name in more),
            pa.field("geometry", pa.binary(), nullable=False),
            pa.field("bbox", bounds, nullable=False),
        ]
    )


def extra_columns(schema: Any) -> tuple[str, ...]:
    """Names of the columns between the box and the geometry of a table with a schema of `objects_schema`."""
    fixed = {"id", "class", "class_name", "score", *BOX, "geometry", "bbox"}
    return tuple(name for name in schema.names if name not in fixed)


def geo_metadata(types: Sequence[str], bounds: Sequence[float] | None, crs: Mapping[str, Any] | None) -> dict[str, Any]:
    """GeoParquet's metadata.

    Parameters
    ----------
    types : sequence of str
        Kinds of geometry in the table.
    bounds : sequence of float or None
        xmin, ymin, xmax, ymax of all; None for an empty table.
    crs : mapping or None
        PROJJSON; None: no CRS (an absent one would be WGS 84).
    """
    column: dict[str, Any] = {
        "encoding": "WKB",
        "geometry_types": list(types),
        "crs": crs,
        "edges": "planar",
        "covering": {"bbox": {name: ["bbox", name] for name in BOX}},
    }
    if bounds is not None:
        column["bbox"] = list(bounds)
    return {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}


def projjson(crs: str | None) -> dict[str, Any] | None:
    """A CRS as GeoParquet wants it; None stays None. To be asked for while planning: it tells what is missing.

    Parameters
    ----------
    crs : str or None
        ``AUTHORITY:code`` or WKT2.

    Raises
    ------
    UsageError
        pyproj is not installed, or does not know the CRS.
    """
    if crs is None:
        return None
    try:
        import pyproj
        import pyproj.exceptions
    except ImportError as error:
        raise UsageError(
            "objects",
            expected="the optional package pyproj, which describes the CRS of the image",
            found=str(error),
            fix="Type: pip install 'gigatile[geo]'",
        ) from error
    try:
        document: dict[str, Any] = pyproj.CRS.from_user_input(crs).to_json_dict()
    except pyproj.exceptions.CRSError as error:
        raise UsageError("objects", expected="a CRS that PROJ knows", found=crs[:80]) from error
    return document


def stored_metadata(schema: Any) -> tuple[ObjectsMetadata, Counts, tuple[str, ...]] | None:
    """Metadata, counts and kinds of geometry of a table that was read; None where it is not one of ours."""
    stored = schema.metadata or {}
    if GEO not in stored or OWN not in stored:
        return None
    own, geo = json.loads(stored[OWN]), json.loads(stored[GEO])
    counts = Counts(own["total"], own["per_class"], own["oversized"])
    return ObjectsMetadata.from_json(own), counts, tuple(geo["columns"]["geometry"]["geometry_types"])


def arrow() -> Any:
    """The package pyarrow.

    Raises
    ------
    UsageError
        It is not installed.
    """
    try:
        import pyarrow
    except ImportError as error:
        raise UsageError(
            "objects",
            expected="the optional package pyarrow, which reads and writes tables",
            found=str(error),
            fix="Type: pip install 'gigatile[objects]'",
        ) from error
    return pyarrow
