"""What the lines of a ledger say, all together: a function of the *set* of lines.

A finished record (done, empty) of a block counts unless a ``damaged`` or ``retried`` line revokes its id; a failed one
counts only where nothing finished; of several that could count, the one of the smallest id does. So the order of
segments and of clocks does not matter, nor does a line that is read twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import cast

import numpy as np
import numpy.typing as npt

from gigatile.engine.record import BlockKey
from gigatile.ledger.attempts import Attempts, Suspicion
from gigatile.ledger.lines import (
    Blocks,
    Damaged,
    Done,
    Empty,
    Failed,
    Finished,
    Grid,
    Identities,
    Integers,
    Line,
    Released,
    Retried,
    Started,
    among,
    identity_numbers,
)
from gigatile.ledger.totals import Totals

PENDING, FAILED, EMPTY, DONE = 0, 1, 2, 3
"""Codes of the status of a block."""
LARGEST_MAP = 10_000
"""Blocks up to which the seam score of each is kept; the ledger has all of them."""
ERRORS = 1_000
"""Failed blocks whose error is kept, those of the smallest keys; the ledger has all of them."""
LONGEST_ERROR = 2_000
"""Characters of it."""

Mask = npt.NDArray[np.bool_]
_CODES: dict[type[Finished], int] = {Done: DONE, Empty: EMPTY, Failed: FAILED}


class LedgerState:
    """The state of every block, and sums.

    Memory bound
    ------------
    17 bytes a block, 16 more each of the first `LARGEST_MAP`, `ERRORS` texts, and 8 bytes for each id that was
    revoked; besides that, attempts at blocks that have no record.

    Parameters
    ----------
    grids : sequence of (int, int)
        Rows and columns of blocks of each stage, the prediction first.
    """

    def __init__(self, grids: Sequence[Grid]) -> None:
        self.blocks = Blocks(grids)
        self.damaged_lines = self.torn_lines = 0
        """Lines that are none, and last lines without an end; set by the reader."""
        self.peak_rss_bytes = 0
        """The largest of any record, whether it counts or not: some process took as much."""
        self.revoked: Identities = np.zeros(0, np.uint64)
        """Ids of lines that are void, sorted."""
        self.clear()

    def clear(self) -> None:
        """Forget all but what is revoked."""
        count = self.blocks.count
        self._status = np.zeros(count, np.uint8)
        self._nbytes = np.zeros(count, np.int64)
        self._identity = np.zeros(count, np.uint64)
        rows, cols = self.blocks.grids[0] if self.blocks.grids else (0, 0)
        self._mapped = rows * cols if rows * cols <= LARGEST_MAP else 0
        self._seams = np.zeros((2, self._mapped), np.float64)
        self._attempts = Attempts()
        self._errors: dict[int, str] = {}
        self._contested: set[int] = set()
        self._fresh_revocations: set[int] = set()
        self.totals = Totals()
        """Over the records that count."""

    @property
    def grids(self) -> tuple[Grid, ...]:
        """Rows and columns of each stage."""
        return self.blocks.grids

    @property
    def dropped(self) -> int:
        """Lines that were torn or damaged."""
        return self.damaged_lines + self.torn_lines

    def status(self, stage: int) -> npt.NDArray[np.uint8]:
        """`PENDING`, `FAILED`, `EMPTY` or `DONE`; shape (rows, cols), a view."""
        return self._status[self.blocks.slice(stage)].reshape(self.grids[stage])

    def nbytes(self, stage: int) -> Integers:
        """Size that the shard of each finished block must have, 0 where there is none; shape (rows, cols), a view."""
        return self._nbytes[self.blocks.slice(stage)].reshape(self.grids[stage])

    def pending(self, stage: int) -> Mask:
        """Blocks without a record that counts; shape (rows, cols)."""
        return self._is(PENDING, stage)

    def failed(self, stage: int) -> Mask:
        """Blocks whose record says that they failed; shape (rows, cols)."""
        return self._is(FAILED, stage)

    def finished(self, stage: int) -> Mask:
        """Blocks that are done or empty; shape (rows, cols)."""
        return self._is(EMPTY, stage) | self._is(DONE, stage)

    def _is(self, code: int, stage: int) -> Mask:
        found: Mask = self.status(stage) == code
        return found

    def count(self, code: int, stage: int | None = None) -> int:
        """How many blocks have a status, on one stage or on all."""
        status = self._status if stage is None else self.status(stage)
        return int(np.count_nonzero(status == code))

    def stored_bytes(self) -> int:
        """Bytes of all shards."""
        return int(self._nbytes.sum())

    def failures(self) -> Iterator[BlockKey]:
        """Blocks that failed, of all stages, in order."""
        return (self.blocks.key(place) for place in np.flatnonzero(self._status == FAILED).tolist())

    def errors(self) -> dict[BlockKey, str]:
        """Why they did; of the first `ERRORS`."""
        return {self.blocks.key(place): self._errors[place] for place in sorted(self._errors)[:ERRORS]}

    def suspects(self) -> dict[BlockKey, Suspicion]:
        """Pending blocks at which somebody was and of which nothing came."""
        found = self._attempts.suspects(self._status == PENDING, self.revoked)
        return {self.blocks.key(place): suspicion for place, suspicion in found.items()}

    def seams(self) -> npt.NDArray[np.float64] | None:
        """Sum of the differences between neighbouring tiles and number of pixels compared, of each block of the
        prediction; shape (2, rows, cols). None for more than `LARGEST_MAP` blocks."""
        return self._seams.reshape(2, *self.grids[0]) if self._mapped else None

    def counts(self, line: Finished, place: int) -> bool:
        """Whether a record is the one that counts for its block."""
        if not self._status[place]:
            return False
        return int(self._identity[place]) == int(identity_numbers([line.id])[0])

    # What follows is for the reader.

    def absorb(self, lines: Sequence[Line]) -> int:
        """Take lines into account, once more or for the first time; returns how many name what is not there."""
        # By type and not by isinstance: a fifth of a second in a million.
        records = cast(list[Finished], [line for line in lines if type(line) in _CODES])
        strange = self._absorb_records(records)
        if len(records) < len(lines):
            others = [line for line in lines if type(line) not in _CODES]
            strange += self._begin_attempts([line for line in others if isinstance(line, Started)], None)
            for line in others:
                if isinstance(line, Damaged | Retried):
                    self._fresh_revocations.update(identity_numbers(line.revokes).tolist())
                elif isinstance(line, Released):
                    attempt = int(identity_numbers([line.attempt])[0])
                    self._attempts.release(attempt)
                    strange += attempt == 0
        if self._attempts.many:
            self._attempts.prune(self._status == PENDING)
        return strange

    def conclude(self) -> Integers:
        """Apply the revocations absorbed since; returns the blocks that `settle` must see, by number, shape (n,)."""
        if self._fresh_revocations:
            fresh = np.array(sorted(self._fresh_revocations), np.uint64)
            self._fresh_revocations.clear()
            struck = (self._status != PENDING) & among(self._identity, fresh)
            self._contested.update(np.flatnonzero(struck).tolist())
            self.revoked = np.union1d(self.revoked, fresh)
        # Errors of blocks that others had pushed aside, until those were mended.
        first = np.flatnonzero(self._status == FAILED)[:ERRORS].tolist()
        self._contested.update(place for place in first if place not in self._errors)
        self._attempts.prune(self._status == PENDING)
        return np.array(sorted(self._contested), np.int64)

    def settle(self, said: Mapping[int, Mapping[int, Finished]], started: Sequence[Started]) -> bool:
        """Decide about blocks from all that was ever said of them.

        Parameters
        ----------
        said : mapping of int to mapping of int to Finished
            By the block's number: its records by their ids.
        started : sequence of Started
            Attempts at any of them.

        Returns
        -------
        bool
            False if a record that counted until now is not among them: the ledger is not what it was.
        """
        places = np.array(list(said), np.int64)
        counted = places[self._status[places] != PENDING]
        before = [said[place].get(int(self._identity[place])) for place in counted.tolist()]
        known = [record for record in before if record is not None]
        if len(known) < len(before):
            return False
        self._count(known, counted, -1)
        self._status[places] = PENDING
        self._nbytes[places] = 0
        self._identity[places] = 0
        for place in said:
            self._errors.pop(place, None)
        flat = [(place, identity, record) for place, found in said.items() for identity, record in found.items()]
        identities = np.array([identity for _, identity, _ in flat], np.uint64)
        void = among(identities, self.revoked).tolist()
        self._end_attempts([entry for entry, is_void in zip(flat, void, strict=True) if is_void])
        best: dict[int, tuple[bool, int]] = {}
        for (place, identity, record), is_void in zip(flat, void, strict=True):
            if not is_void:
                rank = type(record) is Failed, identity
                best[place] = min(best.get(place, rank), rank)
        chosen = [said[place][identity] for place, (_, identity) in best.items()]
        self._stand(chosen, np.array(list(best), np.int64), np.array([i for _, i in best.values()], np.uint64))
        self._begin_attempts(started, self._mask(places) if started else None)
        self._contested.difference_update(said)
        return True

    def _absorb_records(self, records: Sequence[Finished]) -> int:
        """Let the first record of a block stand for it; a second one makes it contested."""
        places = self.blocks.places([record.block for record in records])
        identities = identity_numbers([record.id for record in records])
        known = (places >= 0) & (identities > 0)
        strange = len(records) - int(known.sum())
        self.peak_rss_bytes = max([self.peak_rss_bytes, *[record.peak_rss_bytes for record in records]])
        if len(self.revoked):
            void = known & among(identities, self.revoked)
            known &= ~void
            self._end_attempts([(int(places[i]), 0, records[i]) for i in np.flatnonzero(void).tolist()])
        fresh = known & (self._status[places] == PENDING)
        fresh &= _firsts(places, fresh)
        if fresh.all():
            self._stand(records, places, identities)
            return strange
        chosen = np.flatnonzero(fresh)
        self._stand([records[index] for index in chosen.tolist()], places[chosen], identities[chosen])
        rest = known & ~fresh
        contested = places[rest][self._identity[places[rest]] != identities[rest]]
        self._contested.update(contested.tolist())
        return strange

    def _stand(self, records: Sequence[Finished], places: Integers, identities: Identities) -> None:
        """Let records count for their blocks, of which none had one; shapes (n,)."""
        codes = [_CODES[type(record)] for record in records]
        self._status[places] = codes
        self._nbytes[places] = [record.nbytes for record in records]
        self._identity[places] = identities
        self._count(records, places, 1)
        if FAILED in codes:
            for record, place in zip(records, places.tolist(), strict=True):
                if type(record) is Failed:
                    self._errors[place] = record.error[:LONGEST_ERROR]
        if len(self._errors) > 2 * ERRORS:
            self._errors = {place: self._errors[place] for place in sorted(self._errors)[:ERRORS]}

    def _count(self, records: Sequence[Finished], places: Integers, sign: int) -> None:
        inside = places < (self.blocks.starts[1] if len(self.grids) else 0)
        self.totals.add(records, inside.tolist(), sign)
        if self._mapped:
            for record, place in zip(records, places.tolist(), strict=True):
                if place < self._mapped:
                    compared = record.seam_pixels if record.seam_difference is not None else 0
                    self._seams[:, place] = (record.seam_difference or 0, compared) if sign > 0 else 0

    def _mask(self, places: Integers) -> Mask:
        mask = np.zeros(self.blocks.count, bool)
        mask[places] = True
        return mask

    def _end_attempts(self, void: Sequence[tuple[int, int, Finished]]) -> None:
        """Attempts came to records, with their blocks, that do not stand."""
        attempts = identity_numbers([record.attempt for _, _, record in void])
        places = np.array([place for place, _, _ in void], np.int64)
        self._attempts.end(attempts[attempts > 0], places[attempts > 0])

    def _begin_attempts(self, lines: Sequence[Started], among: Mask | None) -> int:
        """Attempts at blocks, or at those that a mask of shape (blocks,) marks; returns how many lines name others."""
        if not lines:
            return 0
        sizes = [len(line.blocks) for line in lines]
        places = self.blocks.places([name for line in lines for name in line.blocks])
        attempts = np.repeat(identity_numbers([line.id for line in lines]), sizes)
        alone = np.repeat(np.array([line.alone for line in lines]), sizes)
        kept = (places >= 0) & (attempts > 0)
        strange = len({*np.repeat(np.arange(len(lines)), sizes)[~kept].tolist()})
        if among is not None:
            kept &= among[places]
        self._attempts.begin(attempts[kept], places[kept], alone[kept])
        return strange


def _firsts(places: Integers, among: Mask) -> Mask:
    """Whether each is the first of its place among those that `among` marks; shapes (n,)."""
    marked = np.flatnonzero(among)
    _, first = np.unique(places[marked], return_index=True)
    found = np.zeros(len(places), bool)
    found[marked[first]] = True
    return found
