"""Pixels beyond the edge of the valid ones, by the border rule: first along each row, then along each column.

::

    a row, reflect, reach 3                     . invalid, as stored
    stored    . . . . . a b c d e . . . .
    filled    . . d c b a b c d e d c b .       the nearest run of valid pixels, the left one of two as near

    a footprint, reach 2         after the rows               after the columns
    . . . . . . .                . . . . . . .                . # # # # # .
    . . . . . . .                . . . . . . .                # # # # # # #
    . . . V V . .                . # # V V # #                # # # V V # #
    . . V V V . .                # # V V V # #                # # V V V # #

A column continues what is valid or was filled along the rows. All that is within `reach` of a valid pixel along both
axes is filled. A pixel depends on others up to ``2 * reach`` away along each axis and on nothing else: any window that
is read so much larger gives the bits of the whole.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from gigatile.tiling.border import Border
from gigatile.tiling.region import Region

Pixels = np.ndarray[Any, Any]
Places = npt.NDArray[Any]
PIECE_PX = 1 << 16
"""Pixels of lines that are looked at together, unless one line has more."""
PIECE_BYTES = 128
"""What each of them takes for places and distances, beside its values."""


def continued(pixels: Pixels, valid: Pixels, inner: Region, border: Border, reach: int) -> Pixels:
    """Fill invalid pixels near valid ones, as if the image ended where the valid pixels do.

    Where a run is shorter than the distance, mirrored places bounce inside it, as numpy's do in a short array.

    Parameters
    ----------
    pixels : ndarray, shape (c, y, x), any dtype
        Overwritten in part.
    valid : ndarray of bool, shape (y, x)
        True where valid; not changed.
    inner : Region
        What is wanted of the window: all of it but ``2 * reach`` at sides where the image goes on.
    border : Border
    reach : int
        Pixels farther than this from all valid ones stay as stored.

    Returns
    -------
    ndarray, shape (c, *inner.shape)
        A view of `pixels`.

    Memory bound
    ------------
    One byte a pixel of the window, and `PIECE_BYTES` and two copies of the values of `PIECE_PX` pixels (or of one
    line, if longer).
    """
    known = valid.copy()
    _fill(pixels, known, border, reach, (inner.x0, inner.x1))
    pixels, known = pixels[:, :, inner.x0 : inner.x1], known[:, inner.x0 : inner.x1]
    _fill(pixels.transpose(0, 2, 1), known.T, border, reach, (inner.y0, inner.y1))
    return pixels[:, inner.y0 : inner.y1]


def _fill(pixels: Pixels, known: Pixels, border: Border, reach: int, wanted: tuple[int, int]) -> None:
    """Along the last axis and in place, between the two places that are wanted."""
    open_lines = known.any(axis=1) & ~known[:, wanted[0] : wanted[1]].all(axis=1)
    lines = np.flatnonzero(open_lines)
    step = max(PIECE_PX // known.shape[1], 1)
    for start in range(0, len(lines), step):
        some = lines[start : start + step]
        at_line, at, source = _sources(known[some], border, reach, wanted)
        line = some[at_line]
        values = pixels[:, line, np.maximum(source, 0)]
        values[:, source < 0] = border.value
        pixels[:, line, at] = values
        known[line, at] = True


def _sources(known: Pixels, border: Border, reach: int, wanted: tuple[int, int]) -> tuple[Places, Places, Places]:
    """Unknown pixels within reach, as line and place, and the place of the same line that each takes after.

    Parameters
    ----------
    known : ndarray of bool, shape (lines, places)

    Returns
    -------
    line, place, source : ndarray, shape (n,)
        A source of -1 stands for the constant.
    """
    size = known.shape[1]
    line, first, end = _runs(known)
    alone = line[1:] != line[:-1]
    gap = first[1:] - end[:-1]
    # Of the pixels between two runs the left one takes half, and the one in the middle.
    after = np.minimum(np.append(np.where(alone, size - end[:-1], (gap + 1) // 2), size - end[-1:]), reach)
    before = np.minimum(np.append(first[:1], np.where(alone, first[1:], gap // 2)), reach)
    start = np.clip(np.concatenate([first - before, end]), *wanted)
    count = np.clip(np.concatenate([first, end + after]), *wanted) - start
    run = np.repeat(np.arange(count.size), count)
    at = np.arange(run.size) + (start - (np.cumsum(count) - count))[run]
    run %= line.size
    # A run that the window cuts is longer than any distance that is asked for.
    folded = border.folded(at - first[run], (end - first)[run])
    return line[run], at, np.where(folded < 0, -1, first[run] + folded)


def _runs(known: Pixels) -> tuple[Places, Places, Places]:
    """Line, first place and end of each run of known pixels, line by line from left to right."""
    lines, size = known.shape
    edged = np.zeros((lines, size + 2), bool)
    edged[:, 1:-1] = known
    flat = edged.ravel()
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    line, first = np.divmod(changes[::2], size + 2)
    return line, first, changes[1::2] - line * (size + 2)
