"""A slide-sized sample made of a real tissue picture, so that the demo needs no download.

The picture is scikit-image's ``immunohistochemistry`` (512 x 512, colonic glands, haematoxylin and DAB, from
the Center for Microscopy and Molecular Imaging; no known copyright restrictions). It is mirrored into an
endless seamless plane; every thousand pixels or so another piece of that plane, turned and bent differently,
takes over::

    picture ─mirror─▶ plane ─turn, bend─▶ patch A ╲
                            ─turn, bend─▶ patch B ─┴─ cross-fade ─▶ stain, light ─▶ tissue outline

Every pixel is tissue that a microscope saw; how the pieces lie, and the outline, are made up. The pixel size
of 0.5 micrometres is nominal. The same size and seed give the same pixels.

Memory bound: one row of tiles and the encoder's queue (32 MiB); the pyramid is spooled through files.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Reals = NDArray[np.float32]

SIDE_PX = 14_336
"""Side of the demo's slide: 205 megapixels."""
PIXEL_SIZE_UM = 0.5
TILE_PX = 256
JPEG_QUALITY = 85

_ZOOM = 2
"""The picture is enlarged this much once, so that the nearest pixel of a turned copy shows no steps."""
_PERIOD = 512 * 2 * _ZOOM
"""Side of the mirrored plane's unit cell: a power of two, so that wrapping around is a bit mask."""
_GRID_PX = 64
"""Spacing of the coarse fields (outline, stain, bend) from which pixels are interpolated."""
_PATCH_PX = 900
_FADE_PX = 14.0
_GLASS = np.array([244.0, 243.0, 241.0], np.float32)


@dataclass(frozen=True, slots=True)
class _Patch:
    """One piece of the endless plane: where it lies in the slide, how it is turned and shifted."""

    y: float
    x: float
    turn: tuple[float, float]
    """Cosine and sine of the rotation."""
    shift: tuple[float, float]
    """Position in the plane, enlarged pixels."""


@dataclass(frozen=True, slots=True)
class _Slide:
    """All that decides a pixel: small fields and a table of the plane."""

    plane: NDArray[np.uint32]
    """The mirrored plane, shape (_PERIOD * _PERIOD,): r, g, b and an unused byte in one word."""
    patches: tuple[_Patch, ...]
    outline: Reals
    """Above 0 inside tissue, on the coarse grid."""
    stain: Reals
    """Strength of the stain per channel (3, gy, gx), around 1."""
    bend: Reals
    """Displacement along y and x (2, gy, gx), enlarged pixels."""


def _field(rng: np.random.Generator, cells: int, sigma: float) -> Reals:
    """Smooth noise, shape (cells, cells), mean 0, standard deviation 1."""
    from scipy.ndimage import gaussian_filter  # only the demo needs scipy

    noise = gaussian_filter(rng.standard_normal((cells, cells)), sigma, mode="reflect")
    return np.asarray((noise - noise.mean()) / noise.std(), np.float32)


def _plane() -> NDArray[np.uint32]:
    from PIL import Image  # only the demo needs Pillow and scikit-image
    from skimage import data

    picture = data.immunohistochemistry()
    side = picture.shape[0] * _ZOOM
    cell = np.zeros((side, side, 4), np.uint8)
    cell[..., :3] = Image.fromarray(picture).resize((side, side), Image.Resampling.BICUBIC)
    cell = np.concatenate([cell, cell[::-1]], axis=0)
    cell = np.concatenate([cell, cell[:, ::-1]], axis=1)
    return np.ascontiguousarray(cell).view(np.uint32).reshape(-1)


def _outline(rng: np.random.Generator, side_px: int, cells: int) -> Reals:
    """Three elongated pieces of tissue with ragged borders and a few tears, as cut from a block."""
    at = np.linspace(0, 1, cells, dtype=np.float32)
    y, x = at[:, None], at[None, :]
    pieces = [(0.27, 0.30, 0.19, 0.23, 0.5), (0.72, 0.29, 0.19, 0.17, -0.3), (0.52, 0.74, 0.36, 0.17, 0.25)]
    inside = np.full((cells, cells), -9.0, np.float32)
    for cy, cx, ry, rx, angle in pieces:
        u = (y - cy) * np.cos(angle) + (x - cx) * np.sin(angle)
        v = (x - cx) * np.cos(angle) - (y - cy) * np.sin(angle)
        inside = np.maximum(inside, 1.0 - np.hypot(u / ry, v / rx))
    per_cell = cells / side_px
    ragged = 0.13 * _field(rng, cells, 1_100 * per_cell) + 0.05 * _field(rng, cells, 220 * per_cell)
    tears = 0.75 - np.abs(_field(rng, cells, 1_600 * per_cell)) * 25
    return np.asarray(inside + ragged - np.clip(tears, 0, None), np.float32)


