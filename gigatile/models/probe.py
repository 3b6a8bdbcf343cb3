"""Measure a model on itself: how far it looks, how it must be aligned, and whether tiles can equal the whole image.

::

    noise, with one row       ░░░░░░░░░░░░        which rows of the output move:
    (then one column)         ░░░░░░░░░░░░        ▲
    replaced by other noise   ▓▓▓▓▓▓▓▓▓▓▓▓  ──▶   █ radius
                              ░░░░░░░░░░░░        ▼
                              ░░░░░░░░░░░░

A whole row moves at once, so that a path that a ReLU or a maximum hides in one place shows in another; several rows
in turn, so that every phase of a strided layer has its turn; and more than one kind of noise. Along the row the tile
is narrow where the model takes any size: the nuclei U-Net then took 4 s where square tiles took 16.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Literal

import numpy as np

from gigatile.errors import BlockError, ModelError
from gigatile.machine import available_bytes
from gigatile.models.model import LoadedModel
from gigatile.models.warmup import PeakRss
from gigatile.tiling.output_grid import OutputGrid, from_one_size, from_two_sizes

Verdict = Literal["exact", "exact-aligned", "not-exact"]
Array = np.ndarray[Any, Any]

VERSION = 3
"""Raised when the same model would give another probe."""
TILES = (64, 128, 256, 512, 1024)
"""Sides that are tried until what a pixel moves no longer reaches the edge."""
NARROW = 64
"""Width of a tile whose rows are moved."""
ROWS = 8
"""Rows (columns) that are moved at first; of a model of any size, and one of large strides, more are moved then."""
MOST_ROWS = 32
LEAST_TAKEN = 16 * 2**20
"""Bytes below which the memory that a call takes says nothing of a larger one."""
MULTIPLES = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 48, 56, 64)
"""What the sides of a tile may have to be a multiple of."""
SHIFTS = ((1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14, 16), (18, 20, 24, 28, 32, 40, 48, 56, 64))
"""Alignments that are tried: first those that a small tile has room for."""
SHARES = (1e-3, 1e-6)
"""Parts of the largest influence for which the effective radius is told."""
ROUNDING = 1e-5
"""Largest difference, relative to the largest output, that may be due to another order of additions."""
FADED = 1e-4
"""Influence at the edge of a tile, relative to the largest, above which larger tiles are not tried."""
KINDS = 6
"""Kinds of noise."""
TELLING = 1e-4
"""Range of an output, relative to the largest value, from which on it can show a dependence on the place."""


@dataclass(frozen=True, slots=True)
class Probe:
    """What was measured."""

    radius: tuple[int, int] | None
    """How far a pixel's influence reaches, along y and x, in pixels of the input; None: to the edge of any tile."""
    effective: dict[str, tuple[int, int]]
    """The same for influences above a share of the largest one, by share (``0.001``)."""
    alignment: int
    """Smallest shift of the input that merely shifts the output; 0: none was found."""
    output_scale: Fraction
    """Output pixels per input pixel."""
    crop: int
    """Input pixels that the model cuts off at each side by itself."""
    size_multiple: int
    """What the sides of a tile must be a multiple of."""
    channels_in: int
    channels_out: int
    verdict: Verdict
    reason: str
    """Why, in a sentence."""
    changes_bits: dict[str, bool] = field(default_factory=dict)
    """Whether the last bits depend on the ``batch`` and on the size of the ``tile``."""
    spreads_nan: bool = False
    """Whether NaN at one pixel makes NaN everywhere."""

    def to_json(self) -> dict[str, Any]:
        """As ``gigatile probe --json`` gives it."""
        return {
            "radius": None if self.radius is None else list(self.radius),
            "effective_radius": {share: list(radius) for share, radius in self.effective.items()},
            "alignment": self.alignment,
            "output_scale": float(self.output_scale),
            "crop": self.crop,
            "size_multiple": self.size_multiple,
            "channels_in": self.channels_in,
            "channels_out": self.channels_out,
            "verdict": self.verdict,
            "reason": self.reason,
            "changes_bits": dict(self.changes_bits),
            "spreads_nan": self.spreads_nan,
        }


def measure(loaded: LoadedModel, channels: int | None = None) -> Probe:
    """Measure a model.

    Parameters
    ----------
    loaded : LoadedModel
        Its values are left aside: the model alone is measured, on noise around 0 and between 0 and 1.
    channels : int, optional
        Channels to try it with; what it says itself, or 3, if not given.

    Raises
    ------
    ModelError
        The model does not run on the tiles that are tried, or gives no maps.
    """
    return _Bench(loaded, channels or loaded.model.channels_in or 3).measured()


