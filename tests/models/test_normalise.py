"""Statistics of the whole image against numpy, scipy and the papers' formulas, and tiles against the whole."""

import json
import pickle
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import scipy.ndimage
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from gigatile.errors import BlockError, ImageError, UsageError
from gigatile.images.decode_units import edges
from gigatile.images.image import Image
from gigatile.images.info import ImageInfo, Level
from gigatile.images.memory import ArraySource
from gigatile.images.open import open as open_image
from gigatile.models import sample, stain
from gigatile.models.normalise import Linear, MeasuredOn, Method, Normalisation, measure, parse_normalisation
from gigatile.models.percentile import percentiles
from gigatile.testing.sources import CountingSource, FailingSource, UnitSource, noise
from gigatile.tiling.region import Region
from tests.data import data

METHODS = ("percentile:1,99", "percentile:0.5,87.25", "minmax", "zscore", "macenko", "reinhard")
LINEAR = METHODS[:4]
ROOT = Path(__file__).parents[2]


def measured(source, text, **select) -> Normalisation:
    return measure(Image(source).select(**select), parse_normalisation(text))


def linear(source, text) -> Linear:
    transform = measured(source, text).transform
    assert isinstance(transform, Linear)
    return transform


def whole(image: Image, level: int = 0) -> np.ndarray:
    return image.read(Region(0, 0, *image.levels[level].shape), level)


def expected(pixels: np.ndarray, text: str) -> tuple[list[float], list[float]]:
    """Offset and divisor by numpy; pixels are a list of 1-D arrays, one a channel."""
    flat = [np.asarray(channel, np.float64).ravel() for channel in pixels]
    if text == "zscore":
        return [c.mean() for c in flat], [c.std() for c in flat]
    low, high = (0, 100) if text == "minmax" else map(float, text.split(":")[1].split(","))
    limits = [np.percentile(c, (low, high)) for c in flat]
    return [a for a, _ in limits], [b - a for a, b in limits]


def check(found: Linear, pixels, text: str) -> None:
    offset, divisor = expected(pixels, text)
    if text == "zscore":
        np.testing.assert_allclose(found.offset, offset, rtol=1e-12)
        np.testing.assert_allclose(found.divisor, divisor, rtol=1e-12)
    else:
        assert (list(found.offset), list(found.divisor)) == (offset, divisor)


def slide(shape=(300, 260), seed=0, stains=stain.TARGET_STAINS, light=240.0) -> np.ndarray:
    """An H&E-like picture mixed from two stains by the Beer-Lambert law, half of it background."""
    rng = np.random.default_rng(seed)
    amounts = np.stack([scipy.ndimage.gaussian_filter(rng.standard_normal(shape), 3) for _ in range(2)])
    amounts = np.clip(amounts / amounts.std() + [[[0.3]], [[0.3]]], 0, None) * [[[1.2]], [[0.9]]]
    amounts[:, :, : shape[1] // 2] = 0
    density = np.tensordot(np.reshape(stains, (2, 3)).T, amounts, 1)
    return np.clip(np.round(light * np.exp(-density)), 0, 255).astype(np.uint8)


# --- the words ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["none", "minmax", "zscore", "macenko", "reinhard", "percentile:1,99",
                                  "percentile:0,100", "percentile:0.1,99.95"])  # fmt: skip
def test_a_method_is_the_text_it_came_from(text):
    assert str(parse_normalisation(text)) == text
    assert parse_normalisation(str(parse_normalisation(text))) == parse_normalisation(text)


@pytest.mark.parametrize("text", ["", "z-score", "percentile", "percentile:", "percentile:5", "percentile:1,2,3",
                                  "percentile:99,1", "percentile:5,5", "percentile:-1,50", "percentile:1,101",
                                  "percentile:nan,5", "percentile:a,b", "minmax:1,2", "ZSCORE"])  # fmt: skip
def test_other_words_are_refused_with_an_example(text):
    with pytest.raises(UsageError) as refused:
        parse_normalisation(text)
    error = refused.value
    assert all((error.where, error.expected, error.found, error.fix))


def test_none_has_no_statistics():
    with pytest.raises(UsageError, match="none"):
        measured(UnitSource(noise((1, 8, 8))), "none")


# --- percentiles -------------------------------------------------------------------------------------------------

