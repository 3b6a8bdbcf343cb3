"""Peak memory, projected part by part, and the lanes and the cache that fit a budget.

::

    process ─┬─ base: interpreter, libraries, model weights
             ├─ cache of decoded chunks, and those being decoded
             └─ lanes x ( bands read ahead + batch + model + strips + finished rows )
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gigatile.images.footprint import continuing_bytes
from gigatile.images.image import IN_FLIGHT_BYTES, Image
from gigatile.images.info import Level
from gigatile.images.resample import SLAB_BYTES
from gigatile.machine import available_cores
from gigatile.models.warmup import Trial
from gigatile.outputs.rule import OutputRule
from gigatile.plans.finding import Finding, Instances
from gigatile.plans.reads import source_reads
from gigatile.plans.scales import ScaledPass, lane_bytes, useful_cache
from gigatile.selections.selection import STRIP_PX, Selection
from gigatile.tiling.axis import Axis
from gigatile.tiling.tiling import Blocks, Grid
from gigatile.units import format_bytes

MIB = 2**20
LIBRARIES_BYTES = 48 * MIB
"""What a run loads on top of what planning has loaded: codecs, threads and their allocator arenas."""
WORKER_BYTES = 230 * MIB
"""A fresh worker process with dask, distributed, zarr and onnxruntime loaded, before it has done anything."""
PX_A_BOX, BOX_BYTES = 256, 400
"""At least so many pixels a candidate, and bytes for each while they are merged: crowds of pictures have one in 300."""
LABEL_BYTES = 96
"""For each pixel of a window while it is labelled (distances, flows), numbered, compared and measured."""
PX_A_LABEL, LABEL_ROW_BYTES = 100, 1000
"""At least so many pixels an object, and bytes for each, with its outline."""
GROUP_BYTES = {False: 44 * MIB, True: 132 * MIB}
"""Of a row group of 65,536 objects while it is gathered and encoded: boxes, instances. Over the first group, resident
memory went from 167 to 213 MiB for boxes and from 227 to 322 for instances 16 px apart, whose outlines are short."""
PIECE_BYTES = {False: 5 * MIB, True: 10 * MIB}
"""Of the sorted rows of one block while all are merged: its file, and two pieces of 4,096 rows, decoded. Inferred: with
18 instead of 9 blocks side by side, 4 instead of 1 million instances, the peak of a whole run was 186 MiB higher."""
FREED = 1 / 3
"""Share of what finding took that merging finds free again: 268 MiB had gone down to 214 as it began, 135 of them the
base."""
SLACK = 0.08
"""Share of the parts that an allocator may hold beyond what was asked of it."""


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Where the memory goes at its peak."""

    budget_bytes: int
    parts: Mapping[str, int] = field(default_factory=dict)
    """Bytes by purpose, all lanes and processes together."""
    lanes: int = 1
    """Blocks worked on at the same time, in one process or in as many as there are workers."""
    processes: int = 0
    """Worker processes beside this one; 0: lanes are threads of this process."""
    cache_bytes: int = 0
    """Budget of the decoded-chunk cache of each process."""
    scale_cache_bytes: tuple[int, ...] = ()
    """The same for each scale beside 1, which reads for itself."""
    shares: int = 1
    """Into how many parts what is not the process itself is divided, so that as many images may be worked on."""
    decoded_ratio: float = 1.0
    """How often a source chunk is decoded, on average, with that cache and blocks in order."""

    @property
    def projected_bytes(self) -> int:
        """The peak."""
        return sum(self.parts.values())

    @property
    def fits(self) -> bool:
        """Whether the peak lies within the budget."""
        return self.projected_bytes <= self.budget_bytes

    def to_json(self) -> dict[str, Any]:
        """As in ``gigatile plan --json``."""
        return {
            "budget_bytes": self.budget_bytes,
            "projected_bytes": self.projected_bytes,
            "parts": dict(self.parts),
        }

    def lines(self) -> list[tuple[str, str]]:
        """The table that a plan prints."""
        where = f"{self.processes} processes" if self.processes else "one process"
        head = (
            f"{format_bytes(self.projected_bytes)} at the peak of {format_bytes(self.budget_bytes)}, "
            f"{self.lanes} lanes in {where}"
        )
        worst = max(self.parts, key=lambda name: self.parts[name])
        rows = [
            ("", f"{format_bytes(size):>10}  {name}{'   <- the largest' if name == worst else ''}")
            for name, size in self.parts.items()
        ]
        return [("memory", head), *rows]


