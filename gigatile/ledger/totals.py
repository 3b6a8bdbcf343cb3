"""Sums over records: exact, so that neither their order nor taking one back leaves a trace."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

import numpy as np

from gigatile.ledger.lines import Failed, Finished

_SEAM_UNIT = 2.0**64
"""Parts of a difference that are counted; a power of two, so that scaling is exact."""
_TICKS = 10_000
"""A second; records have four decimals."""


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
        for stage, ticks in _ticks(records):
            self._ticks[stage] = self._ticks.get(stage, 0) + sign * ticks
        counted = records if all(inside) else [record for record, inner in zip(records, inside, strict=True) if inner]
        if not counted:
            return
        # Column by column: as rows of one array it took four times as long.
        self.tiles += sign * sum([record.tiles for record in counted])
        self.skipped += sign * sum([record.skipped for record in counted])
        self.units_decoded += sign * sum([record.units_decoded for record in counted])
        self.seam_pixels += sign * sum([record.seam_pixels for record in counted])
        self.seam_disagreements += sign * sum([record.seam_disagreements for record in counted])
        self.pixels += sign * sum([record.pixels for record in counted if type(record) is not Failed])
        self.filled += sign * sum([1 for record in counted if record.filled])
        differences = [record.seam_difference for record in counted]
        self._seam_difference += sign * sum([int(value * _SEAM_UNIT) for value in differences if value])
        if None in differences:
            # What could not be compared counts as not compared.
            for record in counted:
                if record.seam_difference is None:
                    self.seam_pixels -= sign * record.seam_pixels
                    self.seam_disagreements -= sign * record.seam_disagreements


def _ticks(records: Sequence[Finished]) -> Iterable[tuple[str, int]]:
    """Stages, and the time that records spent in each; a stage may come several times."""
    if not records:
        return ()
    stages = list(records[0].seconds)
    if stages and list(chain.from_iterable([record.seconds for record in records])) == stages * len(records):
        # As nearly always all have the same; three times as fast, and a third of the time of a scan.
        values = np.array(list(chain.from_iterable([record.seconds.values() for record in records])))
        sums = np.rint(values * _TICKS).astype(np.int64).reshape(-1, len(stages)).sum(axis=0)
        return zip(stages, sums.tolist(), strict=True)
    return [(stage, round(value * _TICKS)) for record in records for stage, value in record.seconds.items()]
