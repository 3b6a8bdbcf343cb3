"""What others got wrong, one test for each (design, section 8): tiling, weights, borders, statistics, masks."""

import dask.array as da
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import gigatile as gt
from gigatile.models.probe import measure
from gigatile.testing.models import identity
from gigatile.testing.sources import UnitSource, noise
from gigatile.testing.strategies import sizes
from gigatile.tiling.axis import BLENDS, window

from .tiled import tiled

WEIGHTED = [blend for blend in BLENDS if blend != "trim"]


def planned(pixels, model, tiling, mask="none", nodata=None):
    source = gt.Image(UnitSource(pixels, (16, 16), nodata))
    return gt.plan(source, gt.load_model(model, scale=1.0), tiling, output="raw", mask=mask)


def values(pixels, model, tiling, **options):
    return tiled(planned(pixels, model, tiling, **options)).values


class FirstTileIsZero:
    """0 for the first tile and 1 for all others."""

    def __init__(self):
        self.calls = -1  # planning makes one call

    def __call__(self, batch):
        self.calls += 1
        return np.full_like(batch, float(self.calls > 1))


def test_an_all_zero_tile_counts_in_the_mean():
    """tiatoolbox 6fc8a2e leaves blocks of zeros out of its count: 1 where the mean of 0 and 1 is 0.5."""
    got = values(noise((1, 16, 40)), FirstTileIsZero(), gt.Tiling((32, 24), 8, 0, "mean", block=400))
    # Tiles along x: cores of 16 px, each reaching 4 px further; rows are one tile high.
    assert set(np.unique(got[0, :, 12:20])) == {0.5}
    assert (got[0, :, :12] == 0).all()
    assert (got[0, :, 20:] == 1).all()


@pytest.mark.parametrize("blend", WEIGHTED)
def test_weights_are_divided_by_their_sum_and_not_by_a_count(blend):
    """LazySlide multiplied by the weight and divided by the number of tiles: a constant came out smaller."""
    got = values(noise((1, 100, 90)), lambda batch: np.full_like(batch, 7), gt.Tiling(32, 24, 0, blend))
    assert (got == 7).all()


@pytest.mark.parametrize("blend", WEIGHTED)
@pytest.mark.parametrize(("tile", "overlap"), [(32, 2), (32, 16), (32, 30), (33, 32), (512, 256)])
def test_no_weight_is_zero_up_to_the_edge_of_the_tile(blend, tile, overlap):
    """A window that is 0 at its ends blackens the frame of the image, where no other tile helps."""
    assert window(blend, tile, tile, tile - overlap).min() > 0


@pytest.mark.parametrize("blend", BLENDS)
@pytest.mark.parametrize("size", [1, 31, 32, 33, 100])
def test_the_frame_of_the_image_is_not_black(blend, size):
    pixels = np.full((1, size, size), 200, np.uint8)
    assert (values(pixels, identity, gt.Tiling(32, 16, 0, blend)) == 200).all()


@pytest.mark.parametrize("value", [1e-30, 1e-7, 0.1, 254.7, 1e30])
@pytest.mark.parametrize("blend", WEIGHTED)
def test_no_epsilon_is_added_to_the_denominator(blend, value):
    """A constant is itself to the bit, however large or small; where + 1e-6 stands it is a little less."""
    wanted = np.float32(value)
    got = values(noise((1, 80, 75)), lambda batch: np.full_like(batch, wanted), gt.Tiling(32, 30, 0, blend))
    assert (got == wanted).all()


@pytest.mark.parametrize("blend", BLENDS)
@pytest.mark.parametrize("shape", [(65, 64), (64, 65), (79, 95), (100, 37)])
def test_the_right_and_bottom_margins_are_predicted(blend, shape):
    """range(0, size - tile + 1, stride) ends before the image does."""
    pixels = noise((1, *shape), "float32") + 1
    assert np.array_equal(values(pixels, identity, gt.Tiling(32, 8, 0, blend)), pixels)


@pytest.mark.parametrize("blend", BLENDS)
@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (5, 3), (63, 63)])
def test_an_image_smaller_than_a_tile_is_not_skipped(blend, shape):
    pixels = noise((1, *shape), "float32") + 1
    plan = planned(pixels, identity, gt.Tiling(64, 16, 0, blend))
    assert plan.grid.tiles >= 1
    assert np.array_equal(tiled(plan).values, pixels)


def to_its_own_range(batch):
    low, high = batch.min((1, 2, 3), keepdims=True), batch.max((1, 2, 3), keepdims=True)
    return (batch - low) / np.maximum(high - low, 1)


