"""Continuing valid pixels: as one pixel after the other says it, and the same bits in every window."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gigatile.testing.sources import noise
from gigatile.testing.strategies import sizes
from gigatile.tiling import footprint
from gigatile.tiling.border import parse_border
from gigatile.tiling.footprint import continued
from gigatile.tiling.region import Region

from .footprints import footprints, reference, turned_rectangle

RULES = ("reflect", "symmetric", "edge", "constant:9")


def filled(pixels, valid, rule, reach, inner=None):
    inner = inner or Region(0, 0, *valid.shape)
    return continued(pixels.copy(), valid.copy(), inner, parse_border(rule), reach)


@settings(max_examples=200, deadline=None)
@given(st.data(), sizes(26), st.sampled_from(RULES), st.integers(0, 9), st.sampled_from(["uint8", "float32"]))
def test_it_is_what_one_pixel_after_the_other_says(data, shape, rule, reach, dtype):
    pixels, valid = noise((2, *shape), dtype), data.draw(footprints(shape))
    expected = reference(pixels, valid, rule.partition(":")[0], reach, 9)
    assert np.array_equal(filled(pixels, valid, rule, reach), expected)


@settings(max_examples=150, deadline=None)
@given(st.data(), sizes(40), st.sampled_from(RULES), st.integers(0, 7))
def test_a_window_read_twice_the_reach_larger_has_the_bits_of_the_whole(data, shape, rule, reach):
    pixels, valid = noise((1, *shape)), data.draw(footprints(shape))
    y0, x0 = data.draw(st.integers(0, shape[0] - 1)), data.draw(st.integers(0, shape[1] - 1))
    inner = Region(y0, x0, data.draw(st.integers(y0 + 1, shape[0])), data.draw(st.integers(x0 + 1, shape[1])))
    wide = inner.grown(2 * reach, 2 * reach).clipped(Region(0, 0, *shape))
    got = filled(
        pixels[(slice(None), *wide.slices())], valid[wide.slices()], rule, reach, inner.shifted(-wide.y0, -wide.x0)
    )
    assert np.array_equal(got, filled(pixels, valid, rule, reach)[(slice(None), *inner.slices())])


def test_one_pixel_less_than_that_shows():
    """The other side of the test above: it would notice."""
    pixels, valid = noise((1, 1, 40)), np.zeros((1, 40), bool)
    valid[:, :20] = True
    inner = Region(0, 27, 1, 28)
    whole = filled(pixels, valid, "reflect", 8)[:, :, 27:28]
    for less in (0, 1):
        start = 27 - 2 * 8 + less
        got = filled(pixels[:, :, start:], valid[:, start:], "reflect", 8, inner.shifted(0, -start))
        assert np.array_equal(got, whole) == (less == 0)


def test_one_line_at_a_time_gives_the_same(monkeypatch):
    pixels, valid = noise((3, 50, 60)), turned_rectangle((50, 60), (20, 30), (30, 25), 30)
    at_once = filled(pixels, valid, "reflect", 6)
    monkeypatch.setattr(footprint, "PIECE_PX", 1)
    assert np.array_equal(filled(pixels, valid, "reflect", 6), at_once)


def test_the_line_of_the_drawing():
    line = np.array([[[0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 0, 0, 0, 0]]])
    assert filled(line, line[0] > 0, "reflect", 3).tolist() == [[[0, 0, 4, 3, 2, 1, 2, 3, 4, 5, 4, 3, 2, 0]]]


def test_of_two_runs_as_near_the_left_one_is_continued():
    line = np.array([[[1, 2, 0, 0, 0, 7, 8]]])
    assert filled(line, line[0] > 0, "edge", 9).tolist() == [[[1, 2, 2, 2, 7, 7, 8]]]


def test_mirrored_places_bounce_inside_a_short_run():
    line = np.array([[[0, 1, 2, 0, 0, 0, 0]]])
    assert filled(line, line[0] > 0, "reflect", 4).tolist() == [[[2, 1, 2, 1, 2, 1, 2]]]


@settings(max_examples=60, deadline=None)
@given(st.data(), sizes(30), st.integers(1, 6))
def test_nothing_invalid_is_left_within_reach_of_a_valid_pixel(data, shape, reach):
    valid = data.draw(footprints(shape))
    got = filled(np.where(valid, 200, 0)[None], valid, "reflect", reach)[0]
    for y, x in np.argwhere(valid):
        assert (got[max(y - reach, 0) : y + reach + 1, max(x - reach, 0) : x + reach + 1] == 200).all()


def test_valid_pixels_and_those_too_far_stay_as_stored():
    pixels, valid = noise((2, 60, 70)), turned_rectangle((60, 70), (30, 30), (20, 30), 20)
    got = filled(pixels, valid, "symmetric", 4)
    near = reference(np.zeros((1, 60, 70)), valid, "constant", 4, 1)[0] == 1
    assert near.any()
    assert not (near | valid).all()
    assert np.array_equal(got[:, ~near], pixels[:, ~near])
    assert (got[:, near] != pixels[:, near]).any()


@pytest.mark.parametrize("border", ["reflect", "symmetric", "edge"])
def test_folding_along_many_axes_is_folding_along_each(border):
    rule = parse_border(border)
    sizes_, positions = np.repeat(np.arange(1, 9), 41), np.tile(np.arange(-20, 21), 8)
    each = [rule.index(p, p + 1, s)[0] for p, s in zip(positions.tolist(), sizes_.tolist(), strict=True)]
    assert rule.folded(positions, sizes_).tolist() == each
