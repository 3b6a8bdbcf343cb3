"""Plans of any number of blocks that cost nothing to compute: an image of nodata, and a model that does nothing.

Every block is empty, so no shards are written and what is measured is everything around them. The image is made of
units as large as a block, 16 x 16 px; a million blocks are 16,000 x 16,000 px.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isqrt
from threading import Event
from typing import Any

import numpy as np

import gigatile as gt
from gigatile.engine.record import BlockKey, BlockRecord
from gigatile.executors.executor import Notify, Outcome
from gigatile.images.decode_units import edges
from gigatile.images.image import Image
from gigatile.images.info import ImageInfo, Level
from gigatile.ledger.writer import LedgerWriter
from gigatile.machine import peak_resident_bytes
from gigatile.outputs.layout import ArrayLayout
from gigatile.plans.plan import Plan
from gigatile.runs.directory import RunDirectory

SIDE = 16
"""Of a block, in pixels; tile, chunk and shard are the same."""
TILING = gt.Tiling(tile=SIDE, overlap=0, margin=0, blend="trim", block=SIDE)


class NodataSource:
    """An image of nodata; see `gigatile.images.info.Source`.

    Parameters
    ----------
    rows, cols : int
        Decode units, each as large as a block.
    """

    def __init__(self, rows: int, cols: int) -> None:
        self._grid = rows, cols
        shape = rows * SIDE, cols * SIDE
        level = Level(shape, 1.0, (SIDE, SIDE), edges(shape[0], SIDE), edges(shape[1], SIDE))
        self._info = ImageInfo("<nodata>", "numpy", np.dtype("uint8"), ("c0",), (level,), nodata=0)

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), self._grid

    @property
    def info(self) -> ImageInfo:
        """What is known of it."""
        return self._info

    def decode(self, level: int, row: int, col: int) -> np.ndarray[Any, Any]:
        """One unit."""
        return np.zeros((1, SIDE, SIDE), np.uint8)

    def identity(self) -> Mapping[str, str | int]:
        """Its size says everything."""
        return {"sha256": hashlib.sha256(repr(self._grid).encode()).hexdigest()}


def no_op(batch: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The model; never called but in the trial, since tiles without a valid pixel are skipped."""
    return batch


def empty_plan(blocks: int) -> Plan:
    """A plan of that many blocks, in a rectangle that is as nearly a square as their number allows."""
    rows = max(number for number in range(1, isqrt(blocks) + 1) if blocks % number == 0)
    return gt.plan(Image(NodataSource(rows, blocks // rows)), no_op, TILING)


@dataclass
class RecordingJob:
    """Says that blocks were begun and are empty, and does nothing else; in the place of `BlockJob`."""

    directory: RunDirectory
    layouts: Sequence[ArrayLayout]
    _ledger: LedgerWriter = field(init=False)

    def __post_init__(self) -> None:
        self._ledger = LedgerWriter(self.directory.ledger)

    def prepare(self) -> Sequence[str]:
        """Nothing to find out."""
        return ()

    def rest(self) -> None:
        """Let go of the log."""
        self._ledger.close()

    def __call__(self, keys: Sequence[BlockKey], alone: bool, stop: Event, notify: Notify) -> Outcome:
        """Record them."""
        attempt = self._ledger.started(keys, alone=alone and len(keys) == 1)
        records = [empty_record(key, self.layouts, attempt) for key in keys]
        self._ledger.append(records)
        return Outcome(records)


def empty_record(key: BlockKey, layouts: Sequence[ArrayLayout], attempt: str) -> BlockRecord:
    """What the engine records of an empty block: as long as its line."""
    return BlockRecord(
        key,
        "empty",
        layouts[key.stage].region(key.row, key.col).pixels,
        skipped=1,
        units_decoded=1,
        seconds={"read": 0.0003, "blend": 0.0001, "write": 0.0001},
        peak_rss_bytes=peak_resident_bytes(),
        attempt=attempt,
    )


def write_ledger(plan: Plan, directory: RunDirectory, done: int, together: int = 512) -> None:
    """Record the first `done` blocks of the prediction as a run does: attempts, and records of them."""
    ledger, cols = LedgerWriter(directory.ledger), plan.blocks.grid[1]
    for start in range(0, done, together):
        keys = [BlockKey(0, *divmod(place, cols)) for place in range(start, min(start + together, done))]
        attempt = ledger.started(keys, alone=False)
        ledger.append([empty_record(key, plan.layouts, attempt) for key in keys])
    ledger.close()
