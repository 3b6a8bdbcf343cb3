"""A plan as people read it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gigatile.plans.finding import Instances
from gigatile.units import format_bytes, format_seconds

if TYPE_CHECKING:
    from gigatile.plans.plan import Plan


def lines(plan: Plan) -> list[tuple[str, str]]:
    """What a plan prints: a name and a text a line."""
    tiling, memory = plan.tiling, plan.memory
    height, width = plan.image.grid_shape
    rows, cols = plan.grid.y.count, plan.grid.x.count
    bits = "last bits depend on the batch" if plan.batch_changes_bits else "bits do not depend on it"
    source = plan.image.levels[plan.image.level]
    kept = "" if plan.selection is None else ", less those where nothing is kept"
    some = "" if plan.selection is None else f", {plan.kept_blocks.sum()} of them kept,"
    lines = [
        (
            "image",
            f"{plan.image.info.path}  {_where_from(plan)}, {height} x {width} px, {plan.image.dtype}",
        ),
        ("channels", ", ".join(plan.image.channels)),
        (
            "model",
            f"{plan.model.model.name} on {plan.model.model.device}, {_gives(plan)}",
        ),
        (
            "tiles",
            f"{plan.share.tiles} ({rows} x {cols}{kept}) of {tiling.tile_yx[0]} x {tiling.tile_yx[1]} px, "
            f"overlap {tiling.overlap}, margin {tiling.margin}, blend {tiling.blend}, border {tiling.border}"
            + (" of the valid pixels" if tiling.border_of == "footprint" else ""),
        ),
        ("overlap", plan.choice.text),
        *_scale_lines(plan),
        *([] if plan.finding is None else [("objects", _objects(plan))]),
        (
            "blocks",
            f"{plan.blocks.count}{some} of {plan.block[0]} x {plan.block[1]} px"
            + (f" (shards), chunks of {plan.chunk[0]} x {plan.chunk[1]} px" if plan.layouts else ""),
        ),
        (
            "inference",
            f"{plan.tiles_inferred} tiles, overcompute {plan.overcompute:.2f}; batch {plan.batch} ({bits})",
        ),
        (
            "reads",
            f"{source.unit_count} units, chunks of {source.chunks[0]} x {source.chunks[1]} px, "
            f"each decoded about {memory.decoded_ratio:.2f} times",
        ),
        (
            "writes",
            _writes(plan),
        ),
        ("time", f"{format_seconds(plan.eta_seconds)} in the model, from one trial tile"),
    ]
    return lines + memory.lines()


def _gives(plan: Plan) -> str:
    """What the model makes of a tile."""
    if plan.task == "detect":
        return "boxes out"
    if isinstance(plan.finding, Instances) and plan.finding.method is None:
        return "labels out"
    return f"{plan.trial.channels_out} channels out"


def _objects(plan: Plan) -> str:
    found = f"boxes {plan.model.boxes}, score from {plan.model.score:g} on; " if plan.task == "detect" else ""
    return f"{found}{plan.finding}"


def _writes(plan: Plan) -> str:
    if not plan.layouts:
        return "objects.parquet"
    what = "labels" if plan.rule is None else plan.rule.output
    array = (
        f"{what} {plan.layouts[0].dtype} in {len(plan.layouts)} levels, "
        f"{format_bytes(plan.disk_bytes)} before compression"
    )
    return array if plan.finding is None else f"{array}; objects.parquet"


def _where_from(plan: Plan) -> str:
    """The level, or the pixel size and the level that it is made from."""
    image, level = plan.image, f"level {plan.image.level}"
    if image.grid.is_level or image.pixel_size is None:
        return level
    size = image.pixel_size.scaled(*image.scale)
    both = f"{size.y:g}" if np.isclose(size.y, size.x) else f"{size.y:g} x {size.x:g}"
    return f"{both} {size.unit} a pixel from {level}, {'interpolated' if image.grid.upsamples else 'averaged'}"


def _scale_lines(plan: Plan) -> list[tuple[str, str]]:
    return [
        (
            f"scale {scaled.scale}",
            f"{scaled.source.shape[0]} x {scaled.source.shape[1]} px from level {scaled.level}, "
            f"{scaled.grid.tiles} tiles",
        )
        for scaled in plan.passes
    ]
