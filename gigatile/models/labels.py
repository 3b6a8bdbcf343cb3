"""Labels that a function gives per tile, and what is checked of them."""

from __future__ import annotations

from typing import Any

import numpy as np

from gigatile.errors import BlockError

Labels = np.ndarray[Any, Any]
"""uint32, shape (n, y, x); 0 is background."""
MOST_LABEL = 2**32 - 1
"""Labels of a tile are the lower half of ids of 64 bits."""


def checked_labels(where: str, given: tuple[int, ...], result: np.ndarray[Any, Any]) -> Labels:
    """The labels of a batch, if they are such.

    Parameters
    ----------
    where : str
        How messages name the model.
    given : tuple of int
        Shape of the batch, (n, c, y, x).
    result : ndarray of integers, shape (n, y, x) or (n, 1, y, x)

    Returns
    -------
    ndarray, uint32, shape (n, y, x)

    Raises
    ------
    BlockError
        Another shape than one map per tile of the tile's size, no integers, negative ones, or such above 32 bits.
    """
    n, _, height, width = given
    maps = result[:, 0] if result.ndim == 4 and result.shape[1] == 1 else result
    if maps.shape != (n, height, width):
        expected = f"labels, an array ({n}, {height}, {width})"
        fix = "Of channels --postprocess makes labels: components, watershed, ...; boxes want --task detect."
        raise BlockError(where, expected=expected, found=f"shape {result.shape}", fix=fix)
    if maps.dtype.kind not in "iu":
        fix = (
            "If it says of each pixel how likely it is in an object, type --postprocess components, or another method; "
            "if it gives labels, let it return integers, 0 for background."
        )
        raise BlockError(where, expected="labels that are integers", found=f"dtype {maps.dtype}", fix=fix)
    for least, worst in ((True, maps.min(initial=0)), (False, maps.max(initial=0))):
        if worst < 0 if least else worst > MOST_LABEL:
            raise BlockError(where, expected=f"labels from 0 to {MOST_LABEL}", found=str(worst))
    return maps.astype(np.uint32, copy=False)
