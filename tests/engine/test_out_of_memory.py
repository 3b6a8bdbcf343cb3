"""Where the memory does not hold a batch, smaller ones give the same; else the message says what to do."""

import subprocess
import sys
from dataclasses import replace
from threading import Event

import numpy as np
import pytest

from gigatile.engine.batches import BatchLimit, Inference, Progress, Tally
from gigatile.engine.pipes import Clock
from gigatile.engine.region import infer_region
from gigatile.errors import BlockError, ModelOutOfMemory
from gigatile.models.model import LoadedModel
from gigatile.models.values import Values
from gigatile.testing.models import InputShape, SmallMemory, whole_weights, write_convolutions
from gigatile.testing.sources import noise
from gigatile.tiling.region import Region
from gigatile.tiling.tiling import Tiling

TILING = Tiling(16, 6, 3, "trim")
SHAPE = (61, 47)
PIXELS = noise((1, *SHAPE)).astype(np.float32)
FULL = RuntimeError("CUDA error: out of memory")
TEXTS = [
    "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Non-zero status code returned while running Conv node. "
    "Failed to allocate memory for requested buffer of size 17179869184",
    "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 8.00 GiB",
    "CUDNN failure 4: CUDNN_STATUS_ALLOC_FAILED ; GPU=0",
    "CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate",
    "std::bad_alloc",
    "[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes",
]


def inference(model, batch, *, pads_batches=False):
    loaded = LoadedModel(model, Values(scale=1.0), batch)
    return Inference(TILING.grid(SHAPE), loaded, 1, np.dtype("float32"), batch, pads_batches)


def read(window):
    rows = TILING.parsed_border.index(window.y0, window.y1, SHAPE[0])
    cols = TILING.parsed_border.index(window.x0, window.x1, SHAPE[1])
    return PIXELS[:, rows][:, :, cols], None


def infer(how, reading=read):
    """All rows of the image, and how many tiles were counted and told of."""
    told = []
    tally = Tally()
    progress = Progress(Clock(), tally, Event(), told.append)
    parts = [band.copy() for _, band, _ in infer_region(how, Region(0, 0, *SHAPE), reading, 5, progress)]
    assert sum(told) == tally.tiles
    return np.concatenate(parts, axis=1), tally.tiles


TILES = 7 * 5
"""Of 10 px cores over 61 x 47."""


@pytest.mark.parametrize("holds", [1, 2, 3, 5, 7, 8])
@pytest.mark.parametrize("batch", [1, 2, 7, 8, 64])
def test_whatever_the_memory_holds_the_result_is_the_same_and_each_tile_counts_once(holds, batch):
    model = SmallMemory(holds, FULL)
    got, tiles = infer(inference(model, batch))
    assert np.array_equal(got, PIXELS + 1)
    assert tiles == TILES
    assert sum(size for size in model.sizes if size <= holds) == TILES


def test_the_smaller_batch_is_kept_for_the_next_regions_and_passes():
    model = SmallMemory(2, FULL)
    how = inference(model, 16)
    infer(how)
    assert [size for size in model.sizes if size > 2] == [16, 8, 4], "each size is tried once"
    model.sizes.clear()
    infer(how)
    infer(replace(how, dtype=np.dtype("float32")))
    assert max(model.sizes) == 2
    assert sum(model.sizes) == 2 * TILES


def test_a_limit_only_falls_whoever_finds_it_out_last():
    limit = BatchLimit()
    assert limit.of(32) == 32
    limit.too_many(8)
    limit.too_many(16)
    assert limit.of(32) == 4
    assert limit.of(2) == 2


@pytest.mark.parametrize("text", TEXTS)
def test_what_runtimes_say_is_understood(text):
    got, _ = infer(inference(SmallMemory(3, RuntimeError(text)), 8))
    assert np.array_equal(got, PIXELS + 1)


def test_a_memory_error_of_python_is_understood():
    got, _ = infer(inference(SmallMemory(3, MemoryError()), 8))
    assert np.array_equal(got, PIXELS + 1)


def test_another_error_is_not_taken_for_a_lack_of_memory():
    model = SmallMemory(3, RuntimeError("index out of range"))
    with pytest.raises(BlockError, match="index out of range") as caught:
        infer(inference(model, 8))
    assert not isinstance(caught.value, ModelOutOfMemory)
    assert model.sizes == [8], "it was not tried again"


def test_a_tile_that_does_not_fit_alone_fails_the_block_and_says_what_to_do():
    model = SmallMemory(0, FULL)
    with pytest.raises(ModelOutOfMemory, match=r"smaller --tile, or --workers 1") as caught:
        infer(inference(model, 4))
    assert model.sizes == [4, 2, 1]
    assert "CUDA error: out of memory" in str(caught.value)


def test_a_batch_on_which_bits_depend_is_not_halved():
    model = SmallMemory(3, FULL)
    with pytest.raises(BlockError, match=r"--batch below 8") as caught:
        infer(inference(model, 8, pads_batches=True))
    assert not isinstance(caught.value, ModelOutOfMemory)
    assert model.sizes == [8]


def test_no_memory_for_what_is_read_fails_the_block():
    def reading(window):
        if window.y0 > 20:
            raise MemoryError("Unable to allocate 9 GiB")
        return read(window)

    with pytest.raises(BlockError, match="Unable to allocate 9 GiB"):
        infer(inference(SmallMemory(8, FULL), 4), reading)


def test_no_memory_after_the_model_is_a_lack_of_memory_as_well(monkeypatch):
    monkeypatch.setattr(Values, "activated", lambda self, result: (_ for _ in ()).throw(MemoryError()))
    with pytest.raises(ModelOutOfMemory):
        LoadedModel(SmallMemory(8, FULL), Values()).predict(np.zeros((1, 1, 8, 8), np.float32))


ONNX_CODE = """
import resource, sys
import numpy as np
import gigatile as gt
from gigatile.engine.batches import Inference, _halved
from gigatile.tiling.tiling import Tiling
model = gt.load_model(sys.argv[1], scale=1.0)
tiles = list(np.random.default_rng(0).random((64, 1, 256, 256), np.float32))
how = Inference(Tiling(256, 64, 0, "hann").grid((256, 256)), model, 1, np.dtype("float32"), 64, False)
expected = [model.predict(tile[None])[0].copy() for tile in tiles]
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
before = resource.getrlimit(resource.RLIMIT_AS)
resource.setrlimit(resource.RLIMIT_AS, (used + (250 << 20), before[1]))
got = _halved(how, tiles)
resource.setrlimit(resource.RLIMIT_AS, before)
print(np.array_equal(got, expected), how.limit.of(64))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc and RLIMIT_AS")
def test_onnxruntime_that_really_runs_out_of_memory_goes_on_with_smaller_batches(tmp_path):
    path = write_convolutions(tmp_path / "wide.onnx", whole_weights([1, 16, 1]), InputShape(1))
    done = subprocess.run([sys.executable, "-c", ONNX_CODE, path], capture_output=True, text=True, check=True)
    same, limit = done.stdout.split()
    assert same == "True"
    assert 1 <= int(limit) < 64, "64 tiles were inferred in 250 MiB: nothing was tried"
