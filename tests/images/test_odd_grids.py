"""Pixels that are not square and levels whose factors are not whole, from the file to the metadata of the result."""

import numpy as np
import pytest
import tifffile
import zarr

import gigatile as gt
from gigatile.errors import UsageError
from gigatile.tiling.border import Border
from tests.data import data
from tests.images.scn import write_scn

RNG = np.random.default_rng(11)
TILING = gt.Tiling(tile=256, overlap=0, margin=0, blend="trim")
ODD = [(2001, 4003), (1000, 2000), (399, 798)]
"""Factors 2.001 and 2.0015, then 5.015 and 5.016."""


def write_pyramid(path, shapes):
    levels = [RNG.integers(0, 256, shape, np.uint8) for shape in shapes]
    metadata = {"axes": "YX", "PhysicalSizeX": 0.25, "PhysicalSizeY": 0.5}
    with tifffile.TiffWriter(path, ome=True) as tif:
        tif.write(levels[0], tile=(256, 256), subifds=len(levels) - 1, metadata=metadata)
        for level in levels[1:]:
            tif.write(level, tile=(256, 256), subfiletype=1)
    return levels


def level_metadata(image, out):
    """Scale and translation (y, x) of level 0 of a result, and its shape."""
    model = gt.load_model(lambda batch: batch[:, :1], scale=1)
    gt.run(gt.plan(image, model, TILING, output="raw"), out)
    group = zarr.open_group(out / "prediction.zarr", mode="r")
    steps = group.attrs["ome"]["multiscales"][0]["datasets"][0]["coordinateTransformations"]
    return np.array(steps[0]["scale"][-2:]), np.array(steps[1]["translation"][-2:]), group["0"].shape[-2:]


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    path = tmp_path_factory.mktemp("odd") / "a.ome.tif"
    return path, write_pyramid(path, ODD)


def test_levels_of_odd_factors_are_levels_with_a_factor_for_each_axis(odd):
    image = gt.open(odd[0])
    assert [level.shape for level in image.levels] == ODD
    assert image.select(level=1).scale == pytest.approx((2.001, 2.0015), rel=1e-12)
    assert image.select(level=2).scale == pytest.approx((2001 / 399, 4003 / 798), rel=1e-12)
    region = gt.Region(100, 200, 777, 1333)
    np.testing.assert_array_equal(image.read(region, level=1)[0], odd[1][1][region.slices()])


def test_a_result_on_an_odd_level_covers_the_slide_to_its_corners(odd, tmp_path):
    image = gt.open(odd[0]).select(level=1)
    scale, translation, shape = level_metadata(image, tmp_path / "out")
    size = np.array([0.5, 0.25])
    first_corner, last_corner = translation - scale / 2, translation + scale * (np.array(shape) - 0.5)
    np.testing.assert_allclose(first_corner, -size / 2, atol=1e-9)
    np.testing.assert_allclose(last_corner, (np.array(ODD[0]) - 0.5) * size, atol=1e-6)


def test_pixels_that_are_not_square_become_square_by_exact_means(odd):
    scaled = gt.open(odd[0]).at(0.5)
    assert scaled.grid_shape == (2001, 2002)
    full = odd[1][0].astype(np.float64)
    expected = np.concatenate([(full[:, :4002:2] + full[:, 1:4002:2]) / 2, full[:, 4002:]], axis=1)
    seen = scaled.read(gt.Region(0, 0, *scaled.grid_shape))[0]
    np.testing.assert_array_equal(seen, expected.astype(np.float32))


def test_a_result_of_square_pixels_lies_on_the_slide_of_pixels_that_are_not(odd, tmp_path):
    scale, translation, shape = level_metadata(gt.open(odd[0]).at(1.0), tmp_path / "out")
    np.testing.assert_allclose(scale, [1, 1])
    np.testing.assert_allclose(translation - scale / 2, [-0.25, -0.125])
    assert shape == (1001, 1001)


def test_the_real_dicom_has_levels_of_whole_factors_though_their_sizes_are_rounded():
    image = gt.open(data("wsi/CMU-1-Small-Region_dicom"))
    assert [image.select(level=level).scale for level in range(5)] == [(f, f) for f in (1.0, 2.0, 4.0, 8.0, 16.0)]


def test_a_scanned_rectangle_is_resampled_by_its_own_corner_and_without_its_gaps(tmp_path):
    full, _ = write_scn(tmp_path / "a.scn")
    image = gt.open(tmp_path / "a.scn")
    scaled = image.at(1.0)
    assert scaled.grid_shape == (508, 610)
    inside = full[200:712, 400:1168, :3].astype(np.float64)  # the first scanned area, at the corner
    expected = inside.reshape(256, 2, 384, 2, 3).mean(axis=(1, 3))
    pixels, valid = scaled.read_with_validity(gt.Region(0, 0, 508, 610), Border("reflect"))
    np.testing.assert_array_equal(np.moveaxis(pixels, 0, -1)[:256, :384], expected.astype(np.float32))
    assert valid[:256, :384].all()
    assert not valid[300, 200]


def test_a_size_is_stated_before_a_grid_is_chosen_by_it(odd):
    with pytest.raises(UsageError, match="before"):
        gt.open(odd[0]).at(1.0).with_pixel_size(0.25)
    stated = gt.open(odd[0]).select(level=1).with_pixel_size(0.25)
    assert (stated.level, stated.grid_shape) == (1, (1000, 2000))
