"""Rounds of chaos: how many, of which kinds, and what came of them."""

from __future__ import annotations

import argparse
import os
import platform
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from scripts.havoc.damage import HARMS
from scripts.havoc.play import Result
from scripts.havoc.rounds import KILLS, Ring
from scripts.havoc.stage import set_up

SECONDS_A_TILE = 0.006
ENOUGH_WRONG = 5
"""Rounds, after which no more are played."""
Say = Callable[[str], None]


@dataclass(frozen=True)
class Request:
    """What is asked for."""

    kills: int
    faults: int
    seed: int
    executors: tuple[str, ...]
    keep: bool = False
    image: Path | None = None
    seconds_a_tile: float = SECONDS_A_TILE


def parse(argv: Sequence[str]) -> Request:
    """The command line."""
    parser = argparse.ArgumentParser("scripts/chaos", description=__doc__)
    parser.add_argument("--kills", type=int, default=20, help="processes that are killed in mid-run (20)")
    parser.add_argument("--faults", type=int, help="rounds of other faults (a fifth of the kills)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--executors", default=",".join(KILLS), help="of threads,processes,cluster")
    parser.add_argument("--image", type=Path, help="to run over (a slide of the test data, else noise)")
    parser.add_argument("--keep", action="store_true", help="keep all run directories, not only those that went wrong")
    found = parser.parse_args(argv)
    executors = tuple(found.executors.split(","))
    if unknown := set(executors) - KILLS.keys():
        parser.error(f"--executors: no {', '.join(sorted(unknown))}; there are {', '.join(KILLS)}")
    faults = found.kills // 5 if found.faults is None else found.faults
    return Request(found.kills, faults, found.seed, executors, found.keep, found.image)


def play(request: Request, folder: Path, say: Say) -> Iterator[Result]:
    """All rounds, one after the other; `say` gets a line about each."""
    stage = set_up(folder, request.seconds_a_tile, request.image)
    say(f"{stage.image.name}, {len(stage.blocks)} blocks with the pyramid's; undisturbed {stage.seconds:.1f} s")
    ring = Ring(stage, folder, request.executors, request.seed)
    wrong = 0
    try:
        for result in _rounds(ring, request, say):
            wrong += bool(result.problems)
            say(str(result))
            yield result
            if wrong == ENOUGH_WRONG:
                say(f"{ENOUGH_WRONG} rounds went wrong: that is enough")
                break
            if not request.keep and not result.problems:
                shutil.rmtree(folder / f"round-{result.number}", ignore_errors=True)
    finally:
        ring.close()


def _rounds(ring: Ring, request: Request, say: Say) -> Iterator[Result]:
    number = killed = 0
    while killed < request.kills:
        result = ring.kills(number, request.kills - killed)
        killed += len(result.blows)
        yield result
        number += 1
    faults = ["full disk", "short cut", *HARMS]
    # One that lasts: the run is patient for half a minute before it gives up.
    kinds = ["long cut"] if request.faults > len(faults) else []
    # Shifted by one each time round, so that every executor meets every fault.
    kinds += [faults[(index + index // len(faults)) % len(faults)] for index in range(request.faults - len(kinds))]
    for kind in kinds:
        try:
            yield _fault(ring, number, kind)
        except OSError as error:
            if kind != "full disk":
                raise
            say(f"{number:3d} skipped: {error}")
        number += 1


def _fault(ring: Ring, number: int, kind: str) -> Result:
    if kind == "full disk":
        return ring.full_disk(number)
    if kind in HARMS:
        return ring.harm(number, kind)
    return ring.cut_storage(number, long=kind == "long cut")


def table(results: Sequence[Result], seconds: float) -> str:
    """What happened, in figures."""
    named = [(result.executor, re.split(" at | of ", blow)[0]) for result in results for blow in result.blows]
    counts = Counter(named)
    executors = sorted({result.executor for result in results}, key=list(KILLS).index)
    lines = [f"{'':18s}" + "".join(f"{name:>11s}" for name in executors)]
    for what in sorted({what for _, what in counts}):
        lines.append(f"{what:18s}" + "".join(f"{counts[executor, what]:11d}" for executor in executors))
    kills = sum(count for (_, what), count in counts.items() if what.startswith("kill"))
    wrong = [result for result in results if result.problems]
    sums = {name: sum(getattr(r, name) for r in results) for name in ("lost", "twice", "in_flight", "poisoned", "late")}
    codes = Counter(str(code) for result in results for code in result.codes)
    return "\n".join(
        [
            *lines,
            "",
            f"rounds {len(results)}, kills {kills}, {sums['late']} blows too late; {seconds:.0f} s",
            f"exit codes {', '.join(f'{code}: {count}' for code, count in sorted(codes.items()))}",
            f"blocks in flight when it happened {sums['in_flight']}, begun again {sums['lost']}, "
            f"recorded twice {sums['twice']}, taken for poison and asked for again {sums['poisoned']}",
            f"rounds in which anything differs, is missing or is left over: {len(wrong)}",
        ]
    )


def main(argv: Sequence[str]) -> int:
    """Play, print, and say whether all was well."""
    request = parse(argv)
    # Processes of ours are in sessions of their own: whatever ends this one must end them.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    folder = Path(tempfile.mkdtemp(prefix="gigatile-chaos-"))
    # Probes of models are cached in a folder of this run, not in the user's.
    os.environ["GIGATILE_CACHE_DIR"] = str(folder / "cache")

    def say(line: str) -> None:
        sys.stdout.write(f"{line.replace(str(folder), '...')}\n")
        sys.stdout.flush()

    packages = ", ".join(f"{name} {version(name)}" for name in ("gigatile", "dask", "distributed", "zarr", "numpy"))
    say(f"seed {request.seed}, {request.kills} kills, {request.faults} rounds of other faults")
    say(f"Python {platform.python_version()}, {packages}")
    begin = time.monotonic()
    results: list[Result] = []
    try:
        for result in play(request, folder, say):
            results.append(result)  # kept one by one, should the next one raise
    finally:
        # Also of what there was, should the script itself fail.
        say("\n" + table(results, time.monotonic() - begin))
    wrong = any(result.problems for result in results)
    if request.keep or wrong:
        sys.stdout.write(f"kept in {folder}\n")
    else:
        shutil.rmtree(folder)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
