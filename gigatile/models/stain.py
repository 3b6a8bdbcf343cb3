"""Stain normalisation of H&E slides: colours brought to those of a fixed reference, pixel by pixel.

All statistics come from a table of how often each of the 2^24 colours occurs, so they depend neither on the order in
which pixels were read nor on how many there are. Nothing here uses matrix products of BLAS on pixels: their last bits
depend on the size of the array, and a tile would differ from the whole image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gigatile.errors import ImageError, UsageError
from gigatile.models.percentile import Sample, percentiles

Pixels = np.ndarray[Any, Any]
LUMINOSITY = 0.8
"""CIELAB L* / 100 from which a pixel is background and does not count."""

# Macenko et al. as implemented by M. Veta (github.com/mitkovetta/staining-normalization, normalizeStaining.m), whose
# constants StainTools' successors and torchstain use as well.
LIGHT = 240.0
"""Intensity of the light where nothing is stained."""
TRANSPARENT = 0.15
"""Optical density (natural logarithm) below which, in any channel, a pixel is left out of the stain plane."""
ANGLE_PERCENTILE = 1.0
CONCENTRATION_PERCENTILE = 99.0
TARGET_STAINS = (0.5626, 0.7201, 0.4062, 0.2159, 0.8012, 0.5581)
"""Optical density of haematoxylin, then of eosin, in red, green, blue."""
TARGET_CONCENTRATIONS = (1.9705, 1.0308)
PARALLEL = 1e-4
"""Square of the sine of the angle between two stains (0.6 degrees) below which they are one."""

# HistomicsTK's colour standard (histomicstk/preprocessing/color_normalization and its tests): mean and standard
# deviation of TCGA-A2-A3XS-DX1, the slide chosen in Amgad et al., Bioinformatics 35(18), 2019.
TARGET_MEAN = (8.74108109, -0.12440419, 0.0444982)
TARGET_STD = (0.6135447, 0.10989545, 0.0286032)
_LMS = np.array([[0.3811, 0.5783, 0.0402], [0.1967, 0.7244, 0.0782], [0.0241, 0.1288, 0.8444]])
"""RGB to cone responses (Reinhard et al., equation 4)."""
_LAB = np.array([[1, 1, 1], [1, 1, -2], [1, -1, 0]]) / np.sqrt([[3], [6], [2]])
"""Logarithms of cone responses to l, alpha, beta (equation 6): a rotation, so its inverse is its transpose."""
DARKEST = 1.0
"""Cone responses (of 255) below this are raised to it: black has no logarithm."""

BRIGHTEST = 20.0
"""Logarithms of normalised cone responses above this, which are far outside 0 to 255, are cut: exp would overflow."""

_COLOURS = 1 << 24
_CHUNK = 1 << 18


class ColourTable:
    """How often each 8-bit RGB colour occurs.

    Memory bound
    ------------
    64 MiB, and a few arrays as long as one chunk of 2^18 colours.
    """

    def __init__(self) -> None:
        self._counts = np.zeros(_COLOURS, np.uint32)

    def add(self, pixels: Pixels) -> None:
        """Count pixels, uint8, shape (3, n)."""
        red, green, blue = (channel.astype(np.uint32) for channel in pixels)
        colours, counts = np.unique((red << 16) | (green << 8) | blue, return_counts=True)
        self._counts[colours] += counts.astype(np.uint32)

    def chunks(self) -> Iterator[tuple[Pixels, Pixels]]:
        """Colours that occur, uint8, shape (3, n), and how often, float64, shape (n,), in a fixed order."""
        for start in range(0, _COLOURS, _CHUNK):
            part = self._counts[start : start + _CHUNK]
            found = np.flatnonzero(part != 0)  # five times as fast as on the counts themselves
            if found.size:
                codes = found + start
                yield np.stack([codes >> 16, codes >> 8 & 255, codes & 255]).astype(np.uint8), part[found].astype(float)

    def drop_background(self, where: str) -> str:
        """Forget the colours of background, and say how much is left.

        Raises
        ------
        ImageError
            Nothing is left.
        """
        total = int(self._counts.sum())
        for colours, _ in self.chunks():
            red, green, blue = colours[:, luminosity(colours) >= LUMINOSITY].astype(np.uint32)
            self._counts[(red << 16) | (green << 8) | blue] = 0
        tissue = int(self._counts.sum())
        if not tissue:
            raise _no_tissue(where)
        return f"statistics of the {tissue} of {total} pixels that are no background (L* < {100 * LUMINOSITY:g})"


def luminosity(colours: Pixels) -> Pixels:
    """CIELAB lightness L* / 100 of sRGB colours (IEC 61966-2-1, CIE 15), uint8, shape (3, n); float64, shape (n,)."""
    level = np.arange(256) / 255
    light = np.where(level <= 0.04045, level / 12.92, ((level + 0.055) / 1.055) ** 2.4)
    red, green, blue = light[colours]
    y = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    return np.asarray(np.where(y > (6 / 29) ** 3, 1.16 * np.cbrt(y) - 0.16, y * (29 / 3) ** 3 / 100))


def _no_tissue(where: str) -> ImageError:
    return ImageError(
        where,
        expected="stained tissue to take statistics from",
        found="background only",
        fix="Leave the stain normalisation out, or leave this image out.",
    )


def _check_pixels(pixels: Pixels) -> None:
    if pixels.dtype != np.uint8 or len(pixels) != 3:
        found = f"{len(pixels)} channels of {pixels.dtype}"
        raise UsageError("stain normalisation", expected="3 channels of uint8", found=found)


@dataclass(frozen=True, slots=True)
class Macenko:
    """Two stains, their strengths, and the map to the reference's.

    Macenko et al., "A method for normalizing histology slides for quantitative analysis", ISBI 2009.
    """

    stains: tuple[float, ...]
    """Optical density of haematoxylin in red, green, blue, then of eosin; unit vectors."""
    concentrations: tuple[float, ...]
    """99th percentile of the amount of each over the tissue."""

    def apply(self, pixels: Pixels) -> Pixels:
        """uint8 RGB, shape (3, y, x), to float32 RGB from 0 to 1 of the same shape.

        Optical density, unmixed by least squares, mixed again with the reference's stains: one 3 x 3 matrix.

        Raises
        ------
        UsageError
            The pixels are not uint8 RGB.
        """
        _check_pixels(pixels)
        matrix = self._matrix().astype(np.float32)
        density = _density().astype(np.float32)[pixels]
        out = np.empty(pixels.shape, np.float32)
        for i, weights in enumerate(matrix):
            out[i] = _mixed(-weights, density)
        np.exp(np.minimum(out, 1, out=out), out=out)  # e^1 is clipped like all above 1
        out *= np.float32(LIGHT / 255)
        return np.asarray(np.minimum(out, 1, out=out))

    def _matrix(self) -> Pixels:
        """From optical density to the normalised one, float64, shape (3, 3)."""
        stains, target = np.reshape(self.stains, (2, 3)), np.reshape(TARGET_STAINS, (2, 3))
        strengths = np.array(TARGET_CONCENTRATIONS) / np.array(self.concentrations)
        return np.asarray(target.T @ (strengths[:, None] * _unmixing(stains)))

    def to_json(self) -> dict[str, list[float]]:
        """``stains`` and ``concentrations``."""
        return {"stains": list(self.stains), "concentrations": list(self.concentrations)}


def _density() -> Pixels:
    """Optical density of each of 256 intensities, float64."""
    return -np.log((np.arange(256) + 1) / LIGHT)


def _mixed(weights: Sequence[float] | Pixels, channels: Pixels) -> Pixels:
    """Weighted sum of three channels, element by element."""
    return np.asarray(weights[0] * channels[0] + weights[1] * channels[1] + weights[2] * channels[2])


def _unmixing(stains: Pixels) -> Pixels:
    """From optical density to amounts by least squares, shape (2, 3): ``inv(S S^T) S``, written out."""
    first, second = stains
    a, b, d = float(first @ first), float(first @ second), float(second @ second)
    return np.array([d * first - b * second, a * second - b * first]) / (a * d - b * b)


def fit_macenko(table: ColourTable, where: str) -> tuple[Macenko, tuple[str, ...]]:
    """Find the two stains of a picture and how strong they are; the table is left without background.

    The plane of the two largest principal axes of the optical density of the tissue; within it, the directions at the
    1st and the 99th percentile of the angle.

    Raises
    ------
    ImageError
        There is no tissue, or it has one colour only.
    """
    note = table.drop_background(where)
    axis, across = _plane(table, where)
    density = _density()

    def angles() -> Iterator[list[Sample]]:
        for colours, counts in _opaque(table):
            od = density[colours]
            yield [(np.arctan2(_mixed(across, od), _mixed(axis, od)).astype(np.float32), counts)]

    wanted = (ANGLE_PERCENTILE, 100 - ANGLE_PERCENTILE)
    ((low, high),) = percentiles(angles, [where], np.dtype(np.float32), wanted)
    found = [np.cos(phi) * axis + np.sin(phi) * across for phi in (low, high)]
    stains = np.array(sorted(found, key=lambda stain: -float(stain[0])))  # haematoxylin takes more of the red
    if 1 - float(stains[0] @ stains[1]) ** 2 < PARALLEL:
        raise _one_stain(where)
    unmixing = _unmixing(stains)

    def amounts() -> Iterator[list[Sample]]:
        for colours, counts in table.chunks():
            od = density[colours]
            yield [(_mixed(row, od).astype(np.float32), counts) for row in unmixing]

    strengths = percentiles(amounts, [where, where], np.dtype(np.float32), (CONCENTRATION_PERCENTILE,))
    concentrations = tuple(strength for (strength,) in strengths)
    if min(concentrations) <= 0:
        raise _one_stain(where)
    return Macenko(tuple(float(v) for v in stains.ravel()), concentrations), (note,)


def _opaque(table: ColourTable) -> Iterator[tuple[Pixels, Pixels]]:
    """Tissue that is not transparent in any channel."""
    dense = _density() >= TRANSPARENT
    for colours, counts in table.chunks():
        kept = dense[colours].all(axis=0)
        if kept.any():
            yield colours[:, kept], counts[kept]


def _plane(table: ColourTable, where: str) -> tuple[Pixels, Pixels]:
    """Two orthogonal unit vectors that span the stains' plane, the first towards the mean optical density.

    The papers' code measures angles from the first principal axis; from the mean they cannot jump from pi to -pi, as
    all tissue lies within a right angle of it.
    """
    density, total = _density(), 0.0
    sums, products = np.zeros(3), np.zeros((3, 3))
    for colours, counts in _opaque(table):
        od = density[colours]
        total += float(counts.sum())
        sums += [(counts * channel).sum() for channel in od]
        products += [[(counts * a * b).sum() for b in od] for a in od]
    if total < 2:
        raise _no_tissue(where)
    mean = sums / total
    _, vectors = np.linalg.eigh(products / total - np.outer(mean, mean))
    plane = vectors[:, 1:]
    along = plane.T @ mean
    length = float(np.hypot(*along))
    if length == 0:
        raise _one_stain(where)
    cos, sin = along / length
    return plane @ np.array([cos, sin]), plane @ np.array([-sin, cos])


def _one_stain(where: str) -> ImageError:
    return ImageError(
        where,
        expected="two stains, haematoxylin and eosin",
        found="tissue of one colour",
        fix="Use reinhard or percentile:1,99, or leave the normalisation out.",
    )


@dataclass(frozen=True, slots=True)
class Reinhard:
    """Mean and spread of a picture's tissue in the l-alpha-beta space, and the map to the reference's.

    Reinhard et al., "Color transfer between images", IEEE Computer Graphics and Applications 21(5), 2001.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    """Never 0."""

    def apply(self, pixels: Pixels) -> Pixels:
        """uint8 RGB, shape (3, y, x), to float32 RGB, clipped to 0 to 1, of the same shape.

        Raises
        ------
        UsageError
            The pixels are not uint8 RGB.
        """
        _check_pixels(pixels)
        gain = np.array(TARGET_STD) / np.array(self.std)
        matrix = (_LAB.T @ (gain[:, None] * _LAB)).astype(np.float32)
        shift = (_LAB.T @ (np.array(TARGET_MEAN) - gain * np.array(self.mean))).astype(np.float32)
        cones = _cones(pixels.astype(np.float32))
        out = np.empty(pixels.shape, np.float32)
        for i, weights in enumerate(matrix):
            out[i] = _mixed(weights, cones) + shift[i]
        np.exp(np.minimum(out, BRIGHTEST, out=out), out=out)
        rgb = np.stack([_mixed(row, out) for row in (np.linalg.inv(_LMS) / 255).astype(np.float32)])
        return np.asarray(np.clip(rgb, 0, 1, out=rgb))

    def to_json(self) -> dict[str, list[float]]:
        """``mean`` and ``std``."""
        return {"mean": list(self.mean), "std": list(self.std)}


