"""Cells: the pieces in which instances are labelled, on a grid that knows nothing of blocks.

::

    window ┌─────────────────┐          core = pixels of which the cell's labels are kept
           │  ┌───────────┐  │          window = core grown by the context, cut at the image: what was labelled
           │  │   core    │  │
           │  │        ┌──┼──┼───────┐  strip "right" = columns of the window that the windows of the cells
           │  └────────┼──┼──┼──┐    │  to the right see, too: there labels of neighbours are compared
           └───────────┼──┼──┘  │    │
                       │  └─────┘ ...│
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from gigatile.errors import UsageError
from gigatile.tiling.region import Region

Array = np.ndarray[Any, Any]
Ids = npt.NDArray[np.uint64]

Side = Literal["top", "bottom", "left", "right"]
SIDES: tuple[Side, ...] = get_args(Side)

LABEL_BITS = 32
"""Of the 64 bits of a working id, the low ones that hold the label; the others hold the cell's index."""


@dataclass(frozen=True, slots=True)
class CellGrid:
    """All cells of an image, anchored at pixel (0, 0); the last ones are cut at its edges.

    Raises
    ------
    UsageError
        A side below 1, a context below 0, an image without pixels, or 2**32 cells and more.
    """

    shape: tuple[int, int]
    """Height and width of the image, in pixels of the processing grid."""
    side: tuple[int, int]
    """Height and width of a core."""
    context: int
    """Pixels that a window has beyond its core, on each side; with 0 nothing that crosses a core's edge is joined."""

    def __post_init__(self) -> None:
        if min(self.shape) < 1 or min(self.side) < 1 or self.context < 0:
            found = f"image {self.shape}, side {self.side}, context {self.context}"
            raise UsageError(
                "cells", expected="an image and sides of 1 px or more, a context of 0 or more", found=found
            )
        if self.rows * self.cols >= 1 << LABEL_BITS:
            raise UsageError(
                "cells", expected="fewer than 2**32", found=str(self.rows * self.cols), fix="Enlarge the tile."
            )

    @property
    def rows(self) -> int:
        """Rows of cells."""
        return -(-self.shape[0] // self.side[0])

    @property
    def cols(self) -> int:
        """Columns of cells."""
        return -(-self.shape[1] // self.side[1])

    def core(self, row: int, col: int) -> Region:
        """Pixels whose labels the cell gives."""
        y0, x0 = row * self.side[0], col * self.side[1]
        return Region(y0, x0, min(y0 + self.side[0], self.shape[0]), min(x0 + self.side[1], self.shape[1]))

    def window(self, row: int, col: int) -> Region:
        """Pixels that are labelled together: the core and its context, inside the image."""
        return self.core(row, col).grown(self.context, self.context).clipped(Region(0, 0, *self.shape))

    def strip(self, row: int, col: int, side: Side) -> Region:
        """The part of a cell's window that cells beyond one side of its core see as well."""
        core, window, context = self.core(row, col), self.window(row, col), self.context
        match side:
            case "top":
                cut = Region(window.y0, window.x0, core.y0 + context, window.x1)
            case "bottom":
                cut = Region(core.y1 - context, window.x0, window.y1, window.x1)
            case "left":
                cut = Region(window.y0, window.x0, window.y1, core.x0 + context)
            case "right":
                cut = Region(window.y0, core.x1 - context, window.y1, window.x1)
        return cut.clipped(window)

    def index(self, row: int, col: int) -> int:
        """Number of a cell, row by row."""
        return row * self.cols + col


@dataclass(frozen=True, slots=True)
class CellBlock:
    """The cells that one block labels: a rectangle of the grid."""

    rows: range
    """Rows of cells, step 1."""
    cols: range
    """Columns of cells, step 1."""

    def foreign(self, cells: CellGrid, row: int, col: int) -> tuple[Side, ...]:
        """The sides of a cell beyond which cells of other blocks lie."""
        beyond: dict[Side, bool] = {
            "top": row == self.rows.start and row > 0,
            "bottom": row == self.rows.stop - 1 and row < cells.rows - 1,
            "left": col == self.cols.start and col > 0,
            "right": col == self.cols.stop - 1 and col < cells.cols - 1,
        }
        return tuple(side for side in SIDES if beyond[side])


@dataclass(frozen=True, slots=True)
class Patch:
    """Labels of one cell, and where they lie."""

    labels: npt.NDArray[np.uint32]
    """Shape ``region.shape``; canonical numbers of the cell, 0 = background."""
    region: Region

    def cut(self, region: Region) -> Patch:
        """A copy of the part inside `region`, which must lie inside this one; holds on to no more than that."""
        y, x = region.shifted(-self.region.y0, -self.region.x0).slices()
        return Patch(np.array(self.labels[y, x], order="C"), region)


def working_ids(index: int, labels: npt.NDArray[Any]) -> Ids:
    """Numbers of labels that are unique over the image: ``index << 32 | label``, ascending with cell and label.

    Parameters
    ----------
    index : int
        Of the cell.
    labels : ndarray of ints, any shape
        Canonical labels of that cell.
    """
    return labels.astype(np.uint64) | np.uint64(index << LABEL_BITS)


def canonical(labels: npt.NDArray[Any], where: str) -> tuple[npt.NDArray[np.uint32], int]:
    """Labels renumbered 1..m in the order of their first pixels, row by row, whatever they were called.

    Parameters
    ----------
    labels : ndarray of ints, shape (h, w)
        0 = background. A label may have several parts.
    where : str
        What an error names.

    Returns
    -------
    labels : ndarray of uint32, shape (h, w)
    m : int

    Raises
    ------
    UsageError
        No integers, or negative ones.
    """
    if labels.dtype.kind not in "iu":
        raise UsageError(
            where, expected="integer labels", found=str(labels.dtype), fix="Round them where they are made."
        )
    flat = labels.reshape(-1)
    marked = np.flatnonzero(flat)
    result = np.zeros(flat.shape, np.uint32)
    if not len(marked):
        return result.reshape(labels.shape), 0
    values = flat[marked]
    low, high = int(values.min()), int(values.max())
    if low < 0:
        fix = "Give the background 0 and each object a number from 1."
        raise UsageError(where, expected="labels of 0 or more", found=str(low), fix=fix)
    if high > 4 * flat.size:
        # Numbers too sparse for a table of them: 4 entries a pixel is what a table may cost.
        values = np.unique(values, return_inverse=True)[1].reshape(-1) + 1
        high = int(values.max())
    first = np.full(high + 1, -1, np.int64)
    # Of an index that occurs again the last value stays: reversed, that of the first pixel.
    first[values[::-1]] = marked[::-1]
    used = np.flatnonzero(first >= 0)
    number = np.zeros(high + 1, np.uint32)
    number[used[np.argsort(first[used])]] = np.arange(1, len(used) + 1, dtype=np.uint32)
    result[marked] = number[values]
    return result.reshape(labels.shape), len(used)
