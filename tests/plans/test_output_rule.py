"""What is stored for a pixel: classes, probabilities, raw values, and the fill of invalid ones."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gigatile.errors import BlockError, UsageError
from gigatile.outputs.rule import OutputRule, output_rule
from gigatile.testing.sources import noise

FLOAT = np.dtype("float32")


def rule(output="classes", dtype=None, *, model=FLOAT, channels=3, blend="hann") -> OutputRule:
    return output_rule(output, dtype, np.dtype(model), channels, blend)


class TestClasses:
    @given(hnp.arrays(np.float32, (4, 3, 5), elements=st.integers(-2, 2).map(float)))
    def test_the_largest_channel_wins_and_the_lowest_of_equals(self, band):
        assert np.array_equal(rule(channels=4).finished(band, None, ""), band.argmax(axis=0))

    def test_one_channel_is_a_threshold_above_a_half(self):
        band = np.array([[[0.5, np.nextafter(np.float32(0.5), np.float32(1)), 0.0, 1.0]]], np.float32)
        assert rule(channels=1).finished(band, None, "").tolist() == [[0, 1, 0, 1]]

    def test_the_order_holds_for_logits_below_zero_and_for_minus_infinity(self):
        band = np.array([[[-5.0, -np.inf]], [[-4.0, -np.inf]], [[-6.0, -3.0]]], np.float32)
        assert rule().finished(band, None, "").tolist() == [[1, 2]]

    @pytest.mark.parametrize(("channels", "dtype", "fill"), [(2, "u1", 255), (255, "u1", 255), (256, "u2", 65535)])
    def test_bytes_up_to_255_classes_and_two_bytes_above(self, channels, dtype, fill):
        made = rule(channels=channels)
        assert made.dtype == np.dtype(dtype)
        assert made.fill == fill
        band = np.zeros((channels, 1, 2), np.float32)
        band[-1, 0, 0] = 1
        assert made.finished(band, np.array([[True, False]]), "").tolist() == [[channels - 1, fill]]


class TestProbabilities:
    def test_bytes_are_254_p_rounded(self):
        p = noise((2, 20, 20), "float32")
        p[0, 0, :3] = 0, 1, 0.5
        got = rule("probabilities", "uint8").finished(p, None, "")
        assert got.dtype == np.uint8
        assert np.array_equal(got, np.round(254 * p))
        assert got[0, 0, :3].tolist() == [0, 254, 127]

    def test_invalid_pixels_are_255_which_no_probability_is(self):
        p = np.ones((1, 1, 2), np.float32)
        assert rule("probabilities", "uint8", channels=1).finished(p, np.array([[True, False]]), "").tolist() == [
            [[254, 255]]
        ]

    @pytest.mark.parametrize("value", [-0.01, 1.01, 37.0])
    def test_what_is_no_probability_is_not_squeezed_into_a_byte(self, value):
        p = np.full((1, 2, 2), 0.5, np.float32)
        p[0, 1, 1] = value
        with pytest.raises(BlockError, match="--activation"):
            rule("probabilities", "uint8", channels=1).finished(p, None, "block")

    def test_at_invalid_pixels_it_does_not_matter(self):
        p = np.array([[[0.5, 37.0]]], np.float32)
        got = rule("probabilities", "uint8", channels=1).finished(p, np.array([[True, False]]), "")
        assert got.tolist() == [[[127, 255]]]

    def test_rounding_errors_beyond_0_and_1_are_clipped(self):
        p = np.array([[[-1e-7, 1 + 1e-6]]], np.float32)
        assert rule("probabilities", "uint8", channels=1).finished(p, None, "").tolist() == [[[0, 254]]]

    @pytest.mark.parametrize("dtype", ["float32", "float16"])
    def test_floats_are_stored_as_they_are_with_nan_for_invalid(self, dtype):
        p = noise((2, 4, 4), "float32")
        valid = np.ones((4, 4), bool)
        valid[1, 2] = False
        got = rule("probabilities", dtype).finished(p, valid, "")
        assert got.dtype == dtype
        assert np.isnan(got[:, 1, 2]).all()
        assert np.array_equal(got[:, valid], p.astype(dtype)[:, valid])


class TestRaw:
    @pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
    def test_floats_keep_the_models_dtype_with_any_blend(self, dtype):
        made = rule("raw", model=dtype)
        assert made.dtype == np.dtype(dtype)
        assert np.isnan(made.fill)

    @pytest.mark.parametrize("dtype", ["uint8", "int16", "int64", "bool"])
    def test_whole_numbers_need_trim(self, dtype):
        with pytest.raises(UsageError, match="--blend trim"):
            rule("raw", model=dtype)
        made = rule("raw", model=dtype, blend="trim")
        assert made.dtype == (np.dtype(dtype) if dtype != "bool" else np.uint8)

    @pytest.mark.parametrize(("dtype", "fill"), [("uint8", 255), ("uint16", 65535)])
    def test_invalid_whole_numbers_are_the_largest(self, dtype, fill):
        got = rule("raw", model=dtype, blend="trim").finished(np.ones((1, 1, 2), dtype), np.array([[True, False]]), "")
        assert got.tolist() == [[[1, fill]]]


class TestContradictions:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"output": "labels"}, "classes, probabilities, raw"),
            ({"output": "probabilities", "dtype": "int8"}, "float32, float16 or uint8"),
            ({"output": "classes", "dtype": "float32"}, "Leave it out"),
            ({"output": "raw", "dtype": "float16"}, "Leave it out"),
            ({"output": "raw", "dtype": "uint8"}, "Leave it out"),
        ],
    )
    def test_they_are_refused_with_what_to_do(self, arguments, message):
        with pytest.raises(UsageError, match=message):
            rule(**arguments)

    def test_saying_what_is_so_anyway_is_no_contradiction(self):
        assert rule("classes", "uint8") == rule("classes")
        assert rule("raw", "float32") == rule("raw")
        assert rule("probabilities", "float32") == rule("probabilities")


class TestNaN:
    @pytest.mark.parametrize("output", ["classes", "probabilities", "raw"])
    @pytest.mark.parametrize("channel", [0, 2])
    def test_nan_where_the_input_was_valid_fails_the_block_and_says_where(self, output, channel):
        band = noise((3, 4, 6), "float32")
        band[channel, 2, 3] = np.nan
        with pytest.raises(BlockError, match=r"block 7.*NaN at 1 pixels.*2 rows down and 3 columns right"):
            rule(output).finished(band, None, "block 7")

    def test_nan_in_one_channel_of_one_is_no_class_0(self):
        with pytest.raises(BlockError, match="NaN"):
            rule(channels=1).finished(np.full((1, 2, 2), np.nan, np.float32), None, "")

    @pytest.mark.parametrize("output", ["classes", "probabilities", "raw"])
    def test_nan_where_the_input_was_invalid_is_the_fill(self, output):
        band = noise((3, 4, 6), "float32")
        band[:, 2, 3] = np.nan
        valid = np.ones((4, 6), bool)
        valid[2, 3] = False
        made = rule(output)
        got = made.finished(band, valid, "")
        assert np.isnan(got[..., 2, 3]).all() if made.dtype.kind == "f" else (got[..., 2, 3] == made.fill).all()
        clean = np.nan_to_num(band)
        assert np.array_equal(got[..., valid], made.finished(clean, None, "")[..., valid])

    def test_the_result_is_a_new_array(self):
        band = noise((3, 4, 6), "float32")
        assert not np.shares_memory(rule("raw").finished(band, None, ""), band)