@dataclass(frozen=True, slots=True)
class Demand:
    """The figures that memory follows from; everything but the number of lanes and the cache."""

    image: Image
    grid: Grid
    block: tuple[int, int]
    chunk_height: int
    rule: OutputRule | None
    trial: Trial
    batch: int
    base_bytes: int
    """Resident memory of this process once the model is loaded."""
    passes: tuple[ScaledPass, ...] = ()
    """The scales beside 1."""
    finding: Finding | None = None
    """What is done with objects."""
    selection: Selection | None = None
    """What is kept."""
    beyond: int = 0
    """Pixels that may be read beyond the tiles, to continue a footprint."""
    upload_bytes: int = 0
    """What the writer of a shard holds, where the result goes into a bucket."""

    def lane_parts(self) -> dict[str, int]:
        """Bytes that each lane holds at its peak."""
        grid, (tile_y, tile_x) = self.grid, (self.grid.y.tile, self.grid.x.tile)
        width = min(self.block[1] + 2 * self._around, grid.x.length)
        height = min(self.block[0] + 2 * self._around, grid.y.length)
        tiles = -(-(width + 2 * grid.x.reach) // grid.x.stride) + 1
        band_px = tile_y * (min(tiles, grid.x.count) * grid.x.step + 2 * grid.x.halo)
        read = len(self.image.selected) + (self.image.info.alpha is not None)
        # Comparing with nodata makes a bool for each stored value, and its combination.
        checks = band_px * (read + 2) if self.image.has_validity else 0
        band = band_px * read * self.image.dtype.itemsize
        footprint = continuing_bytes(self.image, (tile_y, band_px // tile_y), self.beyond, self.image.dtype.itemsize)
        support = min(grid.y.stride + 2 * grid.y.reach, height)
        source = self.image.grid
        # Rows of the file as float64, and the weights of its columns.
        width_read = band_px // tile_y + 2 * self.beyond
        row = width_read * (read * 8 * (int(source.y.step) + 2) + 32) * (int(source.x.step) + 2)
        rows = min(support + self.chunk_height, height)
        k, item = self.trial.channels_out, max(self.trial.dtype.itemsize, 4)
        shared_x, shared_y = 2 * grid.x.reach, 2 * grid.y.reach
        tile_px, output = tile_y * tile_x, grid.y.output
        predicted_px = output.of_tile(tile_y) * output.of_tile(tile_x)
        return {
            # One band in use, one waiting, one being read; folding one at the border takes two copies more.
            "bands read ahead": 5 * band + checks,
            **({"the footprint's edge": footprint} if footprint else {}),
            "batch": 2 * self.batch * len(self.image.selected) * tile_px * 4,
            "model": self.batch * (self.trial.bytes_per_tile + 2 * k * predicted_px * item),
            # What overlaps is held four times more: two steps of the mean, and the comparison of neighbours.
            "blending": k * item * (support * width + rows * width + 4 * support * shared_x + 4 * shared_y * width),
            "finished rows": self._finished_bytes(rows * width) + (height * width if self.image.has_validity else 0),
            **({} if self.finding is None else {"objects": self._objects_bytes()}),
            **({} if source.is_level else {"averaging": 4 * max(SLAB_BYTES, row)}),
            # The mask of a block, one that it is combined with, and pieces while it is made.
            **({} if self.selection is None else {"selection": 2 * height * width + 32 * STRIP_PX}),
            **({"uploads": self.upload_bytes} if self.upload_bytes else {}),
        }

    @property
    def _around(self) -> int:
        """Pixels around a block that are predicted for it, too."""
        method = self.finding.method if isinstance(self.finding, Instances) else None
        return 0 if method is None else method.context_px

    def _finished_bytes(self, pixels: int) -> int:
        """Rows of the result, on their way to the writer."""
        if self.rule is None:
            return 0
        k, classes = self.trial.channels_out, self.rule.output == "classes"
        stored = pixels * self.rule.dtype.itemsize * (1 if classes else k)
        return 3 * stored + pixels * (k * 12 if self.rule.dtype.itemsize == 1 and not classes else 9)

    def _objects_bytes(self) -> int:
        """What is made of the model's answers for one block."""
        pixels = self.block[0] * self.block[1]
        if not isinstance(self.finding, Instances):
            return pixels // PX_A_BOX * BOX_BYTES
        cells = self.finding.cells(self.grid)
        side_y, side_x = (min(s + 2 * cells.context, n) for s, n in zip(cells.side, self.grid.shape, strict=True))
        width = min(self.block[1] + 2 * cells.context, self.grid.x.length)
        channels = len(self.image.selected)
        # Of a row of cells the maps twice, for the concatenation; of a window what a method works with; labels, stored.
        held = 0 if self.finding.method is None else 2 * side_y * width * self.trial.channels_out * 4
        window = side_y * side_x * (LABEL_BYTES + 16 * channels + 4 * self.trial.channels_out)
        return held + window + pixels // PX_A_LABEL * LABEL_ROW_BYTES + max(pixels // 8, 4 * pixels // 50)

    def _merging_bytes(self) -> int:
        """What the one block takes that merges all: sorted rows of two rows of blocks, and a row group of the table."""
        if self.finding is None:
            return 0
        instances = isinstance(self.finding, Instances)
        across = -(-self.grid.x.length // self.block[1])
        return GROUP_BYTES[instances] + 2 * across * PIECE_BYTES[instances]

    def fitted(self, budget_bytes: int, lanes: int, processes: int = 0) -> MemoryPlan:
        """Lanes as wanted, and as much cache as is useful and left."""
        in_one = 1 if processes else lanes
        cores = available_cores()
        decoding = 0
        for level in (self.image.level, *(scaled.level for scaled in self.passes)):
            unit = self.image.unit_bytes(level)
            decoding += in_one * min(2 * cores * unit, max(IN_FLIGHT_BYTES, unit)) + 2 * cores * unit
        parts = {"base": WORKER_BYTES if processes else self.base_bytes + LIBRARIES_BYTES}
        parts["chunks being decoded"] = decoding
        if self.image.info.reader_bytes:
            parts["the reader's own cache"] = self.image.info.reader_bytes
        if self.selection is not None:
            parts["base"] += self.selection.nbytes
        parts |= {name: in_one * size for name, size in self.lane_parts().items()}
        if self.passes:
            parts["other scales"] = in_one * self._scales_bytes()
        found = sum(size for name, size in parts.items() if name != "base")
        merging = max(self._merging_bytes() - int(FREED * found), 0)
        parts["allocator slack"] = int(SLACK * sum(parts.values()))
        if processes:
            # All workers and the process that hands out blocks.
            parts = {name: processes * size for name, size in parts.items()}
            parts["client"] = self.base_bytes + LIBRARIES_BYTES
        if merging:
            # By one process, once nothing is found any more.
            parts["merging of objects"] = merging
        least, enough = self._useful_cache(in_one)
        wanted = [useful_cache(scaled, self.image, self._blocks, in_one) for scaled in self.passes]
        left = (budget_bytes - sum(parts.values())) // max(processes, 1) - sum(low for low, _ in wanted)
        cache = max(least, min(enough, left))
        left -= cache
        others = []
        for low, high in wanted:
            others.append(low + max(min(high - low, left), 0))
            left -= others[-1] - low
        parts["decoded chunks"] = (cache + sum(others)) * max(processes, 1)
        ratio = self._decoded_ratio(cache, least, enough)
        return MemoryPlan(budget_bytes, parts, lanes, processes, cache, tuple(others), decoded_ratio=ratio)

    @property
    def _blocks(self) -> Blocks:
        return Blocks(self.grid.shape, self.block)

    def _scales_bytes(self) -> int:
        return sum(lane_bytes(scaled, self.image, self._blocks, self.trial, self.batch) for scaled in self.passes)

    def _useful_cache(self, lanes: int) -> tuple[int, int]:
        """Bytes below which bands of one block are decoded again, and beyond which more cache is of no use."""
        level, grid = self.image.levels[self.image.level], self.grid
        unit_y = max(b - a for a, b in zip(level.edges_y, level.edges_y[1:], strict=False))
        unit_x = max(b - a for a, b in zip(level.edges_x, level.edges_x[1:], strict=False))
        deep = len(self.image.info.channels) * self.image.info.dtype.itemsize
        y, x = float(self.image.grid.y.step), float(self.image.grid.x.step)
        more = 2 * self.beyond
        shared = (2 * grid.y.halo + more) * y + 2 * unit_y
        across = min((self.block[1] + 2 * grid.x.halo + more) * x + 2 * unit_x, level.shape[1] + unit_x)
        least = lanes * across * shared * deep
        # What a row of blocks shares with the next one, what a block shares with its right neighbour, and what each
        # lane is reading; the cache evicts down to nine tenths.
        shared_y, shared_x = _shared_px(grid.y) + more, _shared_px(grid.x) + more
        below, beside = shared_y * y + 2 * unit_y, shared_x * x + 2 * unit_x
        tall = min((self.block[0] + shared_y) * y + 2 * unit_y, level.shape[0] + unit_y)
        band = (grid.y.tile + more) * y + 2 * unit_y
        held = (level.shape[1] + unit_x) * below + lanes * (beside * tall + across * band)
        return int(least), int(held * deep / 0.9)

    def _decoded_ratio(self, cache: int, least: int, enough: int) -> float:
        """1 with enough cache, what follows if blocks share nothing with the least, and in proportion between."""
        if cache >= enough:
            return 1.0
        level, blocks = self.image.levels[self.image.level], self._blocks
        rows, cols = blocks.grid
        reads = source_reads(self.grid, self.image.grid, self.beyond)
        reads_y = [reads.y.reads(blocks.region(i, 0).y0, blocks.region(i, 0).y1) for i in range(rows)]
        reads_x = [reads.x.reads(blocks.region(0, j).x0, blocks.region(0, j).x1) for j in range(cols)]
        decoded = _touched(level, reads_y, 0) * _touched(level, reads_x, 1)
        alone = float(decoded / level.unit_count)
        return 1 + (alone - 1) * (enough - cache) / (enough - least)


def _shared_px(axis: Axis) -> int:
    """Pixels that two neighbouring blocks both read: halos, and the ring of tiles that both infer for a blend."""
    return 2 * (axis.halo + -(-axis.reach // axis.stride) * axis.stride)


def _touched(level: Level, reads: list[tuple[int, int]], axis: int) -> int:
    """Units along one axis that the reads touch, counted once a read."""
    count = 0
    for start, stop in reads:
        box = (start, stop, 0, 1) if axis == 0 else (0, 1, start, stop)
        count += len(level.units(*box))
    return count
