"""How good boxes are: matching with true ones, precision, recall, F1 and average precision.

::

    found, best first ──▶ takes the true box of its class that it overlaps most, if that is free ──▶ hit or miss
                                                                  │
    pooled over pictures: precision and recall after each ◀───────┘──▶ AP, the area under their curve
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Array = np.ndarray[Any, Any]
Measure = Literal["iou", "ios"]
RECALLS = np.linspace(0, 1, 101)
"""Where COCO reads the curve."""


@dataclass(frozen=True, slots=True)
class DetectionScore:
    """Of all boxes that were found, over all pictures and classes."""

    hits: int
    found: int
    true: int
    average_precision: float
    """Mean over classes that have true boxes; NaN without any."""

    @property
    def precision(self) -> float:
        """Hits of what was found; 0 if nothing was."""
        return self.hits / self.found if self.found else 0.0

    @property
    def recall(self) -> float:
        """Hits of what is there; 0 if there is nothing."""
        return self.hits / self.true if self.true else 0.0

    @property
    def f1(self) -> float:
        """``2 hits / (found + true)``; 0 without any."""
        return 2 * self.hits / (self.found + self.true) if self.found + self.true else 0.0


def overlaps(first: Array, second: Array, measure: Measure = "iou") -> Array:
    """How much each two boxes overlap: their intersection, of their union or of the smaller.

    Parameters
    ----------
    first, second : ndarray, shapes (m, 4) and (n, 4)
        x1, y1, x2, y2.
    measure : {"iou", "ios"}

    Returns
    -------
    ndarray, float64, shape (m, n)
        0 where one is empty that it would be divided by.
    """
    a, b = np.asarray(first, np.float64)[:, None], np.asarray(second, np.float64)[None]
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    shared = np.clip(sides, 0, None).prod(axis=-1)
    sizes = (a[..., 2:] - a[..., :2]).prod(axis=-1), (b[..., 2:] - b[..., :2]).prod(axis=-1)
    whole = sizes[0] + sizes[1] - shared if measure == "iou" else np.minimum(*sizes)
    found: Array = np.divide(shared, whole, out=np.zeros_like(shared), where=whole > 0)
    return found


def greedy_nms(rows: Array, threshold: float, measure: Measure = "iou") -> Array:
    """Indices of the boxes that are left if the best drops those of its class that overlap it by more, again and again.

    Plain, of quadratic cost: what faster code is compared with.

    Parameters
    ----------
    rows : ndarray, shape (m, 6)
        x1, y1, x2, y2, score, class.
    threshold : float
        Of `measure`.
    measure : {"iou", "ios"}

    Returns
    -------
    ndarray of int, shape (k,)
        Best first.
    """
    order = np.argsort(-rows[:, 4], kind="stable")
    kept: list[int] = []
    while len(order):
        best, rest = order[0], order[1:]
        kept.append(int(best))
        same = rows[rest, 5] == rows[best, 5]
        order = rest[~(same & (overlaps(rows[best : best + 1, :4], rows[rest, :4], measure)[0] > threshold))]
    return np.asarray(kept, np.int64)


def hits_of(found: Array, true: Array, threshold: float = 0.5) -> Array:
    """Which boxes of one picture are hits.

    Parameters
    ----------
    found : ndarray, shape (m, 6)
        x1, y1, x2, y2, score, class.
    true : ndarray, shape (t, 5)
        x1, y1, x2, y2, class.
    threshold : float
        Least IoU of a hit.

    Returns
    -------
    ndarray of bool, shape (m,)
        In the order of `found`. Each true box is hit once, by the best of those that overlap it most.
    """
    ious = overlaps(found[:, :4], true[:, :4])
    ious[found[:, 5][:, None] != true[:, 4][None]] = -1
    hits = np.zeros(len(found), bool)
    for index in np.argsort(-found[:, 4], kind="stable"):
        if not len(true):
            break
        best = int(np.argmax(ious[index]))
        if ious[index, best] >= threshold:
            hits[index] = True
            ious[:, best] = -1
    return hits


def score_detections(found: Sequence[Array], true: Sequence[Array], threshold: float = 0.5) -> DetectionScore:
    """Scores pooled over pictures.

    Parameters
    ----------
    found, true : sequence of ndarray
        Of each picture; see `hits_of`.
    threshold : float
        Least IoU of a hit.

    Returns
    -------
    DetectionScore
        Average precision as COCO's at one IoU: the highest precision at each of 101 recalls or beyond, averaged.
        Source: `COCOeval.accumulate` of cocodataset/cocoapi (Lin et al., "Microsoft COCO", ECCV 2014).
    """
    pictures = zip(found, true, strict=True)
    hits = np.concatenate([np.zeros(0, bool), *(hits_of(rows, boxes, threshold) for rows, boxes in pictures)])
    rows = np.concatenate([*found, np.zeros((0, 6))])
    boxes = np.concatenate([*true, np.zeros((0, 5))])
    precisions = []
    for label in np.unique(boxes[:, 4]):
        own = rows[:, 5] == label
        order = np.argsort(-rows[own, 4], kind="stable")
        precisions.append(_average_precision(hits[own][order], int((boxes[:, 4] == label).sum())))
    mean = float(np.mean(precisions)) if precisions else float("nan")
    return DetectionScore(int(hits.sum()), len(rows), len(boxes), mean)


def _average_precision(hits: Array, true: int) -> float:
    """Of one class, best first."""
    ups = np.cumsum(hits)
    precision = ups / np.arange(1, len(hits) + 1)
    # Precision is what can be had at this recall or a higher one.
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    places = np.searchsorted(ups / true, RECALLS, side="left")
    return float(np.where(places < len(hits), np.append(precision, 0.0)[np.minimum(places, len(hits))], 0.0).mean())
