"""Watershed: objects grow from their inner parts until they meet, within the foreground.

::

    foreground      ▁▅███▇████▅▁    > threshold     where objects may be
    inner           ▁▂▅█▅▂▅█▅▂▁▁    > seed          one seed each:   ...1...2...
                    flooded from the largest inner value down:       .1111122222.

The inner part is a distance channel, what a boundary channel leaves, or the distance to the background that is
computed from the foreground. Flooding (F. Meyer, "Un algorithme optimal pour la ligne de partage des eaux", 1991) is
scikit-image's; of equal values what was reached first comes first, beginning at the upper and then the left seed, so
that an object is the same in every window that holds all of the clump it is in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gigatile.objects.postprocess.labels import components, large_enough, structure
from gigatile.objects.postprocess.method import Common, Labels, Maps
from gigatile.objects.postprocess.words import Words

Inner = Literal["boundary", "distance", "edt"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Watershed(Common):
    """Seeds of the inner part, grown within the foreground.

    Parts of the foreground without a seed are objects as well if `unseeded` is ``keep``.
    """

    inner: Inner
    """Where the inner part comes from: what a boundary channel leaves (1 - it), a distance channel, or ``edt``."""
    channel: int = 1
    """The boundary or distance channel; without meaning for ``edt``."""
    foreground: int = 0
    """The channel with the foreground."""
    threshold: float = 0.5
    """A pixel is foreground above it."""
    seed: float = 0.5
    """A pixel of the foreground is seed where the inner part is above it; pixels for ``edt``."""
    min_seed: int = 1
    """Seeds of fewer pixels are none."""
    unseeded: Literal["keep", "drop"] = "keep"
    connectivity: int = 4
    """4 or 8."""

    def fitted(self, channels: int) -> Watershed:
        """See `Postprocess.fitted`."""
        self.need("foreground", self.foreground, channels)
        if self.inner != "edt":
            self.need(self.inner, self.channel, channels)
        return Common.fitted(self, channels)

    def __call__(self, prediction: Maps) -> Labels:
        """See `Postprocess.__call__`."""
        self.check(len(prediction))
        mask = prediction[self.foreground] > self.threshold
        if not mask.any():
            return np.zeros(mask.shape, np.int32)
        inner = self._inner(prediction, mask)
        seeds = large_enough(components(mask & (inner > self.seed), self.connectivity), self.min_seed)
        if self.unseeded == "keep":
            clumps = components(mask, self.connectivity)
            seeded = np.zeros(int(clumps.max()) + 1, bool)
            seeded[clumps[seeds > 0]] = True
            seeds = np.where(seeded[clumps] | ~mask, seeds, clumps + seeds.max(initial=0))
        return self.finished(flooded(inner, np.asarray(seeds, np.int32), mask, self.connectivity))

    def _inner(self, prediction: Maps, mask: NDArray[np.bool_]) -> NDArray[np.float32]:
        if self.inner == "edt":
            from scipy import ndimage

            # Beyond the window the foreground goes on, as it does behind the edge of a cell.
            return np.asarray(ndimage.distance_transform_edt(mask), np.float32)
        values = np.where(np.isfinite(prediction[self.channel]), prediction[self.channel], np.float32(0))
        return np.asarray(1 - values if self.inner == "boundary" else values, np.float32)


def flooded(inner: NDArray[np.float32], seeds: Labels, mask: NDArray[np.bool_], connectivity: int) -> Labels:
    """Seeds grown over the mask, the largest inner values first.

    Parameters
    ----------
    inner : ndarray, float32, shape (h, w)
    seeds : ndarray, int32, shape (h, w)
        0 = none.
    mask : ndarray, bool, shape (h, w)
        True = may be grown over.
    connectivity : int
        4 or 8.

    Returns
    -------
    ndarray, int32, shape (h, w)
    """
    from skimage.segmentation import watershed

    heights = -inner.astype(np.float64)
    started = np.flatnonzero(seeds)
    # Pixels of one height are flooded in the order in which they were reached, seeds in an order that their place in
    # a heap decides: so each seed pixel gets a height of its own, all below the rest.
    lowest = heights.min(initial=0, where=mask) - 1
    heights.ravel()[started] = lowest - started.size + np.arange(started.size)
    grown = watershed(heights, seeds, connectivity=structure(connectivity), mask=mask)
    return np.asarray(grown, np.int32)


def parse(words: Words) -> Watershed:
    """Read the options of ``watershed``."""
    inner, channel = _inner(words)
    return Watershed(
        inner=inner,
        channel=channel,
        foreground=words.whole("foreground", 0),
        threshold=words.number("threshold", 0.5),
        seed=words.number("seed", 3.0 if inner == "edt" else 0.5),
        min_seed=words.whole("min_seed", 1, low=1),
        unseeded="keep" if words.one_of("unseeded", "keep", "keep", "drop") == "keep" else "drop",
        connectivity=int(words.one_of("connectivity", "4", "4", "8")),
        min_area=words.whole("min_area", 15, low=1),
        fill_holes=words.whole("fill_holes", 0),
        context=words.whole("context", 64),
        classes=words.channels("classes"),
    )


def _inner(words: Words) -> tuple[Inner, int]:
    if ("boundary" in words) == ("distance" in words):
        raise words.refused(
            "either boundary= or distance=",
            "both" if "boundary" in words else "neither",
            "Type watershed:boundary=1 for a model that marks boundaries in channel 1, watershed:distance=1 for one "
            "that gives the depth in the object, watershed:distance=edt for one that gives the foreground alone.",
        )
    if "boundary" in words:
        words.text("distance", "")
        return "boundary", words.whole("boundary", 1)
    words.text("boundary", "")
    return ("edt", 0) if words.text("distance", "") == "edt" else ("distance", words.whole("distance", 1))
