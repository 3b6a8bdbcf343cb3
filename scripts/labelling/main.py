"""Label a planted mask in a process whose peak is measured, and compare: ``scripts/label_scale --help``."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import gigatile as gt
from gigatile.cli.label import Lines
from gigatile.images.image import Image
from gigatile.units import format_bytes, format_seconds, parse_bytes
from scripts.labelling.planted import PERIOD, UNIT, PlantedMask
from scripts.scaling.memory import peak_bytes

WINDOWS = 60


def main() -> None:
    """Label, measure, compare."""
    parser = argparse.ArgumentParser(description="Label a planted mask larger than memory.")
    parser.add_argument("--side", type=int, default=100_000, help="height and width in pixels")
    parser.add_argument("--memory", default="1GiB", help="peak resident memory of the process")
    parser.add_argument("--connectivity", type=int, choices=(4, 8), default=4)
    parser.add_argument("--folder", type=Path, help="where the labels lie for the time being")
    options = parser.parse_args()
    mask = PlantedMask(options.side)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        began, used = time.monotonic(), time.process_time()
        out, memory = Path(folder) / "labels.zarr", parse_bytes(options.memory)
        found = gt.label(Image(mask), out, connectivity=options.connectivity, memory=memory, progress=Lines())
        took, used, peak = time.monotonic() - began, time.process_time() - used, peak_bytes()
        stored = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
        problems = list(compared(mask, out, found.count))
    say(f"{options.side:,} x {options.side:,} px, connectivity {options.connectivity}: {found.count:,} components")
    say(f"planted: {mask.count:,}")
    say(f"took {format_seconds(took)} ({options.side**2 / took / 1e6:.1f} Mpx/s), {format_seconds(used)} of processors")
    say(f"peak {format_bytes(peak)}, planned {format_bytes(found.projected_bytes)}, allowed {format_bytes(memory)}")
    say(f"labels and pyramid: {format_bytes(stored)}")
    if found.count != mask.count:
        problems.append(f"{found.count - mask.count:+,} components")
    if not peak <= found.projected_bytes <= memory:
        problems.append("more memory than planned")
    say("; ".join(problems) or f"as planted; labels looked at in {WINDOWS} windows: right")
    sys.exit(1 if problems else 0)


def compared(mask: PlantedMask, out: Path, count: int) -> list[str]:
    """What is wrong in windows of the labels: foreground, one number a disc, one for the comb, numbers in order."""
    image, labels = Image(mask), gt.open(out)
    rng, problems, comb = np.random.default_rng(0), [], set()
    for _ in range(WINDOWS):
        row, col = rng.integers(0, mask.side // PERIOD + 1, 2) * PERIOD
        window = gt.Region(
            *(max(0, place - UNIT // 2) for place in (row, col)),
            *(min(mask.side, place + UNIT // 2) for place in (row, col)),
        )
        planted, found = image.read(window)[0] != 0, labels.read(window)[0]
        if not np.array_equal(planted, found != 0):
            problems.append(f"other foreground at {window}")
        y, x = np.ogrid[window.y0 : window.y1, window.x0 : window.x1]
        disc = np.unique(found[(y - row) ** 2 + (x - col) ** 2 <= 100**2])
        if len(disc) != 1:
            problems.append(f"a disc of {len(disc)} numbers at {row}, {col}")
        teeth = found[:, (np.arange(window.x0, window.x1) + PERIOD // 2) % PERIOD == 0]
        comb |= set(np.unique(teeth).tolist())
        if found.max() > count:
            problems.append(f"the number {found.max()} at {window}")
    if len(comb) != 1:
        problems.append(f"a comb of {len(comb)} numbers")
    return problems


def say(text: str) -> None:
    """A line of the log."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
