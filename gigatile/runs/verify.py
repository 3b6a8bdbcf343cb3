"""Is everything that the ledger claims there, and is it what it was when it was written?"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from gigatile.engine.block import BlockKey
from gigatile.outputs.check import check_shard
from gigatile.outputs.files import TEMPORARY_SUFFIX
from gigatile.outputs.layout import ArrayLayout
from gigatile.outputs.omezarr import is_complete, read_layouts
from gigatile.outputs.shard import ShardReceipt
from gigatile.runs.directory import RunDirectory
from gigatile.runs.ledger import Ledger, LedgerState
from gigatile.runs.status import existing_run


@dataclass(frozen=True, slots=True)
class Report:
    """What was checked, and what is wrong."""

    directory: Path
    checked: int
    """Shards that were read and decoded."""
    complete: bool
    problems: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """As ``gigatile verify --json`` gives it."""
        return {
            "ok": not self.problems,
            "complete": self.complete,
            "shards_checked": self.checked,
            "problems": list(self.problems),
        }

    def __str__(self) -> str:
        if not self.problems:
            state = "complete" if self.complete else "not complete yet, but unharmed"
            return f"{self.directory}: {self.checked} shards checked, nothing wrong; {state}"
        lines = [f"{self.directory}: {len(self.problems)} problems in {self.checked} shards", *self.problems]
        return "\n".join([*lines, "Repeat the command of the run: damaged blocks are done again."])


def verify(directory: str | PathLike[str]) -> Report:
    """Check that the records cover every block, every shard against its record, and that there is nothing else.

    Every shard is read, its digest compared and each of its chunks decoded. Records of damaged shards are revoked,
    so that the next run does those blocks again; nothing else is changed. Shards are not looked at while the
    metadata that describe them are damaged.

    Raises
    ------
    RunRefused
        There is no run in the directory.
    """
    run = RunDirectory(Path(directory))
    document = existing_run(run)
    ledger = Ledger(run.ledger, durable=True)
    state = ledger.read()
    problems = _metadata_problems(run, document["metadata"])
    if problems:
        return Report(run.path, 0, document["complete"], tuple(problems))
    layouts = read_layouts(run.prediction)
    checked = 0
    for level, layout in enumerate(layouts):
        for key in _keys(level, layout):
            found = _problems(run.prediction, layout, state, key, complete=document["complete"])
            record = state.record(key)
            checked += record is not None and record.status == "done"
            if found and record is not None and record.status != "failed":
                ledger.revoke(key, state.identities(key), "damaged")
            problems += found
    problems += _strangers(run.prediction, layouts)
    if document["complete"] and not is_complete(run.prediction):
        problems.append(f"{run.prediction}: not marked complete, though run.json is")
    if state.dropped:
        problems.append(f"ledger: {state.dropped} torn records (their blocks are done again if nothing else has them)")
    return Report(run.path, checked, document["complete"], tuple(problems))


def _metadata_problems(run: RunDirectory, recorded: dict[str, str]) -> list[str]:
    found = run.metadata_digests()
    return [
        f"{run.prediction / name}: " + ("its SHA-256 differs from the recorded one" if name in found else "missing")
        for name, digest in recorded.items()
        if found.get(name) != digest
    ]


def _strangers(root: Path, layouts: tuple[ArrayLayout, ...]) -> Iterator[str]:
    """Files that no block and no metadata explain; temporary ones are those of a live or a killed writer."""
    documents = {"zarr.json", *(f"{level}/zarr.json" for level in range(len(layouts)))}
    for folder, _, names in os.walk(root):
        for name in names:
            path = Path(folder, name)
            inside = path.relative_to(root).as_posix()
            if inside not in documents and not name.endswith(TEMPORARY_SUFFIX) and not _is_shard(inside, layouts):
                yield f"{path}: no block of this result has such a file"


def _is_shard(inside: str, layouts: tuple[ArrayLayout, ...]) -> bool:
    parts = re.fullmatch(r"(\d+)/(.+?(\d+)/(\d+))", inside)
    if parts is None or int(parts[1]) >= len(layouts):
        return False
    layout, row, col = layouts[int(parts[1])], int(parts[3]), int(parts[4])
    return row < layout.grid[0] and col < layout.grid[1] and layout.shard_key(row, col) == parts[2]


def _keys(level: int, layout: ArrayLayout) -> Iterator[BlockKey]:
    rows, cols = layout.grid
    return (BlockKey(level, row, col) for row in range(rows) for col in range(cols))


def _problems(root: Path, layout: ArrayLayout, state: LedgerState, key: BlockKey, *, complete: bool) -> list[str]:
    record = state.record(key)
    path = root / str(key.level) / layout.shard_key(key.row, key.col)
    if record is None or record.status == "failed":
        if record is not None:
            return [f"block {key}: failed: {record.error}"]
        # A shard without a record belongs to a block in flight; only a complete run must have all records.
        return [f"block {key}: no record, though the run is marked complete"] if complete else []
    if record.status == "empty":
        return [f"block {key}: recorded as empty, but {path} exists"] if path.exists() else []
    receipt = ShardReceipt(record.nbytes, record.digest, False)
    return [f"block {key}: {problem}" for problem in check_shard(path, layout, receipt)]
