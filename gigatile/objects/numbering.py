"""Which open components of all blocks are one, and the final number of each.

::

      column of blocks 0 │ column 1 │ ...        components that begin in    first number there =
    row y   3            │ 1        │ 0          each row of each column     1 + the sum of all before,
    row y+1 0            │ 2        │ 5                                      row by row

Numbers follow first pixels, row by row and from left to right. So counts say where the numbers of a row begin in a
column of blocks; among the components that begin there it is the order of their x. Closed ones are only counted; open
ones are rows of a table here, joined along faces as soon as both blocks of a face are known.

    parent   row ─▶ row ─▶ root      the root of what hangs together is the row with the first pixel of all
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gigatile.errors import BlockError, UsageError
from gigatile.objects.connected import Border, Components, Rule
from gigatile.objects.groups import connected

Array = np.ndarray[Any, Any]
Ints = npt.NDArray[np.int64]
Ids = npt.NDArray[np.uint32]
MOST = 2**32 - 1
"""Largest number of a component: labels are uint32, 0 is background."""
ROW_BYTES = 4 + 4 + 4 + 4 + 4
"""Of the table, an open component."""
LINE_BYTES = 240
"""A pixel along the faces of one row of blocks while it is joined and numbered: pairs, roots, a graph, an order."""
_SLICE = 1 << 18


@dataclass(frozen=True, slots=True)
class BlockGrid:
    """How the image is cut."""

    shape: tuple[int, int]
    """Height and width of the image in pixels."""
    block: tuple[int, int]
    """Height and width of a block in pixels; those at the right and bottom edge may be smaller."""

    @property
    def count(self) -> tuple[int, int]:
        """Rows and columns of blocks."""
        return -(-self.shape[0] // self.block[0]), -(-self.shape[1] // self.block[1])

    def most_open(self, rule: Rule) -> int:
        """Most open components of all blocks together: of one class no two side by side, else each pixel of a face."""
        total = 0
        for height, down, y_sides in self._kinds(0):
            for width, across, x_sides in self._kinds(1):
                faces = [width] * y_sides + [height] * x_sides
                along = sum(faces) if rule.classes == "apart" else sum(-(-length // 2) for length in faces)
                total += down * across * min(height * width, along)
        return total

    def _kinds(self, axis: int) -> list[tuple[int, int, int]]:
        """Along an axis: length of a block, how many are such, and how many of its two sides have a block beyond."""
        length, step, count = self.shape[axis], self.block[axis], self.count[axis]
        if count == 1:
            return [(length, 1, 0)]
        return [(step, 1, 1), (step, count - 2, 2), (length - (count - 1) * step, 1, 1)]


@dataclass(frozen=True, slots=True)
class BlockNumbers:
    """The final numbers of the open components of a block, and where those of the others begin."""

    opened: Ids
    """Of each open component, in the order of first pixels in the block."""
    start: Ints
    """Numbers given before those of each row of the block in this column of blocks."""
    count: Ints
    """Components of the image whose first pixel lies in each row of the block."""


class _Line(NamedTuple):
    """Pixels along one side of a row of faces."""

    rows: Ints
    """Row of the table of each pixel's component, from 1 on; 0 for none."""
    values: Array | None
    """Value of each pixel, where only equal ones belong together."""