DTYPES = ["bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "int64", "float16", "float32", "float64"]


@settings(max_examples=150, deadline=None)
@given(
    values=st.sampled_from(DTYPES).flatmap(
        lambda name: npst.arrays(
            name,
            st.integers(1, 60),
            elements={"allow_nan": False, "allow_infinity": False, "min_value": -(2.0**15), "max_value": 2.0**15}
            if name[0] == "f"
            else {"min_value": -(2**52), "max_value": 2**52} if name == "int64" else None,
        )
    ),
    wanted=st.lists(st.floats(0, 100), min_size=1, max_size=3),
    parts=st.integers(1, 4),
)  # fmt: skip
def test_percentiles_are_those_of_numpy_to_the_last_bit(values, wanted, parts):
    stream = [[(part, None)] for part in np.array_split(values, parts)]
    (found,) = percentiles(lambda: stream, ["x"], values.dtype, wanted)
    assert list(found) == np.percentile(values.astype(np.float64), wanted).tolist()


def test_interpolation_between_two_values_rounds_as_numpys():
    rng = np.random.default_rng(0)
    values, wanted = rng.standard_normal(500), rng.uniform(0, 100, 200)
    (found,) = percentiles(lambda: [[(values, None)]], ["x"], values.dtype, wanted)
    assert list(found) == np.percentile(values, wanted).tolist()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.floats(-5, 5, width=32), st.integers(1, 9)), min_size=1, max_size=30), st.floats(0, 100))
def test_a_weight_is_a_number_of_repetitions(pairs, percent):
    values, weights = np.array([v for v, _ in pairs], np.float32), np.array([w for _, w in pairs], np.float64)
    (found,) = percentiles(lambda: [[(values, weights)]], ["x"], values.dtype, (percent,))
    repeated = np.repeat(values.astype(np.float64), weights.astype(int))
    assert found == (np.percentile(repeated, percent),)


# --- linear methods ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", LINEAR)
@pytest.mark.parametrize("dtype", DTYPES)
def test_statistics_are_those_of_numpy_over_the_whole_image(dtype, text):
    pixels = noise((3, 61, 83), dtype)
    found = measured(UnitSource(pixels, (16, 24)), text)
    check(found.transform, pixels, text)
    assert found.source == MeasuredOn(0, 61 * 83, 61 * 83, False)
    assert found.notes == ()


def test_more_than_one_slab_and_window_give_the_same_statistics(monkeypatch):
    pixels = noise((2, 90, 70), "float32") * 1e4 - 3e3
    monkeypatch.setattr(sample, "SLAB_PX", 100)
    monkeypatch.setattr(sample, "WINDOW_BYTES", 8 * 500)
    for text in LINEAR:
        check(linear(UnitSource(pixels, (8, 8)), text), pixels, text)


def test_zscore_agrees_with_scipy_and_is_zero_mean_unit_variance():
    pixels = noise((2, 70, 90), "uint16")
    out = measured(UnitSource(pixels), "zscore").apply(pixels)
    np.testing.assert_allclose(out, scipy.stats.zscore(pixels.reshape(2, -1), axis=1).reshape(pixels.shape), atol=2e-6)
    np.testing.assert_allclose(out.mean(axis=(1, 2), dtype=np.float64), 0, atol=1e-6)
    np.testing.assert_allclose(out.std(axis=(1, 2), dtype=np.float64), 1, atol=1e-6)


def test_a_large_offset_does_not_cost_the_standard_deviation_its_digits():
    pixels = noise((1, 64, 64), "float64") + 1e8
    check(linear(UnitSource(pixels), "zscore"), pixels, "zscore")


@pytest.mark.parametrize("text", ["minmax", "percentile:2,98"])
def test_limits_become_0_and_1_and_nothing_is_clipped(text):
    pixels = noise((1, 40, 40), "uint16")
    found = measured(UnitSource(pixels), text)
    out = found.apply(pixels)
    low, high = np.percentile(pixels, (0, 100) if text == "minmax" else (2, 98))
    np.testing.assert_allclose(out, (pixels - low) / (high - low), atol=1e-6)
    assert (out.max() > 1) == (text != "minmax")
    ends = np.full((1, 1, 2), 0, np.float64)
    ends[0, 0] = low, high
    np.testing.assert_allclose(found.apply(ends)[0, 0], (0, 1), atol=1e-6)


