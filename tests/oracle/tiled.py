"""The library's side of the comparison: a plan's tiles and blocks through the engine, kept in memory."""

from __future__ import annotations

from threading import Event
from typing import NamedTuple

import numpy as np

from gigatile.engine.batches import Inference, Progress, Tally
from gigatile.engine.pipes import Clock
from gigatile.engine.region import infer_region
from gigatile.plans.plan import Plan


class Tiled(NamedTuple):
    """What came out."""

    values: np.ndarray
    """Blended channels (k, y, x) of the result's grid; NaN where nothing was handed out."""
    tally: list[Tally]
    """One a block."""

    @property
    def seam(self) -> float:
        """Mean absolute difference between neighbouring tiles where both see a pixel."""
        pixels = sum(tally.seams.pixels for tally in self.tally)
        return sum(tally.seams.difference for tally in self.tally) / max(pixels, 1)

    @property
    def compared(self) -> int:
        """Pixels that two tiles see."""
        return sum(tally.seams.pixels for tally in self.tally)


def tiled(plan: Plan) -> Tiled:
    """Every block of a plan, as a run infers it."""
    how = Inference(plan.grid, plan.model, plan.trial.channels_out, plan.trial.dtype, plan.batch, False)
    out = np.full((plan.trial.channels_out, *plan.grid.shape), np.nan, np.result_type(plan.trial.dtype, np.float32))
    border = plan.tiling.parsed_border
    tallies = []

    def read(window):
        if plan.mask == "nodata":
            return plan.image.read_with_validity(window, border)
        return plan.image.read(window, border=border), None

    for place in plan.blocks:
        region, tally = plan.blocks.region(*place), Tally()
        tallies.append(tally)
        progress = Progress(Clock(), tally, Event(), lambda tiles: None)
        for y, band, _ in infer_region(how, region, read, 7, progress):
            out[:, y : y + band.shape[1], region.x0 : region.x1] = band
    return Tiled(out, tallies)
