"""Damaged images, one after the other: each must read, or give a clear error that names the file and the place.

::

    seed image ─copy▶ damage (seeded) ─▶ child: open, info, windows of every level ─▶ ok | error | FAIL

FAIL is an exception that is not gigatile's, an error that does not say where, a dead process, a shortage of memory,
or no answer in time. Such files are kept with their number; `--only NUMBER` makes and reads one again.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import platform
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue
from random import Random
from typing import Any

from scripts.fuzzing import mutate, reading
from scripts.fuzzing.reading import Outcome
from scripts.fuzzing.seeds import Seed, make_seeds, real_seeds

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("GIGATILE_TEST_DATA") or ROOT.parent / "shared" / "data")
TIME_LIMIT_S = 10.0
MEMORY_LIMIT_BYTES = 2 << 30
_PATIENCE_S = 2.0
_PRELOAD = ["tifffile", "zarr", "imagecodecs", "gigatile.images.open", "gigatile.images.tiff", "gigatile.images.zarr"]


@dataclass(frozen=True, slots=True)
class Limits:
    """What one image may cost."""

    seconds: float = TIME_LIMIT_S
    memory_bytes: int = MEMORY_LIMIT_BYTES


@dataclass(frozen=True, slots=True)
class Case:
    """One damaged image, and how it ended."""

    number: int
    family: str
    source: str
    way: str
    what: str
    outcome: Outcome


class Child:
    """A process that reads images one by one; a new one takes its place when it dies or does not answer."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(_PRELOAD)
        self._process: Any = None
        self._pipe: Connection | None = None

    def outcome(self, path: Path) -> Outcome:
        """What came of an image."""
        if self._pipe is None:
            self._start()
        assert self._pipe is not None
        self._pipe.send(str(path))
        try:
            if self._pipe.poll(self._limits.seconds):
                answer: Outcome = self._pipe.recv()
                return answer
            found = f"no answer in {self._limits.seconds:g} s"
            self._process.kill()
        except (EOFError, ConnectionError):
            self._process.join()
            found = f"the process died (exit code {self._process.exitcode})"
        self.close()
        return Outcome("FAIL", found)

    def _start(self) -> None:
        self._pipe, theirs = self._context.Pipe()
        self._process = self._context.Process(target=reading.serve, args=(theirs, self._limits.memory_bytes))
        self._process.start()
        theirs.close()

    def close(self) -> None:
        """End the process: it goes when nobody asks any more, or is killed."""
        if self._pipe is not None:
            self._pipe.close()
            self._process.join(_PATIENCE_S)
            self._process.kill()
            self._process.join()
            self._pipe = None


@contextmanager
def children(count: int, limits: Limits) -> Iterator[SimpleQueue[Child]]:
    """Idle children."""
    made = [Child(limits) for _ in range(count)]
    idle: SimpleQueue[Child] = SimpleQueue()
    for child in made:
        idle.put(child)
    try:
        yield idle
    finally:
        for child in made:
            child.close()


def choose(seeds: Sequence[Seed], seed: int, number: int) -> tuple[Seed, Random]:
    """The image of a case, families in turns, and its randomness: a function of both numbers and the seeds alone."""
    families = sorted({s.family for s in seeds})
    family = families[number % len(families)]
    rng = Random(f"{seed}:{number}")
    return rng.choice([s for s in seeds if s.family == family]), rng


def damage(chosen: Seed, rng: Random, folder: Path) -> tuple[Path, str, str]:
    """A damaged copy in a folder; its path, the way it was damaged, and what was done."""
    path = folder / chosen.path.name
    if chosen.path.is_dir():
        shutil.copytree(chosen.path, path, copy_function=shutil.copyfile)
        for sub in (path, *(p for p in path.rglob("*") if p.is_dir())):
            sub.chmod(0o755)
    else:
        shutil.copyfile(chosen.path, path)
    return path, *mutate.mutate(path, rng)


