"""Training samples: cut, turned, zoomed and recoloured pieces of pictures, from one seeded stream.

::

    picture ─z-score of the whole picture─▶ turn, zoom, flip, shear ─▶ blur, noise, contrast, colour ─▶ piece
                                            (targets go with it)       (pixels only)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from scripts.nuclei.pictures import KINDS, Picture, normalised, targets
from scripts.nuclei.synthetic import synthetic

SYNTHETIC = 16
"""Synthetic pictures of each kind."""
SYNTHETIC_SHARE = 0.2
"""Share of the samples that are pieces of them."""
ZOOM = (0.6, 1.7)
INVERTED_SHARE = 0.05
"""Share of the fluorescence samples that are inverted, as in phase contrast."""


class Samples:
    """Endless batches of pieces; the same seed gives the same stream."""

    def __init__(self, pictures: Sequence[Picture], side: int, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._side = side
        self._real = {kind: [_stack(p) for p in pictures if p.kind == kind] for kind in KINDS}
        self._made = {kind: [_stack(synthetic(kind, self._rng)) for _ in range(SYNTHETIC)] for kind in KINDS}

    def batch(self, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """`count` pieces, half of each kind: pixels (n, 3, s, s) and targets (n, 2, s, s), float32."""
        pieces = [self._piece(KINDS[i % len(KINDS)]) for i in range(count)]
        return torch.stack([p[:3] for p in pieces]), torch.stack([p[3:] for p in pieces])

    def _piece(self, kind: str) -> torch.Tensor:
        rng = self._rng
        source = self._made if rng.random() < SYNTHETIC_SHARE else self._real
        choices = source[kind]
        piece = cut(choices[rng.integers(len(choices))], self._side, ZOOM, rng)
        piece[:3] = self._recoloured(piece[:3], kind)
        return piece

    def _recoloured(self, pixels: torch.Tensor, kind: str) -> torch.Tensor:
        rng = self._rng
        if rng.random() < 0.3:
            pixels = blurred(pixels, float(rng.uniform(0.4, 1.5)))
        if rng.random() < 0.3:
            strength = rng.uniform(0, 0.2)
            pixels = pixels + torch.from_numpy(rng.normal(0, strength, pixels.shape).astype(np.float32))
        if kind == "fluo" and rng.random() < INVERTED_SHARE:
            pixels = -pixels
        if kind == "fluo":
            # A skewed picture, whose few nuclei are far above the mean, differs from a full one by a power.
            low = pixels.amin()
            span = pixels.amax() - low + 1e-6
            pixels = ((pixels - low) / span).clamp(min=0) ** float(np.exp(rng.normal(0, 0.2))) * span + low
        gain, shift = np.exp(rng.normal(0, 0.25)), rng.normal(0, 0.25)
        if kind == "he":
            gain = gain * np.exp(rng.normal(0, 0.12, 3))
            shift = shift + rng.normal(0, 0.15, 3)
        both = np.broadcast_to(gain, 3), np.broadcast_to(shift, 3)
        scale, offset = (torch.from_numpy(np.array(v, np.float32))[:, None, None] for v in both)
        return pixels * scale + offset


def _stack(picture: Picture) -> torch.Tensor:
    """Pixels and targets together, shape (5, y, x)."""
    both: NDArray[np.float32] = np.concatenate([normalised(picture.pixels), targets(picture.labels)])
    return torch.from_numpy(both)


def cut(stack: torch.Tensor, side: int, range_of_zoom: tuple[float, float], rng: np.random.Generator) -> torch.Tensor:
    """A turned, zoomed, flipped and sheared square, mirrored where it reaches beyond the picture."""
    height, width = stack.shape[1:]
    zoom = np.exp(rng.uniform(np.log(range_of_zoom[0]), np.log(range_of_zoom[1])))
    turn, stretch = rng.uniform(0, 2 * np.pi), rng.uniform(0.85, 1.18)
    flip = rng.choice([-1.0, 1.0])
    grid = np.mgrid[:side, :side].astype(np.float64) - (side - 1) / 2
    v, u = grid[0] / zoom, grid[1] * flip * stretch / zoom
    y = rng.uniform(0, height) + u * np.sin(turn) + v * np.cos(turn)
    x = rng.uniform(0, width) + u * np.cos(turn) - v * np.sin(turn)
    places = np.stack([2 * x / width - 1, 2 * y / height - 1], -1)
    found = F.grid_sample(
        stack[None],
        torch.from_numpy(places[None].astype(np.float32)),
        mode="bilinear",
        padding_mode="reflection",
        align_corners=False,
    )
    return found[0]


def blurred(pixels: torch.Tensor, sigma: float) -> torch.Tensor:
    """A Gaussian blur of (c, y, x) over 9 taps, mirrored at the edge."""
    channels = len(pixels)
    taps = torch.exp(-0.5 * (torch.arange(-4, 5) / sigma) ** 2)
    taps = taps / taps.sum()
    padded = F.pad(pixels[None], (4, 4, 4, 4), mode="reflect")
    rows = F.conv2d(padded, taps.view(1, 1, 1, -1).expand(channels, 1, 1, 9), groups=channels)
    return F.conv2d(rows, taps.view(1, 1, -1, 1).expand(channels, 1, 9, 1), groups=channels)[0]
