"""Who was at which block when a process died: attempts that began, and never came to an end."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gigatile.ledger.lines import Identities, Integers, among

_PRUNED_FROM = 1 << 16


@dataclass(frozen=True, slots=True)
class Suspicion:
    """What speaks against a block."""

    deaths: int
    """Attempts that ended neither with a record of it, nor by being given up."""
    alone: int
    """Those of them in which nothing else was being done, so that nothing else can be to blame."""


class Attempts:
    """Attempts at blocks. A function of the set of what was said, in any order, any number of times.

    Memory bound
    ------------
    25 bytes for each block of each attempt, of blocks that have no standing record; and up to 65,536 more.
    """

    def __init__(self) -> None:
        self._begun, self._ended = _Pairs(), _Pairs()
        self._released: set[int] = set()

    def begin(self, attempts: Identities, places: Integers, alone: npt.NDArray[np.bool_]) -> None:
        """Attempts at blocks, by their numbers; each of shape (n,)."""
        self._begun.add(attempts, places, alone)

    def end(self, attempts: Identities, places: Integers) -> None:
        """They came to records of those blocks, though these do not stand; shapes (n,)."""
        self._ended.add(attempts, places, np.zeros(len(places), bool))

    def release(self, attempt: int) -> None:
        """It was given up, and nobody died."""
        self._released.add(attempt)

    @property
    def many(self) -> bool:
        """Whether it is worth while to forget some."""
        return any(pairs.count > pairs.limit for pairs in (self._begun, self._ended))

    def prune(self, pending: npt.NDArray[np.bool_]) -> None:
        """Forget what is settled: blocks that have a record; `pending` has shape (blocks,)."""
        for pairs in (self._begun, self._ended):
            pairs.prune(pending)

    def suspects(self, pending: npt.NDArray[np.bool_], revoked: Identities) -> dict[int, Suspicion]:
        """What speaks against each block without a record, by its number."""
        self.prune(pending)
        ended = {(attempt, place) for attempt, place, _ in self._ended.rows(revoked)}
        found: dict[int, list[int]] = {}
        # Together, so that an attempt that was read twice counts once.
        together = {(attempt, place): alone for attempt, place, alone in self._begun.rows(revoked)}
        for (attempt, place), alone in together.items():
            if attempt not in self._released and (attempt, place) not in ended:
                counts = found.setdefault(place, [0, 0])
                counts[0] += 1
                counts[1] += alone
        return {place: Suspicion(*found[place]) for place in sorted(found)}


class _Pairs:
    """Columns of attempts and blocks."""

    def __init__(self) -> None:
        self.count, self.limit = 0, _PRUNED_FROM
        self._parts: list[tuple[Identities, Integers, npt.NDArray[np.bool_]]] = []

    def add(self, attempts: Identities, places: Integers, alone: npt.NDArray[np.bool_]) -> None:
        if len(places):
            self._parts.append((attempts, places, alone))
            self.count += len(places)

    def prune(self, pending: npt.NDArray[np.bool_]) -> None:
        if not self._parts:
            return
        attempts, places, alone = (np.concatenate(column) for column in zip(*self._parts, strict=True))
        kept = pending[places]
        self._parts = [(attempts[kept], places[kept], alone[kept])]
        self.count = int(kept.sum())
        # Doubled, so that pruning costs no more than adding.
        self.limit = _PRUNED_FROM + 2 * self.count

    def rows(self, without: Identities) -> Iterable[tuple[int, int, bool]]:
        """All of them, but for those of some attempts."""
        for attempts, places, alone in self._parts:
            kept = ~among(attempts, without)
            yield from zip(attempts[kept].tolist(), places[kept].tolist(), alone[kept].tolist(), strict=True)
