"""Segmentation: a block of the image through the model into a shard."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, closing
from typing import Any

import numpy as np
import numpy.typing as npt

from gigatile.engine.batches import Inference, Progress
from gigatile.engine.pipes import WriteBehind
from gigatile.engine.record import BlockKey
from gigatile.engine.region import EVERYTHING, infer_region
from gigatile.engine.scales import ScaledEngine, ScaledWork, averaged_rows
from gigatile.engine.source import BlockSource
from gigatile.images.image import Image
from gigatile.outputs.pyramid import downsample_shard
from gigatile.outputs.shard import EMPTY_SHARD, ShardReceipt, ShardWriter
from gigatile.plans.kept import Wanted, WantedTiles
from gigatile.plans.plan import Plan
from gigatile.plans.stages import PREDICTION
from gigatile.storage.store import Store

Array = np.ndarray[Any, Any]


class Predict:
    """Blocks of the prediction."""

    def __init__(
        self, plan: Plan, store: Store, source: BlockSource, how: Inference, pending: npt.NDArray[np.bool_]
    ) -> None:
        self._plan, self._store, self._source, self._inference = plan, store.below(PREDICTION), source, how
        self._kept = plan.kept
        self._scales = [ScaledEngine(plan, index, how, pending) for index in range(len(plan.passes))]

    def finished(self, key: BlockKey) -> None:
        """See `Step.finished`."""
        self._source.finished(key)
        for scale in self._scales:
            scale.finished(key.row, key.col)

    def run(self, key: BlockKey, progress: Progress, image: Image) -> ShardReceipt:
        """See `Step.run`."""
        plan, layout, rule = self._plan, self._plan.layouts[0], self._plan.rule
        assert rule is not None, "a plan for maps"
        region = layout.region(key.row, key.col)
        where = f"block {key} (rows {region.y0}-{region.y1}, columns {region.x0}-{region.x1})"
        mask: Array | None = None
        if self._kept is not None:
            if not self._kept.touches(region):
                progress.tally.skipped += plan.grid.tiles_of(region)
                return EMPTY_SHARD
            mask = self._kept.window(region)
            mask = None if mask.all() else mask
        wanted: Wanted = EVERYTHING if mask is None else WantedTiles(plan.grid, region, mask)
        reader = self._source.reader(key, image)
        rows = infer_region(self._inference, region, reader, layout.chunk[0], progress, wanted=wanted)
        if self._scales:
            work = ScaledWork.begin(self._scales, (key.row, key.col), region, mask, progress)
            rows = averaged_rows(rows, work, progress)
        with ShardWriter(self._store, f"0/{layout.shard_key(key.row, key.col)}", layout, region.shape) as writer:

            def write(band: Array) -> None:
                with progress.clock.stage("write"):
                    writer.write(band)

            with ExitStack() as stack:
                stack.enter_context(closing(rows))
                put: Callable[[Array], None] = write
                if region.shape[0] > layout.chunk[0]:
                    # There is no second band to blend meanwhile otherwise, and a thread costs 0.3 ms.
                    put = stack.enter_context(WriteBehind(write, "gigatile-write")).put
                for _, band, valid in rows:
                    with progress.clock.stage("blend"):
                        finished = rule.finished(band, valid, where)
                    put(finished)
            with progress.clock.stage("write"):
                return writer.finish()


class Downsample:
    """Blocks of the pyramid."""

    def __init__(self, plan: Plan, store: Store) -> None:
        self._plan, self._store = plan, store.below(PREDICTION)

    def finished(self, key: BlockKey) -> None:
        """See `Step.finished`."""

    def run(self, key: BlockKey, progress: Progress, image: Image) -> ShardReceipt:
        """See `Step.run`."""
        plan = self._plan
        level, method = plan.stages[key.stage].level, plan.metadata.downsampling
        with progress.clock.stage("write"):
            return downsample_shard(self._store, plan.layouts, level, key.row, key.col, method=method)
