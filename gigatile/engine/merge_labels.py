"""The instances of all blocks, each once: seams are compared row by row, all rows put in order, and numbered.

::

    open rows, strips ──▶ SeamLabels ──▶ parts/seams/0/rows.parquet ... ┐                  ┌─▶ objects.parquet
    closed rows ────────────────────────────────────────────────────────┴─▶ merged ──▶ ids ┴─▶ parts/3/7/ids/ ...
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from gigatile.engine.batches import Progress
from gigatile.engine.find_labels import channels_of
from gigatile.engine.merge_boxes import SEAMS, Parts, check_stop, in_turn, seam_sources
from gigatile.engine.objects_table import factors_of, metadata_of, objects_batch, write_objects
from gigatile.engine.parts import ROWS, TableReader, sorted_source, write_tables
from gigatile.engine.record import BlockKey
from gigatile.errors import BlockError
from gigatile.images.image import Image
from gigatile.objects.cells import LABEL_BITS, CellGrid, Ids, Patch, Side
from gigatile.objects.instance_rows import to_objects
from gigatile.objects.label_rasters import unpacked
from gigatile.objects.relabel import numbering
from gigatile.objects.seam_labels import SeamLabels
from gigatile.objects.sorted_rows import few_at_once, merged
from gigatile.outputs.objects_schema import measurement_columns
from gigatile.outputs.shard import ShardReceipt
from gigatile.plans.finding import Instances
from gigatile.plans.plan import LABELS, Plan
from gigatile.plans.stages import IDS, NUMBERED
from gigatile.storage.store import Store


class MergeLabels:
    """The one block of the stage that joins instances.

    Memory bound
    ------------
    Open rows: see `SeamLabels`. Then a row group of each part of two rows of blocks, see `merged`, one of the table,
    and 16 bytes for each label of the rows of blocks that objects still come from.
    """

    def __init__(self, plan: Plan, store: Store) -> None:
        assert isinstance(plan.finding, Instances) and plan.cells is not None, "a plan for instances"
        self._plan, self._store = plan, store
        self._finding, self._cells = plan.finding, plan.cells
        self._channels = channels_of(plan)

    def finished(self, key: BlockKey) -> None:
        """See `Step.finished`."""

    def run(self, key: BlockKey, progress: Progress, image: Image) -> ShardReceipt:
        """See `Step.run`."""
        plan, store = self._plan, self._store
        parts = Parts(plan, store)
        with progress.clock.stage("blend"):
            seams = self._seams(parts, progress)
        closed = (
            sorted_source(store, name, parts.top(row)) for row in parts.rows for name in parts.keys(row, "closed")
        )
        metadata, more = metadata_of(plan), measurement_columns(plan.image.channels)
        rows = few_at_once(merged(in_turn(closed, seam_sources(store, seams))), ROWS)
        with progress.clock.stage("write"):
            receipt = write_objects(store, metadata, more, self._batches(rows, progress), iter([0]))
        store.write(NUMBERED, b"")
        return receipt

    def _seams(self, parts: Parts, progress: Progress) -> list[float]:
        """Join what is open; returns the ymin of the first row that each row of blocks finished, NaN where none."""
        import pyarrow as pa
        import pyarrow.compute as pc

        store, side = self._store, self._plan.blocks.side
        cells = (side[0] // self._cells.side[0], side[1] // self._cells.side[1])
        strips = Strips(self._plan, store, self._cells)
        sweep = SeamLabels(self._cells, cells, self._finding.agreement, self._channels, strips.load)
        firsts: list[float] = []
        for row in parts.rows:
            check_stop(progress)
            names = zip(parts.keys(row, "open"), parts.keys(row, "pairs"), strict=True)
            finished = sweep.add([(TableReader(store, o).whole(), TableReader(store, p).whole()) for o, p in names])
            finished = finished.append_column("first", pa.array(pc.list_element(finished["members"], 0)))
            firsts.append(float(finished["ymin"][0].as_py()) if finished.num_rows else np.nan)
            if finished.num_rows:
                write_tables(store, f"{SEAMS}{row}/", {"rows": finished})
        return firsts

    def _batches(self, tables: Iterator[Any], progress: Progress) -> Iterator[Any]:
        """Rows of objects; the ids of each block are written once no object of it can follow."""
        import shapely

        metadata, factors = metadata_of(self._plan), factors_of(self._plan)
        ids = _BlockIds(self._plan, self._store, self._cells)
        first = 1
        for table in tables:
            check_stop(progress)
            if first + table.num_rows > np.iinfo(LABELS).max:
                raise BlockError("objects", expected=f"at most {np.iinfo(LABELS).max - 1} of them", found="more")
            numbers = np.arange(first, first + table.num_rows, dtype=np.uint64)
            ids.add(*numbering(table["members"], numbers), above=float(table["ymin"][-1].as_py()))
            rows = to_objects(table, self._channels, self._plan.image.channels, factors)
            shapes = shapely.from_wkb(rows["geometry"].to_numpy(zero_copy_only=False))
            columns = {name: rows[name] for name in rows.column_names if name not in ("members", "geometry")}
            yield objects_batch(columns, first, metadata, shapes)
            first += table.num_rows
        ids.add(np.empty(0, np.uint64), np.empty(0, np.uint64), above=np.inf)


class Strips:
    """Loads the strips of cells that face other blocks.

    Memory bound
    ------------
    The label tables of three blocks, compressed.
    """

    def __init__(self, plan: Plan, store: Store, cells: CellGrid) -> None:
        self._stage, self._store, self._cells = plan.stages[0], store, cells
        self._high = plan.blocks.side[0] // cells.side[0]
        self._wide = plan.blocks.side[1] // cells.side[1]
        self._tables: dict[tuple[int, int], dict[tuple[int, int, str], tuple[TableReader, int]]] = {}

    def load(self, row: int, col: int, side: Side) -> Patch | None:
        """See `gigatile.objects.seam_labels.Strips`."""
        place = (row // self._high, col // self._wide)
        if place not in self._tables:
            self._tables[place] = self._index(*place)
            while len(self._tables) > 3:
                del self._tables[next(iter(self._tables))]
        known = self._tables[place].get((row, col, side))
        return None if known is None else unpacked(known[0].group(known[1]).to_pylist()[0])

    def _index(self, row: int, col: int) -> dict[tuple[int, int, str], tuple[TableReader, int]]:
        """Which row group holds which strip; nothing for a block without a part."""
        key = f"{self._stage.key(row, col)}labels.parquet"
        if self._store.size(key) is None:
            return {}
        reader = TableReader(self._store, key)
        places = reader.whole(["cell_row", "cell_col", "kind"]).to_pylist()
        return {(p["cell_row"], p["cell_col"], p["kind"]): (reader, number) for number, p in enumerate(places)}


class _BlockIds:
    """Final ids on their way to the blocks whose labels they replace."""

    def __init__(self, plan: Plan, store: Store, cells: CellGrid) -> None:
        self._stage, self._store, self._cells = plan.stages[0], store, cells
        self._high = plan.blocks.side[0] // cells.side[0]
        self._wide = plan.blocks.side[1] // cells.side[1]
        self._waiting: dict[int, list[tuple[Ids, Ids]]] = {}

    def add(self, working: Ids, final: Ids, *, above: float) -> None:
        """Take ids in; what lies in rows of blocks that end above `above` is complete, and written."""
        rows = (working >> np.uint64(LABEL_BITS)).astype(np.int64) // self._cells.cols // self._high
        for row in np.unique(rows).tolist():
            here = rows == row
            self._waiting.setdefault(row, []).append((working[here], final[here]))
        for row in sorted(self._waiting):
            if (row + 1) * self._high * self._cells.side[0] <= above:
                self._write(row, self._waiting.pop(row))

    def _write(self, row: int, pieces: list[tuple[Ids, Ids]]) -> None:
        import pyarrow as pa

        working, final = (np.concatenate(side) for side in zip(*pieces, strict=True))
        cols = (working >> np.uint64(LABEL_BITS)).astype(np.int64) % self._cells.cols // self._wide
        for col in np.unique(cols).tolist():
            here = cols == col
            order = np.argsort(working[here])
            ids = pa.table({"working": working[here][order], "final": final[here][order]})
            folder = f"{self._stage.key(row, col)}{IDS}".removesuffix("ids.parquet")
            write_tables(self._store, folder, {"ids": ids})
