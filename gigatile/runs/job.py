"""What an executor calls for each block, here or on a worker: compute, store, and then record."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Lock

import numpy as np
import numpy.typing as npt

from gigatile.engine.block import BlockEngine, BlockKey, BlockRecord
from gigatile.executors.executor import Notify
from gigatile.plans.plan import Plan
from gigatile.runs.ledger import Ledger


@dataclass
class BlockJob:
    """A plan and where its result goes; becomes an engine in the process that calls it first."""

    plan: Plan
    prediction: Path
    ledger: Ledger
    durable: bool
    pending: npt.NDArray[np.bool_]
    """Blocks of the prediction that are still to do; shape (rows, cols)."""
    token: str
    """Of this execution. Workers keep a job as long as it is the same: from level to level, but not when the same
    directory is run anew."""
    _engine: BlockEngine | None = None
    _lock: Lock = field(default_factory=Lock)

    def __reduce__(self) -> tuple[object, ...]:
        return BlockJob, (self.plan, self.prediction, self.ledger, self.durable, self.pending, self.token)

    def __call__(self, key: BlockKey, stop: Event, notify: Notify) -> BlockRecord:
        """Do one block. Its record is written last, by the process that did it, whoever still listens."""
        with self._lock:
            if self._engine is None:
                self._engine = BlockEngine(self.plan, self.prediction, durable=self.durable, pending=self.pending)
        record = self._engine.run(key, stop, notify)
        self.ledger.append(record)
        return record
