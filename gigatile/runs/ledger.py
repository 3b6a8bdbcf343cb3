"""What happened to each block, in files that survive whatever happens to the processes that write them.

One segment a writing process, append-only; a line is ``crc32 of the rest, in hex``, a blank, and JSON. A torn last
line fails its CRC and is dropped. The state of a block is a function of the *set* of its records, so the order of
segments and clocks do not matter: a finished record counts unless a ``damaged`` or ``retried`` record revokes it by
its id, and a failed one counts only where nothing finished.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any, Literal

from gigatile.engine.block import BlockKey, BlockRecord
from gigatile.outputs.files import storage_error, sync_directory


@dataclass(slots=True)
class LedgerState:
    """What the records say, all together. A monoid: `add` in any order."""

    finished: dict[BlockKey, dict[BlockRecordId, BlockRecord]] = field(default_factory=dict)
    failed: dict[BlockKey, dict[BlockRecordId, BlockRecord]] = field(default_factory=dict)
    revoked: set[str] = field(default_factory=set)
    dropped: int = 0
    """Lines whose CRC did not match."""

    def add(self, entry: dict[str, Any]) -> None:
        """Take one record into account."""
        if entry["status"] in ("damaged", "retried"):
            self.revoked.update(entry["revokes"])
            return
        key = BlockKey.parse(entry["block"])
        fields = {name: value for name, value in entry.items() if name not in ("id", "block")}
        record = BlockRecord(block=key, **fields)
        kept = self.failed if record.status == "failed" else self.finished
        kept.setdefault(key, {})[entry["id"]] = record

    def record(self, key: BlockKey) -> BlockRecord | None:
        """The record that counts for a block; None: still to do."""
        for kept in (self.finished, self.failed):
            standing = [identity for identity in kept.get(key, {}) if identity not in self.revoked]
            if standing:
                return kept[key][min(standing)]
        return None

    def records(self, level: int | None = None) -> Iterator[BlockRecord]:
        """The records that count, of one level or of all."""
        for key in sorted({*self.finished, *self.failed}):
            if level is None or key.level == level:
                record = self.record(key)
                if record is not None:
                    yield record

    def identities(self, key: BlockKey) -> list[str]:
        """Ids of the records of a block."""
        return sorted({**self.finished.get(key, {}), **self.failed.get(key, {})})


BlockRecordId = str


class Ledger:
    """The ledger of one run directory, and this process's segment of it.

    Memory bound
    ------------
    Appending holds one record; reading holds one record a block.
    """

    def __init__(self, directory: Path, *, durable: bool) -> None:
        self._directory, self._durable = directory, durable
        self._lock = Lock()
        self._descriptor: int | None = None

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (self._directory, self._durable)

    def close(self) -> None:
        """Let go of the segment; a later record begins another."""
        with self._lock:
            if self._descriptor is not None:
                os.close(self._descriptor)
                self._descriptor = None

    def __del__(self) -> None:
        # On workers nobody knows when the last block of a run was done.
        self.close()

    def append(self, record: BlockRecord) -> None:
        """Record a block; with `durable`, on disk when this returns.

        Raises
        ------
        StorageError
            The segment cannot be written.
        """
        values = {name: getattr(record, name) for name in BlockRecord.__slots__}
        self._write({**values, "block": str(record.block), "id": secrets.token_hex(6)})

    def revoke(self, key: BlockKey, identities: list[str], why: Literal["damaged", "retried"]) -> None:
        """Declare records of a block void: its shard is not what they say, or what failed is tried again."""
        self._write({"block": str(key), "status": why, "revokes": identities, "id": secrets.token_hex(6)})

    def read(self) -> LedgerState:
        """All segments together."""
        state = LedgerState()
        for segment in sorted(self._directory.glob("*.jsonl")):
            with segment.open("rb") as file:
                for line in file:
                    entry = _parse(line)
                    if entry is None:
                        state.dropped += 1
                    else:
                        state.add(entry)
        return state

    def _write(self, entry: dict[str, Any]) -> None:
        body = json.dumps(entry, sort_keys=True, separators=(",", ":")).encode()
        line = b"%08x %s\n" % (zlib.crc32(body), body)
        try:
            with self._lock:
                if self._descriptor is None:
                    self._descriptor = self._open()
                # One write call a record: a record is torn only by a crash or a full disk, never by a thread.
                if os.write(self._descriptor, line) < len(line):
                    self._abandon_segment()
                if self._durable:
                    os.fsync(self._descriptor)
        except OSError as error:
            raise storage_error(self._directory, error) from error

    def _abandon_segment(self) -> None:
        """After a torn record nothing more may follow it: the next record begins a segment of its own."""
        assert self._descriptor is not None
        os.close(self._descriptor)
        self._descriptor = None
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _open(self) -> int:
        self._directory.mkdir(parents=True, exist_ok=True)
        name = f"{os.uname().nodename}-{os.getpid()}-{secrets.token_hex(4)}.jsonl"
        path = self._directory / name
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)
        if self._durable:
            sync_directory(self._directory)
        return descriptor


def _rebuild(directory: Path, durable: bool) -> Ledger:
    return Ledger(directory, durable=durable)


def _parse(line: bytes) -> dict[str, Any] | None:
    """The record of a line, or None where the line is torn or damaged."""
    checksum, _, body = line.rstrip(b"\n").partition(b" ")
    if not line.endswith(b"\n") or checksum != b"%08x" % zlib.crc32(body):
        return None
    entry: dict[str, Any] = json.loads(body)
    return entry
