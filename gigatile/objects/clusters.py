"""Who goes with whom: the best box takes what matches *it*, then the best of the rest, and so on (greedy NMS).

Rows are worked through in chunks from the best on. In a chunk, boxes without a better match left are keepers, what they
match is taken, and again; then the chunk's keepers take what they match among all later rows, and what was taken is
looked at no more. So a crowd on one spot costs its keepers times its boxes, not its boxes squared.

Memory bound
------------
Pairs of one chunk: `LEAST_PAIRS`, or `PAIRS_A_BOX` a box if that is more, 8 bytes each and twice that while they are
put together; and the index of `gigatile.objects.near`.
"""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from gigatile.objects.boxes import Boxes
from gigatile.objects.match import Matching, Ordered
from gigatile.objects.near import Near

Rows = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

LEAST_PAIRS = 1 << 17
PAIRS_A_BOX = 12
LEAST_CHUNK = 256
ROUNDS = 24
"""Random scores are done in fewer; a row of boxes, each over the next, would take a round a box."""


def clusters(boxes: Boxes, matching: Matching) -> Rows:
    """For each box the row of its keeper; a keeper is its own.

    Parameters
    ----------
    boxes : Boxes
        In any order; the clusters do not depend on it.
    matching : Matching

    Returns
    -------
    ndarray, int64 (m,)
    """
    order = boxes.order()
    keepers = np.empty(len(boxes), np.int64)
    keepers[order] = order[ranked_clusters(Ordered.of(boxes.take(order), matching))]
    return keepers


def ranked_clusters(table: Ordered) -> Rows:
    """`clusters` of boxes in their order: for each rank that of its keeper."""
    keepers = np.arange(len(table))
    alive = np.flatnonzero(table.areas > 0)
    while len(alive):
        chunk, near = _chunk(table, alive)
        _keep(table, near, keepers)
        kept, rest = chunk[keepers[chunk] == chunk], alive[len(chunk) :]
        if not len(rest):
            break
        for better, worse in table.matched(table.near(kept).around(rest)):
            # A later row may match several keepers: it goes with the best. Its own rank is above theirs.
            np.minimum.at(keepers, worse, better)
        alive = rest[keepers[rest] == rest]
    return keepers


def _chunk(table: Ordered, alive: Rows) -> tuple[Rows, Near]:
    """As many of the best rows as have no more pairs among them than memory holds, and their index."""
    most = max(LEAST_PAIRS, PAIRS_A_BOX * len(alive))
    size = len(alive)
    while True:
        near = table.near(alive[:size])
        found = near.within().candidates
        if found <= most or size <= LEAST_CHUNK:
            return alive[:size], near
        # Pairs grow with the square of the rows.
        size = max(LEAST_CHUNK, int(size * min(0.7, 0.9 * math.sqrt(most / found))))


def _keep(table: Ordered, near: Near, keepers: Rows) -> None:
    """Write the keepers of the rows of an index, as if there were no others."""
    # A chunk has fewer than 2^31 rows: its boxes alone would be 100 GB.
    found = [[part.astype(np.int32) for part in piece] for piece in table.matched(near.within())]
    if not found:
        return
    better, worse = (np.concatenate(part) for part in zip(*found, strict=True))
    taken = np.zeros(len(table), bool)
    one, other = better, worse
    for _ in range(ROUNDS):
        if not len(one):
            break
        waits = np.zeros(len(table), bool)
        waits[other] = True
        taken[other[~waits[one]]] = True
        left = ~(taken[one] | taken[other])
        one, other = one[left], other[left]
    _one_by_one(taken, one, other)
    kept = ~taken[better]
    np.minimum.at(keepers, worse[kept], better[kept])


def _one_by_one(taken: Mask, better: Rows, worse: Rows) -> None:
    """The same for the pairs left, from the best on."""
    order = np.lexsort((worse, better))
    better, worse = better[order], worse[order]
    starts = np.flatnonzero(np.diff(better, prepend=-1)).tolist()
    for start, stop in pairwise([*starts, len(better)]):
        if not taken[better[start]]:
            taken[worse[start:stop]] = True
