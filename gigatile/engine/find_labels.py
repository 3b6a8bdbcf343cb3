"""Instances: the cells of a block are labelled, measured and compared with each other, into a part.

::

    a labelling function     tile ──model──▶ labels ─────────────────────────┐   cell = tile
                                                                             ├──▶ BlockInstances ──▶ part
    maps                     rows of the block and of the context around it  │
                             ──model, blended──▶ window ──method──▶ labels ──┘   cell = whole cores
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing, nullcontext
from typing import Any, NamedTuple

import numpy as np

from gigatile.engine.batches import Inference, Progress, predictions
from gigatile.engine.find_boxes import WantedReads, owned, read_of, seen_by
from gigatile.engine.parts import write_tables
from gigatile.engine.pipes import read_ahead
from gigatile.engine.record import BlockKey
from gigatile.engine.region import EVERYTHING, infer_region
from gigatile.engine.source import BlockSource
from gigatile.engine.tiles import Asked, Read, Validity, bands, tiles
from gigatile.images.image import Image
from gigatile.objects.cells import CellBlock, CellGrid
from gigatile.objects.fragments import BlockInstances, Part
from gigatile.objects.measures import Channels
from gigatile.outputs.shard import EMPTY_SHARD, ShardReceipt
from gigatile.plans.finding import Instances
from gigatile.plans.kept import Kept, Wanted, WantedTiles
from gigatile.plans.plan import Plan
from gigatile.storage.store import Store
from gigatile.tiling.region import Region

Array = np.ndarray[Any, Any]


class Cell(NamedTuple):
    """What was made of one cell, on its window."""

    row: int
    col: int
    labels: Array
    prediction: Array | None
    """float32 (classes, h, w); None where there are no classes."""
    valid: Array | None
    """None: everywhere."""


def cell_block(cells: CellGrid, region: Region) -> CellBlock:
    """The cells of a block, which has whole ones."""
    y, x = cells.side
    return CellBlock(range(region.y0 // y, -(-region.y1 // y)), range(region.x0 // x, -(-region.x1 // x)))


def channels_of(plan: Plan) -> Channels:
    """What is measured of each object."""
    method = plan.finding.method if isinstance(plan.finding, Instances) else None
    return Channels(0 if method is None else len(method.class_channels), len(plan.image.selected))


class FindLabels:
    """Blocks of instances.

    Memory bound
    ------------
    What the model's rows take (see `infer_region`), those of one row of cells with their context, one window's labels,
    and what `BlockInstances` holds.
    """

    def __init__(self, plan: Plan, store: Store, source: BlockSource, how: Inference) -> None:
        assert isinstance(plan.finding, Instances) and plan.cells is not None, "a plan for instances"
        self._plan, self._store, self._source, self._inference = plan, store, source, how
        self._finding, self._cells = plan.finding, plan.cells

    def finished(self, key: BlockKey) -> None:
        """See `Step.finished`."""
        self._source.finished(key)

    def run(self, key: BlockKey, progress: Progress, image: Image) -> ShardReceipt:
        """See `Step.run`."""
        plan, region, kept = self._plan, self._plan.blocks.region(key.row, key.col), self._plan.kept
        around = self._cells.context
        seen = region.grown(around, around).clipped(Region(0, 0, *plan.grid.shape))
        if kept is not None and not kept.touches(seen):
            rows, cols = owned(plan.grid, region)
            progress.tally.skipped += len(rows) * len(cols)
            return EMPTY_SHARD
        read = self._source.reader(key, image)
        made = (
            self._of_tiles(region, read, progress)
            if self._finding.method is None
            else self._of_maps(seen, region, read, progress)
        )
        block = cell_block(self._cells, region)
        instances = BlockInstances(self._cells, block, self._finding.agreement, channels_of(plan))
        with closing(made):
            for cell in made:
                window = self._cells.window(cell.row, cell.col)
                with progress.clock.stage("read"):
                    pixels = self._intensities(window, read)
                with progress.clock.stage("blend"):
                    instances.add(
                        cell.row,
                        cell.col,
                        cell.labels,
                        prediction=cell.prediction,
                        intensities=pixels,
                        valid=cell.valid,
                    )
        with progress.clock.stage("blend"):
            part = instances.finish()
        return self._stored(key, part, progress)

    def _intensities(self, window: Region, read: Read) -> Array:
        """Stored values (c, h, w) of a window of the result; where that has other pixels than the image, those under
        their centres."""
        output, (height, width) = self._plan.grid.y.output, self._plan.image.grid_shape
        if output.scale == 1:
            return read(window)[0]
        # A last, cut pixel may have its centre beyond the image: it goes with the image's last.
        rows = np.minimum(output.sources(window.y0, window.y1), height - 1)
        cols = np.minimum(output.sources(window.x0, window.x1), width - 1)
        hull = Region(int(rows[0]), int(cols[0]), int(rows[-1]) + 1, int(cols[-1]) + 1)
        pixels = read(hull)[0]
        return np.asarray(pixels[:, (rows - hull.y0)[:, None], cols - hull.x0])

    def _stored(self, key: BlockKey, part: Part, progress: Progress) -> ShardReceipt:
        if not part.labels.num_rows or not part.rows.num_rows:
            return EMPTY_SHARD
        import pyarrow as pa
        import pyarrow.compute as pc

        is_open = part.rows["open"]
        closed = part.rows.filter(pc.invert(is_open))
        closed = closed.append_column("first", pa.array(pc.list_element(closed["members"], 0)))
        tables = {"closed": closed, "open": part.rows.filter(is_open), "pairs": part.pairs, "labels": part.labels}
        folder = self._plan.stages[key.stage].key(key.row, key.col)
        with progress.clock.stage("write"):
            return write_tables(self._store, folder, tables, {"labels": 1})

    def _of_tiles(self, region: Region, read: Read, progress: Progress) -> Generator[Cell]:
        """Labels of a function, tile by tile."""
        grid, kept = self._plan.grid, self._plan.kept
        seen = seen_by(grid, region)
        rows, cols = owned(grid, region)
        validity = Validity(seen)
        asked = Asked(rows, cols, WantedReads(grid, kept), lambda row, col: read_of(grid, row, col))
        reading = bands(grid, asked, read, progress.clock)
        with read_ahead(reading, "gigatile-read") if len(rows) > 1 else nullcontext(reading) as ahead:
            cut = tiles(self._inference, asked, ahead, validity)
            for tile, labels in predictions(self._inference, cut, progress):
                if labels is None:
                    continue
                window = self._cells.window(tile.row, tile.col)
                inside = window.shifted(-grid.y.read(tile.row)[0], -grid.x.read(tile.col)[0]).slices()
                valid = validity.rows(window.y0, window.y1)
                valid = None if valid is None else valid[:, window.x0 - seen.x0 : window.x1 - seen.x0]
                yield Cell(tile.row, tile.col, labels[inside], None, self._kept(window, valid))

    def _of_maps(self, seen: Region, region: Region, read: Read, progress: Progress) -> Generator[Cell]:
        """Labels that the method makes of blended maps, cell by cell."""
        method, cells = self._finding.method, self._cells
        assert method is not None, "maps need a method"
        block = cell_block(cells, region)
        wanted: Wanted = EVERYTHING
        if self._plan.kept is not None:
            wanted = WantedTiles(self._plan.grid, seen, self._looked_at(self._plan.kept, seen, block))
        rows = infer_region(self._inference, seen, read, cells.side[0], progress, wanted=wanted)
        held = _Rows(rows)
        with closing(rows):
            for row in block.rows:
                first = cells.window(row, block.cols.start)
                maps, valid = held.upto(first.y0, first.y1)
                for col in block.cols:
                    window = cells.window(row, col)
                    along = slice(window.x0 - seen.x0, window.x1 - seen.x0)
                    known = None if valid is None else valid[:, along]
                    mask = self._kept(window, known)
                    if mask is not None and not mask.any():
                        continue
                    part = np.array(maps[:, :, along], np.float32, order="C")
                    if known is not None:
                        # Whether tiles without a valid pixel were inferred depends on the block: it must not matter.
                        part[:, ~known] = np.nan
                    with progress.clock.stage("blend"):
                        labels = method(part)
                    classes = part[list(method.class_channels)] if method.class_channels else None
                    yield Cell(row, col, labels, classes, mask)

    def _looked_at(self, kept: Kept, seen: Region, block: CellBlock) -> Array:
        """Pixels of what the block sees that lie in the window of a cell with something to keep: a cell is labelled
        from the maps of its whole window, or what is kept would depend on blocks, and on how much is kept."""
        mask = np.zeros(seen.shape, bool)
        for row in block.rows:
            for col in block.cols:
                window = self._cells.window(row, col)
                if kept.touches(window):
                    mask[window.shifted(-seen.y0, -seen.x0).slices()] = True
        return mask

    def _kept(self, window: Region, valid: Array | None) -> Array | None:
        """Which pixels of a window are valid and kept; None: all."""
        kept = self._plan.kept
        if kept is None:
            return valid
        wanted = kept.window(window)
        return wanted if valid is None else valid & wanted


class _Rows:
    """Finished rows of maps, held as long as a row of cells needs them."""

    def __init__(self, rows: Iterator[tuple[int, Array, Array | None]]) -> None:
        self._rows = rows
        self._held: list[tuple[int, Array, Array | None]] = []

    def upto(self, top: int, bottom: int) -> tuple[Array, Array | None]:
        """Maps (k, rows, x) of the rows ``[top, bottom)``, and which are valid; rows above `top` are let go."""
        self._held = [piece for piece in self._held if piece[0] + piece[1].shape[1] > top]
        while not self._held or self._held[-1][0] + self._held[-1][1].shape[1] < bottom:
            y, band, valid = next(self._rows)
            # The band is a view that is valid until the next step.
            self._held.append((y, band.copy(), None if valid is None else valid.copy()))
        first = self._held[0][0]
        inside = slice(top - first, bottom - first)
        maps = np.concatenate([band for _, band, _ in self._held], axis=1)[:, inside]
        if all(valid is None for _, _, valid in self._held):
            return maps, None
        masks = [np.ones(band.shape[1:], bool) if valid is None else valid for _, band, valid in self._held]
        return maps, np.concatenate(masks)[inside]
