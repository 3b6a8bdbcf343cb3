"""A scene that is 88 % nodata, with ``--mask nodata`` and ``none``: times, their ratio, and whether anything is lost.

The footprint is a slanted strip, as of an orbit; the model three convolutions, so that most of the time is inference.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
import tifffile
from onnx import TensorProto, helper, numpy_helper

import gigatile as gt

SIZES = ((24, 3), (24, 24), (2, 24))
"""Channels out and in of the convolutions."""


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=6144, help="of the scene, in pixels")
    side = parser.parse_args().side
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        valid = write_scene(folder / "scene.tif", side)
        model = gt.load_model(write_model(folder / "model.onnx"))
        print(f"{side} x {side} px, {100 * (1 - valid.mean()):.0f} % nodata")
        seconds, found = {}, {}
        for mask in ("none", "nodata"):
            plan = gt.plan(gt.open(folder / "scene.tif"), model, gt.Tiling(tile=256), mask=mask)
            started = time.perf_counter()
            result = gt.run(plan, folder / mask, durable=False)
            seconds[mask] = time.perf_counter() - started
            found[mask] = result.prediction[:]
            print(f"--mask {mask:<7} {seconds[mask]:6.1f} s, {result.status.tiles_inferred} tiles")
        print(f"ratio {seconds['nodata'] / seconds['none']:.2f}")
        same = np.array_equal(found["none"][valid], found["nodata"][valid])
        print("inside: every pixel the same" if same else "inside: PIXELS DIFFER")
        return 0 if same and (found["nodata"][~valid] == 255).all() else 1


def write_scene(path, side):
    """A strip of noise in a square of zeros, which are its nodata; returns where it is."""
    y, x = np.mgrid[:side, :side] - side / 2
    valid = np.abs(0.94 * x - 0.34 * y) < 0.055 * side
    pixels = np.random.default_rng(0).integers(1, 255, (side, side, 3), np.uint8) * valid[..., None]
    nodata = (42113, "s", 2, "0", True)
    tifffile.imwrite(path, pixels, tile=(256, 256), photometric="rgb", compression="zlib", extratags=[nodata])
    return valid


def write_model(path):
    """Three convolutions of 3 x 3."""
    rng = np.random.default_rng(0)
    nodes, last = [], "x"
    weights = [rng.normal(0, 0.1, (*size, 3, 3)).astype(np.float32) for size in SIZES]
    for index in range(len(SIZES)):
        nodes.append(helper.make_node("Conv", [last, f"w{index}"], [f"h{index}"], pads=[1] * 4))
        nodes.append(helper.make_node("Relu", [f"h{index}"], [f"r{index}"]))
        last = f"r{index}"
    graph = helper.make_graph(
        nodes,
        "strip",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, "h", "w"])],
        [helper.make_tensor_value_info(last, TensorProto.FLOAT, ["n", 2, "h", "w"])],
        [numpy_helper.from_array(array, f"w{index}") for index, array in enumerate(weights)],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


if __name__ == "__main__":
    raise SystemExit(main())
