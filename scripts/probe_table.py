"""Print the table of docs/exactness.md: what the probe finds in real models, and how far tiles are from the whole.

The models and pictures are those of the test data (``GIGATILE_TEST_DATA``, or ``../shared/data`` beside the checkout).
The whole image goes through onnxruntime in one piece, padded by the halo; the tiles go through ``gigatile.run``.

Run it with ``python scripts/probe_table.py``; it takes some minutes.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import tifffile
from onnx import helper

import gigatile as gt
from gigatile.models.probe import Probe, measure

Array = np.ndarray[Any, Any]
DATA = Path(os.environ.get("GIGATILE_TEST_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")
BANDS = ("B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B9", "B11", "B12")
WORLD = {
    "B2": (1.7417268007636313, 2.023298706048351),
    "B3": (1.7261204997060209, 2.038905204308012),
    "B4": (1.6798346251414997, 2.179592821212937),
    "B5": (1.7734969472909623, 2.2890068333026603),
    "B6": (2.289154079164943, 2.6171674549378166),
    "B7": (2.382939712192371, 2.773418590375327),
    "B8": (2.3828939530384052, 2.7578332604178284),
    "B11": (2.1952484264967844, 2.789092484314204),
    "B12": (1.554812948247501, 2.4140534947492487),
}
"""Dynamic World's normalisation, by band: log reflectance is lessened by the first and divided by the second."""


def nuclei(name: str = "gt_nuclei_dsb2018/fluo_1388x1040_c901794d1a.png") -> Array:
    """A fluorescence field, zero mean and unit variance over the whole picture."""
    image = gt.open(DATA / name)
    grey = image.read(gt.Region(0, 0, *image.grid_shape))[:3].astype(np.float32).mean(axis=0, keepdims=True)
    return np.asarray((grey - grey.mean()) / grey.std(), np.float32)


def _scene() -> Array:
    pixels = tifffile.imread(DATA / "satellite/s2_rstoolbox/sen2_S2L2A_12band_uint16.tif")
    return np.asarray(pixels if pixels.shape[0] == 12 else np.moveaxis(pixels, -1, 0), np.float32)


def reflectance() -> Array:
    """A Sentinel-2 scene as reflectance, in the six bands that the cloud model takes."""
    return _scene()[[BANDS.index(band) for band in ("B2", "B3", "B4", "B8", "B11", "B12")]] / np.float32(10000)


def world() -> Array:
    """The same scene as Dynamic World takes it."""
    scene, bands = _scene(), []
    for name, (low, high) in WORLD.items():
        # Products since 2022 are stored with 1000 added.
        stored = np.maximum(scene[BANDS.index(name)] - 1000, 0)
        x = np.exp((np.log(stored * 0.005 + 1) - low) / high * 5 - 1)
        bands.append(x / (x + 1))
    return np.asarray(bands, np.float32)


def stained() -> Array:
    """An H&E field, 0 to 1."""
    image = gt.open(DATA / "wsi/instanseg_HE_example.tif")
    return np.asarray(image.read(gt.Region(0, 0, *image.grid_shape)), np.float32) / np.float32(255)


def luma() -> Array:
    """The brightness of a part of it."""
    return stained()[:, :701, :650].mean(axis=0, keepdims=True)


@dataclass(frozen=True, slots=True)
class Case:
    """A model and a picture."""

    file: str
    picture: Callable[[], Array]
    tile: int | None = None
    """None: the model's own, or the default."""


CASES = (
    Case("unet2d_nuclei_broad_dynamic", nuclei),
    Case("cloud_unet_landsatbiomeRGBISWIR7_nchw", reflectance, 128),
    Case("dynamicworld_forward_nchw", world, 128),
    Case("FSRCNN_x2", luma, 256),
    Case("super_resolution_10", luma),
    Case("deepness_dummy_512_to_484", stained),
    Case("deepness_dummy_superres_x2", stained),
)


