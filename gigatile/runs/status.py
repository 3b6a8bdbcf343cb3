"""How far a run is, from its directory alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

from gigatile.errors import RunRefused
from gigatile.ledger.lines import Grid
from gigatile.ledger.reader import LedgerReader
from gigatile.ledger.state import DONE, EMPTY, FAILED, LedgerState
from gigatile.outputs.omezarr import read_layouts
from gigatile.plans.stages import Stage, Task, stages_of
from gigatile.runs.directory import RunDirectory
from gigatile.tiling.tiling import Blocks
from gigatile.units import format_bytes, format_seconds, one_line

VISIBLE = 0.005
"""Share of class disagreements between neighbours from which on seams are reported as visible."""
CLASSES_SHOWN = 20
"""Of objects, in a line; all of them are in the JSON."""


@dataclass(frozen=True, slots=True)
class Status:
    """Counts and ratios over the records of a run; blocks are those of the prediction, not of its pyramid."""

    directory: str
    """A path or URL."""
    complete: bool
    total: int
    done: int
    empty: int
    failed: int
    tiles_inferred: int
    decoded_ratio: float | None
    """Source chunks decoded per chunk in the image; None before the first block."""
    overcompute: float | None
    """Pixels inferred per pixel of the processing grid in the finished blocks; None before the first block."""
    peak_rss_bytes: int
    """Largest resident memory of any process of the run."""
    seconds: Mapping[str, float]
    """Busy seconds by stage, all lanes together."""
    seam_score: float | None = None
    """Mean absolute difference between neighbouring tiles where both see a pixel; None where there is no such place and
    the run is not exact by the probe."""
    seam_disagreement: float | None = None
    """Share of those pixels at which their classes differ."""
    seam_pixels: int = 0
    """Pixels compared."""
    seam_map: tuple[tuple[float | None, ...], ...] | None = None
    """The score of each block, by row and column; None where nothing was compared, or for more than `LARGEST_MAP`."""
    filled: int = 0
    """Blocks in which something of the source could not be decoded and was filled."""
    objects: Mapping[str, Any] | None = None
    """How many there are in all (``total``), of each class (``per_class``), and larger than a tile can tell
    (``oversized``); None for maps, and before the end."""
    errors: tuple[str, ...] = ()
    """What went wrong, one paragraph a failed block, of the first 1,000 of all levels."""

    @property
    def pending(self) -> int:
        """Blocks without a record."""
        return self.total - self.done - self.empty - self.failed

    def to_json(self) -> dict[str, Any]:
        """As ``gigatile status --json`` gives it."""
        return {
            "complete": self.complete,
            "blocks": {
                "total": self.total,
                "done": self.done,
                "empty": self.empty,
                "failed": self.failed,
                "pending": self.pending,
            },
            "filled": self.filled,
            "tiles_inferred": self.tiles_inferred,
            "decoded_ratio": self.decoded_ratio,
            "overcompute": self.overcompute,
            "seam_score": self.seam_score,
            "seam_disagreement": self.seam_disagreement,
            "seam_pixels": self.seam_pixels,
            "seam_map": None if self.seam_map is None else [list(row) for row in self.seam_map],
            "peak_rss_bytes": self.peak_rss_bytes,
            "objects": None if self.objects is None else dict(self.objects),
            "seconds": dict(self.seconds),
            "errors": list(self.errors),
        }

    def __str__(self) -> str:
        state = "complete" if self.complete else "not complete"
        lines = [
            f"{self.directory}: {state}",
            f"blocks      {self.done} done, {self.empty} empty, {self.failed} failed, {self.pending} pending "
            f"of {self.total}",
        ]
        if self.overcompute is not None and self.decoded_ratio is not None:
            lines.append(
                f"work        {self.tiles_inferred} tiles inferred, overcompute {self.overcompute:.2f}, "
                f"each source chunk decoded {self.decoded_ratio:.2f} times"
            )
        if self.seam_score is not None and not self.seam_pixels:
            lines.append("seams       exact by the probe: outside their margins no two tiles see the same pixel")
        elif self.seam_score is not None:
            lines.append(
                f"seams       neighbouring tiles differ by {self.seam_score:.2g} on average, "
                f"and in class at {100 * (self.seam_disagreement or 0):.2g} % of the pixels that both see"
            )
            if (self.seam_disagreement or 0) > VISIBLE:
                lines.append(
                    "            That can be seen. `gigatile probe MODEL` tells the overlap that the model needs; "
                    "leave --overlap and --margin out to use it."
                )
        lines += objects_lines(self.objects)
        busy = ", ".join(f"{name} {format_seconds(value)}" for name, value in self.seconds.items())
        if busy:
            lines.append(f"busy        {busy}")
        if self.peak_rss_bytes:
            lines.append(f"memory      {format_bytes(self.peak_rss_bytes)} at the peak of one process")
        if self.filled:
            lines.append(
                f"filled      {self.filled} blocks have pixels that the source could not give; the ledger says which"
            )
        lines += [f"failed      {error}" for error in self.errors[:5]]
        if max(self.failed, len(self.errors)) > 5:
            lines.append(f"            and {max(self.failed, len(self.errors)) - 5} more; the ledger has them all")
        if self.errors:
            lines.append("            Mend the cause, then repeat the command with --retry-failed.")
        return "\n".join(lines)


def _class_text(name: str) -> str:
    """A class as people read it; those without a name are known by their number."""
    return f"of class {name}" if name.isdecimal() else one_line(name)


def objects_lines(objects: Mapping[str, Any] | None) -> list[str]:
    """How many objects there are, as text; nothing where none were looked for."""
    if objects is None:
        return []
    known = [f"{count:,} {_class_text(name)}" for name, count in objects["per_class"].items()]
    more = len(known) - CLASSES_SHOWN
    classes = ", ".join(known[:CLASSES_SHOWN]) + (f", and {more:,} more classes" if more > 0 else "")
    lines = [f"objects     {objects['total']:,}{f': {classes}' if classes else ''}"]
    if objects["oversized"]:
        lines.append(
            f"            {objects['oversized']:,} of them are larger than the overlap of two tiles, and may be cut: "
            "enlarge --overlap, and --tile with it."
        )
    return lines


def status(directory: str | PathLike[str]) -> Status:
    """Read the status of a run directory; a path, or the URL of one in a bucket.

    Memory bound
    ------------
    See `LedgerState`: 17 bytes a block.

    Raises
    ------
    RunRefused
        There is no run in it.
    """
    run = RunDirectory.at(directory, durable=False)
    document = existing_run(run)
    state = LedgerReader(run.ledger, grids_of(run, document)).scan()
    tile = document["plan"]["tiling"]["tile"]
    layout = document["layout"]
    exact = document["summary"]["exact"]
    # A run.json of old has no image_shape: its result has the pixels of the processing grid, or is told as if.
    tile_px = tile_pixels((tile[0], tile[1]), layout["shape"], layout.get("image_shape", layout["shape"]))
    counted = totals(state, tile_px, layout["source_units"], exact=exact)
    sums = counted["totals"]
    return Status(
        directory=run.name,
        # A run.json may be older than what happened to the ledger since.
        complete=document["complete"] and state.count(DONE) + state.count(EMPTY) == state.blocks.count,
        total=layout["blocks"],
        done=sums["done"],
        empty=sums["empty"],
        failed=sums["failed"],
        tiles_inferred=sums["tiles_inferred"],
        decoded_ratio=counted["decoded_ratio"],
        overcompute=counted["overcompute"],
        peak_rss_bytes=sums["peak_rss_bytes"],
        seconds=sums["seconds"],
        seam_score=counted["seam_score"],
        seam_disagreement=counted["seam_disagreement"],
        seam_pixels=counted["seam_pixels"],
        seam_map=seam_map(state, (layout["grid"][0], layout["grid"][1])),
        filled=sums["filled"],
        objects=document.get("objects"),
        errors=tuple(state.errors().values()),
    )


def existing_run(run: RunDirectory) -> dict[str, Any]:
    """The run.json of a directory that must have one."""
    document = run.read()
    if document is None:
        raise RunRefused(run.name, expected="the directory of a run", found="no run.json", fix="Check the path.")
    return document


def grids_of(run: RunDirectory, document: dict[str, Any]) -> tuple[Grid, ...]:
    """Rows and columns of blocks of each stage."""
    stored = document["layout"].get("grids")
    if stored is None:
        return tuple(stage.grid for stage in stored_stages(run, document))
    return tuple((rows, cols) for rows, cols in stored)


def stored_stages(run: RunDirectory, document: dict[str, Any]) -> tuple[Stage, ...]:
    """What a run did or is to do, by its directory.

    Parameters
    ----------
    run : RunDirectory
    document : dict
        Its ``run.json``.
    """
    task: Task = document["plan"].get("task", "segment")
    layouts = () if task == "detect" else read_layouts(run.prediction)
    shape = layouts[0].shape if layouts else tuple(document["layout"]["shape"])
    height, width = document["layout"]["block"]
    return stages_of(task, Blocks((shape[0], shape[1]), (height, width)), layouts)


def seam_map(state: LedgerState, grid: Grid) -> tuple[tuple[float | None, ...], ...] | None:
    """Mean difference between neighbouring tiles in each block of the prediction; None in its place where nothing was
    compared, and None altogether for more than `LARGEST_MAP` blocks."""
    seams = state.seams()
    if seams is None:
        return None
    flat = [difference / pixels if pixels else None for difference, pixels in seams.reshape(2, -1).T.tolist()]
    return tuple(tuple(flat[row * grid[1] : (row + 1) * grid[1]]) for row in range(grid[0]))


def tile_pixels(tile: tuple[int, int], result: Sequence[int], image: Sequence[int]) -> float:
    """Pixels of a tile, in pixels of the result.

    Parameters
    ----------
    tile : (int, int)
        Height and width of a tile.
    result, image : sequence of two int
        Height and width of the result and of the processing grid: a model may give finer or coarser pixels.
    """
    return tile[0] * tile[1] * (result[0] * result[1]) / (image[0] * image[1])


def totals(state: LedgerState, tile_px: float, source_units: int, *, exact: bool) -> dict[str, Any]:
    """Sums over the records of the prediction; `tile_px` as `tile_pixels` gives it.

    Where the margins of an exact run leave no pixel to two tiles there is nothing to compare: the score is then 0,
    by the probe's measure, and ``seam_pixels`` says that nothing was compared.
    """
    sums = state.totals
    done, empty = state.count(DONE, 0), state.count(EMPTY, 0)
    compared, finished = sums.seam_pixels, done + empty
    nothing = 0.0 if exact and finished else None
    return {
        "totals": {
            "done": done,
            "empty": empty,
            "failed": state.count(FAILED, 0),
            "filled": sums.filled,
            "tiles_inferred": sums.tiles,
            "tiles_skipped": sums.skipped,
            "units_decoded": sums.units_decoded,
            "stored_bytes": state.stored_bytes(),
            "peak_rss_bytes": state.peak_rss_bytes,
            "seconds": dict(sums.seconds),
        },
        "decoded_ratio": sums.units_decoded / source_units if finished else None,
        "seam_score": sums.seam_difference / compared if compared else nothing,
        "seam_disagreement": sums.seam_disagreements / compared if compared else nothing,
        "seam_pixels": compared,
        "overcompute": sums.tiles * tile_px / sums.pixels if sums.pixels else None,
    }
