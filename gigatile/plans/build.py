"""From an image, a model and a tiling to a plan: metadata and one trial call; no pixels are read."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from gigatile.errors import MemoryRefused, OverlapWarning
from gigatile.images.footprint import beyond_px
from gigatile.images.image import Image
from gigatile.machine import available_bytes, available_cores, base_bytes
from gigatile.models.card_fit import fitted_image, with_names_for
from gigatile.models.load import load_model
from gigatile.models.model import LoadedModel
from gigatile.models.values import check_dtype
from gigatile.models.warmup import Trial
from gigatile.objects.cells import CellGrid
from gigatile.outputs.objects_schema import arrow, projjson
from gigatile.outputs.rule import OutputRule, output_rule
from gigatile.plans.finding import Finding, Instances
from gigatile.plans.memory import Demand, MemoryPlan
from gigatile.plans.plan import Plan
from gigatile.plans.scales import scaled_passes
from gigatile.plans.trials import Tried, check_objects, tried
from gigatile.selections.choose import Roi, selection_of
from gigatile.tiling.border import check_border
from gigatile.tiling.tiling import Grid, Tiling, block_side, chunk_side, whole_cores
from gigatile.units import format_bytes, parse_bytes

Executor = Literal["threads", "processes", "cluster"]
TRIM_BLOCK, BLEND_BLOCK = 2048, 4096
"""Sides that automatic blocks aim at. A blend infers a ring of tiles around each block again, so its blocks are
larger: 4096 px with stride 384 cost 1.4 times the tiles, 2048 px 1.8 times."""
LEAST_BLOCK = 512
LEAST_CORES = 8
"""Cores along a block's side below which a blend's ring costs more than half as many tiles again."""


def plan(
    image: Image | Any,
    model: LoadedModel | Any,
    tiling: Tiling | None = None,
    *,
    output: str | None = None,
    dtype: str | None = None,
    mask: str | Path = "nodata",
    roi: Roi = None,
    memory: str | int | None = None,
    objects: Finding | None = None,
) -> Plan:
    """Work out what a run would do.

    Parameters
    ----------
    image : Image, path or array
        With the channels and level to work on, see `Image.select`.
    model : LoadedModel, path, "module:name" or callable
        See `load_model`.
    tiling : Tiling, optional
        Everything automatic if not given.
    output : {"classes", "probabilities", "raw"}, optional
        What is stored: what the model's card says, or classes, if not given.
    dtype : {"float32", "float16", "uint8"}, optional
        Of stored probabilities.
    mask : {"nodata", "none", "tissue"} or path
        Whether pixels that the image calls invalid are left out of the result (not by ``none``), and besides all
        but tissue, or what a raster or GeoJSON file keeps.
    roi : Region, str, path or mapping, optional
        Only inside this area: pixels of level 0, ``XMIN,YMIN,XMAX,YMAX``, a GeoJSON file, or GeoJSON.
    memory : str or int, optional
        Peak memory in bytes or as ``2GiB``; half of what the machine or container has if not given.
    objects : Detect or Instances, optional
        What is done with the objects that the model finds, if it finds objects; `output` and `dtype` are those of maps.

    Raises
    ------
    UsageError
        Image, model and options do not fit each other.
    MemoryRefused
        No block, lane or cache holds to the budget; the message has the figures and a tile that would.
    """
    model = load_model(model)
    if objects is not None:
        check_objects(output, dtype)
        arrow()
    image = fitted_image(_opened(image), model.card)
    output = output or (model.card and model.card.output) or "classes"
    # Objects are never of a class "background".
    model = with_names_for(model, output) if objects is None else model
    if output == "raw":
        # "raw = no activation, the model's dtype"
        model = replace(model, values=replace(model.values, activation="none"))
    if objects is not None and image.transform is not None:
        # What the table will need; better told now.
        projjson(image.crs)
    check_dtype(str(image.info.path), image.info.dtype)
    if not image.grid.is_level:
        model = replace(model, values=model.values.for_means_of(image.info.dtype))
    budget = parse_bytes(memory, "memory") if memory is not None else available_bytes() // 2
    tiling = tiling or Tiling()
    check_border(tiling.parsed_border, image.dtype)
    known = tried(model, tiling, len(image.selected), objects, budget)
    if known.choice.warning:
        warnings.warn(known.choice.warning, OverlapWarning, stacklevel=2)
    draft = Plan(
        image=image,
        model=known.model,
        tiling=known.tiling,
        rule=_rule(known, objects, output, dtype),
        mask="none" if mask == "none" else "nodata",
        selection=selection_of(image, roi, mask),
        block=(0, 0),
        block_is_auto=tiling.block is None,
        batch=known.batch,
        batch_changes_bits=known.batch_changes_bits,
        trial=known.trial,
        memory=MemoryPlan(budget),
        memory_is_given=memory is not None,
        choice=known.choice,
        finding=_with_method(objects, known.trial.channels_out),
    )
    draft = replace(draft, block=block_sides(known.tiling, draft.grid, draft.cells if draft.around_px else None))
    return fitted(draft)


def _rule(known: Tried, objects: Finding | None, output: str, dtype: str | None) -> OutputRule | None:
    """What is stored for a pixel; None for objects."""
    if objects is not None:
        return None
    blended = _blended_dtype(known.model, known.trial)
    return output_rule(output, dtype, blended, known.trial.channels_out, known.tiling.blend or "hann")


def _with_method(objects: Finding | None, channels: int) -> Finding | None:
    """The same, its method fitted to the channels of the model."""
    if not isinstance(objects, Instances) or objects.method is None:
        return objects
    return replace(objects, postprocess=objects.method.fitted(channels))


def _blended_dtype(model: LoadedModel, trial: Trial) -> np.dtype[Any]:
    """Means over scales are floats, whatever the model gives."""
    several = len(model.values.multiscale) > 1 and trial.dtype.kind != "f"
    return np.result_type(trial.dtype, np.float32) if several else trial.dtype


def limited(draft: Plan, limit_bytes: int, whose: str) -> Plan:
    """The plan under somebody else's limit: an automatic budget shrinks to it.

    Raises
    ------
    MemoryRefused
        The budget that the user gave is above the limit.
    """
    budget = draft.memory.budget_bytes
    if budget <= limit_bytes:
        return draft
    if draft.memory_is_given:
        raise MemoryRefused(
            "memory",
            expected=f"at most {format_bytes(limit_bytes)}, the limit of {whose}",
            found=format_bytes(budget),
            fix="Give less --memory, or start the workers with a larger --memory-limit.",
        )
    return replace(draft, memory=MemoryPlan(limit_bytes))


def fitted(draft: Plan, executor: Executor = "threads", workers: int | None = None) -> Plan:
    """The plan with lanes, cache and, where it is automatic, a block that hold to its budget.

    Lanes give way first, then the block: memory may change the layout of the result only where it must.

    Raises
    ------
    MemoryRefused
        Nothing fits.
    """
    budget = draft.memory.budget_bytes
    # Lanes that wait for readers or writers leave their core to the others: one a core is enough.
    wanted = workers or available_cores()
    best: MemoryPlan | None = None
    for block in _blocks_to_try(draft):
        demand = _demand(draft, block)
        for lanes in range(1 if executor == "cluster" else wanted, 0, -1):
            if executor == "threads":
                memory = demand.fitted(budget, lanes)
            else:
                memory = demand.fitted(budget, wanted if executor == "cluster" else lanes, lanes)
            if memory.fits:
                return replace(draft, block=block, memory=memory)
            best = memory
    assert best is not None
    raise MemoryRefused(
        "memory",
        expected=f"at least {format_bytes(best.projected_bytes)} ({_largest(best)})",
        found=format_bytes(budget),
        fix=_what_fits(draft, budget),
    )


def shared(whole: Plan, shares: int) -> Plan | None:
    """A fitted plan whose image takes only its share of what the budget leaves beyond the process itself.

    Same lanes, same block, less cache; None where that does not hold.
    """
    budget, base = whole.memory.budget_bytes, base_bytes()
    part = base + (budget - base) // shares
    memory = _demand(whole, whole.block).fitted(part, whole.memory.lanes)
    return replace(whole, memory=replace(memory, budget_bytes=budget, shares=shares)) if memory.fits else None


def _opened(image: Any) -> Image:
    if isinstance(image, Image):
        return image
    from gigatile.images.open import open as open_image

    return open_image(image)


def block_sides(tiling: Tiling, grid: Grid, cells: CellGrid | None = None) -> tuple[int, int]:
    """The block that was asked for in whole cores, or one of about the usual size; in pixels of the result.

    Parameters
    ----------
    tiling : Tiling
    grid : Grid
    cells : CellGrid, optional
        Of which it has whole ones.
    """
    asked = tiling.block
    units = cells.side if cells is not None else (block_side(grid.y.stride, 1), block_side(grid.x.stride, 1))
    if asked is not None:
        # Whole cores are enough for maps, whose chunks follow.
        units = units if cells is not None else grid.stride
        side = max(int(asked * grid.y.output.scale), 1)
        return whole_cores(units[0], side), whole_cores(units[1], side)
    # The context around a block of instances costs a ring of tiles, as a blend does.
    trim = tiling.blend == "trim" and cells is None
    most, least = (TRIM_BLOCK, LEAST_BLOCK) if trim else (BLEND_BLOCK, LEAST_CORES * max(grid.stride))
    # Small images are cut, too, so that there is something to do at the same time.
    target = min(most, max(int((grid.shape[0] * grid.shape[1]) ** 0.5 / 2), least))
    if cells is None:
        return block_side(grid.y.stride, target), block_side(grid.x.stride, target)
    high, wide = (max(round(target / unit), 1) * unit for unit in units)
    return high, wide


def _blocks_to_try(draft: Plan) -> list[tuple[int, int]]:
    """The block and, if it is automatic, smaller ones of the same chunks."""
    if not draft.block_is_auto:
        return [draft.block]
    units = _units(draft)
    blocks = [draft.block]
    while any(side > unit for side, unit in zip(blocks[-1], units, strict=True)):
        halved = [max(side // 2 // unit, 1) * unit for side, unit in zip(blocks[-1], units, strict=True)]
        blocks.append((halved[0], halved[1]))
    return blocks


def _units(draft: Plan) -> tuple[int, int]:
    """The smallest block of whole cores and whole chunks; of instances made of maps also of whole cells."""
    if draft.around_px and draft.cells is not None:
        return draft.cells.side
    y, x = draft.grid.stride
    return block_side(y, 1), block_side(x, 1)


def _demand(draft: Plan, block: tuple[int, int]) -> Demand:
    return Demand(
        image=draft.image,
        grid=draft.grid,
        block=block,
        chunk_height=chunk_side(draft.grid.y.stride, block[0]),
        rule=draft.rule,
        finding=draft.finding,
        trial=draft.trial,
        batch=draft.batch,
        base_bytes=base_bytes(),
        passes=draft.passes,
        beyond=draft.beyond_px,
        upload_bytes=draft.upload_bytes,
        selection=draft.selection,
    )


def _largest(memory: MemoryPlan) -> str:
    parts = sorted(memory.parts.items(), key=lambda part: -part[1])[:3]
    return ", ".join(f"{name} {format_bytes(size)}" for name, size in parts)


def _what_fits(draft: Plan, budget: int) -> str:
    """A tile that would hold to the budget, found by scaling the trial; or the budget that it takes."""
    height, width = draft.tiling.tile_yx
    fixed = draft.model.model.fixed_tile is not None
    for shrink in () if fixed else (2, 4, 8):
        tile = (height // shrink, width // shrink)
        overlap = min(int(draft.tiling.overlap) // shrink // 2 * 2, (min(tile) - 1) // 2 * 2)
        if min(tile) < 32:
            break
        tiling = replace(draft.tiling, tile=tile, overlap=overlap, margin=0, block=None)
        grid: Grid = tiling.grid(draft.image.grid_shape, draft.model.output)
        trial = replace(draft.trial, bytes_per_tile=draft.trial.bytes_per_tile // shrink**2)
        block = _units(replace(draft, tiling=tiling))
        demand = replace(
            _demand(draft, block),
            grid=grid,
            trial=trial,
            beyond=beyond_px(draft.image, tiling),
            chunk_height=chunk_side(grid.y.stride, block[0]),
            passes=scaled_passes(draft.image, tiling, draft.model.output, draft.model.values.multiscale),
        )
        # What is resident differs a little from one plan to the next.
        if demand.fitted(int(0.95 * budget), 1).fits:
            return f"Give more --memory, or type --tile {tile[0]},{tile[1]} --overlap {overlap}."
    return "Give more --memory" + (", or a larger machine." if fixed else ", or type a smaller --tile.")
