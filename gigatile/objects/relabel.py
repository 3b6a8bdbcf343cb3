"""From the numbers of cells to the numbers of objects."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from gigatile.errors import BlockError
from gigatile.objects.cells import LABEL_BITS, Ids


def numbering(members: Any, ids: npt.NDArray[Any]) -> tuple[Ids, Ids]:
    """The table that `relabel` wants, from the rows of objects.

    Parameters
    ----------
    members : pyarrow.Array or ChunkedArray of list<uint64>, length n
        Working ids of each object.
    ids : ndarray of ints, shape (n,)
        Final ids, from 1; 0 for objects that are dropped.

    Returns
    -------
    working, final : ndarray of uint64, shape (members in all,)
        Sorted by `working`.
    """
    import pyarrow.compute as pc

    working = pc.list_flatten(members).to_numpy().astype(np.uint64, copy=False)
    final = np.asarray(ids).astype(np.uint64)[pc.list_parent_indices(members).to_numpy()]
    order = np.argsort(working)
    return working[order], final[order]


def relabel(labels: npt.NDArray[np.uint32], index: int, working: Ids, final: Ids) -> npt.NDArray[np.uint32]:
    """Labels of a cell's core, renumbered.

    Parameters
    ----------
    labels : ndarray of uint32, shape (h, w)
        Canonical labels, 0 = background.
    index : int
        Of the cell.
    working : ndarray of uint64, shape (n,)
        Working ids, ascending; those of other cells may be among them.
    final : ndarray of uint64, shape (n,)
        Their objects, below 2**32; 0 turns a label into background.

    Raises
    ------
    BlockError
        A label of the core is not in the table: an object would go missing in silence.
    """
    low, high = np.searchsorted(working, np.array([index << LABEL_BITS, (index + 1) << LABEL_BITS], np.uint64))
    of_cell = (working[low:high] & np.uint64((1 << LABEL_BITS) - 1)).astype(np.int64)
    most = max(int(labels.max(initial=0)), int(of_cell.max(initial=0)))
    table = np.zeros(most + 1, np.uint32)
    table[of_cell] = final[low:high]
    lost = np.zeros(most + 1, bool)
    lost[labels.reshape(-1)] = True
    lost[of_cell] = lost[0] = False
    if lost.any():
        expected = f"an object for label {lost.argmax()}"
        raise BlockError(f"cell {index}", expected=expected, found="none in the table of ids")
    return table[labels]