def test_nodata_and_alpha_do_not_count():
    pixels = noise((2, 50, 60), "uint8")
    pixels[:, :20] = 7
    valid = ~(pixels == 7).all(axis=0)
    for text in LINEAR:
        found = measured(UnitSource(pixels, nodata=7), text)
        check(found.transform, [c[valid] for c in pixels], text)
        assert (found.source.pixels, found.source.valid) == (3000, valid.sum())
    alpha = (noise((1, 50, 60)) > 99).astype(np.uint8)
    for text in LINEAR:
        found = linear(UnitSource(np.concatenate([pixels, alpha]), alpha=2), text)
        check(found, [c[alpha[0] > 0] for c in pixels], text)


def test_nan_and_infinity_do_not_count_channel_by_channel():
    pixels = noise((2, 50, 60), "float32")
    pixels[:, :5] = np.nan
    pixels[0, 10:20] = np.nan
    pixels[1, 30] = np.inf
    for text in LINEAR:
        check(linear(UnitSource(pixels), text), [c[np.isfinite(c)] for c in pixels], text)


def test_nan_becomes_0_after_normalisation():
    pixels = noise((1, 9, 9), "float32") + 5
    pixels[0, 3, 3] = np.nan
    out = measured(UnitSource(pixels), "minmax").apply(pixels)
    assert out[0, 3, 3] == 0
    assert np.isnan(pixels).sum() == 1


@pytest.mark.parametrize("text", METHODS)
def test_an_image_without_a_valid_pixel_has_no_statistics(text):
    with pytest.raises(ImageError, match="at least one valid pixel"):
        measured(UnitSource(np.full((3, 20, 20), 9, np.uint8), nodata=9), text)


@pytest.mark.parametrize("text", LINEAR)
def test_a_channel_without_a_number_is_named(text):
    pixels = noise((2, 20, 20), "float32")
    pixels[1] = np.nan
    with pytest.raises(ImageError, match="channel c1"):
        measured(UnitSource(pixels), text)


@pytest.mark.parametrize("text", LINEAR)
@pytest.mark.parametrize("value", [0.1, 255.0])
def test_a_constant_channel_is_divided_by_1_and_noted(text, value):
    pixels = noise((2, 30, 30), "float64")
    pixels[1] = value
    found = measured(UnitSource(pixels, (7, 7)), text)
    assert (found.transform.offset[1], found.transform.divisor[1]) == (value, 1.0)
    assert len(found.notes) == 1
    assert "channel c1" in found.notes[0]
    assert not found.apply(pixels)[1].any()


def test_numbers_beyond_float32_are_refused():
    pixels = np.array([[[1e300, -1e300]]])
    with pytest.raises(ImageError, match="float32"):
        measured(UnitSource(pixels), "minmax")


def test_selected_channels_have_their_own_statistics():
    pixels = noise((3, 40, 40), "uint16") * np.array([1, 2, 3], np.uint16)[:, None, None]
    check(measured(UnitSource(pixels), "zscore", channels=[2, 0]).transform, pixels[[2, 0]], "zscore")


def test_another_number_of_channels_is_refused():
    found = measured(UnitSource(noise((3, 20, 20))), "minmax")
    with pytest.raises(UsageError, match="3 channels"):
        found.apply(noise((1, 20, 20)))


# --- any tile equals the whole -----------------------------------------------------------------------------------


@pytest.mark.parametrize("text", METHODS)
def test_tiles_equal_the_whole_image_to_the_last_bit(text):
    pixels = slide((203, 177))
    found = measured(ArraySource(pixels, "cyx"), text)
    image = found.apply(pixels)
    assert (image.dtype, image.shape) == (np.float32, pixels.shape)
    rng = np.random.default_rng(1)
    boxes = [(0, 0, 1, 1), (5, 7, 6, 177), (3, 3, 203, 4)]
    boxes += [(*(a := rng.integers(0, 150, 2)), *(a + rng.integers(1, 53, 2))) for _ in range(40)]
    for y0, x0, y1, x1 in boxes:
        view = pixels[:, y0:y1, x0:x1]
        np.testing.assert_array_equal(found.apply(view), image[:, y0:y1, x0:x1])
        np.testing.assert_array_equal(found.apply(np.asfortranarray(view)), image[:, y0:y1, x0:x1])


def test_apply_leaves_the_pixels_alone():
    pixels = slide((40, 40))
    before = pixels.copy()
    for text in METHODS:
        found = measured(ArraySource(pixels, "cyx"), text)
        assert not np.shares_memory(found.apply(pixels), pixels)
    np.testing.assert_array_equal(pixels, before)


# --- independent of how it was read ------------------------------------------------------------------------------


class Jittery(CountingSource):
    """Units take a while that has nothing to do with their order."""

    def decode(self, level, row, col):
        time.sleep((row * 7 + col * 3) % 5 / 2000)
        return super().decode(level, row, col)


