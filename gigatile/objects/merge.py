"""Boxes that say the same become one: the best, the hull, or the mean; and what a block can finish alone.

::

    ┌───────────────┬───────      block: its own part of the image
    │ interior      ╎      │      interior: nothing that another block finds lies in it
    │    [a]   [b][c╎]     │      a is finished; b hangs together with c, which reaches out: both stay open
    │╶ ╶ ╶ ╶ ╶ ╶ ╶ ╶┘      │
    └───────────────┴───────

Clusters are made within groups: boxes that hang together by matches. Nothing outside a group changes what becomes of
it, so that groups can be merged one by one, in any order, and the rows are those of the merge of everything at once.

What one of four tiles says with a score of 0.8, and the other three, which look at the place as well, do not:

=========  ================================================================
nms, nmm   stays, with 0.8: nothing contradicts it
wbf        stays, with 0.2: a quarter, and a threshold above that drops it
ownership  stays, with 0.8, if the tile's core has its centre; else is gone
=========  ================================================================

Memory bound
------------
That of `gigatile.objects.clusters`, and the boxes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from gigatile.errors import UsageError
from gigatile.objects.boxes import Boxes
from gigatile.objects.clusters import ranked_clusters
from gigatile.objects.match import Matching, Ordered, reached
from gigatile.tiling.region import Region

Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]
Box = tuple[float, float, float, float]
"""xmin, ymin, xmax, ymax."""

Reduction = Literal["nms", "nmm", "wbf"]
Looks = Callable[[Floats], npt.NDArray[np.integer]]
"""Of centres (k, 2), x and y, how many tiles look at each, (k,): `gigatile.objects.looks.TileLooks`."""


@dataclass(frozen=True, slots=True)
class Merge:
    """What becomes of a cluster: a keeper, and the boxes that it took."""

    reduction: Reduction
    """`nms`: the keeper. `nmm`: the hull of all, turned as the keeper. `wbf`: the mean, weighted by score."""
    matching: Matching
    looks: Looks | None = None
    """For `wbf`, which shares a score among the tiles that might have seen the object."""

    def __post_init__(self) -> None:
        if self.reduction not in get_args(Reduction):
            choice = ", ".join(get_args(Reduction))
            raise UsageError("merge", expected=choice, found=repr(self.reduction), fix="Choose one of them.")
        if self.reduction == "wbf" and self.looks is None:
            raise UsageError(
                "merge, wbf",
                expected="how many tiles look at a place",
                found="nothing",
                fix="Give a function of centres, or merge by nms or nmm.",
            )

    def __call__(self, boxes: Boxes) -> Boxes:
        """One row a cluster, from the best keeper on; see `nms`, `nmm` and `wbf`."""
        return self.ordered(boxes.take(boxes.order()))

    def ordered(self, boxes: Boxes) -> Boxes:
        """The same of boxes that are in their order already."""
        keepers = ranked_clusters(Ordered.of(boxes, self.matching))
        if self.reduction == "wbf" and self.looks is not None:
            return wbf(boxes, keepers, self.looks)
        return nmm(boxes, keepers) if self.reduction == "nmm" else nms(boxes, keepers)


def nms(boxes: Boxes, keepers: Rows) -> Boxes:
    """The keepers, as they are.

    Parameters
    ----------
    boxes : Boxes
    keepers : ndarray, int64 (m,)
        Of `gigatile.objects.clusters.clusters`.
    """
    return boxes.take(np.flatnonzero(keepers == np.arange(len(boxes))))


def nmm(boxes: Boxes, keepers: Rows) -> Boxes:
    """The smallest box, turned as the keeper is, that holds all of a cluster; score (the best) and class of the keeper.

    As SAHI's GREEDYNMM, but what a keeper takes is measured against the keeper itself, not what it has grown to:
    otherwise the cluster would depend on boxes that match none of its members.

    Parameters
    ----------
    boxes, keepers
        As of `nms`.
    """
    kept, others = _split(keepers)
    group, members = np.searchsorted(kept, keepers[others]), boxes.take(others)
    best = boxes.take(kept)
    places = best.places.copy()
    if not boxes.oriented:
        for column in range(4):
            grow = np.minimum if column < 2 else np.maximum
            grow.at(places[:, column], group, members.places[:, column])
        return Boxes(places, best.scores, best.classes)
    away = members.corners - best.centres[group][:, None]
    move = np.zeros((len(best), 2))
    for column, axis in enumerate(best.axes):
        low, high = -places[:, 2 + column] / 2, places[:, 2 + column] / 2
        along = away[..., 0] * axis[group, None, 0] + away[..., 1] * axis[group, None, 1]
        np.minimum.at(low, group, along.min(axis=1))
        np.maximum.at(high, group, along.max(axis=1))
        places[:, 2 + column] = high - low
        move += axis * ((low + high) / 2)[:, None]
    places[:, :2] += move
    return Boxes(places, best.scores, best.classes)


def wbf(boxes: Boxes, keepers: Rows, looks: Looks) -> Boxes:
    """The mean of a cluster weighted by score; a score that is shared by all tiles that look at the mean's centre.

    Weighted boxes fusion (Solovyev, Wang, Gabruseva: "Weighted boxes fusion: ensembling boxes from different object
    detection models", Image and Vision Computing 107, 2021), with tiles as the models, and two differences. A box joins
    the best box that it matches, not a mean that moves while it collects: there a cluster may depend on boxes that
    match none of its members. And the scores' sum is divided by the tiles that look at the place, not by the number of
    all models: what one of four tiles saw counts a quarter. The score never exceeds the cluster's best.

    Parameters
    ----------
    boxes, keepers
        As of `nms`. Where all scores of a cluster are 0 the boxes count alike.
    looks : callable
        Of centres, float64 (k, 2), the number of tiles that look at each; 0 counts as 1.

    Returns
    -------
    Boxes
        Class and, of turned boxes, angle are the keeper's; members turned nearer to a right angle from it count with
        width and height exchanged.

    Raises
    ------
    UsageError
        If a score is below 0: it cannot be a weight.
    """
    if len(boxes) and boxes.scores.min() < 0:
        raise UsageError(
            "merge, wbf",
            expected="scores from 0 up",
            found=f"{boxes.scores.min():g}",
            fix="Let the model end in a sigmoid, or merge by nms or nmm.",
        )
    kept, _ = _split(keepers)
    best = boxes.take(kept)
    group = np.searchsorted(kept, keepers)
    scores = boxes.scores.astype(np.float64)
    # bincount adds in the order of rows, which is the boxes' order: the same bits in whatever table the cluster stands.
    sums = np.bincount(group, scores, len(kept))
    weights = np.where(sums[group] > 0, scores, 1.0)
    total = np.bincount(group, weights, len(kept))
    places = best.places.copy()
    seen = _aligned(boxes, best, group)
    for column in range(4):
        # From the keeper on: a cluster of one, or of equal boxes, keeps its place to the bit.
        away = (seen[:, column] - best.places[group, column]) * weights
        places[:, column] += np.bincount(group, away, len(kept)) / total
    shared = sums / np.maximum(looks(Boxes(places, best.scores, best.classes).centres), 1)
    return Boxes(places, np.minimum(shared.astype(np.float32), best.scores), best.classes)


def _split(keepers: Rows) -> tuple[Rows, Rows]:
    """Keepers, and the rows that they took."""
    own = keepers == np.arange(len(keepers))
    return np.flatnonzero(own), np.flatnonzero(~own)


def _aligned(boxes: Boxes, best: Boxes, group: Rows) -> Floats:
    """Places (m, 4), sides named as the keeper's are: of the two names of a rectangle that turned less from it."""
    if not boxes.oriented:
        return boxes.places
    places = boxes.places[:, :4].copy()
    along, of_best = boxes.axes[0], best.axes[0][group]
    crossed = np.abs((along * of_best).sum(axis=1)) < np.sqrt(0.5)
    places[crossed, 2:] = places[crossed][:, [3, 2]]
    return places


def own_only(boxes: Boxes, core: Region) -> Boxes:
    """`ownership`: of what a tile says, after NMS within it, the boxes whose centre lies in its half-open core.

    Cores cover every pixel once, so each object is said by one tile; a tile that misses it is not made up for, and an
    object whose centre two tiles place differently may come twice or not at all.
    """
    x, y = boxes.centres.T
    return boxes.take((x >= core.x0) & (x < core.x1) & (y >= core.y0) & (y < core.y1))


def split(boxes: Boxes, merge: Merge, interior: Box) -> tuple[Boxes, Boxes]:
    """What a block can finish alone, and what must wait.

    Parameters
    ----------
    boxes : Boxes
        All that the block found.
    merge : Merge
    interior : tuple of float
        Where nothing that another block finds can lie: infinite at the edges of the image, and empty (a minimum above
        its maximum) where the block is too small to have any.

    Returns
    -------
    closed : Boxes
        Merged: of groups that lie within the interior as a whole.
    open : Boxes
        All others, as they were found.
    """
    boxes = boxes.take(boxes.order())
    xmin, ymin, xmax, ymax = boxes.hulls.T
    seeds = (xmin < interior[0]) | (ymin < interior[1]) | (xmax > interior[2]) | (ymax > interior[3])
    waits = reached(Ordered.of(boxes, merge.matching), seeds)
    return merge.ordered(boxes.take(~waits)), boxes.take(waits)