def fuzz(seeds: Sequence[Seed], numbers: Sequence[int], seed: int, keep: Path, limits: Limits) -> list[Case]:
    """Damage and read; the files of failures are kept, each in a folder named by its number."""
    workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

    def one(number: int) -> Case:
        chosen, rng = choose(seeds, seed, number)
        folder = Path(scratch, str(number))
        folder.mkdir()
        path, way, what = damage(chosen, rng, folder)
        child = idle.get()
        try:
            outcome = child.outcome(path)
        finally:
            idle.put(child)
        if outcome.kind == "FAIL":
            shutil.copytree(folder, keep / f"{seed}-{number}", dirs_exist_ok=True)
        shutil.rmtree(folder)
        return Case(number, chosen.family, chosen.path.name, way, what, outcome)

    with (
        tempfile.TemporaryDirectory(prefix="gigatile-fuzz-") as scratch,
        children(workers, limits) as idle,
        ThreadPoolExecutor(workers) as pool,
    ):
        return list(pool.map(one, numbers))


def tally(cases: Sequence[Case], title: str, keys: Sequence[str]) -> str:
    """Outcomes by a key, as a table."""
    counts = Counter((key, case.outcome.kind) for key, case in zip(keys, cases, strict=True))
    lines = [f"{title:<20} {'ok':>6} {'error':>6} {'FAIL':>6}"]
    for key in sorted(set(keys)):
        lines.append(f"{key:<20} " + " ".join(f"{counts[key, kind]:>6}" for kind in ("ok", "error", "FAIL")))
    return "\n".join(lines)


def report(cases: Sequence[Case], seed: int, seconds: float) -> str:
    """What the log holds."""
    packages = ("gigatile", "tifffile", "imagecodecs", "zarr", "numcodecs", "numpy")
    counts = Counter(case.outcome.kind for case in cases)
    head = [
        f"{len(cases)} damaged images, seed {seed}: {counts['ok']} read, {counts['error']} clear errors, "
        f"{counts['FAIL']} failures; {seconds:.0f} s",
        f"Python {platform.python_version()}, " + ", ".join(f"{name} {version(name)}" for name in packages),
    ]
    tables = [
        tally(cases, "family", [case.family for case in cases]),
        tally(cases, "damage", [case.way for case in cases]),
    ]
    failed = [
        f"{case.number:>6} {case.source}: {case.way} ({case.what})\n       {case.outcome.text}"
        for case in cases
        if case.outcome.kind == "FAIL"
    ]
    return "\n\n".join(["\n".join(head), *tables, *failed]) + "\n"


def main(argv: Sequence[str]) -> int:
    """Run; 1 where something failed."""
    parser = argparse.ArgumentParser(prog="scripts/fuzz", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--count", type=int, default=1000, help="images to damage (default 1000)")
    parser.add_argument("--seed", type=int, default=1, help="of the randomness (default 1)")
    parser.add_argument("--only", type=int, metavar="NUMBER", help="make and read one case, and keep its file")
    parser.add_argument("--keep", type=Path, default=Path("fuzz-failures"), help="folder for files that fail")
    parser.add_argument("--log", type=Path, help="write the report here as well")
    arguments = parser.parse_args(argv)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="gigatile-seeds-") as folder:
        real = real_seeds(DATA)
        if not real:
            sys.stderr.write(f"no real images in {DATA} (GIGATILE_TEST_DATA names the folder): made ones only\n")
        seeds = [*make_seeds(Path(folder)), *real]
        numbers = range(arguments.count)
        if arguments.only is not None:
            numbers = range(arguments.only, arguments.only + 1)
            chosen, rng = choose(seeds, arguments.seed, arguments.only)
            target = arguments.keep / f"{arguments.seed}-{arguments.only}"
            shutil.rmtree(target, ignore_errors=True)
            target.mkdir(parents=True)
            sys.stdout.write(f"{damage(chosen, rng, target)}\n")
        cases = fuzz(seeds, numbers, arguments.seed, arguments.keep, Limits())
    text = report(cases, arguments.seed, time.monotonic() - started)
    if arguments.only is not None:
        text += f"\n{cases[0].outcome}\n"
    sys.stdout.write(text)
    if arguments.log is not None:
        arguments.log.write_text(text)
    return 1 if any(case.outcome.kind == "FAIL" for case in cases) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
