"""Test-time augmentation: the model on mirrored and turned copies of a tile, turned back and averaged.

::

    flips   identity, up-down, left-right, both
    d4      the eight symmetries of the square: flips, and each of them transposed (Cohen and Welling, "Group
            equivariant convolutional networks", ICML 2016, call it the group p4m without translations)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np

Augmentation = Literal["none", "flips", "d4"]
Array = np.ndarray[Any, Any]
Symmetry = tuple[bool, bool, bool]
"""Whether to transpose, and then to flip y and to flip x."""


def symmetries(augmentation: Augmentation) -> tuple[Symmetry, ...]:
    """The copies, in the order in which they are averaged."""
    flips = ((False, False), (True, False), (False, True), (True, True))
    if augmentation == "none":
        return ((False, False, False),)
    turned = (False,) if augmentation == "flips" else (False, True)
    return tuple((transpose, y, x) for transpose in turned for y, x in flips)


def applied(symmetry: Symmetry, maps: Array) -> Array:
    """A symmetry on the last two axes; a contiguous copy unless it is the identity."""
    transpose, flip_y, flip_x = symmetry
    if not any(symmetry):
        return maps
    maps = maps.swapaxes(-1, -2) if transpose else maps
    return np.ascontiguousarray(maps[..., :: -1 if flip_y else 1, :: -1 if flip_x else 1])


def undone(symmetry: Symmetry, maps: Array) -> Array:
    """The inverse of `applied`: flips are undone before the transposition."""
    transpose, flip_y, flip_x = symmetry
    maps = maps[..., :: -1 if flip_y else 1, :: -1 if flip_x else 1]
    return maps.swapaxes(-1, -2) if transpose else maps


def averaged(predict: Callable[[Array], Array], batch: Array, augmentation: Augmentation) -> Array:
    """The mean of the predictions over all copies, as a running mean in float32.

    Parameters
    ----------
    predict : callable
        (n, c, y, x) -> (n, k, y', x'); called once for each copy.
    batch : ndarray, float32, shape (n, c, y, x)

    Returns
    -------
    ndarray, shape (n, k, y', x')
        float32, or the model's dtype without augmentation. Where all copies agree it is what they agree on.
    """
    mean: Array | None = None
    copies = symmetries(augmentation)
    for count, symmetry in enumerate(copies, 1):
        value = undone(symmetry, predict(applied(symmetry, batch)))
        if len(copies) == 1:
            return value
        if mean is None:
            mean = np.array(value, np.float32)
        else:
            mean += (value - mean) * np.float32(1 / count)
    assert mean is not None
    return mean
