"""Promise 3: peak memory stays within `--memory`, measured from outside, and does not grow with the image."""

import json
import os
import subprocess
import sys
import threading
import time

import numpy as np
import psutil
import pytest
import tifffile
import zarr

import gigatile as gt
from gigatile.errors import MemoryRefused
from gigatile.machine import base_bytes
from gigatile.plans import build, trials
from scripts.planting.field import Field
from tests.data import data
from tests.small_runs import CLI, cli, document, noise, write_conv, write_models, write_zarr

MIB = 2**20
WRAPPER = "import os, sys; p = os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ); _, s, r = os.wait4(p, 0); \
print(r.ru_maxrss, file=sys.stderr); sys.exit(os.waitstatus_to_exitcode(s))"
"""A process of a few MiB that starts the real one: the kernel counts the parent's memory in the child's peak."""


def peak_of(*words, cwd):
    """Peak resident bytes of ``gigatile WORDS``."""
    process = subprocess.run(
        [sys.executable, "-S", "-c", WRAPPER, *CLI, *words], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr
    return int(process.stderr.splitlines()[-1]) * 1024


def peak_of_run(image, model, out, *words, cwd):
    """Peak resident bytes of a run, and what its plan had projected."""
    peak = peak_of("run", image, "-o", out, "--model", model, "--progress", "none", *words, cwd=cwd)
    found = document(cwd / out)
    assert found["complete"]
    return peak, found["summary"]["memory"]["projected_bytes"]


def write_large(path, height, width, chunk=1024):
    """A Zarr of noise in blocks of 8 px that is one chunk, linked to every place of the grid."""
    pixels = np.random.default_rng(0).integers(1, 250, (chunk // 8, chunk // 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    array = zarr.create_array(
        str(path), shape=(height, width, 3), chunks=(chunk, chunk, 3), dtype="u1", dimension_names=("y", "x", "c")
    )
    array[:chunk, :chunk] = pixels[:height, :width] + np.random.default_rng(1).integers(0, 4, (chunk, chunk, 3), "u1")
    first = path / "c" / "0" / "0" / "0"
    for row in range(-(-height // chunk)):
        for col in range(-(-width // chunk)):
            target = path / "c" / str(row) / str(col) / "0"
            if not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                os.link(first, target)
    return str(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bounded")
    write_models(folder)
    return folder


@pytest.fixture(scope="module")
def default_run(folder):
    """12,000 x 12,000 pixels with the defaults but for the budget."""
    write_large(folder / "12k.zarr", 12_000, 12_000)
    return peak_of_run("12k.zarr", "models.py:bright", "12k", "--memory", "600MiB", cwd=folder)


def test_a_12k_image_stays_within_600_mib(default_run):
    peak, projected = default_run
    assert peak <= projected <= 600 * MIB


def test_the_reported_peak_is_the_one_measured_from_outside(folder, default_run):
    peak, _ = default_run
    assert peak == pytest.approx(document(folder / "12k")["totals"]["peak_rss_bytes"], rel=0.05)


def test_nine_times_the_pixels_stay_within_the_same_budget(folder, default_run):
    write_large(folder / "4k.zarr", 4_000, 4_000)
    peak, projected = peak_of_run("4k.zarr", "models.py:bright", "4k", "--memory", "600MiB", cwd=folder)
    assert peak <= projected <= 600 * MIB


def test_a_higher_image_takes_no_more_memory(folder):
    peaks = []
    for height in (9_000, 24_000):
        write_large(folder / f"{height}.zarr", height, 1_500, chunk=512)
        words = ("--memory", "1GiB", "--block", "1536", "--workers", "1")
        peak, _ = peak_of_run(f"{height}.zarr", "models.py:bright", f"high-{height}", *words, cwd=folder)
        peaks.append(peak)
    assert peaks[1] <= peaks[0] + 32 * MIB


def test_strips_as_wide_as_the_image_stay_within_the_budget(folder):
    pixels = np.tile(noise((500, 600)), (6, 15, 1))
    tifffile.imwrite(folder / "strips.tif", pixels, photometric="rgb", rowsperstrip=64, compression="zstd")
    words = ("--memory", "450MiB", "--tile", "256")
    peak, projected = peak_of_run("strips.tif", "models.py:bright", "strips", *words, cwd=folder)
    assert peak <= projected <= 450 * MIB


def test_a_model_of_32_channels_stays_within_the_budget(folder):
    image = write_large(folder / "many.zarr", 1_400, 1_400)
    words = ("--memory", "600MiB", "--tile", "256", "--output", "probabilities")
    peak, projected = peak_of_run(image, "models.py:many", "many", *words, cwd=folder)
    assert peak <= projected <= 600 * MIB


def test_an_onnx_model_in_batches_stays_within_the_budget(folder):
    image = write_large(folder / "onnx.zarr", 1_500, 1_500)
    conv = write_conv(folder / "conv.onnx", out=16)
    words = ("--memory", "700MiB", "--tile", "256", "--output", "probabilities", "--dtype", "uint8", "--batch", "8")
    peak, projected = peak_of_run(image, conv, "onnx", *words, cwd=folder)
    assert peak <= projected <= 700 * MIB


def test_a_real_u_net_stays_within_the_budget(folder):
    model = str(data("models/unet2d_nuclei_broad_dynamic.onnx"))
    pixels = noise((700, 900))[:, :, 0]
    tifffile.imwrite(folder / "grey.tif", pixels, tile=(256, 256))
    words = ("--memory", "1GiB", "--tile", "256", "--overlap", "112", "--output", "probabilities")
    peak, projected = peak_of_run("grey.tif", model, "unet", *words, cwd=folder)
    assert peak <= projected <= 1024 * MIB, (peak, projected)


def resident(process):
    """Resident bytes of a process and of all that it started."""
    total = 0
    for one in (process, *process.children(recursive=True)):
        try:
            total += one.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


def test_worker_processes_stay_within_the_budget_together(folder):
    write_large(folder / "tree.zarr", 3_000, 3_000)
    words = ("run", "tree.zarr", "-o", "tree", "--model", "models.py:bright", "--memory", "1500MiB", "--tile", "512",
             "--block", "1024", "--executor", "processes", "--workers", "2", "--progress", "none")  # fmt: skip
    process = psutil.Popen([*CLI, *words], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    peak, seen = 0, set()
    while process.poll() is None:
        try:
            workers = {child.pid for child in process.children(recursive=True) if child.memory_info().rss > 64 * MIB}
        except psutil.NoSuchProcess:
            workers = set()
        seen |= workers
        peak = max(peak, resident(process))
        time.sleep(0.02)
    assert process.returncode == 0, process.stderr.read()
    # Both workers are in the sum, each with its libraries loaded.
    assert len(seen) >= 2
    assert 220 * MIB < peak <= 1500 * MIB


def test_what_cannot_hold_to_the_budget_is_refused_before_the_first_read(folder, monkeypatch):
    image = gt.open(write_large(folder / "refused.zarr", 2_000, 2_000))
    monkeypatch.setattr(type(image.source), "decode", lambda *unit: pytest.fail("a pixel was read"))
    with pytest.raises(MemoryRefused) as raised:
        gt.plan(image, str(folder / "models.py") + ":many", gt.Tiling(tile=512), output="probabilities", memory="64MiB")
    assert "MiB" in str(raised.value)
    _, err = cli(
        "run", "refused.zarr", "-o", "refused", "--model", "models.py:many", "--memory", "64MiB", cwd=folder, code=2
    )  # fmt: skip
    assert "memory" in err
    assert not (folder / "refused").exists()


def test_the_tile_that_a_refusal_names_fits(folder):
    """The figures of a refusal can be typed in."""
    image = write_large(folder / "named.zarr", 3_000, 3_000)
    plan = ("plan", image, "--model", str(folder / "models.py") + ":many", "--output", "probabilities")
    text, _ = cli(*plan, "--tile", "256", "--workers", "1", "--json", cwd=folder)
    words = (*plan, "--workers", "1", "--memory", str(json.loads(text)["memory"]["projected_bytes"]))
    _, err = cli(*words, "--tile", "1024", cwd=folder, code=2)
    assert "type --tile " in err, err
    tile, overlap = err.split("--tile ")[1].split(" --overlap ")
    cli(*words, "--tile", tile, "--overlap", overlap.split(".")[0], cwd=folder)


def test_the_peak_of_threads_in_this_process_is_within_the_plan(folder, monkeypatch):
    """The same from inside: no sample of the resident memory during a run exceeds the projection."""
    for module in (build, trials):
        # What earlier tests have left is resident here, and counts.
        monkeypatch.setattr(module, "base_bytes", base_bytes)
    plan = gt.plan(write_large(folder / "inside.zarr", 3_000, 3_000), str(folder / "models.py") + ":bright",
                   gt.Tiling(tile=256), memory="2GiB")  # fmt: skip
    samples, over = [], threading.Event()

    def watch():
        while not over.wait(0.005):
            samples.append(psutil.Process().memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        gt.run(plan, folder / "inside", workers=2, durable=False)
    finally:
        over.set()
        watcher.join()
    assert max(samples) <= document(folder / "inside")["summary"]["memory"]["projected_bytes"]


@pytest.mark.slow
def test_a_40k_image_stays_within_1_gib(folder):
    write_large(folder / "40k.zarr", 40_000, 40_000)
    peak, projected = peak_of_run("40k.zarr", "models.py:bright", "40k", "--memory", "1GiB", cwd=folder)
    assert peak <= projected <= 1024 * MIB, (peak, projected)


OBJECTS = ("--tile", "256", "--overlap", "32", "--border", "constant:10")


@pytest.fixture(scope="module")
def crowded(folder):
    """A shape in nearly every square of 16 px, 10,000 in all, cut and put together again."""
    from tests.planted import write_models as write_finders

    (folder / "crowded").mkdir()
    write_finders(folder / "crowded")
    pixels = Field(108, 108, 1).pixels(0, 0, 1728, 1728)
    write_zarr(folder / "crowded" / "image.zarr", np.where(pixels, 200, 10).astype("u1")[:, :, None], chunk=512)
    return folder / "crowded"


FINDERS = {
    "detect": ("models.py:boxes", "--match", "ios", *OBJECTS),
    "instances": ("models.py:labels", *OBJECTS),
    "components": ("models.py:maps", "--postprocess", "components:threshold=0.5", "--tile", "256"),
    "watershed": ("models.py:depth", "--postprocess", "watershed:foreground=0,distance=1", "--tile", "256"),
}


@pytest.mark.parametrize("name", FINDERS)
def test_finding_and_merging_objects_stays_within_the_plan(crowded, name):
    model, *words = FINDERS[name]
    task = name if name == "detect" else "instances"
    words = [*words, "--task", task, "--memory", "1GiB", "--workers", "2"]
    peak, projected = peak_of_run("image.zarr", model, name, *words, cwd=crowded)
    assert document(crowded / name)["objects"]["total"] > 8_000
    assert peak <= projected <= 1024 * MIB, (peak, projected)
