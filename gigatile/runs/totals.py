"""Sums over records: exact, so that neither their order nor taking one back leaves a trace."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter

import numpy as np

from gigatile.runs.lines import Failed, Finished

_SEAM_UNIT = 2.0**64
"""Parts of a difference that are counted; a power of two, so that scaling is exact."""
_TICKS = 10_000
"""A second; records have four decimals."""

_COLUMNS = ("tiles", "skipped", "units_decoded", "pixels", "seam_pixels", "seam_disagreements")
_numbers = attrgetter(*_COLUMNS)


@dataclass(slots=True)
class Totals:
    """Sums over the records that count. A group: `add`, and the same with a sign of -1.

    Counts are those of the prediction; seconds are also those of its pyramid.
    """

    tiles: int = 0
    skipped: int = 0
    units_decoded: int = 0
    pixels: int = 0
    """Of finished blocks."""
    filled: int = 0
    """Blocks in which something of the source could not be decoded and was filled."""
    seam_pixels: int = 0
    seam_disagreements: int = 0
    _seam_difference: int = 0
    _ticks: dict[str, int] = field(default_factory=dict)

    @property
    def seam_difference(self) -> float:
        """Sum of the differences between neighbouring tiles."""
        return self._seam_difference / int(_SEAM_UNIT)

    @property
    def seconds(self) -> Mapping[str, float]:
        """Busy seconds by stage."""
        return {name: ticks / _TICKS for name, ticks in self._ticks.items() if ticks}

    def add(self, records: Sequence[Finished], inside: Sequence[bool], sign: int = 1) -> None:
        """Count records, each once.

        Parameters
        ----------
        records : sequence of Finished
        inside : sequence of bool
            Whether each is of the prediction, and not of its pyramid.
        sign : {1, -1}
            -1: take them back.
        """
        ticks = self._ticks
        for record in records:
            for stage, seconds in record.seconds.items():
                ticks[stage] = ticks.get(stage, 0) + sign * round(seconds * _TICKS)
        counted = [record for record, inner in zip(records, inside, strict=True) if inner]
        if not counted:
            return
        sums = np.array([_numbers(record) for record in counted], np.int64).sum(axis=0).tolist()
        tiles, skipped, units, pixels, seam_pixels, disagreements = (sign * value for value in sums)
        self.tiles += tiles
        self.skipped += skipped
        self.units_decoded += units
        self.pixels += pixels
        self.seam_pixels += seam_pixels
        self.seam_disagreements += disagreements
        for record in counted:
            if record.seam_difference:
                self._seam_difference += sign * int(record.seam_difference * _SEAM_UNIT)
            elif record.seam_difference is None:
                # What could not be compared counts as not compared.
                self.seam_pixels -= sign * record.seam_pixels
                self.seam_disagreements -= sign * record.seam_disagreements
            if record.filled:
                self.filled += sign
            if type(record) is Failed:
                self.pixels -= sign * record.pixels