class Numbering:
    """Joins the open components of blocks, which come row by row and from left to right, then numbers all.

    Memory bound
    ------------
    See `numbering_bytes`.
    """

    def __init__(self, grid: BlockGrid, rule: Rule) -> None:
        self.grid, self._rule = grid, rule
        most = grid.most_open(rule)
        # Rows of the table that are never used cost nothing: the system gives memory when it is written to.
        self._y, self._x, self._before, self._parent = (np.empty(most, np.int32) for _ in range(4))
        self._ends = np.zeros((grid.shape[0], grid.count[1]), np.uint32)
        self._offsets = [0]
        self._right = self._bottom = _Line(np.zeros(0, np.int64), None)
        self._tops: list[_Line] = []
        self._bottoms: list[_Line] = []
        self._number = np.empty(0, np.uint32)

    def add(self, found: Border) -> None:
        """Take in the next block."""
        grid = self.grid
        row, col = divmod(len(self._offsets) - 1, grid.count[1])
        y0, x0 = row * grid.block[0], col * grid.block[1]
        start, stop = self._offsets[-1], self._offsets[-1] + len(found.rows)
        self._offsets.append(stop)
        self._y[start:stop] = found.rows + y0
        self._x[start:stop] = found.cols + x0
        self._before[start:stop] = found.before
        self._parent[start:stop] = np.arange(start, stop)
        self._ends[y0 : y0 + len(found.closed), col] = found.closed
        top, bottom, left, right = _lines(found, start)
        if col:
            self._join(self._right, left)
        self._right = right
        self._tops.append(top)
        self._bottoms.append(bottom)
        if col == grid.count[1] - 1:
            # Along the whole image, so that blocks that meet at a corner are neighbours as well.
            if row:
                self._join(self._bottom, _joined(self._tops))
            self._bottom = _joined(self._bottoms)
            self._tops, self._bottoms = [], []

    def finish(self) -> int:
        """Number all; returns how many components the image has.

        Raises
        ------
        UsageError
            More than `MOST`.
        """
        parent = self._parent[: self._offsets[-1]]
        _resolve(parent)
        cols = self.grid.count[1]
        for roots in self._roots_by_row():
            np.add.at(self._ends, (self._y[roots], self._x[roots] // self.grid.block[1]), 1)
        total = int(self._ends.sum(dtype=np.uint64))
        if total > MOST:
            raise UsageError(
                "label",
                expected=f"at most {MOST:,} components, which uint32 can number",
                found=f"{total:,}",
                fix="Remove noise from the mask first, or label parts of it.",
            )
        flat = self._ends.reshape(-1)
        np.cumsum(flat, dtype=np.uint32, out=flat)
        number = np.empty(len(parent), np.uint32)
        for roots in self._roots_by_row():
            y, x = self._y[roots], self._x[roots]
            order = np.lexsort((x, y))
            segment = (y.astype(np.int64) * cols + x // self.grid.block[1])[order]
            rank = np.arange(len(order)) - np.searchsorted(segment, segment)
            start = np.where(segment, flat[segment - 1], 0)
            number[roots[order]] = start + self._before[roots[order]] + rank + 1
        for at in range(0, len(parent), _SLICE):
            # A root lies in any slice, but gets no other number here.
            number[at : at + _SLICE] = number[parent[at : at + _SLICE]]
        self._number = number
        self._y = self._x = self._before = self._parent = np.empty(0, np.int32)
        return total

    def of(self, row: int, col: int) -> BlockNumbers:
        """What is known of a block after `finish`."""
        (height, _), (rows_px, _) = self.grid.block, self.grid.shape
        at = row * self.grid.count[1] + col
        places = np.arange(row * height, min((row + 1) * height, rows_px)) * self.grid.count[1] + col
        flat = self._ends.reshape(-1)
        start = np.where(places, flat[places - 1], 0).astype(np.int64)
        count = flat[places].astype(np.int64) - start
        return BlockNumbers(self._number[self._offsets[at] : self._offsets[at + 1]], start, count)

    def _roots_by_row(self) -> Iterator[Ints]:
        """The rows of the table that are roots, a row of blocks at a time."""
        cols = self.grid.count[1]
        for at in range(0, len(self._offsets) - 1, cols):
            start, stop = self._offsets[at], self._offsets[at + cols]
            yield start + np.flatnonzero(self._parent[start:stop] == np.arange(start, stop))

    def _join(self, one: _Line, other: _Line) -> None:
        """Join what touches across two lines side by side."""
        found = [_touching(one, other, shift) for shift in ((0,) if self._rule.connectivity == 4 else (-1, 0, 1))]
        a, b = (self._find(np.concatenate([pairs[side] for pairs in found])) for side in (0, 1))
        apart = a != b
        if not apart.any():
            return
        rows, places = np.unique(np.concatenate([a[apart], b[apart]]), return_inverse=True)
        half = len(places) // 2
        part = connected(len(rows), places[:half], places[half:])
        order = np.lexsort((self._x[rows], self._y[rows], part))
        begins = np.flatnonzero(np.diff(part[order], prepend=-1))
        self._parent[rows] = rows[order[begins]][part]

    def _find(self, rows: Ints) -> Ints:
        """The roots of rows of the table."""
        root = self._parent[rows]
        while True:
            above = self._parent[root]
            if np.array_equal(above, root):
                break
            root = above
        self._parent[rows] = root
        return root.astype(np.int64)


def final_numbers(found: Components, numbers: BlockNumbers, where: str) -> Ids:
    """The number in the image of each component of a block.

    Parameters
    ----------
    found : Components
        As they were when the block was added.
    numbers : BlockNumbers
    where : str
        The block, for messages.

    Returns
    -------
    ndarray of uint32, shape (components + 1,)
        By label; 0 for 0.

    Raises
    ------
    BlockError
        They are others than before.
    """
    opened, rows = np.flatnonzero(found.is_open), found.rows
    if len(opened) != len(numbers.opened):
        raise _changed(where)
    own, at = numbers.opened.astype(np.int64), rows[opened]
    inside = np.flatnonzero((own > numbers.start[at]) & (own <= numbers.start[at] + numbers.count[at]))
    # Of several that are one in the image the first has its first pixel, if that lies in this block.
    kept = ~found.is_open
    kept[opened[inside[np.unique(own[inside], return_index=True)[1]]]] = True
    if not np.array_equal(np.bincount(rows[kept], minlength=len(numbers.count)), numbers.count):
        raise _changed(where)
    table = np.zeros(len(kept) + 1, np.uint32)
    above = np.cumsum(numbers.count) - numbers.count
    table[1:][kept] = np.repeat(numbers.start - above, numbers.count) + np.arange(1, np.count_nonzero(kept) + 1)
    if (table[1:][opened[inside]][kept[opened[inside]]] != own[inside][kept[opened[inside]]]).any():
        raise _changed(where)
    table[1:][opened] = own
    return table


def numbering_bytes(grid: BlockGrid, rule: Rule) -> int:
    """Most that a `Numbering` holds: its table, the counts of rows, and what joins one row of blocks."""
    rows, cols = grid.count
    line = grid.shape[1] + cols * min(grid.block[0], grid.shape[0]) if rows * cols > 1 else 0
    return ROW_BYTES * grid.most_open(rule) + 4 * grid.shape[0] * cols + LINE_BYTES * line


def _lines(found: Border, start: int) -> tuple[_Line, ...]:
    """The faces of a block whose components are rows of the table from `start` on."""
    values = (None,) * 4 if found.values is None else found.values
    rows = (np.where(face, face.astype(np.int64) + start, 0) for face in found.faces)
    return tuple(_Line(*both) for both in zip(rows, values, strict=True))


def _joined(lines: Sequence[_Line]) -> _Line:
    """Lines one after the other."""
    values = None if lines[0].values is None else np.concatenate([line.values for line in lines])
    return _Line(np.concatenate([line.rows for line in lines]), values)


def _touching(one: _Line, other: _Line, shift: int) -> tuple[Ints, Ints]:
    """Rows of the table on both sides of each pair of pixels ``i`` and ``i + shift``; equal pairs in turn once."""
    here = slice(max(0, -shift), len(one.rows) - max(0, shift))
    there = slice(max(0, shift), len(one.rows) - max(0, -shift))
    a, b = one.rows[here], other.rows[there]
    touch = (a > 0) & (b > 0)
    if one.values is not None and other.values is not None:
        touch &= one.values[here] == other.values[there]
    a, b = a[touch] - 1, b[touch] - 1
    new = np.ones(len(a), np.bool_)
    new[1:] = (a[1:] != a[:-1]) | (b[1:] != b[:-1])
    return a[new], b[new]


def _resolve(parent: npt.NDArray[np.int32]) -> None:
    """Let every row point to its root."""
    moved = True
    while moved:
        moved = False
        for at in range(0, len(parent), _SLICE):
            part = parent[at : at + _SLICE]
            above = parent[part]
            moved |= not np.array_equal(above, part)
            part[:] = above


def _changed(where: str) -> BlockError:
    return BlockError(
        where,
        expected="the pixels that were read first",
        found="others when they were read again",
        fix="Let nothing write to the input meanwhile.",
    )
