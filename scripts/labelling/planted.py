"""A mask that is computed where it is read, and how many components it has.

::

    ●   │   ●   │   ●      discs at every 500th row and column: across faces, and corners where four blocks meet
      · │  ·  · │ ·        specks: half of the places of a lattice, by a hash, none beside a disc
    ────┼───────┼────      a comb: teeth from top to bottom, joined by one row near the end, so that what
    ●   │   ●   │   ●      hundreds of columns of blocks hold becomes one component when nearly all is read
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from gigatile.images.decode_units import edges
from gigatile.images.info import ImageInfo, Level

Mask = npt.NDArray[np.uint8]
PERIOD, RADIUS, LATTICE = 500, 100, 10
UNIT = 1000
"""Side of what is computed at once: two periods, so that all units look alike but for specks and the spine."""


class PlantedMask:
    """See `gigatile.images.info.Source`.

    Parameters
    ----------
    side : int
        Height and width in pixels, a multiple of 1,000.
    """

    def __init__(self, side: int) -> None:
        if side < UNIT or side % UNIT:
            raise SystemExit(f"--side: expected a multiple of {UNIT}, found {side}")
        self.side = side
        self.spine = side - PERIOD // 2
        self._info = ImageInfo(
            "<planted>",
            "numpy",
            np.dtype(np.uint8),
            ("mask",),
            (Level((side, side), 1.0, (UNIT, UNIT), edges(side, UNIT), edges(side, UNIT)),),
        )
        near = (np.arange(UNIT) + PERIOD // 2) % PERIOD - PERIOD // 2
        distance = near[:, None] ** 2 + near**2
        self._base: Mask = (distance <= RADIUS**2).astype(np.uint8)
        self._base[:, PERIOD // 2 :: PERIOD] = 1
        places = np.s_[LATTICE // 2 :: LATTICE]
        self._free = distance[places, places] > (RADIUS + 2) ** 2

    @property
    def info(self) -> ImageInfo:
        """Shape and dtype."""
        return self._info

    def decode(self, level: int, row: int, col: int) -> Mask:
        """One unit: see `Source.decode`."""
        unit = self._base.copy()
        unit[LATTICE // 2 :: LATTICE, LATTICE // 2 :: LATTICE] |= self._specks(row, col)
        if row * UNIT <= self.spine < (row + 1) * UNIT:
            unit[self.spine - row * UNIT] = 1
        return unit[np.newaxis]

    def identity(self) -> Mapping[str, str | int]:
        """Of the same side, the same mask."""
        return {"side": self.side}

    @property
    def count(self) -> int:
        """How many components it has, for 4 and for 8 neighbours: specks, discs, and the comb."""
        units = self.side // UNIT
        specks = sum(int(self._specks(row, col).sum()) for row in range(units) for col in range(units))
        return specks + (self.side // PERIOD + 1) ** 2 + 1

    def _specks(self, row: int, col: int) -> npt.NDArray[np.bool_]:
        steps = np.arange(UNIT // LATTICE, dtype=np.uint32)
        y = (steps + np.uint32(row * len(steps)))[:, None]
        mixed = (y * np.uint32(0x9E3779B1)) ^ ((steps + np.uint32(col * len(steps))) * np.uint32(0x85EBCA6B))
        mixed = (mixed ^ (mixed >> np.uint32(15))) * np.uint32(0x2C1B3C6D)
        return (mixed >> np.uint32(31)).astype(np.bool_) & self._free
