"""Laws of the grid along one axis, by counting and by brute force."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gigatile.testing.strategies import axes
from gigatile.tiling.axis import BLENDS, Axis, window
from gigatile.tiling.border import Border


def weights_by_ratios(axis: Axis) -> np.ndarray:
    """Weight of each tile at each pixel that the running mean amounts to; shape (tiles, size)."""
    # m += r (v - m) multiplies what came before by (1 - r): the weight of tile i is r_i prod(1 - r_j), j > i.
    weights = np.zeros((axis.count, axis.size))
    for index in range(axis.count):
        start, stop = axis.support(index)
        ratios = axis.ratios(index).astype(float)
        weights[:index, start:stop] *= 1 - ratios
        weights[index, start:stop] = ratios
    return weights


@given(axes())
def test_cores_cover_every_pixel_once(axis):
    seen = np.zeros(axis.size, int)
    for index in range(axis.count):
        start, stop = axis.core(index)
        assert start < stop
        seen[start:stop] += 1
    assert (seen == 1).all()


@given(axes())
def test_a_tile_reads_its_support_with_the_margin_to_spare(axis):
    for index in range(axis.count):
        low, high = axis.read(index)
        start, stop = axis.support(index)
        margin = axis.halo - axis.reach
        assert high - low == axis.tile
        assert low + margin <= start
        assert stop <= high - margin


@given(axes())
def test_weights_of_all_tiles_sum_to_one_at_every_pixel(axis):
    weights = weights_by_ratios(axis)
    assert np.allclose(weights.sum(axis=0), 1, atol=1e-6)
    assert (weights >= 0).all()


@given(axes())
def test_every_tile_has_weight_at_every_pixel_of_its_support(axis):
    for index in range(axis.count):
        start, stop = axis.support(index)
        ratios = axis.ratios(index)
        assert ratios.shape == (stop - start,)
        assert (ratios > 0).all()
        assert (ratios <= 1).all()


@given(axes())
def test_running_mean_weights_are_the_windows_normalised(axis):
    width = axis.stride + 2 * axis.reach
    shape = window(axis.blend, axis.tile, width, axis.stride)
    assert np.array_equal(shape, shape[::-1])
    direct = np.zeros((axis.count, axis.size))
    for index in range(axis.count):
        offset = index * axis.stride - axis.reach
        start, stop = axis.support(index)
        direct[index, start:stop] = shape[start - offset : stop - offset]
    direct /= direct.sum(axis=0)
    assert np.allclose(weights_by_ratios(axis), direct, atol=1e-6)


@given(axes())
def test_the_first_tile_to_reach_a_pixel_takes_it_whole(axis):
    reached = 0
    for index in range(axis.count):
        start, stop = axis.support(index)
        assert axis.fresh(index) == reached
        assert start <= reached
        assert (axis.ratios(index)[reached - start :] == 1).all()
        reached = stop
    assert reached == axis.size


@given(axes(), st.data())
def test_covering_tiles_are_those_whose_support_meets_the_interval(axis, data):
    start = data.draw(st.integers(0, axis.size - 1))
    stop = data.draw(st.integers(start + 1, axis.size))
    meeting = [i for i in range(axis.count) if axis.support(i)[0] < stop and axis.support(i)[1] > start]
    assert list(axis.covering(start, stop)) == meeting


def test_a_last_tile_that_hangs_over_by_more_than_it_covers_reads_back_beyond_its_own_start():
    # Core 3 is one pixel wide: tile 3 reads [26, 44) and sees 30 - 13 = 17 as the mirror image of 43.
    assert Axis(31, 18, 4, 0, "trim").reads(30, 31) == (17, 31)
    assert Axis(31, 18, 4, 0, "trim").reads(20, 30) == (16, 31)


@settings(max_examples=300)
@given(axes(), st.data(), st.sampled_from(["reflect", "symmetric", "edge", "constant"]))
def test_reads_hold_every_pixel_that_the_tiles_see_through_the_border(axis, data, rule):
    start = data.draw(st.integers(0, axis.size - 1))
    stop = data.draw(st.integers(start + 1, axis.size))
    low, high = axis.reads(start, stop)
    assert 0 <= low < high <= axis.size
    for index in axis.covering(start, stop):
        seen = Border(rule).index(*axis.read(index), axis.size)
        seen = seen[seen >= 0]
        assert seen.min(initial=high - 1) >= low
        assert seen.max(initial=low) < high


@given(axes())
def test_the_grid_does_not_depend_on_the_size_of_the_image(axis):
    larger = Axis(axis.size + 17, axis.tile, axis.halo, axis.reach, axis.blend)
    for index in range(axis.count):
        assert larger.read(index) == axis.read(index)
        assert larger.core(index)[0] == axis.core(index)[0]


@pytest.mark.parametrize("blend", BLENDS)
def test_windows_are_positive_up_to_the_last_pixel(blend):
    assert (window(blend, 64, 64, 32) > 0).all()
    assert (window(blend, 64, 64, 2) > 0).all()


@pytest.mark.parametrize("blend", ["linear", "hann"])
@settings(max_examples=30)
@given(tile=st.integers(4, 64), data=st.data())
def test_with_overlap_up_to_half_a_tile_neighbouring_windows_sum_to_one_by_themselves(blend, tile, data):
    halo = data.draw(st.integers(0, tile // 4))
    stride = tile - 2 * halo
    shape = window(blend, tile, tile, stride)
    both = shape[stride:] + shape[: tile - stride]
    assert np.allclose(both, 1)
    assert np.allclose(shape[tile - stride : stride], 1)


def test_hann_is_sine_squared_and_linear_is_a_straight_ramp():
    position = (np.arange(8) + 0.5) / 8
    assert np.allclose(window("linear", 32, 32, 24)[:8], position)
    assert np.allclose(window("hann", 32, 32, 24)[:8], np.sin(np.pi / 2 * position) ** 2)


def test_gaussian_has_a_sigma_of_an_eighth_of_the_tile():
    shape = window("gaussian", 64, 64, 32)
    # Pixel centres 4 px left and right of the middle lie half a sigma of 8 px away.
    assert shape[27] / shape[31] == pytest.approx(np.exp(-0.5 * (4.5**2 - 0.5**2) / 8**2))


@pytest.mark.parametrize(("blend", "expected"), [("trim", 0), ("mean", 0.5)])
def test_trim_takes_one_tile_and_mean_takes_the_average(blend, expected):
    axis = Axis(32, 16, 4, 0 if blend == "trim" else 4, blend)
    weights = weights_by_ratios(axis)
    assert weights[1, 7] == expected
    assert weights[1, 8] == (1 if blend == "trim" else 0.5)
