"""Made-up pictures of nuclei: crowds of soft blobs, lit up in the dark or stained blue on pink.

Shapes are ellipses with a few harmonics on their radius; they are dropped one on another, so that many touch. What
colours them are the stain vectors of Ruifrok and Johnston (Anal. Quant. Cytol. Histol. 23, 2001, 291-299).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from scripts.nuclei.pictures import Picture

SIDE = 256
HAEMATOXYLIN = np.array([0.65, 0.70, 0.29])
EOSIN = np.array([0.07, 0.99, 0.11])
MOST_COVERED = 0.25
"""Share of a blob that may lie on others; more and it is left out."""


def synthetic(kind: str, rng: np.random.Generator) -> Picture:
    """One picture of ``fluo`` or ``he`` nuclei, 256 x 256."""
    labels = crowd(rng)
    colour = _lit(labels, rng) if kind == "fluo" else _stained(labels, rng)
    return Picture(f"{kind}_synthetic", np.clip(colour, 0, 255).astype(np.uint8), labels)


def crowd(rng: np.random.Generator) -> NDArray[np.int32]:
    """Labels of a crowd of blobs, shape (256, 256), 1..N."""
    labels = np.zeros((SIDE, SIDE), np.int32)
    radius = np.exp(rng.uniform(np.log(5), np.log(20)))
    tries = int(rng.uniform(0.3, 1.6) * SIDE**2 / (np.pi * radius**2))
    centres = rng.uniform(-radius, SIDE + radius, (tries, 2))
    if rng.random() < 0.5:  # clusters: each new one beside one before it
        for i in range(1, tries):
            if rng.random() < 0.7:
                turn = rng.uniform(0, 2 * np.pi)
                step = 2 * radius * rng.uniform(0.8, 1.1)
                centres[i] = centres[rng.integers(i)] + step * np.array([np.sin(turn), np.cos(turn)])
    count = 0
    for centre in centres:
        box, shape = _blob(centre, radius * rng.uniform(0.7, 1.3), rng)
        before = labels[box]
        area = int(shape.sum())
        if area < 15 or (shape & (before > 0)).sum() > MOST_COVERED * area:
            continue
        count += 1
        before[shape & (before == 0)] = count
    return labels


def _blob(
    centre: NDArray[np.float64], radius: float, rng: np.random.Generator
) -> tuple[tuple[slice, slice], NDArray[np.bool_]]:
    """The part of the picture that a blob may lie in, and where in that it lies."""
    reach = 1.5 * radius
    low, high = np.clip([centre - reach, centre + reach], 0, SIDE).astype(int)
    y, x = np.mgrid[low[0] : high[0], low[1] : high[1]]
    turn, flat = rng.uniform(0, np.pi), rng.uniform(0.6, 1.0)
    v, u = y - centre[0], x - centre[1]
    a, b = u * np.cos(turn) + v * np.sin(turn), (v * np.cos(turn) - u * np.sin(turn)) / flat
    angle = np.arctan2(b, a)
    edge = np.ones_like(angle)
    for wave in (2, 3, 4):
        edge += rng.normal(0, 0.05) * np.cos(wave * angle + rng.uniform(0, 2 * np.pi))
    box = (slice(low[0], high[0]), slice(low[1], high[1]))
    return box, np.hypot(a, b) < radius * edge


def _texture(sigma: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Smooth noise of mean 0 and deviation 1, shape (256, 256)."""
    noise = ndimage.gaussian_filter(rng.normal(size=(SIDE, SIDE)), sigma, mode="wrap")
    return np.asarray(noise / noise.std())


def _by_label(labels: NDArray[np.int32], spread: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """0 in the background, and in each nucleus one number around 1."""
    levels = np.exp(rng.normal(0, spread, labels.max() + 1))
    levels[0] = 0
    return np.asarray(levels[labels])


def _lit(labels: NDArray[np.int32], rng: np.random.Generator) -> NDArray[np.float64]:
    light = _by_label(labels, rng.uniform(0.1, 0.5), rng) * (1 + 0.15 * _texture(rng.uniform(1, 4), rng))
    light = ndimage.gaussian_filter(light, rng.uniform(0.5, 1.5))
    haze = ndimage.gaussian_filter(light, rng.uniform(5, 20)) * rng.uniform(0, 0.4)
    grey = rng.uniform(40, 200) * (light + haze) + rng.uniform(0, 20)
    grey += rng.normal(size=grey.shape) * rng.uniform(0.5, 6)
    return np.stack([grey] * 3)


def _stained(labels: NDArray[np.int32], rng: np.random.Generator) -> NDArray[np.float64]:
    nuclei = _by_label(labels, rng.uniform(0.1, 0.4), rng) * (1 + 0.2 * _texture(rng.uniform(1, 3), rng))
    blue = ndimage.gaussian_filter(nuclei, rng.uniform(0.5, 1.3)) * rng.uniform(0.5, 1.1)
    blue += rng.uniform(0.05, 0.3) * np.maximum(1 + 0.4 * _texture(rng.uniform(3, 12), rng), 0)
    pink = rng.uniform(0.2, 0.7) * np.maximum(1 + 0.4 * _texture(rng.uniform(2, 12), rng), 0)
    density = HAEMATOXYLIN[:, None, None] * blue + EOSIN[:, None, None] * pink
    return 255 * np.exp(-density) + rng.normal(size=density.shape) * rng.uniform(0.5, 5)
