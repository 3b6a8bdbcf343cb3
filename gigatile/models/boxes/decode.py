"""From what a detector gives for a batch to one table of boxes a tile."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from gigatile.errors import BlockError
from gigatile.models.boxes import finished, grids
from gigatile.models.boxes.format import ROWS, BoxFormat
from gigatile.models.boxes.frame import Array, Frame, Named, as_array
from gigatile.models.boxes.recognise import recognised
from gigatile.models.boxes.rows import Rows, checked_rows

_DECODERS: dict[str, Callable[[Frame, BoxFormat, Named], Iterator[Rows]]] = {
    "yolox": grids.yolox,
    "yolov5": grids.yolov5,
    "yolov8": grids.yolov8,
    "nms": finished.nms,
    "split": finished.split,
    "detr": finished.detr,
}


def decoded(frame: Frame, format: BoxFormat, answer: Any) -> list[Rows]:
    """One table of boxes a tile.

    Parameters
    ----------
    frame : Frame
    format : BoxFormat
        Not ``auto``; see `format_of`.
    answer : ndarray, or mapping or sequence of them
        All that the model gave.

    Returns
    -------
    list of ndarray, float64, shape (m, 6) or (m, 7)
        Of the first `frame.count` tiles; see `gigatile.models.boxes.rows`. Scores are at least `frame.score`.

    Raises
    ------
    BlockError
        The answer is not what the format says, or has numbers that are no boxes.
    """
    # Numbers that are not finite are found in what comes out.
    with np.errstate(over="ignore", invalid="ignore"):
        return _decoded(frame, format, answer)


def _decoded(frame: Frame, format: BoxFormat, answer: Any) -> list[Rows]:
    if format.layout == "rows":
        tiles = _tiles(frame, answer)
        if len(tiles) != frame.given:
            expected = f"a list of {frame.given} arrays, one a tile"
            raise BlockError(frame.where, expected=expected, found=f"{len(tiles)}")
        return checked_rows(frame.where, finished.rows(frame, format, tiles))
    return checked_rows(frame.where, _DECODERS[format.layout](frame, format, _named(frame, answer)))


def format_of(frame: Frame, format: BoxFormat, answer: Any, metadata: Mapping[str, str]) -> BoxFormat:
    """The format itself, or what is recognised where it is ``auto``.

    Raises
    ------
    BlockError
        Nothing is.
    """
    if format.layout != "auto":
        return format
    return ROWS if _is_rows(frame, answer) else recognised(frame, _named(frame, answer), metadata)


def _is_rows(frame: Frame, answer: Any) -> bool:
    """Whether it is a list with a table, or a dict of tables, of each tile."""
    if isinstance(answer, (np.ndarray, Mapping)) or not isinstance(answer, Sequence):
        return False
    if any(isinstance(part, Mapping) for part in answer):
        return True
    arrays = _named(frame, answer)
    return all(array.ndim <= 2 for array in arrays.values()) and finished.find_parts(arrays, frame.given) is None


def _tiles(frame: Frame, answer: Any) -> Sequence[Any]:
    """The tables of all tiles in a list."""
    if isinstance(answer, Mapping) and len(answer) == 1:
        answer = next(iter(answer.values()))
    if isinstance(answer, np.ndarray) and answer.ndim == 2 and frame.given == 1:
        return [answer]
    if isinstance(answer, np.ndarray) and answer.ndim:
        return list(answer)
    if isinstance(answer, Sequence):
        return [dict(part) if isinstance(part, Mapping) else as_array(frame, part) for part in answer]
    expected = f"a list of {frame.given} arrays, one a tile"
    raise BlockError(frame.where, expected=expected, found=type(answer).__name__)


def _named(frame: Frame, answer: Any) -> dict[str, Array]:
    """All arrays by name; by number where they have none."""
    if isinstance(answer, Mapping):
        return {str(name): as_array(frame, array) for name, array in answer.items()}
    if isinstance(answer, Sequence):
        return {str(number): as_array(frame, part) for number, part in enumerate(answer)}
    return {"output": as_array(frame, answer)}
