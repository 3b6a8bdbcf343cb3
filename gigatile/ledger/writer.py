"""What happened to each block, in logs that survive whatever happens to the processes that write them.

::

    LedgerWriter ──append──▶ segments (one log a process; lines.py) ──▶ LedgerReader ──▶ LedgerState (arrays)
                                  ▲ compact: in buckets, where a log is many small objects

The state of a block is a function of the *set* of lines; see `gigatile.ledger.state`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Literal

from gigatile.engine.record import BlockKey, BlockRecord
from gigatile.ledger.lines import Damaged, Released, Retried, Started, framed, line_of_record, new_identity
from gigatile.storage.store import Store

Why = Literal["damaged", "retried"]
_REVOKED_TOGETHER = 1_000


class LedgerWriter:
    """This process's log in a ledger; begun with the first line. For any number of threads.

    It can be pickled: the copy begins a log of its own.

    Memory bound
    ------------
    The lines of one call.

    Parameters
    ----------
    store : Store
        The folder of the segments.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._journal = store.journal("", f"{os.uname().nodename}-{os.getpid()}")

    def __reduce__(self) -> tuple[object, ...]:
        return LedgerWriter, (self._store,)

    def append(self, records: Sequence[BlockRecord]) -> None:
        """Record blocks; with a durable store they are on disk when this returns.

        Raises
        ------
        StorageError
            Some of them may not have been recorded.
        """
        if records:
            self._journal.append(b"".join([line_of_record(record) for record in records]))

    def started(self, blocks: Sequence[BlockKey], *, alone: bool) -> str:
        """Note that work at blocks begins; returns the attempt's id, which their records shall bear.

        Parameters
        ----------
        blocks : sequence of BlockKey
        alone : bool
            Whether this process does nothing else meanwhile, so that they alone can be to blame for its death.
        """
        attempt = new_identity()
        self._journal.note(framed(Started(attempt, [str(key) for key in blocks], alone)))
        return attempt

    def released(self, attempt: str) -> None:
        """Note that an attempt is over without a record of each of its blocks, and that nobody died of it."""
        self._journal.note(framed(Released(new_identity(), attempt)))

    def revoke(self, key: BlockKey, identities: Sequence[str], why: Why) -> None:
        """Declare records of a block void: its shard is not what they say, or what failed is tried again.

        `LedgerReader.identities` knows them; attempts count from anew, too.
        """
        kind = Damaged if why == "damaged" else Retried
        self._journal.append(framed(kind(new_identity(), list(identities), str(key))))

    def revoke_all(self, identities: Iterable[tuple[BlockKey, str]], why: Why) -> int:
        """Declare many void, as `LedgerReader.identities` gives them; returns how many there were."""
        kind, rest, count = Damaged if why == "damaged" else Retried, iter(identities), 0
        while some := list(islice(rest, _REVOKED_TOGETHER)):
            self._journal.append(b"".join(framed(kind(new_identity(), [identity], str(key))) for key, identity in some))
            count += len(some)
        return count

    def close(self) -> None:
        """Let go of the log; what is appended later begins another."""
        self._journal.close()
