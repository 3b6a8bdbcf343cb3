"""What will happen, frozen: numbers that decide values (fingerprinted), and the resources fitted to them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from gigatile.images.footprint import beyond_px
from gigatile.images.image import Image
from gigatile.models.model import LoadedModel
from gigatile.models.normalise import Normalisation
from gigatile.models.warmup import Trial
from gigatile.objects.cells import CellGrid
from gigatile.outputs.layout import ArrayLayout, pyramid_layouts
from gigatile.outputs.omezarr import ResultMetadata
from gigatile.outputs.rule import OutputRule
from gigatile.plans.finding import Detect, Finding, Instances
from gigatile.plans.kept import Kept, KeptShare, kept_share, objects_share
from gigatile.plans.memory import MemoryPlan
from gigatile.plans.overlap import GIVEN, OverlapChoice
from gigatile.plans.scales import ScaledPass, scaled_passes
from gigatile.plans.stages import Stage, Task, stages_of
from gigatile.selections.selection import Selection
from gigatile.tiling.tiling import Blocks, Grid, Tiling, chunk_side
from gigatile.units import PixelSize

LABELS = np.dtype(np.uint32)
"""Of instances in the result."""
FORMAT = 1
"""Raised when the same options would give other bytes than before."""


@dataclass(frozen=True)
class Plan:
    """One image through one model with one tiling.

    Two plans with the same fingerprint give the same values; resources are no part of it. A plan carries its
    image and model along, unread and lazily loaded, and can be pickled to workers.
    """

    image: Image
    """With the channels and the level that are worked on."""
    model: LoadedModel
    tiling: Tiling
    """Resolved: no `auto` left."""
    rule: OutputRule | None
    """What is stored for a pixel; None: labels of objects, or nothing."""
    mask: str
    """Whether pixels that the image itself calls invalid are left out: ``nodata`` or ``none``."""
    block: tuple[int, int]
    """Height and width of a block in pixels of the result: whole cores."""
    block_is_auto: bool
    """Whether memory or an existing result may change the block."""
    batch: int
    """Tiles per call."""
    batch_changes_bits: bool
    """Whether the model's last bits depend on the batch: then it is part of the fingerprint."""
    trial: Trial
    """What a call on zeros showed."""
    memory: MemoryPlan
    memory_is_given: bool = False
    """Whether the budget is the user's, or half of what this machine has."""
    choice: OverlapChoice = GIVEN
    """Where overlap, margin and blend came from."""
    selection: Selection | None = None
    """What is kept of the image, by region, mask or tissue; None: all of it."""
    finding: Finding | None = None
    """What is done with the objects that the model finds; None: it gives maps."""
    upload_bytes: int = 0
    """Memory that each lane's writer holds, once it is known that the result goes into a bucket."""

    @property
    def task(self) -> Task:
        """What is looked for."""
        return "segment" if self.finding is None else "detect" if isinstance(self.finding, Detect) else "instances"

    @property
    def cells(self) -> CellGrid | None:
        """What is labelled at once, where there are instances."""
        return self.finding.cells(self.grid) if isinstance(self.finding, Instances) else None

    @property
    def around_px(self) -> int:
        """Pixels around a block that are predicted for it, too."""
        made = isinstance(self.finding, Instances) and self.finding.method is not None
        return self.cells.context if made and self.cells is not None else 0

    @cached_property
    def grid(self) -> Grid:
        """The tiles."""
        return self.tiling.grid(self.image.grid_shape, self.model.output)

    @cached_property
    def passes(self) -> tuple[ScaledPass, ...]:
        """The scales beside 1, the processing grid itself."""
        return scaled_passes(self.image, self.tiling, self.model.output, self.model.values.multiscale)

    @property
    def beyond_px(self) -> int:
        """Pixels that may be read beyond the tiles, to continue a footprint."""
        return beyond_px(self.image, self.tiling)

    @property
    def kept(self) -> Kept | None:
        """The selection in pixels of the result."""
        if self.selection is None:
            return None
        return Kept(self.selection, self.image.grid_shape, self.model.output)

    @cached_property
    def share(self) -> KeptShare:
        """How much of the work the selection leaves."""
        if self.finding is not None:
            return objects_share(self.kept, self.grid, self.blocks, self.around_px)
        return kept_share(self.kept, self.grid, self.blocks, self.passes)

    @property
    def kept_blocks(self) -> npt.NDArray[np.bool_]:
        """Blocks in which something is kept; shape (rows, cols)."""
        return self.share.blocks

    @property
    def blocks(self) -> Blocks:
        """The blocks."""
        return Blocks(self.grid.shape, self.block)

    @cached_property
    def chunk(self) -> tuple[int, int]:
        """Height and width of a chunk of the result."""
        sides = [chunk_side(s, b) for s, b in zip(self.grid.stride, self.block, strict=True)]
        return sides[0], sides[1]

    @cached_property
    def layouts(self) -> tuple[ArrayLayout, ...]:
        """The arrays of the result: level 0 and its pyramid."""
        if self.finding is not None and not isinstance(self.finding, Instances):
            return ()
        rule = self.rule
        if rule is None:
            return pyramid_layouts(ArrayLayout(self.grid.shape, None, LABELS, 0, self.block, self.chunk))
        channels = None if rule.output == "classes" else self.trial.channels_out
        first = ArrayLayout(self.grid.shape, channels, rule.dtype, rule.fill, self.block, self.chunk)
        return pyramid_layouts(first)

    @cached_property
    def stages(self) -> tuple[Stage, ...]:
        """The steps of the run."""
        return stages_of(self.task, self.blocks, self.layouts)

    @property
    def metadata(self) -> ResultMetadata:
        """What the result says of itself."""
        image = self.image
        finer = float(self.model.output.scale)
        scale_y, scale_x = (side / finer for side in image.scale)
        source = image.pixel_size or PixelSize(1.0, 1.0, "")
        size, transform = source.scaled(scale_y, scale_x), image.transform
        asked = image.grid.pixel_size
        if asked is not None:
            # To the last digit: 0.499 * (1 / 0.499) is not 1.
            size = PixelSize(asked / finer, asked / finer, source.unit)
        if transform is not None:
            a, b, c, d, e, f = transform
            if asked is None:
                transform = (a * scale_x, b * scale_y, c, d * scale_x, e * scale_y, f)
            else:
                across, down = (a / source.x, d / source.x), (b / source.y, e / source.y)
                transform = (across[0] * size.x, down[0] * size.y, c, across[1] * size.x, down[1] * size.y, f)
        return ResultMetadata(
            downsampling="mean" if self.rule is not None and self.rule.output != "classes" else "nearest",
            pixel_size=size,
            source_pixel_size=source,
            crs=image.crs,
            transform=transform,
            class_names=() if self.rule is None else self.model.class_names,
            class_colors=() if self.rule is None else self.model.class_colors,
            is_labels=self.task == "instances",
        )

    def describe(self) -> dict[str, Any]:
        """Everything that can change a value, as JSON; names, paths and times excluded."""
        image, tiling = self.image, self.tiling
        described: dict[str, Any] = {
            "format": FORMAT,
            "image": {
                **image.source.identity(),
                "channels": list(image.selected),
                "level": image.level,
                "shape": list(image.grid_shape),
                "dtype": str(image.dtype),
                "nodata": None if image.nodata is None else str(image.nodata),
                **({} if image.grid.is_level else {"step": [str(image.grid.y.step), str(image.grid.x.step)]}),
            },
            "model": {"sha256": self.model.model.digest, "device": self.model.model.device},
            "values": {
                "scale": self.model.values.scale_for(image.dtype),
                "mean": list(self.model.values.mean),
                "std": list(self.model.values.std),
                "activation": self.model.values.activation,
                "tta": self.model.values.augmentation,
                "normalize": self.model.values.normalize,
                "multiscale": [str(scale) for scale in self.model.values.multiscale],
            },
            "tiling": {
                "tile": list(tiling.tile_yx),
                "overlap": tiling.overlap,
                "margin": tiling.margin,
                "blend": tiling.blend,
                "border": tiling.border,
                # Named only where it was asked for: runs from before it was there keep their fingerprints.
                **({} if tiling.border_of == "image" else {"border_of": tiling.border_of}),
            },
            **self._stored(),
            "mask": self.mask,
            "block": list(self.block),
        }
        if self.selection is not None:
            described["selection"] = self.selection.describe()
        if self.batch_changes_bits:
            described["batch"] = self.batch
        return described

    def _stored(self) -> dict[str, Any]:
        """What of `describe` is about values that are stored."""
        if self.rule is not None:
            return {"output": self.rule.output, "dtype": str(self.rule.dtype)}
        assert self.finding is not None, "a plan for maps has a rule"
        boxes = {} if self.task == "instances" else {"boxes": str(self.model.boxes), "score": self.model.score}
        return {"task": self.task, "objects": {**self.finding.describe(), **boxes}}

    @property
    def fingerprint(self) -> str:
        """sha256 over `describe`: equal for runs that give the same bytes."""
        return fingerprint(self.describe())

    @property
    def tiles_inferred(self) -> int:
        """Tiles of all scales that go through the model, those at block edges counted as often as they do."""
        return self.share.inferred

    @property
    def overcompute(self) -> float:
        """Pixels inferred per pixel of the processing grid: halo times the ring at block edges; all scales together."""
        tile_y, tile_x = self.tiling.tile_yx
        height, width = self.image.grid_shape
        return self.tiles_inferred * tile_y * tile_x / (height * width)

    @property
    def disk_bytes(self) -> int:
        """Size of the result before compression, pyramid included; of blocks that are kept."""
        whole = sum(
            layout.shape[0] * layout.shape[1] * (layout.channels or 1) * layout.dtype.itemsize
            for layout in self.layouts
        )
        return int(whole * self.share.pixels)

    @property
    def eta_seconds(self) -> float:
        """Seconds in the model alone, from one trial call."""
        return self.tiles_inferred * self.trial.seconds_per_tile / self.memory.lanes

    def with_statistics(self, statistics: Normalisation) -> Plan:
        """The same plan, its pixels normalised by numbers that were measured on the whole image."""
        values = replace(self.model.values, statistics=statistics)
        return replace(self, model=replace(self.model, values=values))

    def with_block(self, block: tuple[int, int]) -> Plan:
        """The same plan on blocks that are given, by the user or by an existing result."""
        return replace(self, block=block, block_is_auto=False)

    def to_json(self) -> dict[str, Any]:
        """The plan as ``gigatile plan --json`` gives it."""
        return {
            "tiles": self.share.tiles,
            "blocks": self.blocks.count,
            "blocks_kept": int(self.kept_blocks.sum()),
            "tile": _one_or_both(self.tiling.tile_yx),
            "overlap": self.tiling.overlap,
            "margin": self.tiling.margin,
            "blend": self.tiling.blend,
            "exact": self.choice.exact,
            "overlap_from": self.choice.text,
            "block": _one_or_both(self.block),
            "chunk": _one_or_both(self.chunk),
            "batch": self.batch,
            "lanes": self.memory.lanes,
            "overcompute": self.overcompute,
            "tiles_inferred": self.tiles_inferred,
            "multiscale": [float(scale) for scale in self.model.values.multiscale],
            "memory": self.memory.to_json(),
            "decoded_ratio": self.memory.decoded_ratio,
            "disk_bytes": self.disk_bytes,
            "eta_seconds": self.eta_seconds,
            "fingerprint": self.fingerprint,
        }

    def __str__(self) -> str:
        from gigatile.plans.table import lines

        return "\n".join(f"{name:<12}{text}" for name, text in lines(self))


def fingerprint(described: Mapping[str, Any]) -> str:
    """sha256 of the canonical JSON of a description."""
    text = json.dumps(described, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def differences(stored: Mapping[str, Any], wanted: Mapping[str, Any], prefix: str = "") -> list[str]:
    """What differs between two descriptions, one line each: ``tiling.overlap: 64 before, 128 now``."""
    lines: list[str] = []
    for key in sorted({*stored, *wanted}):
        before, now = stored.get(key), wanted.get(key)
        if isinstance(before, Mapping) and isinstance(now, Mapping):
            lines += differences(before, now, f"{prefix}{key}.")
        elif before != now:
            lines.append(f"{prefix}{key}: {_short(before)} before, {_short(now)} now")
    return lines


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 24 else text[:12] + "..."


def _one_or_both(sides: tuple[int, int]) -> int | list[int]:
    return sides[0] if sides[0] == sides[1] else list(sides)
