"""A finished result as exports see it: its levels, and what is known of its place, its values and its classes."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from typing import Any, Literal, cast

from gigatile.errors import RunRefused
from gigatile.images.info import Transform
from gigatile.outputs.layout import ArrayLayout
from gigatile.outputs.omezarr import is_complete, read_layouts
from gigatile.outputs.rule import Output
from gigatile.runs.directory import RunDirectory
from gigatile.runs.status import existing_run
from gigatile.storage.store import Store
from gigatile.units import PixelSize

Colour = tuple[int, int, int]
"""Red, green and blue, 0-255."""
_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 cannot say (section 2.2, Char): one such character in a name would make a whole OME-TIFF unreadable."""
_SHORT_UNITS = {"micrometer": "um", "meter": "m", "kilometer": "km", "foot": "ft", "degree": "degree"}


@dataclass(frozen=True, slots=True)
class Result:
    """The prediction of one complete run."""

    store: Store
    """That of ``prediction.zarr``."""
    layouts: tuple[ArrayLayout, ...]
    """Its levels, finest first, each half as large as the one before."""
    output: Output | Literal["labels"]
    """What the values mean; labels are the numbers of objects."""
    multiscale: Mapping[str, Any]
    """NGFF metadata of the levels."""
    pixel_size: PixelSize | None
    """Of level 0, in um, m, km, ft or degree; None where it is not known."""
    crs: str | None
    """``AUTHORITY:code`` or WKT2."""
    transform: Transform | None
    """Pixel corner of level 0 to CRS coordinates."""
    class_names: tuple[str, ...]
    """Name of each class or channel, in order."""
    class_colors: tuple[Colour, ...]
    """Colour of each class or channel, in order."""

    @classmethod
    def of(cls, directory: str | PathLike[str]) -> Result:
        """The result in a run directory; a path, or the URL of one in a bucket.

        Raises
        ------
        RunRefused
            There is no run in it, or it is not complete: an export would have holes that nobody sees.
        StorageError
            It cannot be read.
        """
        run = RunDirectory.at(directory, durable=False)
        document = complete_document(run)
        if document["plan"].get("task") == "detect":
            raise RunRefused(
                run.name,
                expected="a result with pixels",
                found="detections, which are rows of a table",
                fix="Choose --to geojson, geoparquet, flatgeobuf, csv or coco.",
            )
        if not is_complete(run.prediction):
            raise _incomplete(run)
        group = _attributes(run.prediction, "zarr.json")
        level = _attributes(run.prediction, "0/zarr.json")
        own = group["gigatile"]
        transform = level.get("spatial:transform")
        multiscale = group["ome"]["multiscales"][0]
        return cls(
            store=run.prediction,
            layouts=read_layouts(run.prediction),
            output=document["plan"].get("output", "labels"),
            multiscale=multiscale,
            pixel_size=_pixel_size(multiscale),
            crs=level.get("proj:code") or level.get("proj:wkt2"),
            transform=None if transform is None else cast(Transform, tuple(transform)),
            class_names=tuple(_NO_XML.sub("\ufffd", name) for name in own.get("class_names", ())),
            class_colors=tuple(_colour(text) for text in own.get("class_colors", ())),
        )

    @property
    def channels(self) -> int:
        """Planes of the result; 1 for a class map."""
        return self.layouts[0].channels or 1

    @property
    def classes(self) -> tuple[str, ...]:
        """Name of each class of a class map, in order; empty where there are none."""
        return self.class_names if self.output == "classes" else ()

    @property
    def palette(self) -> tuple[Colour, ...]:
        """Colour of each class of a class map, in order; empty where there are none."""
        return self.class_colors if self.output == "classes" else ()

    @property
    def channel_names(self) -> tuple[str, ...]:
        """Name of each plane: of the class it is about, where that is known."""
        if self.output in ("classes", "labels"):
            return ("class" if self.output == "classes" else "object",)
        if len(self.class_names) == self.channels:
            return self.class_names
        return tuple(f"channel {channel}" for channel in range(self.channels))

    @property
    def channel_colors(self) -> tuple[Colour, ...]:
        """Colour of each plane; empty where that is not known."""
        known = self.output != "classes" and len(self.class_colors) == self.channels
        return self.class_colors if known else ()


def complete_document(run: RunDirectory) -> dict[str, Any]:
    """The ``run.json`` of a complete run.

    Raises
    ------
    RunRefused
        There is no run, or it is not complete: an export would have holes that nobody sees.
    """
    document = existing_run(run)
    if not document["complete"]:
        raise _incomplete(run)
    return document


def _incomplete(run: RunDirectory) -> RunRefused:
    return RunRefused(
        run.name,
        expected="a complete run",
        found="blocks that are missing or failed",
        fix="Repeat the command of the run (failed blocks: with --retry-failed); 'gigatile status' tells more.",
    )


def _attributes(store: Store, key: str) -> dict[str, Any]:
    content = store.read(key)
    if content is None:
        raise RunRefused(store.where(key), expected="the metadata of a result", found="nothing")
    return dict(json.loads(content)["attributes"])


def _pixel_size(multiscale: Mapping[str, Any]) -> PixelSize | None:
    """From the scale of level 0; without a unit it counts pixels of the source."""
    unit = _SHORT_UNITS.get(multiscale["axes"][-1].get("unit", ""))
    y, x = multiscale["datasets"][0]["coordinateTransformations"][0]["scale"][-2:]
    return None if unit is None else PixelSize(y, x, unit)


def _colour(text: str) -> Colour:
    """``#rrggbb``."""
    red, green, blue = bytes.fromhex(text.removeprefix("#"))
    return red, green, blue
