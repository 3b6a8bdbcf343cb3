"""Detectors that give finished objects: rows, arrays of boxes beside scores and labels, and those of transformers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gigatile.models.boxes.format import BoxFormat
from gigatile.models.boxes.frame import Array, Frame, Named, as_array, oriented, upright
from gigatile.models.boxes.grids import main_output
from gigatile.models.boxes.rows import UPRIGHT, Rows

BOXES = {"boxes", "bboxes", "box", "bbox", "dets", "det_boxes", "pred_boxes", "detection_boxes"}
SCORES = {"scores", "score", "det_scores", "detection_scores", "confidences"}
LABELS = {"labels", "label", "classes", "class_ids", "det_classes", "detection_classes", "category_ids"}
COUNTS = {"num_dets", "num_detections", "num_boxes"}
"""What exporters call them, in small letters."""


def rows(frame: Frame, format: BoxFormat, tiles: Sequence[Any]) -> Iterator[Rows]:
    """Rows as a function returns them, or dicts with boxes, scores and labels as torchvision's modules do.

    What is no row of 6 or 7 numbers is handed on for `checked_rows` to refuse.
    """
    for tile in tiles[: frame.count]:
        if isinstance(tile, dict):
            named = {name: as_array(frame, value) for name, value in tile.items()}
            yield from split(replace(frame, given=1, count=1), format, named)
            continue
        table = as_array(frame, tile)
        if table.ndim != 2 or table.shape[1] < UPRIGHT:
            yield table
            continue
        # NaN is no small score: it is kept here, and then refused.
        kept = table[~(table[:, -2] < frame.score)]
        if kept.shape[1] == UPRIGHT and len(kept):
            yield upright(frame, format, kept[:, :4], kept[:, 4], kept[:, 5])
        elif format.normalised and len(kept):
            yield oriented(frame, format, kept[:, :5], kept[:, 5], kept[:, 6])
        else:
            yield kept


def nms(frame: Frame, format: BoxFormat, named: Named) -> Iterator[Rows]:
    """(n, m, 6) box, score, class; (n, m, 7) with radians last where oriented; (m, 7) with the tile's number first."""
    flat = [array for array in named.values() if array.ndim == 2]
    if flat and not any(array.ndim == 3 for array in named.values()):
        yield from _numbered(frame, format, flat[0])
        return
    for tile in main_output(frame, format, named, UPRIGHT + format.oriented)[: frame.count]:
        kept = tile[frame.picked(tile[:, 4])]
        if format.oriented:
            yield oriented(frame, format, kept[:, [0, 1, 2, 3, 6]], kept[:, 4], kept[:, 5])
        else:
            yield upright(frame, format, kept[:, :4], kept[:, 4], kept[:, 5])


def _numbered(frame: Frame, format: BoxFormat, table: Array) -> Iterator[Rows]:
    """(m, 7): tile, x1, y1, x2, y2, class, score of YOLOv7; (m, 6) of a single tile: box, score, class."""
    if format.oriented or table.shape[1] not in ((6, 7) if frame.given == 1 else (7,)):
        raise frame.refuse(format, "rows of 7: tile, box, class, score", f"shape {table.shape}")
    if table.shape[1] == UPRIGHT:
        kept = table[frame.picked(table[:, 4])]
        yield upright(frame, format, kept[:, :4], kept[:, 4], kept[:, 5])
        return
    kept = table[frame.picked(table[:, 6])]
    tiles = kept[:, 0]
    if not np.isin(tiles, np.arange(frame.given)).all():
        raise frame.refuse(format, f"tile numbers from 0 to {frame.given - 1} in column 0", "others")
    for tile in range(frame.count):
        own = kept[tiles == tile]
        yield upright(frame, format, own[:, 1:5], own[:, 6], own[:, 5])


@dataclass(frozen=True, slots=True)
class Parts:
    """Outputs by what they hold; with an axis of tiles."""

    boxes: Array
    """Shape (n, m, 4)."""
    scores: Array
    """Shape (n, m)."""
    labels: Array
    """Shape (n, m)."""
    counts: Array
    """Shape (n,): rows that count."""


