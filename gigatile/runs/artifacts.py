"""Which artifacts are there, from one listing, and not from a question for each."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from gigatile.ledger.state import DONE, EMPTY, LedgerState
from gigatile.plans.stages import IDS, NUMBERED, Stage
from gigatile.storage.store import Store

Mask = npt.NDArray[np.bool_]
ABSENT = -1
"""Size of an artifact that is not there."""


def missing_artifacts(state: LedgerState, number: int, stage: Stage, store: Store) -> Mask:
    """Finished blocks of a stage whose artifact is not what their record says: gone, of another size, or too many.

    Memory bound
    ------------
    9 bytes a block of the stage.

    Parameters
    ----------
    state : LedgerState
    number : int
        Of the stage.
    stage : Stage
    store : Store
        The run directory.

    Returns
    -------
    ndarray of bool, shape (rows, cols)
    """
    status, sizes = state.status(number), artifact_sizes(stage, store)
    # What a block without a record left is written anew; the artifact of a failed one is nobody's.
    wrong: Mask = (status == EMPTY) & (sizes != ABSENT) | (status == DONE) & (sizes != state.nbytes(number))
    return wrong


def artifact_sizes(stage: Stage, store: Store) -> npt.NDArray[np.int64]:
    """Bytes of the artifact of each block, all of its objects together; `ABSENT` where there is none. Shape (rows,
    cols)."""
    sizes = np.full(stage.grid, ABSENT, np.int64)
    if stage.kind == "merge":
        size = store.size(stage.prefix)
        sizes[0, 0] = ABSENT if size is None else size
        return sizes
    for entry in store.entries(stage.prefix):
        place = stage.place(entry.key)
        if place is not None:
            sizes[place] = max(sizes[place], 0) + entry.nbytes
    return sizes


def lacks_numbers(todo: Mask, find: Stage, store: Store) -> bool:
    """Whether some labels that are to be written have no final numbers beside their part.

    Parameters
    ----------
    todo : ndarray of bool, shape (rows, cols)
        Blocks that left a part, and whose labels are to be written.
    find : Stage
        That left the parts.
    store : Store
        The run directory.
    """
    if not todo.any():
        return False
    if store.size(NUMBERED) is None:
        return True
    lacking = todo.copy()
    for entry in store.entries(find.prefix):
        if entry.key.endswith(f"/{IDS}"):
            place = find.place(entry.key.removesuffix(IDS) + "labels.parquet")
            if place is not None:
                lacking[place] = False
    return bool(lacking.any())
