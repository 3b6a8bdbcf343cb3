"""Runs of a thousand and of many more empty blocks, compared: memory, rate, start-up, resume.

::

    for each executor: a run of 1,000 blocks, and one of --blocks, each in a process of its own (scaling/child.py)
    a ledger in which all but a thousandth of the blocks are done ─▶ time until the first of the rest is handed out

Ends with 1 if a target is missed. Times are those of a busy machine if it is busy: the load is shown with them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from scripts.scaling.child import ROOT, WORKERS

FEW = 1_000
"""Blocks of the run that is compared with."""
MB = 10**6
MEMORY_MB, START_S, RESUME_S, RATE = 50, 5.0, 5.0, 1_000
"""Targets: client memory beyond that of the small run, seconds, and blocks a second."""


@dataclass(frozen=True, slots=True)
class Run:
    """What a child found out; see `scripts.scaling.child.measured_run`."""

    executor: str
    blocks: int
    found: dict[str, Any]

    @property
    def all_blocks(self) -> int:
        """Those of the pyramid included."""
        return sum(self.found["blocks"])

    @property
    def rate(self) -> float:
        """Blocks a second, from the first that was handed out to the end."""
        return float(self.all_blocks / self.found["work_s"])

    def memory_mb(self, who: str, when: str) -> float:
        """Of ``client`` or ``scheduler``: at the ``peak``, ``steady``; NaN if it is no process of its own."""
        return float(self.found["memory"].get(who, {}).get(when, float("nan")) / MB)


def child(folder: Path, blocks: int, *words: str) -> dict[str, Any]:
    """Start a process that measures, and wait for what it says; nothing where it only prepares a ledger."""
    command = [sys.executable, "-m", "scripts.scaling.child", str(folder / "run"), "--blocks", str(blocks), *words]
    ended = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(ended.stdout) if ended.stdout else {}
    return found


def measure(executor: str, engine: str, blocks: int, scratch: Path | None = None) -> Run:
    """A run from the first block to the last."""
    with tempfile.TemporaryDirectory(prefix="gigatile-scale-", dir=scratch) as folder:
        return Run(executor, blocks, child(Path(folder), blocks, "--executor", executor, "--engine", engine))


def measure_resume(blocks: int, left: int, scratch: Path | None = None) -> Run:
    """What it takes until the first of the blocks that are left is handed out."""
    with tempfile.TemporaryDirectory(prefix="gigatile-scale-", dir=scratch) as folder:
        how = ("--executor", "threads", "--engine", "real")
        child(Path(folder), blocks, *how, "--done", str(blocks - left))
        return Run("resume", blocks, child(Path(folder), blocks, *how, "--first-only"))


def table(runs: list[Run]) -> str:
    """One line a run; MB are millions of bytes."""
    lines = [
        f"{'executor':10}{'blocks':>10}{'+ pyramid':>11}{'plan s':>8}{'start s':>9}{'work s':>9}{'blocks/s':>10}"
        f"{'CPU s':>8}{'tasks':>8}{'client MB: peak':>17}{'steady':>8}{'scheduler MB: peak':>20}{'steady':>8}"
    ]
    for run in runs:
        found = run.found
        lines.append(
            f"{run.executor:10}{run.blocks:10,}{run.all_blocks - run.found['blocks'][0]:11,}{found['plan_s']:8.2f}"
            f"{found['start_s']:9.2f}{found['work_s']:9.1f}{run.rate:10,.0f}{found['cpu_s']:8.1f}{found['tasks']:8,}"
            f"{run.memory_mb('client', 'peak'):17.1f}{run.memory_mb('client', 'steady'):8.1f}"
            f"{run.memory_mb('scheduler', 'peak'):20.1f}{run.memory_mb('scheduler', 'steady'):8.1f}"
        )
    return "\n".join(lines).replace(" nan", "   -")


def judged(what: str, value: float, limit: float, unit: str, *, at_least: bool = False) -> tuple[str, bool]:
    """A target, and whether it was met."""
    met = value >= limit if at_least else value <= limit
    bound = f"{'at least' if at_least else 'at most'} {limit:,.0f} {unit}"
    return f"{'met   ' if met else 'MISSED'}  {what}: {value:,.{0 if at_least else 1}f} {unit} ({bound})", met


def targets(runs: list[Run], resumed: Run) -> list[tuple[str, bool]]:
    """What the figures say of the targets; `runs` are pairs of a small and a large one."""
    found = []
    for few, many in zip(runs[::2], runs[1::2], strict=True):
        name = many.executor
        for who in ("client", "scheduler"):
            grown = many.memory_mb(who, "peak") - few.memory_mb(who, "peak")
            if who in many.found["memory"]:
                both = "client-and-scheduler" if name == "processes" else who
                found.append(judged(f"{name}, {both} memory beyond {FEW:,} blocks", grown, MEMORY_MB, "MB"))
        found.append(judged(f"{name}, start-up", many.found["start_s"], START_S, "s"))
        found.append(judged(f"{name}, rate", many.rate, RATE, "blocks/s", at_least=True))
    cpu = resumed.found["begin_cpu_s"]
    what = f"resume of {resumed.blocks:,} blocks ({cpu:.1f} s of CPU)"
    return [*found, judged(what, resumed.found["start_s"], RESUME_S, "s")]


def main() -> int:
    """Measure, and say what was found."""
    parser = argparse.ArgumentParser(prog="scale", description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--blocks", type=int, default=1_000_000, help="of the prediction; its pyramid has a third more")
    parser.add_argument(
        "--executor",
        choices=("threads", "processes", "cluster"),
        action="append",
        help="may be repeated; all if not given. processes: a LocalCluster, whose scheduler is in the client; "
        "cluster: the same number of workers, and a scheduler in a process of its own",
    )
    parser.add_argument(
        "--engine",
        choices=("no-op", "real"),
        default="no-op",
        help="no-op: blocks are only recorded, so that client, queue, ledger and executor are measured; "
        "real: the engine reads and skips empty blocks",
    )
    parser.add_argument("--scratch", type=Path, help="folder for run directories; 0.5 GB for a million blocks")
    options = parser.parse_args()
    if not Path("/proc/self/status").exists():
        parser.error("needs /proc, where Linux says how much memory a process takes")
    names = ("gigatile", "numpy", "distributed", "msgspec")
    print(f"{options.blocks:,} blocks against {FEW:,}; engine {options.engine}; {WORKERS} lanes")
    print(f"Python {platform.python_version()}, {', '.join(f'{name} {version(name)}' for name in names)}")
    print(f"{os.cpu_count()} cores, load at the start {os.getloadavg()[0]:.1f}\n", flush=True)
    runs = [
        measure(executor, options.engine, blocks, options.scratch)
        for executor in options.executor or ("threads", "processes", "cluster")
        for blocks in (FEW, options.blocks)
    ]
    print(table(runs), flush=True)
    resumed = measure_resume(options.blocks, max(options.blocks // 1000, 1), options.scratch)
    print(f"\nload at the end {os.getloadavg()[0]:.1f}")
    judgements = targets(runs, resumed)
    print("\n".join(line for line, _ in judgements))
    return 0 if all(met for _, met in judgements) else 1


if __name__ == "__main__":
    sys.exit(main())
