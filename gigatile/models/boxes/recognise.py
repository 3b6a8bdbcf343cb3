"""Which format a detector's outputs have, told by their number, shapes, names, and what its exporter wrote.

::

    boxes, scores, labels in three arrays; boxes (.., 5) and labels     split
    dets (n, q, 4), labels (n, q, k)  (RF-DETR)                         detr
    one array (m, 7)                                                    nms, numbered
    one array (n, a, 5 + k), a = cells of 8, 16, 32 px                  yolox
                             a = three times the cells                  yolov5
    one array (n, 4 + k, a), a = cells                                  yolov8
    one array (n, m, 6), or (n, m, 7) of task obb                       nms; (n, m, 7) else: rows
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from gigatile.errors import BlockError
from gigatile.models.boxes.finished import find_parts, find_queries
from gigatile.models.boxes.format import EXAMPLES, BoxFormat, parse_boxes
from gigatile.models.boxes.frame import Array, Frame, Named
from gigatile.models.boxes.grids import STRIDES, cells
from gigatile.models.cards.ultralytics import Exported, exported

ANCHORS = 3
"""Candidates of YOLOv5 and YOLOv7 in a cell."""
MASK_COLUMNS = 32
"""Coefficients of prototypes that ``-seg`` exports put behind the classes."""


def recognised(frame: Frame, named: Named, metadata: Mapping[str, str]) -> BoxFormat:
    """The format of some outputs.

    Parameters
    ----------
    frame : Frame
        Of the batch that they are of.
    named : mapping of str to ndarray
    metadata : mapping of str to str
        What lies in the model's file.

    Raises
    ------
    BlockError
        They are none of the common ones, or could be two of them: names what to type.
    """
    said = exported(metadata)
    text = _several(frame, named) if len(named) > 1 else ""
    if not text:
        tables = [array for array in named.values() if array.ndim in (2, 3)]
        text = _single(frame, tables[0], said) if tables else ""
    if not text:
        raise _unknown(frame, named)
    return parse_boxes(text)


def _several(frame: Frame, named: Named) -> str:
    if find_parts(named, frame.given) is not None:
        return "split"
    if find_queries(named) is not None and {name.lower() for name in named} == {"dets", "labels"}:
        return "detr"
    return ""


def _single(frame: Frame, found: Array, said: Exported | None) -> str:
    if found.ndim == 2:
        return "nms" if found.shape[1] == 7 or (found.shape[1] == 6 and frame.given == 1) else ""
    tiles, first, last = found.shape
    if tiles != frame.given:
        return ""
    counts = {cells(frame.tile, strides) for strides in STRIDES}
    names = len(said.names) if said is not None else 0
    task = said.task if said is not None else ""
    if said is not None and "rtdetr" in said.description.lower():
        return f"yolov8:normalised,classes={names}"
    if last >= 6 and first in {ANCHORS * count for count in counts}:
        return f"yolov5:classes={names}" if 0 < names <= last - 5 else "yolov5"
    if last >= 6 and first in counts:
        return "yolox:decoded" if _in_place(found) else "yolox"
    if last in counts or (task and first < last) or (task and first == 4 + names + (task == "obb")):
        return _yolov8(first, names, task)
    if last == 6 or (names and last > 6 and task not in ("", "obb")):
        return "nms"
    if last == 7:
        return "nms:obb" if task == "obb" else "rows"
    # Maps of unknown strides: candidates are more than columns.
    return _yolov8(first, names, task) if 5 <= first < last and not names else ""


def _yolov8(columns: int, names: int, task: str) -> str:
    turned = task == "obb"
    options = ["obb"] * turned
    if names and (columns == 4 + names + turned or columns > 4 + names):
        options.append(f"classes={names}")
    return f"yolov8:{','.join(options)}" if options else "yolov8"


def _in_place(found: Array) -> bool:
    """Whether YOLOX has its grid inside: centres in pixels cover a tile, offsets are a few cells at most.

    Candidates of a map follow each other by rows, so x of neighbours grows by the stride where it is in place.
    """
    x = found[0, :, 0].astype(np.float64)
    return bool(np.median(np.abs(np.diff(x))) > 4)


def _unknown(frame: Frame, named: Named) -> BlockError:
    shapes = ", ".join(f"{name} {array.dtype} {array.shape}" for name, array in named.items())
    return BlockError(
        frame.where,
        expected="outputs of a detector that is known",
        found=shapes or "none of a table's shape",
        fix=f"Say what they are with --boxes, for example {EXAMPLES}.",
    )
