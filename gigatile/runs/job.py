"""What an executor calls for blocks, here or on a worker: say so, compute, store, and then record."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from threading import Event, Lock
from typing import Any

import numpy as np
import numpy.typing as npt

from gigatile.engine.block import BlockEngine
from gigatile.engine.record import BlockKey, BlockRecord
from gigatile.errors import BlockError, StorageError
from gigatile.executors.executor import Failure, Notify, Outcome
from gigatile.images.image import DEFAULT_CACHE_BYTES
from gigatile.ledger.writer import LedgerWriter
from gigatile.models.shipping import Shipment, offer
from gigatile.plans.plan import Plan
from gigatile.runs.directory import RunDirectory
from gigatile.runs.versions import versions


@dataclass
class BlockJob:
    """A plan and where its result goes; becomes an engine in the process that calls it first."""

    plan: Plan
    directory: RunDirectory
    pending: npt.NDArray[np.bool_]
    """Blocks of the first stage that are still to do; shape (rows, cols)."""
    token: str
    """Of this execution: of a directory that is run anew, workers forget what they knew."""
    shipment: Shipment | None = None
    """Where a worker finds the model's files, if it does not have them."""
    planned_with: dict[str, str] = field(default_factory=versions)
    """Versions of the libraries of whoever planned."""
    _engine: BlockEngine | None = None
    _ledger: LedgerWriter | None = None
    _lock: Lock = field(default_factory=Lock)

    def __reduce__(self) -> tuple[object, ...]:
        import cloudpickle

        # The plan is unpickled only once the worker knows where the model's files are.
        plan = cloudpickle.dumps(self.plan)
        others = ("directory", "token", "planned_with")
        # A bit a block, so that the job of a million blocks travels with the message that brings it.
        pending = np.packbits(self.pending), self.pending.shape
        return _arrived, (plan, self.shipment, pending, {name: getattr(self, name) for name in others})

    def prepare(self) -> Sequence[str]:
        """See `Job.prepare`: the model is loaded by now; is the run directory the same one here?"""
        found = self.directory.read()
        if found is None or found.get("token") != self.token:
            raise StorageError(
                self.directory.name,
                expected="the run directory that the client works in",
                found="no run.json" if found is None else "another run",
                fix="See that all workers reach this directory under the same path, or use a bucket.",
            )
        here = versions()
        other = [
            f"{name} {there} -> {here.get(name)}"
            for name, there in self.planned_with.items()
            if here.get(name) != there
        ]
        return [f"has other library versions ({', '.join(other)}): last bits may differ"] if other else []

    def __call__(self, keys: Sequence[BlockKey], alone: bool, stop: Event, notify: Notify) -> Outcome:
        """Do some blocks. Their records are written last, by the process that did them, whoever still listens."""
        engine, ledger = self._begun()
        core_px = self.plan.grid.stride[0] * self.plan.grid.stride[1]
        attempt = ledger.started(keys, alone=alone and len(keys) == 1)
        records: list[BlockRecord] = []
        failures: list[Failure] = []
        try:
            for key in keys:
                try:
                    records.append(
                        replace(engine.run(key, stop, lambda tiles: notify(tiles, tiles * core_px)), attempt=attempt)
                    )
                except BlockError as error:
                    failures.append(Failure(key, error))
        except BaseException:
            # This process lives on: nobody is to blame it. Where the storage is gone, the first error says so.
            with suppress(StorageError):
                ledger.append(records)
                ledger.released(attempt)
            raise
        ledger.append(records)
        if failures:
            ledger.released(attempt)
        return Outcome(records, failures)

    def rest(self) -> None:
        """See `Job.rest`: the decoded chunks, and this process's log in the ledger."""
        with self._lock:
            if self._engine is not None:
                self._engine = None
                self.plan.image.use_cache(DEFAULT_CACHE_BYTES, None)
            if self._ledger is not None:
                self._ledger.close()

    def _begun(self) -> tuple[BlockEngine, LedgerWriter]:
        with self._lock:
            if self._engine is None:
                self._engine = BlockEngine(self.plan, self.directory.store, pending=self.pending)
            if self._ledger is None:
                self._ledger = LedgerWriter(self.directory.ledger)
            return self._engine, self._ledger


def _arrived(
    plan: bytes,
    shipment: Shipment | None,
    pending: tuple[npt.NDArray[np.uint8], tuple[int, int]],
    fields: dict[str, Any],
) -> BlockJob:
    if shipment is not None:
        offer(shipment)
    bits, (rows, cols) = pending
    mask = np.unpackbits(bits, count=rows * cols).astype(bool).reshape(rows, cols)
    return BlockJob(pickle.loads(plan), pending=mask, shipment=shipment, **fields)
