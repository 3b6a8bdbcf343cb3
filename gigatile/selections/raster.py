"""Masks of pixels at any resolution, kept in cells: most of a mask is all kept or all not, and then a byte a cell.

::

    ┌────┬────┬────┬────┐      empty  ' '      what a pixel of the grid gets is the mask's pixel under its centre
    │    │ ▒▒ │████│ ▒▒ │      full   '█'
    └────┴────┴────┴────┘      mixed  '▒': one bit a pixel
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gigatile.errors import ImageError
from gigatile.images.image import REFLECT, Image
from gigatile.selections.selection import STRIP_PX, Frame, Kept, any_in_strips
from gigatile.tiling.region import Region
from gigatile.units import format_bytes

CELL = 256
EMPTY, FULL, MIXED = 0, 1, 2
MOST_BYTES = 256 * 2**20
"""Of mixed cells: noise of 46,000 x 46,000 px. A mask of regions takes a hundredth."""


@dataclass(frozen=True, slots=True, eq=False)
class Cells:
    """A mask, True where kept.

    Memory bound
    ------------
    A byte a cell, 8 KiB a mixed cell, `MOST_BYTES` at most; while it is built also 256 of its rows.
    """

    shape: tuple[int, int]
    kinds: npt.NDArray[np.uint8]
    """Of each cell; shape (rows, cols)."""
    bits: Mapping[tuple[int, int], bytes]
    """Of the mixed cells, row by row."""
    digest: str
    """sha256 of the content."""

    def read(self, region: Region) -> Kept:
        """A window that lies inside the mask."""
        kept = np.zeros(region.shape, bool)
        for row in range(region.y0 // CELL, -(-region.y1 // CELL)):
            for col in range(region.x0 // CELL, -(-region.x1 // CELL)):
                kind = self.kinds[row, col]
                if kind == EMPTY:
                    continue
                cell = Region(row * CELL, col * CELL, (row + 1) * CELL, (col + 1) * CELL)
                part = region.clipped(cell)
                target = part.shifted(-region.y0, -region.x0).slices()
                kept[target] = True if kind == FULL else self._cell(row, col)[part.shifted(-cell.y0, -cell.x0).slices()]
        return kept

    def kinds_of(self, region: Region) -> npt.NDArray[np.uint8]:
        """The kinds of the cells that a window inside the mask meets."""
        return self.kinds[region.y0 // CELL : -(-region.y1 // CELL), region.x0 // CELL : -(-region.x1 // CELL)]

    def _cell(self, row: int, col: int) -> Kept:
        bits = np.frombuffer(self.bits[row, col], np.uint8)
        return np.unpackbits(bits, count=CELL * CELL).reshape(CELL, CELL).astype(bool)


def cells_of_image(image: Image) -> Cells:
    """Read a mask: kept where any of its channels is not 0, and valid.

    Raises
    ------
    BlockError
        Bytes of the file cannot be read or decoded.
    ImageError
        It is noise larger than can be held.
    """
    image = image.on(image.grid)

    def rows(top: int, bottom: int) -> Kept:
        pixels, valid = image.read_with_validity(Region(top, 0, bottom, image.grid_shape[1]), REFLECT)
        kept = ((pixels != 0) & ~np.isnan(pixels)).any(axis=0)
        return np.asarray(kept if valid is None else kept & valid)

    bands = (rows(top, min(top + CELL, image.grid_shape[0])) for top in range(0, image.grid_shape[0], CELL))
    return _cells(image.grid_shape, bands, image.info.path)


def cells_of_array(kept: Kept) -> Cells:
    """From a mask in memory, shape (y, x)."""
    return _cells(kept.shape, (kept[top : top + CELL] for top in range(0, kept.shape[0], CELL)), "mask")


def _cells(shape: tuple[int, ...], bands: Any, where: str) -> Cells:
    height, width = shape
    kinds = np.zeros((-(-height // CELL), -(-width // CELL)), np.uint8)
    bits: dict[tuple[int, int], bytes] = {}
    content = hashlib.sha256(f"{height} x {width}".encode())
    for row, band in enumerate(bands):
        for col in range(kinds.shape[1]):
            cell = band[:, col * CELL : (col + 1) * CELL]
            if not cell.any():
                continue
            if cell.all():
                kinds[row, col] = FULL
                continue
            kinds[row, col] = MIXED
            whole = np.zeros((CELL, CELL), bool)
            whole[: cell.shape[0], : cell.shape[1]] = cell
            bits[row, col] = np.packbits(whole).tobytes()
            content.update(bits[row, col])
        if len(bits) * CELL * CELL // 8 > MOST_BYTES:
            raise ImageError(
                where,
                expected=f"a mask of regions, that takes {format_bytes(MOST_BYTES)} at most",
                found=f"{height} x {width} px of noise",
                fix="Give it at a coarser resolution.",
            )
    content.update(kinds.tobytes())
    return Cells((height, width), kinds, bits, content.hexdigest())


@dataclass(frozen=True, slots=True, eq=False)
class Raster:
    """The pixels whose centres lie over a kept pixel of a mask."""

    cells: Cells
    frame: Frame
    step: tuple[float, float]
    """Pixels of the mask per pixel of the grid, along y and x; negative where the mask runs the other way."""
    origin: tuple[float, float]
    """Place of the grid's outer corner in pixels of the mask."""

    @property
    def bounds(self) -> Region:
        """The box around the cells that are not empty."""
        rows, cols = (np.flatnonzero((self.cells.kinds != EMPTY).any(axis=axis)) for axis in (1, 0))
        if not len(rows):
            return Region(0, 0, 0, 0)
        edges = []
        for axis, cells in enumerate((rows, cols)):
            low, high = int(cells[0]) * CELL, min((int(cells[-1]) + 1) * CELL, self.cells.shape[axis])
            places = [(edge - self.origin[axis]) / self.step[axis] for edge in (low, high)]
            # A pixel more on each side: which centres are inside is decided where they are looked up.
            edges.append((int(np.floor(min(places))) - 1, int(np.ceil(max(places))) + 1))
        return Region(edges[0][0], edges[1][0], edges[0][1], edges[1][1]).clipped(self.frame.region)

    @property
    def nbytes(self) -> int:
        """Of the cells."""
        return self.cells.kinds.nbytes + len(self.cells.bits) * (CELL * CELL // 8 + 200)

    def window(self, region: Region) -> Kept:
        """See `Selection.window`."""
        kept = np.zeros(region.shape, bool)
        part = region.clipped(self.frame.region)
        cols, in_x = self._under(1, part.x0, part.x1)
        fine = max(abs(self.step[0]) * max(abs(self.step[1]), 1), 1)
        height = max(int(STRIP_PX / fine) // max(part.shape[1], 1), 1)
        for top in range(part.y0, part.y0 + part.shape[0], height):
            strip = Region(top, part.x0, min(top + height, part.y1), part.x1)
            rows, in_y = self._under(0, strip.y0, strip.y1)
            if not len(rows) or not len(cols):
                continue
            hull = Region(int(rows.min()), int(cols.min()), int(rows.max()) + 1, int(cols.max()) + 1)
            pixels = self.cells.read(hull)[np.ix_(rows - hull.y0, cols - hull.x0)]
            target = strip.shifted(-region.y0, -region.x0)
            kept[target.y0 + in_y[0] : target.y0 + in_y[1], target.x0 + in_x[0] : target.x0 + in_x[1]] = pixels
        return kept

    def touches(self, region: Region) -> bool:
        """See `Selection.touches`."""
        region = region.clipped(self.bounds)
        (rows, _), (cols, _) = self._under(0, region.y0, region.y1), self._under(1, region.x0, region.x1)
        if not len(rows) or not len(cols):
            return False
        hull = Region(int(rows.min()), int(cols.min()), int(rows.max()) + 1, int(cols.max()) + 1)
        kinds = self.cells.kinds_of(hull)
        if not kinds.any():
            return False
        if (kinds == FULL).all():
            return True
        return any_in_strips(self.window, region)

    def describe(self) -> dict[str, Any]:
        """Digest of the mask, and where it lies."""
        return {"mask": self.cells.digest, "step": list(self.step), "origin": list(self.origin)}

    def _under(self, axis: int, start: int, stop: int) -> tuple[npt.NDArray[np.int64], tuple[int, int]]:
        """Pixels of the mask under the centres ``[start, stop)``, and which of these are over the mask at all."""
        at = np.floor((np.arange(start, stop) + 0.5) * self.step[axis] + self.origin[axis]).astype(np.int64)
        inside = np.flatnonzero((at >= 0) & (at < self.cells.shape[axis]))
        if not len(inside):
            return at[:0], (0, 0)
        first, last = int(inside[0]), int(inside[-1]) + 1
        return at[first:last], (first, last)
