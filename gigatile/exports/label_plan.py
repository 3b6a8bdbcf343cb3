"""How an image is cut to be labelled, so that the peak of memory stays within a budget."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from math import ceil

import numpy as np

from gigatile.errors import MemoryRefused, UsageError
from gigatile.exports.label_input import LabelInput
from gigatile.images.image import IN_FLIGHT_BYTES
from gigatile.machine import available_cores, base_bytes
from gigatile.objects.connected import Rule
from gigatile.objects.numbering import BlockGrid, numbering_bytes
from gigatile.outputs.layout import ArrayLayout, pyramid_layouts
from gigatile.plans.memory import LIBRARIES_BYTES, SLACK
from gigatile.units import format_bytes

SIDES_PX = (2048, 1024, 4096, 512, 256)
"""Sides of blocks, best first: larger ones have fewer faces, and leave cores idle at the end."""
USUAL_CHUNK_PX, CHUNKS_PX = 512, (128, 1024)
"""Sides of chunks, unless those of the input lie in this range."""
CACHE_BYTES, CACHE_FILL = 32 << 20, 0.9
"""Of decoded chunks, and the part of it that is kept when room is made: `UnitCache`."""
JOINED_BYTES, APART_BYTES = 17, 44
"""A pixel of a block while it is labelled, beside the input's own: foreground, labels and what the labelling itself
takes (scipy 9.0, scikit-image 16), first pixels and numbers; measured at checkerboards and at blocks of as many values
as pixels."""


@dataclass(frozen=True, slots=True)
class LabelPlan:
    """What labelling will take."""

    rule: Rule
    layouts: tuple[ArrayLayout, ...]
    """The levels of the result; a block is a shard of level 0."""
    lanes: int
    """Blocks worked on at the same time."""
    budget_bytes: int
    parts: Mapping[str, int]
    """Bytes by purpose."""
    cache_bytes: int = CACHE_BYTES
    """Of decoded chunks."""

    @property
    def projected_bytes(self) -> int:
        """Largest resident memory of the process."""
        return sum(self.parts.values())

    @property
    def grid(self) -> BlockGrid:
        """The blocks."""
        return BlockGrid(self.layouts[0].shape, self.layouts[0].shard)

    def __str__(self) -> str:
        (height, width), (down, across) = self.layouts[0].shape, self.grid.count
        parts = ", ".join(f"{name} {format_bytes(nbytes)}" for name, nbytes in self.parts.items())
        return (
            f"{width:,} x {height:,} px in {down * across:,} blocks of {self.grid.block[1]:,} x "
            f"{self.grid.block[0]:,}, {self.lanes} at a time; memory at most {format_bytes(self.projected_bytes)} of "
            f"{format_bytes(self.budget_bytes)} ({parts})"
        )


def plan_label(source: LabelInput, rule: Rule, budget_bytes: int, lanes: int | None = None) -> LabelPlan:
    """Cut the image.

    Parameters
    ----------
    source : LabelInput
    rule : Rule
    budget_bytes : int
        Peak resident memory of the process.
    lanes : int, optional
        Most blocks at the same time; as many as there are cores if not given.

    Raises
    ------
    MemoryRefused
        No cut fits.
    UsageError
        `lanes` is less than 1.
    """
    if lanes is not None and lanes < 1:
        raise UsageError("workers", expected="at least 1", found=str(lanes))
    chunk = tuple(
        min(side if CHUNKS_PX[0] <= side <= CHUNKS_PX[1] else USUAL_CHUNK_PX, length)
        for side, length in zip(source.image.levels[0].chunks, source.shape, strict=True)
    )
    best: LabelPlan | None = None
    for count in range(lanes or available_cores(), 0, -1):
        for side in SIDES_PX:
            plan = _cut(source, rule, (chunk[0], chunk[1]), side, (count, budget_bytes))
            if plan.projected_bytes <= budget_bytes:
                return _with_cache(plan, source)
            if best is None or plan.projected_bytes < best.projected_bytes:
                best = plan
    assert best is not None  # there is a lane
    raise MemoryRefused(
        "label",
        expected=f"a memory of at least {format_bytes(best.projected_bytes)} for {best}",
        found=format_bytes(budget_bytes),
        fix=f"Type --memory {ceil(best.projected_bytes / 2**20)}MiB.",
    )


def _cut(source: LabelInput, rule: Rule, chunk: tuple[int, int], side: int, limits: tuple[int, int]) -> LabelPlan:
    """The plan of one side of blocks, and its memory."""
    (lanes, budget), shape = limits, source.shape
    shard = tuple(
        step * max(1, min(round(side / step), ceil(length / step))) for step, length in zip(chunk, shape, strict=True)
    )
    layout = ArrayLayout(shape, None, np.dtype(np.uint32), 0, (shard[0], shard[1]), chunk)
    grid = BlockGrid(shape, layout.shard)
    lanes = min(lanes, grid.count[0] * grid.count[1])
    pixels = min(shard[0], shape[0]) * min(shard[1], shape[1])
    itemsize = source.image.dtype.itemsize
    each = itemsize + (JOINED_BYTES if rule.classes == "joined" else APART_BYTES)
    unit = source.image.unit_bytes(0)
    parts = {
        "base": base_bytes() + LIBRARIES_BYTES,
        "reading": CACHE_BYTES + max(IN_FLIGHT_BYTES, unit) + lanes * unit + source.image.info.reader_bytes,
        "blocks": lanes * pixels * each,
        "writing": lanes * 8 * chunk[0] * (shard[1] + 2 * chunk[1]),
        "faces": numbering_bytes(grid, rule),
    }
    parts["allocator"] = round(SLACK * sum(parts.values()))
    return LabelPlan(rule, pyramid_layouts(layout), lanes, budget, parts, CACHE_BYTES)


def _with_cache(plan: LabelPlan, source: LabelInput) -> LabelPlan:
    """The plan with what memory is left for chunks of which several blocks of a row, or two rows, have a part."""
    level, (rows, cols), (height, width) = source.image.levels[0], plan.grid.count, plan.grid.block
    down, across = set(range(0, rows * height, height)), set(range(0, cols * width, width))
    if down <= set(level.edges_y) and across <= set(level.edges_x):
        return plan
    unit = int(np.diff(level.edges_y).max())
    useful = ceil((height + 2 * unit) * source.shape[1] * source.image.dtype.itemsize / CACHE_FILL)
    spare = int((plan.budget_bytes - plan.projected_bytes) / (1 + SLACK))
    more = max(0, min(useful - plan.cache_bytes, spare))
    parts = {**plan.parts, "reading": plan.parts["reading"] + more}
    parts["allocator"] += int(SLACK * more)
    return replace(plan, cache_bytes=plan.cache_bytes + more, parts=parts)


def load_libraries(rule: Rule) -> None:
    """Import what labelling uses, so that it counts as the base of the memory.

    Raises
    ------
    UsageError
        A package is missing.
    """
    names = ["scipy.ndimage", "scipy.sparse.csgraph", "imagecodecs"]
    for name in [*names, "skimage.measure"] if rule.classes == "apart" else names:
        try:
            import_module(name)
        except ImportError as error:
            raise UsageError(
                "label",
                expected=f"the package {name.partition('.')[0]}",
                found=str(error),
                fix="Install it: pip install 'gigatile[objects]'.",
            ) from error
