"""Which shards are there, from one listing, and not from a question for each."""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from gigatile.ledger.state import DONE, EMPTY, LedgerState
from gigatile.outputs.layout import ArrayLayout
from gigatile.storage.store import Entry, Store

Mask = npt.NDArray[np.bool_]
ABSENT = -1
"""Size of a shard that is not there."""

_NUMBERS = re.compile(r"(0|[1-9][0-9]{0,9})/(0|[1-9][0-9]{0,9})").fullmatch


def missing_shards(state: LedgerState, level: int, layout: ArrayLayout, prediction: Store) -> Mask:
    """Finished blocks of a level whose shard is not what their record says: gone, of another size, or too many.

    Memory bound
    ------------
    10 bytes a block of the level.

    Parameters
    ----------
    state : LedgerState
    level : int
    layout : ArrayLayout
        Of that level.
    prediction : Store
        The result.

    Returns
    -------
    ndarray of bool, shape (rows, cols)
    """
    sizes = shard_sizes(prediction.entries(f"{level}/"), level, layout)
    return unlike_record(state, level, sizes)


def unlike_record(state: LedgerState, level: int, sizes: npt.NDArray[np.int64]) -> Mask:
    """Finished blocks whose shard has not the recorded size; `sizes` as `shard_sizes` gives them."""
    status, nbytes = state.status(level), state.nbytes(level)
    wrong: Mask = ((status == DONE) & (sizes != nbytes)) | ((status == EMPTY) & (sizes != ABSENT))
    return wrong


def shard_sizes(entries: Iterable[Entry], level: int, layout: ArrayLayout) -> npt.NDArray[np.int64]:
    """Bytes of each shard of a level among the objects of a result, `ABSENT` for none; shape (rows, cols)."""
    sizes = np.full(layout.grid, ABSENT, np.int64)
    for entry in entries:
        place = shard_place(entry.key, level, layout)
        if place is not None:
            sizes[place] = entry.nbytes
    return sizes


def shard_place(key: str, level: int, layout: ArrayLayout) -> tuple[int, int] | None:
    """Row and column of the shard that an object is; None if it is no shard of that level."""
    start, _, _ = layout.shard_key(0, 0).rpartition("0/0")
    prefix = f"{level}/{start}"
    numbers = _NUMBERS(key, len(prefix)) if key.startswith(prefix) else None
    if numbers is None:
        return None
    row, col = int(numbers[1]), int(numbers[2])
    return (row, col) if row < layout.grid[0] and col < layout.grid[1] else None
