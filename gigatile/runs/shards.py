"""Which shards are there, from one listing, and not from a question for each."""

from __future__ import annotations

import re

import numpy as np
import numpy.typing as npt

from gigatile.ledger.state import DONE, EMPTY, LedgerState
from gigatile.outputs.layout import ArrayLayout
from gigatile.storage.store import Store

Mask = npt.NDArray[np.bool_]

_NUMBERS = re.compile(r"(0|[1-9][0-9]{0,9})/(0|[1-9][0-9]{0,9})").fullmatch


def missing_shards(state: LedgerState, level: int, layout: ArrayLayout, prediction: Store) -> Mask:
    """Finished blocks of a level whose shard is not what their record says: gone, of another size, or too many.

    Memory bound
    ------------
    One byte a block of the level.

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
    status, nbytes = state.status(level), state.nbytes(level)
    wrong: Mask = status == DONE
    for entry in prediction.entries(f"{level}/"):
        place = shard_place(entry.key, level, layout)
        if place is not None:
            # What a block without a record left is written anew; the shard of a failed one is nobody's.
            wrong[place] = status[place] == EMPTY or (status[place] == DONE and entry.nbytes != nbytes[place])
    return wrong


def shard_place(key: str, level: int, layout: ArrayLayout) -> tuple[int, int] | None:
    """Row and column of the shard that an object is; None if it is no shard of that level."""
    start, _, _ = layout.shard_key(0, 0).rpartition("0/0")
    prefix = f"{level}/{start}"
    numbers = _NUMBERS(key, len(prefix)) if key.startswith(prefix) else None
    if numbers is None:
        return None
    row, col = int(numbers[1]), int(numbers[2])
    return (row, col) if row < layout.grid[0] and col < layout.grid[1] else None
