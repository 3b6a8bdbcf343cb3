"""How far a run is, from its directory alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from gigatile.errors import RunRefused
from gigatile.runs.directory import RunDirectory
from gigatile.runs.ledger import Ledger, LedgerState
from gigatile.units import format_bytes, format_seconds

VISIBLE = 0.005
"""Share of class disagreements between neighbours from which on seams are reported as visible."""


LARGEST_MAP = 10_000
"""Blocks up to which the seam score of each is shown as a map; the ledger has all of them."""


@dataclass(frozen=True, slots=True)
class Status:
    """Counts and ratios over the records of a run; blocks are those of the prediction, not of its pyramid."""

    directory: Path
    complete: bool
    total: int
    done: int
    empty: int
    failed: int
    tiles_inferred: int
    decoded_ratio: float | None
    """Source chunks decoded per chunk in the image; None before the first block."""
    overcompute: float | None
    """Pixels inferred per pixel of the finished blocks; None before the first block."""
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
    errors: tuple[str, ...] = ()
    """What went wrong, one paragraph a failed block."""

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
            "tiles_inferred": self.tiles_inferred,
            "decoded_ratio": self.decoded_ratio,
            "overcompute": self.overcompute,
            "seam_score": self.seam_score,
            "seam_disagreement": self.seam_disagreement,
            "seam_pixels": self.seam_pixels,
            "seam_map": None if self.seam_map is None else [list(row) for row in self.seam_map],
            "peak_rss_bytes": self.peak_rss_bytes,
            "objects": None,
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
        busy = ", ".join(f"{name} {format_seconds(value)}" for name, value in self.seconds.items())
        if busy:
            lines.append(f"busy        {busy}")
        if self.peak_rss_bytes:
            lines.append(f"memory      {format_bytes(self.peak_rss_bytes)} at the peak of one process")
        lines += [f"failed      {error}" for error in self.errors[:5]]
        if len(self.errors) > 5:
            lines.append(f"            and {len(self.errors) - 5} more; the ledger has them all")
        if self.failed:
            lines.append("            Mend the cause, then repeat the command with --retry-failed.")
        return "\n".join(lines)


def status(directory: str | PathLike[str]) -> Status:
    """Read the status of a run directory.

    Raises
    ------
    RunRefused
        There is no run in it.
    """
    run = RunDirectory(Path(directory))
    document = existing_run(run)
    state = Ledger(run.ledger, durable=False).read()
    tile = document["plan"]["tiling"]["tile"]
    layout = document["layout"]
    exact = document["summary"]["exact"]
    counted = totals(state, (tile[0], tile[1]), layout["source_units"], exact=exact)
    sums = counted["totals"]
    return Status(
        directory=run.path,
        # A run.json may be older than what happened to the ledger since.
        complete=document["complete"] and sums["done"] + sums["empty"] == layout["blocks"],
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
        errors=tuple(record.error for record in state.records() if record.status == "failed"),
    )


def existing_run(run: RunDirectory) -> dict[str, Any]:
    """The run.json of a directory that must have one."""
    document = run.read() if run.path.exists() else None
    if document is None:
        raise RunRefused(str(run.path), expected="the directory of a run", found="no run.json", fix="Check the path.")
    return document


def seam_map(state: LedgerState, grid: tuple[int, int]) -> tuple[tuple[float | None, ...], ...] | None:
    """Mean difference between neighbouring tiles in each block; None in its place where nothing was compared."""
    rows, cols = grid
    if rows * cols > LARGEST_MAP:
        return None
    scores: list[list[float | None]] = [[None] * cols for _ in range(rows)]
    for record in state.records(level=0):
        if record.seam_pixels:
            scores[record.block.row][record.block.col] = record.seam_difference / record.seam_pixels
    return tuple(tuple(row) for row in scores)


def totals(state: LedgerState, tile: tuple[int, int], source_units: int, *, exact: bool) -> dict[str, Any]:
    """Sums over the records of the prediction.

    Where the margins of an exact run leave no pixel to two tiles there is nothing to compare: the score is then 0,
    by the probe's measure, and ``seam_pixels`` says that nothing was compared.
    """
    sums: dict[str, Any] = {"done": 0, "empty": 0, "failed": 0}
    seconds: dict[str, float] = {}
    compared = disagreements = 0
    difference = 0.0
    pixels = tiles = skipped = units = stored = peak = 0
    for record in state.records():
        peak = max(peak, record.peak_rss_bytes)
        for name, value in record.seconds.items():
            seconds[name] = round(seconds.get(name, 0.0) + value, 4)
        stored += record.nbytes
        if record.block.level:
            continue
        sums[record.status] += 1
        tiles, skipped, units = tiles + record.tiles, skipped + record.skipped, units + record.units_decoded
        pixels += record.pixels if record.status != "failed" else 0
        compared += record.seam_pixels
        difference += record.seam_difference
        disagreements += record.seam_disagreements
    finished = sums["done"] + sums["empty"]
    return {
        "totals": {
            **sums,
            "tiles_inferred": tiles,
            "tiles_skipped": skipped,
            "units_decoded": units,
            "stored_bytes": stored,
            "peak_rss_bytes": peak,
            "seconds": seconds,
        },
        "decoded_ratio": units / source_units if finished else None,
        "seam_score": difference / compared if compared else (0.0 if exact and finished else None),
        "seam_disagreement": disagreements / compared if compared else (0.0 if exact and finished else None),
        "seam_pixels": compared,
        "overcompute": tiles * tile[0] * tile[1] / pixels if pixels else None,
    }
