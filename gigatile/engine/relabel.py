"""Labels of a block with their final numbers, as a shard of the result."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from gigatile.engine.batches import Progress
from gigatile.engine.parts import TableReader
from gigatile.engine.record import BlockKey
from gigatile.images.image import Image
from gigatile.objects.cells import Ids
from gigatile.objects.label_rasters import unpacked
from gigatile.objects.relabel import relabel
from gigatile.outputs.shard import EMPTY_SHARD, ShardReceipt, ShardWriter
from gigatile.plans.plan import LABELS, Plan
from gigatile.plans.stages import IDS, PREDICTION
from gigatile.storage.store import Store


class Relabel:
    """Blocks of labels.

    Memory bound
    ------------
    4 bytes a pixel of the block, one cell twice, and what `ShardWriter` holds.
    """

    def __init__(self, plan: Plan, store: Store) -> None:
        assert plan.cells is not None, "a plan for instances"
        self._plan, self._store, self._cells = plan, store, plan.cells

    def finished(self, key: BlockKey) -> None:
        """See `Step.finished`."""

    def run(self, key: BlockKey, progress: Progress, image: Image) -> ShardReceipt:
        """See `Step.run`."""
        plan, layout = self._plan, self._plan.layouts[0]
        folder = plan.stages[0].key(key.row, key.col)
        if self._store.size(f"{folder}labels.parquet") is None:
            return EMPTY_SHARD
        with progress.clock.stage("blend"):
            labels = self._labels(folder, key)
        with (
            progress.clock.stage("write"),
            ShardWriter(
                self._store.below(PREDICTION), f"0/{layout.shard_key(key.row, key.col)}", layout, labels.shape
            ) as writer,
        ):
            for top in range(0, labels.shape[0], layout.chunk[0]):
                writer.write(labels[top : top + layout.chunk[0]])
            return writer.finish()

    def _labels(self, folder: str, key: BlockKey) -> npt.NDArray[np.uint32]:
        region, cells = self._plan.blocks.region(key.row, key.col), self._cells
        height, width = region.shape
        labels = np.zeros((height, width), LABELS)
        working, final = _ids(self._store, folder)
        reader = TableReader(self._store, f"{folder}labels.parquet")
        kinds = reader.whole(["kind"])["kind"].to_pylist()
        for number, kind in enumerate(kinds):
            if kind != "core":
                continue
            row = reader.group(number).to_pylist()[0]
            patch = unpacked(row)
            index = cells.index(row["cell_row"], row["cell_col"])
            inside = patch.region.shifted(-region.y0, -region.x0).slices()
            labels[inside] = relabel(patch.labels, index, working, final)
        return labels


def _ids(store: Store, folder: str) -> tuple[Ids, Ids]:
    """Working and final ids of a block, sorted by the former."""
    table = TableReader(store, f"{folder}{IDS}").whole()
    return table["working"].to_numpy(), table["final"].to_numpy()
