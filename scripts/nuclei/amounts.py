"""Pictures as one channel: how much haematoxylin a pixel holds, or how brightly it glows, on about the same scale."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from scripts.make_nuclei_model import RGB_FROM_HED

Array = NDArray[np.float32]

DARKEST = 1 / 255
"""A stored 0 has no logarithm; the darkest value that an 8-bit file can tell from it."""
UNMIXING = -np.linalg.inv(RGB_FROM_HED)[:, 0]
"""From the logarithm of red, green and blue to haematoxylin: Ruifrok and Johnston 2001, as in he-nuclei."""


def amount(pixels: NDArray[np.uint8]) -> Array:
    """Haematoxylin of a stained picture, shape (1, y, x), from 0 (glass) to about 2 (dark nuclei).

    The same as the first layers of pipelines/nuclei-he-instances/model.onnx.
    """
    logs = np.log(np.clip(pixels.astype(np.float64) / 255, DARKEST, 1))
    return np.maximum(np.tensordot(UNMIXING, logs, 1), 0)[None].astype(np.float32)


def glow(pixels: NDArray[np.uint8]) -> Array:
    """A fluorescence picture as an amount, shape (1, y, x): 0 in the dark, about 1 in nuclei."""
    grey = pixels.mean(0, dtype=np.float64)
    low, high = np.percentile(grey, [1, 99.5])
    return np.clip((grey - low) / (high - low), 0, 2)[None].astype(np.float32)
