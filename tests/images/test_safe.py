"""Sentinel-2 products as folders: which files are bands, at which resolution, and what their metadata says."""

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import rasterio

import gigatile as gt
from gigatile.errors import ImageError, UsageError
from gigatile.images.image import REFLECT, Image
from gigatile.images.open import open_source
from gigatile.images.safe import safe_scene
from gigatile.tiling.region import Region
from tests.data import data
from tests.images.assemble import check_grid, whole, window
from tests.images.scenes import SIDE, level_1c, level_2a, metadata, noise, write_band

ALL_2A = {
    "B01": (20, 60), "B02": (10, 20, 60), "B03": (10, 20, 60), "B04": (10, 20, 60), "B05": (20, 60), "B06": (20, 60),
    "B07": (20, 60), "B08": (10,), "B8A": (20, 60), "B09": (60,), "B11": (20, 60), "B12": (20, 60),
}  # fmt: skip
SOME = {"B04": (10, 20), "B05": (20,), "B01": (60,)}


def refusal(path) -> str:
    with pytest.raises(ImageError) as error:
        gt.open(path)
    return str(error.value)


@pytest.mark.parametrize("suffix", [".jp2", ".tif"])
def test_each_band_comes_from_its_finest_file(tmp_path, suffix):
    folder = level_2a(tmp_path, ALL_2A, suffix)
    files = {file.channels[0]: Path(file.place).name for file in safe_scene(folder).files}
    assert files == {band: f"T31UFU_20230101T105331_{band}_{min(sizes)}m{suffix}" for band, sizes in ALL_2A.items()}