@pytest.mark.parametrize("text", METHODS)
def test_threads_caches_and_earlier_reads_change_nothing(text):
    pixels = slide((120, 100))
    first = measured(UnitSource(pixels), text)
    image = Image(Jittery(UnitSource(pixels)))
    whole(image)
    method = parse_normalisation(text)
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: measure(image, method), range(4)))
    assert {*results} == {first}
    image.use_cache(0, None)
    assert measure(image, method) == first


@pytest.mark.parametrize("text", METHODS)
def test_the_size_of_decode_units_changes_nothing_but_the_rounding_of_zscore(text):
    pixels = slide((120, 100))
    one, other = (measured(UnitSource(pixels, unit), text) for unit in ((120, 100), (13, 17)))
    if text == "zscore":
        np.testing.assert_allclose(one.transform.offset, other.transform.offset, rtol=1e-13)
        np.testing.assert_allclose(one.transform.divisor, other.transform.divisor, rtol=1e-13)
    else:
        assert one == other


@pytest.mark.parametrize(("dtype", "text", "passes"), [
    ("uint8", "percentile:1,99", 1), ("uint16", "percentile:1,99", 1), ("float32", "percentile:1,99", 2),
    ("float64", "percentile:1,99", 4), ("float64", "zscore", 1), ("uint8", "macenko", 1), ("uint8", "reinhard", 1),
])  # fmt: skip
def test_each_unit_is_decoded_once_a_pass_and_the_callers_cache_is_left_alone(dtype, text, passes):
    source = CountingSource(UnitSource(slide((90, 80)).astype(dtype), (16, 16)))
    image = Image(source)
    measure(image, parse_normalisation(text))
    assert set(source.decoded.values()) == {passes}
    assert len(source.decoded) == 6 * 5
    assert image.cache.held_bytes == 0
    assert image.counter.take() == 0


def test_a_unit_that_cannot_be_decoded_is_an_error():
    with pytest.raises(BlockError, match="broken"):
        measured(FailingSource(UnitSource(noise((1, 64, 64))), [(0, 2, 1)]), "zscore")


# --- levels and samples ------------------------------------------------------------------------------------------


class Pyramid:
    """Levels that hold different numbers, so that a test can tell them apart."""

    def __init__(self, shapes, unit=(16, 16), dtype="uint8"):
        self.arrays = [noise((2, *shape), dtype, seed) for seed, shape in enumerate(shapes)]
        levels = tuple(
            Level(s, shapes[0][0] / s[0], unit, edges(s[0], unit[0]), edges(s[1], unit[1])) for s in shapes
        )  # fmt: skip
        self.info = ImageInfo("<test>", "numpy", np.dtype(dtype), ("c0", "c1"), levels)

    def decode(self, level, row, col):
        grid = self.info.levels[level]
        ys, xs = slice(*grid.edges_y[row : row + 2]), slice(*grid.edges_x[col : col + 2])
        return self.arrays[level][:, ys, xs].copy()

    def identity(self):
        return {}


@pytest.mark.parametrize(("limit", "level"), [(10**6, 0), (160 * 120, 0), (160 * 120 - 1, 1), (1200, 2)])
@pytest.mark.parametrize("text", LINEAR)
def test_the_finest_level_that_is_small_enough_is_taken_whole(monkeypatch, limit, level, text):
    monkeypatch.setattr(sample, "SAMPLE_PX", limit)
    source = Pyramid([(160, 120), (80, 60), (40, 30)])
    found = measured(source, text)
    area = source.arrays[level][0].size
    assert found.source == MeasuredOn(level, area, area, False)
    check(found.transform, source.arrays[level], text)


def test_no_level_finer_than_the_one_worked_on_is_read():
    source = Pyramid([(160, 120), (80, 60), (40, 30)])
    found = measured(source, "minmax", level=1)
    assert found.source.level == 1
    check(found.transform, source.arrays[1], "minmax")


