"""Connected components of an image of any size, as labels in an OME-Zarr.

::

    pass 1   read ─▶ label ─▶ faces of each block ─▶ joined in order     nothing is written
             numbers: of all components, by the order of their first pixels
    pass 2   read ─▶ label again ─▶ numbers ─▶ one shard a block         labelling again is cheaper than storing
    pyramid  nearest

Two passes after H. Samet, "Connected component labeling using quadtrees", J. ACM 28(3), 1981, and M. B. Dillencourt et
al., "A general approach to connected-component labeling for arbitrary image representations", J. ACM 39(2), 1992: what
crosses a face is joined before numbers are given.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

from gigatile.errors import UsageError
from gigatile.exports.label_input import LabelInput, open_input
from gigatile.exports.label_plan import LabelPlan, load_libraries, plan_label
from gigatile.exports.target import new_folder, target_path
from gigatile.machine import available_bytes, working
from gigatile.objects.connected import Border, Classes, Rule, Sides, border, components
from gigatile.objects.numbering import Numbering, final_numbers
from gigatile.outputs.omezarr import canonical_json, create_result, mark_complete
from gigatile.outputs.pyramid import downsample_shard
from gigatile.outputs.shard import ShardWriter
from gigatile.storage.open import open_store
from gigatile.storage.store import Store
from gigatile.units import parse_bytes

T = TypeVar("T")
R = TypeVar("R")
MARK = "label"
"""Key among our attributes by which a later command knows what it may replace."""


class Progress(NamedTuple):
    """How far it is."""

    stage: Literal["plan", "join", "write", "pyramid"]
    done: int
    """Blocks of the stage."""
    total: int
    plan: LabelPlan


@dataclass(frozen=True, slots=True)
class Labelled:
    """What became of it."""

    path: Path
    """The OME-Zarr; its level 0 is the array ``0``: uint32, 0 is background."""
    count: int
    """Components; their numbers are 1 to `count`, in the order of their first pixels."""
    projected_bytes: int
    """The peak of memory that was planned."""


def label(
    array: Any,
    out: str | Path,
    *,
    connectivity: int = 4,
    classes: Classes = "joined",
    memory: str | int | None = None,
    workers: int | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Labelled:
    """Label the connected components of a mask or class map of any size, as `scipy.ndimage.label` would.

    Pixels that are not 0 are foreground; NaN and what the input declares as nodata are not. Numbers do not depend on
    blocks. The result appears whole at the end, replacing an earlier one of this function, and nothing else.

    Parameters
    ----------
    array : str, Path, numpy or dask array, or Image
        A Zarr array or OME-Zarr image (level 0), a run directory, another image of one channel, or an array (y, x);
        axes of length 1 do not count. It is read twice.
    out : str or Path
        The OME-Zarr to write; of this machine.
    connectivity : {4, 8}
        Whether pixels are neighbours that share a side, or also those that share a corner.
    classes : {"joined", "apart"}
        Whether pixels of different values may be one component, or only those of equal values.
    memory : str or int, optional
        Peak resident memory of the process, such as ``"1GiB"``; half of what there is if not given.
    workers : int, optional
        Most blocks at the same time; as many as there are cores if not given.
    progress : callable, optional
        Gets a `Progress` when the plan is made and after each block.

    Memory bound
    ------------
    The `LabelPlan`: a block a worker, and the faces of all blocks.

    Raises
    ------
    UsageError
        Another connectivity, no workers, an input that is no mask, or more components than uint32 can number.
    MemoryRefused
        The memory does not hold the smallest blocks with the largest number of components that they can have.
    RunRefused
        `out` is something else, or written by another process at this moment.
    BlockError, StorageError
        The input cannot be read, or the result not written.
    """
    rule = Rule(connectivity, classes)
    budget = parse_bytes(memory, "memory") if memory is not None else available_bytes() // 2
    path = target_path(str(out))
    source = open_input(array)
    if source.path is not None and path.is_relative_to(source.path):
        raise UsageError(str(path), expected="a place beside the input", found="one inside it", fix="Choose another.")
    load_libraries(rule)
    with working(), new_folder(path, _is_labels) as folder:
        work = _Work(source, plan_label(source, rule, budget, workers), open_store(folder), progress)
        return Labelled(path, work.do(), work.plan.projected_bytes)


class _Work:
    """One labelling under way."""

    def __init__(
        self, source: LabelInput, plan: LabelPlan, store: Store, progress: Callable[[Progress], None] | None
    ) -> None:
        self.plan = plan
        self._source, self._store, self._progress = source, store, progress
        source.image.cache.budget_bytes = plan.cache_bytes
        self._numbers = Numbering(plan.grid, plan.rule)

    def do(self) -> int:
        """All of it; returns how many components there are."""
        plan = self.plan
        self._tell("plan", 0, 1)
        blocks = [(row, col) for row in range(plan.layouts[0].grid[0]) for col in range(plan.layouts[0].grid[1])]
        with ThreadPoolExecutor(plan.lanes, "gigatile-label") as pool:
            for done, found in enumerate(_in_order(pool, self._border, blocks, plan.lanes), 1):
                self._numbers.add(found)
                self._tell("join", done, len(blocks))
            count = self._numbers.finish()
            self._describe(count)
            for done, _ in enumerate(_in_order(pool, self._write, blocks, plan.lanes), 1):
                self._tell("write", done, len(blocks))
            for level, layout in enumerate(plan.layouts[1:], 1):
                places = [(level, row, col) for row in range(layout.grid[0]) for col in range(layout.grid[1])]
                for done, _ in enumerate(_in_order(pool, self._reduce, places, plan.lanes), 1):
                    self._tell("pyramid", done, len(places))
        mark_complete(self._store)
        return count

    def _border(self, place: tuple[int, int]) -> Border:
        values, beyond = self._read(place)
        return border(components(values, self.plan.rule, beyond), values, self.plan.rule)

    def _write(self, place: tuple[int, int]) -> None:
        values, beyond = self._read(place)
        found = components(values, self.plan.rule, beyond)
        del values
        numbers = final_numbers(found, self._numbers.of(*place), f"{self._source.image.info.path}, block {place}")
        layout = self.plan.layouts[0]
        with ShardWriter(self._store, f"0/{layout.shard_key(*place)}", layout, found.labels.shape) as writer:
            for y0 in range(0, found.labels.shape[0], layout.chunk[0]):
                writer.write(numbers[found.labels[y0 : y0 + layout.chunk[0]]])
            writer.finish()

    def _reduce(self, place: tuple[int, int, int]) -> None:
        downsample_shard(self._store, self.plan.layouts, *place, method="nearest")

    def _read(self, place: tuple[int, int]) -> tuple[Any, Sides]:
        (row, col), (rows, cols) = place, self.plan.grid.count
        values = self._source.read(self.plan.layouts[0].region(row, col), self.plan.rule)
        return values, Sides(row > 0, row < rows - 1, col > 0, col < cols - 1)

    def _describe(self, count: int) -> None:
        """Metadata, by which a later command knows the result again."""
        create_result(self._store, self.plan.layouts, self._source.about)
        document = json.loads(self._store.read("zarr.json") or b"")
        rule = self.plan.rule
        document["attributes"]["gigatile"][MARK] = {
            "connectivity": rule.connectivity,
            "classes": rule.classes,
            "count": count,
        }
        self._store.write("zarr.json", canonical_json(document))

    def _tell(self, stage: Literal["plan", "join", "write", "pyramid"], done: int, total: int) -> None:
        if self._progress is not None:
            self._progress(Progress(stage, done, total, self.plan))


def _in_order(pool: ThreadPoolExecutor, work: Callable[[T], R], items: Iterable[T], lanes: int) -> Iterator[R]:
    """Results in the order of the items, two a lane under way; what is not begun is dropped when this is left."""
    waiting: deque[Future[R]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) >= 2 * lanes:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def _is_labels(path: Path) -> bool:
    """Whether an earlier call wrote it."""
    try:
        document = json.loads((path / "zarr.json").read_bytes())
        return isinstance(document["attributes"]["gigatile"][MARK], dict)
    except (OSError, ValueError, KeyError, TypeError):
        return False
