"""NDPI in full: the levels that the file stores, read by us, and the smaller ones that OpenSlide makes of the last.

::

    stored    0 ── 1 ── 2 ── 3     JPEGs of 10^5 px; each piece between two restart markers is decoded alone, found
                             │     by the table of MCU starts in the file (tag 65426)
    OpenSlide                └─ 4 ── 5 ── 6     the DCT of the last one at 1/2, 1/4 and 1/8

A JPEG without that table can only be decoded from its beginning: a small one we read whole, a giant one OpenSlide.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from gigatile.errors import ImageError
from gigatile.images.info import ImageInfo, Source
from gigatile.images.openslide import OpenSlideSource
from gigatile.images.places import absolute
from gigatile.images.tiff import TiffSource

WHOLE_JPEG_PX = 16 << 20
"""Pixels of a JPEG without restart markers up to which we decode it as one unit (48 MiB) where OpenSlide could."""


def open_ndpi(place: str, stored: TiffSource) -> Source:
    """The best reader that is there of an NDPI that ours can read.

    Parameters
    ----------
    place : str
        A path or a URL.
    stored : TiffSource
        Our reader of it, for the levels that are stored.
    """
    try:
        slide = OpenSlideSource(place)
    except ImageError as error:  # not installed, or a URL: what is stored can be read all the same
        return NdpiSource(place, stored, error)
    chunk = stored.info.levels[0].chunks
    return slide if chunk[0] * chunk[1] > WHOLE_JPEG_PX else NdpiSource(place, stored, slide)


class NdpiSource:
    """Reader of one NDPI.

    Parameters
    ----------
    place : str
        A path or a URL.
    stored : TiffSource
        Our reader of it.
    slide : OpenSlideSource or ImageError
        OpenSlide's, or why there is none.

    Memory bound
    ------------
    As of `OpenSlideSource`.
    """

    def __init__(self, place: str, stored: TiffSource, slide: OpenSlideSource | ImageError) -> None:
        self._place, self._stored, self._slide = place, stored, slide
        info = stored.info
        if isinstance(slide, ImageError):
            note = f"smaller levels, which OpenSlide makes, are left out: {slide.found}. {slide.fix}"
            self._info = replace(info, notes=(*info.notes, note))
        elif first := _first_made(info, slide.info):
            levels = (*info.levels, *slide.info.levels[first:])
            note = f"levels from {first} on are made by OpenSlide from the last one that is stored"
            held = slide.info.reader_bytes
            self._info = replace(info, levels=levels, reader_bytes=held, notes=(*info.notes, note))
        else:
            self._info = info

    def __reduce__(self) -> tuple[object, ...]:
        return _reopen, (absolute(self._place), len(self._info.levels))

    @property
    def info(self) -> ImageInfo:
        """What the file says of itself."""
        return self._info

    def decode(self, level: int, row: int, col: int) -> np.ndarray[Any, Any]:
        """Read one unit: see `Source.decode`."""
        if level < len(self._stored.info.levels) or isinstance(self._slide, ImageError):
            return self._stored.decode(level, row, col)
        return self._slide.decode(level, row, col)

    def identity(self) -> Mapping[str, str | int]:
        """Size and sampled digest, and how many levels there are: what is read at a small scale depends on it."""
        return {**self._stored.identity(), "levels": len(self._info.levels)}


def _first_made(stored: ImageInfo, slide: ImageInfo) -> int:
    """Index of OpenSlide's first level below the stored ones; 0 where the two disagree on those, or there is none."""
    shapes = [level.shape for level in stored.levels]
    agree = [level.shape for level in slide.levels[: len(shapes)]] == shapes and slide.channels == stored.channels
    return len(shapes) if agree and len(slide.levels) > len(shapes) else 0


def _reopen(place: str, levels: int) -> NdpiSource:
    """The same reader in another process.

    Raises
    ------
    ImageError
        OpenSlide is installed in one of the two only.
    """
    stored = TiffSource(place)
    slide: OpenSlideSource | ImageError
    try:
        slide = OpenSlideSource(place)
    except ImageError as error:
        slide = error
    source = NdpiSource(place, stored, slide)
    if len(source.info.levels) != levels:
        raise ImageError(
            stored.info.path,
            expected=f"{levels} levels, as where the run was planned",
            found=f"{len(source.info.levels)}",
            fix="Install gigatile[openslide] everywhere or nowhere.",
        )
    return source