@dataclass(frozen=True, slots=True)
class _Scene:
    """Noise that is larger than a tile, and the output of its upper left tile."""

    noise: Array
    tile: tuple[int, int]
    base: Array

    @property
    def largest(self) -> float:
        """Largest output."""
        return float(np.abs(self.base).max())

    @property
    def is_telling(self) -> bool:
        """Whether the output varies at all: a saturated one is shifted by any shift."""
        return float(np.ptp(self.base)) > TELLING * self.largest


class _Bench:
    """A model and the noise that it is measured on.

    Memory bound
    ------------
    Three tiles of the largest side tried, and what the model takes for one.
    """

    def __init__(self, loaded: LoadedModel, channels: int) -> None:
        self._loaded, self._channels = loaded, channels
        self._fixed = loaded.model.fixed_tile
        self._random = np.random.default_rng(20260101)

    def measured(self) -> Probe:
        """All measurements, the cheap ones first."""
        multiple = 1 if self._fixed else self._size_multiple()
        tile = self._fixed or (_up(64, multiple), _up(64, multiple))
        grid, channels_out = self._output_grid(tile, multiple)
        radius, effective = self._radius(multiple, grid, ROWS)
        alignment, rounding = (0, False) if radius is None else self._alignment(multiple, radius, grid)
        # All phases of the strides that the alignment or the sizes betray, twice; else of a hidden one of up to 8.
        rows = min(2 * max(alignment, multiple, ROWS), MOST_ROWS)
        if radius is not None and (self._fixed is None or not alignment or alignment > ROWS):
            before, (again, effective) = radius, self._radius(multiple, grid, rows)
            radius = None if again is None else (max(before[0], again[0]), max(before[1], again[1]))
            if radius not in (None, before):
                alignment, rounding = self._alignment(multiple, radius, grid)
        bits = {"batch": self._batch_changes_bits(tile), "tile": rounding}
        verdict, reason = _verdict(radius, alignment, rounding, self._fixed is not None)
        return Probe(
            radius=radius,
            effective=effective,
            alignment=0 if radius is None else alignment,
            output_scale=grid.scale,
            crop=grid.crop,
            size_multiple=multiple,
            channels_in=self._channels,
            channels_out=channels_out,
            verdict=verdict,
            reason=reason,
            changes_bits=bits,
            spreads_nan=self._spreads_nan(tile),
        )

    def _predict(self, batch: Array) -> Array:
        """The model alone: any size of output, no activation."""
        result = self._loaded.raw(batch)
        if result.ndim != 4 or len(result) != len(batch):
            raise ModelError(self._loaded.where, expected="one map per tile", found=f"shape {result.shape}")
        return result

    def _noise(self, tile: tuple[int, int], kind: int = 0, batch: int = 1) -> Array:
        """Noise of one of `KINDS` kinds: some model saturates on each of them and shows nothing."""
        shape = (batch, self._channels, *tile)
        white = self._random.random(shape, np.float32)
        if kind % KINDS == 0:
            return white
        if kind % KINDS == 1:
            return self._random.standard_normal(shape, np.float32)
        if kind % KINDS == 2:
            return np.float32(0.2) + np.float32(0.1) * white
        if kind % KINDS == 3:
            return -white
        # Patches of 16 x 16 px: smooth, as pictures are, and so strong that each channel opens and closes paths.
        patch = (batch, self._channels, *(-(-side // 16) for side in tile))
        strong = kind % KINDS == 4
        values = self._random.standard_normal(patch, np.float32) if strong else self._random.random(patch, np.float32)
        patches = values.repeat(16, axis=2).repeat(16, axis=3)[:, :, : tile[0], : tile[1]]
        if strong:
            return np.float32(4) * patches + self._random.standard_normal(shape, np.float32)
        return np.float32(0.9) * patches + np.float32(0.1) * white

    def _size_multiple(self) -> int:
        """The smallest number whose multiples the model takes, and answers with outputs that grow evenly."""
        failed = ""
        for multiple in MULTIPLES:
            sides = [_up(64, multiple) + i * multiple for i in range(3)]
            try:
                got = [self._predict(self._noise((side, side))).shape[2] for side in sides]
            except BlockError as error:
                failed = error.found
                continue
            step, next_step = got[1] - got[0], got[2] - got[1]
            # Sides of 70, 77, 84 give a stride of 8 outputs of 64, 72, 80: even, but no ratio of resolutions.
            if step == next_step > 0 and (step % multiple == 0 or multiple % step == 0):
                return multiple
            failed = f"sides {sides} in, {got} out"
        raise ModelError(self._loaded.where, expected="a model that runs on square tiles of noise", found=failed)

    def _output_grid(self, tile: tuple[int, int], multiple: int) -> tuple[OutputGrid, int]:
        """Scale and crop, from the sizes of one output, or of two where the model takes any size."""
        small = self._predict(self._noise(tile)).shape
        if self._fixed:
            return from_one_size(self._loaded.where, tile[0], small[2]), small[1]
        wider = tile[0] + 8 * multiple
        large = self._predict(self._noise((wider, wider))).shape
        return from_two_sizes(self._loaded.where, (tile[0], small[2]), (wider, large[2])), small[1]

    def _radius(
        self, multiple: int, grid: OutputGrid, rows: int
    ) -> tuple[tuple[int, int] | None, dict[str, tuple[int, int]]]:
        """How far rows and columns reach; on larger tiles as long as that is to the edge, and fading."""
        taken = LEAST_TAKEN
        for side in TILES if self._fixed is None else (min(self._fixed),):
            room = [(self._fixed or (side, side))[axis] // 2 - rows // 2 - grid.crop - 1 for axis in (0, 1)]
            # One row tells already that a tile is too small.
            with PeakRss() as memory:
                along = self._along(side, multiple, grid, rows if self._fixed else 1)
            if all(_reach(a, 0.0) <= free for a, free in zip(along, room, strict=True)):
                along = along if self._fixed else self._along(side, multiple, grid, rows)
                radius = (_reach(along[0], 0.0), _reach(along[1], 0.0))
                if all(r <= free for r, free in zip(radius, room, strict=True)):
                    return radius, _effective(along)
            faint = all(a[free:].max(initial=0) <= FADED * a.max() for a, free in zip(along, room, strict=True))
            # Of four times the pixels attention takes up to 16 times the memory.
            before, taken = taken, max(memory.peak - memory.before, LEAST_TAKEN)
            too_large = taken * min(max(taken / before, 4.0), 16.0) > available_bytes() // 4
            if self._fixed or too_large or (side >= 256 and not faint):
                break
        return None, _effective(along if self._fixed else self._along(side, multiple, grid, rows))

    def _along(self, side: int, multiple: int, grid: OutputGrid, rows: int) -> list[Array]:
        """The influence of rows and of columns."""
        long, narrow = _up(side, multiple), _up(NARROW, multiple)
        return [
            self._influence(self._fixed or tile, axis, grid, rows)
            for axis, tile in enumerate(((long, narrow), (narrow, long)))
        ]

    def _influence(self, tile: tuple[int, int], axis: int, grid: OutputGrid, rows: int) -> Array:
        """Largest change at each distance, in input rows (columns), over phases and kinds of noise."""
        influence = np.zeros(2 * tile[axis])
        kinds = map(self._kind(tile), range(min(rows, KINDS)))
        scenes = [(noise, self._predict(noise).astype(np.float64)) for noise in kinds]
        for phase in range(rows):
            place = tile[axis] // 2 + phase - rows // 2
            noise, before = scenes[phase % KINDS]
            moved = noise.copy()
            row = (slice(None), slice(None), place) if axis == 0 else (..., place)
            # Other noise, and far larger: it opens paths that are closed for this one.
            moved[row] = 10 * self._noise(tile, (0, 1, 4)[phase // 2 % 3])[row]
            change = np.abs(self._predict(moved) - before)
            by_row = np.nan_to_num(change.max(axis=(0, 1, 3 - axis)), nan=np.inf)
            np.maximum.at(influence, _distances(grid, len(by_row), place), by_row)
        return influence

    def _kind(self, tile: tuple[int, int]) -> Callable[[int], Array]:
        return lambda kind: self._noise(tile, kind)

    def _alignment(self, multiple: int, radius: tuple[int, int], grid: OutputGrid) -> tuple[int, bool]:
        """The smallest shift that merely shifts the output, and whether bits differ with the size of the tile."""
        rounding = False
        for shifts in SHIFTS:
            alignment, rounds = self._shift(shifts, multiple, max(radius), grid)
            rounding |= rounds
            if alignment:
                return alignment, rounding
        return 0, rounding

    def _shift(self, shifts: tuple[int, ...], multiple: int, most: int, grid: OutputGrid) -> tuple[int, bool]:
        """The same for some shifts; 0 if it is none of them."""
        far = shifts[-1]
        side = _up(2 * most + 2 * grid.crop + 2 * far + 32, multiple)
        tile = self._fixed or (side, side)
        scenes = [scene for kind in range(KINDS) if (scene := self._scene(tile, _up(far, multiple), kind)).is_telling]
        low = int(-(-max(most - grid.crop, 0) * grid.scale // 1))
        rounding = any(self._tile_changes_bits(scene, low, multiple) for scene in scenes)
        for shift in (s for s in shifts if s % grid.scale.denominator == 0):
            out = int(shift * grid.scale)
            if min(scenes[0].base.shape[2:], default=0) - 2 * low <= 2 * out if scenes else True:
                break
            allowed = ROUNDING if rounding else 0.0
            if all(self._difference(scene, shift, out, low) <= allowed * scene.largest for scene in scenes):
                return shift, rounding
        return 0, rounding

    def _scene(self, tile: tuple[int, int], more: int, kind: int) -> _Scene:
        noise = self._noise((tile[0] + more, tile[1] + more), kind)
        return _Scene(noise, tile, self._predict(noise[:, :, : tile[0], : tile[1]].copy()))

    def _difference(self, scene: _Scene, shift: int, out: int, low: int) -> float:
        """Largest difference between the output moved and the output of the moved input, away from the edges."""
        (height, width), (bottom, right) = scene.tile, (n - low for n in scene.base.shape[2:])
        moved = self._predict(scene.noise[:, :, shift : shift + height, shift : shift + width].copy())
        here = scene.base[:, :, low + out : bottom, low + out : right]
        there = moved[:, :, low : bottom - out, low : right - out]
        return float(np.abs(here.astype(np.float64) - there).max())

    def _tile_changes_bits(self, scene: _Scene, low: int, multiple: int) -> bool:
        """Whether the same pixels come out differently in a larger tile."""
        if self._fixed:
            return False
        side = scene.noise.shape[2] // multiple * multiple
        wide = self._predict(scene.noise[:, :, :side, :side].copy())
        bottom, right = (n - low for n in scene.base.shape[2:])
        inside = (slice(None), slice(None), slice(low, bottom), slice(low, right))
        return not np.array_equal(scene.base[inside], wide[inside])

    def _batch_changes_bits(self, tile: tuple[int, int]) -> bool:
        if self._loaded.model.fixed_batch is not None:
            return False
        noise = self._noise(tile, batch=3)
        alone = np.concatenate([self._predict(noise[i : i + 1]) for i in range(3)])
        return not np.array_equal(self._predict(noise), alone)

    def _spreads_nan(self, tile: tuple[int, int]) -> bool:
        noise = self._noise(tile)
        noise[0, :, 0, 0] = np.nan
        with np.errstate(invalid="ignore"):
            return bool(np.isnan(self._predict(noise)).all())


def _verdict(radius: tuple[int, int] | None, alignment: int, rounding: bool, fixed: bool) -> tuple[Verdict, str]:
    if radius is None:
        seen = "its only tile" if fixed else "every tile that was tried"
        why = "normalisation over the tile, attention, global pooling, or a radius beyond it"
        return "not-exact", f"what a pixel moves reaches to the edge of {seen} ({why})"
    if alignment == 0:
        return "not-exact", "shifting the input does not shift the output: it depends on the place in the tile"
    bits = "up to rounding: its last bits depend on the size of the tile" if rounding else "to the bit"
    if alignment == 1:
        return "exact", f"radius {max(radius)}, any position; {bits}"
    return "exact-aligned", f"radius {max(radius)}, positions in multiples of {alignment}; {bits}"


def _distances(grid: OutputGrid, length: int, place: int) -> Array:
    """How far the input row `place` lies outside the pixels under each of `length` output rows of a tile."""
    index = np.arange(length)
    first = index * grid.scale.denominator // grid.scale.numerator + grid.crop
    last = -(-(index + 1) * grid.scale.denominator // grid.scale.numerator) + grid.crop - 1
    return np.maximum(np.maximum(first - place, place - last), 0)


def _effective(along: list[Array]) -> dict[str, tuple[int, int]]:
    return {f"{share:g}": (_reach(along[0], share), _reach(along[1], share)) for share in SHARES}


def _reach(influence: Array, share: float) -> int:
    """The largest distance with more than `share` of the largest influence."""
    above = np.flatnonzero(influence > share * influence.max())
    return int(above[-1]) if len(above) else 0


def _up(side: int, multiple: int) -> int:
    return -(-side // multiple) * multiple
