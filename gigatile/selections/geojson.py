"""Polygons from GeoJSON (RFC 7946), in pixels of level 0.

For slides coordinates are pixels of level 0, as QuPath writes them. For scenes they are in the CRS that the file names
(the ``crs`` member of GeoJSON 2008), else in longitude and latitude on WGS 84, and become the scene's own by pyproj.
A straight edge in one CRS is a curve in another: long edges are cut before they are transformed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from gigatile.errors import ImageError, UsageError

if TYPE_CHECKING:
    from gigatile.images.image import Image

Floats = npt.NDArray[np.float64]
WGS84 = "OGC:CRS84"
LONGEST_DEGREES, LONGEST_UNITS = 0.01, 1000.0
"""Pieces that edges are cut into: about a kilometre, over which a line bends by less than 0.1 m."""
MOST_PIECES = 4096


def read_geojson(place: str | Path | Mapping[str, Any], image: Image, option: str) -> list[list[Floats]]:
    """The polygons of a file, or of GeoJSON as Python objects.

    Parameters
    ----------
    place : str, Path or mapping
    image : Image
        In whose pixels they are wanted.
    option : str
        How messages name it.

    Returns
    -------
    list of polygons, each a list of rings of shape (n, 2): x and y in pixels of level 0

    Raises
    ------
    ImageError
        The file is not there.
    UsageError
        It is no GeoJSON, holds something else than areas, or its CRS cannot be brought to the image's.
    """
    where = option if isinstance(place, Mapping) else f"{option} {place}"
    document = place if isinstance(place, Mapping) else _loaded(Path(place), where)
    try:
        polygons = [[_ring(ring, where) for ring in rings] for rings in _polygons(document, where)]
    except RecursionError as error:
        raise _too_deep(where) from error
    if not polygons:
        raise UsageError(where, expected="at least one polygon", found="none")
    if image.transform is None:
        if _named_crs(document, where) is not None:
            raise UsageError(
                where,
                expected="pixels of level 0, since the image has no coordinate reference system",
                found=f"coordinates in {_named_crs(document, where)}",
                fix="Write them in pixels, without `crs`.",
            )
        if image.crs is not None:
            raise UsageError(
                where,
                expected=f"an image with a transform, to bring polygons to its pixels beside its CRS {image.crs:.40}",
                found="none, as of images with control points only",
                fix="Give the region in pixels of level 0: --roi XMIN,YMIN,XMAX,YMAX, or a mask that is a raster.",
            )
        return polygons
    return _in_pixels(polygons, _named_crs(document, where) or WGS84, image, where)


def _loaded(path: Path, where: str) -> Mapping[str, Any]:
    if not path.exists():
        raise ImageError(where, expected="a GeoJSON file", found="nothing at that path")
    try:
        document = json.loads(path.read_bytes())
    except ValueError as error:
        raise UsageError(where, expected="GeoJSON", found=str(error)) from error
    except RecursionError as error:
        raise _too_deep(where) from error
    if isinstance(document, list):
        # QuPath writes lists of features, too.
        document = {"type": "FeatureCollection", "features": document}
    if not isinstance(document, dict):
        raise UsageError(where, expected="GeoJSON", found=type(document).__name__)
    return document


def _polygons(item: Any, where: str) -> Iterator[Any]:
    """Coordinates of every polygon, whatever it is wrapped in."""
    kind = item.get("type") if isinstance(item, Mapping) else None
    if kind == "FeatureCollection":
        for feature in _members(item, "features", where):
            yield from _polygons(feature, where)
    elif kind == "Feature":
        if item.get("geometry") is not None:
            yield from _polygons(item["geometry"], where)
    elif kind == "GeometryCollection":
        for geometry in _members(item, "geometries", where):
            yield from _polygons(geometry, where)
    elif kind == "MultiPolygon":
        for rings in _members(item, "coordinates", where):
            yield _list(rings, "coordinates", where)
    elif kind == "Polygon":
        yield _members(item, "coordinates", where)
    else:
        raise UsageError(
            where,
            expected="GeoJSON with Polygon and MultiPolygon only",
            found=str(kind or "something else"),
            fix="Points and lines have no area: leave them out, or buffer them.",
        )


def _members(item: Mapping[str, Any], key: str, where: str) -> Sequence[Any]:
    return _list(item.get(key) or [], key, where)


def _list(value: Any, key: str, where: str) -> Sequence[Any]:
    if not isinstance(value, list | tuple):
        raise UsageError(where, expected=f"a list as {key}", found=f"{value!r:.60}")
    return value


def _too_deep(where: str) -> UsageError:
    return UsageError(where, expected="GeoJSON", found="collections or lists in each other, a thousand deep")


def _ring(ring: Any, where: str) -> Floats:
    try:
        points = np.array([[position[0], position[1]] for position in ring], np.float64)
    except (TypeError, ValueError, IndexError, KeyError) as error:
        raise UsageError(where, expected="rings of positions [x, y]", found=f"{ring!r:.60}") from error
    if len(points) < 3 or not np.isfinite(points).all():
        raise UsageError(where, expected="rings of at least 3 positions that are numbers", found=f"{ring!r:.60}")
    return points


def _named_crs(document: Mapping[str, Any], where: str) -> str | None:
    crs = document.get("crs")
    if crs is None:
        return None
    try:
        return str(crs["properties"]["name"])
    except (TypeError, KeyError) as error:
        raise UsageError(where, expected="a crs with a name, or none", found=repr(crs)) from error


def _in_pixels(polygons: list[list[Floats]], crs: str, image: Image, where: str) -> list[list[Floats]]:
    """From a CRS to pixels of level 0 of a georeferenced image."""
    transform, target = image.transform, image.crs
    assert transform is not None
    if target is None:
        raise UsageError(
            where,
            expected="an image that names its coordinate reference system",
            found="none",
            fix="Give the region in pixels of level 0: --roi XMIN,YMIN,XMAX,YMAX.",
        )
    project, degrees = _projection(crs, target, where)
    a, b, c, d, e, f = transform
    inverse = np.linalg.inv(np.array([[a, b], [d, e]]))

    def pixels(ring: Floats) -> Floats:
        if project is not None:
            if degrees and _goes_round(ring):
                raise UsageError(
                    where,
                    expected="edges of less than half of the globe",
                    found="one that crosses the 180th meridian the long way round",
                    fix="Cut the polygon there (RFC 7946, section 3.1.9), or count longitudes beyond 180.",
                )
            x, y = project.transform(*_cut(ring, LONGEST_DEGREES if degrees else LONGEST_UNITS).T)
            ring = np.stack([x, y], axis=1)
        if not np.isfinite(ring).all():
            raise UsageError(where, expected=f"places that exist in {target}", found="some that do not")
        return np.asarray((ring - [c, f]) @ inverse.T)

    return [[pixels(ring) for ring in rings] for rings in polygons]


def _projection(crs: str, target: str, where: str) -> tuple[Any, bool]:
    """A pyproj transformer, or None between equal CRSs, and whether the first counts degrees."""
    try:
        from pyproj import CRS, Transformer
        from pyproj.exceptions import CRSError
    except ImportError as error:
        raise UsageError(
            where,
            expected="pyproj, to bring its coordinates to those of the image",
            found="not installed",
            fix="Type: pip install 'gigatile[geo]'.",
        ) from error
    try:
        source, wanted = CRS.from_user_input(crs), CRS.from_user_input(target)
    except CRSError as error:
        raise UsageError(where, expected="a coordinate reference system that PROJ knows", found=str(error)) from error
    if source.equals(wanted, ignore_axis_order=True):
        return None, False
    # GeoJSON is x (longitude) first, whatever the CRS says of its axes.
    return Transformer.from_crs(source, wanted, always_xy=True), source.is_geographic


def _goes_round(ring: Floats) -> bool:
    """Whether an edge spans more than 180 degrees of longitude, other than all of them."""
    ends = ring[:, 0], np.roll(ring[:, 0], -1)
    whole = (np.abs(ends[0]) >= 180) & (np.abs(ends[1]) >= 180)
    return bool(((np.abs(ends[0] - ends[1]) > 180) & ~whole).any())


def _cut(ring: Floats, longest: float) -> Floats:
    """The ring with points added, so that no edge is longer."""
    following = np.roll(ring, -1, axis=0)
    length = np.abs(following - ring).max(axis=1)
    pieces = np.clip(np.ceil(length / longest), 1, MOST_PIECES).astype(int)
    edge = np.repeat(np.arange(len(ring)), pieces)
    share = (np.arange(pieces.sum()) - np.repeat(np.cumsum(pieces) - pieces, pieces)) / pieces[edge]
    return np.asarray(ring[edge] + share[:, None] * (following - ring)[edge])
