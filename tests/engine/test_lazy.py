"""map_overlap is the engine with a dask face."""

import dask
import dask.array as da
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import gigatile as gt
from gigatile.errors import UsageError
from gigatile.testing.models import InputShape, identity, whole_weights, write_convolutions
from gigatile.testing.sources import noise
from gigatile.testing.strategies import BORDERS, sizes, tilings
from gigatile.tiling.tiling import Tiling

from .helpers import in_tiles, load, on_whole_image

shared = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def compute(lazy):
    with dask.config.set(scheduler="synchronous"):
        return lazy.compute()


@settings(shared, max_examples=60)
@given(st.data(), sizes(70), st.sampled_from(BORDERS), st.integers(1, 30))
@example(None, (21, 9), "reflect", 5)
def test_map_overlap_equals_the_engine_to_the_bit(stacks, data, shape, border, chunk):
    drawn = data.draw(tilings(0, most=24)) if data else Tiling((10, 11), 8, 0, "hann", block=2)
    tiling = Tiling(drawn.tile, drawn.overlap, drawn.margin, drawn.blend, border, drawn.block)
    pixels = noise((2, *shape))
    lazy = gt.map_overlap(da.from_array(pixels, chunks=(1, chunk, chunk + 3)), load(stacks[2]), tiling)
    expected, _, _ = in_tiles(load(stacks[2]), pixels, tiling)
    got = compute(lazy)
    assert lazy.shape == expected.shape == got.shape
    assert lazy.dtype == expected.dtype == got.dtype
    assert np.array_equal(got, expected)


def test_chunks_are_whole_strides():
    lazy = gt.map_overlap(da.zeros((1, 200, 230), chunks=(1, 50, 50)), identity, Tiling(24, 8, 0, "hann", block=40))
    for sizes_ in lazy.chunks[1:]:
        assert len(sizes_) > 1
        assert all(size % 16 == 0 for size in sizes_[:-1])


def test_it_is_lazy_and_the_function_never_sees_an_empty_array():
    shapes = []

    def watch(batch):
        shapes.append(batch.shape)
        return batch

    lazy = gt.map_overlap(da.zeros((1, 60, 60), chunks=(1, 20, 20)), watch, Tiling(24, 8, 0, "hann", block=32))
    assert shapes == [(1, 1, 24, 24)], "the trial"
    compute(lazy[:, :5, :5])
    assert all(0 not in shape for shape in shapes)
    assert len(shapes) > 1


def test_border_is_numpys_reflect_not_dasks(stacks):
    pixels = noise((2, 50, 45))
    lazy = gt.map_overlap(
        da.from_array(pixels, chunks=(2, 20, 20)), load(stacks[3]), Tiling(20, 6, 3, "trim", block=28)
    )
    assert np.array_equal(compute(lazy), on_whole_image(stacks[3], pixels, 3))
    assert not np.array_equal(compute(lazy), on_whole_image(stacks[3], pixels, 3, border="symmetric"))


def test_constant_borders_are_the_engines():
    pixels = noise((1, 40, 45))
    tiling = Tiling(20, 10, 0, "mean", "constant:17")

    def spread(batch):
        return np.broadcast_to(batch.max((2, 3), keepdims=True), batch.shape).copy()

    model = gt.load_model(spread, scale=1.0)
    got = compute(gt.map_overlap(da.from_array(pixels, chunks=(1, 10, 10)), model, tiling))
    assert np.array_equal(got, in_tiles(model, pixels, tiling)[0])


@pytest.mark.parametrize("blend", ["trim", "hann"])
def test_half_precision_comes_out_as_run_stores_it(tmp_path, blend):
    path = write_convolutions(tmp_path / "half.onnx", whole_weights([1, 1]), InputShape(dtype="float16"))
    pixels = noise((1, 40, 40)) % 16
    tiling = Tiling(16, 4, 2, blend)
    model = load(path)
    stored = gt.run(gt.plan(pixels, model, tiling, output="raw"), tmp_path / "out", durable=False).prediction[:]
    lazy = gt.map_overlap(da.from_array(pixels), model, tiling)
    assert lazy.dtype == stored.dtype == np.float16
    assert np.array_equal(compute(lazy), stored)


def test_a_model_of_a_fixed_batch_can_be_mapped(tmp_path):
    path = write_convolutions(tmp_path / "four.onnx", whole_weights([1, 1]), InputShape(batch=4))
    pixels = noise((1, 40, 40))
    lazy = gt.map_overlap(da.from_array(pixels), load(path), Tiling(16, 4, 2, "trim"))
    # onnxruntime holds the whole image to the same batch of 4.
    any_batch = write_convolutions(tmp_path / "any.onnx", whole_weights([1, 1]))
    assert np.array_equal(compute(lazy), on_whole_image(any_batch, pixels, 2))


def test_whole_numbers_cannot_be_blended():
    with pytest.raises(UsageError, match="trim"):
        gt.map_overlap(da.zeros((1, 40, 40)), lambda batch: batch.astype("int16"), Tiling(16, 4, 0, "hann"))


def test_whole_numbers_go_through_trim():
    pixels = noise((1, 40, 40))
    model = gt.load_model(lambda batch: batch.astype("int16"), scale=1.0)
    got = compute(gt.map_overlap(da.from_array(pixels, chunks=(1, 16, 16)), model, Tiling(16, 4, 2, "trim")))
    assert got.dtype == np.int16
    assert np.array_equal(got, pixels)


@pytest.mark.parametrize("array", [da.zeros((40, 40)), da.zeros((1, 1, 40, 40)), da.zeros((1, 0, 40)), np.zeros(3)])
def test_arrays_that_are_not_channels_rows_columns_are_refused(array):
    with pytest.raises(UsageError, match=r"c, y, x"):
        gt.map_overlap(array, identity, Tiling(16, 4))


def test_chunks_of_unknown_size_are_refused():
    unknown = da.zeros((1, 40, 40), chunks=10)
    unknown = unknown[:, unknown[0, :, 0] == 0]
    with pytest.raises(UsageError, match="size"):
        gt.map_overlap(unknown, identity, Tiling(16, 4))
