"""What the engine does for a block of a stage."""

from __future__ import annotations

from typing import Protocol

from gigatile.engine.batches import Progress
from gigatile.engine.record import BlockKey
from gigatile.images.image import Image
from gigatile.outputs.shard import ShardReceipt


class Step(Protocol):
    """Makes the artifact of one block; safe to call from several threads."""

    def run(self, key: BlockKey, progress: Progress, image: Image) -> ShardReceipt:
        """Compute and store.

        Parameters
        ----------
        key : BlockKey
        progress : Progress
            Clock, tally and stop signal of this block.
        image : Image
            The plan's, with notes of its own.

        Raises
        ------
        BlockError
            The model, the source or an earlier artifact is at fault; nothing of the block remains.
        StorageError
            The artifact cannot be written.
        """
        ...

    def finished(self, key: BlockKey) -> None:
        """The block is over, however."""
        ...
