"""Star-convex polygons: each pixel proposes an outline by its distance to the edge along n rays; the best stay.

::

          ╲ │ ╱          ray k of n leaves the pixel's centre at the angle 2 pi k / n,
         ── · ──▶ k = 0  from x towards y: (y, x) = centre + distance (sin, cos)
          ╱ │ ╲
            ▼ k = n/4    channels: 0 = probability, 1..n = distances in pixels of the model's input

U. Schmidt, M. Weigert, C. Broaddus and G. Myers, "Cell Detection with Star-convex Polygons", MICCAI 2018; angles,
overlap (intersection by the smaller area), thresholds 0.5 and 0.4 and the order of drawing (the most probable on top)
as in the package stardist (`geometry/geom2d.py`, `nms.py` of github.com/stardist/stardist). Of equal probabilities
the upper and then the left pixel is taken for the better one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gigatile.errors import UsageError
from gigatile.objects.postprocess.method import OPTION, Common, Labels, Maps
from gigatile.objects.postprocess.words import Words

LEAST_RAY = 1e-3
"""Rays are made at least so long, as in the package: outlines then are simple polygons."""
FEWEST_RAYS = 3
AT_ONCE = 4096
"""Outlines that are intersected at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stardist(Common):
    """Outlines that survive non-maximum suppression, drawn."""

    prob: float = 0.5
    """A pixel proposes an outline if its probability is above it."""
    nms: float = 0.4
    """Of two outlines whose intersection is more than this share of the smaller one, the less probable goes."""
    grid: int = 1
    """Pixels of the model's input that one pixel of its output stands for."""

    def rays(self, channels: int) -> int:
        """Rays of a model of so many channels: those between the probability and the classes."""
        return min((*self.classes, channels)) - 1

    def fitted(self, channels: int) -> Stardist:
        """See `Postprocess.fitted`."""
        common = Common.fitted(self, channels)
        if self.rays(channels) < FEWEST_RAYS:
            raise UsageError(
                f"{OPTION} stardist",
                expected=f"a probability and {FEWEST_RAYS} or more rays before the channels of classes",
                found=f"{channels} channels" + (f", classes from {min(self.classes)} on" if self.classes else ""),
                fix=f"Name the channels of classes, such as {OPTION} stardist:classes=33-36, or use components.",
            )
        return common

    def __call__(self, prediction: Maps) -> Labels:
        """See `Postprocess.__call__`."""
        self.check(len(prediction))
        probability = prediction[0]
        rays = prediction[1 : 1 + self.rays(len(prediction))]
        proposed = (probability > self.prob) & np.isfinite(rays).all(0)
        centres = np.argwhere(proposed)
        # stable: of equal probabilities the first in raster order stays first
        order = np.argsort(-probability[proposed], kind="stable")
        lengths = np.maximum(rays[:, proposed].T[order] / np.float32(self.grid), np.float32(LEAST_RAY))
        corners = Outlines(centres[order], lengths)
        labels = np.zeros(probability.shape, np.int32)
        for number, kept in enumerate(reversed(list(survivors(corners, self.nms))), 1):
            draw(labels, corners.corners(np.array([kept]))[0], number)
        return self.finished(labels)


@dataclass(frozen=True, slots=True)
class Outlines:
    """Star-convex polygons, best first."""

    centres: NDArray[np.int64]
    """Shape (m, 2), y and x; the centre of a pixel has whole coordinates."""
    lengths: NDArray[np.float32]
    """Shape (m, n), pixels, above 0."""

    def corners(self, index: NDArray[np.int64]) -> NDArray[np.float64]:
        """Corners of some of them, shape (len(index), n, 2), y and x."""
        count = self.lengths.shape[1]
        angles = 2 * np.pi * np.arange(count) / count
        rays = np.stack([np.sin(angles), np.cos(angles)], -1)
        found = self.lengths[index].astype(np.float64)[:, :, None] * rays
        return np.asarray(found + self.centres[index][:, None, :])

    @property
    def areas(self) -> NDArray[np.float64]:
        """Areas, shape (m,): triangles between neighbouring rays."""
        rays = self.lengths.astype(np.float64)
        turn = 2 * np.pi / rays.shape[1]
        return np.asarray((rays * np.roll(rays, -1, 1)).sum(1) * np.sin(turn) / 2)

    @property
    def outer(self) -> NDArray[np.float64]:
        """Radii of circles about the centres that hold the outlines, shape (m,)."""
        return np.asarray(self.lengths.max(1), np.float64)

    @property
    def inner(self) -> NDArray[np.float64]:
        """Radii of circles about the centres that lie in the outlines, shape (m,).

        An edge between rays a and b is nowhere nearer than the smaller of them by the cosine of half their angle.
        """
        rays = self.lengths.shape[1]
        return np.asarray(self.lengths.min(1) * np.cos(np.pi / rays), np.float64)

    def polygons(self, index: NDArray[np.int64]) -> NDArray[Any]:
        """The same as shapely polygons, shape (len(index),)."""
        import shapely

        return np.asarray(shapely.polygons(self.corners(index)))


