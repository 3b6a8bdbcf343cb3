"""How large a pixel is: what a file claims in several places, which claim counts, and what disagrees.

::

    Aperio MPP          0.499 um ──▶ counts: the first that a microscope could have
    XResolution, ...    0.353 mm ──▶ a note: no microscope has it
    AppMag              20       ──▶ a note, where it does not go with the size that counts
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gigatile.errors import UsageError
from gigatile.images.info import ImageInfo, Source
from gigatile.units import PixelSize

PLAUSIBLE_UM = (0.05, 20.0)
"""Sides of pixels that microscopes have, from an oil immersion's 0.05 um to an overview's 20 um. 72 dpi, a printer's
habit, is 353 um; a size in millimetres or metres that is taken for micrometres lies far outside as well."""
AGREE = 0.01
"""Claims that differ by less than this agree."""
_UM_TIMES_POWER = (4.0, 25.0)
"""Micrometres a pixel times objective power: 10 by convention (0.25 um at 40x), 6.5 um / camera adapters around it."""
OVERRIDE = "--source-pixel-size"
"""Where a size that was stated by the user came from."""


@dataclass(frozen=True, slots=True)
class PixelSizeClaim:
    """One statement of the size of a pixel of level 0."""

    size: PixelSize
    """In micrometres; not above 0 where the file says something senseless."""
    origin: str
    """Where it stands, for messages: ``Aperio's MPP``."""


@dataclass(frozen=True, slots=True)
class PixelSizeChoice:
    """Which claim counts, and what is to be said of it and of the others."""

    size: PixelSize | None = None
    origin: str = ""
    """Of the claim that counts; empty where none does."""
    notes: tuple[str, ...] = ()


def choose_pixel_size(claims: Sequence[PixelSizeClaim], power: float | None = None) -> PixelSizeChoice:
    """The first claim that a microscope could have; the others are compared with it.

    Parameters
    ----------
    claims : sequence of PixelSizeClaim
        The most trusted one first.
    power : float, optional
        Power of the objective. It never counts, since cameras differ; it shows up what is wrong by a factor.
    """
    sound = [claim for claim in claims if is_plausible(claim.size)]
    chosen = sound[0] if sound else None
    notes = [_refusal(claim, chosen) for claim in claims if claim not in sound]
    if chosen is None:
        return PixelSizeChoice(notes=tuple(notes))
    notes += [_disagreement(claim, chosen) for claim in sound[1:] if not _agree(claim.size, chosen.size)]
    low, high = _UM_TIMES_POWER
    if power and not low <= power * chosen.size.x <= high:
        usual = f"{_shown(chosen.size)} with an objective of {power:g}x, where about {10 / power:.3g} um is usual"
        notes.append(f"{chosen.origin} says {usual}: check it, {OVERRIDE} overrides it")
    return PixelSizeChoice(chosen.size, chosen.origin, tuple(notes))


def is_plausible(size: PixelSize) -> bool:
    """Whether a microscope could have pixels of this size, in micrometres."""
    low, high = PLAUSIBLE_UM
    return low <= size.y <= high and low <= size.x <= high


def number_in(text: object) -> float:
    """The number that a vendor's text begins with, with a point or a comma; 0 where there is none."""
    match = re.match(r"\s*([0-9]+(?:[.,][0-9]+)?(?:[eE][+-]?[0-9]+)?)", str(text))
    return float(match[1].replace(",", ".")) if match else 0.0


def _agree(one: PixelSize, other: PixelSize) -> bool:
    return max(abs(one.y / other.y - 1), abs(one.x / other.x - 1)) <= AGREE


def _disagreement(claim: PixelSizeClaim, chosen: PixelSizeClaim) -> str:
    own = _shown(chosen.size)
    return f"{claim.origin} says {_shown(claim.size)} a pixel, {chosen.origin} {own}: {chosen.origin} counts"


def _refusal(claim: PixelSizeClaim, chosen: PixelSizeClaim | None) -> str:
    said = f"{claim.origin} says {_shown(claim.size)} a pixel, which no microscope has"
    if chosen is not None:
        return f"{said}: left aside, {chosen.origin} counts"
    return f"{said}: left aside; state the true size with {OVERRIDE}"


def _shown(size: PixelSize) -> str:
    return f"{size.y:.4g} x {size.x:.4g} um"


class RestatedSource:
    """A source of which the user has said how large its pixels are; everything else is as before.

    Parameters
    ----------
    source : Source
    size_um : float
        Side of a pixel of level 0 in micrometres, along y and x.

    Raises
    ------
    UsageError
        The size is not above 0, or the image lies on the Earth: its geotransform says where.
    """

    def __init__(self, source: Source, size_um: float) -> None:
        self._source, self._size_um = source, size_um
        info = source.info
        if not 0 < size_um < float("inf"):
            raise UsageError(OVERRIDE, expected="micrometres a pixel, above 0", found=f"{size_um:g}")
        if info.transform is not None or info.crs is not None:
            raise UsageError(
                f"{OVERRIDE} for {info.path}",
                expected="a slide or a picture",
                found="a georeferenced image, whose pixel size is that of its transform and CRS",
                fix="Leave it out; a wrong transform or CRS is corrected with gdal_edit.py (-a_ullr, -a_srs).",
            )
        self._info = _restated(info, PixelSize(size_um, size_um))

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self._source, self._size_um)

    @property
    def info(self) -> ImageInfo:
        """What the file says of itself, but for the pixel size."""
        return self._info

    def decode(self, level: int, row: int, col: int) -> np.ndarray[Any, Any]:
        """As the source does."""
        return self._source.decode(level, row, col)

    def identity(self) -> Mapping[str, str | int]:
        """That of the source, and the size: it stands in results, and decides how the image is resampled."""
        return {**self._source.identity(), "source_pixel_size_um": repr(self._size_um)}


def _restated(info: ImageInfo, size: PixelSize) -> ImageInfo:
    notes = info.notes
    stated = PixelSizeClaim(size, OVERRIDE)
    if info.pixel_size is not None and not _agree(info.pixel_size, size):
        origin = info.pixel_size_from or "the file"
        notes = (*notes, _disagreement(PixelSizeClaim(info.pixel_size, origin), stated))
    if not is_plausible(size):
        notes = (*notes, f"{OVERRIDE} says {_shown(size)} a pixel, which no slide scanner has: it counts all the same")
    return replace(info, pixel_size=size, pixel_size_from=OVERRIDE, notes=notes)