@pytest.mark.parametrize("text", LINEAR)
def test_without_a_small_level_a_lattice_of_the_smallest_is_taken(monkeypatch, text):
    monkeypatch.setattr(sample, "SAMPLE_PX", 16 * 256)
    source = CountingSource(pyramid := Pyramid([(320, 240), (160, 120)]))
    found = measured(source, text)
    # 10 x 8 units of which 4 x 4 fit; the middle of each of 4 equal parts of each axis
    rows, cols = [1, 3, 6, 8], [1, 3, 5, 7]
    assert sorted(source.decoded) == [(1, row, col) for row in rows for col in cols]
    assert found.source.sampled
    assert found.source.level == 1
    taken = [
        pyramid.arrays[1][:, 16 * r : 16 * r + 16, 16 * c : 16 * c + 16].reshape(2, -1) for r in rows for c in cols
    ]
    check(found.transform, np.concatenate(taken, axis=1), text)
    assert found.source.pixels == np.concatenate(taken, axis=1).shape[1] <= 16 * 256


def test_huge_units_are_thinned(monkeypatch):
    monkeypatch.setattr(sample, "SAMPLE_PX", 1000)
    pixels = noise((1, 300, 200), "uint16")
    found = measured(UnitSource(pixels, (300, 200)), "percentile:5,95")
    assert found.source == MeasuredOn(0, 38 * 25, 38 * 25, True)
    check(found.transform, pixels[:, ::8, ::8], "percentile:5,95")


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 400), st.integers(1, 400), st.integers(1, 60), st.integers(1, 60), st.integers(50, 20000))
def test_a_sample_is_within_its_limit_and_never_takes_a_pixel_twice(height, width, unit_y, unit_x, limit):
    pixels = np.arange(height * width, dtype=np.uint32).reshape(1, height, width)
    before, sample.SAMPLE_PX = sample.SAMPLE_PX, limit
    try:
        chosen = sample.PixelSample(Image(UnitSource(pixels, (unit_y, unit_x))))
    finally:
        sample.SAMPLE_PX = before
    taken = np.concatenate([values for ((values, _),) in chosen.values()])
    assert 0 < taken.size == chosen.pixels == chosen.valid <= limit
    assert len(np.unique(taken)) == taken.size
    assert chosen.thinned == (height * width > limit)
    if not chosen.thinned:
        assert taken.size == height * width


def test_a_sample_is_spread_over_the_whole_image(monkeypatch):
    monkeypatch.setattr(sample, "SAMPLE_PX", 4096)
    ramp = np.linspace(0, 60000, 400)[None, :, None] + np.linspace(0, 5000, 300)[None, None, :]
    pixels = ramp.astype(np.uint16)
    found, exact = linear(UnitSource(pixels, (16, 16)), "zscore"), expected(pixels, "zscore")
    np.testing.assert_allclose(found.offset, exact[0], rtol=0.05)
    np.testing.assert_allclose(found.divisor, exact[1], rtol=0.05)


# --- what is stored ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", METHODS)
def test_json_and_pickle_give_an_equal_object_back(text):
    found = measured(ArraySource(slide(), "cyx"), text)
    for copy in (Normalisation.from_json(json.loads(json.dumps(found.to_json()))), pickle.loads(pickle.dumps(found))):
        assert copy == found
        assert hash(copy) == hash(found)
        pixels = slide((30, 30), seed=4)
        np.testing.assert_array_equal(copy.apply(pixels), found.apply(pixels))


def test_each_field_counts_in_the_comparison():
    base = Normalisation(Method("minmax"), MeasuredOn(0, 9, 9, False), Linear((1.0,), (2.0,)), ())
    others = [
        Normalisation(Method("zscore"), base.source, base.transform),
        Normalisation(base.method, MeasuredOn(1, 9, 9, False), base.transform),
        Normalisation(base.method, base.source, Linear((np.nextafter(1.0, 2),), (2.0,))),
        Normalisation(base.method, base.source, base.transform, ("x",)),
    ]
    assert len({base, *others}) == 5


@pytest.mark.parametrize("broken", [
    {}, {"method": "minmax"}, {"method": "minmax", "source": {}, "values": {}, "notes": []},
    {"method": "huh", "source": {}, "values": {}, "notes": []},
    {"method": "minmax", "source": {"level": 0, "pixels": 1, "valid": 1, "sampled": False},
     "values": {"offset": ["x"], "divisor": [1]}, "notes": []},
])  # fmt: skip
def test_what_was_not_stored_by_us_is_refused(broken):
    with pytest.raises(UsageError):
        Normalisation.from_json(broken)


# --- stains ------------------------------------------------------------------------------------------------------


def angle(one, other) -> float:
    return float(
        np.degrees(np.arccos(np.clip(np.dot(one, other) / np.linalg.norm(one) / np.linalg.norm(other), -1, 1)))
    )


