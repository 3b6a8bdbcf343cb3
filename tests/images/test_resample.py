"""Area means on coarser grids: against plain numpy, scikit-image and overlaps worked out one by one."""

from fractions import Fraction
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.transform import resize_local_mean

from gigatile.errors import UsageError
from gigatile.images.decode_units import edges
from gigatile.images.image import Image
from gigatile.images.info import ImageInfo, Level
from gigatile.images.resample import scaled_grid
from gigatile.testing.sources import CountingSource, FailingSource, UnitSource, noise
from gigatile.testing.strategies import BORDERS, sizes
from gigatile.tiling.border import Border
from gigatile.tiling.region import Region
from gigatile.tiling.scales import Upsampling, parse_scales

REFLECT = Border("reflect")
HALF = Fraction(1, 2)


class Pyramid(UnitSource):
    """Levels of any content, so that it shows which one is read."""

    def __init__(self, levels, factors, unit=(16, 16), nodata=None):
        super().__init__(levels[0], unit, nodata)
        self.all = levels
        made = tuple(
            Level(a.shape[1:], float(f), unit, edges(a.shape[1], unit[0]), edges(a.shape[2], unit[1]))
            for a, f in zip(levels, factors, strict=True)
        )
        names = tuple(f"c{i}" for i in range(len(levels[0])))
        self._info = ImageInfo("<pyramid>", "numpy", levels[0].dtype, names, made, nodata=nodata)

    def decode(self, level, row, col):
        grid = self.info.levels[level]
        window = slice(*grid.edges_y[row : row + 2]), slice(*grid.edges_x[col : col + 2])
        return self.all[level][(slice(None), *window)].copy()


def resampled(source, scale, level=0):
    image = Image(source, level=level)
    return image.on(scaled_grid(image, Fraction(scale)))


def everything(scaled):
    return scaled.read(Region(0, 0, *scaled.grid_shape))


