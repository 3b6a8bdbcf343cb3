"""Reading a ledger: all of it once, then only what is new."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import NamedTuple

import numpy as np

from gigatile.engine.record import BlockKey, BlockRecord
from gigatile.errors import StorageError
from gigatile.ledger.lines import (
    Finished,
    Grid,
    Integers,
    Started,
    among,
    identity_numbers,
    parse_lines,
    record_of_line,
)
from gigatile.ledger.state import LedgerState
from gigatile.storage.store import Store

PIECE_BYTES = 1 << 18
"""Read from a file at once: 1,000 lines. 16 times as much took a fifth longer (caches), and 40 MB more."""
REQUEST_BYTES = 1 << 20
"""Asked of a bucket at once."""
READS_AHEAD = 16
"""Of a bucket, whose segments are many and small."""
SETTLED_TOGETHER = 1 << 14
"""Blocks of which all records are held at once: some 50 MB."""
_LOOKS = 5
"""Times that a ledger is listed again because segments vanished: a compaction takes seconds."""

_BLOCK = re.compile(rb'"block"\s*:\s*"([^"\\]*)"').search


class _Span(NamedTuple):
    """Bytes ``[start, stop)`` of a segment."""

    key: str
    start: int
    stop: int


class LedgerReader:
    """Reads the ledger of one run, for one thread; nothing that it does changes the ledger.

    Memory bound
    ------------
    The state (17 bytes a block), a piece or the longest line and what it says (some 2 MB; of a bucket 8), `READS_AHEAD`
    requests to a bucket, and, where blocks have several records, all records of up to `SETTLED_TOGETHER` of them.

    Parameters
    ----------
    store : Store
        The folder of the segments.
    grids : sequence of (int, int)
        Rows and columns of blocks of each stage, the prediction first.
    """

    def __init__(self, store: Store, grids: Sequence[Grid]) -> None:
        self._store = store
        self._state = LedgerState(grids)
        self._read_to: dict[str, int] = {}
        self._damaged: dict[str, int] = {}
        self._torn: set[str] = set()

    @property
    def state(self) -> LedgerState:
        """As of the last `refresh`."""
        return self._state

    def scan(self) -> LedgerState:
        """Read all of it, as if for the first time."""
        self._begin(LedgerState(self._state.grids))
        return self.refresh()

    def refresh(self) -> LedgerState:
        """Read what is new since the last time, and bring the state up to date.

        A last line without an end is left for later: somebody may be writing it.

        Raises
        ------
        StorageError
            The ledger cannot be read.
        """
        for _ in range(_LOOKS):
            try:
                self._read_new()
                if self._settle():
                    return self._state
            except FileNotFoundError:
                continue  # compacted meanwhile: its lines are in another segment
        raise StorageError(
            self._store.name,
            expected="segments that can be read",
            found="segments that vanish",
            fix="See that no other program works in this directory.",
        )

    def records(self, stage: int | None = None) -> Iterator[BlockRecord]:
        """The record that counts for each block, of one stage or of all, in the order of the ledger."""
        state = self._state
        seen = np.zeros(state.blocks.count, bool)
        bounds = slice(0, state.blocks.count) if stage is None else state.blocks.slice(stage)
        for record, place in self._finished():
            if bounds.start <= place < bounds.stop and not seen[place] and state.counts(record, place):
                seen[place] = True
                yield record_of_line(record)

    def identities(self, keys: Iterable[BlockKey]) -> Iterator[tuple[BlockKey, str]]:
        """The ids of everything that was said of some blocks and is not revoked: of records, and of attempts."""
        state = self._state
        wanted = np.zeros(state.blocks.count, bool)
        names = (str(key) for key in keys)
        while chunk := list(islice(names, 1 << 16)):
            wanted[state.blocks.places(chunk)] = True
        for lines in self._all_lines():
            said = [line for line in parse_lines(lines)[0] if isinstance(line, Finished | Started)]
            named = [[line.block] if isinstance(line, Finished) else line.blocks for line in said]
            owners = np.repeat(np.arange(len(said)), [len(blocks) for blocks in named])
            places = state.blocks.places([name for blocks in named for name in blocks])
            hits = (places >= 0) & wanted[places]
            hits &= ~among(identity_numbers([line.id for line in said]), state.revoked)[owners]
            _, first = np.unique(owners[hits], return_index=True)
            for owner, place in zip(owners[hits][first].tolist(), places[hits][first].tolist(), strict=True):
                yield state.blocks.key(place), said[owner].id

    def digests(self, stage: int) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
        """SHA-256 that the shard of each block of a stage must have, zeros where there is none; shape (blocks, 32)."""
        state = self._state
        found = np.zeros((state.status(stage).size, 32), np.uint8)
        bounds = state.blocks.slice(stage)
        for record, place in self._finished():
            inside = bounds.start <= place < bounds.stop and state.counts(record, place)
            if inside and re.fullmatch("[0-9a-f]{64}", record.digest):
                found[place - bounds.start] = np.frombuffer(bytes.fromhex(record.digest), np.uint8)
        return found

    def _begin(self, state: LedgerState) -> None:
        self._state = state
        self._read_to, self._damaged, self._torn = {}, {}, set()

    def _read_new(self) -> None:
        sizes = {entry.key: entry.nbytes for entry in self._store.entries()}
        if any(sizes.get(key, 0 if self._store.local else end) < end for key, end in self._read_to.items()):
            # Lines that were read are not there any more. (Those of a bucket were compacted into others.)
            self._begin(LedgerState(self._state.grids))
        self._read_to = {key: end for key, end in self._read_to.items() if key in sizes}
        self._damaged = {key: count for key, count in self._damaged.items() if key in sizes}
        self._torn = set()
        spans = [_Span(key, self._read_to.get(key, 0), sizes[key]) for key in sorted(sizes)]
        for span, lines, end in self._lines(spans):
            found, dropped = parse_lines(lines)
            dropped += self._state.absorb(found)
            self._read_to[span.key] = end
            self._damaged[span.key] = self._damaged.get(span.key, 0) + dropped
        self._torn = {key for key, size in sizes.items() if self._read_to.get(key, 0) < size}
        self._state.damaged_lines = sum(self._damaged.values())
        self._state.torn_lines = len(self._torn)

    def _settle(self) -> bool:
        """Look again at the blocks that one record does not decide; False if everything must be read again."""
        revoked_before = len(self._state.revoked)
        while len(places := self._state.conclude()):
            if len(places) > SETTLED_TOGETHER and len(self._state.revoked) > revoked_before:
                # With the revocations known from the start most of them will be no question.
                self._begin_again()
                return False
            for start in range(0, len(places), SETTLED_TOGETHER):
                if not self._settle_some(places[start : start + SETTLED_TOGETHER]):
                    self._begin(LedgerState(self._state.grids))
                    return False
        return True

    def _begin_again(self) -> None:
        state = self._state
        state.clear()
        self._begin(state)

    def _settle_some(self, places: Integers) -> bool:
        state = self._state
        names = {str(state.blocks.key(place)).encode(): place for place in places.tolist()}
        said: dict[int, dict[int, Finished]] = {place: {} for place in names.values()}
        started: list[Started] = []
        for lines in self._all_lines():
            some = []
            for line in lines:
                named = _BLOCK(line)
                if named is None or named[1] in names:
                    some.append(line)
            found = parse_lines(some)[0] if some else []
            started += [line for line in found if isinstance(line, Started) and _any_in(line.blocks, names)]
            records = [line for line in found if isinstance(line, Finished)]
            for record, identity in zip(records, identity_numbers([r.id for r in records]).tolist(), strict=True):
                if identity and record.block.encode() in names:
                    said[names[record.block.encode()]][identity] = record
        return state.settle(said, started)

    def _finished(self) -> Iterator[tuple[Finished, int]]:
        """Every record that was read until now, whether it counts or not, with the number of its block."""
        for lines in self._all_lines():
            records = [line for line in parse_lines(lines)[0] if isinstance(line, Finished)]
            places = self._state.blocks.places([record.block for record in records])
            yield from ((record, place) for record, place in zip(records, places.tolist(), strict=True) if place >= 0)

    def _all_lines(self) -> Iterator[list[bytes]]:
        """The lines that were read until now."""
        spans = [_Span(key, 0, end) for key, end in sorted(self._read_to.items())]
        return (lines for _, lines, _ in self._lines(spans))

    def _lines(self, spans: Sequence[_Span]) -> Iterator[tuple[_Span, list[bytes], int]]:
        """Whole lines of segments, without their ends, and where in the segment they end."""
        rest: list[bytes] = []
        current, end = "", 0
        for span, piece in self._pieces(spans):
            if span.key != current:
                current, end, rest = span.key, span.start, []
            head, newline, tail = piece.rpartition(b"\n")
            if not newline:
                rest.append(piece)
                continue
            block = b"".join([*rest, head])
            rest = [tail]
            end += len(block) + 1
            yield span, block.split(b"\n"), end

    def _pieces(self, spans: Sequence[_Span]) -> Iterator[tuple[_Span, bytes]]:
        """The bytes of segments, piece by piece and in order."""
        step = REQUEST_BYTES if self._store.local is None else PIECE_BYTES
        cut = (
            _Span(span.key, start, min(start + step, span.stop))
            for span in spans
            for start in range(span.start, span.stop, step)
        )
        if self._store.local is not None:
            for span in cut:
                yield span, self._read(span)
            return
        with ThreadPoolExecutor(READS_AHEAD, "gigatile-ledger") as pool:
            waiting: deque[tuple[_Span, Future[bytes]]] = deque()
            for span in cut:
                waiting.append((span, pool.submit(self._read, span)))
                if len(waiting) >= READS_AHEAD:
                    span, future = waiting.popleft()
                    yield span, future.result()
            for span, future in waiting:
                yield span, future.result()

    def _read(self, span: _Span) -> bytes:
        content = self._store.read_range(span.key, span.start, span.stop - span.start)
        if len(content) < span.stop - span.start:
            raise FileNotFoundError(span.key)  # cut off since it was listed
        return content


def _any_in(blocks: Sequence[str], names: Mapping[bytes, int]) -> bool:
    return any(name.encode() in names for name in blocks)
