"""gigatile against the bare parts: the model alone, the codec alone, and the run, in turns on the same pixels.

::

    round 1:  model | codec | run      efficiency = (model + codec) / run, of the medians
    round 2:  model | codec | run      1.0: the run costs no more than its parts one after the other;
    ...                                above 1.0: it hides one behind the other

What counts as what, so that nobody has to guess:

- model: onnxruntime, one session, one thread a call, a call per core at a time, no spinning; the tiles that the
  plan infers (those at block edges twice, as there), cut and converted before the clock starts.
- codec: every tile of the source read and decoded by tifffile, every chunk of the result encoded by Blosc and
  each shard written and synced, a thread per core; no arrays are put together, no pyramid is made.
- run: ``gigatile.run`` on a fresh directory with a plan that is ready; includes the pyramid and the ledger.

The machine's other work changes figures: that is why the three take turns, why spreads are printed, and why the
efficiency of the quickest turns stands beside that of the medians. The cpu share is the same ratio in processor
seconds, which other work disturbs least: what is missing to 1 is work that the bare parts do not do.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import onnxruntime
import tifffile
import zarr

import gigatile as gt
from gigatile.cli.demo_slide import write_slide

REPO = Path(__file__).resolve().parents[2]
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
GROUP = 96
"""Tiles prepared at a time: enough that waiting for the last one of a group does not matter."""


class Stopwatch:
    """Adds up wall seconds, and the processor seconds of all threads, of the stretches it is held around."""

    def __init__(self) -> None:
        self.wall = self.cpu = 0.0

    def __enter__(self) -> Stopwatch:
        self._started = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *error: object) -> None:
        self.wall += time.perf_counter() - self._started[0]
        self.cpu += time.process_time() - self._started[1]


@dataclass(frozen=True)
class Case:
    """A model and how the slide is cut for it."""

    name: str
    model: Path
    tiling: gt.Tiling
    channels: tuple[int, ...]
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()


def cases() -> Iterator[Case]:
    """The demo's model, and a real U-Net where the test data has it."""
    demo = REPO / "pipelines" / "he-nuclei" / "model.onnx"
    yield Case("he-nuclei", demo, gt.Tiling(tile=544, overlap=32, blend="trim"), (0, 1, 2))
    data = Path(os.environ.get("GIGATILE_TEST_DATA") or REPO.parent / "shared" / "data")
    unet = data / "models" / "unet2d_nuclei_broad_dynamic.onnx"
    if unet.exists():
        # Receptive radius 56, measured; sides a multiple of 8.
        tiling = gt.Tiling(tile=624, overlap=112, blend="trim")
        yield Case("unet2d_nuclei_broad", unet, tiling, (0,), (0.7,), (0.2,))


