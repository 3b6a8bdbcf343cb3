"""What one call of the model on zeros shows, for each task: what comes out, how tiles lie, what a tile costs."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import numpy as np

from gigatile.errors import MemoryRefused, ModelError, UsageError
from gigatile.machine import base_bytes
from gigatile.models.model import LoadedModel, Model
from gigatile.models.warmup import Trial, batch_changes_bits, batch_changes_boxes, try_detector, try_labels, try_model
from gigatile.plans.finding import Detect, Finding, Instances
from gigatile.plans.overlap import OverlapChoice, choose_carded, with_tile
from gigatile.tiling.tiling import Tiling
from gigatile.units import format_bytes

T = TypeVar("T")
LEAST_SCORE = 0.25
"""Of detectors that tell all of their candidates; what most of them have as their own default."""
FINISHED = ("rows", "nms")
"""Formats of detectors that have chosen their objects themselves."""
_UNPROBED = OverlapChoice("as given, or a quarter of the tile: how far it looks is not measured of a model of objects")


@dataclass(frozen=True, slots=True)
class Tried:
    """What is known once the model was called."""

    model: LoadedModel
    """With its output grid, or with what its boxes mean."""
    trial: Trial
    tiling: Tiling
    """Resolved."""
    choice: OverlapChoice
    batch: int
    """Tiles per call."""
    batch_changes_bits: bool


def tried(model: LoadedModel, tiling: Tiling, channels: int, finding: Finding | None, budget: int) -> Tried:
    """Call the model once, or look up what its last call showed.

    Parameters
    ----------
    model : LoadedModel
    tiling : Tiling
        As the user gave it.
    channels : int
        That it gets.
    finding : Finding or None
        What is done with its objects; None: it gives maps.
    budget : int
        Bytes that the call must not burst.

    Raises
    ------
    ModelError, UsageError, MemoryRefused
        The model, what is asked of it, and the tile do not fit each other, or the budget.
    """
    tiling, batch = with_tile(tiling, model), _batch(model)
    if finding is not None:
        _check_options(model, tiling, finding)
    if isinstance(finding, Detect):
        return _detector(model, tiling, channels, batch, budget)
    if isinstance(finding, Instances) and finding.method is None:
        return _labeller(model, tiling, channels, batch, budget)
    tile = tiling.tile_yx
    trial = once(model, ("trial", channels, tile, batch), lambda: _maps(model, channels, tile, batch, budget))
    model = replace(model, output=trial.output)
    tiling, choice = choose_carded(tiling, model, channels)
    changes = batch > 1 and not model.model.calls_once and model.model.fixed_batch is None
    tile = tiling.tile_yx
    what = ("bits", channels, tile, batch)
    changes = changes and once(model, what, lambda: batch_changes_bits(model, channels, tile, batch))
    return Tried(model, trial, tiling, choice, batch, changes)


def _detector(model: LoadedModel, tiling: Tiling, channels: int, batch: int, budget: int) -> Tried:
    tile = tiling.tile_yx
    _check_budget(tile, batch * channels * tile[0] * tile[1] * 4, budget)
    what = ("detector", channels, tile, batch, str(model.boxes))
    found = once(model, what, lambda: try_detector(model, channels, tile, batch))
    trial = Trial(0, np.dtype(np.float32), found.bytes_per_tile, found.seconds_per_tile)
    score = model.score if model.score is not None else 0.0 if found.boxes.layout in FINISHED else LEAST_SCORE
    model = replace(model, boxes=found.boxes, score=score)
    changes = batch > 1 and not model.model.calls_once and model.model.fixed_batch is None
    what = ("bits of boxes", channels, tile, batch, str(model.boxes))
    changes = changes and once(model, what, lambda: batch_changes_boxes(model, channels, tile, batch))
    return Tried(model, trial, _unblended(tiling), _UNPROBED, batch, changes)


def _labeller(model: LoadedModel, tiling: Tiling, channels: int, batch: int, budget: int) -> Tried:
    tile = tiling.tile_yx
    _check_budget(tile, batch * channels * tile[0] * tile[1] * 4, budget)
    trial = once(model, ("labels", channels, tile, batch), lambda: try_labels(model, channels, tile, batch))
    return Tried(model, trial, _unblended(tiling), _UNPROBED, batch, batch > 1 and model.model.fixed_batch is None)


def _unblended(tiling: Tiling) -> Tiling:
    return replace(tiling, blend="trim").resolved(tiling.tile_yx)


def check_objects(output: str | None, dtype: str | None) -> None:
    """Refuse what says how maps are stored.

    Raises
    ------
    UsageError
        One of them is given.
    """
    for name, given in (("output", output), ("dtype", dtype)):
        if given is not None:
            fix = f"Leave --{name} out: what is written are objects, and of instances their labels."
            raise UsageError(name, expected="none where objects are looked for", found=given, fix=fix)


def _check_options(model: LoadedModel, tiling: Tiling, finding: Finding) -> None:
    """Refuse what only maps have."""
    values = model.values
    asked: list[tuple[str, bool]] = [("multiscale", len(values.multiscale) > 1)]
    if isinstance(finding, Detect) or finding.method is None:
        asked += [
            ("tta", values.augmentation != "none"),
            ("activation", values.activation != "none"),
            ("blend", tiling.blend is not None),
            ("margin", tiling.margin != "auto"),
        ]
    for name, is_asked in asked:
        if is_asked:
            what = "boxes" if isinstance(finding, Detect) else "labels"
            raise UsageError(
                name,
                expected=f"none, since {what} are neither blended nor averaged",
                found=f"--{name}" if name != "multiscale" else "several scales",
                fix=f"Leave --{name} out.",
            )


def _batch(model: LoadedModel) -> int:
    """Tiles per call: the model's own number, the user's, or 1 (on the CPU larger batches bought nothing)."""
    only = model.model.fixed_batch
    if only is not None and model.batch not in (None, only):
        found = f"batch {model.batch}"
        raise ModelError(model.where, expected=f"its own batch of {only}", found=found, fix="Leave it out.")
    return only or model.batch or 1


_TRIALS: WeakKeyDictionary[Model, dict[Hashable, Any]] = WeakKeyDictionary()
"""What was found out about models that are still held, so that the second of many images does not try them again."""


def once(model: LoadedModel, what: Hashable, find_out: Callable[[], T]) -> T:
    """What was found out about a model before, or is found out now."""
    known = _TRIALS.setdefault(model.model, {})
    key = (what, model.values, model.output)
    if key not in known:
        known[key] = find_out()
    found: T = known[key]
    return found


def _maps(model: LoadedModel, channels: int, tile: tuple[int, int], batch: int, budget: int) -> Trial:
    """Call the model once, after a small call has shown that the large one will not burst the budget."""
    floor = batch * channels * tile[0] * tile[1] * 4
    small = (tile[0] // 256 * 64, tile[1] // 256 * 64)
    if min(small) and not model.model.calls_once and model.model.fixed_tile is None:
        trial = try_model(model, channels, small)
        floor = max(floor, trial.bytes_per_tile * batch * tile[0] * tile[1] // (small[0] * small[1]))
    _check_budget(tile, floor, budget)
    return try_model(model, channels, tile, batch)


def _check_budget(tile: tuple[int, int], floor: int, budget: int) -> None:
    """Refuse a batch that the budget cannot hold.

    Raises
    ------
    MemoryRefused
        It takes `floor` bytes at least.
    """
    free = budget - base_bytes()
    if floor > free:
        raise MemoryRefused(
            "memory",
            expected=f"about {format_bytes(floor + base_bytes())} for a batch of tiles {tile[0]} x {tile[1]}",
            found=format_bytes(budget),
            fix=_smaller_tile(tile, free / floor),
        )


def _smaller_tile(tile: tuple[int, int], share: float) -> str:
    """What to type where only a share of a batch's memory is there; half of it, to leave room for the rest."""
    sides = [int(side * (max(share, 0.0) / 2) ** 0.5) // 64 * 64 for side in tile]
    return f"Type --tile {sides[0]},{sides[1]}, or give more --memory." if min(sides) else "Give more --memory."
