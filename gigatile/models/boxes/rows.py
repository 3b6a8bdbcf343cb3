"""Rows of boxes: what all detectors come down to, and what is checked of it.

::

    x1 y1 x2 y2 score class            upright, corners in pixels of the tile, origin at its outer corner
    cx cy w h radians score class      oriented; radians turn the x axis towards the y axis, which points down
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from gigatile.errors import BlockError

Array = np.ndarray[Any, Any]
Rows = np.ndarray[Any, Any]
"""float64, shape (m, 6) or (m, 7)."""
UPRIGHT, ORIENTED = 6, 7
"""Columns."""
MOST_CLASSES = 2**31
"""Classes are kept as int32."""


def checked_rows(where: str, tiles: Iterable[Array]) -> list[Rows]:
    """The rows of each tile as float64, after a look at every number.

    Parameters
    ----------
    where : str
        How messages name the model.
    tiles : iterable of ndarray
        Shapes (m, 6) or (m, 7), the same for all; an empty one may have any shape.

    Returns
    -------
    list of ndarray, float64, shape (m, 6) or (m, 7)
        6 columns where all are empty and say nothing of theirs.

    Raises
    ------
    BlockError
        Other columns, numbers that are not finite, corners the wrong way round, negative
        sides, or classes that are no whole numbers from 0 on.
    """
    arrays = list(tiles)
    for array in arrays:
        if array.size and not (array.ndim == 2 and array.shape[1] in (UPRIGHT, ORIENTED)):
            expected = "rows of 6 (x1, y1, x2, y2, score, class) or 7 (cx, cy, w, h, radians, score, class)"
            raise BlockError(where, expected=expected, found=f"{array.dtype} of shape {array.shape}")
    columns = {array.shape[1] for array in arrays if array.ndim == 2} & {UPRIGHT, ORIENTED} or {UPRIGHT}
    if len(columns) > 1:
        raise BlockError(where, expected="6 columns or 7, the same for all tiles", found="both in one batch")
    width = columns.pop()
    rows = [np.array(array, np.float64).reshape(-1, width) for array in arrays]
    for tile, table in enumerate(rows):
        _check_numbers(f"{where}, tile {tile} of its batch", table)
    return rows


def _check_numbers(where: str, rows: Rows) -> None:
    """Refuse rows that are no boxes; names the first."""
    _first_bad(where, rows, np.isfinite(np.abs(rows).max(axis=1)), "finite numbers")
    classes = rows[:, -1]
    whole: Array = (classes >= 0) & (classes == np.floor(classes)) & (classes < MOST_CLASSES)
    _first_bad(where, rows, whole, "a class that is a whole number from 0 on in the last column")
    if rows.shape[1] == UPRIGHT:
        upright: Array = (rows[:, 2] >= rows[:, 0]) & (rows[:, 3] >= rows[:, 1])
        _first_bad(where, rows, upright, "x1 <= x2 and y1 <= y2")
    else:
        _first_bad(where, rows, rows[:, 2:4].min(axis=1) >= 0, "a width and a height of 0 or more")


def _first_bad(where: str, rows: Rows, good: Array, expected: str) -> None:
    if good.all():
        return
    index = int(np.argmin(good))
    shown = ", ".join(f"{number:.6g}" for number in rows[index])
    raise BlockError(where, expected=expected, found=f"row {index}: {shown}")


def with_columns(where: str, rows: Rows, columns: int) -> Rows:
    """Rows of as many columns as those of other tiles; empty ones take that shape.

    Raises
    ------
    BlockError
        They are others.
    """
    if rows.shape[1] == columns:
        return rows
    if len(rows) == 0:
        return rows.reshape(0, columns)
    expected = f"{columns} columns, as for other tiles"
    raise BlockError(where, expected=expected, found=f"{rows.shape[1]}")