def model_alone(plan: Any, case: Case, pixels: np.ndarray) -> Stopwatch:
    """Time in the model for all tiles of the plan. `pixels`: (c, y, x) uint8, the whole image."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(str(case.model), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    mean = np.array(case.mean or (0,), np.float32)[:, None, None]
    std = np.array(case.std or (1,), np.float32)[:, None, None]
    wanted = list(_tiles(plan))
    if len(wanted) != plan.tiles_inferred:
        raise SystemExit(f"the plan infers {plan.tiles_inferred} tiles, this script {len(wanted)}: mend it")
    watch = Stopwatch()
    with ThreadPoolExecutor(CORES) as pool:
        for group in _groups(wanted):
            tiles = [
                ((_reflected(pixels, *tile) * np.float32(1 / 255) - mean) / std)[None].astype(np.float32)
                for tile in group
            ]
            with watch:
                for _ in pool.map(lambda tile: session.run(None, {name: tile}), tiles):
                    pass
    return watch


def _tiles(plan: Any) -> Iterator[tuple[int, int, int, int]]:
    """y, x, height, width of what is read for each tile, block by block."""
    (height, width), (block_y, block_x) = plan.image.grid_shape, plan.block
    (tile_y, tile_x), halo = plan.tiling.tile_yx, plan.tiling.overlap // 2
    stride_y, stride_x = tile_y - 2 * halo, tile_x - 2 * halo
    for by in range(0, height, block_y):
        for bx in range(0, width, block_x):
            for y in range(by, min(by + block_y, height), stride_y):
                for x in range(bx, min(bx + block_x, width), stride_x):
                    yield y - halo, x - halo, tile_y, tile_x


def _groups(tiles: list[Any]) -> Iterator[list[Any]]:
    for start in range(0, len(tiles), GROUP):
        yield tiles[start : start + GROUP]


def _reflected(pixels: np.ndarray, y: int, x: int, height: int, width: int) -> np.ndarray:
    """A window that may hang over the image, as float32 (c, y, x)."""
    rows, cols = (
        np.abs((np.arange(start, start + size) + n - 1) % (2 * n - 2) - (n - 1))
        for start, size, n in ((y, height, pixels.shape[1]), (x, width, pixels.shape[2]))
    )
    return pixels[:, rows[:, None], cols].astype(np.float32)


def codec_alone(slide: Path, result: np.ndarray, plan: Any, folder: Path) -> Stopwatch:
    """Time to decode the source and to encode and write `result`, (y, x) or (c, y, x)."""
    planes = result if result.ndim == 3 else result[None]
    codec = numcodecs.Blosc(cname="zstd", clevel=1, shuffle=numcodecs.Blosc.BITSHUFFLE)
    numcodecs.blosc.use_threads = False
    (chunk_y, chunk_x), (block_y, block_x) = plan.chunk, plan.block
    height, width = planes.shape[1:]

    def write(place: tuple[int, int]) -> None:
        by, bx = place
        with (folder / f"{by}.{bx}").open("wb") as file:
            for plane in planes:
                for y in range(by, min(by + block_y, height), chunk_y):
                    for x in range(bx, min(bx + block_x, width), chunk_x):
                        file.write(codec.encode(np.ascontiguousarray(plane[y : y + chunk_y, x : x + chunk_x])))
            file.flush()
            os.fsync(file.fileno())

    watch = Stopwatch()
    with watch, tifffile.TiffFile(slide) as file, ThreadPoolExecutor(CORES) as pool:
        page = file.series[0].levels[0].keyframe
        segments = list(zip(page.dataoffsets, page.databytecounts, strict=True))

        def decode(item: tuple[int, tuple[int, int]]) -> None:
            index, (offset, size) = item
            page.decode(os.pread(descriptor, size, offset), index, jpegtables=page.jpegtables)

        descriptor = file.filehandle.fileno()
        for _ in pool.map(decode, enumerate(segments)):
            pass
        blocks = [(by, bx) for by in range(0, height, block_y) for bx in range(0, width, block_x)]
        for _ in pool.map(write, blocks):
            pass
    return watch


def whole_run(plan: Any, folder: Path) -> Stopwatch:
    """Time of a run into a directory that does not exist yet."""
    watch = Stopwatch()
    with watch:
        gt.run(plan, folder)
    return watch


def measure(case: Case, side: int, rounds: int, work: Path) -> dict[str, Any]:
    """The three in turns, `rounds` times after one run to warm up."""
    slide = work / f"slide-{side}.ome.tif"
    if not slide.exists():
        write_slide(slide, side_px=side)
    # The demo slide's channels are red, green and blue, in this order.
    image = gt.open(str(slide)).select(channels=list(case.channels))
    started = time.perf_counter()
    model = gt.load_model(str(case.model), mean=case.mean, std=case.std)
    plan = gt.plan(image, model, case.tiling)
    planning = time.perf_counter() - started
    whole_run(plan, work / "warm")
    result = np.asarray(zarr.open_array(work / "warm" / "prediction.zarr" / "0", mode="r")[...])
    facts = json.loads((work / "warm" / "run.json").read_text())
    pixels = np.moveaxis(tifffile.imread(slide), -1, 0)[list(case.channels)]
    parts: dict[str, Callable[[Path], Stopwatch]] = {
        "model": lambda _: model_alone(plan, case, pixels),
        "codec": lambda folder: codec_alone(slide, result, plan, folder),
        "run": lambda folder: whole_run(plan, folder / "run"),
    }
    seconds: dict[str, list[float]] = {name: [] for name in parts}
    cpu: dict[str, list[float]] = {name: [] for name in parts}
    for _ in range(rounds):
        for name, part in parts.items():
            folder = Path(tempfile.mkdtemp(dir=work))
            watch = part(folder)
            seconds[name].append(watch.wall)
            cpu[name].append(watch.cpu)
            shutil.rmtree(folder)
    shutil.rmtree(work / "warm")
    median = {name: statistics.median(values) for name, values in seconds.items()}
    least = {name: min(values) for name, values in seconds.items()}
    cpu_median = {name: statistics.median(values) for name, values in cpu.items()}
    return {
        "case": case.name,
        "side_px": side,
        "tiles_inferred": plan.tiles_inferred,
        "overcompute": plan.overcompute,
        "decoded_ratio": facts["decoded_ratio"],
        "seconds": seconds,
        "median": median,
        "planning_seconds": planning,
        "mpx_per_second": side * side / 1e6 / median["run"],
        "cpu_seconds": cpu,
        "cpu_share": (cpu_median["model"] + cpu_median["codec"]) / cpu_median["run"],
        "efficiency": (median["model"] + median["codec"]) / median["run"],
        "efficiency_of_quickest": (least["model"] + least["codec"]) / least["run"],
    }


def machine() -> dict[str, Any]:
    """What the figures were taken on."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": names[0] if names else platform.processor(),
        "cores": CORES,
        "load": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "onnxruntime": onnxruntime.__version__,
        "gigatile": gt.__version__,
    }