def _design(side_px: int, seed: int) -> _Slide:
    rng = np.random.default_rng(seed)
    cells = side_px // _GRID_PX + 3
    per_cell = cells / side_px
    count = -(-side_px // _PATCH_PX) + 1
    patches = []
    for row in range(count):
        for col in range(count):
            y, x = (np.array([row, col]) + rng.uniform(-0.35, 0.35, 2)) * _PATCH_PX
            angle, shift = rng.uniform(0, 2 * np.pi), rng.uniform(0, _PERIOD, 2)
            turn = (float(np.cos(angle)), float(np.sin(angle)))
            patches.append(_Patch(float(y), float(x), turn, (float(shift[0]), float(shift[1]))))
    common = _field(rng, cells, 1_800 * per_cell)
    stain = [1.0 + 0.08 * common + 0.015 * _field(rng, cells, 2_500 * per_cell) for _ in range(3)]
    bend = [60.0 * _ZOOM * _field(rng, cells, 500 * per_cell) for _ in range(2)]
    outline = _outline(rng, side_px, cells)
    return _Slide(_plane(), tuple(patches), outline, np.stack(stain), np.stack(bend))


def _weights(start: int) -> tuple[slice, Reals]:
    """Linear interpolation from the coarse grid to one tile along one axis: (nodes, matrix (TILE_PX, n))."""
    at = (np.arange(start, start + TILE_PX, dtype=np.float64)) / _GRID_PX
    first, last = int(at[0]), int(at[-1]) + 2
    matrix = np.clip(1 - np.abs(at[:, None] - np.arange(first, last)[None, :]), 0, None)
    return slice(first, last), matrix.astype(np.float32)


def _from_plane(slide: _Slide, patch: _Patch, y: Reals, x: Reals) -> Reals:
    """Pixels of one patch at slide coordinates `y`, `x` (h, w) -> (h, w, 3) float32, 0..255."""
    cos, sin = patch.turn
    dy, dx = (y - patch.y) * _ZOOM, (x - patch.x) * _ZOOM
    u = (cos * dy - sin * dx + patch.shift[0]).astype(np.int32) & (_PERIOD - 1)
    v = (sin * dy + cos * dx + patch.shift[1]).astype(np.int32) & (_PERIOD - 1)
    packed = slide.plane[u * _PERIOD + v]
    return packed.view(np.uint8).reshape(*packed.shape, 4)[..., :3].astype(np.float32)


def _mosaic(slide: _Slide, y: Reals, x: Reals) -> Reals:
    """The nearest patch at every pixel, cross-faded over `_FADE_PX` where two are equally near."""
    cy, cx = float(y.mean()), float(x.mean())
    near = sorted(slide.patches, key=lambda p: float(np.hypot(p.y - cy, p.x - cx)))[:6]
    away = np.stack([np.hypot(y - p.y, x - p.x) for p in near])
    share = np.exp((away.min(axis=0) - away) / _FADE_PX)
    share /= share.sum(axis=0)
    colour = np.zeros((*y.shape, 3), np.float32)
    for patch, weight in zip(near, share, strict=True):
        if weight.max() > 1 / 255:
            colour += weight[..., None] * _from_plane(slide, patch, y, x)
    return colour


def _tile(slide: _Slide, y0: int, x0: int) -> Pixels:
    """One tile of the slide, (TILE_PX, TILE_PX, 3) uint8."""
    (rows, by), (cols, bx) = _weights(y0), _weights(x0)
    outline = by @ slide.outline[rows, cols] @ bx.T
    light = np.random.default_rng((y0, x0)).normal(0, 0.7, (TILE_PX, TILE_PX, 1)).astype(np.float32)
    if outline.max() <= 0:
        return np.asarray(np.clip(np.rint(_GLASS + light), 0, 255), np.uint8)
    bend_y, bend_x = (by @ field[rows, cols] @ bx.T for field in slide.bend)
    y = np.arange(y0, y0 + TILE_PX, dtype=np.float32)[:, None] + bend_y / _ZOOM
    x = np.arange(x0, x0 + TILE_PX, dtype=np.float32)[None, :] + bend_x / _ZOOM
    strength = np.stack([by @ field[rows, cols] @ bx.T for field in slide.stain], axis=-1)
    # An edge of about 10 px: tissue ends within a cell, not over a field of view.
    strength *= np.clip(outline * 60, 0, 1)[..., None]
    colour = _GLASS - (_GLASS - _mosaic(slide, y, x)) * strength + light
    return np.asarray(np.clip(np.rint(colour), 0, 255), np.uint8)


def level_sides(side_px: int) -> tuple[int, ...]:
    """Sides of the pyramid's levels: halved until a level fits on a screen."""
    sides = [side_px]
    while sides[-1] > 1_024 and sides[-1] % 2 == 0:
        sides.append(sides[-1] // 2)
    return tuple(sides)


def write_slide(
    path: Path, *, side_px: int = SIDE_PX, seed: int = 3, on_tile: Callable[[], None] = lambda: None
) -> None:
    """Write the sample as OME-TIFF: JPEG tiles of 256 px, a pyramid in SubIFDs, a pixel size.

    Parameters
    ----------
    path : Path
        Where it goes; it appears there when it is whole.
    side_px : int
        Height and width, a multiple of 256.
    seed : int
        Another seed gives another arrangement.
    on_tile : callable
        Called after each finished tile of full resolution.

    Raises
    ------
    ValueError
        `side_px` is not a positive multiple of 256.
    """
    import tifffile  # heavy, and only used here

    if side_px < TILE_PX or side_px % TILE_PX:
        raise ValueError(f"side_px is {side_px}; it must be a positive multiple of {TILE_PX}")
    sides = level_sides(side_px)
    unfinished = path.with_name(f".{path.name}.part")
    options: dict[str, Any] = {
        "dtype": np.uint8,
        "tile": (TILE_PX, TILE_PX),
        "photometric": "rgb",
        "compression": "jpeg",
        "compressionargs": {"level": JPEG_QUALITY},
        "buffersize": 32 * 2**20,
    }
    with (
        tifffile.TiffWriter(unfinished, ome=True, bigtiff=side_px > 50_000) as out,
        _Spools(path.parent) as spools,
    ):
        for level, side in enumerate(sides):
            strips = _slide_strips(side, seed, on_tile) if level == 0 else spools.read(level, side)
            kept = spools.keep_halved(level + 1, strips) if level + 1 < len(sides) else strips
            size_um = PIXEL_SIZE_UM * side_px / side
            out.write(
                _tiles(kept),
                shape=(side, side, 3),
                subifds=len(sides) - 1 if level == 0 else 0,
                subfiletype=1 if level else 0,
                resolution=(1e4 / size_um, 1e4 / size_um),
                resolutionunit="CENTIMETER",
                metadata=_ome_metadata() if level == 0 else None,
                **options,
            )
    unfinished.replace(path)


def _ome_metadata() -> dict[str, Any]:
    return {
        "axes": "YXS",
        "Name": "gigatile demo: mosaic of scikit-image's immunohistochemistry picture",
        "PhysicalSizeX": PIXEL_SIZE_UM,
        "PhysicalSizeXUnit": "µm",
        "PhysicalSizeY": PIXEL_SIZE_UM,
        "PhysicalSizeYUnit": "µm",
    }


def _slide_strips(side_px: int, seed: int, on_tile: Callable[[], None]) -> Iterator[Pixels]:
    """Full resolution, row of tiles by row of tiles: (TILE_PX, side_px, 3) uint8 each."""
    slide = _design(side_px, seed)

    def tile(place: tuple[int, int]) -> Pixels:
        pixels = _tile(slide, *place)
        on_tile()
        return pixels

    # Two threads: numpy lets go of the lock for most of the work, and more would only fight the encoder.
    with ThreadPoolExecutor(2) as pool:
        for y0 in range(0, side_px, TILE_PX):
            row = pool.map(tile, [(y0, x0) for x0 in range(0, side_px, TILE_PX)])
            yield np.concatenate(list(row), axis=1)


def _tiles(strips: Iterator[Pixels]) -> Iterator[Pixels]:
    """Whole tiles in row-major order; those over the edge repeat the last row and column."""
    for strip in strips:
        missing_y, missing_x = TILE_PX - strip.shape[0], -strip.shape[1] % TILE_PX
        padded = np.pad(strip, ((0, missing_y), (0, missing_x), (0, 0)), mode="edge")
        for x0 in range(0, padded.shape[1], TILE_PX):
            yield np.ascontiguousarray(padded[:, x0 : x0 + TILE_PX])


def _halved(strip: Pixels) -> Pixels:
    """Mean of 2 x 2 pixels, rounded: (h, w, 3) -> (h / 2, w / 2, 3) uint8, h and w even."""
    wide = strip.astype(np.uint16)
    total = wide[0::2, 0::2] + wide[0::2, 1::2] + wide[1::2, 0::2] + wide[1::2, 1::2]
    return ((total + 2) >> 2).astype(np.uint8)


class _Spools:
    """The next level's pixels on disk while this one is written: a TIFF stores level after level."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[int, IO[bytes]] = {}

    def __enter__(self) -> _Spools:
        return self

    def __exit__(self, *error: object) -> None:
        for file in self._files.values():
            file.close()

    def keep_halved(self, level: int, strips: Iterator[Pixels]) -> Iterator[Pixels]:
        """Hand on `strips` and store them at half their size as `level`."""
        file = self._files[level] = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 (closed by read or __exit__)
        for strip in strips:
            file.write(_halved(strip).tobytes())
            yield strip

    def read(self, level: int, side: int) -> Iterator[Pixels]:
        """Rows of `level` in strips of `TILE_PX`; its file is gone afterwards."""
        file = self._files.pop(level)
        with file:
            file.seek(0)
            for y0 in range(0, side, TILE_PX):
                rows = min(TILE_PX, side - y0)
                yield np.frombuffer(file.read(rows * side * 3), np.uint8).reshape(rows, side, 3)
