"""The main loop: one region of an image through the model.

::

    read a band ──▶ cut its tiles ──▶ fill batches ──▶ predict ──▶ stitch ──▶ hand out finished rows
    (one tile row)                    (across rows)       │        (row by row)
                                            ▲             │
                                            └── half of ──┘  where the memory does not hold a batch
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import nullcontext
from typing import Any

import numpy as np

from gigatile.engine.batches import Inference, Progress, predictions
from gigatile.engine.pipes import read_ahead
from gigatile.engine.stitcher import RegionStitcher
from gigatile.engine.tiles import Asked, Read, Validity, bands, tiles
from gigatile.errors import BlockError
from gigatile.plans.kept import Everything, Wanted
from gigatile.tiling.region import Region

Array = np.ndarray[Any, Any]
EVERYTHING = Everything()


def infer_region(
    how: Inference, region: Region, read: Read, step: int, progress: Progress, *, wanted: Wanted = EVERYTHING
) -> Generator[tuple[int, Array, Array | None]]:
    """Run the model over a region and hand out its finished rows, from top to bottom.

    Parameters
    ----------
    how : Inference
    region : Region
        Inside the image.
    read : callable
        Reads a window of the image.
    step : int
        Rows are handed out in multiples of `step`, but for the last ones.
    progress : Progress
        Clock, tally and stop signal.
    wanted : Wanted, optional
        Tiles that it does not name are neither read nor inferred.

    Yields
    ------
    y : int
        First row, in pixels of the image.
    band : ndarray, shape (k, rows, width)
        Blended channels; valid until the next step.
    valid : ndarray of bool, shape (rows, width), or None
        True where the input was valid and is wanted; None: everywhere.

    Raises
    ------
    BlockError
        The source or the model is at fault, or the memory does not hold what the region needs.
    """
    try:
        yield from _infer_region(how, region, read, step, progress, wanted=wanted)
    except MemoryError as error:
        raise BlockError(
            f"rows {region.y0}-{region.y1}, columns {region.x0}-{region.x1}",
            expected="memory for what a block needs",
            found=str(error) or "none left",
            fix="Type a smaller --memory or --workers 1, or close other programs.",
        ) from error


def _infer_region(
    how: Inference, region: Region, read: Read, step: int, progress: Progress, *, wanted: Wanted
) -> Generator[tuple[int, Array, Array | None]]:
    validity = Validity(region)

    def valid(start: int, stop: int) -> Array | None:
        seen, kept = validity.rows(start, stop), wanted.rows(start, stop)
        return kept if seen is None else seen if kept is None else seen & kept

    stitcher = RegionStitcher(how.grid, region, how.channels_out, how.dtype, step, valid=valid)
    progress.tally.seams = stitcher.seams

    def support(row: int, col: int) -> Region:
        (top, bottom), (left, right) = how.grid.y.support(row), how.grid.x.support(col)
        return Region(top, left, bottom, right).clipped(region)

    asked = Asked(stitcher.rows, stitcher.cols, wanted, support)
    reading = bands(how.grid, asked, read, progress.clock)
    # A single band has nothing to be read ahead of; small blocks are spared a thread.
    several = len(stitcher.rows) > 1
    with read_ahead(reading, "gigatile-read") if several else nullcontext(reading) as found:
        cut = tiles(how, asked, found, validity)
        for tile, prediction in predictions(how, cut, progress):
            with progress.clock.stage("blend"):
                finished = list(stitcher.add(tile.row, tile.col, prediction))
            for y, band in finished:
                yield y, band, valid(y, y + band.shape[1])
