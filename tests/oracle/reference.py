"""What a model gives for the whole image at once: onnxruntime and numpy, without a line of the library."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np


def session(path: Path):
    """A session of one thread, as a run has it: threads may change last bits."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def whole(
    path: Path,
    pixels: np.ndarray,
    halo: int,
    multiple: int = 1,
    *,
    scale: Fraction = Fraction(1),
    crop: int = 0,
    border: str = "reflect",
) -> np.ndarray:
    """The image padded by `halo`, and at the right and bottom to `multiple`, through the model in one piece.

    Parameters
    ----------
    pixels : ndarray, shape (c, y, x)
    scale, crop
        Output pixels per input pixel, and input pixels that the model cuts off at each side.

    Returns
    -------
    ndarray, shape (k, ceil(scale * y), ceil(scale * x))
    """
    height, width = pixels.shape[1:]
    more = [-(side + 2 * halo) % multiple for side in (height, width)]
    padded = np.pad(pixels, ((0, 0), (halo, halo + more[0]), (halo, halo + more[1])), mode=border)
    running = session(path)
    result = running.run(None, {running.get_inputs()[0].name: padded.astype(np.float32)[None]})[0][0]
    start = (halo - crop) * scale
    assert start.denominator == 1
    first = int(start)
    return result[:, first : first - int(-height * scale // 1), first : first - int(-width * scale // 1)]


def worst(got: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference, relative to the largest value."""
    assert got.shape == expected.shape, (got.shape, expected.shape)
    return float(np.abs(np.subtract(got, expected, dtype=np.float64)).max() / np.abs(expected).max())
