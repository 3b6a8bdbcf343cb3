"""Polygons on the grid: a pixel is kept where its centre is inside, by the even-odd rule.

::

    row centre ──┼────x────────────x────   each edge crosses the centres of its rows; from each crossing on,
                 ∙  ∙ ┃∙  ∙  ∙  ∙ ┃∙  ∙    inside and outside change places (Foley et al., "Computer Graphics",
                                           scan conversion of polygons)

Holes are rings like others; several polygons are united. Done here and not by rasterio.features: a window has the
pixels of the whole to the bit, whatever its origin, and edges that polygons share leave neither gap nor overlap.

Memory bound
------------
Four numbers an edge; besides the window 8 bytes for each of `STRIP_PX` pixels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gigatile.selections.selection import STRIP_PX, Frame, Kept, any_in_strips
from gigatile.tiling.region import Region

Floats = npt.NDArray[np.float64]
Rings = Sequence[Floats]
"""Of one polygon, each of shape (n, 2): x and y."""


@dataclass(frozen=True, slots=True, eq=False)
class Outline:
    """The edges of one polygon, those along a row left out."""

    edges: Floats
    """Shape (n, 4): y, x of the upper end, y, x of the lower end; in pixels of the grid."""
    box: Region
    """Pixels whose centres may be inside."""

    def toggle(self, kept: Kept, region: Region) -> None:
        """Add the pixels inside to a window."""
        part = region.clipped(self.box)
        height, width = part.shape
        if not part.pixels:
            return
        y0, x0, y1, x1 = self.edges.T
        first = np.clip(np.ceil(y0 - 0.5), part.y0, part.y1).astype(np.int64)
        last = np.clip(np.ceil(y1 - 0.5), part.y0, part.y1).astype(np.int64)
        meet = np.flatnonzero(last > first)
        counts = (last - first)[meet]
        edge = np.repeat(meet, counts)
        row = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts) + first[edge]
        cross = x0[edge] + (row + 0.5 - y0[edge]) * (x1 - x0)[edge] / (y1 - y0)[edge]
        col = np.clip(np.ceil(cross - 0.5), part.x0, part.x1).astype(np.int64) - part.x0
        row -= part.y0
        window = kept[part.shifted(-region.y0, -region.x0).slices()]
        # Most rows of most windows are crossed beside it only: they are inside or outside as a whole.
        crossed = np.zeros(height, bool)
        crossed[row[(col > 0) & (col < width)]] = True
        window[(np.bincount(row[col == 0], minlength=height) & 1).astype(bool) & ~crossed] = True
        if not crossed.any():
            return
        place = np.cumsum(crossed) - 1
        here = crossed[row]
        shape = int(place[-1]) + 1, width + 1
        changes = np.bincount(place[row[here]] * shape[1] + col[here], minlength=shape[0] * shape[1])
        # Only whether a count is odd matters, so that it may overflow.
        inside = np.cumsum(changes.reshape(shape)[:, :width], axis=1, dtype=np.uint8) & 1
        window[crossed] |= inside.astype(bool)


@dataclass(frozen=True, slots=True, eq=False)
class Polygons:
    """The pixels whose centres lie in any of some polygons."""

    outlines: tuple[Outline, ...]
    boxes: npt.NDArray[np.int64]
    """Shape (n, 4): y0, x0, y1, x1 of each."""
    digest: str
    """sha256 of the coordinates."""

    @classmethod
    def of_level0(cls, polygons: Sequence[Rings], frame: Frame) -> Polygons:
        """From rings in pixels of level 0.

        Parameters
        ----------
        polygons : sequence of sequences of ndarray, shape (n, 2)
            x and y of the corners of each ring; whether it is closed does not matter.
        frame : Frame
        """
        content = hashlib.sha256()
        outlines = []
        for rings in polygons:
            edges = np.concatenate([_edges(ring, frame) for ring in rings])
            if not len(edges):
                continue
            content.update(b"polygon" + np.ascontiguousarray(edges, "<f8").tobytes())
            low, high = edges[:, :2].min(axis=0), edges[:, 2:].max(axis=0)
            left, right = edges[:, 1::2].min(), edges[:, 1::2].max()
            rows, cols = _centres(low[0], high[0]), _centres(left, right)
            outlines.append(Outline(edges, Region(rows[0], cols[0], rows[1], cols[1]).clipped(frame.region)))
        seen = [outline for outline in outlines if outline.box.pixels]
        boxes = np.array([[o.box.y0, o.box.x0, o.box.y1, o.box.x1] for o in seen], np.int64).reshape(-1, 4)
        return cls(tuple(seen), boxes, content.hexdigest())

    @property
    def bounds(self) -> Region:
        """The box around all."""
        if not self.outlines:
            return Region(0, 0, 0, 0)
        low, high = self.boxes[:, :2].min(axis=0), self.boxes[:, 2:].max(axis=0)
        return Region(int(low[0]), int(low[1]), int(high[0]), int(high[1]))

    @property
    def nbytes(self) -> int:
        """Of the edges."""
        return sum(outline.edges.nbytes for outline in self.outlines) + self.boxes.nbytes

    def window(self, region: Region) -> Kept:
        """See `Selection.window`."""
        kept = np.zeros(region.shape, bool)
        rows = max(STRIP_PX // max(region.shape[1], 1), 1)
        for y in range(region.y0, region.y0 + region.shape[0], rows):
            strip = Region(y, region.x0, min(y + rows, region.y1), region.x1)
            for outline in self._meeting(strip):
                outline.toggle(kept[y - region.y0 : strip.y1 - region.y0], strip)
        return kept

    def touches(self, region: Region) -> bool:
        """See `Selection.touches`."""
        region = region.clipped(self.bounds)
        return len(self._meeting(region)) > 0 and any_in_strips(self.window, region)

    def describe(self) -> dict[str, Any]:
        """Digest of the coordinates."""
        return {"polygons": self.digest}

    def _meeting(self, region: Region) -> list[Outline]:
        y0, x0, y1, x1 = self.boxes.T
        meet = (y0 < region.y1) & (y1 > region.y0) & (x0 < region.x1) & (x1 > region.x0)
        return [self.outlines[index] for index in np.flatnonzero(meet)]


def _edges(ring: Floats, frame: Frame) -> Floats:
    """Edges from the upper to the lower end, so that polygons on both sides of one compute the same crossings."""
    points = ring[:, ::-1] / np.asarray(frame.scale)
    if len(points) < 3:
        return np.empty((0, 4))
    edges = np.concatenate([points, np.roll(points, -1, axis=0)], axis=1)
    swapped = edges[:, 0] > edges[:, 2]
    edges[swapped] = edges[swapped][:, [2, 3, 0, 1]]
    return edges[edges[:, 0] < edges[:, 2]]


def _centres(low: float, high: float) -> tuple[int, int]:
    """The pixels whose centres lie in ``[low, high)``."""
    return int(np.ceil(low - 0.5)), int(np.ceil(high - 0.5))
