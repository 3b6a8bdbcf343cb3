"""What a run directory says, read by its published format alone: ``ledger/*.jsonl`` and the files of the result."""

from __future__ import annotations

import hashlib
import json
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

FINISHED = ("done", "empty")


class Readable(Protocol):
    """Something with files."""

    def files(self, part: str) -> dict[str, bytes]: ...


@dataclass(frozen=True)
class Attempt:
    """Some blocks that a process began together."""

    name: str
    segment: str
    blocks: tuple[str, ...]

    @property
    def pid(self) -> int:
        """Of the process: segments are named HOST-PID-RANDOM."""
        return int(self.segment.split("-")[-2])


@dataclass(frozen=True)
class Ledger:
    """All whole lines of a ledger, by segment."""

    segments: Mapping[str, tuple[dict[str, Any], ...]]
    torn: int
    """Lines that are none."""

    @property
    def lines(self) -> list[dict[str, Any]]:
        """Of all segments, each once: a compaction may leave some twice."""
        return list({line["id"]: line for lines in self.segments.values() for line in lines}.values())

    @property
    def finished(self) -> Counter[str]:
        """How many finished records each block has."""
        return Counter(line["block"] for line in self.lines if line["status"] in FINISHED)

    @property
    def failed(self) -> dict[str, str]:
        """The error of each block that failed and was not tried again."""
        lines = self.lines
        void = {name for line in lines for name in line.get("revokes", ())}
        done = {line["block"] for line in lines if line["status"] in FINISHED}
        failed = (line for line in lines if line["status"] == "failed" and line["id"] not in void)
        return {line["block"]: line["error"] for line in failed if line["block"] not in done}

    @property
    def revoked(self) -> Counter[str]:
        """How many finished records of each block were declared void: their shards had been damaged."""
        lines = self.lines
        void = {name for line in lines for name in line.get("revokes", ())}
        return Counter(line["block"] for line in lines if line["status"] in FINISHED and line["id"] in void)

    @property
    def attempts(self) -> list[Attempt]:
        """Everything that was begun."""
        return [
            Attempt(line["id"], segment, tuple(line["blocks"]))
            for segment, lines in self.segments.items()
            for line in lines
            if line["status"] == "started"
        ]

    @property
    def begun(self) -> Counter[str]:
        """How often each block was begun."""
        return Counter(block for attempt in self.attempts for block in attempt.blocks)

    def open(self) -> list[Attempt]:
        """Attempts that had not come to an end: no record of each of their blocks, and not given up."""
        ended = {(line.get("attempt"), line["block"]) for line in self.lines if "block" in line}
        released = {line["attempt"] for line in self.lines if line["status"] == "released"}
        return [
            attempt
            for attempt in self.attempts
            if attempt.name not in released and any((attempt.name, block) not in ended for block in attempt.blocks)
        ]


def read_ledger(files: Mapping[str, bytes]) -> Ledger:
    """The lines of a ledger's files: CRC-32 in hex, a blank, JSON.

    Objects of a bucket, which are numbered, count as parts of one segment.
    """
    segments: dict[str, list[dict[str, Any]]] = {}
    torn = 0
    for name in sorted(files):
        found = segments.setdefault(re.sub(r"(-\d{6})?\.jsonl$", "", name), [])
        for line in files[name].split(b"\n"):
            checksum, _, body = line.partition(b" ")
            if body and checksum == b"%08x" % zlib.crc32(body):
                found.append(json.loads(body))
            else:
                torn += bool(line)
    return Ledger({name: tuple(found) for name, found in segments.items()}, torn)


def digests(place: Readable) -> dict[str, str]:
    """Digest of every file of the result."""
    return {name: hashlib.sha256(content).hexdigest()[:16] for name, content in place.files("prediction.zarr").items()}


def differences(found: Mapping[str, str], expected: Mapping[str, str]) -> list[str]:
    """Files that are missing, too many, or other ones."""
    names: Iterable[str] = sorted(found.keys() | expected.keys())
    return [name for name in names if found.get(name) != expected.get(name)]
