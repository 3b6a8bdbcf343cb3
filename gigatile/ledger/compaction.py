"""Fewer, larger segments: where logs cannot be appended to, each `append` is an object of its own."""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from gigatile.storage.store import Entry, Store

SEGMENTS = 256
"""Small ones from which on they are put together: at 16 requests side by side of 50-100 ms each, reading as many takes
a second or two."""
SMALL_BYTES = 1 << 23
LARGEST_BYTES = 1 << 26
"""Of what is put together at once."""
_READS_AHEAD = 16


def compact(store: Store) -> int:
    """Put small segments together, if there are more than `SEGMENTS`; only for who holds the run's lock.

    Writers and readers may be at work meanwhile: an object is never appended to, and a reader who misses one lists
    the ledger again. A crash before the small ones are deleted leaves lines twice, which count once.

    Memory bound
    ------------
    `_READS_AHEAD` segments of `SMALL_BYTES`, and what the store's writer holds.

    Parameters
    ----------
    store : Store
        The folder of the segments; a directory of this machine is left as it is, for its logs are appended to.

    Returns
    -------
    int
        Segments that are gone.
    """
    if store.local is not None:
        return 0
    small = sorted(entry for entry in store.entries() if entry.nbytes < SMALL_BYTES)
    if len(small) <= SEGMENTS:
        return 0
    for group in _groups(small):
        with store.writer(f"compacted-{secrets.token_hex(8)}.jsonl") as writer:
            for content in _contents(store, group):
                writer.write(content if content.endswith(b"\n") or not content else content + b"\n")
            writer.finish()
        for entry in group:
            store.delete(entry.key)
    return len(small)


def _groups(entries: Sequence[Entry]) -> Iterator[list[Entry]]:
    """Neighbours of at most `LARGEST_BYTES` together."""
    group: list[Entry] = []
    for entry in entries:
        if group and sum(other.nbytes for other in group) + entry.nbytes > LARGEST_BYTES:
            yield group
            group = []
        group.append(entry)
    if group:
        yield group


def _contents(store: Store, entries: Sequence[Entry]) -> Iterator[bytes]:
    """The content of each, in order; nothing for one that is gone."""
    with ThreadPoolExecutor(_READS_AHEAD, "gigatile-compact") as pool:
        waiting: deque[Future[bytes | None]] = deque()
        for entry in entries:
            waiting.append(pool.submit(store.read, entry.key))
            if len(waiting) >= _READS_AHEAD:
                yield waiting.popleft().result() or b""
        for future in waiting:
            yield future.result() or b""
