"""Is everything that the ledger claims there, and is it what it was when it was written?"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from os import PathLike
from typing import Any

import numpy as np
import numpy.typing as npt

from gigatile.engine.record import BlockKey
from gigatile.ledger.reader import LedgerReader
from gigatile.ledger.state import DONE, EMPTY, FAILED, PENDING
from gigatile.ledger.writer import LedgerWriter
from gigatile.outputs.check import check_shard, check_tables
from gigatile.outputs.coordinates import GRID_MAPPING, coordinate_keys
from gigatile.outputs.omezarr import is_complete
from gigatile.outputs.shard import ShardReceipt
from gigatile.plans.stages import PREDICTION, Stage
from gigatile.runs.artifacts import ABSENT, Mask, artifact_sizes
from gigatile.runs.directory import RunDirectory
from gigatile.runs.status import existing_run, stored_stages

PROBLEMS = 10_000
"""Problems that are told one by one; all of them count, and all damaged blocks are done again."""
SIDE_BY_SIDE = 8
"""Shards that are read at the same time: for buckets, where most of the time is waiting."""


@dataclass(frozen=True, slots=True)
class Report:
    """What was checked, and what is wrong."""

    directory: str
    """A path or URL."""
    checked: int
    """Shards that were read and decoded."""
    complete: bool
    problems: tuple[str, ...]
    """One sentence each, of the first `PROBLEMS`."""
    count: int
    """All of them."""

    def to_json(self) -> dict[str, Any]:
        """As ``gigatile verify --json`` gives it."""
        return {
            "ok": not self.count,
            "complete": self.complete,
            "shards_checked": self.checked,
            "problem_count": self.count,
            "problems": list(self.problems),
        }

    def __str__(self) -> str:
        if not self.count:
            state = "complete" if self.complete else "not complete yet, but unharmed"
            return f"{self.directory}: {self.checked} shards checked, nothing wrong; {state}"
        lines = [f"{self.directory}: {self.count} problems in {self.checked} shards", *self.problems]
        if self.count > len(self.problems):
            lines.append(f"... and {self.count - len(self.problems)} more")
        return "\n".join([*lines, "Repeat the command of the run: damaged blocks are done again."])


@dataclass(slots=True)
class _Problems:
    """What is wrong; a text of each of the first ones."""

    texts: list[str] = field(default_factory=list)
    count: int = 0

    def add(self, texts: Iterable[str]) -> None:
        for text in texts:
            self.count += 1
            if len(self.texts) < PROBLEMS:
                self.texts.append(text)


def verify(directory: str | PathLike[str]) -> Report:
    """Check that the records cover every block, every shard against its record, and that there is nothing else.

    Every shard is read, its digest compared and each of its chunks decoded. Records of damaged shards are revoked,
    so that the next run does those blocks again; nothing else is changed. Shards are not looked at while the
    metadata that describe them are damaged.

    Memory bound
    ------------
    27 bytes a block, 40 more a block of the stage that is looked at, `PROBLEMS` texts, and, of each of
    `SIDE_BY_SIDE` shards, what `check_shard` or `check_tables` holds.

    Parameters
    ----------
    directory : path or URL

    Raises
    ------
    RunRefused
        There is no run in the directory.
    StorageError
        Something there cannot be read.
    """
    run = RunDirectory.at(directory)
    document = existing_run(run)
    problems = _Problems()
    problems.add(_metadata_problems(run, document["metadata"]))
    if problems.count:
        return Report(run.name, 0, document["complete"], tuple(problems.texts), problems.count)
    stages = stored_stages(run, document)
    reader = LedgerReader(run.ledger, [stage.grid for stage in stages])
    state = reader.scan()
    problems.add(_foreign(run, stages))
    checked, damaged = 0, []
    for number, stage in enumerate(stages):
        sizes = artifact_sizes(stage, run.store)
        if document["complete"] and stage.kind == "find" and not (sizes != ABSENT).any():
            # Parts are only for the stages after them: of a complete run they may be deleted.
            damaged.append(np.zeros(stage.grid, bool))
            continue
        look = _Stage(run, reader, number, stage)
        damaged.append(look.check(sizes, problems, complete=document["complete"]))
        checked += state.count(DONE, number)
    _revoke(run, reader, damaged)
    has_array = any(stage.layout for stage in stages)
    if document["complete"] and has_array and not is_complete(run.prediction):
        problems.add([f"{run.prediction.name}: not marked complete, though run.json is"])
    if state.dropped and state.count(PENDING):
        # Where every block has a record nothing is lost: what was torn was written again.
        problems.add([f"ledger: {state.dropped} torn records (their blocks are done again if nothing else has them)"])
    return Report(run.name, checked, document["complete"], tuple(problems.texts), problems.count)


def _metadata_problems(run: RunDirectory, recorded: Mapping[str, str]) -> list[str]:
    found = run.metadata_digests()
    return [
        f"{run.prediction.where(name)}: "
        + ("its SHA-256 differs from the recorded one" if name in found else "missing")
        for name, digest in recorded.items()
        if found.get(name) != digest
    ]


def _foreign(run: RunDirectory, stages: tuple[Stage, ...]) -> Iterator[str]:
    """Objects in the result that no block and no metadata explain."""
    arrays = {stage.level: stage for stage in stages if stage.layout is not None}
    if not arrays:
        return
    documents = {"zarr.json", *(f"{level}/zarr.json" for level in arrays)}
    if run.prediction.size(f"{GRID_MAPPING}/zarr.json") is not None:
        documents |= coordinate_keys(arrays[0].blocks.shape)
    for entry in run.prediction.entries():
        named = re.match(r"(\d{1,9})/", entry.key)
        stage = arrays.get(int(named[1])) if named else None
        if (stage is None or stage.place(f"{PREDICTION}/{entry.key}") is None) and entry.key not in documents:
            yield f"{run.prediction.where(entry.key)}: no block of this result has such a file"


class _Stage:
    """One stage of a run, and what the ledger says of it."""

    def __init__(self, run: RunDirectory, reader: LedgerReader, number: int, stage: Stage) -> None:
        self._store, self._state, self._number, self._stage = run.store, reader.state, number, stage
        self._digests = reader.digests(number)
        self._errors = self._state.errors()

    def check(self, sizes: npt.NDArray[np.int64], problems: _Problems, *, complete: bool) -> Mask:
        """Collect what is wrong; returns the blocks whose records are not true, shape (rows, cols)."""
        status = self._state.status(self._number)
        damaged = np.zeros(status.shape, bool)
        for key in self._keys(status == FAILED):
            problems.add([f"block {key}: failed: {self._errors.get(key, 'the ledger says why')}"])
        if complete:
            # A block in flight has no record; only a complete run must have all of them.
            problems.add(
                f"block {key}: no record, though the run is marked complete" for key in self._keys(status == PENDING)
            )
        extra = (status == EMPTY) & (sizes != ABSENT)
        damaged |= extra
        problems.add(
            f"block {key}: recorded as empty, but {self._store.where(self._object(key))} exists"
            for key in self._keys(extra)
        )
        for key, found in self._shard_problems(status == DONE):
            damaged[key.row, key.col] |= bool(found)
            problems.add(f"block {key}: {problem}" for problem in found)
        return damaged

    def _shard_problems(self, wanted: Mask) -> Iterator[tuple[BlockKey, list[str]]]:
        """What is wrong with each shard, in order."""
        with ThreadPoolExecutor(SIDE_BY_SIDE, "gigatile-verify") as pool:
            waiting: deque[tuple[BlockKey, Future[list[str]]]] = deque()
            try:
                for key in self._keys(wanted):
                    waiting.append((key, pool.submit(self._check, key)))
                    if len(waiting) >= 2 * SIDE_BY_SIDE:
                        key, future = waiting.popleft()
                        yield key, future.result()
                for key, future in waiting:
                    yield key, future.result()
            finally:
                pool.shutdown(cancel_futures=True)

    def _check(self, key: BlockKey) -> list[str]:
        nbytes = int(self._state.nbytes(self._number)[key.row, key.col])
        digest = self._digests[key.row * self._stage.grid[1] + key.col].tobytes().hex()
        receipt = ShardReceipt(nbytes, digest, False)
        if self._stage.layout is None:
            return check_tables(self._store, self._object(key), receipt)
        return check_shard(self._store, self._object(key), self._stage.layout, receipt)

    def _object(self, key: BlockKey) -> str:
        return self._stage.key(key.row, key.col)

    def _keys(self, wanted: Mask) -> Iterator[BlockKey]:
        cols = wanted.shape[1]
        return (BlockKey(self._number, *divmod(int(flat), cols)) for flat in np.flatnonzero(wanted))


def _revoke(run: RunDirectory, reader: LedgerReader, damaged: list[Mask]) -> None:
    """Make the damaged blocks pending again."""
    if not any(mask.any() for mask in damaged):
        return
    writer = LedgerWriter(run.ledger)
    keys = (BlockKey(stage, int(row), int(col)) for stage, mask in enumerate(damaged) for row, col in np.argwhere(mask))
    try:
        writer.revoke_all(reader.identities(keys), "damaged")
    finally:
        writer.close()
