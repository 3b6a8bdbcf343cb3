"""Instances of a planted image by way of cells, blocks and the sweep over seams, and what they should be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from scipy import ndimage

from gigatile.objects.agreement import Agreement
from gigatile.objects.cells import CellBlock, CellGrid
from gigatile.objects.fragments import BlockInstances, Part
from gigatile.objects.label_rasters import unpacked
from gigatile.objects.measures import Channels
from gigatile.objects.relabel import numbering, relabel
from gigatile.objects.seam_labels import SeamLabels

Labeller = Callable[[np.ndarray, int, int], np.ndarray]
"""Labels of one window (its true labels, row, col of the cell)."""


def cropped(window: np.ndarray, row: int, col: int) -> np.ndarray:
    """The true labels, with numbers that differ from cell to cell."""
    rng = np.random.default_rng(row * 1000 + col)
    numbers = np.r_[0, rng.permutation(int(window.max(initial=0))) + 1]
    return numbers[window]


def components(window: np.ndarray, row: int, col: int) -> np.ndarray:
    """What sees its window only: connected parts of what is not background."""
    return ndimage.label(window > 0)[0]


IOS = Agreement()


@dataclass(frozen=True)
class Scene:
    truth: np.ndarray
    cells: CellGrid
    labeller: Labeller = cropped
    prediction: np.ndarray | None = None
    image: np.ndarray | None = None
    valid: np.ndarray | None = None
    agreement: Agreement = IOS

    @property
    def channels(self) -> Channels:
        return Channels(*(0 if a is None else len(a) for a in (self.prediction, self.image)))

    def part(self, block: CellBlock) -> Part:
        found = BlockInstances(self.cells, block, self.agreement, self.channels)
        for row in block.rows:
            for col in block.cols:
                y, x = self.cells.window(row, col).slices()
                labels = self.labeller(self.truth[y, x], row, col)
                prediction = None if self.prediction is None else self.prediction[:, y, x]
                image = None if self.image is None else self.image[:, y, x]
                valid = None if self.valid is None else self.valid[y, x]
                found.add(row, col, labels, prediction=prediction, intensities=image, valid=valid)
        return found.finish()


@dataclass(frozen=True)
class Stitched:
    rows: pa.Table
    """All finished rows, in the order of ymin, xmin, smallest working id."""
    labels: np.ndarray
    """Final numbers, 1..N in that order, over the whole image."""
    loads: dict
    """How often each strip was loaded."""


def stitched(scene: Scene, block: tuple[int, int], missing: set[tuple[int, int]] = frozenset()) -> Stitched:
    """All blocks of `block` cells but those that are missing, then the sweep, then the labels."""
    cells = scene.cells
    strips, cores, loads, finished = {}, [], {}, []

    def strip(row, col, side):
        loads[row, col, side] = loads.get((row, col, side), 0) + 1
        return strips.get((row, col, side))

    sweep = SeamLabels(cells, block, scene.agreement, scene.channels, strip)
    for y in range(sweep.steps):
        rows = range(y * block[0], min((y + 1) * block[0], cells.rows))
        opened = []
        for x in range(-(-cells.cols // block[1])):
            if (y, x) in missing:
                continue
            part = scene.part(CellBlock(rows, range(x * block[1], min((x + 1) * block[1], cells.cols))))
            waiting = part.rows["open"].to_numpy()
            finished.append(part.rows.filter(pa.array(~waiting)))
            opened.append((part.rows.filter(pa.array(waiting)), part.pairs))
            for raster in part.labels.to_pylist():
                place = raster["cell_row"], raster["cell_col"]
                if raster["kind"] == "core":
                    cores.append((place, unpacked(raster)))
                else:
                    strips[(*place, raster["kind"])] = unpacked(raster)
        finished.append(sweep.add(opened))
    rows = pa.concat_tables(finished)
    first = np.array([m[0] for m in rows["members"].to_pylist()], np.uint64)
    order = np.lexsort((first, rows["xmin"].to_numpy(), rows["ymin"].to_numpy()))
    rows = rows.take(pa.array(order)).combine_chunks()
    table = numbering(rows["members"], np.arange(1, rows.num_rows + 1))
    labels = np.zeros(cells.shape, np.uint32)
    for (row, col), patch in cores:
        labels[patch.region.slices()] = relabel(patch.labels, cells.index(row, col), *table)
    return Stitched(rows, labels, loads)


def same_partition(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two label images differ in their numbers only."""
    pairs = np.unique(np.stack([a.ravel().astype(np.int64), b.ravel().astype(np.int64)]), axis=1)
    one_to_one = all(len(np.unique(side)) == pairs.shape[1] for side in pairs)
    return one_to_one and bool(((pairs == 0).all(axis=0) == (pairs == 0).any(axis=0)).all())


def discs(shape: tuple[int, int], count: int, radius: int, seed: int = 0) -> np.ndarray:
    """Discs of at most `radius` px that do not touch, numbered as they come; some may be cut by the image's edge."""
    rng = np.random.default_rng(seed)
    step = 2 * radius + 3
    truth = np.zeros((shape[0] + 2 * step, shape[1] + 2 * step), np.int64)
    grid = np.stack(np.meshgrid(np.arange(-(-shape[0] // step)), np.arange(-(-shape[1] // step)), indexing="ij"), -1)
    places = rng.permutation(grid.reshape(-1, 2))[:count] * step + step + radius
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    for number, (cy, cx) in enumerate(places, 1):
        r = rng.uniform(0.6, radius)
        truth[cy - radius : cy + radius + 1, cx - radius : cx + radius + 1][y * y + x * x <= r * r] = number
    return truth[step:-step, step:-step]
