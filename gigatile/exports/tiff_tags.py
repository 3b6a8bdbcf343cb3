"""The tags that all our TIFFs have: how pixels are stored, what they mean to a viewer, how large they are, whose."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from gigatile.errors import UsageError
from gigatile.exports.result import Colour, Result
from gigatile.exports.tiff_front import Flavour, Tag
from gigatile.exports.tiff_writer import CLASSIC_BYTES
from gigatile.exports.tiles import Predictor, TileGrid
from gigatile.exports.values import Values
from gigatile.units import PixelSize

ADOBE_DEFLATE, PALETTE, MIN_IS_BLACK, SEPARATE, CENTIMETRE = 8, 3, 1, 2, 3
GDAL_NODATA = 42113
_SOFTWARE_TAG, _SOFTWARE = 305, "gigatile export"
SOFTWARE = Tag(_SOFTWARE_TAG, "ascii", _SOFTWARE.encode())
"""Of the first directory: tells exports from all other TIFFs."""
REDUCED = 1
"""NewSubfileType of a coarser level."""
_SAMPLE_FORMATS = {"u": 1, "i": 2, "f": 3}
_TO_CENTIMETRES = {"um": 1e-4, "m": 100.0, "km": 1e5, "ft": 30.48}


def pixel_tags(grid: TileGrid, values: Values, predictor: Predictor, planes: int) -> tuple[Tag, ...]:
    """Size, dtype, compression and cut of one directory; each plane has its own tiles.

    Raises
    ------
    UsageError
        A side is longer than a TIFF can say.
    """
    if max(grid.shape) >= 2**31:
        raise UsageError("TIFF", expected="sides below 2**31 pixels", found=f"{grid.shape} pixels")
    dtype = values.dtype
    return (
        Tag(256, "long", (grid.shape[1],)),
        Tag(257, "long", (grid.shape[0],)),
        Tag(258, "short", (8 * dtype.itemsize,) * planes),
        Tag(259, "short", (ADOBE_DEFLATE,)),
        Tag(277, "short", (planes,)),
        Tag(284, "short", (SEPARATE if planes > 1 else 1,)),
        Tag(317, "short", (predictor,)),
        Tag(322, "long", (grid.tile[1],)),
        Tag(323, "long", (grid.tile[0],)),
        Tag(339, "short", (_SAMPLE_FORMATS[dtype.kind],) * planes),
        # Planes beyond the first are no colours (TIFF 6.0, ExtraSamples: unspecified).
        *((Tag(338, "short", (0,) * (planes - 1)),) if planes > 1 else ()),
    )


def is_exported_tiff(path: Path) -> bool:
    """Whether a file is a TIFF that we have exported."""
    import tifffile

    try:
        with tifffile.TiffFile(path) as file:
            return str(file.pages.first.tags.valueof(_SOFTWARE_TAG)) == _SOFTWARE
    except (tifffile.TiffFileError, ValueError, IndexError, KeyError, TypeError):
        return False  # no TIFF, or a damaged one: not ours to replace


def colour_tags(palette: Sequence[Colour], dtype: np.dtype[Any]) -> tuple[Tag, ...]:
    """The colour table of a class map of 8 or 16 bits, or that there is none."""
    if not palette or dtype.kind != "u" or dtype.itemsize > 2:
        return (Tag(262, "short", (MIN_IS_BLACK,)),)
    entries = 1 << (8 * dtype.itemsize)
    table = np.zeros((3, entries), np.uint16)
    known = np.asarray(palette[:entries], np.uint16).T
    table[:, : known.shape[1]] = known * 257  # 255 is 65535
    return Tag(262, "short", (PALETTE,)), Tag(320, "short", tuple(table.ravel().tolist()))


def resolution_tags(size: PixelSize | None, factor: int) -> tuple[Tag, ...]:
    """Pixels per centimetre of a level whose pixels are `factor` times as large; none where that is not known."""
    unit = None if size is None else _TO_CENTIMETRES.get(size.unit)
    if size is None or unit is None:
        return ()
    return (
        Tag(282, "rational", _rational(1 / (size.x * factor * unit))),
        Tag(283, "rational", _rational(1 / (size.y * factor * unit))),
        Tag(296, "short", (CENTIMETRE,)),
    )


def nodata_text(value: float) -> bytes:
    """The value of invalid pixels as GDAL writes it."""
    if isinstance(value, int):
        return str(value).encode()  # of 64 bits GDAL reads the digits alone: 9.2e+18 would be 9
    return b"nan" if math.isnan(value) else f"{value:.17g}".encode()


def flavour_for(result: Result, values: Values, planes: int) -> Flavour:
    """Classic TIFF where everything fits in it, however badly it compresses."""
    pixels = sum(math.prod(grid) for grid in (layout.shape for layout in result.layouts))
    return Flavour(big=pixels * planes * values.dtype.itemsize > CLASSIC_BYTES)


def predictor_for(result: Result, values: Values, *, floats: bool) -> Predictor:
    """Differences where neighbours resemble each other: not in class maps; of floats where the readers know it."""
    if values.dtype.kind == "f":
        return 3 if floats else 1
    return 1 if result.output == "classes" else 2


def _rational(value: float) -> tuple[int, int]:
    """Numerator and denominator, both of 32 bits, of a positive number."""
    limit = 2**32 - 1
    if value > limit:
        return limit, 1
    part = Fraction(value).limit_denominator(min(limit, max(1, int(limit / max(value, 1)))))
    return part.numerator, part.denominator
