"""The seam score: 0 where tiles equal the whole image, and the more the less the overlap."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import gigatile as gt
from gigatile.engine.seams import SeamTally
from gigatile.testing.sources import UnitSource, noise
from gigatile.testing.strategies import sizes
from gigatile.tiling.axis import BLENDS

from .catalogue import KNOWN
from .tiled import tiled

WEIGHTED = [blend for blend in BLENDS if blend != "trim"]
few = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def planned(pixels, model, tiling, *, scale=0.01, mask="none", nodata=None, output="raw"):
    source = gt.Image(UnitSource(pixels, (16, 16), nodata))
    return gt.plan(source, gt.load_model(model, scale=scale), tiling, output=output, mask=mask)


def compared(run):
    return run.compared, sum(t.seams.difference for t in run.tally), sum(t.seams.disagreements for t in run.tally)


@settings(few, max_examples=25)
@given(st.data(), sizes(120), st.sampled_from([name for name in KNOWN if max(KNOWN[name].radius) < 14]))
def test_it_is_zero_for_exact_runs(saved, data, shape, name):
    unit = KNOWN[name].alignment
    tile = 2 * KNOWN[name].halo + unit * data.draw(st.integers(2, 40 // unit))
    blend = data.draw(st.sampled_from(WEIGHTED))
    plan = planned(noise((1, *shape)), saved(name), gt.Tiling(tile=tile, blend=blend))
    assert plan.choice.exact
    run = tiled(plan)
    assert compared(run)[1:] == (0, 0)
    # There was something to compare wherever there is more than one tile.
    assert (run.compared > 0) == (plan.grid.tiles > 1 and plan.grid.y.reach > 0)


def test_for_trim_the_pixels_beside_the_core_are_compared_where_the_halo_leaves_room(saved):
    pixels = noise((1, 120, 130))
    plan = planned(pixels, saved("three of 3x3"), gt.Tiling(32, 8, 3, "trim"))
    assert plan.choice.exact
    run = tiled(plan)
    assert run.seam == 0
    assert run.compared > 0
    assert tiled(planned(pixels, saved("three of 3x3"), gt.Tiling(32, 6, 3, "trim"))).compared == 0


@pytest.mark.parametrize("blend", ["mean", "hann", "gaussian"])
@pytest.mark.parametrize("name", ["5x5 and 7x7", "3x3 dilated by 4", "U-Net of depth 2", "U-Net of depth 3"])
def test_it_rises_as_the_margin_is_cut_below_the_radius(saved, name, blend):
    """In the large: at the radius, at a half of it, at nothing."""
    known = KNOWN[name]
    unit = known.alignment
    need = known.halo
    pixels = noise((1, 230, 240))
    scores = []
    for margin in (need, need // 2 // unit * unit, 0):
        tiling = gt.Tiling(4 * need + 4 * unit, 2 * (margin + unit), margin, blend)
        scores.append(tiled(planned(pixels, saved(name), tiling)).seam)
    assert scores[0] == 0
    assert 0 < scores[1] < scores[2]


def test_it_is_the_mean_difference_of_the_two_tiles(saved):
    """By hand: every tile is the mean of its own pixels."""
    pixels = noise((1, 16, 40), "float32")

    def mean_of_tile(batch):
        return np.broadcast_to(batch.mean((2, 3), keepdims=True), batch.shape).astype(np.float32)

    plan = planned(pixels, mean_of_tile, gt.Tiling((24, 24), 8, 0, "mean", block=400), scale=1.0)
    run = tiled(plan)
    wide = np.pad(pixels, ((0, 0), (4, 4), (4, 28)), mode="reflect")
    means = [wide[0, :24, start : start + 24].mean() for start in (0, 16, 32)]
    expected = (abs(means[1] - means[0]) + abs(means[2] - means[1])) / 2
    # 8 columns of 16 rows at each of two seams; the last is whole, since the image reaches 40.
    assert run.compared == 2 * 8 * 16
    assert run.seam == pytest.approx(expected, rel=1e-5)


@settings(few, max_examples=30)
@given(sizes(100), st.sampled_from(WEIGHTED), st.integers(1, 100), st.integers(1, 100))
def test_it_does_not_depend_on_the_blocks(saved, shape, blend, one, other):
    pixels = noise((1, *shape))
    runs = [
        tiled(planned(pixels, saved("5x5 and 7x7"), gt.Tiling((24, 20), 10, 1, blend, block=block)))
        for block in (one, other)
    ]
    (count, difference, classes), (count2, difference2, classes2) = map(compared, runs)
    assert (count, classes) == (count2, classes2)
    assert difference == pytest.approx(difference2, rel=1e-6, abs=1e-9)


class TestClasses:
    def test_classes_that_disagree_are_counted(self):
        tally = SeamTally()
        before = np.array([[[0.9, 0.9, 0.2, 0.4]], [[0.1, 0.1, 0.8, 0.6]]], np.float32)
        now = np.array([[[0.6, 0.4, 0.1, 0.4]], [[0.4, 0.6, 0.9, 0.6]]], np.float32)
        tally.compare(before, now, None)
        assert (tally.pixels, tally.disagreements) == (4, 1)
        assert tally.difference == pytest.approx(0.3 + 0.5 + 0.1 + 0)

    def test_with_one_channel_the_class_is_whether_it_is_above_a_half(self):
        tally = SeamTally()
        tally.compare(np.array([[[0.4, 0.6, 0.5]]], np.float32), np.array([[[0.45, 0.4, 0.51]]], np.float32), None)
        assert (tally.pixels, tally.disagreements) == (3, 2)

    def test_invalid_pixels_do_not_count(self):
        tally = SeamTally()
        before, now = np.zeros((2, 2, 3), np.float32), np.ones((2, 2, 3), np.float32)
        tally.compare(before, now, np.array([[True, False, False], [True, True, False]]))
        assert (tally.pixels, tally.difference) == (3, 3.0)
        tally.compare(before, now, np.zeros((2, 3), bool))
        assert tally.pixels == 3


@pytest.mark.parametrize("blend", BLENDS)
def test_pixels_without_meaning_do_not_count_and_neither_do_skipped_tiles(saved, blend):
    """What the model says of nodata is nobody's seam: the score is that of the other pixels alone."""
    pixels = noise((1, 130, 140), "uint8") // 2 + 1
    pixels[:, 30:110, 35:125] = 0
    tiling = gt.Tiling(24, 12, 2, blend, block=70)

    def says_much_of_nothing(batch):
        odd = batch.mean((2, 3), keepdims=True)
        return np.where(batch == 0, 1000 * odd, 0).astype(np.float32)

    plain = tiled(planned(pixels, says_much_of_nothing, tiling, scale=1.0))
    masked = tiled(planned(pixels, says_much_of_nothing, tiling, scale=1.0, mask="nodata", nodata=0))
    assert sum(t.skipped for t in masked.tally) > 0
    assert 0 < masked.compared < plain.compared
    assert plain.seam > 0
    assert masked.seam == 0


def test_a_run_reports_it(saved, tmp_path):
    pixels = noise((1, 130, 140))
    for overlap, exact in ((8, True), (2, False)):
        tiling = gt.Tiling(32, overlap, overlap // 2 - 1, "hann")
        result = gt.run(planned(pixels, saved("three of 3x3"), tiling), tmp_path / str(overlap), durable=False)
        score = result.status.to_json()["seam_score"]
        assert (score == 0) == exact
        assert exact or score == pytest.approx(tiled(planned(pixels, saved("three of 3x3"), tiling)).seam, rel=1e-6)
