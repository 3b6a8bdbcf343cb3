"""The sample slide: a true pyramidal OME-TIFF, the same each time, made of tissue."""

import numpy as np
import pytest
import tifffile

from gigatile.cli.demo_slide import TILE_PX, level_sides, write_slide


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    path = tmp_path_factory.mktemp("slide") / "slide.ome.tif"
    write_slide(path, side_px=2304)
    return path


def test_levels_halve_until_one_fits_a_screen():
    assert level_sides(14_336) == (14_336, 7_168, 3_584, 1_792, 896)
    assert level_sides(512) == (512,)


def test_the_pyramid_lies_in_subifds_with_jpeg_tiles_and_a_pixel_size(slide):
    with tifffile.TiffFile(slide) as file:
        assert file.is_ome
        levels = file.series[0].levels
        assert [level.shape for level in levels] == [(2304, 2304, 3), (1152, 1152, 3), (576, 576, 3)]
        for number, level in enumerate(levels):
            page = level.keyframe
            assert (page.tilewidth, page.tilelength) == (TILE_PX, TILE_PX)
            assert page.compression == tifffile.COMPRESSION.JPEG
            pixels, unit = page.tags["XResolution"].value, page.tags["ResolutionUnit"].value
            assert unit == tifffile.RESUNIT.CENTIMETER
            assert 1e4 * pixels[1] / pixels[0] == pytest.approx(0.5 * 2**number)
        assert 'PhysicalSizeX="0.5"' in file.ome_metadata


def test_each_level_is_the_mean_of_the_one_below(slide):
    with tifffile.TiffFile(slide) as file:
        fine, coarse = (level.asarray().astype(float) for level in file.series[0].levels[:2])
    mean = fine.reshape(1152, 2, 1152, 2, 3).mean(axis=(1, 3))
    # Both went through JPEG on their own; a shift by one pixel would give about 9.
    assert np.abs(mean - coarse).mean() < 2.5


def test_tissue_lies_on_white_glass(slide):
    with tifffile.TiffFile(slide) as file:
        pixels = file.series[0].levels[2].asarray()
    stained = pixels.min(axis=-1) < 200
    assert 0.15 < stained.mean() < 0.7
    assert (pixels[0] > 230).all()


def test_the_same_seed_gives_the_same_pixels_and_another_gives_others(tmp_path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        write_slide(tmp_path / name, side_px=TILE_PX * 2, seed=seed)
    a, b, c = (tifffile.imread(tmp_path / name) for name in "abc")
    np.testing.assert_array_equal(a, b)
    assert (a != c).any()


def test_nothing_but_the_whole_slide_is_left_behind(tmp_path):
    tiles = []
    write_slide(tmp_path / "slide.tif", side_px=TILE_PX * 2, on_tile=lambda: tiles.append(1))
    assert [path.name for path in tmp_path.iterdir()] == ["slide.tif"]
    assert len(tiles) == 4


def test_a_slide_that_could_not_be_finished_has_no_name(tmp_path):
    def fail():
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        write_slide(tmp_path / "slide.tif", side_px=TILE_PX, on_tile=fail)
    assert not (tmp_path / "slide.tif").exists()


@pytest.mark.parametrize("side_px", [0, -256, 300])
def test_a_side_that_is_no_multiple_of_the_tile_is_refused(tmp_path, side_px):
    with pytest.raises(ValueError, match="multiple of 256"):
        write_slide(tmp_path / "slide.tif", side_px=side_px)