def session(path: Path) -> onnxruntime.InferenceSession:
    """A session of one thread, as a run has it."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def any_size(path: Path, folder: Path) -> Path:
    """The same layers for any size: fixed sides made free, the reshapes of a pixel shuffle made the operator."""
    model = onnx.load(path)
    for value in (model.graph.input[0], model.graph.output[0]):
        for axis in (2, 3):
            value.type.tensor_type.shape.dim[axis].dim_param = f"{value.name}{axis}"
    nodes = [node for node in model.graph.node if node.op_type != "Constant"]
    if [node.op_type for node in nodes[-3:]] == ["Reshape", "Transpose", "Reshape"]:
        shuffle = helper.make_node(
            "DepthToSpace", [nodes[-4].output[0]], [model.graph.output[0].name], blocksize=3, mode="CRD"
        )
        del model.graph.node[:]
        model.graph.node.extend([*nodes[:-3], shuffle])
        model.opset_import[0].version = max(model.opset_import[0].version, 11)
    onnx.save(model, folder / path.name)
    return folder / path.name


def on_the_whole(path: Path, pixels: Array, halo: int, probe: Probe, multiple: int) -> Array:
    """The padded picture through onnxruntime in one piece, cut to the picture; shape (k, y', x')."""
    height, width = pixels.shape[1:]
    more = [-(side + 2 * halo) % multiple for side in (height, width)]
    padded = np.pad(pixels, ((0, 0), (halo, halo + more[0]), (halo, halo + more[1])), mode="reflect")
    running = session(path)
    result = running.run(None, {running.get_inputs()[0].name: padded[None]})[0][0]
    scale = Fraction(probe.output_scale)
    first = int((halo - probe.crop) * scale)
    return np.asarray(result[:, first : first + int(height * scale), first : first + int(width * scale)])


def in_tiles(path: Path, pixels: Array, tiling: gt.Tiling, folder: Path) -> gt.Result:
    """The picture through a run."""
    plan = gt.plan(pixels, gt.load_model(path, scale=1.0), tiling, output="raw", mask="none")
    return gt.run(plan, folder, durable=False)


def row(case: Case, folder: Path) -> str:
    """One line of the table."""
    path, pixels = DATA / "models" / f"{case.file}.onnx", case.picture()
    start = time.perf_counter()
    probe = measure(gt.load_model(path))
    seconds = time.perf_counter() - start
    cells = [
        case.file,
        probe.verdict,
        "-" if probe.radius is None else " x ".join(map(str, sorted(set(probe.radius)))),
        str(probe.alignment or "none"),
        f"x {probe.output_scale}",
        str(probe.crop),
        f"{seconds:.1f}",
    ]
    if probe.verdict == "not-exact":
        return "| " + " | ".join([*cells, "-", "-", "-"]) + " |"
    whole = any_size(path, folder)
    differences = []
    for blend in ("trim", "hann"):
        plan = gt.plan(
            pixels, gt.load_model(path, scale=1.0), gt.Tiling(case.tile, blend=blend), output="raw", mask="none"
        )
        got = gt.run(plan, folder / f"{case.file}-{blend}", durable=False).prediction[:]
        multiple = max(probe.alignment, probe.size_multiple)
        expected = on_the_whole(whole, pixels, plan.tiling.overlap // 2, probe, multiple)
        differences.append(f"{np.abs(got.astype(np.float64) - expected).max():.2g}")
        if blend == "trim":
            cells.append(f"{plan.tiling.tile_yx[0]}, {plan.tiling.overlap}")
    return "| " + " | ".join([*cells, *differences]) + " |"


def main() -> None:
    """The table, line by line as it is measured."""
    head = (
        "| model | verdict | radius | alignment | output | crop | probe, s | tile, overlap (trim) "
        "| largest difference, trim | hann |\n|---|---|---|---|---|---|---|---|---|---|"
    )
    sys.stdout.write(head + "\n")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["GIGATILE_CACHE_DIR"] = folder
        for case in CASES:
            sys.stdout.write(row(case, Path(folder)) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
