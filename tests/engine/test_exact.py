"""Tiled is whole: bit for bit where the receptive field fits, for every size from 1 x 1."""

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import gigatile as gt
from gigatile.testing.models import Constant, identity
from gigatile.testing.sources import noise
from gigatile.testing.strategies import BORDERS, sizes, tilings
from gigatile.tiling.axis import BLENDS
from gigatile.tiling.tiling import Tiling

from .helpers import in_tiles, load, on_whole_image

shared = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
radii = st.sampled_from([1, 2, 3, 4])


@settings(shared, max_examples=120)
@given(st.data(), radii, sizes(60), st.integers(1, 5))
def test_stitched_equals_the_whole_padded_image_to_the_bit(stacks, data, radius, shape, batch):
    tiling = data.draw(tilings(radius))
    pixels = noise((2, *shape))
    got, _, _ = in_tiles(load(stacks[radius]), pixels, tiling, batch=batch)
    assert np.array_equal(got, on_whole_image(stacks[radius], pixels, int(tiling.overlap) // 2))


@settings(shared, max_examples=25)
@given(st.data(), sizes(40), st.sampled_from(BORDERS))
def test_stitched_equals_the_whole_at_every_kind_of_border(stacks, data, shape, border):
    drawn = data.draw(tilings(2))
    tiling = Tiling(drawn.tile, drawn.overlap, drawn.margin, drawn.blend, border, drawn.block)
    pixels = noise((2, *shape))
    got, _, _ = in_tiles(load(stacks[2]), pixels, tiling)
    assert np.array_equal(got, on_whole_image(stacks[2], pixels, int(tiling.overlap) // 2, border=border))


@settings(shared, max_examples=50)
@given(st.data(), st.sampled_from([2, 4]), sizes(60))
def test_models_that_need_aligned_tiles_are_exact_on_aligned_tilings(pooled, data, factor, shape):
    tiling = data.draw(tilings(2 * factor - 1, multiple=factor))
    pixels = noise((2, *shape))
    got, _, _ = in_tiles(load(pooled[factor]), pixels, tiling)
    assert np.array_equal(got, on_whole_image(pooled[factor], pixels, int(tiling.overlap) // 2, factor))


@pytest.mark.parametrize("radius", [1, 2, 3, 4])
@pytest.mark.parametrize("blend", BLENDS)
def test_one_pixel_less_than_the_radius_shows(stacks, radius, blend):
    """The other side of the exactness tests: they would notice."""
    pixels = noise((2, 70, 61))
    tiling = Tiling(tile=24, overlap=2 * radius, margin=radius - (blend != "trim"), blend=blend)
    if blend == "trim":
        tiling = Tiling(tile=24, overlap=2 * (radius - 1), margin=0, blend=blend)
    got, _, _ = in_tiles(load(stacks[radius]), pixels, tiling)
    whole = on_whole_image(stacks[radius], pixels, 8)
    assert not np.array_equal(got, whole)
    # Only along the seams: what lies well inside the first core is right.
    assert np.array_equal(got[:, 8:14, 8:14], whole[:, 8:14, 8:14])


@settings(shared, max_examples=80)
@given(st.data(), sizes(70))
def test_the_identity_gives_the_input_back(data, shape):
    tiling = data.draw(tilings(0))
    pixels = noise((1, *shape), "float32")
    got, _, _ = in_tiles(gt.load_model(identity), pixels, tiling)
    assert np.array_equal(got, pixels)


@settings(shared, max_examples=80)
@given(
    st.data(),
    sizes(70),
    st.floats(-(2.0**100), 2.0**100, width=32, allow_subnormal=False) | st.sampled_from([0.1, 1 / 3, 0.7, 254.5]),
)
@example(None, (1, 1), 0.1)
def test_a_constant_model_gives_exactly_its_constant(data, shape, value):
    tiling = data.draw(tilings(0)) if data else Tiling(64, 62, 0, "gaussian")
    got, _, _ = in_tiles(gt.load_model(Constant((value, -value))), noise((1, *shape)), tiling)
    assert (got[0] == np.float32(value)).all()
    assert (got[1] == np.float32(-value)).all()


@pytest.mark.parametrize("dtype", ["float64", "float16"])
@pytest.mark.parametrize("blend", BLENDS)
def test_other_floats_keep_their_bits(dtype, blend):
    pixels = noise((1, 50, 43), "float32")
    got, _, _ = in_tiles(gt.load_model(lambda batch: batch.astype(dtype)), pixels, Tiling(24, 12, 2, blend))
    assert got.dtype == dtype
    assert np.array_equal(got, pixels.astype(dtype))


def test_float64_is_blended_in_float64():
    # Tiles that disagree: the mean of their means, to more digits than float32 has.
    pixels = noise((1, 40, 40), "float32")

    def mean_of_tile(batch):
        return np.broadcast_to(batch.astype(float).mean((2, 3), keepdims=True), batch.shape).copy()

    tiling = Tiling(16, 8, 0, "mean")
    got, _, _ = in_tiles(gt.load_model(mean_of_tile), pixels, tiling)
    expected, count = np.zeros((40, 40)), np.zeros((40, 40))
    padded = np.pad(pixels[0].astype(float), 20, mode="reflect")
    for y in range(-4, 40, 8):
        for x in range(-4, 40, 8):
            if y + 4 >= 40 or x + 4 >= 40:
                continue
            part = (slice(max(y, 0), min(y + 16, 40)), slice(max(x, 0), min(x + 16, 40)))
            expected[part] += padded[y + 20 : y + 36, x + 20 : x + 36].mean()
            count[part] += 1
    assert np.allclose(got[0], expected / count, rtol=1e-13, atol=0)


@pytest.mark.parametrize("blend", ["mean", "linear", "hann", "gaussian"])
def test_blends_are_the_normalised_weighted_sums_of_their_tiles(blend):
    """An oracle that adds w v and w in float64 over a canvas, as others do it."""
    from gigatile.tiling.axis import window

    shape, tile, overlap, margin = (45, 52), 20, 12, 2
    halo, stride = overlap // 2, tile - overlap
    pixels = noise((1, *shape), "float32")
    weights = window(blend, tile, tile - 2 * margin, stride)
    two = np.outer(weights, weights)
    canvas, total = np.zeros((shape[0] + 80, shape[1] + 80)), np.zeros((shape[0] + 80, shape[1] + 80))
    padded = np.pad(pixels[0].astype(float), 40, mode="reflect")
    for row in range(-(-shape[0] // stride)):
        for col in range(-(-shape[1] // stride)):
            y, x = row * stride - halo + 40, col * stride - halo + 40
            value = padded[y : y + tile, x : x + tile]
            value = (value - value.mean())[margin:-margin, margin:-margin]
            inner = (slice(y + margin, y + tile - margin), slice(x + margin, x + tile - margin))
            canvas[inner] += two * value
            total[inner] += two
    expected = (canvas / np.where(total, total, 1))[40:-40, 40:-40]

    def centred(batch):
        return batch - batch.mean((2, 3), keepdims=True, dtype=float).astype(np.float32)

    got, _, _ = in_tiles(gt.load_model(centred), pixels, Tiling(tile, overlap, margin, blend, block=24))
    assert np.abs(got[0] - expected).max() < 3e-7


@settings(shared, max_examples=30)
@given(st.data(), sizes(60), st.integers(1, 60), st.integers(1, 60))
def test_values_do_not_depend_on_the_block(stacks, data, shape, one, other):
    # The margin is too small on purpose: tiles disagree, and the order of blending matters.
    drawn = data.draw(tilings(0))
    tilings_ = [Tiling(drawn.tile, drawn.overlap, drawn.margin, drawn.blend, block=b) for b in (one, other)]
    pixels = noise((2, *shape))
    first, second = (in_tiles(load(stacks[2]), pixels, tiling)[0] for tiling in tilings_)
    assert np.array_equal(first, second)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "bool", "int32"])
def test_whole_numbers_go_through_trim_unchanged(dtype):
    pixels = noise((1, 50, 43))
    model = gt.load_model(lambda batch: (batch > 100 if dtype == "bool" else batch).astype(dtype), scale=1.0)
    got, _, _ = in_tiles(model, pixels, Tiling(24, 8, 4, "trim"))
    assert got.dtype == dtype
    assert np.array_equal(got, (pixels > 100 if dtype == "bool" else pixels).astype(dtype))


def test_tile_rows_are_handed_out_in_the_steps_that_were_asked_for(same):
    from threading import Event

    from gigatile.engine.batches import Inference, Progress, Tally
    from gigatile.engine.pipes import Clock
    from gigatile.engine.region import infer_region
    from gigatile.tiling.region import Region

    pixels = noise((2, 61, 40))
    how = Inference(Tiling(20, 8, 0, "hann").grid((61, 40)), load(same), 2, np.dtype("float32"), 1, False)

    def read(window):
        return np.pad(pixels, ((0, 0), (30, 30), (30, 30)), mode="reflect")[
            (slice(None), *window.shifted(30, 30).slices())
        ], None

    progress = Progress(Clock(), Tally(), Event(), lambda tiles: None)
    heights = [(y, band.shape[1]) for y, band, _ in infer_region(how, Region(12, 0, 61, 40), read, 7, progress)]
    assert heights[0][0] == 12
    assert all(height % 7 == 0 for _, height in heights[:-1])
    assert sum(height for _, height in heights) == 49