@pytest.mark.parametrize("suffix", [".jp2", ".tif"])
def test_a_product_of_level_2a_is_one_image_on_the_grid_of_10_m(tmp_path, suffix):
    folder = level_2a(tmp_path, ALL_2A, suffix)
    source = open_source(folder)
    info = source.info
    check_grid(source)
    bands = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")
    assert info.channels == bands
    assert info.levels[0].shape == (SIDE, SIDE)
    assert (info.format, info.path, info.crs, info.nodata) == ("safe", str(folder), "EPSG:32631", 0)
    assert info.transform == (10, 0, 600000, 0, -10, 5700000)
    assert info.pixel_size is not None
    assert (info.pixel_size.x, info.pixel_size.unit) == (10, "metre")
    pixels = whole(source)
    for band in ("B02", "B04", "B08"):
        np.testing.assert_array_equal(pixels[bands.index(band)], noise(10, int(band[1:], 16)))
    for band in ("B01", "B8A"):  # 20 m: between its neighbours everywhere, and near them
        own = noise(20, int(band[1:], 16)).astype(float)
        blocks = pixels[bands.index(band)].reshape(SIDE // 2, 2, SIDE // 2, 2).mean(axis=(1, 3))
        assert np.corrcoef(blocks.ravel(), own.ravel())[0, 1] > 0.9


def test_the_pixels_are_those_of_the_files_stacked_by_hand(tmp_path):
    folder = level_2a(tmp_path, SOME)
    own = open_source(folder)
    by_hand = open_source("+".join(file.place for file in safe_scene(folder).files))
    np.testing.assert_array_equal(whole(own), whole(by_hand))
    assert own.info.levels == by_hand.info.levels
    assert own.identity() == by_hand.identity()


def test_a_product_of_level_1c_has_its_bands_without_folders(tmp_path):
    folder = level_1c(tmp_path, {"B02": 10, "B8A": 20, "B10": 60, "B11": 20})
    source = open_source(folder)
    assert source.info.channels == ("B02", "B8A", "B10", "B11")
    np.testing.assert_array_equal(whole(source)[0], noise(10, 2))
    assert "processing baseline 02.08: reflectance is pixel / 10000" in source.info.notes


def test_0_is_nodata_though_the_files_do_not_say_so(tmp_path):
    folder = level_2a(tmp_path, SOME)
    red = noise(10, 4)
    red[:100] = 0
    edge = noise(20, 5)
    edge[:, :30] = 0
    images = next(folder.glob("GRANULE/*/IMG_DATA"))
    write_band(next(images.glob("R10m/*_B04_10m.jp2")), red, 10)
    write_band(next(images.glob("R20m/*_B05_20m.jp2")), edge, 20)
    image = Image(open_source(folder))
    valid = image.select(["B04"]).read_with_validity(Region(0, 0, SIDE, SIDE), REFLECT)[1]
    np.testing.assert_array_equal(valid, red != 0)
    pixels, valid = image.select(["B05"]).read_with_validity(Region(0, 0, SIDE, SIDE), REFLECT)
    np.testing.assert_array_equal(valid, (edge != 0).repeat(2, 0).repeat(2, 1))
    assert pixels[0][valid].min() >= edge[edge != 0].min()  # nodata did not enter the interpolation


def test_the_offset_is_told_with_the_options_that_apply_it(tmp_path):
    note = next(note for note in gt.open(level_2a(tmp_path, SOME)).info.notes if "baseline" in note)
    assert "05.09" in note
    assert "(pixel -1000) / 10000" in note
    assert "subtract 1000" in note
    assert "--scale 0.0001 --mean 0.1 gives reflectance" in note


def test_without_metadata_bands_are_read_and_that_is_told(tmp_path):
    folder = level_2a(tmp_path, SOME)
    (folder / "MTD_MSIL2A.xml").unlink()
    info = gt.open(folder).info
    assert info.nodata == 0
    assert any("whether pixels have an offset is unknown" in note for note in info.notes)


@pytest.mark.parametrize(
    "text",
    [
        "<cut",
        '<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>',
        metadata("2A").replace(">-1000<", ">many<"),
    ],
)
def test_damaged_metadata_are_refused_with_their_name(tmp_path, text):
    folder = level_2a(tmp_path, SOME)
    (folder / "MTD_MSIL2A.xml").write_text(text)
    assert "MTD_MSIL2A.xml: expected metadata of Sentinel-2" in refusal(folder)


def test_a_product_without_10_m_is_on_the_grid_of_20_m(tmp_path):
    info = gt.open(level_2a(tmp_path, {"B02": (20, 60), "B05": (20,), "B09": (60,)})).info
    assert info.channels == ("B02", "B05", "B09")
    assert info.levels[0].shape == (SIDE // 2, SIDE // 2)


def test_a_folder_that_was_renamed_is_known_by_its_manifest(tmp_path):
    folder = level_2a(tmp_path, SOME)
    renamed = folder.rename(tmp_path / "january")
    assert gt.open(renamed).channels == ("B01", "B04", "B05")


def test_what_is_no_whole_product_is_refused(tmp_path):
    folder = level_2a(tmp_path, SOME)
    radar = tmp_path / "S1A_IW_GRDH_1SDV_20230101.SAFE"
    (radar / "measurement").mkdir(parents=True)
    assert "found a product of another Sentinel" in refusal(radar)
    granule = next(folder.glob("GRANULE/*"))
    shutil.copytree(granule, granule.parent / "L2A_T31UFV_A030430_20230101T105327")
    assert "expected one granule, found 2 in GRANULE" in refusal(folder)
    shutil.rmtree(folder / "GRANULE")
    assert "found no band" in refusal(folder)


def test_a_band_twice_at_one_resolution_is_refused(tmp_path):
    folder = level_2a(tmp_path, SOME)
    first = next(folder.glob("GRANULE/*/IMG_DATA/R10m/*_B04_10m.jp2"))
    write_band(first.with_suffix(".tif"), noise(10), 10)
    assert "expected one file of B04 at a resolution" in refusal(folder)


def test_a_band_on_other_ground_is_refused(tmp_path):
    folder = level_2a(tmp_path, SOME)
    write_band(next(folder.glob("GRANULE/*/IMG_DATA/R20m/*_B05_20m.jp2")), noise(20), 20, "EPSG:32632")
    assert "expected the CRS EPSG:32631, found EPSG:32632" in refusal(folder)


def test_axes_are_not_for_products(tmp_path):
    with pytest.raises(UsageError, match="no axes"):
        gt.open(level_2a(tmp_path, SOME), axes="yxc")


def test_another_process_opens_it_again(tmp_path):
    source = open_source(level_2a(tmp_path, SOME))
    again = pickle.loads(pickle.dumps(source))
    assert again.info == source.info
    np.testing.assert_array_equal(whole(again), whole(source))


def test_a_run_over_a_product_lands_where_it_lies(tmp_path):
    folder = level_2a(tmp_path, {"B02": (10,), "B04": (10,), "B05": (20,)})
    image = gt.open(folder).select(["B04", "B02"])
    plan = gt.plan(image, gt.load_model(first, scale=1), gt.Tiling(tile=64, overlap=0), output="raw", memory="1GiB")
    result = gt.run(plan, tmp_path / "out")
    assert result.status.complete
    np.testing.assert_array_equal(np.asarray(result.prediction[...]).squeeze(), noise(10, 4).astype(np.float32))


def first(batch: np.ndarray) -> np.ndarray:
    """The first channel as it is."""
    return batch[:, :1]


def test_a_real_band_in_a_product_is_read_as_by_rasterio(tmp_path):
    path = data("satellite/s2_B01_60m_15bit.jp2")
    folder = tmp_path / "S2A_MSIL1C_20200101T105331_N0208_R051_T31UFU_20200101T120000.SAFE"
    images = folder / "GRANULE" / "L1C_T31UFU_A023000_20200101T105327" / "IMG_DATA"
    images.mkdir(parents=True)
    (images / "T31UFU_20200101T105331_B01.jp2").symlink_to(Path(path).resolve())
    source = open_source(folder)
    assert source.info.channels == ("B01",)
    region = Region(300, 700, 600, 1100)
    with rasterio.open(path) as raster:
        np.testing.assert_array_equal(window(source, 0, region)[0], raster.read(1)[region.slices()])
        assert source.info.transform == tuple(raster.transform)[:6]
