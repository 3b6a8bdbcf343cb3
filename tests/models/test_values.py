"""The numbers that go in and come out, as the contract words them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gigatile.errors import ImageError, UsageError
from gigatile.models.values import Values, check_dtype
from gigatile.testing.sources import noise


@pytest.mark.parametrize(
    "dtype", ["bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "float16", "float32", "float64"]
)
def test_everything_becomes_float32_and_a_new_array(dtype):
    pixels = noise((2, 5, 6), dtype)
    out = Values(scale=1.0).normalised(pixels)
    assert out.dtype == np.float32
    assert np.array_equal(out, pixels.astype(np.float32))
    assert not np.shares_memory(out, pixels)


@pytest.mark.parametrize(
    ("dtype", "scale"), [("uint8", 1 / 255), ("bool", 1), ("int8", 1), ("uint16", 1), ("float32", 1), ("float64", 1)]
)
def test_the_default_scale_is_one_over_255_for_bytes_and_1_otherwise(dtype, scale):
    assert Values().scale_for(np.dtype(dtype)) == scale


def test_the_scale_is_a_float32_and_comes_before_mean_and_std():
    pixels = noise((2, 5, 6))
    out = Values(0.1, (0.3, 0.7), (0.2, 0.4)).normalised(pixels)
    mean, std = (np.array(v, np.float32)[:, None, None] for v in ((0.3, 0.7), (0.2, 0.4)))
    assert np.array_equal(out, (pixels.astype(np.float32) * np.float32(0.1) - mean) / std)


@pytest.mark.parametrize(
    ("options", "formula"),
    [
        ({}, lambda p: p * np.float32(1 / 255)),
        ({"mean": (0.5,)}, lambda p: p * np.float32(1 / 255) - np.float32(0.5)),
        ({"std": (0.25,)}, lambda p: p * np.float32(1 / 255) / np.float32(0.25)),
        ({"scale": 1.0}, lambda p: p),
    ],
)
def test_absent_steps_are_skipped(options, formula):
    pixels = noise((1, 5, 6))
    assert np.array_equal(Values(**options).normalised(pixels), formula(pixels.astype(np.float32)))


def test_nan_is_zero_after_normalisation_whatever_the_mean():
    pixels = np.array([[[np.nan, 3.0]]], np.float32)
    assert Values(mean=(1.0,)).normalised(pixels).tolist() == [[[0.0, 2.0]]]


@pytest.mark.parametrize("numbers", [(1.0, 2.0), (1.0, 2.0, 3.0, 4.0)])
@pytest.mark.parametrize("name", ["mean", "std"])
def test_one_number_or_one_a_channel(name, numbers):
    Values(**{name: (1.0,)}).check(3)
    Values(**{name: (1.0, 2.0, 3.0)}).check(3)
    with pytest.raises(UsageError, match=f"{name}.*1 or 3"):
        Values(**{name: numbers}).check(3)


def test_a_deviation_of_zero_and_an_unknown_activation_are_refused():
    with pytest.raises(UsageError, match="std"):
        Values(std=(1.0, 0.0))
    with pytest.raises(UsageError, match="sigmoid, softmax"):
        Values(activation="relu")


logits = st.lists(st.floats(-200, 200, width=32), min_size=2, max_size=6)


@given(logits)
def test_softmax_is_a_distribution_over_channels_in_the_order_of_the_logits(values):
    x = np.array(values, np.float32).reshape(1, -1, 1, 1)
    out = Values(activation="softmax").activated(x)
    assert out.dtype == np.float32
    assert out.sum() == pytest.approx(1, abs=1e-6)
    exact = np.exp(np.array(values, float) - max(values))
    assert np.allclose(out.ravel(), exact / exact.sum(), atol=1e-6)


@given(logits)
def test_sigmoid_never_overflows(values):
    x = np.array(values, np.float32).reshape(1, -1, 1, 1)
    out = Values(activation="sigmoid").activated(x)
    assert out.dtype == np.float32
    assert np.allclose(out.ravel(), 1 / (1 + np.exp(-np.array(values, float))), atol=1e-6)


def test_softmax_over_one_channel_is_refused_in_favour_of_sigmoid():
    with pytest.raises(UsageError, match="sigmoid"):
        Values(activation="softmax").activated(np.zeros((1, 1, 4, 4), np.float32))


@pytest.mark.parametrize("dtype", ["float16", "int32", "float64"])
def test_without_an_activation_the_models_dtype_stays(dtype):
    assert Values().activated(np.zeros((1, 1, 4, 4), dtype)).dtype == dtype


@pytest.mark.parametrize("dtype", ["complex64", "U3", "datetime64[s]"])
def test_pixels_that_are_no_real_numbers_are_refused(dtype):
    with pytest.raises(ImageError, match="real numbers"):
        check_dtype("image", np.dtype(dtype))
