"""How far a cohort is, and whether everything it wrote is unharmed: from its summary and the ledgers of its images."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from gigatile.cohorts.rows import STATES, ImageRow, is_complete, totals
from gigatile.cohorts.summary import JSON, Summary, ledger_bytes
from gigatile.errors import RunRefused
from gigatile.storage.store import Store
from gigatile.units import format_bytes, format_seconds

if TYPE_CHECKING:
    from gigatile.runs.verify import Report

T = TypeVar("T")
SHOWN = 20
"""Images that are not complete that a table names; the summary has all of them."""
_REQUESTS = 16
"""To a bucket at the same time."""


@dataclass(frozen=True, slots=True)
class CohortStatus:
    """Sums over the images of a cohort; ratios are means, weighted by pixels."""

    directory: str
    rows: tuple[ImageRow, ...]

    @property
    def complete(self) -> bool:
        """Whether every image is."""
        return is_complete(self.rows)

    @property
    def peak_rss_bytes(self) -> int:
        """Largest resident memory of any process."""
        return max((row.peak_rss_bytes for row in self.rows), default=0)

    @property
    def stages(self) -> dict[str, float]:
        """Busy seconds by stage, all lanes together."""
        seconds: defaultdict[str, float] = defaultdict(float)
        for row in self.rows:
            for name, value in row.stages.items():
                seconds[name] += value
        return {name: round(value, 4) for name, value in seconds.items()}

    def to_json(self) -> dict[str, Any]:
        """As ``gigatile status --json`` gives it: the keys of one image's status, and those of the cohort."""
        sums = totals(self.rows)
        return {
            "complete": self.complete,
            "blocks": sums["blocks"],
            "filled": sums["filled"],
            "tiles_inferred": sums["tiles_inferred"],
            "decoded_ratio": self._mean("decoded_ratio", "pixels"),
            "overcompute": self._mean("overcompute", "pixels"),
            "seam_score": self._mean("seam_score", "seam_pixels"),
            "seam_disagreement": self._mean("seam_disagreement", "seam_pixels"),
            "seam_pixels": sum(row.seam_pixels for row in self.rows),
            "seam_map": None,
            "peak_rss_bytes": self.peak_rss_bytes,
            "objects": sums["objects"],
            "seconds": self.stages,
            "errors": [f"{row.name}: {row.error}" for row in self.rows if row.error],
            "states": sums["images"],
            "pixels": sums["pixels"],
            "images": [row.to_json() for row in self.rows],
        }

    def __str__(self) -> str:
        sums = totals(self.rows)
        states, blocks = sums["images"], sums["blocks"]
        lines = [
            f"{self.directory}: {'complete' if self.complete else 'not complete'}",
            f"images      {', '.join(f'{states[state]} {state}' for state in STATES)} of {states['total']}",
            f"blocks      {blocks['done']} done, {blocks['empty']} empty, {blocks['failed']} failed, "
            f"{blocks['pending']} pending of {blocks['total']}",
        ]
        ratios = self._mean("overcompute", "pixels"), self._mean("decoded_ratio", "pixels")
        if ratios[0] is not None and ratios[1] is not None:
            lines.append(
                f"work        {sums['tiles_inferred']} tiles inferred, overcompute {ratios[0]:.2f}, "
                f"each source chunk decoded {ratios[1]:.2f} times"
            )
        from gigatile.runs.status import objects_lines

        lines += objects_lines(sums["objects"])
        busy = ", ".join(f"{name} {format_seconds(value)}" for name, value in self.stages.items())
        lines += [f"busy        {busy}"] if busy else []
        if self.peak_rss_bytes:
            lines.append(f"memory      {format_bytes(self.peak_rss_bytes)} at the peak of one process")
        if sums["filled"]:
            lines.append(f"filled      {sums['filled']} blocks have pixels that the source could not give")
        return "\n".join([*lines, *self._incomplete()])

    def _incomplete(self) -> list[str]:
        """Images that are not complete: those that need somebody first."""
        order = {state: index for index, state in enumerate(("failed", "refused", "partial", "pending"))}
        rows = sorted((row for row in self.rows if row.state != "complete"), key=lambda row: order[row.state])
        lines = [f"{row.state:<11} {row.name} ({row.image}){_reason(row)}" for row in rows[:SHOWN]]
        if len(rows) > SHOWN:
            lines.append(f"            and {len(rows) - SHOWN} more; summary.csv has them all")
        if any(row.blocks.failed for row in rows):
            lines.append("            Mend the cause, then repeat the command with --retry-failed.")
        return lines

    def _mean(self, value: str, weight: str) -> float | None:
        """Of what rows say, weighted; where no weight is, every row counts the same."""
        said = [(getattr(row, value), getattr(row, weight)) for row in self.rows if getattr(row, value) is not None]
        if not said:
            return None
        whole = sum(weight for _, weight in said)
        if not whole:
            return float(sum(value for value, _ in said) / len(said))
        return float(sum(value * weight for value, weight in said) / whole)


