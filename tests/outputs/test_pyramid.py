from __future__ import annotations

import math

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from gigatile.errors import BlockError
from gigatile.outputs.layout import ArrayLayout, default_fill, pyramid_layouts
from gigatile.outputs.omezarr import ResultMetadata
from gigatile.outputs.pyramid import downsample_shard, reduce

from .helpers import local, make_layout, noise, tree, write_result


def build(store, layouts, method):
    for level in range(1, len(layouts)):
        for row in range(layouts[level].grid[0]):
            for col in range(layouts[level].grid[1]):
                downsample_shard(store, layouts, level, row, col, method=method)


def halved(pixels, fill, method):
    """One pixel after the other, in Python: the oracle."""
    height, width = pixels.shape[-2:]
    shape = (*pixels.shape[:-2], math.ceil(height / 2), math.ceil(width / 2))
    result = np.empty(shape, pixels.dtype)
    for place in np.ndindex(*shape):
        y, x = 2 * place[-2], 2 * place[-1]
        block = pixels[place[:-2]][y : y + 2, x : x + 2].ravel().tolist()
        valid = [v for v in block if not (math.isnan(v) if math.isnan(fill) else v == fill)]
        if method == "nearest":
            result[place] = block[0]
        elif not valid:
            result[place] = fill
        else:
            mean = math.fsum(valid) / len(valid)
            result[place] = mean if pixels.dtype.kind == "f" else round(mean)
    return result


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    dtype=st.sampled_from(["uint8", "uint16", "int32", "float16", "float32", "float64"]),
    method=st.sampled_from(["nearest", "mean"]),
    seed=st.integers(0, 99),
)
def test_reduce_is_the_mean_of_what_is_valid(shape, dtype, method, seed):
    rng = np.random.default_rng(seed)
    fill = default_fill(np.dtype(dtype))
    pixels = (rng.random((2, *shape)) * 100).astype(dtype)
    pixels[rng.random(pixels.shape) < 0.4] = fill
    found = reduce(pixels, fill, method)
    assert found.dtype == pixels.dtype
    if dtype == "float64":
        np.testing.assert_allclose(found, halved(pixels, fill, method), rtol=4e-16)
    else:
        np.testing.assert_array_equal(found, halved(pixels, fill, method))


@settings(max_examples=30, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 150), st.integers(1, 150)),
    kind=st.sampled_from([(None, "uint8"), (2, "uint8"), (2, "float32"), (None, "float32")]),
    method=st.sampled_from(["nearest", "mean"]),
    seed=st.integers(0, 99),
)
def test_every_level_is_the_one_below_halved(tmp_path_factory, shape, kind, method, seed):
    channels, dtype = kind
    fill = default_fill(np.dtype(dtype))
    base = ArrayLayout(shape, channels, np.dtype(dtype), fill, (32, 48), (16, 16))
    layouts = (base, *(_halves(base, 3)))
    root = tmp_path_factory.mktemp("pyramid")
    pixels = noise(base, seed)
    write_result(local(root), layouts, pixels, ResultMetadata(method))
    build(local(root), layouts, method)
    for level in range(1, len(layouts)):
        pixels = reduce(pixels, fill, method)
        np.testing.assert_array_equal(zarr.open_array(root / str(level), mode="r")[...], pixels)


def _halves(layout, count):
    for _ in range(count):
        shape = (math.ceil(layout.shape[0] / 2), math.ceil(layout.shape[1] / 2))
        layout = ArrayLayout(shape, layout.channels, layout.dtype, layout.fill, layout.shard, layout.chunk)
        yield layout


def test_a_constant_stays_that_constant(tmp_path):
    """Also where one of four pixels is invalid: 3 x v / 3 is not v in float32."""
    values = np.random.default_rng(0).random(500, dtype=np.float32)
    for value in values:
        block = np.full((2, 2), value)
        block[1, 0] = np.nan
        assert reduce(block, math.nan, "mean")[0, 0] == value


def test_probabilities_in_bytes_are_rounded_half_to_even():
    assert reduce(np.array([[0, 1], [1, 0]], np.uint8), 255, "mean").item() == 0
    assert reduce(np.array([[1, 2], [2, 1]], np.uint8), 255, "mean").item() == 2
    assert reduce(np.array([[255, 7], [255, 255]], np.uint8), 255, "mean").item() == 7
    assert reduce(np.array([[255, 255]], np.uint8), 255, "mean").item() == 255


def test_infinities_and_large_values_do_not_turn_into_nan():
    top = np.finfo(np.float32).max
    assert reduce(np.full((2, 2), top, np.float32), math.nan, "mean").item() == top
    assert reduce(np.full((2, 2), np.inf, np.float32), math.nan, "mean").item() == math.inf


@pytest.mark.parametrize("dtype", ["int64", "uint64", "int32"])
def test_invalid_integers_stay_invalid_at_any_width(dtype):
    fill = int(np.iinfo(dtype).max)
    pixels = np.full((4, 4), fill, dtype)
    pixels[0, 0], pixels[2, 2], pixels[2, 3] = 7, 4, 8
    assert reduce(pixels, fill, "mean").tolist() == [[7, fill], [fill, 6]]


def test_classes_are_never_mixed(tmp_path):
    layouts = pyramid_layouts(make_layout((600, 300), shard=(64, 64), chunk=(32, 32)))
    pixels = np.random.default_rng(0).choice(np.array([0, 7, 255], np.uint8), (600, 300))
    write_result(local(tmp_path), layouts, pixels)
    build(local(tmp_path), layouts, "nearest")
    for level in range(len(layouts)):
        found = zarr.open_array(tmp_path / str(level), mode="r")[...]
        np.testing.assert_array_equal(found, pixels[:: 2**level, :: 2**level])


def test_empty_below_is_empty_above(tmp_path):
    layouts = pyramid_layouts(make_layout((600, 300), channels=2, dtype="float32", fill=np.nan))
    pixels = np.full((2, 600, 300), np.nan, np.float32)
    write_result(local(tmp_path), layouts, pixels, ResultMetadata("mean"))
    receipt = downsample_shard(local(tmp_path), layouts, 1, 0, 0, method="mean")
    assert receipt.empty
    assert not list(tmp_path.rglob("c"))


def test_building_again_gives_the_same_bytes(tmp_path):
    layouts = pyramid_layouts(make_layout((300, 300), channels=2, dtype="float32", fill=np.nan))
    write_result(local(tmp_path), layouts, noise(layouts[0], 2), ResultMetadata("mean"))
    build(local(tmp_path), layouts, "mean")
    before = tree(tmp_path)
    build(local(tmp_path), layouts, "mean")
    assert tree(tmp_path) == before


def test_a_damaged_level_below_fails_the_block(tmp_path):
    layouts = pyramid_layouts(make_layout((300, 300)))
    write_result(local(tmp_path), layouts, noise(layouts[0], 2, 0))
    path = tmp_path / "0" / layouts[0].shard_key(0, 0)
    content = bytearray(path.read_bytes())
    content[:200] = bytes(200)
    path.write_bytes(content)
    with pytest.raises(BlockError, match="expected chunks that decode"):
        downsample_shard(local(tmp_path), layouts, 1, 0, 0, method="nearest")
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(BlockError, match="checksum"):
        downsample_shard(local(tmp_path), layouts, 1, 0, 0, method="nearest")
    assert not list((tmp_path / "1").rglob("c"))
