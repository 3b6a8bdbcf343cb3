"""The steps of a run, each done block by block and recorded in the ledger.

::

    segment    predict ──────────────────────▶ pyramid 1 ──▶ pyramid 2 ...
    detect     find ──▶ merge
    instances  find ──▶ merge ──▶ labels ────▶ pyramid 1 ──▶ pyramid 2 ...

A block of a stage leaves its *artifact*: objects of the run directory whose bytes its record knows.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from gigatile.events import IMAGE_PHASES, Phase
from gigatile.outputs.layout import ArrayLayout
from gigatile.tiling.region import Region
from gigatile.tiling.tiling import Blocks

Task = Literal["segment", "detect", "instances"]
PREDICTION, PARTS, OBJECTS = "prediction.zarr", "parts", "objects.parquet"
NUMBERED = f"{PARTS}/numbered"
"""Is there when the labels of all parts have their final numbers beside them."""
IDS = "ids/ids.parquet"
"""Those numbers: working and final ids of the labels of a block, uint64 (2, n), in its folder."""

_NUMBER = "(0|[1-9][0-9]{0,9})"
_SHARD = re.compile(f"{_NUMBER}/{_NUMBER}").fullmatch
_PART = re.compile(f"{_NUMBER}/{_NUMBER}/[a-z]+\\.parquet").fullmatch


@dataclass(frozen=True, slots=True)
class Stage:
    """One step of a run."""

    kind: Phase
    blocks: Blocks
    layout: ArrayLayout | None = None
    """The array that it fills; None: it leaves tables."""
    level: int = 0
    """Of that array in the pyramid."""

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of blocks."""
        return self.blocks.grid

    def region(self, row: int, col: int) -> Region:
        """Pixels of one block, on its level."""
        return self.blocks.region(row, col)

    @property
    def reads_image(self) -> bool:
        """Whether its blocks read the source."""
        return self.kind in IMAGE_PHASES

    @property
    def prefix(self) -> str:
        """What the keys of its artifacts begin with; below the run directory."""
        if self.kind == "merge":
            return OBJECTS
        if self.layout is None:
            return f"{PARTS}/"
        return f"{PREDICTION}/{self.level}/{self.layout.shard_key(0, 0).removesuffix('0/0')}"

    def key(self, row: int, col: int) -> str:
        """The object that a block writes; of several the folder, with a slash at its end."""
        if self.kind == "merge":
            return OBJECTS
        return f"{self.prefix}{row}/{col}" if self.layout is not None else f"{self.prefix}{row}/{col}/"

    def place(self, key: str) -> tuple[int, int] | None:
        """Row and column of the block that an object of the run directory belongs to; None: of none of this stage."""
        if self.kind == "merge":
            return (0, 0) if key == OBJECTS else None
        numbers = (
            (_PART if self.layout is None else _SHARD)(key, len(self.prefix)) if key.startswith(self.prefix) else None
        )
        if numbers is None:
            return None
        row, col = int(numbers[1]), int(numbers[2])
        return (row, col) if row < self.grid[0] and col < self.grid[1] else None


def stages_of(task: Task, blocks: Blocks, layouts: tuple[ArrayLayout, ...]) -> tuple[Stage, ...]:
    """What a task does, in order.

    Parameters
    ----------
    task : {"segment", "detect", "instances"}
    blocks : Blocks
        Of the result.
    layouts : tuple of ArrayLayout
        The levels of its array, finest first; none for detections.
    """
    pyramid = [Stage("pyramid", _shards(layout), layout, level) for level, layout in enumerate(layouts) if level]
    if task == "segment":
        return Stage("predict", blocks, layouts[0]), *pyramid
    whole = Blocks(blocks.shape, blocks.shape)
    tables = Stage("find", blocks), Stage("merge", whole)
    return tables if task == "detect" else (*tables, Stage("labels", blocks, layouts[0]), *pyramid)


def _shards(layout: ArrayLayout) -> Blocks:
    return Blocks(layout.shape, layout.shard)
