"""The instances of one block: what is finished, and what waits for other blocks.

::

    block ┌────┬────┬────┐      cells are added row by row; each is compared with the four before it that share its
          │ 1  │ 2  │ 3  │      window's pixels: left, upper left, above, upper right
          ├────┼────┼────┤
          │ 4  │ 5 ▒│▒   │      closed: all members are out of sight of other blocks; one row, joined
          ├────┼────┼────┤      open: some member lies where a window of another block sees it; rows as they are
          │ 7  │  ▒▒│▒▒▒▒▒▒▒
          └────┴────┴────┘

A label without pixels in its own core takes part in the comparison, since it may be what another label agrees with
best; it owns nothing and joins nothing: cells that share an object's pixels compare it with each other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gigatile.errors import UsageError
from gigatile.objects.agreement import Agreement, agreements
from gigatile.objects.cells import CellBlock, CellGrid, Ids, Patch, canonical, working_ids
from gigatile.objects.groups import connected, rows_of
from gigatile.objects.instance_rows import closed_table, open_table
from gigatile.objects.label_rasters import LabelRasters
from gigatile.objects.measures import Channels, Fragments, joined, measured
from gigatile.tiling.region import Region


@dataclass(frozen=True, slots=True)
class Part:
    """What a block leaves, as pyarrow tables."""

    rows: Any
    """``instance_rows.row_schema``: closed rows in the order of ymin, xmin, then open ones in that of working ids."""
    pairs: Any
    """``a``, ``b`` uint64: open fragments of this block that are one object."""
    labels: Any
    """``label_rasters.raster_schema``: the core of each cell, and the strips that face other blocks."""


class BlockInstances:
    """Collects the cells of one block.

    Memory bound
    ------------
    For comparison the strips of one row of cells, ``2 * context`` px high, and one strip that wide. For the result one
    row for each fragment (some 150 bytes and its outline), and the compressed labels (see `label_rasters`). Neither the
    windows nor what was measured on them. While a cell is added, beside what the caller holds: 22 bytes a pixel of its
    window where a fifth of it are nuclei, 55 where all of it is objects of 16 px, 465 where every pixel is one.

    Parameters
    ----------
    cells : CellGrid
    block : CellBlock
    agreement : Agreement
    channels : Channels
        What `add` gets with each cell.
    """

    def __init__(self, cells: CellGrid, block: CellBlock, agreement: Agreement, channels: Channels) -> None:
        self._cells, self._block, self._agreement, self._channels = cells, block, agreement, channels
        self._next = (block.rows.start, block.cols.start)
        self._fragments = [Fragments.empty(channels)]
        self._open: list[Ids] = [np.empty(0, np.uint64)]
        self._below: list[Ids] = [np.empty(0, np.uint64)]
        self._pairs: list[tuple[Ids, Ids]] = []
        self._rasters = LabelRasters()
        self._above: dict[int, Patch] = {}
        self._here: dict[int, Patch] = {}
        self._left: tuple[int, Patch] | None = None

    def add(
        self,
        row: int,
        col: int,
        labels: npt.NDArray[Any],
        *,
        prediction: npt.NDArray[np.float32] | None = None,
        intensities: npt.NDArray[Any] | None = None,
        valid: npt.NDArray[np.bool_] | None = None,
    ) -> None:
        """Take in one cell; cells come row by row, those without labels may be left out.

        Parameters
        ----------
        row, col : int
            Of the cell.
        labels : ndarray of ints, shape (h, w) of the cell's window
            0 = background.
        prediction : ndarray of float32, shape (classes, h, w), or None where there are no classes
        intensities : ndarray, shape (channels, h, w), or None where there are none
            Stored values.
        valid : ndarray of bool, shape (h, w), or None
            Invalid pixels lose their labels. None: all are valid.

        Raises
        ------
        UsageError
            Labels that are not integers of 0 or more, or arrays of another shape than the window's.
        ValueError
            A cell out of order, or of another block.
        """
        if (row, col) < self._next or row not in self._block.rows or col not in self._block.cols:
            raise ValueError(f"BlockInstances.add: cell ({row}, {col}) is out of order or not of {self._block}")
        window, where = self._cells.window(row, col), f"labels of cell ({row}, {col})"
        prediction = _checked(prediction, self._channels.classes, window, f"prediction of cell ({row}, {col})")
        intensities = _checked(intensities, self._channels.intensities, window, f"image of cell ({row}, {col})")
        if labels.shape != window.shape:
            raise UsageError(where, expected=f"shape {window.shape}", found=str(labels.shape))
        if valid is not None:
            labels = np.where(valid, labels, labels.dtype.type(0))
        numbers, count = canonical(labels, where)
        self._advance(row, col)
        patch, core = Patch(numbers, window), self._cells.core(row, col)
        inside = patch.cut(core)
        self._rasters.add(row, col, "core", inside)
        self._face(row, col, patch, count)
        self._compare(row, col, patch)
        y, x = core.shifted(-window.y0, -window.x0).slices()
        index = self._cells.index(row, col)
        self._fragments.append(measured(inside, index, prediction[:, y, x], intensities[:, y, x]))

    def _advance(self, row: int, col: int) -> None:
        """Let go of strips that no later cell sees."""
        last = self._next[0]
        self._next = (row, col + 1)
        if row > last:
            self._above = self._here if row == last + 1 else {}
            self._here, self._left = {}, None
        for gone in [c for c in self._above if c < col - 1]:
            del self._above[gone]

    def _face(self, row: int, col: int, patch: Patch, count: int) -> None:
        """Keep the strips that other blocks see, and note which labels lie in them."""
        index = self._cells.index(row, col)
        seen, below = np.zeros(count + 1, bool), np.zeros(count + 1, bool)
        for side in self._block.foreign(self._cells, row, col):
            strip = patch.cut(self._cells.strip(row, col, side))
            self._rasters.add(row, col, side, strip)
            seen[strip.labels] = True
            if side == "bottom":
                below[strip.labels] = True
        seen[0] = below[0] = False
        self._open.append(working_ids(index, np.flatnonzero(seen)))
        self._below.append(working_ids(index, np.flatnonzero(below)))

    def _compare(self, row: int, col: int, patch: Patch) -> None:
        neighbours = [(row - 1, c, self._above[c]) for c in (col - 1, col, col + 1) if c in self._above]
        if self._left is not None and self._left[0] == col - 1:
            neighbours.append((row, col - 1, self._left[1]))
        index = self._cells.index(row, col)
        for other_row, other_col, other in neighbours:
            a, b = agreements(other, patch, self._agreement)
            if len(a):
                self._pairs.append((working_ids(self._cells.index(other_row, other_col), a), working_ids(index, b)))
        self._here[col] = patch.cut(self._cells.strip(row, col, "bottom"))
        self._left = col, patch.cut(self._cells.strip(row, col, "right"))

    def finish(self) -> Part:
        """Join what is joined, and part what is finished from what is open."""
        import pyarrow as pa

        fragments = Fragments.concatenated(self._fragments)
        a, b = _pairs_of(self._pairs, fragments.ids)
        group = connected(len(fragments), a, b)
        is_open = np.isin(fragments.ids, np.concatenate(self._open))
        below = np.isin(fragments.ids, np.concatenate(self._below))
        open_group = np.zeros(len(fragments) + 1, bool)
        open_group[group[is_open]] = True
        waits = open_group[group]
        done = np.unique(group[~waits], return_inverse=True)[1].reshape(-1)
        closed = closed_table(*joined(fragments.take(~waits), done), self._channels)
        opened = open_table(fragments.take(waits), below[waits], self._channels)
        held = waits[a]
        pairs = pa.table({"a": fragments.ids[a[held]], "b": fragments.ids[b[held]]})
        return Part(pa.concat_tables([closed, opened]), pairs, self._rasters.table())


def _checked(values: npt.NDArray[Any] | None, channels: int, window: Region, where: str) -> npt.NDArray[Any]:
    """The array, or one without channels where there are none."""
    values = np.empty((0, *window.shape), np.float32) if values is None else values
    if values.shape != (channels, *window.shape):
        raise UsageError(where, expected=f"shape {(channels, *window.shape)}", found=str(values.shape))
    return values


def _pairs_of(pairs: list[tuple[Ids, Ids]], ids: Ids) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Pairs as rows of `ids`, ascending; without those of labels that own no pixel."""
    if not pairs:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    a, b = (np.concatenate(side) for side in zip(*pairs, strict=True))
    return rows_of(ids, a, b)
