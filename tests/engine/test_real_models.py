"""Real models on real images: tiled is whole to the bit, with the halo that each was measured to need."""

import numpy as np
import pytest
import tifffile

import gigatile as gt
from gigatile.models.warmup import size_multiple
from gigatile.tiling.tiling import Tiling
from tests.data import data
from tests.land_cover import RANGE, SCENE, SCENE_BANDS, network_input

from .helpers import in_tiles, load, on_whole_image


def nuclei() -> np.ndarray:
    """A fluorescence field, zero mean and unit variance over the whole image."""
    image = gt.open(data("gt_nuclei_dsb2018/fluo_360x360_777f7c4269.png"))
    grey = image.read(gt.Region(0, 0, *image.grid_shape))[:3].astype(np.float32).mean(axis=0, keepdims=True)
    return (grey - grey.mean()) / grey.std()


def scene() -> np.ndarray:
    """A Sentinel-2 scene of twelve bands, shape (12, y, x)."""
    pixels = tifffile.imread(data(SCENE))
    pixels = pixels if pixels.shape[0] == 12 else np.moveaxis(pixels, -1, 0)
    return pixels[:, :131, :150].astype(np.float32)


def reflectance() -> np.ndarray:
    return scene()[[SCENE_BANDS.index(b) for b in ("B2", "B3", "B4", "B8", "B11", "B12")]] / np.float32(10000)


def world() -> np.ndarray:
    return network_input(scene()[[SCENE_BANDS.index(name) for name in RANGE]])


CASES = {
    "nuclei": ("models/unet2d_nuclei_broad_dynamic.onnx", nuclei, 56, 8, 240),
    "clouds": ("models/cloud_unet_landsatbiomeRGBISWIR7_nchw.onnx", reflectance, 24, 4, 112),
    "land-cover": ("models/dynamicworld_forward_nchw.onnx", world, 24, 2, 112),
}


@pytest.fixture(scope="module", params=CASES)
def case(request):
    """Path, pixels, halo, size multiple, tile, and what the whole image gives."""
    name, make, halo, multiple, tile = CASES[request.param]
    path, pixels = data(name), make()
    return path, pixels, halo, multiple, tile, on_whole_image(path, pixels, halo, multiple)


def test_with_trim_the_tiles_equal_the_whole_image(case):
    path, pixels, halo, _, tile, whole = case
    got, _, tally = in_tiles(load(path), pixels, Tiling(tile, 2 * halo, 0, "trim", block=128))
    assert tally.tiles > 3
    assert np.array_equal(got, whole)


def test_with_a_blend_and_a_margin_over_the_radius_they_do_too(case):
    path, pixels, halo, _, tile, whole = case
    got, _, _ = in_tiles(load(path), pixels, Tiling(tile + 16, 2 * halo + 16, halo, "hann", block=128))
    assert np.array_equal(got, whole)


def test_with_too_small_a_halo_they_do_not(case):
    path, pixels, _, multiple, tile, whole = case
    got, _, _ = in_tiles(load(path), pixels, Tiling(tile, 2 * multiple, 0, "trim", block=128))
    assert np.abs(got - whole).max() > 1e-4


def test_the_size_multiple_of_each_is_found(case):
    path, pixels, _, multiple, _, _ = case
    # Dynamic World runs on odd sizes, too; that it is inexact there takes a probe to see.
    assert size_multiple(load(path), len(pixels)) == (1 if multiple == 2 else multiple)