def table(found: list[dict[str, Any]]) -> str:
    """The figures for people; ranges are least to most over the rounds."""
    lines = [
        f"{'':<22}{'model s':>22}{'codec s':>22}{'run s':>22}"
        f"{'Mpx/s':>8}{'efficiency':>12}{'of quickest':>13}{'cpu share':>11}"
    ]
    for one in found:
        cells = "".join(
            f"{one['median'][name]:.2f} ({min(values):.2f}-{max(values):.2f})".rjust(22)
            for name, values in one["seconds"].items()
        )
        lines += [
            f"{one['case']:<22}{cells}{one['mpx_per_second']:>8.1f}{one['efficiency']:>12.2f}"
            f"{one['efficiency_of_quickest']:>13.2f}{one['cpu_share']:>11.2f}",
            f"  {one['side_px']} x {one['side_px']} px, {one['tiles_inferred']} tiles, overcompute "
            f"{one['overcompute']:.2f}, decoded {one['decoded_ratio']:.2f}, planned in {one['planning_seconds']:.2f} s",
        ]
    return "\n".join(lines)


def main() -> None:
    """Measure and print; nothing is kept unless asked for."""
    parser = argparse.ArgumentParser(description="gigatile against model alone and codec alone.")
    parser.add_argument("--side", type=int, default=6144, help="side of the slide in pixels, a multiple of 256")
    parser.add_argument("--rounds", type=int, default=5, help="turns of the three (default: 5)")
    parser.add_argument("--case", help="only this model")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    options = parser.parse_args()
    about = machine()
    print(", ".join(f"{name} {value}" for name, value in about.items()), flush=True)
    found = []
    with tempfile.TemporaryDirectory(prefix="gigatile-limit-") as folder:
        for case in cases():
            if options.case in (None, case.name):
                found.append(measure(case, options.side, options.rounds, Path(folder)))
    if not found:
        raise SystemExit(f"no case named {options.case}")
    print(table(found))
    if options.json:
        options.json.write_text(json.dumps({"machine": about, "cases": found}, indent=2) + "\n")


if __name__ == "__main__":
    main()
