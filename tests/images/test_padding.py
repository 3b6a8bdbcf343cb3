"""A window that hangs over the image is a crop of the padded image."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gigatile.images.image import Image
from gigatile.testing.sources import CountingSource, UnitSource, noise
from gigatile.tiling.border import Border
from gigatile.tiling.region import Region

FAR = 60
"""As far as windows reach beyond the image, here; many times the size of most of the images."""


@st.composite
def windows(draw):
    """An image cut into units, and a region that may lie inside, across or beyond any of its sides."""
    shape = draw(st.integers(1, 3)), draw(st.integers(1, 20)), draw(st.integers(1, 20))
    unit = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    y0 = draw(st.integers(-FAR, shape[1] + FAR - 1))
    x0 = draw(st.integers(-FAR, shape[2] + FAR - 1))
    y1 = draw(st.integers(y0, min(y0 + 50, shape[1] + FAR)))
    x1 = draw(st.integers(x0, min(x0 + 50, shape[2] + FAR)))
    return shape, unit, Region(y0, x0, y1, x1)


def crop_of_padded(pixels: np.ndarray, region: Region, border: Border) -> np.ndarray:
    options = {"constant_values": border.value} if border.rule == "constant" else {}
    padded = np.pad(pixels, ((0, 0), (FAR, FAR), (FAR, FAR)), mode=border.rule, **options)
    return padded[(slice(None), *region.shifted(FAR, FAR).slices())]


@pytest.mark.parametrize(
    "border", [Border("reflect"), Border("symmetric"), Border("edge"), Border("constant", 200.0)], ids=lambda b: b.rule
)
@settings(max_examples=80)
@given(windows())
@example(((1, 1, 1), (1, 1), Region(-20, -20, 21, 21)))
@example(((2, 2, 1), (2, 1), Region(-30, -3, 30, 4)))
@example(((1, 5, 7), (2, 3), Region(10, 10, 12, 12)))
def test_read_is_a_crop_of_numpys_pad(border, drawn):
    shape, unit, region = drawn
    pixels = noise(shape)
    got = Image(UnitSource(pixels, unit)).read(region, border=border)
    assert got.dtype == pixels.dtype
    assert np.array_equal(got, crop_of_padded(pixels, region, border))


@settings(max_examples=40)
@given(windows(), st.booleans())
def test_validity_is_folded_at_the_border_like_the_pixels(drawn, constant):
    shape, unit, region = drawn
    pixels = noise(shape) % 3
    border = Border("constant", 0.0) if constant else Border("reflect")
    image = Image(UnitSource(pixels, unit, nodata=0))
    read, valid = image.read_with_validity(region, border)
    assert np.array_equal(read, crop_of_padded(pixels, region, border))
    assert np.array_equal(valid, ~(read == 0).all(axis=0))


def test_the_default_border_is_numpys_reflect():
    pixels = np.arange(5, dtype=np.uint8)[None, None]
    got = Image(UnitSource(pixels)).read(Region(0, -3, 1, 8))
    assert got[0, 0].tolist() == [3, 2, 1, 0, 1, 2, 3, 4, 3, 2, 1]


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint16", "int32", "float16", "float32", "float64"])
def test_padding_keeps_every_dtype(dtype):
    pixels = noise((2, 6, 5), dtype)
    got = Image(UnitSource(pixels, (4, 4))).read(Region(-9, -9, 15, 14))
    assert got.dtype == np.dtype(dtype)
    assert np.array_equal(got, np.pad(pixels, ((0, 0), (9, 9), (9, 9)), mode="reflect"))


def test_a_window_beyond_the_corner_decodes_only_what_is_mirrored_there():
    source = CountingSource(UnitSource(noise((1, 64, 64)), (8, 8)))
    Image(source).read(Region(-8, -8, 0, 0))
    # Rows and columns 1 to 8: two units each way.
    assert set(source.decoded) == {(0, row, col) for row in (0, 1) for col in (0, 1)}


def test_a_window_across_the_edge_decodes_each_unit_once():
    source = CountingSource(UnitSource(noise((1, 32, 32)), (8, 8)))
    Image(source).read(Region(-40, -40, 72, 72))
    assert sorted(source.decoded.values()) == [1] * 16
