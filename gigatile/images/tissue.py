"""Where the tissue of a bright-field slide is, from a small picture of it; no learning.

::

    small picture ─▶ colour of the empty glass ─▶ ink? padding? ─▶ chroma, smoothed ─▶ Otsu ─▶ holes, specks, rim
    (8 um a pixel)     (brightest common)

1. *Picture*: area means at 8 um a pixel, or at most `MOST_PX` pixels. Without a pixel size 1/32 of level 0 is taken.
2. *Glass*: for each channel the mode of its bright values; transmittances are relative to it, so that a yellow lamp is
   no stain (Ruifrok and Johnston, "Quantification of histochemical staining by color deconvolution", 2001).
3. *Not tissue*: what is invalid; black (the padding of MRXS); ink of felt pens, found by colours that no stain has:
   green or cyan (green above red), strong blue, and black (dark without colour); with a rim of 3 pixels, and only
   from 0.05 mm2 on: surgical ink on the rim of the tissue stays with it. Red ink is not told from eosin.
4. *Tissue*: chroma, the spread of the transmittances over the largest of them, smoothed by two box means, above
   Otsu's threshold (N. Otsu, "A threshold selection method from gray-level histograms", 1979) held within
   0.06-0.18: glass alone has no tissue, tissue alone no glass. As in CLAM (Lu et al., "Data-efficient and weakly
   supervised computational pathology on whole-slide images", Nat. Biomed. Eng. 5, 2021), which thresholds a
   smoothed saturation and then applies rules of size.
5. *Rules of size*: parts below 0.02 mm2 go, holes below 0.1 mm2 are filled (never with ink, padding or nodata), and
   a rim of 2 pixels is added.

Fluorescence (a dark background) has no bright glass and no stain: it is refused, with advice.

Memory bound
------------
The picture as bytes, and about 16 bytes a pixel of it: 80 MB for `MOST_PX`.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gigatile.errors import UsageError
from gigatile.images.components import without_small
from gigatile.images.image import REFLECT, Image
from gigatile.images.resample import grid_of_factor
from gigatile.tiling.region import Region

Mask = np.ndarray[Any, Any]
Pixels = np.ndarray[Any, Any]
WANTED_UM = 8.0
MOST_PX = 4_000_000
UNKNOWN_FACTOR = 32.0
"""Taken where the pixel size is not known: 8 um at 0.25 um."""
PADDING = 12
"""Bytes up to this in all channels are no glass and no tissue."""
LOW, HIGH = 0.06, 0.18
"""Between which chroma the threshold lies."""
SPECK_MM2, HOLE_MM2, PEN_MM2 = 0.02, 0.1, 0.05
"""Areas; less ink is no stroke of a pen but a surgeon's mark on the rim of the tissue, which is tissue."""
RIM, INK_RIM = 2, 3
DARK = 80
"""A median brightness below this, padding left out, is a dark background."""
BAND = 256
"""Rows that are read and worked on at once."""


@dataclass(frozen=True, slots=True, eq=False)
class Tissue:
    """Where the tissue is."""

    kept: Mask
    """bool, shape (y, x): True for tissue."""
    scale: tuple[float, float]
    """Pixels of level 0 per pixel of `kept`, along y and x."""


def find_tissue(image: Image) -> Tissue:
    """Look for tissue on a small picture of a slide, which is read once.

    Parameters
    ----------
    image : Image
        Whatever its level, grid and channels: red, green and blue are looked at.

    Raises
    ------
    UsageError
        It lies on the Earth, is no 8-bit RGB, or its background is dark.
    BlockError
        Bytes of the file cannot be read or decoded.
    """
    colours = tuple(i for i in range(len(image.info.channels)) if i != image.info.alpha)
    advice = "Give --mask FILE, a raster or GeoJSON of what counts, or --mask nodata."
    if image.transform is not None or image.crs is not None:
        raise UsageError(
            f"mask tissue of {image.info.path}",
            expected="a slide or a picture of tissue",
            found="a georeferenced image",
            fix=advice,
        )
    if image.info.dtype != np.uint8 or len(colours) != 3:
        raise UsageError(
            f"mask tissue of {image.info.path}",
            expected="a bright-field slide: 8-bit red, green and blue",
            found=f"{len(colours)} channels of {image.info.dtype}",
            fix=advice,
        )
    small = _small(image.select(channels=colours))
    rgb, valid = _picture(small)
    padding = (rgb <= PADDING).all(axis=0)
    seen = ~padding & valid
    if not seen.any() or np.median(rgb.max(axis=0)[seen]) < DARK:
        raise UsageError(
            f"mask tissue of {image.info.path}",
            expected="a bright background, as of stained slides",
            found="a dark one, as of fluorescence",
            fix=advice,
        )
    size = image.pixel_size
    um2 = 64.0 if size is None else size.y * size.x * small.scale[0] * small.scale[1]
    return Tissue(tissue_of(rgb, seen, um2), small.scale)


