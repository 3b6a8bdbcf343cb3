"""What every method of `--postprocess` is, and what they share.

::

    prediction (k, h, w) ──method──▶ labels (h, w)       0 = background, 1..N in raster order of the first pixel
    (a cell and what lies                                 equal maps, equal labels: nothing random, no ties
     `context_px` around it)                              left to the order of a heap
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from gigatile.errors import UsageError
from gigatile.objects.postprocess.labels import canonical, large_enough, without_holes

Maps = NDArray[np.float32]
Labels = NDArray[np.int32]
OPTION = "--postprocess"


class Postprocess(Protocol):
    """A method with its numbers: frozen, picklable, equal if the numbers are."""

    @property
    def name(self) -> str:
        """The word that is typed for it."""
        ...

    @property
    def context_px(self) -> int:
        """Pixels around a cell that it wants to see: about the extent of the largest object."""
        ...

    @property
    def class_channels(self) -> tuple[int, ...]:
        """Channels whose mean over an object gives its class (the largest) and score; empty: no classes."""
        ...

    def __call__(self, prediction: Maps) -> Labels:
        """Labels of one window.

        Parameters
        ----------
        prediction : ndarray, float32, shape (k, h, w)
            The channels of the model; NaN counts as background.

        Returns
        -------
        ndarray, int32, shape (h, w)
            0 = background; objects are 1..N in raster order of their first pixel.

        Raises
        ------
        UsageError
            As `check`.
        """
        ...

    def describe(self) -> dict[str, Any]:
        """The method and every number that can change a value, as JSON values: part of a run's fingerprint."""
        ...

    def check(self, channels: int) -> None:
        """Refuse a model whose channels do not fit.

        Raises
        ------
        UsageError
            A channel that the method is to look at does not exist; the message says what to type.
        """
        ...

    def fitted(self, channels: int) -> Postprocess:
        """The same for a model of so many channels, whose `class_channels` are then known.

        Raises
        ------
        UsageError
            As `check`.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Common:
    """What all methods have: base of each of them, and no method itself."""

    min_area: int = 15
    """Objects of fewer pixels are dropped."""
    fill_holes: int = 0
    """Holes of at most so many pixels, in one object, are filled."""
    context: int = 64
    """See `Postprocess.context_px`."""
    classes: tuple[int, ...] = ()
    """See `Postprocess.class_channels`."""

    @property
    def context_px(self) -> int:
        """See `Postprocess.context_px`."""
        return self.context

    @property
    def class_channels(self) -> tuple[int, ...]:
        """See `Postprocess.class_channels`."""
        return self.classes

    @property
    def name(self) -> str:
        """See `Postprocess.name`."""
        return type(self).__name__.lower()

    def describe(self) -> dict[str, Any]:
        """See `Postprocess.describe`."""
        numbers = {field.name: getattr(self, field.name) for field in fields(self)}
        return {"method": self.name} | {k: list(v) if isinstance(v, tuple) else v for k, v in numbers.items()}

    def check(self, channels: int) -> None:
        """See `Postprocess.check`."""
        self.fitted(channels)

    def fitted(self, channels: int) -> Self:
        """See `Postprocess.fitted`; here only the class channels are looked at."""
        for channel in self.classes:
            self.need("classes", channel, channels)
        return self

    def need(self, option: str, channel: int, channels: int) -> None:
        """Refuse a channel that the model does not have.

        Raises
        ------
        UsageError
            ``channel >= channels``.
        """
        if channel >= channels:
            raise UsageError(
                f"{OPTION} {self.name}",
                expected=f"a channel from 0 to {channels - 1} of the model for {option}",
                found=f"{option}={channel}",
                fix=f"Type the channel that it is: {OPTION} {self.name}:{option}=0.",
            )

    def finished(self, labels: Labels) -> Labels:
        """Holes filled, small objects dropped, numbered in raster order."""
        return canonical(large_enough(without_holes(labels, self.fill_holes), self.min_area))
