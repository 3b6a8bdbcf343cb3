"""Outlines with fewer vertices, whose neighbours still share their edges.

::

    ┌──┐                     ╱╲      edges between two shapes are simplified once, for both; points where more than
    │▓▓└──┐░░░             ╱▓▓▓▓╲░   two meet, the ground around them counted, stay where they are
    │▓▓▓▓▓└──┐░    ──▶    │▓▓▓▓▓▓▓╲

By ``shapely.coverage_simplify`` (GEOS 3.12: Visvalingam and Whyatt, "Line generalisation by repeated elimination of
points", 1993, where no edge may cross another). It must see all shapes that touch at once: a map simplified block by
block would show the blocks, and each shape alone would leave gaps and overlaps. So this is for sets that fit in memory.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gigatile.errors import UsageError
from gigatile.objects.corners import Ints
from gigatile.objects.outlines import Geometries, assembled

MOST_VERTICES = 10_000_000
"""Of all shapes together: 2 to 4 GB."""


def simplified(polygons: Geometries, tolerance: float) -> Geometries:
    """Outlines without details smaller than a tolerance; shapes that touched have the same edge again.

    Parameters
    ----------
    polygons : ndarray, shape (n,), shapely geometries
        Polygons and MultiPolygons along pixel edges, as `gigatile.objects.outlines` gives them; they do not overlap.
    tolerance : float
        Pixels, greater than 0: a vertex is left out while it spans a triangle of less than ``tolerance ** 2``
        pixels with its neighbours, the smallest first. In smooth and in noisy maps no edge moved by more than 3.4
        times as much, for tolerances from 1 to 5; nothing bounds it in general.

    Returns
    -------
    ndarray, shape (n,), shapely geometries
        Valid, as many parts and holes as before, no gaps and no overlaps that were not there; the outer corners of a
        map may be cut. Shells go counter-clockwise where x points right and y up.

    Raises
    ------
    UsageError
        The tolerance is not positive; or there are more than `MOST_VERTICES` vertices.

    Memory bound
    ------------
    200 to 400 bytes a vertex, of at most `MOST_VERTICES`.
    """
    import shapely

    check_tolerance(tolerance)
    check_vertices(int(shapely.get_num_coordinates(polygons).sum()))
    found: Geometries = shapely.orient_polygons(shapely.coverage_simplify(noded(polygons), tolerance))
    return found


def check_tolerance(tolerance: float) -> None:
    """Refuse a tolerance that is not positive."""
    if not 0 < tolerance < np.inf:
        raise UsageError("simplify", expected="a tolerance in pixels, greater than 0", found=str(tolerance))


def check_vertices(count: int) -> None:
    """Refuse more than `MOST_VERTICES`."""
    if count > MOST_VERTICES:
        raise UsageError(
            "simplify",
            expected=f"at most {MOST_VERTICES:,} vertices, since shapes that touch are simplified together",
            found=f"{count:,} or more",
            fix="Export without it, or fewer classes.",
        )


def noded(polygons: Geometries) -> Geometries:
    """The same shapes, each with a vertex wherever a vertex of any of them lies on its edges.

    Parameters
    ----------
    polygons : ndarray, shape (n,), shapely geometries
        Along pixel edges.
    """
    import shapely

    if not len(polygons):
        return polygons
    parts, of_part = shapely.get_parts(polygons, return_index=True)
    lines, of_line = shapely.get_rings(parts, return_index=True)
    places, of_vertex = shapely.get_coordinates(lines, return_index=True)
    grid = places.astype(np.int64)
    x, y = (grid - grid.min(axis=0)).T
    rows, cols = _between(y, x, of_vertex), _between(x, y, of_vertex)
    before = np.concatenate([np.arange(len(grid)), rows.edge, cols.edge])
    away = np.concatenate([np.zeros(len(grid), np.int64), rows.along, cols.along])
    order = np.lexsort((np.abs(away), before))
    before, away = before[order], away[order]
    by_column = np.append(x[1:] == x[:-1], False)[before]
    all_places = places[before]
    all_places[np.arange(len(before)), by_column.astype(np.int64)] += away
    rings = np.concatenate([[0], np.cumsum(np.bincount(of_vertex[before]))])
    starts = np.searchsorted(of_line, np.arange(len(parts) + 1))
    return assembled(all_places, (rings, starts), of_part)[1]


class _Inserted(NamedTuple):
    """Vertices that lie within edges."""

    edge: Ints
    """Index of the vertex at which the edge begins."""
    along: Ints
    """How far from it they lie, with the sign of the direction."""


def _between(line: Ints, place: Ints, ring: Ints) -> _Inserted:
    """For the edges along one axis, `place`, the vertices of all rings that lie on them, ends excluded."""
    span = int(place.max()) + 2
    known = np.unique(line * span + place)
    edges = np.flatnonzero((line[1:] == line[:-1]) & (place[1:] != place[:-1]) & (ring[1:] == ring[:-1]))
    ends = np.stack([place[edges], place[edges + 1]]) + line[edges] * span
    first, last = np.searchsorted(known, ends.min(axis=0), side="right"), np.searchsorted(known, ends.max(axis=0))
    count = last - first
    edge = np.repeat(edges, count)
    index = np.arange(len(edge)) + np.repeat(first - (np.cumsum(count) - count), count)
    return _Inserted(edge, known[index] - (line * span + place)[edge])
