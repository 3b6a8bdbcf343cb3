"""Overlap, margin and blend left to the library: tiled equals onnxruntime on the whole image."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import gigatile as gt
from gigatile.testing.sources import UnitSource, noise
from gigatile.testing.strategies import BORDERS, sizes
from gigatile.tiling.axis import BLENDS

from .catalogue import KNOWN
from .graphs import Graph, needed
from .reference import whole, worst
from .tiled import tiled

few = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
LOOKING = [name for name, known in KNOWN.items() if not known.crop and needed(known.make(Graph()), known.alignment) > 0]
"""Models that see something outside an aligned core."""
SMALL = [name for name, known in KNOWN.items() if max(known.radius) < 14]


def planned(path, pixels, tiling, **options):
    source = gt.Image(UnitSource(pixels, (23, 29)))
    return gt.plan(source, gt.load_model(path, scale=0.01), tiling, output="raw", mask="none", **options)


def oracle(plan, path, known, pixels):
    return whole(
        path,
        pixels.astype(np.float32) * np.float32(0.01),
        plan.tiling.overlap // 2,
        known.multiple,
        scale=Fraction(known.scale),
        crop=known.crop,
        border=plan.tiling.border,
    )


@settings(few, max_examples=60)
@given(
    st.data(),
    st.sampled_from(SMALL),
    st.tuples(sizes(90), st.sampled_from(["uint8", "uint16", "float32", "bool"]), st.integers(1, 3)),
    st.tuples(st.sampled_from(BLENDS), st.sampled_from(BORDERS)),
)
def test_tiled_is_whole_whatever_the_image_and_the_tiling(saved, data, name, image, how):
    (shape, dtype, channels), (blend, border) = image, how
    known = KNOWN[name]
    sides = [2 * known.halo + known.alignment * data.draw(st.integers(1, 48 // known.alignment)) for _ in range(2)]
    block = data.draw(st.none() | st.integers(4, 120))
    tiling = gt.Tiling(tile=(sides[0], sides[1]), blend=blend, border=border, block=block)
    pixels = noise((channels, *shape), dtype)
    plan = planned(saved(name, channels), pixels, tiling)
    assert plan.choice.exact, plan.choice
    assert plan.tiling.overlap >= 2 * known.halo
    got = tiled(plan)
    assert got.values.shape[1:] == plan.grid.shape
    expected = oracle(plan, saved(name, channels), known, pixels)
    assert np.array_equal(got.values, expected), worst(got.values, expected)


@pytest.mark.parametrize("name", ["U-Net of depth 3", "U-Net of depth 4"])
@pytest.mark.parametrize("blend", ["trim", "hann"])
def test_deep_unets_are_whole_too(saved, name, blend):
    known = KNOWN[name]
    tile = 8 * known.alignment + 2 * known.halo
    pixels = noise((1, 190, 233))
    plan = planned(saved(name), pixels, gt.Tiling(tile=tile, blend=blend))
    assert plan.choice.exact
    assert plan.grid.tiles > 3
    assert np.array_equal(tiled(plan).values, oracle(plan, saved(name), known, pixels))


@pytest.mark.parametrize("blend", ["trim", "hann"])
@pytest.mark.parametrize("name", LOOKING)
def test_one_unit_less_than_the_layers_need_shows(saved, name, blend):
    """The other side of the equality: one pixel for models that are at home everywhere, else one alignment."""
    known = KNOWN[name]
    unit = known.alignment
    least = needed(known.make(Graph()), unit)
    chosen = known.halo
    assert least <= chosen < least + 2 * unit
    assert unit > 1 or least == chosen
    tile = unit * max(48 // unit, 4) + 2 * chosen
    pixels = noise((1, 2 * tile + 5, 2 * tile + 3))
    expected = whole(
        saved(name), pixels * np.float32(0.01), chosen, known.multiple, scale=Fraction(known.scale), crop=known.crop
    )
    # The borders are mirrored from another place where the halo is another; they are left out.
    edge = int(-(-2 * chosen * known.scale // 1))
    inside = (slice(None), slice(edge, -edge), slice(edge, -edge))

    def got(margin):
        halo = margin + (0 if blend == "trim" else unit)
        plan = planned(saved(name), pixels, gt.Tiling(tile, 2 * halo, margin, blend))
        assert plan.choice.exact == (margin >= chosen)
        if margin < chosen:
            advised = 2 * (chosen if blend == "trim" else chosen + unit)
            assert f"type --overlap {advised} or more" in plan.choice.warning
        return tiled(plan).values[inside]

    assert not np.array_equal(got(least - unit), expected[inside])
    assert np.array_equal(got(least), expected[inside])
    assert np.array_equal(got(chosen), expected[inside])


def test_an_overlap_below_what_the_model_cuts_off_is_refused(saved):
    with pytest.raises(gt.errors.UsageError, match="cuts 3 px off"):
        planned(saved("valid 5x5 and 3x3"), noise((1, 90, 90)), gt.Tiling(32, 4, 0, "trim"))


@pytest.mark.parametrize("shift", [1, 2, 3])
def test_tiles_off_the_alignment_show(saved, shift):
    """Halo and stride in multiples of 4 are exact; other ones, as large, are not."""
    known, pixels = KNOWN["U-Net of depth 2"], noise((1, 150, 141))
    path = saved("U-Net of depth 2")
    # Tiles have to be multiples of 4 to run at all: stride and halo leave the alignment together.
    tiling = gt.Tiling(64, 2 * (16 + shift), 0, "trim")
    plan = planned(path, pixels, tiling)
    assert not plan.choice.exact
    got = tiled(plan).values[:, 40:-40, 40:-40]
    expected = whole(path, pixels * np.float32(0.01), 16, known.multiple)[:, 40:-40, 40:-40]
    assert worst(got, expected) > 1e-3


def test_what_cannot_be_exact_is_blended_and_said_to_be_inexact(saved):
    pixels = noise((1, 150, 141))
    plan = planned(saved("instance norm"), pixels, gt.Tiling(tile=64))
    assert not plan.choice.exact
    assert plan.tiling.blend == "hann"
    assert "to the edge of every tile" in plan.choice.text
    assert 0 < plan.tiling.overlap <= 32
    got = tiled(plan)
    assert got.seam > 0
    expected = whole(saved("instance norm"), pixels * np.float32(0.01), plan.tiling.overlap // 2)
    assert 1e-3 < worst(got.values, expected) < 1


def test_a_tile_without_room_for_the_radius_is_said_to_be_inexact(saved):
    with pytest.warns(gt.errors.OverlapWarning, match="too small or not aligned.*--tile"):
        plan = planned(saved("U-Net of depth 3"), noise((1, 150, 141)), gt.Tiling(tile=56))
    assert not plan.choice.exact
