"""The image as the blocks of one process read it: through one cache that knows what comes next."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from gigatile.engine.record import BlockKey
from gigatile.engine.schedule import ReadSchedule
from gigatile.engine.tiles import Array, Read
from gigatile.images.footprint import window_reader
from gigatile.images.image import Image
from gigatile.plans.plan import Plan
from gigatile.plans.reads import source_reads
from gigatile.tiling.region import Region


class BlockSource:
    """Reads windows for blocks, and tells the cache where they stand.

    Memory bound
    ------------
    The cache that the plan gave.
    """

    def __init__(self, plan: Plan, pending: npt.NDArray[np.bool_]) -> None:
        self._plan = plan
        level = plan.image.levels[plan.image.level]
        reads = source_reads(plan.grid, plan.image.grid, plan.beyond_px + plan.around_px)
        self._schedule = ReadSchedule(reads, plan.blocks, level, pending)
        plan.image.use_cache(plan.memory.cache_bytes, self._schedule)

    def finished(self, key: BlockKey) -> None:
        """The block has read all that it needs."""
        self._schedule.finished(key.row, key.col)

    def reader(self, key: BlockKey, image: Image) -> Read:
        """Reads windows for one block, and tells the cache where it stands."""
        rounded = self._plan.model.values.needs_bytes and not image.grid.is_level
        beyond = self._plan.beyond_px
        read_window = window_reader(image, self._plan.tiling, self._plan.mask)

        def read(window: Region) -> tuple[Array, Array | None]:
            self._schedule.reading(key.row, key.col, image.grid.first_row(window.y0 - beyond))
            pixels, valid = read_window(window)
            return np.rint(pixels).astype(np.uint8) if rounded else pixels, valid

        return read
