from __future__ import annotations

import copy
import json
import math
import pickle
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gigatile.errors import UsageError
from gigatile.outputs.layout import SMALLEST_LEVEL, ArrayLayout, default_fill, pyramid_layouts

from .helpers import make_layout


@settings(max_examples=40, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    chunk=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    times=st.tuples(st.integers(1, 4), st.integers(1, 4)),
)
def test_shards_cover_every_pixel_once(shape, chunk, times):
    layout = make_layout(shape, chunk=chunk, shard=(chunk[0] * times[0], chunk[1] * times[1]))
    count = np.zeros(shape, dtype=np.uint8)
    for row in range(layout.grid[0]):
        for col in range(layout.grid[1]):
            assert layout.region(row, col).pixels > 0
            count[layout.region(row, col).slices()] += 1
    assert (count == 1).all()


def test_shard_keys_name_row_and_column():
    assert make_layout().shard_key(3, 4) == "c/3/4"
    assert make_layout(channels=2).shard_key(3, 4) == "c/0/3/4"


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "int32", "float16", "float32", "float64"])
@pytest.mark.parametrize("channels", [None, 1, 5])
def test_metadata_says_all_that_the_layout_knows(dtype, channels):
    layout = make_layout(channels=channels, dtype=dtype, fill=default_fill(np.dtype(dtype)))
    document = json.loads(json.dumps(layout.metadata(), allow_nan=False))
    assert ArrayLayout.from_metadata(document) == layout


@pytest.mark.parametrize(
    "change",
    [
        {"shape": (101, 90)},
        {"channels": 1},
        {"dtype": "int16"},
        {"fill": 254},
        {"shard": (128, 64)},
        {"chunk": (32, 32)},
    ],
)
def test_every_field_takes_part_in_equality(change):
    assert make_layout(**change) != make_layout()
    assert make_layout(**change).metadata() != make_layout().metadata()


def test_layouts_with_nan_fill_are_equal_after_travelling():
    layout = make_layout(dtype="float32", fill=math.nan)
    others = [
        pickle.loads(pickle.dumps(layout)),
        copy.deepcopy(layout),
        make_layout(dtype="float32", fill=np.float32("nan")),
    ]
    assert all(other == layout and hash(other) == hash(layout) for other in others)


@pytest.mark.parametrize(
    "wrong",
    [
        {"shape": (0, 5)},
        {"channels": 0},
        {"shard": (60, 64)},
        {"chunk": (0, 32)},
        {"fill": 256},
        {"fill": -1},
        {"fill": 0.5},
        {"fill": math.nan},
        {"fill": math.inf},
        {"dtype": "complex64"},
        {"dtype": "bool", "fill": 0},
    ],
)
def test_impossible_layouts_are_refused(wrong):
    with pytest.raises(UsageError, match="array layout: expected"):
        make_layout(**wrong)


def test_metadata_of_others_is_refused():
    document = make_layout().metadata()
    with pytest.raises(UsageError, match="codecs"):
        ArrayLayout.from_metadata({**document, "codecs": [document["codecs"][0]] * 2})
    with pytest.raises(UsageError, match="KeyError"):
        ArrayLayout.from_metadata({"zarr_format": 3})


@settings(max_examples=50, deadline=None)
@given(st.tuples(st.integers(1, 100_000), st.integers(1, 100_000)), st.sampled_from([64, 256, 512]))
def test_pyramid_halves_until_it_fits(shape, chunk):
    levels = pyramid_layouts(make_layout(shape, shard=(chunk, chunk), chunk=(chunk, chunk)))
    limit = max(chunk, SMALLEST_LEVEL)
    for fine, coarse in pairwise(levels):
        assert max(fine.shape) > limit
        assert coarse.shape == (math.ceil(fine.shape[0] / 2), math.ceil(fine.shape[1] / 2))
        assert (coarse.shard, coarse.chunk, coarse.dtype) == (fine.shard, fine.chunk, fine.dtype)
    assert max(levels[-1].shape) <= limit


def test_any_nan_is_fill_but_no_number_is():
    layout = make_layout(dtype="float32", fill=math.nan)
    odd_nan = np.array([0x7FC00001, 0xFFC12345], dtype=np.uint32).view(np.float32)
    assert layout.is_fill(odd_nan)
    assert not layout.is_fill(np.array([np.nan, 0.0], dtype=np.float32))
    assert not layout.is_fill(np.array([0.0, np.nan], dtype=np.float32))
