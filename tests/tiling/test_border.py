"""Border rules are numpy's, by index."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gigatile.errors import UsageError
from gigatile.tiling.border import Border, parse_border


@pytest.mark.parametrize("rule", ["reflect", "symmetric", "edge"])
@given(size=st.integers(1, 12), before=st.integers(0, 60), after=st.integers(0, 60))
@example(size=1, before=9, after=4)
@example(size=2, before=31, after=30)
@example(size=3, before=0, after=50)
def test_border_index_is_numpys_pad(rule, size, before, after):
    image = np.arange(size)
    got = image[Border(rule).index(-before, size + after, size)]
    assert np.array_equal(got, np.pad(image, (before, after), mode=rule))


@pytest.mark.parametrize("rule", ["reflect", "symmetric", "edge"])
@given(size=st.integers(1, 9), start=st.integers(-40, 40), length=st.integers(0, 30))
def test_any_window_is_a_crop_of_the_padded_line(rule, size, start, length):
    image = np.arange(size)
    padded = np.pad(image, 80, mode=rule)
    got = image[Border(rule).index(start, start + length, size)]
    assert np.array_equal(got, padded[80 + start : 80 + start + length])


def test_reflect_does_not_repeat_the_edge_and_symmetric_does():
    assert Border("reflect").index(-3, 0, 5).tolist() == [3, 2, 1]
    assert Border("symmetric").index(-3, 0, 5).tolist() == [2, 1, 0]


def test_constant_marks_only_what_lies_outside():
    assert Border("constant", 7).index(-2, 5, 3).tolist() == [-1, -1, 0, 1, 2, -1, -1]


@pytest.mark.parametrize("text", ["reflect", "symmetric", "edge"])
def test_rules_without_a_number_are_read(text):
    assert parse_border(text) == Border(text)


@pytest.mark.parametrize(("text", "value"), [("constant:0", 0.0), ("constant:-1.5", -1.5), ("constant:255", 255.0)])
def test_constant_takes_its_number(text, value):
    assert parse_border(text) == Border("constant", value)


@pytest.mark.parametrize("text", ["", "wrap", "constant", "constant:", "constant:grey", "reflect:1", "Reflect"])
def test_unknown_rules_are_refused_with_the_known_ones(text):
    with pytest.raises(UsageError, match="border") as caught:
        parse_border(text)
    assert "constant" in str(caught.value)
