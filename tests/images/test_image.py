"""One lazy image for all formats: windows, channels, levels, validity, dask."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gigatile as gt
from gigatile.errors import BlockError, UsageError
from gigatile.images.image import Image
from gigatile.images.memory import ArraySource
from gigatile.testing.sources import CountingSource, FailingSource, UnitSource, noise, noise_source
from gigatile.tiling.border import Border
from gigatile.tiling.region import Region

REFLECT = Border("reflect")


@settings(max_examples=60)
@given(st.data())
def test_a_window_inside_is_a_slice_whatever_the_units(data):
    shape = data.draw(st.tuples(st.integers(1, 3), st.integers(1, 40), st.integers(1, 40)))
    unit = data.draw(st.tuples(st.integers(1, 50), st.integers(1, 50)))
    y0, x0 = data.draw(st.integers(0, shape[1])), data.draw(st.integers(0, shape[2]))
    y1, x1 = data.draw(st.integers(y0, shape[1])), data.draw(st.integers(x0, shape[2]))
    pixels = noise(shape)
    got = Image(UnitSource(pixels, unit)).read(Region(y0, x0, y1, x1))
    assert np.array_equal(got, pixels[:, y0:y1, x0:x1])


def test_what_is_read_may_be_changed_without_harm():
    pixels = noise((2, 40, 40))
    image = gt.open(pixels.copy(), axes="cyx")
    for region in (Region(0, 0, 8, 8), Region(0, 0, 40, 40), Region(-4, -4, 8, 8)):
        image.read(region)[:] = 0
        assert np.array_equal(image.read(Region(0, 0, 40, 40)), pixels)


@pytest.mark.parametrize(("axes", "shape"), [("cyx", (3, 20, 24)), ("yxc", (20, 24, 3)), ("yx", (20, 24))])
def test_arrays_become_channel_first(axes, shape):
    pixels = noise(shape)
    expected = {"cyx": pixels, "yxc": np.moveaxis(pixels, -1, 0) if pixels.ndim == 3 else pixels, "yx": pixels[None]}
    image = gt.open(pixels, axes=axes)
    assert image.shape == expected[axes].shape
    assert np.array_equal(image.read(gt.Region(0, 0, 20, 24)), expected[axes])


@pytest.mark.parametrize("unit", [(8, 8), (7, 64), (64, 5)])
def test_dask_computes_to_the_pixels(unit):
    pixels = noise((2, 33, 41))
    lazy = Image(UnitSource(pixels, unit)).dask()
    assert lazy.shape == pixels.shape
    assert lazy.dtype == pixels.dtype
    assert np.array_equal(lazy.compute(scheduler="synchronous"), pixels)
    assert np.array_equal(lazy[1, 5:30, 3:9].compute(scheduler="synchronous"), pixels[1, 5:30, 3:9])


def test_dask_reads_nothing_before_it_is_computed():
    source = CountingSource(noise_source((1, 32, 32), (8, 8)))
    lazy = Image(source).dask()
    assert not source.decoded
    lazy[:, :8, :8].compute(scheduler="synchronous")
    assert dict(source.decoded) == {(0, 0, 0): 1}


def test_opening_and_describing_reads_no_pixels():
    source = CountingSource(noise_source((3, 32, 32)))
    image = Image(source).select([0, 2])
    assert (image.shape, image.grid_shape, len(image.levels)) == ((2, 32, 32), (32, 32), 1)
    assert not source.decoded


@pytest.mark.parametrize("chosen", [[0], [2, 0], ["c1"], ["c2", 0, "c1"], [1, 1]])
def test_channels_come_in_the_order_that_was_asked_for(chosen):
    pixels = noise((3, 20, 20))
    image = Image(UnitSource(pixels, (7, 7))).select(chosen)
    indices = [int(c[1]) if isinstance(c, str) else c for c in chosen]
    assert image.shape == (len(chosen), 20, 20)
    assert np.array_equal(
        image.read(Region(-3, 2, 18, 25)), Image(UnitSource(pixels[indices])).read(Region(-3, 2, 18, 25))
    )
    assert image.channels == tuple(f"c{i}" for i in indices)


@pytest.mark.parametrize(
    "asked", [{"channels": [3]}, {"channels": [-1]}, {"channels": ["red"]}, {"level": 1}, {"level": -1}]
)
def test_channels_and_levels_that_are_not_there_are_refused(asked):
    with pytest.raises(UsageError, match="expected"):
        Image(noise_source((3, 20, 20))).select(**asked)


def test_a_selection_leaves_the_other_image_as_it_was():
    image = Image(noise_source((3, 20, 20)))
    image.select([1])
    assert image.selected == (0, 1, 2)


def test_an_image_can_be_pickled_with_its_choice():
    pixels = noise((3, 20, 20))
    image = pickle.loads(pickle.dumps(Image(UnitSource(pixels)).select([2])))
    assert np.array_equal(image.read(Region(0, 0, 20, 20)), pixels[2:])


class TestValidity:
    def test_without_nodata_alpha_or_floats_nothing_is_invalid(self):
        image = Image(noise_source((2, 20, 20)))
        assert not image.has_validity
        assert image.read_with_validity(Region(-2, -2, 22, 22), REFLECT)[1] is None

    def test_a_pixel_is_nodata_only_where_every_channel_is(self):
        pixels = noise((2, 20, 20)) % 2
        image = Image(UnitSource(pixels, (6, 6), nodata=1))
        read, valid = image.read_with_validity(Region(0, 0, 20, 20), REFLECT)
        assert np.array_equal(valid, ~((pixels[0] == 1) & (pixels[1] == 1)))
        assert np.array_equal(read, pixels), "invalid pixels enter as stored"
        assert 0 < valid.sum() < valid.size

    def test_only_the_selected_channels_count_for_nodata(self):
        pixels = np.ones((2, 8, 8), np.uint8)
        pixels[1] = 7
        image = Image(UnitSource(pixels, nodata=1))
        assert image.read_with_validity(Region(0, 0, 8, 8), REFLECT)[1].all()
        assert not image.select([0]).read_with_validity(Region(0, 0, 8, 8), REFLECT)[1].any()

    def test_alpha_is_validity_and_no_channel(self):
        pixels = noise((3, 20, 20))
        pixels[2] %= 2
        image = Image(UnitSource(pixels, (6, 6), alpha=2))
        read, valid = image.read_with_validity(Region(0, 0, 20, 20), REFLECT)
        assert image.shape == (2, 20, 20)
        assert np.array_equal(read, pixels[:2])
        assert np.array_equal(valid, pixels[2] != 0)

    def test_alpha_counts_whatever_channels_are_selected(self):
        pixels = noise((3, 20, 20))
        pixels[2] %= 2
        read, valid = Image(UnitSource(pixels, alpha=2)).select([1]).read_with_validity(Region(0, 0, 20, 20), REFLECT)
        assert np.array_equal(read, pixels[1:2])
        assert np.array_equal(valid, pixels[2] != 0)

    def test_alpha_in_the_middle_is_left_out_of_the_channels(self):
        pixels = noise((3, 20, 20))
        image = Image(UnitSource(pixels, alpha=1))
        assert np.array_equal(image.read(Region(0, 0, 20, 20)), pixels[[0, 2]])
        assert np.array_equal(image.read_with_validity(Region(0, 0, 20, 20), REFLECT)[1], pixels[1] != 0)

    def test_with_alpha_and_nodata_either_makes_a_pixel_invalid(self):
        pixels = noise((2, 20, 20)) % 2
        _, valid = Image(UnitSource(pixels, nodata=1, alpha=1)).read_with_validity(Region(0, 0, 20, 20), REFLECT)
        assert np.array_equal(valid, (pixels[1] != 0) & (pixels[0] != 1))

    def test_a_pixel_is_nan_only_where_every_channel_is(self):
        pixels = noise((2, 20, 20), "float32")
        pixels[0, 3:9, 3:9] = np.nan
        pixels[1, 6:12, 6:12] = np.nan
        _, valid = Image(UnitSource(pixels, (6, 6))).read_with_validity(Region(0, 0, 20, 20), REFLECT)
        expected = np.ones((20, 20), bool)
        expected[6:9, 6:9] = False
        assert np.array_equal(valid, expected)

    def test_nan_as_nodata_is_nan(self):
        pixels = noise((1, 20, 20), "float32")
        pixels[0, 3:9, 3:9] = np.nan
        _, valid = Image(UnitSource(pixels, nodata=float("nan"))).read_with_validity(Region(0, 0, 20, 20), REFLECT)
        assert np.array_equal(valid, ~np.isnan(pixels[0]))

    def test_a_float_image_has_nodata_and_nan(self):
        pixels = noise((1, 20, 20), "float32")
        pixels[0, 0, 0], pixels[0, 1, 1] = np.nan, -9999
        _, valid = Image(UnitSource(pixels, nodata=-9999.0)).read_with_validity(Region(0, 0, 20, 20), REFLECT)
        assert np.argwhere(~valid).tolist() == [[0, 0], [1, 1]]

    @pytest.mark.parametrize("nodata", [-9999.0, 300.0, 0.5])
    def test_nodata_that_the_dtype_cannot_hold_is_never_met(self, nodata):
        _, valid = Image(UnitSource(noise((1, 20, 20)), nodata=nodata)).read_with_validity(
            Region(0, 0, 20, 20), REFLECT
        )
        assert valid is None or valid.all()


class TestFailures:
    def test_a_broken_unit_is_named_and_spoils_only_the_windows_that_touch_it(self):
        pixels = noise((1, 32, 32))
        image = Image(FailingSource(UnitSource(pixels, (8, 8)), [(0, 2, 1)]))
        with pytest.raises(BlockError, match="unit 2, 1"):
            image.read(Region(0, 0, 32, 32))
        assert np.array_equal(image.read(Region(0, 0, 16, 32)), pixels[:, :16])

    def test_a_unit_that_failed_is_tried_again(self):
        image = Image(FailingSource(noise_source((1, 32, 32), (8, 8)), [(0, 2, 1)]))
        for _ in range(2):
            with pytest.raises(BlockError):
                image.read(Region(16, 8, 24, 16))


class TestArraySourceIdentity:
    def test_the_same_values_are_the_same_image_and_others_are_not(self):
        pixels = noise((2, 30, 30))
        other = pixels.copy()
        other[1, 29, 29] ^= 1
        assert ArraySource(pixels).identity() == ArraySource(pixels.copy()).identity()
        assert ArraySource(pixels).identity() != ArraySource(other).identity()
        assert ArraySource(pixels).identity() != ArraySource(pixels.reshape(2, 15, 60)).identity()
        assert ArraySource(pixels).identity() != ArraySource(pixels.view(np.int8)).identity()