def survivors(outlines: Outlines, most: float) -> Iterator[int]:
    """Indices of the outlines that stay, best first: each takes those that it overlaps by more than `most`.

    Most pairs are decided by circles within and around the two outlines; the rest are intersected.

    Memory bound
    ------------
    A few numbers an outline, and the polygons of 4,096 of them at a time: they are made when they are compared.
    """
    from scipy.spatial import cKDTree

    count = len(outlines.centres)
    if not count:
        return
    outer, inner, area = outlines.outer, outlines.inner, outlines.areas
    tree = cKDTree(outlines.centres)
    alive = np.ones(count, bool)
    longest = float(outer.max())
    for best in range(count):
        if not alive[best]:
            continue
        yield best
        near = np.array(tree.query_ball_point(outlines.centres[best], outer[best] + longest), np.int64)
        near = np.sort(near[(near > best) & alive[near]])
        apart = np.hypot(*(outlines.centres[near] - outlines.centres[best]).T)
        allowed = most * np.minimum(area[best], area[near])
        # A part in a million covers the rounding of the bounds.
        gone = lens(inner[best], inner[near], apart) > allowed * (1 + 1e-6)
        alive[near[gone]] = False
        unsure = ~gone & (lens(outer[best], outer[near], apart) > allowed * (1 - 1e-6))
        near, allowed = near[unsure], allowed[unsure]
        for at in (slice(i, i + AT_ONCE) for i in range(0, near.size, AT_ONCE)):
            alive[near[at][_common(outlines, best, near[at]) > allowed[at]]] = False


def lens(radius: float, radii: NDArray[np.float64], apart: NDArray[np.float64]) -> NDArray[np.float64]:
    """Area that a circle has in common with others, shape (m,).

    Parameters
    ----------
    radius : float
    radii, apart : ndarray, float64, shape (m,)
        Radii of the others, and how far their centres are from that of the first.
    """
    d = np.maximum(apart, 1e-9)
    small, large = np.minimum(radius, radii), np.maximum(radius, radii)
    # Half-angles of the two arcs; clipping makes circles within one another and apart come out right.
    a = np.arccos(np.clip((d**2 + small**2 - large**2) / (2 * d * small), -1, 1))
    b = np.arccos(np.clip((d**2 + large**2 - small**2) / (2 * d * large), -1, 1))
    return np.asarray(small**2 * (a - np.sin(2 * a) / 2) + large**2 * (b - np.sin(2 * b) / 2))


def _common(outlines: Outlines, best: int, others: NDArray[np.int64]) -> NDArray[np.float64]:
    """Area of the intersection of one outline with each of others."""
    import shapely

    mine = outlines.polygons(np.array([best]))[0]
    return np.asarray(shapely.area(shapely.intersection(mine, outlines.polygons(others))))


def draw(labels: Labels, corners: NDArray[np.float64], number: int) -> None:
    """Set the pixels whose centres lie in a polygon (corners (n, 2), y and x) to a number."""
    from skimage.draw import polygon

    rows, columns = polygon(corners[:, 0], corners[:, 1], labels.shape)
    labels[rows, columns] = number


def parse(words: Words) -> Stardist:
    """Read the options of ``stardist``."""
    return Stardist(
        prob=words.number("prob", 0.5),
        nms=words.number("nms", 0.4, low=0, high=1),
        grid=words.whole("grid", 1, low=1),
        min_area=words.whole("min_area", 1, low=1),
        fill_holes=words.whole("fill_holes", 0),
        context=words.whole("context", 64),
        classes=words.channels("classes"),
    )
