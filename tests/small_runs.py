"""Small images, models and runs, and looks at run directories that share no code with the library."""

import hashlib
import json
import os
import subprocess
import sys
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import zarr

import gigatile as gt

CLI = (sys.executable, "-m", "gigatile.cli.main")
BLOCKS = 20
"""Blocks of `SMALL` at `TILING`; their pyramid has 6 more."""
SMALL = (330, 400)
TILING = gt.Tiling(tile=64, overlap=16, margin=2, blend="hann", block=96)
TILING_WORDS = ("--tile", "64", "--overlap", "16", "--margin", "2", "--blend", "hann", "--block", "96")

MODELS = '''
"""Models of a few lines; what they do wrong is decided by files in the working directory."""

import os
import time
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent


def bright(batch):
    return batch.mean(axis=1, keepdims=True)


def sleepy(batch):
    time.sleep(0.02)
    return batch.mean(axis=1, keepdims=True)


def twice(batch):
    return np.concatenate([batch[:, :1], 1 - batch[:, :1]], axis=1)


def many(batch):
    return np.repeat(batch.mean(axis=1, keepdims=True), 32, axis=1)


def fragile(batch):
    """Raises on pixels of 255 while a file named `broken` is there, and says how often it was called."""
    with (HERE / "calls").open("ab") as file:
        file.write(b"." * len(batch))
    if (HERE / "broken").exists() and (batch >= 1).any():
        raise ValueError((HERE / "broken").read_text() or "no weights for this")
    return batch.mean(axis=1, keepdims=True)


def holes(batch):
    """NaN where a pixel is 255 while a file named `broken` is there."""
    result = batch.mean(axis=1, keepdims=True)
    if (HERE / "broken").exists():
        result[(batch >= 1).any(axis=1, keepdims=True)] = np.nan
    return result


def shapeless(batch):
    """Another shape than asked for where a pixel is 255."""
    return batch[:, :1, 1:] if (batch >= 1).any() else batch[:, :1]


def deadly(batch):
    """Takes its process along where a pixel is 255 while a file named `broken` is there."""
    if (HERE / "broken").exists() and (batch >= 1).any():
        os._exit(9)
    return batch.mean(axis=1, keepdims=True)
'''


def noise(shape: tuple[int, int] = SMALL, seed: int = 0) -> np.ndarray:
    """uint8 pixels (y, x, c) from 1 to 254: 0 and 255 are left to the tests."""
    return np.random.default_rng(seed).integers(1, 255, (*shape, 3), dtype=np.uint8)


def write_zarr(path: Path, pixels: np.ndarray, *, chunk: int = 64, nodata: int | None = None) -> str:
    """Store (y, x, c) pixels as a Zarr array; returns the path."""
    attributes = {} if nodata is None else {"nodata": nodata}
    array = zarr.create_array(
        str(path),
        shape=pixels.shape,
        chunks=(chunk, chunk, pixels.shape[2]),
        dtype=pixels.dtype,
        dimension_names=("y", "x", "c"),
        attributes=attributes,
    )
    array[...] = pixels
    return str(path)


def write_models(folder: Path) -> Path:
    """Put `models.py` into a folder."""
    path = folder / "models.py"
    path.write_text(MODELS)
    return path


def write_conv(path: Path, *, channels: int = 3, out: int = 2, seed: int = 0) -> str:
    """A 3 x 3 convolution, sigmoid, as an ONNX file of any tile and any batch; returns the path."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weights = np.random.default_rng(seed).normal(0, 1, (out, channels, 3, 3)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w"], ["h"], pads=[1, 1, 1, 1]),
            helper.make_node("Sigmoid", ["h"], ["y"]),
        ],
        "conv",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", channels, "h", "w"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", out, "h", "w"])],
        [numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
    return str(path)


def write_inputs(folder: Path) -> Path:
    """An image with a corner of nodata, ``image.zarr``; ``conv.onnx``; and the functions above."""
    pixels = noise()
    pixels[:120, :120] = 0
    write_zarr(folder / "image.zarr", pixels, nodata=0)
    write_conv(folder / "conv.onnx")
    write_models(folder)
    return folder


def run_small(image: str, model: Any, out: Path, tiling: gt.Tiling = TILING, **how: Any) -> Any:
    """Plan and run with `output`, `mask` and `memory` for the plan, and the rest for the run."""
    planned = {name: how.pop(name) for name in ("output", "mask", "memory", "dtype") if name in how}
    return gt.run(gt.plan(image, model, tiling, **planned), out, **{"durable": False, **how})


def start_cli(*words: str, cwd: Path, **environment: str) -> subprocess.Popen[str]:
    """Start ``gigatile WORDS`` in a process group of its own."""
    return subprocess.Popen(
        [*CLI, *words],
        cwd=cwd,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def cli(*words: str, cwd: Path, code: int = 0, **environment: str) -> tuple[str, str]:
    """Run ``gigatile WORDS`` to its end; returns stdout and stderr."""
    process = start_cli(*words, cwd=cwd, **environment)
    out, err = process.communicate(timeout=120)
    assert process.returncode == code, (process.returncode, out, err)
    return out, err


def tree(root: Path) -> dict[str, bytes]:
    """Content of every file below a folder."""
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def fingerprints(root: Path) -> dict[str, str]:
    """Digest of every file of ``prediction.zarr``, so that differences are printed as names."""
    return {name: hashlib.sha256(content).hexdigest()[:12] for name, content in tree(root / "prediction.zarr").items()}


LEFT_OUT = {"pixels": 0, "nbytes": 0, "digest": "", "tiles": 0, "skipped": 0, "units_decoded": 0, "error": ""}
"""What lines do not say where it is so."""


def lines(directory: Path) -> list[dict[str, Any]]:
    """The whole lines of a ledger, read by its description: CRC-32 in hex, a blank, JSON."""
    found = []
    for segment in sorted((directory / "ledger").glob("*")):
        for line in segment.read_bytes().split(b"\n"):
            checksum, _, body = line.partition(b" ")
            if body and checksum == b"%08x" % zlib.crc32(body):
                found.append(json.loads(body))
    return found


def entries(directory: Path) -> list[dict[str, Any]]:
    """Those about a block: records and revocations, not the attempts."""
    return [{**LEFT_OUT, **line} for line in lines(directory) if "block" in line]


def finished(directory: Path) -> Counter[str]:
    """How many finished records each block has."""
    return Counter(entry["block"] for entry in entries(directory) if entry["status"] in ("done", "empty"))


def document(directory: Path) -> dict[str, Any]:
    """``run.json``."""
    return json.loads((directory / "run.json").read_text())


def temporary_files(directory: Path) -> list[str]:
    """Files whose name says that they are not finished."""
    return [str(path) for path in directory.rglob("*.tmp")]
