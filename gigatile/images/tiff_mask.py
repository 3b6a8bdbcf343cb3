"""Masks and overviews that belong to a TIFF: pages of its own, or the files ``a.tif.msk`` and ``a.tif.ovr`` beside it.

As GDAL understands them: what is beside the file counts where there is none inside
(https://gdal.org/en/stable/development/rfc/rfc15_nodatabitmask.html).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from gigatile.images.channels import distinct
from gigatile.images.info import ImageInfo
from gigatile.images.tiff_check import check_directories
from gigatile.images.tiff_segments import Plane, read_plane, read_segments
from gigatile.storage.files import LocalFile
from gigatile.storage.reading import ByteSource

Pixels = np.ndarray[Any, Any]
MASK, OVERVIEWS = ".msk", ".ovr"


@dataclass(frozen=True, slots=True)
class MaskPlane:
    """The mask of one level, perhaps on the grid of a finer one.

    Memory bound
    ------------
    One segment at a time.
    """

    file: ByteSource
    plane: Plane

    def read(self, rows: Pixels, cols: Pixels, where: str) -> Pixels:
        """Whether pixels are valid.

        Parameters
        ----------
        rows, cols : ndarray of int
            Positions in the mask, ascending.
        where : str
            For messages.

        Returns
        -------
        ndarray of bool, shape (n rows, n cols)
            True where valid: where one of the bands of the mask says so. A segment that the file leaves out is invalid.

        Raises
        ------
        DecodeError, BlockError
            As for pixels.
        """
        out = np.zeros((len(rows), len(cols)), bool)
        (height, width), plane = self.plane.chunk, self.plane
        for i in np.unique(rows // height):
            ys = slice(*np.searchsorted(rows, (i * height, (i + 1) * height)))
            for j in np.unique(cols // width):
                xs = slice(*np.searchsorted(cols, (j * width, (j + 1) * width)))
                segments = list(plane.segments(int(i), int(j), where))
                if not segments:
                    continue
                sides = [min(n, size - k * n) for n, size, k in zip(plane.chunk, plane.shape, (i, j), strict=True)]
                part = np.zeros((plane.samples, *sides), plane.dtype)
                for segment, data in zip(segments, read_segments(self.file, segments, where), strict=True):
                    plane.fill(segment, data, part, where)
                valid: Pixels = np.any(part, axis=0)
                out[ys, xs] = valid[np.ix_(rows[ys] - i * height, cols[xs] - j * width)]
        return out


@dataclass(frozen=True, slots=True)
class LevelMask:
    """The mask of one level."""

    stored: MaskPlane
    shape: tuple[int, int]
    """Height and width of the level."""

    def window(self, ys: tuple[int, int], xs: tuple[int, int], where: str) -> Pixels:
        """Whether the pixels of a window are valid, shape (h, w); on a level coarser
        than the mask the nearest pixel of the mask counts."""
        rows, cols = (
            ((2 * np.arange(*ends, dtype=np.int64) + 1) * stored) // (2 * size)
            for ends, stored, size in zip((ys, xs), self.stored.plane.shape, self.shape, strict=True)
        )
        return self.stored.read(rows, cols, where)


def level_masks(
    shapes: list[tuple[int, int]], inside: list[MaskPlane], outside: list[MaskPlane]
) -> list[LevelMask] | None:
    """The mask of each level, for itself or else from the next finer level that has one; None: there is none.

    Parameters
    ----------
    shapes : list of (int, int)
        Of the levels.
    inside, outside : list of MaskPlane
        What is in the file and beside it, in any order.
    """
    for found in (inside, outside):
        by_shape = {mask.plane.shape: mask for mask in reversed(found)}
        last = by_shape.get(shapes[0])
        if last is None:
            continue
        masks = []
        for shape in shapes:
            last = by_shape.get(shape, last)
            masks.append(LevelMask(last, shape))
        return masks
    return None


@contextmanager
def sidecar(path: str, suffix: str) -> Iterator[tuple[LocalFile, Any] | None]:
    """The file beside a file, and a `tifffile.TiffFile` of it; None where there is none.

    Raises
    ------
    ImageError
        It is there and no TIFF, or truncated.
    """
    import tifffile

    place = path + suffix
    if not Path(place).is_file():
        yield None
        return
    file = LocalFile(place)
    check_directories(file)
    with tifffile.TiffFile(place) as tif:
        yield file, tif


def mask_planes(pages: list[Any], file: ByteSource) -> list[MaskPlane]:
    """The planes of mask pages. The tifffile handle must be open."""
    return [MaskPlane(file, read_plane(page, file, 1)) for page in pages]


def with_mask(info: ImageInfo) -> ImageInfo:
    """The same with a mask: it joins the alpha channel, or is one of its own behind the others."""
    if info.alpha is not None:
        return info
    return replace(info, channels=distinct([*info.channels, "mask"]), alpha=len(info.channels))
