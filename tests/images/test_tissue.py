"""Tissue on pictures that are drawn here and on a real slide: glass, ink, padding and dust are none."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

import gigatile as gt
from gigatile.errors import UsageError
from gigatile.images.components import without_small
from gigatile.images.image import Image
from gigatile.images.tissue import PADDING, find_tissue, grown, otsu, tissue_of
from gigatile.testing.sources import UnitSource, noise
from gigatile.tiling.region import Region
from tests.data import data

GLASS, EOSIN, HAEMATOXYLIN, DAB = (241, 240, 236), (225, 150, 190), (120, 90, 160), (150, 100, 60)
INKS = {"blue": (25, 60, 155), "light blue": (60, 120, 200), "green": (30, 140, 80), "black": (28, 26, 30)}
SHAPE = (200, 300)


def drawn(*patches, background=GLASS):
    """A slide at 8 um a pixel: (colour, y0, y1, x0, x1) one over the other, softened, with noise."""
    picture = np.full((*SHAPE, 3), background, float)
    for colour, y0, y1, x0, x1 in patches:
        picture[y0:y1, x0:x1] = colour
    soft = ndimage.gaussian_filter(picture, (0.8, 0.8, 0))
    grain = np.random.default_rng(0).normal(0, 2, picture.shape)
    return np.moveaxis(np.clip(soft + grain, 0, 255), -1, 0).astype(np.uint8)


def found(rgb):
    return tissue_of(rgb, ~(rgb <= PADDING).all(axis=0), 64.0)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.floats(0.1, 0.9), st.integers(1, 30), st.integers(0, 99))
def test_small_parts_are_those_of_scipy(height, width, share, least, seed):
    mask = np.random.default_rng(seed).random((height, width)) < share
    labels, count = ndimage.label(mask)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    assert np.array_equal(without_small(mask, least), mask & (sizes[labels] >= least))


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 3), st.integers(0, 99))
def test_growing_is_that_of_scipy(radius, seed):
    mask = np.random.default_rng(seed).random((30, 33)) < 0.05
    square = np.ones((2 * radius + 1,) * 2, bool)
    assert np.array_equal(grown(mask, radius), ndimage.binary_dilation(mask, square))


def test_otsu_is_that_of_scikit_image():
    from skimage.filters import threshold_otsu

    values = np.concatenate([np.random.default_rng(0).normal(m, 0.05, 5000) for m in (0.2, 0.6)]).clip(0, 1)
    assert otsu(values.astype(np.float32)) == pytest.approx(threshold_otsu(values.astype(np.float32)), abs=0.01)


@pytest.mark.parametrize("stain", [EOSIN, HAEMATOXYLIN, DAB])
@pytest.mark.parametrize("glass", [GLASS, (250, 250, 250), (236, 232, 205), (222, 214, 224)])
def test_stained_tissue_is_found_to_its_rim_on_any_glass(stain, glass):
    kept = found(drawn((stain, 50, 150, 80, 200), background=glass))
    assert kept[50:150, 80:200].all()
    assert not kept[:45].any()
    assert not kept[155:].any()
    assert not kept[:, :75].any()
    assert not kept[:, 205:].any()


@pytest.mark.parametrize("ink", INKS)
def test_ink_on_glass_is_no_tissue(ink):
    kept = found(drawn((EOSIN, 50, 150, 80, 200), (INKS[ink], 20, 28, 10, 290), (INKS[ink], 100, 190, 240, 250)))
    assert kept[50:150, 80:200].all()
    assert kept.sum() < 105 * 125


@pytest.mark.parametrize("ink", INKS)
def test_ink_over_tissue_is_cut_out_and_the_rest_stays(ink):
    kept = found(drawn((EOSIN, 50, 150, 80, 200), (INKS[ink], 96, 104, 60, 220)))
    assert not kept[96:104].any()
    assert kept[50:90, 80:200].all()
    assert kept[110:150, 80:200].all()


def test_surgical_ink_on_the_rim_stays_tissue():
    kept = found(drawn((EOSIN, 50, 150, 80, 200), (INKS["green"], 100, 110, 192, 202)))
    assert kept[50:150, 80:200].all()


def test_padding_is_no_tissue_and_does_not_darken_the_glass():
    kept = found(drawn((EOSIN, 50, 150, 80, 200), ((0, 0, 0), 0, 200, 230, 300), ((0, 0, 0), 0, 30, 0, 300)))
    assert kept[50:150, 80:200].all()
    assert not kept[:, 210:].any()
    assert not kept[:40].any()


def test_glass_alone_has_no_tissue():
    assert not found(drawn()).any()


def test_tissue_alone_has_no_glass():
    rgb = drawn((HAEMATOXYLIN, 40, 80, 40, 200), (DAB, 100, 140, 40, 200), background=EOSIN)
    assert found(rgb).all()


def test_specks_go_and_small_holes_are_filled():
    rgb = drawn(
        (EOSIN, 50, 150, 80, 200), (GLASS, 90, 100, 120, 130), (GLASS, 60, 110, 150, 190), (EOSIN, 10, 18, 9, 17)
    )
    kept = found(rgb)
    assert kept[88:102, 118:132].all(), "100 px are 0.006 mm2"
    assert not kept[70:100, 160:180].any(), "2,000 px are 0.13 mm2"
    assert not kept[:30].any()


def test_grey_dust_and_shadows_are_no_tissue():
    assert not found(drawn(((170, 169, 166), 50, 150, 80, 200))).any()


def test_a_slide_is_looked_at_on_its_own_scale():
    rgb = np.repeat(np.repeat(drawn((EOSIN, 50, 150, 80, 200)), 8, axis=1), 8, axis=2)
    tissue = find_tissue(gt.open(rgb, axes="cyx").with_pixel_size(1.0))
    assert tissue.scale == (8.0, 8.0)
    assert np.array_equal(tissue.kept, found(drawn((EOSIN, 50, 150, 80, 200))))


def test_fluorescence_is_refused_with_advice():
    dark = (noise((3, 200, 300)) // 8 + 20).astype(np.uint8)
    with pytest.raises(UsageError, match=r"dark one, as of fluorescence.*--mask FILE"):
        find_tissue(gt.open(dark, axes="cyx").with_pixel_size(8.0))


@pytest.mark.parametrize("place", [{"crs": "EPSG:32634"}, {"transform": (10.0, 0.0, 5e5, 0.0, -10.0, 4e6)}])
def test_a_scene_is_no_slide(place):
    source = UnitSource(drawn((EOSIN, 50, 150, 80, 200)), (64, 64))
    source._info = replace(source.info, **place)
    with pytest.raises(UsageError, match=r"found a georeferenced image.*--mask FILE"):
        find_tissue(Image(source))


@pytest.mark.parametrize("pixels", [noise((1, 50, 50)), noise((3, 50, 50), "uint16"), noise((5, 50, 50))])
def test_what_is_no_rgb_is_refused(pixels):
    with pytest.raises(UsageError, match="red, green and blue"):
        find_tissue(gt.open(pixels, axes="cyx"))


def test_without_a_pixel_size_it_is_told_what_was_assumed():
    with pytest.warns(UserWarning, match="as if it were 0.25 um"):
        find_tissue(gt.open(np.kron(drawn(), np.ones((1, 4, 4), np.uint8)), axes="cyx"))


class TestRealSlides:
    def test_skin_and_not_the_glass_beside_it(self):
        image = gt.open(data("wsi/CMU-1-Small-Region.svs"))
        tissue = find_tissue(image)
        assert 0.3 < tissue.kept.mean() < 0.5
        height, width = tissue.kept.shape
        assert not tissue.kept[: height // 4, : width // 4].any()
        assert tissue.kept[3 * height // 4 :, width // 2 : 5 * width // 8].all()

    def test_a_field_full_of_tissue_stays(self):
        assert find_tissue(gt.open(data("wsi/instanseg_HE_example.tif"))).kept.mean() > 0.7

    def test_dapi_is_refused(self):
        with pytest.raises(UsageError, match="dark"):
            find_tissue(gt.open(data("wsi/test3-DAPI-2-(387).ndpi")))

    def test_a_run_on_tissue_has_the_bits_of_the_whole(self, tmp_path):
        slide = data("wsi/CMU-1-Small-Region.svs")
        tiling = gt.Tiling(tile=128, overlap=32, margin=4, blend="hann", block=500)
        image = gt.open(slide).at(2.0)
        part = gt.plan(image, mean, tiling, output="probabilities", mask="tissue")
        got = np.asarray(gt.run(part, tmp_path / "part", durable=False).prediction[:])
        full = gt.plan(image, mean, tiling, output="probabilities")
        kept = part.kept.window(Region(0, 0, *got.shape[1:]))
        whole = np.asarray(gt.run(full, tmp_path / "full", durable=False).prediction[:])
        assert np.array_equal(got[:, kept], whole[:, kept])
        assert np.isnan(got[:, ~kept]).all()
        assert part.fingerprint == gt.plan(image, mean, tiling, output="probabilities", mask="tissue").fingerprint


def mean(batch):
    return batch.mean(axis=1, keepdims=True)