@dataclass(frozen=True, slots=True)
class CohortReport:
    """What was checked in each image that has begun, and what is wrong."""

    directory: str
    complete: bool
    """Whether all images are, with nothing wrong."""
    reports: tuple[tuple[str, Report | str], ...]
    """By name; a text where not even its run could be read."""

    @property
    def checked(self) -> int:
        """Shards that were read and decoded."""
        return sum(0 if isinstance(report, str) else report.checked for _, report in self.reports)

    @property
    def count(self) -> int:
        """Problems, those that are not told one by one among them."""
        return sum(_count(report) for _, report in self.reports)

    @property
    def problems(self) -> tuple[str, ...]:
        """What is wrong, with the name of the image before it."""
        return tuple(f"{name}: {problem}" for name, report in self.reports for problem in _problems(report))

    def to_json(self) -> dict[str, Any]:
        """As ``gigatile verify --json`` gives it."""
        return {
            "ok": not self.count,
            "complete": self.complete,
            "shards_checked": self.checked,
            "problem_count": self.count,
            "problems": list(self.problems),
            "images": [
                {
                    "name": name,
                    "ok": not _count(report),
                    "complete": not isinstance(report, str) and report.complete,
                    "shards_checked": 0 if isinstance(report, str) else report.checked,
                    "problems": list(_problems(report)),
                }
                for name, report in self.reports
            ],
        }

    def __str__(self) -> str:
        checked = f"{self.checked} shards of {len(self.reports)} images"
        if not self.count:
            state = "complete" if self.complete else "not complete yet, but unharmed"
            return f"{self.directory}: {checked} checked, nothing wrong; {state}"
        lines = [f"{self.directory}: {self.count} problems in {checked}", *self.problems]
        return "\n".join([*lines, "Repeat the command of the run: damaged blocks are done again."])


def cohort_status(store: Store) -> CohortStatus:
    """Read how far a cohort is, also while it runs.

    The summary tells of images whose ledgers are as large as when it was written; of the others the ledgers do.

    Memory bound: one row an image, and the state of one ledger (of sixteen on a bucket).

    Raises
    ------
    RunRefused
        There is no cohort in the directory.
    """
    rows = _existing(store)
    return CohortStatus(store.name, tuple(_each(store, rows, lambda row: _as_of_now(store, row))))


def cohort_verify(store: Store) -> CohortReport:
    """Verify every image that has begun; damaged blocks are recorded as such, and the next run does them again.

    Memory bound: that of one image's `verify`, and the problems.

    Raises
    ------
    RunRefused
        There is no cohort in the directory.
    StorageError
        It cannot be read.
    """
    rows = _existing(store)
    found = ((row.name, _verified(store, row)) for row in rows)
    reports = tuple((name, report) for name, report in found if report is not None)
    complete = is_complete(rows) and not any(_count(report) for _, report in reports)
    return CohortReport(store.name, complete, reports)


def _existing(store: Store) -> tuple[ImageRow, ...]:
    rows = Summary.open(store).rows
    if not rows:
        raise RunRefused(store.name, expected="the directory of a cohort", found=f"no {JSON}", fix="Check the path.")
    return rows


def _each(store: Store, rows: Sequence[ImageRow], look: Callable[[ImageRow], T]) -> Iterable[T]:
    if store.local is not None:
        return map(look, rows)
    with ThreadPoolExecutor(_REQUESTS) as pool:
        return list(pool.map(look, rows))


def _as_of_now(store: Store, row: ImageRow) -> ImageRow:
    size = ledger_bytes(store, row.name)
    if size == row.ledger_bytes:
        return row
    if store.size(f"{row.name}/run.json") is None:
        lost = f"{store.where(f'{row.name}/run.json')} is missing, so what is there counts for nothing."
        return replace(row, state="partial", error=lost)
    from gigatile.runs.status import status

    known = row.with_status(status(store.where(row.name)), size)
    # Why this command could not go on with it is in no ledger.
    return replace(known, state=row.state, error=row.error) if row.state == "refused" else known


def _verified(store: Store, row: ImageRow) -> Report | str | None:
    """None where nothing has begun, so that nothing can be damaged."""
    from gigatile.runs.verify import verify

    if store.size(f"{row.name}/run.json") is None:
        return f"{store.where(f'{row.name}/run.json')}: missing" if row.blocks.done + row.blocks.empty else None
    try:
        return verify(store.where(row.name))
    except RunRefused as error:
        return str(error)


def _count(report: Report | str) -> int:
    return 1 if isinstance(report, str) else report.count


def _problems(report: Report | str) -> tuple[str, ...]:
    return (report,) if isinstance(report, str) else report.problems


def _reason(row: ImageRow) -> str:
    if row.error:
        return f": {row.error}"
    if row.state != "partial":
        return ""
    if row.blocks.pending:
        return f": {row.blocks.pending} of {row.blocks.total} blocks are pending"
    return ": its pyramid is not finished"