@cache
def overlaps(size: int, scale: Fraction) -> np.ndarray:
    """Share of each pixel in each scaled pixel, worked out one by one; shape (scaled, size)."""
    length = -(-size * scale.numerator // scale.denominator)
    shares = np.zeros((length, size))
    for i in range(length):
        low, high = i / scale, min((i + 1) / scale, Fraction(size))
        for j in range(int(low), min(int(high) + 1, size)):
            inside = min(high, Fraction(j + 1)) - max(low, Fraction(j))
            shares[i, j] = float(max(inside, Fraction(0)) / (high - low))
    return shares


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32", "float64", "bool"])
@pytest.mark.parametrize("factor", [2, 3, 4])
def test_whole_factors_are_block_means(dtype, factor):
    pixels = noise((2, 6 * factor, 5 * factor), dtype)
    got = everything(resampled(UnitSource(pixels, (5, 7)), Fraction(1, factor)))
    assert got.dtype == np.float32
    blocks = pixels.reshape(2, 6, factor, 5, factor).astype(np.float64).mean(axis=(2, 4))
    np.testing.assert_allclose(got, blocks, rtol=1e-7)


@pytest.mark.parametrize(("scale", "shape", "small"), [("2/5", (50, 35), (20, 14)), ("3/4", (40, 64), (30, 48))])
def test_fractional_factors_are_those_of_scikit_image(scale, shape, small):
    pixels = noise((1, *shape), "float32")
    got = everything(resampled(UnitSource(pixels), scale))
    expected = resize_local_mean(pixels[0].astype(float), small, preserve_range=True)
    assert got.shape[1:] == small
    assert np.abs(got[0] - expected).max() < 1e-6


@settings(max_examples=60, deadline=None)
@given(st.data(), sizes(40), st.fractions(Fraction(1, 12), 1, max_denominator=12))
def test_a_window_of_any_scale_is_a_part_of_the_whole(data, shape, scale):
    pixels = noise((2, *shape))
    unit = data.draw(st.tuples(st.integers(1, 20), st.integers(1, 20)))
    scaled = resampled(UnitSource(pixels, unit), scale)
    whole = everything(scaled)
    expected = overlaps(shape[0], scale) @ pixels @ overlaps(shape[1], scale).T
    assert np.abs(whole - expected).max() < 1e-4
    y0, x0 = (data.draw(st.integers(0, side - 1)) for side in whole.shape[1:])
    y1, x1 = data.draw(st.integers(y0 + 1, whole.shape[1])), data.draw(st.integers(x0 + 1, whole.shape[2]))
    assert np.array_equal(scaled.read(Region(y0, x0, y1, x1)), whole[:, y0:y1, x0:x1])


def test_small_slabs_change_no_bit(monkeypatch):
    pixels = noise((3, 61, 53))
    whole = everything(resampled(UnitSource(pixels), "3/10"))
    monkeypatch.setattr("gigatile.images.resample.SLAB_BYTES", 1)
    assert np.array_equal(everything(resampled(UnitSource(pixels), "3/10")), whole)


@pytest.mark.parametrize("border", BORDERS)
def test_the_border_is_that_of_the_scaled_image(border):
    scaled = resampled(UnitSource(noise((1, 33, 47))), HALF)
    mode = "edge" if border == "edge" else border
    expected = np.pad(everything(scaled), ((0, 0), (9, 9), (9, 9)), mode=mode)
    height, width = scaled.grid_shape
    got = scaled.read(Region(-9, -9, height + 9, width + 9), border=Border(border))
    assert np.array_equal(got, expected)
    outside = scaled.read(Region(-9, -9, -2, width), border=Border("constant", 7))
    assert (outside == 7).all()


class TestLevels:
    def levels(self, shapes=((64, 80), (32, 40), (16, 20))):
        return [np.full((1, *shape), 10 * (i + 1), np.uint8) for i, shape in enumerate(shapes)]

    @pytest.mark.parametrize(
        ("scale", "level", "read"),
        [
            (1, 0, 0), ("3/4", 0, 0), ("1/2", 0, 1), ("1/3", 0, 1), ("1/4", 0, 2), ("1/9", 0, 2), ("1/2", 1, 2),
            ("9/10", 1, 1), ("1/8", 2, 2),
        ],
    )  # fmt: skip
    def test_the_coarsest_level_that_is_not_coarser_is_read(self, scale, level, read):
        scaled = resampled(Pyramid(self.levels(), (1, 2, 4)), scale, level)
        assert (everything(scaled) == 10 * (read + 1)).all()

    def test_a_level_that_is_the_grid_is_taken_as_it_is(self):
        levels = [noise((2, 64, 80)), noise((2, 32, 40), seed=1)]
        assert np.array_equal(everything(resampled(Pyramid(levels, (1, 2)), HALF)), levels[1])

    @pytest.mark.parametrize("sizes", [((65, 81), (33, 41)), ((65, 81), (32, 40))])
    def test_levels_that_are_cut_or_filled_up_at_the_end_stay_aligned(self, sizes):
        levels = [noise((1, *sizes[0])), noise((1, *sizes[1]), seed=1)]
        got = everything(resampled(Pyramid(levels, (1, 2)), HALF))
        assert got.shape == (1, 33, 41)
        last = np.pad(levels[1], ((0, 0), (0, 33 - sizes[1][0]), (0, 41 - sizes[1][1])), mode="edge")
        assert np.array_equal(got, last)


class TestValidity:
    def test_nodata_does_not_bleed(self):
        pixels = np.full((2, 20, 20), 100, np.uint8)
        pixels[:, 5:, 7:] = 255
        scaled = resampled(UnitSource(pixels, (6, 6), nodata=255), HALF)
        means, valid = scaled.read_with_validity(Region(0, 0, 10, 10), REFLECT)
        assert (means[:, valid] == 100).all()
        assert (means[:, ~valid] == 255).all()
        expected = np.ones((10, 10), bool)
        expected[3:, 4:] = False
        assert np.array_equal(valid, expected)
        # Without a mask the stored values count.
        assert scaled.read(Region(2, 8, 3, 9)).tolist() == [[[177.5]], [[177.5]]]

    def test_alpha_counts(self):
        pixels = noise((3, 12, 12))
        pixels[2] = 0
        pixels[2, ::2] = 9
        scaled = resampled(UnitSource(pixels, (5, 5), alpha=2), HALF)
        means, valid = scaled.read_with_validity(Region(0, 0, 6, 6), REFLECT)
        assert valid.all()
        assert np.array_equal(means, pixels[:2, ::2].reshape(2, 6, 6, 2).mean(axis=3, dtype=np.float32))

    def test_nan_counts_for_its_channel_only(self):
        pixels = np.ones((2, 8, 8), np.float32)
        pixels[0, :4] = np.nan
        pixels[1, :2, :4] = np.nan
        pixels[1, 0, 6] = np.nan
        scaled = resampled(UnitSource(pixels), HALF)
        means, valid = scaled.read_with_validity(Region(0, 0, 4, 4), REFLECT)
        assert np.array_equal(np.isnan(means[0]), np.arange(4)[:, None] < [2] * 4)
        assert np.array_equal(np.isnan(means[1]), (np.arange(4)[:, None] < 1) & (np.arange(4) < 2))
        assert np.array_equal(valid, ~np.isnan(means[1]))
        assert set(means[~np.isnan(means)]) == {1}

    @settings(max_examples=40, deadline=None)
    @given(st.data(), sizes(30), st.fractions(Fraction(1, 8), 1, max_denominator=8))
    def test_the_same_bits_whether_or_not_something_in_the_window_is_invalid(self, data, shape, scale):
        pixels = noise((1, *shape)) // 2 + 1
        holes = data.draw(st.integers(0, 2**16))
        pixels[0][np.random.default_rng(holes).random(shape) < 0.1] = 0
        scaled = resampled(UnitSource(pixels, nodata=0), scale)
        height, width = scaled.grid_shape
        whole, valid = scaled.read_with_validity(Region(0, 0, height, width), REFLECT)
        shares = overlaps(shape[0], scale), overlaps(shape[1], scale)
        weight = shares[0] @ (pixels[0] > 0) @ shares[1].T
        total = shares[0] @ pixels[0] @ shares[1].T
        assert np.array_equal(valid, weight > 1e-9)
        assert np.abs(whole[0] - total / np.where(valid, weight, 1))[valid].max(initial=0) < 1e-4
        y, x = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
        one, known = scaled.read_with_validity(Region(y, x, y + 1, x + 1), REFLECT)
        assert np.array_equal(one[0], whole[0, y : y + 1, x : x + 1])
        assert known[0, 0] == valid[y, x]


def test_what_it_decodes_does_not_count_for_the_image():
    source = CountingSource(UnitSource(noise((1, 64, 64))))
    image = Image(source)
    everything(image.on(scaled_grid(image, HALF)))
    assert sum(source.decoded.values()) == 16
    assert image.counter.take() == 0


def test_a_broken_unit_is_told():
    image = Image(FailingSource(UnitSource(noise((1, 64, 64))), [(0, 2, 2)]))
    scaled = image.on(scaled_grid(image, HALF))
    scaled.read(Region(0, 0, 16, 32))
    with pytest.raises(RuntimeError, match="unit 2, 2"):
        scaled.read(Region(0, 0, 32, 32))


@pytest.mark.parametrize(
    "scales", [(0.5,), (1, 0), (1, -0.5), (1, 2), (1, 1.0), (1, 0.5, 0.5), (), (1, 0.00001), (True,)]
)
def test_scales_that_make_no_sense_are_refused(scales):
    with pytest.raises(UsageError, match=r"multiscale.*1 among them"):
        parse_scales(scales)


def test_scales_are_exact_ratios_the_largest_first():
    assert parse_scales([0.5, 1 / 3, 1, 0.1234]) == (1, HALF, Fraction(1, 3), Fraction(617, 5000))


@pytest.mark.parametrize("scale", ["1/2", "1/3", "3/10", "1/7"])
@pytest.mark.parametrize("size", [1, 2, 13, 40])
def test_interpolation_aligns_pixel_centres(scale, size):
    scale = Fraction(scale)
    length = -(-size * scale.numerator // scale.denominator)
    up = Upsampling(scale, length)
    values = np.random.default_rng(0).random(length)
    lower, upper, share = up.between(0, size)
    got = values[lower] * (1 - share) + values[upper] * share
    places = (np.arange(size) + 0.5) * float(scale) - 0.5
    assert np.allclose(got, np.interp(places, np.arange(length), values), atol=1e-7)
    for start in range(size):
        first, last = up.needed(start, size)
        assert first == lower[start:].min()
        assert last == upper[start:].max() + 1
