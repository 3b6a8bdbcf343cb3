"""Connected components of the foreground: the plainest way to objects, and one that joins what touches.

::

    one channel         ▁▅█▅▁▁▆█▆▁   > threshold    ─▶  .111..222.
    several, as classes argmax, class 0 = background ─▶  .111322..     parts of one class; 1|3 touch and stay two
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from gigatile.errors import UsageError
from gigatile.objects.postprocess.labels import components
from gigatile.objects.postprocess.method import OPTION, Common, Labels, Maps
from gigatile.objects.postprocess.words import Words


@dataclass(frozen=True, slots=True, kw_only=True)
class Components(Common):
    """Parts of the foreground that hang together.

    A part is the same in every window that holds all of it.
    """

    foreground: int | None = None
    """The channel with the foreground; None: the only one, or, of several, the largest says the class."""
    threshold: float | None = None
    """A pixel is foreground above it; None: 0.5. Only where one channel says what is foreground."""
    connectivity: int = 4
    """4 or 8."""

    def fitted(self, channels: int) -> Components:
        """See `Postprocess.fitted`: of several channels all but the first are classes."""
        common = Common.fitted(self, channels)
        if self.foreground is not None:
            self.need("foreground", self.foreground, channels)
        elif channels > 1:
            if self.threshold is not None:
                raise UsageError(
                    f"{OPTION} components",
                    expected="a threshold for one channel",
                    found=f"threshold={self.threshold:g} and {channels} channels, the largest of which wins",
                    fix=f"Say which channel it is for: foreground={channels - 1}; or leave the threshold out.",
                )
            return replace(common, classes=self.classes or tuple(range(1, channels)))
        return common

    def __call__(self, prediction: Maps) -> Labels:
        """See `Postprocess.__call__`."""
        self.check(len(prediction))
        if self.foreground is not None or len(prediction) == 1:
            level = 0.5 if self.threshold is None else self.threshold
            return self.finished(components(prediction[self.foreground or 0] > level, self.connectivity))
        # argmax would take NaN for the largest.
        kinds = np.where(np.isnan(prediction).any(0), 0, prediction.argmax(0))
        labels = np.zeros(kinds.shape, np.int32)
        for kind in np.unique(kinds[kinds > 0]):
            parts = components(kinds == kind, self.connectivity)
            labels = np.where(parts > 0, parts + labels.max(initial=0), labels)
        return self.finished(labels)


def parse(words: Words) -> Components:
    """Read the options of ``components``."""
    foreground, threshold = words.whole("foreground", 0), words.number("threshold", 0.5)
    return Components(
        foreground=foreground if "foreground" in words else None,
        threshold=threshold if "threshold" in words else None,
        connectivity=int(words.one_of("connectivity", "4", "4", "8")),
        min_area=words.whole("min_area", 15, low=1),
        fill_holes=words.whole("fill_holes", 0),
        context=words.whole("context", 64),
        classes=words.channels("classes"),
    )
