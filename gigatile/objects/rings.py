"""From corners to rings, and from rings to polygons.

::

    +──▶──-      each ring leaves its +1 corners along a row and its -1 corners along a column,
    ▲▓▓▓▓▓│      with the shape on its left where x points right and y up (on a screen, y down: on its right).
    │▓▓▓▓▓▼      Corners of a shape in order of y, x are pairwise the ends of its edges along rows,
    -──◀──+      those in order of x, y of its edges along columns.

At a vertex of charge 2 or -2 two pixels touch at a corner only. Both rings first hug their pixel there. Where one ring
then passes twice, it encloses a hole that touches it: the two passes change successors, and the ring becomes two. The
passes of a ring over its own vertices do not cross, so all are changed at once, and then no ring touches itself.

Memory bound
------------
About 200 bytes a corner.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gigatile.objects.corners import Corners, Ints

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Rings:
    """Rings in order of shape and first vertex, which is the topmost, and of those the leftmost.

    Shells go counter-clockwise where x points right and y up, holes the other way round; no vertex lies within a
    straight line.
    """

    ids: Ints
    """Shape (r,): whose ring it is."""
    hole: Flags
    """Shape (r,): whether it is a hole."""
    offsets: Ints
    """Shape (r + 1,): where its vertices begin."""
    y: Ints
    """Shape (v,): of the vertices; the first is not repeated at the end."""
    x: Ints
    """Shape (v,)."""


def rings(corners: Corners) -> Rings:
    """The rings of shapes, each of which neither crosses nor touches itself."""
    ids, y, x, sign = _single(corners)
    count = len(ids)
    if not count:
        none = np.empty(0, np.int64)
        return Rings(none, none.astype(bool), np.zeros(1, np.int64), none, none)
    column = _column_partner(ids, y, x, sign)
    # Only the +1 corners are followed: every other corner of a ring is one, and its row partner comes next.
    plus = np.flatnonzero(sign > 0)
    rank = np.empty(count, np.int32)
    rank[plus] = np.arange(len(plus), dtype=np.int32)
    following = rank[column[plus ^ 1]]
    ring = _components(following)
    twice = np.flatnonzero((ids[1:] == ids[:-1]) & (y[1:] == y[:-1]) & (x[1:] == x[:-1]))
    if len(twice):
        own = rank[np.where(sign > 0, np.arange(count), column)]
        twice = twice[ring[own[twice]] == ring[own[twice + 1]]]
    if len(twice):
        other = np.arange(count)
        other[twice], other[twice + 1] = twice + 1, twice
        following = rank[other[column[other[plus ^ 1]]]]
        ring = _components(following)
    return _laid_out((ids, y, x), plus, following, ring)


def _single(corners: Corners) -> tuple[Ints, Ints, Ints, npt.NDArray[np.int8]]:
    """Corners of charge 1 and -1: those of 2 and -2 are two, one after the other."""
    times = np.abs(corners.charge)
    if (times == 1).all():
        return corners.ids, corners.y, corners.x, corners.charge
    each = np.repeat(np.arange(len(times)), times)
    return corners.ids[each], corners.y[each], corners.x[each], np.sign(corners.charge[each])


def _column_partner(ids: Ints, y: Ints, x: Ints, sign: npt.NDArray[np.int8]) -> Ints:
    """Shape (n,): the corner at the other end of the edge along the column."""
    # Of two at one vertex the first has its row edge to the west. It hugs the pixel in the north-west where the charge
    # is 2, so its column edge goes north; and the one in the south-west where it is -2: there the second comes first.
    index = np.arange(len(ids))
    first = np.flatnonzero((ids[1:] == ids[:-1]) & (y[1:] == y[:-1]) & (x[1:] == x[:-1]) & (sign[1:] < 0))
    index[first], index[first + 1] = first + 1, first
    shape = np.cumsum(np.concatenate([[0], ids[1:] != ids[:-1]]))
    order = index[np.argsort(shape * (int(x.max()) - int(x.min()) + 1) + x, kind="stable")]
    partner = np.empty(len(ids), np.int64)
    partner[order[::2]], partner[order[1::2]] = order[1::2], order[::2]
    return partner


def _components(following: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """Shape (m,): number of the cycle of each element of a permutation."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import connected_components

    size = len(following)
    graph = csr_array((np.ones(size), following, np.arange(size + 1, dtype=np.int32)), shape=(size, size))
    numbers: npt.NDArray[np.int32] = connected_components(graph, directed=True, connection="weak")[1]
    return numbers


def _laid_out(
    places: tuple[Ints, Ints, Ints], plus: Ints, following: npt.NDArray[np.int32], ring: npt.NDArray[np.int32]
) -> Rings:
    """Rings with their vertices one after the other."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import depth_first_order

    ids, y, x = places
    size = len(plus)
    _, head = np.unique(ring, return_index=True)
    last = np.empty(size, np.int32)
    last[following] = np.arange(size, dtype=np.int32)
    head.sort()
    last = last[head]
    # One chain through all rings, so that one walk in compiled code puts everything in order.
    chain = following.copy()
    chain[last[:-1]] = head[1:]
    chain[last[-1]] = last[-1]
    graph = csr_array((np.ones(size), chain, np.arange(size + 1, dtype=np.int32)), shape=(size, size))
    walk = depth_first_order(graph, int(head[0]), return_predecessors=False)
    length = 2 * np.diff(np.append(np.flatnonzero(np.isin(walk, head, assume_unique=True)), size))
    offsets = np.concatenate([[0], np.cumsum(length)])
    order = np.empty(2 * size, np.int64)
    order[::2], order[1::2] = plus[walk], plus[walk] ^ 1
    # The topmost leftmost vertex of a shell is a +1 corner, the left end of its edge. That of a hole is the -1 corner
    # at the left end of the edge of its first +1 corner: the ring is turned by one.
    hole = (order[offsets[:-1]] & 1).astype(bool)
    turned = np.repeat(hole, length)
    order[turned] = order[_turned_index(offsets, length)[turned]]
    return Rings(ids[plus[head]], hole, offsets, y[order], x[order])


def _turned_index(offsets: Ints, length: Ints) -> Ints:
    """Each vertex's successor in its ring."""
    index = np.arange(1, offsets[-1] + 1)
    index[offsets[1:] - 1] = offsets[:-1]
    return index