def find_parts(named: Named, tiles: int) -> Parts | None:
    """Which output is what, by name or else by shape and dtype; None where they are not three such arrays.

    Parameters
    ----------
    named : mapping
    tiles : int
        In the batch; arrays of a single tile may lack their first axis.
    """

    def by_name(names: set[str]) -> Array | None:
        return next((array for name, array in named.items() if name.lower() in names), None)

    boxes, scores, labels, counts = (by_name(names) for names in (BOXES, SCORES, LABELS, COUNTS))
    if boxes is None:
        boxes = next((a for a in named.values() if a.ndim in (2, 3) and a.shape[-1] in (4, 5)), None)
    if boxes is None or boxes.ndim not in (2, 3) or boxes.shape[-1] not in (4, 5):
        return None
    if boxes.shape[-1] == 5:
        boxes, scores = boxes[..., :4], boxes[..., 4]
    beside = [array for array in named.values() if array.shape == boxes.shape[:-1]]
    if scores is None:
        scores = next((array for array in beside if array.dtype.kind == "f" and array is not labels), None)
    if labels is None:
        labels = next((array for array in beside if array.dtype.kind in "iu"), None)
    if scores is None or labels is None or scores.shape != boxes.shape[:-1] or labels.shape != boxes.shape[:-1]:
        return None
    if boxes.ndim == 2:
        boxes, scores, labels = boxes[None], scores[None], labels[None]
    if len(boxes) != tiles:
        return None
    full = np.full(tiles, boxes.shape[1])
    return Parts(boxes, scores, labels, full if counts is None else np.asarray(counts).reshape(-1))


def split(frame: Frame, format: BoxFormat, named: Named) -> Iterator[Rows]:
    """Boxes, scores and labels in arrays of their own."""
    parts = find_parts(named, frame.given)
    if parts is None or len(parts.counts) != frame.given:
        shapes = ", ".join(f"{name} {array.dtype} {array.shape}" for name, array in named.items())
        wanted = f"boxes ({frame.given}, m, 4), scores and labels ({frame.given}, m)"
        raise frame.refuse(format, wanted, shapes or "none")
    for tile in range(frame.count):
        most = int(parts.counts[tile])
        scores = parts.scores[tile][:most]
        index = frame.picked(scores)
        yield upright(frame, format, parts.boxes[tile][index], scores[index], parts.labels[tile][index])


def detr(frame: Frame, format: BoxFormat, named: Named) -> Iterator[Rows]:
    """Boxes (n, q, 4), logits (n, q, k): the best class of each query, by sigmoid, or softmax with none as last."""
    found = find_queries(named)
    if found is None or len(found[0]) != frame.given:
        shapes = ", ".join(f"{name} {array.shape}" for name, array in named.items())
        raise frame.refuse(format, f"boxes ({frame.given}, q, 4) and logits ({frame.given}, q, k)", shapes or "none")
    boxes, logits = found
    for tile in range(frame.count):
        values = logits[tile].astype(np.float64)
        if format.softmax:
            values = np.exp(values - values.max(axis=1, keepdims=True))
            values = (values / values.sum(axis=1, keepdims=True))[:, :-1]
        classes = np.argmax(values, axis=1)
        best = np.take_along_axis(values, classes[:, None], axis=1)[:, 0]
        scores = best if format.softmax else 1 / (1 + np.exp(-best))
        index = frame.picked(scores)
        yield upright(frame, format, boxes[tile][index], scores[index], classes[index])


def find_queries(named: Named) -> tuple[Array, Array] | None:
    """Boxes and logits of a transformer's queries; None where they are not two arrays of three axes."""
    arrays = {name: array for name, array in named.items() if array.ndim == 3}
    boxes = [name for name, array in arrays.items() if array.shape[2] == 4]
    if len(boxes) > 1:
        boxes = [name for name in boxes if name.lower() in BOXES]
    if len(arrays) != 2 or len(boxes) != 1:
        return None
    (other,) = arrays.keys() - boxes
    pair = arrays[boxes[0]], arrays[other]
    return pair if pair[0].shape[:2] == pair[1].shape[:2] and pair[1].shape[2] > 1 else None
