"""Which labels of two cells are one object: those that agree on the pixels that both cells see.

::

    cell A  ┌─────────┬───┐            shared pixels: where both windows lie
            │     ▒▒▒▒│▒▒▒│            3 of A and 5 of B cover the same pixels there: one object
            │     3   ├───┼──────┐     9 of B only touches 3: another object
            └─────────┤ 5 │ 9    │
              cell B  └───┴──────┘

A label's best partner is the one of the largest IoU of pixels among the shared ones, then of the larger intersection,
then of the smaller number. Two labels are one object if each is the other's best partner and the measure exceeds the
threshold. The best is chosen by IoU even where the threshold is one of IoS: any sliver inside a large label has IoS 1.
So a U whose arms one cell sees as two labels, since they meet beyond its window, is joined along its larger arm and the
other stays an object of its own: that looks the same as two objects that a neighbour failed to part.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from gigatile.errors import UsageError
from gigatile.objects.cells import Patch
from gigatile.tiling.region import Region

Labels = npt.NDArray[np.uint32]
Measure = Literal["iou", "ios"]


@dataclass(frozen=True, slots=True)
class Agreement:
    """When two labels of the same pixels are one object.

    Raises
    ------
    UsageError
        An unknown measure, or a threshold outside [0, 1).
    """

    measure: Measure = "ios"
    """``iou``: intersection over union; ``ios``: intersection over the smaller of both."""
    threshold: float = 0.5
    """What the measure must exceed."""

    def __post_init__(self) -> None:
        if self.measure not in get_args(Measure):
            expected = f"one of {', '.join(get_args(Measure))}"
            raise UsageError("match", expected=expected, found=repr(self.measure))
        if not 0 <= self.threshold < 1:
            raise UsageError("match threshold", expected="0 or more and below 1", found=str(self.threshold))


def agreements(a: Patch, b: Patch, agreement: Agreement) -> tuple[Labels, Labels]:
    """Pairs of labels of two cells that are one object.

    Parameters
    ----------
    a, b : Patch
        Parts of two cells' windows, with all pixels that both windows share. Labels are canonical: tables as long
        as the largest of them are made.
    agreement : Agreement

    Returns
    -------
    labels_a, labels_b : ndarray of uint32, shape (pairs,)
        No label stands in two pairs; ascending in `labels_a`.
    """
    shared = a.region.clipped(b.region)
    if not shared.pixels:
        return np.empty(0, np.uint32), np.empty(0, np.uint32)
    in_a, in_b = _flat(a, shared), _flat(b, shared)
    both = (in_a > 0) & (in_b > 0)
    codes, counts = np.unique(in_a[both].astype(np.uint64) << np.uint64(32) | in_b[both], return_counts=True)
    label_a, label_b = codes >> np.uint64(32), codes & np.uint64(0xFFFFFFFF)
    size_a, size_b = np.bincount(in_a)[label_a], np.bincount(in_b)[label_b]
    # Whole numbers below 2**53: equal ratios are equal floats.
    iou = counts / (size_a + size_b - counts)
    mutual = _best(label_a, label_b, iou, counts) & _best(label_b, label_a, iou, counts)
    measure = iou if agreement.measure == "iou" else counts / np.minimum(size_a, size_b)
    kept = mutual & (measure > agreement.threshold)
    return label_a[kept].astype(np.uint32), label_b[kept].astype(np.uint32)


def _flat(patch: Patch, region: Region) -> Labels:
    y, x = region.shifted(-patch.region.y0, -patch.region.x0).slices()
    return np.asarray(patch.labels[y, x].reshape(-1))


def _best(
    label: npt.NDArray[np.uint64],
    partner: npt.NDArray[np.uint64],
    iou: npt.NDArray[np.float64],
    counts: npt.NDArray[np.int64],
) -> npt.NDArray[np.bool_]:
    """Whether each pair is the best of all pairs of its `label`."""
    order = np.lexsort((partner, -counts, -iou, label))
    ordered = label[order]
    best = np.zeros(len(label), bool)
    best[order[np.r_[True, ordered[1:] != ordered[:-1]][: len(order)]]] = True
    return best