def test_normalisation_by_the_tile_is_detected_and_makes_steps():
    """A dark half beside a bright one: the steps are there, the probe says so, and the seam score is not 0."""
    assert measure(gt.load_model(to_its_own_range), 1).verdict == "not-exact"
    pixels = np.full((1, 64, 128), 40, np.uint8)
    pixels[:, :, 64:] = 200
    pixels[:, ::2] += 10
    got = tiled(planned(pixels, to_its_own_range, gt.Tiling(32, 8, 0, "hann")))
    assert got.seam > 0.01


class TestMasks:
    """A mask selects output pixels, nothing else."""

    def pixels(self):
        pixels = noise((1, 90, 110), "float32") + 1
        pixels[:, 17:61, 23:77] = 0
        return pixels

    @staticmethod
    def sees_its_tile(batch):
        return batch + batch.mean((2, 3), keepdims=True)

    @pytest.mark.parametrize("blend", BLENDS)
    def test_it_moves_no_tile_and_changes_no_neighbour(self, blend):
        pixels = self.pixels()
        tiling = gt.Tiling(16, 8, 0, blend, block=40)
        plain = tiled(planned(pixels, self.sees_its_tile, tiling))
        masked = tiled(planned(pixels, self.sees_its_tile, tiling, mask="nodata", nodata=0))
        assert sum(tally.skipped for tally in masked.tally) > 0
        valid = pixels[0] != 0
        assert np.array_equal(masked.values[:, valid], plain.values[:, valid])

    @pytest.mark.parametrize("blend", BLENDS)
    def test_a_tile_is_skipped_only_if_it_supports_no_kept_pixel(self, blend):
        pixels = np.zeros((1, 64, 64), np.float32)
        pixels[:, 33, 33] = 5
        plan = planned(pixels, identity, gt.Tiling(16, 8, 0, blend, block=64), mask="nodata", nodata=0)
        tally = tiled(plan).tally[0]
        supports = [
            (row, col)
            for row in range(plan.grid.y.count)
            for col in range(plan.grid.x.count)
            if plan.grid.y.support(row)[0] <= 33 < plan.grid.y.support(row)[1]
            and plan.grid.x.support(col)[0] <= 33 < plan.grid.x.support(col)[1]
        ]
        assert tally.tiles == len(supports) > 0
        assert tally.tiles + tally.skipped == plan.grid.tiles


@pytest.mark.parametrize("border", ["reflect", "symmetric"])
def test_dasks_reflect_repeats_the_edge_pixel_and_ours_does_not(border):
    row = np.arange(1, 8, dtype=np.float32)
    dask_sees = da.overlap.overlap(da.from_array(row), 3, "reflect").compute()
    assert np.array_equal(dask_sees[:4], [3, 2, 1, 1])
    seen = []

    def look(batch):
        seen.append(batch.copy())
        return batch

    # One tile of 13 x 13 px with a halo of 3 px holds the image of 7 x 7 px.
    plan = planned(np.tile(row, (1, 7, 1)), look, gt.Tiling(13, 6, 0, "trim", border))
    seen.clear()
    tiled(plan)
    (tile,) = seen
    assert np.array_equal(tile[0, 0, 6], np.pad(row, 3, mode=border))
    assert np.array_equal(tile[0, 0, 6], dask_sees) == (border == "symmetric")


def plus_one(batch):
    return batch + 1


class TestNumbersOfMonai:
    """Cases of MONAI's tests/inferers/test_sliding_window_inference.py that mean the same here."""

    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=30)
    @given(sizes(70), st.integers(2, 24), st.sampled_from([0, 0.1, 0.25, 0.5, 0.8]), st.sampled_from(BLENDS))
    def test_one_more_is_one_more(self, shape, roi, overlap, blend):
        pixels = noise((1, *shape), "float32")
        tiling = gt.Tiling(roi, min(int(overlap * roi), roi - 1) // 2 * 2, 0, blend)
        assert np.array_equal(values(pixels, plus_one, tiling), pixels + 1)

    @pytest.mark.parametrize("blend", BLENDS)
    @pytest.mark.parametrize(
        ("shape", "roi", "overlap"),
        [((10, 11), (7, 10), 0.8), ((511, 237), (96, 80), 0.4), ((512, 245), (512, 80), 0.125)],
    )
    def test_twice_is_twice(self, shape, roi, overlap, blend):
        pixels = noise((1, *shape), "float32")
        tiling = gt.Tiling(roi, int(overlap * min(roi)) // 2 * 2, 0, blend)
        got = values(pixels, lambda batch: 2 * batch, tiling)
        assert np.array_equal(0.5 * got, pixels)

    def test_a_sum_over_the_window_sees_the_padding(self):
        """Ones 3 x 3 in a window of 5 x 5 padded with -1: 1 + (9 - 16) = -6 everywhere."""

        def with_its_sum(batch):
            return batch + batch.sum((2, 3), keepdims=True)

        pixels = np.ones((1, 3, 3), np.float32)
        got = values(pixels, with_its_sum, gt.Tiling(5, 2, 0, "trim", "constant:-1"))
        assert (got == -6).all()