def tissue_of(rgb: Pixels, seen: Mask, pixel_um2: float) -> Mask:
    """The tissue of a picture.

    Parameters
    ----------
    rgb : ndarray, uint8, shape (3, y, x)
        About 8 um a pixel.
    seen : ndarray of bool, shape (y, x)
        True where it is neither nodata nor padding.
    pixel_um2 : float
        Area of a pixel.

    Returns
    -------
    ndarray of bool, shape (y, x)
        True for tissue.
    """
    glass = _glass(rgb, seen)
    chroma = np.zeros(seen.shape, np.float32)
    strong, weak = np.zeros(seen.shape, bool), np.zeros(seen.shape, bool)
    for top in range(0, seen.shape[0], BAND):
        rows = slice(top, top + BAND)
        light = np.minimum(rgb[:, rows] / glass[:, None, None], 1).astype(np.float32)
        chroma[rows] = _chroma(light)
        strong[rows], weak[rows] = _ink(light)
    # Ink fades towards its edge: what could be ink is, beside what must be.
    ink = grown(strong, RIM) & weak | strong
    ink = grown(without_small(ink, PEN_MM2 * 1e6 / pixel_um2), INK_RIM)
    counted = seen & ~ink
    if not counted.any():
        return np.zeros(seen.shape, bool)
    chroma[~counted] = 0
    smooth = _box_mean(_box_mean(chroma, 1), 1)
    tissue = (smooth > min(max(otsu(smooth[counted]), LOW), HIGH)) & counted
    tissue = without_small(tissue, SPECK_MM2 * 1e6 / pixel_um2)
    tissue = ~without_small(~tissue, HOLE_MM2 * 1e6 / pixel_um2)
    return np.asarray(grown(tissue, RIM) & counted)


def otsu(values: npt.NDArray[np.float32]) -> float:
    """The threshold that parts values from 0 to 1 so that the variance between both sides is largest; 256 bins."""
    counts = np.bincount(np.minimum((values * 256).astype(np.int64), 255), minlength=256).astype(float)
    centres = (np.arange(256) + 0.5) / 256
    below, total = np.cumsum(counts), counts.sum()
    mass = np.cumsum(counts * centres)
    above = total - below
    with np.errstate(divide="ignore", invalid="ignore"):
        between = (mass * total - mass[-1] * below) ** 2 / (below * above)
    return float((np.nanargmax(np.where(above > 0, between, np.nan)) + 1) / 256) if (above > 0).any() else 0.0


def grown(mask: Mask, radius: int) -> Mask:
    """The mask and what lies within a square of `radius` pixels around it."""
    return np.asarray(_box_mean(mask.astype(np.float32), radius) > 0.5 / (2 * radius + 1) ** 2)


def _small(image: Image) -> Image:
    """The image at the pixel size that is looked at."""
    size = image.pixel_size
    factors = [UNKNOWN_FACTOR, UNKNOWN_FACTOR] if size is None else [WANTED_UM / size.y, WANTED_UM / size.x]
    if size is None:
        warnings.warn(
            f"{image.info.path} does not say its pixel size: tissue is looked for as if it were 0.25 um.", stacklevel=4
        )
    height, width = image.shape[1:]
    more = max((height * width / factors[0] / factors[1] / MOST_PX) ** 0.5, 1.0)
    return image.on(grid_of_factor(image, (max(factors[0] * more, 1.0), max(factors[1] * more, 1.0))))


def _picture(small: Image) -> tuple[Pixels, Mask]:
    """All of it as bytes, shape (3, y, x), and what is valid; a few rows at a time."""
    height, width = small.grid_shape
    rgb, valid = np.empty((3, height, width), np.uint8), np.ones((height, width), bool)
    for top in range(0, height, BAND):
        rows = slice(top, min(top + BAND, height))
        pixels, known = small.read_with_validity(Region(rows.start, 0, rows.stop, width), REFLECT)
        rgb[:, rows] = np.rint(pixels)
        if known is not None:
            valid[rows] = known
    return rgb, valid


def _glass(rgb: Pixels, seen: Mask) -> npt.NDArray[np.float64]:
    """Each channel's most common bright value; 240 where hardly anything is bright, as where tissue fills all."""
    levels = []
    for channel in rgb:
        counts = np.bincount(channel[seen], minlength=256)[200:]
        enough = counts.sum() > 0.02 * seen.sum()
        levels.append(200.0 + float(np.argmax(counts)) if enough else 240.0)
    return np.asarray(levels)


def _chroma(light: Pixels) -> Mask:
    high, low = light.max(axis=0), light.min(axis=0)
    return np.asarray((high - low) / np.maximum(high, 0.05))


def _ink(light: Pixels) -> tuple[Mask, Mask]:
    """What must be ink, and what could be, by transmittances relative to the glass."""
    red, green, blue = light
    high, low = light.max(axis=0), light.min(axis=0)
    green_ink = (green - red > 0.10) & (green - blue > -0.12)
    # Haematoxylin lets more red through than green, or as much; ink of pens takes red away first.
    blue_ink = (blue - red > 0.28) & (green - red > 0.05)
    black_ink = (high < 0.30) & (high - low < 0.12)
    could = (green - red > 0.04) | (high < 0.5) & (high - low < 0.10)
    return green_ink | blue_ink | black_ink, could


def _box_mean(values: Pixels, radius: int) -> Pixels:
    """Mean over a square, edges continued."""
    for axis in (0, 1):
        widths = [(0, 0), (0, 0)]
        widths[axis] = (radius, radius)
        padded = np.pad(values, widths, mode="edge")
        length = values.shape[axis]
        total = np.zeros_like(values)
        for offset in range(2 * radius + 1):
            total += np.take(padded, np.arange(offset, offset + length), axis)
        values = total / np.float32(2 * radius + 1)
    return values