@pytest.mark.parametrize("stains", [
    stain.TARGET_STAINS, (0.65, 0.70, 0.29, 0.07, 0.99, 0.11), (0.8, 0.5, 0.3, 0.16, 0.91, 0.38),
])  # fmt: skip
def test_macenko_finds_the_stains_that_a_picture_was_mixed_from(stains):
    found = measured(ArraySource(slide((400, 400), stains=stains), "cyx"), "macenko").transform
    for one, other in zip(np.reshape(found.stains, (2, 3)), np.reshape(stains, (2, 3)), strict=True):
        assert angle(one, other) < 2.5
        np.testing.assert_allclose(np.linalg.norm(one), 1, rtol=1e-12)


def test_macenko_brings_two_stainings_of_one_tissue_together():
    one = slide((300, 300), stains=(0.65, 0.70, 0.29, 0.07, 0.99, 0.11))
    other = slide((300, 300), stains=(0.52, 0.75, 0.40, 0.20, 0.84, 0.50))
    before = np.abs(one.astype(float) - other)[:, :, 150:].mean() / 255
    outs = [measured(ArraySource(pixels, "cyx"), "macenko").apply(pixels) for pixels in (one, other)]
    assert np.abs(outs[0] - outs[1])[:, :, 150:].mean() < before / 5
    assert all(out.min() >= 0 and out.max() <= 1 for out in outs)


def macenko_by_numpy(pixels: np.ndarray) -> np.ndarray:
    """The published recipe on whole arrays, with an SVD and sorted angles; RGB from 0 to 1."""
    from skimage.color import rgb2lab

    tissue = (rgb2lab(np.moveaxis(pixels, 0, -1))[..., 0] < 80).ravel()
    density = -np.log((pixels.reshape(3, -1).T.astype(float) + 1) / 240)
    opaque = density[tissue & (density >= 0.15).all(axis=1)]
    plane = np.linalg.svd(opaque - opaque.mean(axis=0), full_matrices=False)[2][:2]
    if plane[0].sum() < 0:
        plane[0] *= -1
    phi = np.arctan2(*(opaque @ plane.T).T[::-1])
    ends = [np.cos(p) * plane[0] + np.sin(p) * plane[1] for p in np.percentile(phi, (1, 99))]
    stains = np.array(sorted(ends, key=lambda v: -v[0]))
    amounts = np.linalg.lstsq(stains.T, density.T, rcond=None)[0]
    strongest = np.percentile(amounts[:, tissue], 99, axis=1)
    target = np.array([[0.5626, 0.2159], [0.7201, 0.8012], [0.4062, 0.5581]])
    out = 240 / 255 * np.exp(-target @ (amounts * (np.array([1.9705, 1.0308]) / strongest)[:, None]))
    return np.clip(out, 0, 1).reshape(pixels.shape)


HE = ["wsi/he_tcga_high-nuclei.png", "wsi/he_tia_target_1000px.png"]


@pytest.mark.parametrize("path", HE)
def test_macenko_is_the_published_recipe_on_real_tissue(path):
    image = open_image(data(path))
    pixels = whole(image)
    out = measure(image, parse_normalisation("macenko")).apply(pixels)
    np.testing.assert_allclose(out, macenko_by_numpy(pixels), atol=1e-4)


