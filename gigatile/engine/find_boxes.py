"""Detection: the tiles that a block owns through the detector, into a part.

::

    tile's read  ┌───────────────┐      each tile is inferred once, by the block that has its core; boxes are cut at the
                 │  ┌─────────┐  │      tile's read, so that what other blocks find lies within their halo: deeper in
                 │  │ core    │  │      than that a block is alone
                 │  └─────────┘  │
                 └───────────────┘
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import Any

import numpy as np

from gigatile.engine.batches import Inference, Progress, predictions
from gigatile.engine.parts import write_tables
from gigatile.engine.pipes import read_ahead
from gigatile.engine.record import BlockKey
from gigatile.engine.source import BlockSource
from gigatile.engine.tiles import Asked, Validity, bands, tiles
from gigatile.images.image import Image
from gigatile.models.boxes.rows import with_columns
from gigatile.objects.box_tables import to_table
from gigatile.objects.boxes import Boxes
from gigatile.objects.merge import Box, own_only, split
from gigatile.outputs.shard import EMPTY_SHARD, ShardReceipt
from gigatile.plans.finding import Detect
from gigatile.plans.kept import Kept
from gigatile.plans.plan import Plan
from gigatile.storage.store import Store
from gigatile.tiling.border import Border
from gigatile.tiling.region import Region
from gigatile.tiling.tiling import Grid

Rows = np.ndarray[Any, Any]
"""float64 (m, 6) or (m, 7), as a detector gives them."""


class FindBoxes:
    """Blocks of detections.

    Memory bound
    ------------
    What `gigatile.engine.tiles` holds, and all boxes of the block: 48 bytes each, and what merging them takes.
    """

    def __init__(self, plan: Plan, store: Store, source: BlockSource, how: Inference) -> None:
        assert isinstance(plan.finding, Detect), "a plan to detect"
        self._plan, self._store, self._source, self._inference = plan, store, source, how
        self._finding: Detect = plan.finding

    def finished(self, key: BlockKey) -> None:
        """See `Step.finished`."""
        self._source.finished(key)

    def run(self, key: BlockKey, progress: Progress, image: Image) -> ShardReceipt:
        """See `Step.run`."""
        grid, region = self._plan.grid, self._plan.blocks.region(key.row, key.col)
        seen = seen_by(grid, region)
        kept = self._plan.kept
        rows, cols = owned(grid, region)
        if kept is not None and not kept.touches(seen):
            progress.tally.skipped += len(rows) * len(cols)
            return EMPTY_SHARD
        validity = Validity(seen)
        asked = Asked(rows, cols, WantedReads(grid, kept), lambda row, col: read_of(grid, row, col))
        reading = bands(grid, asked, self._source.reader(key, image), progress.clock)
        found: list[Boxes] = []
        columns = 0
        with read_ahead(reading, "gigatile-read") if len(rows) > 1 else nullcontext(reading) as ahead:
            cut = tiles(self._inference, asked, ahead, validity)
            for tile, result in predictions(self._inference, cut, progress):
                if result is None or not len(result):
                    continue
                # Upright boxes here and turned ones there is the model's fault, and fails the block.
                columns = columns or result.shape[1]
                found.append(self._of_tile(tile.row, tile.col, with_columns(self._plan.model.where, result, columns)))
        with progress.clock.stage("blend"):
            return self._stored(
                key, region, _valid(Boxes.joined(found), validity, kept, seen) if found else None, progress
            )

    def _of_tile(self, row: int, col: int, result: Rows) -> Boxes:
        """The boxes of one tile in pixels of the grid; with ``ownership`` only its own."""
        boxes = placed(result, self._plan.grid, row, col, self._plan.tiling.parsed_border)
        if self._finding.merge != "ownership" or not len(boxes):
            return boxes
        merged = self._finding.merging(self._plan.grid, boxes.oriented)(boxes)
        return own_only(merged, own_core(self._plan.grid, row, col))

    def _stored(self, key: BlockKey, region: Region, boxes: Boxes | None, progress: Progress) -> ShardReceipt:
        if boxes is None or not len(boxes):
            return EMPTY_SHARD
        if self._finding.merge == "ownership":
            closed, opened = boxes, boxes.take(np.zeros(0, np.int64))
        else:
            merge = self._finding.merging(self._plan.grid, boxes.oriented)
            inside = interior(region, self._plan.grid, reach(self._plan.grid, boxes.oriented))
            closed, opened = split(boxes, merge, inside)
        with progress.clock.stage("write"):
            stage = self._plan.stages[key.stage]
            tables = {"closed": to_table(closed), "open": to_table(opened)}
            return write_tables(self._store, stage.key(key.row, key.col), tables)


class WantedReads:
    """The tiles that see a kept pixel."""

    def __init__(self, grid: Grid, kept: Kept | None) -> None:
        self._grid, self._kept = grid, kept

    def tile(self, row: int, col: int) -> bool:
        """See `Wanted.tile`."""
        return self._kept is None or self._kept.touches(read_of(self._grid, row, col))

    def rows(self, start: int, stop: int) -> None:
        """Nobody asks."""


def owned(grid: Grid, region: Region) -> tuple[range, range]:
    """Rows and columns of the tiles whose cores make up a block."""
    y, x = grid.stride
    return range(region.y0 // y, -(-region.y1 // y)), range(region.x0 // x, -(-region.x1 // x))


def read_of(grid: Grid, row: int, col: int) -> Region:
    """What a tile sees of the image."""
    (y0, y1), (x0, x1) = grid.y.read(row), grid.x.read(col)
    return Region(y0, x0, y1, x1).clipped(Region(0, 0, grid.y.size, grid.x.size))


def own_core(grid: Grid, row: int, col: int) -> Region:
    """The pixels whose objects are a tile's own; at the right and bottom edge of the image with the edge itself, on
    which the centre of a turned box may lie."""
    core = grid.core(row, col)
    return Region(core.y0, core.x0, core.y1 + (core.y1 == grid.y.size), core.x1 + (core.x1 == grid.x.size))


def seen_by(grid: Grid, region: Region) -> Region:
    """What the tiles of a block see of the image."""
    return region.grown(grid.y.halo, grid.x.halo).clipped(Region(0, 0, grid.y.size, grid.x.size))


def reach(grid: Grid, oriented: bool) -> float:
    """How far beyond a block the boxes of its tiles may lie: they are cut at the halo, turned ones reach half their
    diagonal beyond it, which is at most half a tile, and a pixel for what sine and cosine round."""
    return max(grid.y.halo, grid.x.halo) + (min(grid.y.tile, grid.x.tile) / 2 + 1 if oriented else 0)


def interior(region: Region, grid: Grid, reach_px: float) -> Box:
    """Where nothing can lie that another block finds."""
    x0 = region.x0 + reach_px if region.x0 > 0 else -math.inf
    y0 = region.y0 + reach_px if region.y0 > 0 else -math.inf
    x1 = region.x1 - reach_px if region.x1 < grid.x.size else math.inf
    y1 = region.y1 - reach_px if region.y1 < grid.y.size else math.inf
    return x0, y0, x1, y1


def placed(rows: Rows, grid: Grid, row: int, col: int, border: Border) -> Boxes:
    """What a detector gave for a tile, in pixels of the grid.

    Boxes whose centre lies outside of the image are mirror images, or of nothing, and go. Where pixels of the edge are
    repeated beyond it, objects at the edge are drawn out, and boxes stay that meet the image. Axis-aligned boxes are
    cut at what the tile sees of the image. Turned ones stay as they are; those whose diagonal is longer than the tile's
    shorter side go: no tile can have seen them.

    Parameters
    ----------
    rows : ndarray, float64, shape (m, 6) or (m, 7)
        In pixels of the tile.
    grid : Grid
    row, col : int
        Of the tile.
    border : Border
        What the tile saw beyond the image.
    """
    top, left = grid.y.read(row)[0], grid.x.read(col)[0]
    rows = np.asarray(rows, np.float64)
    scores, classes = rows[:, -2].astype(np.float32), rows[:, -1].astype(np.int32)
    if rows.shape[1] == 7:
        places = rows[:, :5] + [left, top, 0, 0, 0]
        inside = _in_image(places[:, 0], places[:, 1], grid, border)
        inside &= np.hypot(places[:, 2], places[:, 3]) <= min(grid.y.tile, grid.x.tile)
        # And not of a centre beside the tile, which would reach farther than anybody expects.
        y, x = places[:, 1] - top, places[:, 0] - left
        inside &= (x >= 0) & (x < grid.x.tile) & (y >= 0) & (y < grid.y.tile)
    else:
        places = rows[:, :4] + [left, top, left, top]
        x, y = (places[:, 0] + places[:, 2]) / 2, (places[:, 1] + places[:, 3]) / 2
        inside = _in_image(x, y, grid, border) | (border.rule == "edge")
        sees = read_of(grid, row, col)
        np.clip(places[:, 0::2], sees.x0, sees.x1, out=places[:, 0::2])
        np.clip(places[:, 1::2], sees.y0, sees.y1, out=places[:, 1::2])
        inside &= (places[:, 2] > places[:, 0]) & (places[:, 3] > places[:, 1])
    return Boxes(places, scores, classes).take(inside)


def _in_image(x: Rows, y: Rows, grid: Grid, border: Border) -> Rows:
    """Whether centres lie in the image; of mirrored edges with the edge itself, where an object at the edge and its
    mirror image have their middle."""
    height, width = grid.y.size, grid.x.size
    if border.rule == "symmetric":
        return (x >= 0) & (x <= width) & (y >= 0) & (y <= height)
    return (x >= 0) & (x < width) & (y >= 0) & (y < height)


def _valid(boxes: Boxes, validity: Validity, kept: Kept | None, seen: Region) -> Boxes:
    """The boxes whose centre lies on a valid pixel that is kept."""
    valid = validity.rows(seen.y0, seen.y1)
    if kept is not None:
        wanted = kept.window(seen)
        valid = wanted if valid is None else valid & wanted
    if valid is None:
        return boxes
    x, y = np.floor(boxes.centres.T).astype(np.int64)
    x, y = np.clip(x, seen.x0, seen.x1 - 1), np.clip(y, seen.y0, seen.y1 - 1)
    return boxes.take(valid[y - seen.y0, x - seen.x0])
