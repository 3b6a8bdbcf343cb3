"""Which rows belong together: the connected parts of a graph."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from gigatile.objects.cells import Ids

Ints = npt.NDArray[np.int64]


def connected(count: int, a: Ints, b: Ints) -> Ints:
    """A number for each row, equal within a part, 0 to parts - 1 in the order of each part's first row.

    Parameters
    ----------
    count : int
        Rows.
    a, b : ndarray of int64, shape (edges,)
        Rows that belong together.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    if not count:
        return np.empty(0, np.int64)
    graph = coo_array((np.ones(len(a), np.int8), (a, b)), shape=(count, count))
    part = connected_components(graph, directed=False)[1]
    first = np.unique(part, return_index=True)[1]
    number = np.empty(len(first), np.int64)
    number[np.argsort(first)] = np.arange(len(first))
    result: Ints = number[part]
    return result


def rows_of(ids: Ids, a: Ids, b: Ids) -> tuple[Ints, Ints]:
    """Places of pairs of ids; without pairs of which one id does not occur.

    Parameters
    ----------
    ids : ndarray of uint64, shape (n,)
        Ascending.
    a, b : ndarray of uint64, shape (pairs,)
    """
    if not len(ids):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    at_a, at_b = (np.minimum(np.searchsorted(ids, side), len(ids) - 1) for side in (a, b))
    known = (ids[at_a] == a) & (ids[at_b] == b)
    return at_a[known], at_b[known]