def reinhard_by_numpy(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Normalised RGB from 0 to 1, and mean and standard deviation of l, alpha, beta before, by whole arrays."""
    from skimage.color import rgb2lab

    tissue = (rgb2lab(np.moveaxis(pixels, 0, -1))[..., 0] < 80).ravel()
    lms = np.array([[0.3811, 0.5783, 0.0402], [0.1967, 0.7244, 0.0782], [0.0241, 0.1288, 0.8444]])
    rotate = np.diag([3**-0.5, 6**-0.5, 2**-0.5]) @ np.array([[1, 1, 1], [1, 1, -2], [1, -1, 0]])
    lab = rotate @ np.log(np.maximum(lms @ pixels.reshape(3, -1), 1))
    mean, std = lab[:, tissue].mean(axis=1), lab[:, tissue].std(axis=1)
    lab = (lab - mean[:, None]) / std[:, None] * np.array([[0.6135447], [0.10989545], [0.0286032]])
    lab += np.array([[8.74108109], [-0.12440419], [0.0444982]])
    out = np.linalg.inv(lms) @ np.exp(np.linalg.inv(rotate) @ lab) / 255
    return np.clip(out, 0, 1).reshape(pixels.shape), mean, std


@pytest.mark.parametrize("path", HE)
def test_reinhard_is_the_published_formula_on_real_tissue(path):
    image = open_image(data(path))
    pixels = whole(image)
    found = measure(image, parse_normalisation("reinhard"))
    out, mean, std = reinhard_by_numpy(pixels)
    # skimage's luminosity has other last digits, so that a few pixels near the threshold fall to the other side
    np.testing.assert_allclose(found.transform.mean, mean, atol=1e-5)
    np.testing.assert_allclose(found.transform.std, std, atol=1e-5)
    np.testing.assert_allclose(found.apply(pixels), out, atol=1e-4)


def test_black_pixels_do_not_decide_the_spread():
    pixels = slide()
    pixels[:, :20, -20:] = 0
    found = measured(ArraySource(pixels, "cyx"), "reinhard")
    _, mean, std = reinhard_by_numpy(pixels)
    np.testing.assert_allclose(found.transform.mean, mean, atol=1e-3)
    np.testing.assert_allclose(found.transform.std, std, atol=1e-3)
    assert found.apply(np.zeros((3, 1, 1), np.uint8)).max() < 0.1


def test_the_luminosity_is_skimages_lightness():
    from skimage.color import rgb2lab

    colours = noise((3, 5000))
    np.testing.assert_allclose(stain.luminosity(colours), rgb2lab(colours.T)[:, 0] / 100, atol=2e-4)


@pytest.mark.parametrize("text", ["macenko", "reinhard"])
def test_background_does_not_count(text):
    pixels = slide()
    wide = np.pad(pixels, ((0, 0), (0, 0), (0, 900)), constant_values=247)
    one, other = (measured(ArraySource(p, "cyx"), text) for p in (pixels, wide))
    assert one.transform == other.transform
    assert "pixels that are no background" in other.notes[0]


@pytest.mark.parametrize("text", ["macenko", "reinhard"])
@pytest.mark.parametrize("make", [
    lambda: UnitSource(noise((3, 20, 20), "uint16")), lambda: UnitSource(noise((1, 20, 20))),
    lambda: UnitSource(noise((4, 20, 20))), lambda: UnitSource(noise((3, 20, 20), "float32")),
    lambda: ArraySource(noise((3, 20, 20)), "cyx", channels=("blue", "green", "red")),
])  # fmt: skip
def test_stains_need_8_bit_rgb(text, make):
    with pytest.raises(UsageError, match="8-bit red, green, blue"):
        measured(make(), text)


def test_stains_are_applied_to_8_bit_rgb_only():
    for text in ("macenko", "reinhard"):
        found = measured(ArraySource(slide(), "cyx"), text)
        for wrong in (noise((3, 8, 8), "uint16"), noise((1, 8, 8))):
            with pytest.raises(UsageError, match="3 channels of uint8"):
                found.apply(wrong)


@pytest.mark.parametrize("text", ["macenko", "reinhard"])
def test_a_slide_without_tissue_is_refused(text):
    with pytest.raises(ImageError, match="background only"):
        measured(UnitSource(np.full((3, 30, 30), 244, np.uint8)), text)


def test_one_colour_is_no_two_stains():
    with pytest.raises(ImageError, match="one colour"):
        measured(UnitSource(np.full((3, 30, 30), 90, np.uint8)), "macenko")


def test_reinhard_of_one_colour_is_divided_by_1_and_noted():
    found = measured(UnitSource(np.full((3, 30, 30), 90, np.uint8)), "reinhard")
    assert found.transform.std == (1.0, 1.0, 1.0)
    assert len(found.notes) == 4


@pytest.mark.parametrize("text", ["macenko", "reinhard"])
def test_every_colour_there_is_gives_a_colour(text):
    found = measured(ArraySource(slide(), "cyx"), text)
    grey = np.arange(0, 256, 5)
    colours = np.stack(np.meshgrid(grey, grey, grey), 0).reshape(3, 52, -1).astype(np.uint8)
    out = found.apply(colours)
    assert np.isfinite(out).all()
    assert out.min() >= 0
    assert out.max() <= 1


# --- real pictures -----------------------------------------------------------------------------------------------


def test_a_real_slide_has_the_means_that_other_readers_give():
    found = measure(open_image(data("wsi/CMU-1-Small-Region.svs")), parse_normalisation("zscore"))
    np.testing.assert_allclose(found.transform.offset, (214.0112, 194.8102, 207.9042), atol=1e-4)
    assert found.source == MeasuredOn(0, 2967 * 2220, 2967 * 2220, False)


@pytest.mark.parametrize("path", ["wsi/CMU-1-Small-Region.svs", "wsi/instanseg_HE_example.tif"])
def test_percentiles_of_real_slides_are_numpys(path):
    image = open_image(data(path))
    check(measure(image, parse_normalisation("percentile:1,99")).transform, whole(image), "percentile:1,99")


def test_a_real_pyramid_is_measured_on_its_first_small_level():
    image = open_image(data("satellite/yb10kx5k.zstd.tiff"))
    found = measure(image, parse_normalisation("zscore"))
    assert found.source == MeasuredOn(1, 5000 * 2500, 5000 * 2500, False)
    check(found.transform, whole(image, 1), "zscore")


def test_a_real_scene_is_measured_without_its_nodata():
    image = open_image(data("satellite/rasterio/RGB.byte.tif"))
    pixels = whole(image)
    valid = (pixels != 0).any(axis=0)
    found = measure(image, parse_normalisation("percentile:2,98"))
    assert 0.5 < found.source.valid / found.source.pixels < 0.9
    check(found.transform, pixels[:, valid], "percentile:2,98")


@pytest.mark.parametrize(("name", "expected_px"), [
    ("fluo_256x256_00071198d0", 7412), ("fluo_256x256_57d88f45e4", 13148), ("fluo_256x256_64eeef16fd", 10032),
])  # fmt: skip
def test_zscore_is_what_a_published_nuclei_model_wants(name, expected_px):
    ort = pytest.importorskip("onnxruntime")
    image = open_image(data(f"gt_nuclei_dsb2018/{name}.png")).select(channels=[0])
    pixels = whole(image)
    grey = pixels[0].astype(np.float64)
    out = measure(image, parse_normalisation("zscore")).apply(pixels)
    np.testing.assert_allclose(out[0], (grey - grey.mean()) / (grey.std() + 1e-6), atol=1e-5)
    model = data("models/unet2d_nuclei_broad_dynamic.onnx")
    session = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    (probability,) = session.run(None, {session.get_inputs()[0].name: out[None]})
    assert int((probability > 0.5).sum()) == expected_px


# --- memory ------------------------------------------------------------------------------------------------------


class Scene:
    """12,000 x 12,000 pixels in tiles of 512, made as they are asked for."""

    def __init__(self, dtype="uint8", side=12_000):
        borders = edges(side, 512)
        level = Level((side, side), 1.0, (512, 512), borders, borders)
        self.info = ImageInfo("<scene>", "numpy", np.dtype(dtype), ("a", "b", "c"), (level,))

    def decode(self, level, row, col):
        borders = self.info.levels[0].edges_y
        shape = 3, borders[row + 1] - borders[row], borders[col + 1] - borders[col]
        pixels = np.random.default_rng((row, col)).integers(0, 200, shape, np.uint8) & 0xFC
        return pixels.astype(self.info.dtype)

    def identity(self):
        return {}


MEMORY_CODE = """
import sys
from gigatile.images.image import Image
from gigatile.machine import peak_resident_bytes
from gigatile.models.normalise import measure, parse_normalisation
from tests.models.test_normalise import Scene
side = int(sys.argv[1])
for words in sys.argv[2:]:
    dtype, text = words.split("=")
    measure(Image(Scene(dtype, 600)), parse_normalisation(text))  # imports and threads
    before = peak_resident_bytes()
    found = measure(Image(Scene(dtype, side)), parse_normalisation(text))
    print((peak_resident_bytes() - before) >> 20, found.source.pixels, found.source.sampled)
"""


@pytest.mark.parametrize(
    ("side", "methods"),
    [
        (4096, ["uint8=zscore", "uint8=percentile:1,99"]),
        (12_000, ["uint8=zscore", "float32=percentile:1,99", "uint8=macenko"]),
    ],
)
def test_memory_does_not_grow_with_the_image(side, methods):
    words = [sys.executable, "-c", MEMORY_CODE, str(side), *methods]
    done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=ROOT)
    lines = [line.split() for line in done.stdout.splitlines()]
    assert len(lines) == len(methods)
    # A window and what is decoded ahead (16 + 32 MiB), slabs and histograms; for stains the table of colours (64 MiB).
    # Peaks never fall, so the growth from one method to the next is at most that of the next one alone.
    assert sum(int(grown_mib) for grown_mib, _, _ in lines) < 160
    assert all(int(pixels) <= sample.SAMPLE_PX for _, pixels, _ in lines)
    assert all(sampled == str(side == 12_000) for _, _, sampled in lines)
