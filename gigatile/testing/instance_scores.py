"""How well labels agree with labels that people drew: F1, average precision, panoptic quality; pooled over pictures.

::

    found  ▓▓▓▓     truth  ░░░░     IoU > 1/2: one partner at most on either side, so that nothing is to be chosen
             └── common ──┘
    pairs = tp     found without partner = fp     truth without partner = fn
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[Any]
DSB2018_THRESHOLDS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
"""0.5, 0.55 ... 0.95: those of the 2018 Data Science Bowl (J. Caicedo et al., Nature Methods 16, 2019, 1247-1253)."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Pairs and what is left over at one IoU; counts of several pictures are added."""

    tp: int = 0
    """Pairs."""
    fp: int = 0
    """Found objects without a partner."""
    fn: int = 0
    """True objects without a partner."""
    iou: float = 0.0
    """Sum of the IoU of the pairs."""

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.tp + other.tp, self.fp + other.fp, self.fn + other.fn, self.iou + other.iou)

    @property
    def f1(self) -> float:
        """``2 tp / (2 tp + fp + fn)``; 1 where there is nothing and nothing was found."""
        return _share(2 * self.tp, 2 * self.tp + self.fp + self.fn)

    @property
    def precision(self) -> float:
        """Share of the found objects that have a partner."""
        return _share(self.tp, self.tp + self.fp)

    @property
    def recall(self) -> float:
        """Share of the true objects that have a partner."""
        return _share(self.tp, self.tp + self.fn)

    @property
    def average_precision(self) -> float:
        """``tp / (tp + fp + fn)``, as the Data Science Bowl and StarDist name it; mean over thresholds elsewhere."""
        return _share(self.tp, self.tp + self.fp + self.fn)

    @property
    def panoptic_quality(self) -> float:
        """Mean IoU of the pairs times F1 (A. Kirillov et al., "Panoptic Segmentation", CVPR 2019, equation 1)."""
        return _share(2 * self.iou, 2 * self.tp + self.fp + self.fn)


def counted(found: Labels, truth: Labels, threshold: float = 0.5) -> Counts:
    """Pairs whose IoU is above a threshold.

    Parameters
    ----------
    found, truth : ndarray, any integer dtype, the same shape
        0 = background; any other number is one object, whether it hangs together or not.
    threshold : float
        From 0.5 to 1: above one half a pair is each other's only possible partner.

    Raises
    ------
    ValueError
        The shapes differ, or the threshold is not in that range.
    """
    return counted_at(found, truth, (threshold,))[0]


def counted_at(found: Labels, truth: Labels, thresholds: Sequence[float]) -> tuple[Counts, ...]:
    """`counted` for several thresholds; the overlaps are computed once."""
    if found.shape != truth.shape:
        raise ValueError(f"labels of one shape are compared, not {found.shape} and {truth.shape}")
    if not all(0.5 <= threshold <= 1 for threshold in thresholds):
        raise ValueError(f"thresholds lie from 0.5 to 1, not {thresholds}")
    ious, of_found, of_truth = _overlaps(found, truth)
    results = []
    for threshold in thresholds:
        pairs = ious[ious > threshold]
        results.append(Counts(pairs.size, of_found - pairs.size, of_truth - pairs.size, float(pairs.sum())))
    return tuple(results)


def mean_average_precision(per_picture: Sequence[Sequence[Counts]]) -> float:
    """Mean over thresholds of ``tp / (tp + fp + fn)``, the counts of all pictures pooled at each threshold.

    Parameters
    ----------
    per_picture : sequence of sequence of Counts
        What `counted_at` gives for each picture, with the same thresholds.
    """
    pooled = [sum(column, Counts()) for column in zip(*per_picture, strict=True)]
    return float(np.mean([counts.average_precision for counts in pooled]))


def _overlaps(found: Labels, truth: Labels) -> tuple[NDArray[np.float64], int, int]:
    """IoU of all pairs that share a pixel, and how many objects there are on either side."""
    numbers_found, at_found = np.unique(found, return_inverse=True)
    numbers_truth, at_truth = np.unique(truth, return_inverse=True)
    size = (numbers_found.size, numbers_truth.size)
    pair, common = np.unique(at_found.ravel() * size[1] + at_truth.ravel(), return_counts=True)
    i, j = pair // max(size[1], 1), pair % max(size[1], 1)
    area_found = np.bincount(i, common, size[0])
    area_truth = np.bincount(j, common, size[1])
    objects = (numbers_found[i] != 0) & (numbers_truth[j] != 0)
    i, j, common = i[objects], j[objects], common[objects]
    ious = common / (area_found[i] + area_truth[j] - common)
    return ious, int((numbers_found != 0).sum()), int((numbers_truth != 0).sum())


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 1.0
