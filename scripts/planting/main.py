"""Runs over a field of planted shapes: every object once, areas exact, one table from any workers, blocks and kills.

::

    first run ─▶ each row and some labels against what was planted ─▶ its table is what all other runs must write
    --workers, --blocks, --kills: more runs, each compared by the bytes of objects.parquet

Ends with 1 if anything is missing, twice, different, or over --memory (measured from outside).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from gigatile.machine import available_cores
from gigatile.units import parse_bytes
from scripts.planting.field import EMPTY_OF, PITCH, Field
from scripts.planting.truth import digest, label_problems, table_problems
from scripts.scaling.memory import peak_bytes

ROOT = Path(__file__).resolve().parents[2]
MIB = 2**20
EVERY_S = 0.05


@dataclass(frozen=True, slots=True)
class Ended:
    """What a run took."""

    seconds: float
    peak: int
    """Resident bytes, as the kernel counted them while it ran."""
    found: dict[str, Any]
    """What it said itself."""
    kills: int = 0


@dataclass(frozen=True, slots=True)
class How:
    """One run."""

    task: str
    workers: int
    block: int | None
    memory: str
    kills: int = 0

    def __str__(self) -> str:
        block = "automatic blocks" if self.block is None else f"blocks of about {self.block} px"
        kills = f", {self.kills} kills" if self.kills else ""
        return f"{self.task}, {self.workers} workers, {block}, {self.memory}{kills}"


def field_of(objects: int, seed: int) -> Field:
    """A square field with about so many shapes."""
    squares = objects * EMPTY_OF / (EMPTY_OF - 1)
    side = round(squares**0.5)
    return Field(-(-round(squares) // side), side, seed)


def run(field: Field, how: How, out: Path, seed: int) -> Ended:
    """Start a run, kill and repeat it as often as is asked for, and let the last one end."""
    words = ["--rows", field.rows, "--cols", field.cols, "--seed", field.seed]
    words += ["--task", how.task, "--workers", how.workers, "--memory", how.memory]
    words += [] if how.block is None else ["--block", how.block]
    command = [sys.executable, "-m", "scripts.planting.child", str(out), *map(str, words)]
    choose, begin, peak, killed = random.Random(seed), time.monotonic(), 0, 0
    while True:
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)
        # Every run may come a little further than the one before.
        end = time.monotonic() + 2 + choose.uniform(0, 4) * (killed + 1) if killed < how.kills else float("inf")
        while process.poll() is None:
            if time.monotonic() > end and out.exists():
                os.kill(process.pid, signal.SIGKILL)
                killed += 1
                break
            with suppress(OSError, LookupError):  # it may just have ended
                peak = max(peak, peak_bytes(process.pid))
            time.sleep(EVERY_S)
        text, _ = process.communicate()
        if process.returncode == -signal.SIGKILL:
            continue
        if process.returncode:
            raise RuntimeError(f"{how}: exit code {process.returncode}")
        return Ended(time.monotonic() - begin, peak, json.loads(text), killed)


def plays(asked: argparse.Namespace) -> Iterator[How]:
    """The runs of one task; the first is the one that is looked at."""
    workers, blocks = asked.workers, asked.blocks
    yield How(asked.task, workers[0], None, asked.memory)
    yield from (How(asked.task, count, None, asked.memory) for count in workers[1:])
    yield from (How(asked.task, workers[0], block, asked.memory) for block in blocks)
    if asked.kills:
        yield How(asked.task, workers[0], None, asked.memory, asked.kills)


def numbers(text: str) -> list[int]:
    """``1,2,3``; nothing of an empty word."""
    return [int(word) for word in text.split(",") if word]


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser("scripts/objects", description=__doc__)
    parser.add_argument("--objects", type=int, default=100_000, help="about how many are planted (100,000)")
    parser.add_argument("--task", choices=("detect", "instances"), default="instances")
    parser.add_argument("--workers", type=numbers, default=[2, 1, 3, 4], help="of each run (2,1,3,4)")
    parser.add_argument("--blocks", type=numbers, default=[960, 2880], help="sides of blocks of more runs (960,2880)")
    parser.add_argument("--kills", type=int, default=3, help="times that one more run is killed (3)")
    parser.add_argument("--memory", default="2GiB", help="budget of each run (2GiB)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--scratch", type=Path, help="where runs are written; a temporary folder if not given")
    return parser.parse_args(argv)


def main(argv: Sequence[str]) -> int:
    """Run, compare, and say whether all was well."""
    asked = parse(argv)
    field = field_of(asked.objects, asked.seed)
    budget = parse_bytes(asked.memory, "memory")
    height, width = field.shape

    def say(line: str) -> None:
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()

    packages = ", ".join(f"{name} {version(name)}" for name in ("gigatile", "numpy", "pyarrow", "shapely"))
    say(f"Python {platform.python_version()}, {packages}; {available_cores()} cores")
    planted = field.count()
    say(f"{planted:,} shapes planted in {height:,} x {width:,} px, squares of {PITCH} px; seed {asked.seed}")
    wrong, first = 0, ""
    with tempfile.TemporaryDirectory(prefix="gigatile-objects-", dir=asked.scratch) as folder:
        for number, how in enumerate(plays(asked)):
            out = Path(folder) / "run"
            ended = run(field, how, out, asked.seed + number)
            problems = [] if ended.peak <= budget else ["more than the budget"]
            table = digest(out / "objects.parquet")
            if not first:
                first = table
                problems += table_problems(field, out / "objects.parquet")
                problems += label_problems(field, out) if how.task == "instances" else []
            elif table != first:
                problems.append("another table")
            busy = ", ".join(f"{name} {seconds:.0f}" for name, seconds in ended.found["busy_s"].items())
            say(
                f"{how}: {ended.found['blocks']} blocks of {ended.found['block']} px, {ended.seconds:.0f} s "
                f"({planted / ended.seconds:,.0f} objects/s), peak {ended.peak / MIB:.0f} MiB of "
                f"{ended.found['projected'] / MIB:.0f} projected, busy s: {busy} | "
                + ("; ".join(problems) or ("every object once, as planted" if number == 0 else "same table"))
            )
            wrong += len(problems)
            shutil.rmtree(out)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
