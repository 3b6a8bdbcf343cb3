"""An export takes no more memory for a larger result; measured in a child process from outside."""

import os
import subprocess
import sys

import numpy as np
import pytest
import zarr

from gigatile.outputs.layout import ArrayLayout, pyramid_layouts
from gigatile.outputs.omezarr import ResultMetadata, create_result
from gigatile.outputs.shard import ShardWriter
from gigatile.storage.local import LocalStore
from tests.promises.test_bounded import WRAPPER

MIB = 2**20
ALLOWED = 24 * MIB
"""More for 16 times the pixels: lists of tiles, and what the allocator keeps."""
CHILD = """
import sys
from pathlib import Path
from gigatile.exports.export import FORMATS, _function
from gigatile.exports.result import Result
from gigatile.outputs.omezarr import read_layouts
from gigatile.storage.local import LocalStore
store = LocalStore(Path(sys.argv[2]), False)
result = Result(store, read_layouts(store), sys.argv[4], {"axes": [], "datasets": []}, None, None, None, (), ())
_function(FORMATS[sys.argv[1]])(result, Path(sys.argv[3]), None)
"""


def write_result(path, side, channels, dtype):
    """A result of one shard of noise, linked to every place of every level."""
    layout = ArrayLayout((side, side), channels, np.dtype(dtype), 255, (1024, 1024), (512, 512))
    layouts = pyramid_layouts(layout)
    store = LocalStore(path, False)
    create_result(store, layouts, ResultMetadata("nearest"))
    small = np.random.default_rng(0).integers(0, 4, (channels or 1, 64, 64)).astype(dtype)
    pixels = small.repeat(16, 1).repeat(16, 2)
    with ShardWriter(store, "shard", layout, (1024, 1024)) as writer:
        writer.write(pixels if channels else pixels[0])
        writer.finish()
    for level, each in enumerate(layouts):
        for row in range(each.grid[0]):
            for col in range(each.grid[1]):
                target = path / str(level) / each.shard_key(row, col)
                target.parent.mkdir(parents=True, exist_ok=True)
                os.link(path / "shard", target)
    (path / "shard").unlink()
    return path


def peak(kind, result, target, output):
    """Peak resident bytes of a process that exports."""
    command = [sys.executable, "-S", "-c", WRAPPER, sys.executable, "-c", CHILD, kind, result, target, output]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stderr.splitlines()[-1]) * 1024


@pytest.fixture(scope="module")
def classes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sizes")
    return {side: write_result(folder / str(side), side, None, "u1") for side in (2048, 8192)}


@pytest.mark.parametrize("kind", ["cog", "ome-tiff", "ome-zarr-0.4"])
def test_sixteen_times_the_pixels_take_no_more_memory(kind, classes, tmp_path):
    small, large = (peak(kind, classes[side], tmp_path / str(side), "classes") for side in (2048, 8192))
    assert large < small + ALLOWED
    whole = 8192**2 * 4 // 3
    assert whole > 3 * ALLOWED, "a copy of the whole result would be found"


def test_channels_take_no_more_memory_together_than_one(tmp_path):
    peaks = []
    for channels in (1, 12):
        result = write_result(tmp_path / f"{channels}.zarr", 2048, channels, "f4")
        peaks.append(peak("cog", result, tmp_path / f"{channels}.tif", "raw"))
    assert peaks[1] < peaks[0] + ALLOWED
    assert zarr.open_array(tmp_path / "12.zarr" / "0", mode="r").nbytes > 7 * ALLOWED
