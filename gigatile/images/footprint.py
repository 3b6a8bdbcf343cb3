"""Windows of an image as the model is to see them: beyond its border and, if asked, beyond its valid pixels.

::

    window ──▶ all valid? ── yes ──▶ as it is
                   │ no
                   └──▶ read 2 x reach more on each side ──▶ continue the footprint ──▶ gather the border
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gigatile.images.image import Image
from gigatile.tiling.border import Border
from gigatile.tiling.footprint import PIECE_BYTES, PIECE_PX, continued
from gigatile.tiling.region import Region
from gigatile.tiling.tiling import Tiling

Pixels = np.ndarray[Any, Any]


def beyond_px(image: Image, tiling: Tiling) -> int:
    """Pixels that may be read beyond a window on each side, on the grid that is worked on; for a resolved tiling."""
    return 2 * tiling.footprint_reach if image.has_validity else 0


def continuing_bytes(image: Image, window: tuple[int, int], beyond: int, itemsize: int) -> int:
    """What `read_continued` holds beside the window that it gives, of this height and width; 0 if never called."""
    if not beyond:
        return 0
    height, width = (side + 2 * beyond for side in window)
    # Stored channels, alpha among them, and their comparison with nodata; validity, and what is known after a pass.
    pixel = (len(image.selected) + 1) * (itemsize + 1) + 3
    piece = PIECE_BYTES + 2 * len(image.selected) * itemsize
    return height * width * pixel + max(PIECE_PX, height, width) * piece


def window_reader(image: Image, tiling: Tiling, mask: str) -> Callable[[Region], tuple[Pixels, Pixels | None]]:
    """What reads windows of the grid that is worked on, which may hang over the image.

    Parameters
    ----------
    image : Image
    tiling : Tiling
        Resolved.
    mask : str
        Whether invalid pixels are told (``nodata``) or not (``none``). They are continued all the same.

    Returns
    -------
    callable
        From a region to pixels, shape (c, y, x), and which are valid, shape (y, x), or None for all.
    """
    border, reach = tiling.parsed_border, tiling.footprint_reach
    masked = mask == "nodata"

    def read(window: Region) -> tuple[Pixels, Pixels | None]:
        if not masked and not (reach and image.has_validity):
            return image.read(window, border=border), None
        pixels, valid = image.read_with_validity(window, border)
        # Where nothing is valid and that is told, no tile is inferred.
        open_edge = reach and valid is not None and not valid.all() and not (masked and not valid.any())
        if open_edge:
            del pixels, valid
            pixels, valid = read_continued(image, window, border, reach)
        return pixels, valid if masked else None

    return read


def read_continued(image: Image, window: Region, border: Border, reach: int) -> tuple[Pixels, Pixels | None]:
    """A window whose invalid pixels near valid ones are continued from them; see `gigatile.tiling.footprint`.

    Parameters
    ----------
    image : Image
    window : Region
        In pixels of the grid that is worked on; may hang over it.
    border : Border
        At the edge of the footprint and, after that, at that of the image.
    reach : int
        Pixels farther than this from all valid ones stay as stored.

    Returns
    -------
    pixels : ndarray, shape (c, y, x)
    valid : ndarray of bool, shape (y, x), or None
        What the image calls valid, filled pixels not; None where it has no way of saying so.

    Memory bound
    ------------
    The window, what is read for it, ``2 * reach`` larger on each side, and what `continued` holds.
    """
    height, width = image.grid_shape
    rows, cols = border.index(window.y0, window.y1, height), border.index(window.x0, window.x1, width)
    if rows.max(initial=-1) < 0 or cols.max(initial=-1) < 0:
        return image.read_with_validity(window, border)
    inside_y, inside_x = rows[rows >= 0], cols[cols >= 0]
    hull = Region(int(inside_y.min()), int(inside_x.min()), int(inside_y.max()) + 1, int(inside_x.max()) + 1)
    wide = hull.grown(2 * reach, 2 * reach).clipped(Region(0, 0, height, width))
    pixels, valid = image.read_with_validity(wide, border)
    if valid is None:
        return image.read_with_validity(window, border)
    inner = hull.shifted(-wide.y0, -wide.x0)
    filled = continued(pixels, valid, inner, border, reach)
    at_y, at_x = np.maximum(rows - hull.y0, 0), np.maximum(cols - hull.x0, 0)
    # A copy, so that what was read beyond the window is let go of.
    out = np.take(np.take(filled, at_x, axis=2), at_y, axis=1)
    out[:, rows < 0] = border.value
    out[:, :, cols < 0] = border.value
    return out, valid[inner.slices()][np.ix_(at_y, at_x)]
