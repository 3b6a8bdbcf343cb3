"""One sorted stream of many sorted tables, of which only those at hand are open.

::

    part 0/0  ──ymin──▶ 3 9 14 ...  ┐
    part 0/1            2 8 30 ...  ├──▶  2 3 8 9 14 ...    a row goes out once no table, open or not yet, can have one
    part 1/0    (not before 4,032)  ┘                       that comes before it
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

BY = ("ymin", "xmin", "ymax", "xmax", "score", "class")
"""What rows are sorted by: from top to bottom, from left to right; of equal boxes the best first."""


def in_order(table: Any) -> Any:
    """Rows sorted by `BY`, and then by all other columns that can be compared: by content alone.

    Parameters
    ----------
    table : pyarrow.Table
        With the columns of `BY`; score and class may be missing.
    """
    import pyarrow as pa

    nested = (pa.types.is_nested, pa.types.is_binary, pa.types.is_large_binary)
    rest = [field.name for field in table.schema if field.name not in BY and not any(is_(field.type) for is_ in nested)]
    known = [name for name in BY if name in table.column_names]
    keys = [(name, "descending" if name == "score" else "ascending") for name in (*known, *rest)]
    return table.sort_by(keys).combine_chunks()


class Source(NamedTuple):
    """A sorted table that is read piece by piece."""

    least: float
    """No row has a smaller ymin; that it has one is not promised."""
    open: Callable[[], Iterator[Any]]
    """Its pieces (pyarrow.Table), in order."""


def merged(sources: Iterable[Source]) -> Iterator[Any]:
    """The rows of all sources in one order.

    Memory bound
    ------------
    One or two pieces of each source that is open: of those whose rows reach from above the last row that went out to
    below it; and all rows of one ymin.

    Parameters
    ----------
    sources : iterable of Source
        By `least`, ascending; asked for as they are needed.

    Yields
    ------
    pyarrow.Table
        Some rows, sorted as by `in_order`; at least one.

    Raises
    ------
    ValueError
        A source begins before the one ahead of it.
    """
    import pyarrow as pa

    coming = iter(sources)
    ahead = next(coming, None)
    opened: list[tuple[float, int, Iterator[Any]]] = []
    held: list[Any] = []
    number, before = 0, -math.inf
    while opened or ahead is not None:
        # The next row may come from any source that begins no later than the first that could run dry.
        while ahead is not None and (not opened or ahead.least <= opened[0][0]):
            if ahead.least < before:
                raise ValueError(f"sources: {ahead.least} after {before}")
            before = ahead.least
            number += 1
            heapq.heappush(opened, (ahead.least, number, ahead.open()))
            ahead = next(coming, None)
        _, own, pieces = heapq.heappop(opened)
        piece = next(pieces, None)
        if piece is not None:
            if piece.num_rows:
                held.append(piece)
            last = piece.column("ymin")[-1].as_py() if piece.num_rows else -math.inf
            heapq.heappush(opened, (last, own, pieces))
        bound = min([opened[0][0]] if opened else [math.inf])
        if ahead is not None:
            bound = min(bound, ahead.least)
        held, ready = _cut(held, bound)
        if ready:
            yield in_order(pa.concat_tables(ready))


def few_at_once(tables: Iterable[Any], rows: int) -> Iterator[Any]:
    """The same rows in slices of at most so many, so that what is made of them stays small."""
    for table in tables:
        yield from (table.slice(start, rows) for start in range(0, table.num_rows, rows))


def _cut(held: list[Any], bound: float) -> tuple[list[Any], list[Any]]:
    """What has to wait, and the rows above `bound`."""
    import numpy as np

    waiting, ready = [], []
    for piece in held:
        count = int(np.searchsorted(piece.column("ymin").to_numpy(), bound, "left"))
        if count:
            ready.append(piece.slice(0, count))
        if count < piece.num_rows:
            waiting.append(piece.slice(count))
    return waiting, ready
