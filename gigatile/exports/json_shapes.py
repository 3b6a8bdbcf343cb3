"""Outlines as JSON text, a batch at a time.

::

    shapes ──▶ x, y of all vertices ──▶ "x,y" ──joined──▶ rings ──joined──▶ parts ──joined──▶ one text a shape

Joined by Arrow: as Python lists, encoded by msgspec, 500,000 vertices took 2 s on a busy machine; like this, 0.5 s.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from gigatile.exports.object_table import Geometries

Ints = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True, slots=True)
class Outlines:
    """Polygons and multipolygons, taken apart."""

    places: np.ndarray[Any, Any]
    """x, y of each vertex, shape (vertices, 2); integers where all of them are whole."""
    rings: Ints
    """Where each ring begins among the vertices, and the end of the last; shape (rings + 1,)."""
    parts: Ints
    """Where each part begins among the rings, and the end of the last: its shell, then its holes."""
    shapes: Ints
    """Where each shape begins among the parts, and the end of the last."""

    @classmethod
    def of(cls, shapes: Geometries) -> Outlines:
        """Of shapes of shape (n,)."""
        import shapely

        parts, whose = shapely.get_parts(shapes, return_index=True)
        rings, of_part = shapely.get_rings(parts, return_index=True)
        places, of_ring = shapely.get_coordinates(rings, return_index=True)
        if (places == np.rint(places)).all():
            places = places.astype(np.int64)  # 12 instead of 12.0
        return cls(places, _ends(of_ring, len(rings)), _ends(of_part, len(parts)), _ends(whose, len(shapes)))

    def ring(self, number: int) -> np.ndarray[Any, Any]:
        """Vertices of a ring, the first again at the end; shape (k, 2)."""
        return self.places[self.rings[number] : self.rings[number + 1]]

    def rings_of(self, shape: int) -> range:
        """Numbers of the rings of a shape."""
        return range(int(self.parts[self.shapes[shape]]), int(self.parts[self.shapes[shape + 1]]))


def geojson_geometries(shapes: Geometries) -> list[bytes]:
    """The ``geometry`` member of each shape, as GeoJSON has it: a Polygon or a MultiPolygon.

    Parameters
    ----------
    shapes : ndarray of shapely geometries, shape (n,)
    """
    import shapely

    outlines = Outlines.of(shapes)
    rings = _wrapped("[[", _joined(_points(outlines.places), outlines.rings, "],["), "]]")
    parts = _wrapped("[", _joined(rings, outlines.parts, ","), "]")
    texts = _joined(parts, outlines.shapes, ",").to_pylist()
    single = (shapely.get_type_id(shapes) == int(shapely.GeometryType.POLYGON)).tolist()
    return [
        f'{{"type":"Polygon","coordinates":{text}}}'.encode()
        if alone
        else f'{{"type":"MultiPolygon","coordinates":[{text}]}}'.encode()
        for text, alone in zip(texts, single, strict=True)
    ]


def coco_polygons(outlines: Outlines) -> list[bytes]:
    """The rings of each shape as COCO has polygons: ``[[x, y, x, y, ...], ...]``, the first vertex not repeated."""
    kept = np.ones(len(outlines.places), bool)
    kept[outlines.rings[1:] - 1] = False
    starts = outlines.rings - np.arange(len(outlines.rings))
    rings = _wrapped("[", _joined(_points(outlines.places[kept]), starts, ","), "]")
    texts = _joined(rings, outlines.parts[outlines.shapes], ",").to_pylist()
    return [f"[{text}]".encode() for text in texts]


def _ends(owner: Any, count: int) -> Ints:
    """Where the members of each of `count` owners begin, from the owner of each member."""
    ends: Ints = np.concatenate(([0], np.cumsum(np.bincount(owner, minlength=count)[:count]))).astype(np.int64)
    return ends


def _points(places: np.ndarray[Any, Any]) -> Any:
    """``x,y`` of each vertex."""
    import pyarrow as pa
    import pyarrow.compute as pc

    x, y = (pa.array(np.ascontiguousarray(side)).cast(pa.large_string()) for side in places.T)
    return pc.binary_join_element_wise(x, y, pa.scalar(",", pa.large_string()))


def _joined(texts: Any, begins: Ints, between: str) -> Any:
    import pyarrow as pa
    import pyarrow.compute as pc

    lists = pa.LargeListArray.from_arrays(pa.array(begins), texts)
    return pc.binary_join(lists, pa.scalar(between, pa.large_string()))


def _wrapped(before: str, texts: Any, after: str) -> Any:
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = pa.large_string()
    return pc.binary_join_element_wise(pa.scalar(before, kind), texts, pa.scalar(after, kind), pa.scalar("", kind))
