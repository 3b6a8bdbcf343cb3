"""Training samples of one channel, the amount of haematoxylin, with what is no nucleus painted into it.

::

    stained picture ─unmixed─▶ amount ─┐ turn, zoom, flip   fibres, cytoplasm, glass,   power, gain,     piece
    fluorescence ─scaled to 1─▶ amount ┴▶ (targets too)  ─▶ long dark stripes        ─▶ blur, noise  ─▶

The pictures of the Data Science Bowl have no glass, hardly any eosin and no keratin; common slides have plenty. What
eosin leaks into the unmixed channel, rims of glass and dark stripes are therefore made up, and are background.
Nuclei of fluorescence pictures are shapes as good as stained ones once all that is seen is an amount.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch.nn import functional as F

from scripts.nuclei.amounts import amount, glow
from scripts.nuclei.pictures import Picture, targets
from scripts.nuclei.samples import blurred, cut
from scripts.nuclei.synthetic import synthetic

Array = NDArray[np.float32]

MEAN, DEVIATION = 0.5, 0.3
"""Of the amount in the stained pictures trained on, in round numbers: the network sees it as a z-score."""
SYNTHETIC = 16
"""Made-up pictures."""
SHARES = {"he": 0.55, "fluo": 0.25, "synthetic": 0.2}
"""Share of the samples by where their nuclei come from."""
ZOOM = {"he": (0.4, 1.5), "fluo": (0.3, 1.0), "synthetic": (0.5, 1.6)}
"""Nuclei of fluorescence pictures are up to 90 px wide, those of tissue at 0.5 um per pixel 8 to 40."""


class StainSamples:
    """Endless batches of pieces; the same seed gives the same stream."""

    def __init__(self, pictures: Sequence[Picture], side: int, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._side = side
        made = [synthetic("he", self._rng) for _ in range(SYNTHETIC)]
        self._sources = {
            "he": [_stack(amount(p.pixels), p) for p in pictures if p.kind == "he"],
            "fluo": [_stack(glow(p.pixels), p) for p in pictures if p.kind == "fluo"],
            "synthetic": [_drawn_out(_stack(amount(p.pixels), p), self._rng) for p in made],
        }

    def batch(self, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """`count` pieces: standardised amounts (n, 1, s, s) and targets (n, 2, s, s), float32."""
        pieces = [self._piece() for _ in range(count)]
        return torch.stack([p[:1] for p in pieces]), torch.stack([p[1:] for p in pieces])

    def _piece(self) -> torch.Tensor:
        rng = self._rng
        kind = str(rng.choice(list(SHARES), p=list(SHARES.values())))
        choices = self._sources[kind]
        piece = cut(choices[rng.integers(len(choices))], self._side, ZOOM[kind], rng)
        if kind == "fluo":
            piece[0] *= rng.uniform(0.6, 2)
        stain, wanted = piece[0].numpy().astype(np.float64), piece[1:].numpy()
        # Between pixels weights sum to one but for the last bit.
        np.clip(wanted, 0, 1, out=wanted)
        self._clutter(stain, wanted)
        power, gain = np.exp(rng.normal(0, 0.15)), np.exp(rng.normal(0.15, 0.45))
        pixels = torch.from_numpy((gain * np.maximum(stain, 0) ** power).astype(np.float32))[None]
        if rng.random() < 0.4:
            pixels = blurred(pixels, float(rng.uniform(0.4, 1.3)))
        strength = rng.uniform(0, 0.15) * rng.random()
        # Noise of the camera grows with the density: e^density in the amounts.
        noise = rng.normal(0, strength, pixels.shape) * np.exp(0.5 * pixels.numpy().clip(0, 3))
        pixels = (pixels + torch.from_numpy(noise.astype(np.float32))).clamp(min=0)
        piece[:1] = (pixels - MEAN) / DEVIATION
        return piece

    def _clutter(self, stain: NDArray[np.float64], wanted: Array) -> None:
        """Paint what is no nucleus into an amount, in place; a nucleus under a stripe is none."""
        rng = self._rng
        free = wanted[0] < 0.5
        if rng.random() < 0.5:  # cytoplasm, everywhere, with hard edges or soft
            paint = np.maximum(self._texture(rng.uniform(2, 15), 1) + rng.uniform(-1, 1.5), 0)
            stain += rng.uniform(0.05, 0.3) * np.minimum(paint, rng.uniform(0.3, 2))
        if rng.random() < 0.5:  # fibres
            bands = self._texture(rng.uniform(1.2, 5), rng.uniform(3, 10))
            stain += free * rng.uniform(0.1, 0.5) * np.clip(bands * rng.uniform(1, 5) - rng.uniform(0, 1), 0, 1)
        if rng.random() < 0.4:  # glass: pieces of it, or most of the field
            hole = self._texture(rng.uniform(3, 25), rng.uniform(1, 4)) > rng.uniform(-1.3, 1.5)
            stain[hole & free] *= rng.uniform(0, 0.15)
        # Rare: with one piece in five, rows of dark nuclei were taken for stripes as well.
        if rng.random() < 0.08:  # keratin and folds: stripes far longer than any nucleus
            width = rng.uniform(2, 8)
            stripe = self._texture(width, rng.uniform(30, 60)) > rng.uniform(0.8, 1.8)
            shade = rng.uniform(0.6, 2.5) * (1 + 0.15 * self._texture(1.5, rng.uniform(4, 12)))
            stain[stripe] = np.maximum(shade, 0.3)[stripe]
            wanted[:, stripe] = 0

    def _texture(self, sigma: float, longer: float) -> NDArray[np.float64]:
        """Smooth noise of mean 0 and deviation 1, drawn out along one direction, shape (s, s)."""
        rng, side = self._rng, self._side
        sigmas = np.array([sigma, min(sigma * longer, side / 2)])
        wide = int(side * 1.5)
        noise = ndimage.gaussian_filter(rng.normal(size=(wide, wide)), sigmas, mode="wrap", truncate=3)
        turned = ndimage.rotate(noise, rng.uniform(0, 180), reshape=False, order=1, mode="reflect")
        low = (wide - side) // 2
        found = turned[low : low + side, low : low + side]
        return np.asarray((found - found.mean()) / found.std())


def _stack(stain: Array, picture: Picture) -> torch.Tensor:
    """Amount and targets together, shape (3, y, x)."""
    return torch.from_numpy(np.concatenate([stain, targets(picture.labels)]))


def _drawn_out(stack: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """The same, up to half as wide: spindles, as in connective tissue and at the base of an epithelium."""
    wide = int(stack.shape[2] * rng.uniform(0.5, 1))
    return F.interpolate(stack[None], (stack.shape[1], wide), mode="area")[0].clamp(min=0)
