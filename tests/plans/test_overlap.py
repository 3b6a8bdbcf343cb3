"""Overlap, margin and blend from a probe: the numbers, where they are said to come from, and what is warned of."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import gigatile as gt
from gigatile.errors import ModelError, UsageError
from gigatile.models.probe import Probe
from gigatile.plans import overlap as module
from gigatile.plans.overlap import choose_overlap, with_tile
from gigatile.testing.models import identity
from gigatile.testing.sources import noise
from gigatile.tiling.axis import BLENDS
from gigatile.tiling.output_grid import OutputGrid

UNET = Probe((58, 58), {"0.001": (38, 37), "1e-06": (53, 53)}, 8, Fraction(1), 0, 8, 1, 1, "exact-aligned", "radius 58")
CONV = Probe((5, 3), {"0.001": (5, 3), "1e-06": (5, 3)}, 1, Fraction(1), 0, 1, 1, 1, "exact", "radius 5")
HALF = Probe((3, 3), {"0.001": (3, 3), "1e-06": (3, 3)}, 2, Fraction(1, 2), 0, 2, 1, 1, "exact-aligned", "radius 3")
VALID = Probe((14, 14), {"0.001": (14, 14), "1e-06": (14, 14)}, 1, Fraction(1), 14, 1, 1, 1, "exact", "radius 14")
GLOBAL = Probe(None, {"0.001": (131, 130), "1e-06": (131, 131)}, 0, Fraction(1), 0, 1, 1, 1, "not-exact", "to the edge")
PLACED = replace(GLOBAL, radius=(3, 3), effective={"0.001": (3, 3), "1e-06": (3, 3)}, reason="depends on the place")


@pytest.fixture
def choose(monkeypatch):
    """`choose_overlap` for a model that was measured to be this."""

    def chosen(probe, tiling):
        monkeypatch.setattr(module, "known_probe", lambda loaded, channels: probe)
        loaded = gt.load_model(identity)
        loaded = replace(loaded, output=OutputGrid(probe.output_scale, probe.crop) if probe else loaded.output)
        return choose_overlap(with_tile(tiling, loaded), loaded, 1)

    return chosen


# probe, tile, blend asked for -> overlap, margin, blend
AUTOMATIC = {
    "the radius, rounded up to the alignment": (UNET, 512, None, 128, 64, "trim"),
    "a blend ramps over a 16th of the tile inside it": (UNET, 512, "hann", 192, 64, "hann"),
    "the larger of both radii": (CONV, 256, None, 10, 5, "trim"),
    "a ramp of a small tile": (CONV, 64, "linear", 18, 5, "linear"),
    "whole pixels of a result of half the size": (HALF, 128, None, 8, 4, "trim"),
    "what the model cuts off": (VALID, 512, None, 28, 14, "trim"),
    "what the model cuts off, and a ramp": (VALID, 512, "mean", 92, 14, "mean"),
}


@pytest.mark.parametrize("name", AUTOMATIC)
def test_automatic_numbers(choose, name):
    probe, tile, asked, overlap, margin, blend = AUTOMATIC[name]
    tiling, choice = choose(probe, gt.Tiling(tile=tile, blend=asked))
    assert (tiling.overlap, tiling.margin, tiling.blend) == (overlap, margin, blend)
    assert choice.exact
    assert choice.text.startswith("from the probe (radius ")
    assert choice.text.endswith("): exact")
    assert not choice.warning


@pytest.mark.parametrize(("tile", "least"), [(120, 256), (64, 256), (500, 256)])
def test_a_tile_that_is_too_small_or_off_the_alignment_is_warned_of(choose, tile, least):
    tiling, choice = choose(UNET, gt.Tiling(tile=tile))
    assert not choice.exact
    assert f"--tile {least}" in choice.warning
    tiling.grid((1000, 1000))
    advised, again = choose(UNET, gt.Tiling(tile=least))
    assert again.exact
    assert advised.overlap == 128


def test_a_model_that_takes_one_tile_only_is_not_told_to_take_another(monkeypatch):
    class OneTile:
        fixed_tile = (500, 500)

    monkeypatch.setattr(module, "known_probe", lambda loaded, channels: UNET)
    loaded = replace(gt.load_model(identity), model=OneTile())
    _, choice = choose_overlap(with_tile(gt.Tiling(), loaded), loaded, 1)
    assert not choice.exact
    assert "--tile" not in choice.warning
    assert "multiples of 8" in choice.warning


def test_a_valid_unet_is_aligned_by_what_lies_beyond_its_crop(choose):
    """572 px in, 388 px out: 92 px cut off is no multiple of 16, and need not be one."""
    valid = replace(UNET, radius=(92, 92), alignment=16, crop=92, size_multiple=4)
    tiling, choice = choose(valid, gt.Tiling(tile=568))
    assert (tiling.overlap, choice.exact) == (184, True)
    tiling, choice = choose(valid, gt.Tiling(tile=568, blend="hann"))
    assert (tiling.overlap, tiling.margin, choice.exact) == (184 + 64, 92, True)


def test_a_margin_that_is_given_makes_the_halo_larger(choose):
    tiling, choice = choose(UNET, gt.Tiling(tile=512, margin=100, blend="hann"))
    assert (tiling.overlap, tiling.margin, choice.exact) == (2 * (104 + 32), 100, True)


def test_what_cannot_be_exact_is_blended_over_at_most_half_the_tile(choose):
    tiling, choice = choose(GLOBAL, gt.Tiling(tile=512))
    assert not choice.exact
    assert (tiling.blend, tiling.overlap) == ("hann", 256)
    assert "to the edge" in choice.text
    assert "0.001 at 131 px" in choice.text
    small, _ = choose(PLACED, gt.Tiling(tile=512))
    # Little influence is lost beyond 3 px: the halo is that and a ramp of a 16th of the tile.
    assert small.overlap == 2 * (3 + 32)


def test_a_model_that_cannot_be_exact_gets_no_less_than_what_it_cuts_off(choose):
    tiling, choice = choose(replace(GLOBAL, crop=30), gt.Tiling(tile=100))
    assert not choice.exact
    assert tiling.overlap >= 60
    tiling.grid((300, 300), OutputGrid(crop=30))


class TestByHand:
    def test_enough_is_exact_and_without_a_warning(self, choose):
        tiling, choice = choose(UNET, gt.Tiling(512, 128))
        assert (tiling.overlap, tiling.blend) == (128, "trim")
        assert choice.exact
        assert choice.text.startswith("as given (radius 58, alignment 8)")
        assert not choice.warning

    def test_a_blend_takes_the_radius_as_its_margin(self, choose):
        tiling, choice = choose(UNET, gt.Tiling(512, 160, blend="gaussian"))
        assert (tiling.margin, choice.exact) == (64, True)

    def test_a_blend_over_the_rounded_radius_ramps_between_the_two(self, choose):
        tiling, choice = choose(UNET, gt.Tiling(512, 128, blend="hann"))
        assert (tiling.margin, choice.exact) == (58, True)

    @pytest.mark.parametrize(
        ("tiling", "advice"),
        [
            (gt.Tiling(512, 112), "--overlap 144"),
            (gt.Tiling(512, 120, blend="trim"), "multiples of 16"),
            (gt.Tiling(512, 112, blend="trim"), "--overlap 128"),
            (gt.Tiling(512, 192, 32, "hann"), "--overlap 144"),
            (gt.Tiling(512, 132, blend="trim"), "multiples of 16"),
        ],
    )
    def test_too_little_is_warned_of_with_the_figure(self, choose, tiling, advice):
        _, choice = choose(UNET, tiling)
        assert not choice.exact
        assert advice in choice.warning

    def test_the_advice_is_exact(self, choose):
        assert choose(UNET, gt.Tiling(512, 128, blend="trim"))[1].exact
        assert choose(UNET, gt.Tiling(512, 144, blend="hann"))[1].exact

    def test_no_warning_for_a_model_that_cannot_be_exact(self, choose):
        tiling, choice = choose(GLOBAL, gt.Tiling(512, 64))
        assert (tiling.overlap, tiling.margin, tiling.blend) == (64, 0, "hann")
        assert not choice.exact
        assert not choice.warning

    def test_the_overlap_stays_what_it_is(self, choose):
        for overlap in (0, 2, 100, 510):
            assert choose(UNET, gt.Tiling(512, overlap))[0].overlap == overlap


class TestWithoutAProbe:
    def test_a_quarter_of_the_tile_and_a_blend(self, choose):
        tiling, choice = choose(None, gt.Tiling(tile=512))
        assert (tiling.overlap, tiling.margin, tiling.blend) == (128, 0, "hann")
        assert choice.text == "a quarter of the tile, since the model has not been probed"
        assert not choice.exact
        assert not choice.warning

    def test_what_is_given_is_kept(self, choose):
        tiling, choice = choose(None, gt.Tiling(512, 30, 4, "mean"))
        assert (tiling.overlap, tiling.margin, tiling.blend) == (30, 4, "mean")
        assert choice.text == "as given; not probed"

    def test_a_model_that_cannot_be_probed_says_why(self, monkeypatch):
        def fails(loaded, channels):
            raise ModelError("model x", expected="maps", found="nothing")

        monkeypatch.setattr(module, "known_probe", fails)
        loaded = gt.load_model(identity)
        _, choice = choose_overlap(with_tile(gt.Tiling(), loaded), loaded, 1)
        assert "cannot be probed" in choice.warning
        assert "found nothing" in choice.warning


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=200)
@given(
    st.tuples(st.integers(0, 40), st.integers(0, 40)),
    st.sampled_from([0, 1, 2, 3, 4, 8]),
    st.tuples(st.sampled_from([Fraction(1), Fraction(2), Fraction(1, 2), Fraction(1, 4)]), st.integers(0, 12)),
    st.tuples(st.sampled_from(["auto", 0, 1, 7]), st.none() | st.sampled_from(BLENDS), st.integers(1, 300)),
)
def test_whatever_the_model_the_numbers_make_a_legal_grid(choose, radius, alignment, output, asked):
    (scale, crop), (margin, blend, tile) = output, asked
    exact = alignment > 0
    alignment = alignment * scale.denominator
    crop = crop // scale.denominator * scale.denominator
    tile = tile * max(alignment, scale.denominator)
    assume(tile > 2 * crop + 2 * max(alignment, scale.denominator))
    probe = Probe(
        radius=radius if exact else None,
        effective={"0.001": radius, "1e-06": radius},
        alignment=alignment,
        output_scale=scale,
        crop=crop,
        size_multiple=1,
        channels_in=1,
        channels_out=1,
        verdict="exact" if exact else "not-exact",
        reason="",
    )
    try:
        tiling, choice = choose(probe, gt.Tiling(tile=tile, margin=margin, blend=blend))
    except UsageError as error:
        # The margin was given, and no halo has room for it.
        assert margin != "auto"
        assert error.where == "margin"
        return
    grid = tiling.grid((500, 400), OutputGrid(scale, crop))
    halo = tiling.overlap // 2
    assert crop <= halo
    assert grid.stride[0] > 0
    if choice.exact:
        used = halo if tiling.blend == "trim" else max(tiling.margin, crop)
        assert used >= max(radius)
        assert (halo - crop) % alignment == 0
        assert (tile - 2 * halo) % alignment == 0
    else:
        assert probe.verdict == "not-exact" or choice.warning


def test_the_plan_says_where_the_numbers_came_from(tmp_path):
    from tests.oracle.catalogue import KNOWN
    from tests.oracle.graphs import Graph

    graph = Graph(1)
    path = graph.save(tmp_path / "unet.onnx", KNOWN["U-Net of depth 2"].make(graph))
    plan = gt.plan(noise((1, 200, 200)), path, gt.Tiling(tile=128))
    assert plan.choice.text == "from the probe (radius 13, alignment 4): exact"
    assert plan.choice.text in str(plan)
    assert plan.to_json()["exact"] is True
    assert plan.to_json()["overlap"] == 32
    assert np.isclose(plan.to_json()["overcompute"], plan.overcompute)


def test_a_block_of_one_pixel_is_one_core_also_at_half_resolution():
    plan = gt.plan(noise((1, 64, 64)), lambda batch: batch[:, :, ::2, ::2], gt.Tiling(tile=32, overlap=16, block=1))
    assert plan.model.output.scale == Fraction(1, 2)
    assert plan.block == plan.grid.stride == (8, 8)
