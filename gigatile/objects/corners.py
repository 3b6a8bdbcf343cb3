"""Shapes on the pixel grid as the signed corners of their outlines.

::

    NW │ NE      charge of a vertex = NW - NE - SW + SE, each 1 where the pixel belongs to the shape
    ───┼───
    SW │ SE      one pixel   +1 ┌──┐ -1      two that touch at a corner   ┌──┐
                                │▓▓│                                      │▓▓│
                             -1 └──┘ +1                                   └──┼──┐ +2
                                                                             │▓▓│
                                                                             └──┘

A vertex whose charge is 0 is no corner. Charges of pieces that do not overlap add up to those of their union, so pieces
are joined by adding: what they share along a cut vanishes, and no geometry is computed. This is the mixed difference
of the indicator of the shape, the inverse of a summed-area table (Crow, "Summed-area tables for texture mapping",
SIGGRAPH 1984).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gigatile.errors import UsageError

Ints = npt.NDArray[np.int64]
Labels = npt.NDArray[np.integer[Any]]
_SIGNS = (1, -1, -1, 1)
"""Of NW, NE, SW, SE."""


@dataclass(frozen=True, slots=True, eq=False)
class Corners:
    """Corners of any number of shapes, in order of shape, y, x; each vertex of a shape once."""

    ids: Ints
    """Shape (n,): whose corner it is."""
    y: Ints
    """Shape (n,): row of the vertex; vertex 0 is the outer corner of pixel 0."""
    x: Ints
    """Shape (n,): its column."""
    charge: npt.NDArray[np.int8]
    """Shape (n,): -2, -1, 1 or 2."""

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, index: npt.NDArray[Any]) -> Corners:
        """Those at an index or under a mask that keeps their order."""
        return Corners(self.ids[index], self.y[index], self.x[index], self.charge[index])

    @classmethod
    def empty(cls) -> Corners:
        """No corners."""
        none = np.empty(0, np.int64)
        return cls(none, none, none, none.astype(np.int8))

    @classmethod
    def summed(cls, ids: Ints, y: Ints, x: Ints, charge: npt.NDArray[np.int8]) -> Corners:
        """Corners in any order, several at one vertex: they are sorted and added, and those of charge 0 left out.

        Parameters
        ----------
        ids, y, x, charge : ndarray, shape (n,)
            As the fields.
        """
        if not len(ids):
            return cls.empty()
        order = np.lexsort((x, y, ids))
        ids, y, x, charge = ids[order], y[order], x[order], charge[order]
        first = np.ones(len(ids), bool)
        first[1:] = (ids[1:] != ids[:-1]) | (y[1:] != y[:-1]) | (x[1:] != x[:-1])
        if first.all():
            return cls(ids, y, x, charge)
        total = np.add.reduceat(charge, np.flatnonzero(first), dtype=np.int8)
        kept = np.flatnonzero(first)[total != 0]
        return cls(ids[kept], y[kept], x[kept], total[total != 0])

    @classmethod
    def joined(cls, pieces: Sequence[Corners], ids: Sequence[Ints] | None = None) -> Corners:
        """The corners of shapes that are cut into pieces, which do not overlap.

        Parameters
        ----------
        pieces : sequence of Corners
        ids : sequence of ndarray, optional
            For each piece the shape of each corner, instead of its own ids.
        """
        if not pieces:
            return cls.empty()
        of = [piece.ids for piece in pieces] if ids is None else ids
        return cls.summed(
            np.concatenate(of),
            np.concatenate([piece.y for piece in pieces]),
            np.concatenate([piece.x for piece in pieces]),
            np.concatenate([piece.charge for piece in pieces]),
        )


def corners(labels: Labels, origin: tuple[int, int] = (0, 0)) -> Corners:
    """The corners of each label of an array; beyond the array there is nothing.

    Parameters
    ----------
    labels : ndarray, shape (h, w), integer
        0 is no shape.
    origin : tuple of int
        y and x of its first pixel on the grid.

    Memory bound
    ------------
    One copy of the labels and 4 bytes a pixel; 150 bytes a vertex whose four pixels are neither equal nor two halves.
    """
    if labels.ndim != 2:
        raise UsageError("labels", expected="an array of axes y, x", found=f"{labels.ndim} axes")
    if labels.dtype == np.uint64 and labels.size and int(labels.max()) > np.iinfo(np.int64).max:
        raise UsageError("labels", expected="labels below 2**63", found=str(int(labels.max())))
    if not labels.size:
        return Corners.empty()
    padded = np.pad(labels, 1)
    vertex = _vertices(padded)
    width = labels.shape[1] + 1
    y, x = np.divmod(vertex, width)
    flat = padded.ravel()
    at = y * (width + 1) + x
    around = [flat[at + step].astype(np.int64) for step in (0, 1, width + 1, width + 2)]
    found: list[tuple[Ints, Ints, npt.NDArray[np.int8]]] = []
    for quadrant, own in enumerate(around):
        kept = own != 0
        for earlier in around[:quadrant]:
            kept &= own != earlier
        charge = np.zeros(len(own), np.int8)
        for sign, other in zip(_SIGNS, around, strict=True):
            charge += np.int8(sign) * (own == other)
        kept &= charge != 0
        found.append((own[kept], vertex[kept], charge[kept]))
    ids, place, charges = (np.concatenate(column) for column in zip(*found, strict=True))
    order = np.lexsort((place, ids))
    y, x = np.divmod(place[order], width)
    return Corners(ids[order], y + origin[0], x + origin[1], charges[order])


def _vertices(padded: Labels) -> Ints:
    """Index, in rows of one more than the width, of each vertex whose four pixels are neither equal nor two halves."""
    across = padded[:, 1:] != padded[:, :-1]
    down = padded[1:] != padded[:-1]
    north, south, west, east = across[:-1], across[1:], down[:, :-1], down[:, 1:]
    # A line that goes straight on has north = south and west = east, and one pair of the two.
    corner = (north != south) | (west != east) | (north & west)
    return np.flatnonzero(corner)
