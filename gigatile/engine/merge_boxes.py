"""The boxes of all blocks, each once: what they left open is merged row by row, then all rows are put in order.

::

    open rows of blocks ──▶ SeamBoxes ──▶ parts/seams/0.parquet ...  ┐
    closed rows of blocks ───────────────────────────────────────────┴──▶ merged ──▶ objects.parquet
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from gigatile.engine.batches import Progress
from gigatile.engine.find_boxes import reach
from gigatile.engine.objects_table import box_batch, check_columns, factors_of, metadata_of, write_objects
from gigatile.engine.parts import ROWS, TableReader, sorted_source, write_tables
from gigatile.engine.record import BlockKey
from gigatile.errors import Cancelled
from gigatile.images.image import Image
from gigatile.objects.box_tables import PLACE, from_table, to_table
from gigatile.objects.boxes import Boxes
from gigatile.objects.seam_boxes import SeamBoxes
from gigatile.objects.sorted_rows import Source, few_at_once, merged
from gigatile.outputs.objects_schema import ORIENTED
from gigatile.outputs.shard import ShardReceipt
from gigatile.plans.finding import Detect
from gigatile.plans.plan import Plan
from gigatile.plans.stages import PARTS
from gigatile.storage.store import Store

SEAMS = f"{PARTS}/seams/"


class Parts:
    """The blocks that left a part, row by row.

    Memory bound
    ------------
    One byte a block.
    """

    def __init__(self, plan: Plan, store: Store) -> None:
        stage = plan.stages[0]
        self._stage, self._store, self._blocks = stage, store, plan.blocks
        self._there: npt.NDArray[np.bool_] = np.zeros(stage.grid, bool)
        for entry in store.entries(stage.prefix):
            place = stage.place(entry.key)
            if place is not None:
                self._there[place] = True

    @property
    def rows(self) -> range:
        """Rows of blocks."""
        return range(self._stage.grid[0])

    def top(self, row: int) -> int:
        """First pixel of a row of blocks."""
        return row * self._blocks.side[0]

    def keys(self, row: int, name: str) -> Iterator[str]:
        """A table of each part of a row of blocks, from left to right."""
        for col in np.flatnonzero(self._there[row]).tolist():
            yield f"{self._stage.key(row, col)}{name}.parquet"


def check_stop(progress: Progress) -> None:
    """Raise `Cancelled` where the user asked to stop."""
    if progress.stop.is_set():
        raise Cancelled("the run", found="a request to stop", fix="Repeat the command to resume.")


def seam_sources(store: Store, seams: list[float]) -> Iterator[Source]:
    """What rows of blocks resolved, by the ymin of their first row."""
    for number in np.argsort(np.array(seams, float), kind="stable").tolist():
        if np.isfinite(seams[number]):
            yield sorted_source(store, f"{SEAMS}{number}/rows.parquet", seams[number])


def in_turn(*streams: Iterator[Source]) -> Iterator[Source]:
    """Sources of several streams by where they begin."""
    import heapq

    return heapq.merge(*streams, key=lambda source: source.least)


class MergeBoxes:
    """The one block of the stage that merges boxes.

    Memory bound
    ------------
    Open rows: see `SeamBoxes`. Then a row group of each part of two rows of blocks, see `merged`, and one of the table.
    """

    def __init__(self, plan: Plan, store: Store) -> None:
        self._plan, self._store = plan, store

    def finished(self, key: BlockKey) -> None:
        """See `Step.finished`."""

    def run(self, key: BlockKey, progress: Progress, image: Image) -> ShardReceipt:
        """See `Step.run`."""
        plan, store = self._plan, self._store
        assert isinstance(plan.finding, Detect), "a plan to detect"
        parts = Parts(plan, store)
        some = next((name for row in parts.rows for name in parts.keys(row, "open")), None)
        columns = [] if some is None else TableReader(store, some).names
        oriented = PLACE[0] in columns
        with progress.clock.stage("blend"):
            seams = self._seams(parts, columns, progress)
        high = reach(plan.grid, oriented)
        closed = (
            sorted_source(store, name, parts.top(row) - high)
            for row in parts.rows
            for name in parts.keys(row, "closed")
        )
        table = _Table(plan)
        more = ORIENTED if oriented else ()
        rows = few_at_once(merged(in_turn(closed, seam_sources(store, seams))), ROWS)
        with progress.clock.stage("write"):
            return write_objects(store, table.metadata, more, table.batches(rows, progress), table.oversized())

    def _seams(self, parts: Parts, columns: list[str], progress: Progress) -> list[float]:
        """Merge what is open; returns the ymin of the first row that each row of blocks resolved, NaN where none."""
        plan, store = self._plan, self._store
        assert isinstance(plan.finding, Detect), "a plan to detect"
        oriented = PLACE[0] in columns
        width = 5 if oriented else 4
        sweep = SeamBoxes(plan.finding.merging(plan.grid, oriented), width)
        firsts: list[float] = []
        for row in parts.rows:
            check_stop(progress)
            opened = [_opened(store, name, columns) for name in parts.keys(row, "open")]
            boxes = Boxes.joined([Boxes.empty(width), *opened])
            last = row == parts.rows[-1]
            below = np.inf if last else parts.top(row + 1) - reach(plan.grid, oriented)
            finished = to_table(sweep.add(boxes, below))
            firsts.append(finished["ymin"][0].as_py() if finished.num_rows else np.nan)
            if finished.num_rows:
                write_tables(store, f"{SEAMS}{row}/", {"rows": finished})
        return firsts


def _opened(store: Store, key: str, columns: list[str]) -> Boxes:
    """The open boxes of a part, which must have the columns of the others."""
    reader = TableReader(store, key)
    check_columns(store.where(key), columns, reader.names)
    return from_table(reader.whole())


class _Table:
    """Sorted rows of boxes to rows of objects, counting those that no tile may have seen whole."""

    def __init__(self, plan: Plan) -> None:
        self.metadata, self._factors = metadata_of(plan), factors_of(plan)
        grid = plan.grid
        self._most = [2 * axis.halo if axis.count > 1 else np.inf for axis in (grid.x, grid.y)]
        self._oversized = 0

    def batches(self, tables: Iterator[Any], progress: Progress) -> Iterator[Any]:
        first = 1
        for table in tables:
            check_stop(progress)
            width = table["xmax"].to_numpy() - table["xmin"].to_numpy()
            height = table["ymax"].to_numpy() - table["ymin"].to_numpy()
            self._oversized += int(((width > self._most[0]) | (height > self._most[1])).sum())
            yield box_batch(table, first, self.metadata, self._factors)
            first += table.num_rows

    def oversized(self) -> Iterator[int]:
        yield self._oversized