def _cones(colours: Pixels) -> Pixels:
    """Logarithms of the cone responses, shape and dtype (float32 or float64) of the colours, channels first."""
    responses = np.stack([_mixed(row, colours) for row in _LMS.astype(colours.dtype)])
    return np.asarray(np.log(np.maximum(responses, DARKEST)))


def fit_reinhard(table: ColourTable, where: str) -> tuple[Reinhard, tuple[str, ...]]:
    """Mean and standard deviation of the tissue's l, alpha and beta; the table is left without background.

    Raises
    ------
    ImageError
        There is no tissue.
    """
    note = table.drop_background(where)

    def mean_of(value: Callable[[Pixels], Pixels]) -> Pixels:
        sums, total = np.zeros(3), 0.0
        for colours, counts in table.chunks():
            cones = _cones(colours.astype(np.float64))
            lab = np.stack([_mixed(row, cones) for row in _LAB])
            sums += (value(lab) * counts).sum(axis=1)
            total += float(counts.sum())
        return np.asarray(sums / total)

    mean = mean_of(lambda lab: lab)
    std = np.sqrt(mean_of(lambda lab: (lab - mean[:, None]) ** 2))
    # One colour gives a spread of rounding errors, not of 0.
    flat = std < 1e-9
    notes = tuple(
        f"{axis}: constant, so it is divided by 1" for axis, f in zip(("l", "alpha", "beta"), flat, strict=True) if f
    )
    std[flat] = 1.0
    return Reinhard(tuple(mean.tolist()), tuple(std.tolist())), (note, *notes)
