"""What GDAL reads for us, against rasterio itself: place, levels, pixels, masks, errors."""

import math
import pickle
import sys
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from affine import Affine
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.errors import NotGeoreferencedWarning

from gigatile.errors import BlockError, DecodeError, ImageError, UsageError
from gigatile.images.gdal import GdalSource
from gigatile.images.image import REFLECT, Image
from gigatile.images.open import open_source
from gigatile.tiling.region import Region
from tests.data import data
from tests.images.assemble import check_grid, random_regions, whole, window

RNG = np.random.default_rng(5)
REAL = (
    "satellite/nemo.jp2",
    "satellite/s2_B01_60m_15bit.jp2",
    "satellite/rasterio/RGB.byte.gcp.vrt",
    "satellite/rasterio/RGB.byte.rpc.vrt",
)
PLACE = {"crs": "EPSG:32631", "transform": Affine(10, 0, 300000, 0, -10, 4100040)}


def open_raster(path, **keywords):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        return rasterio.open(path, **keywords)


def write(path: Path, pixels: np.ndarray, driver: str, **profile) -> Path:
    count, height, width = pixels.shape
    with rasterio.open(
        path, "w", driver=driver, count=count, height=height, width=width, dtype=pixels.dtype, **{**PLACE, **profile}
    ) as out:
        out.write(pixels)
    return path


def random_pixels(dtype: str, shape: tuple[int, int, int] = (2, 200, 310)) -> np.ndarray:
    return RNG.integers(0, 120, shape).astype(dtype)


@pytest.mark.parametrize("name", REAL)
def test_real_files_equal_rasterio_in_place_and_in_pixels_of_every_level(name):
    path = data(name)
    source = open_source(path)
    info = source.info
    assert isinstance(source, GdalSource)
    check_grid(source)
    with open_raster(path) as raster:
        assert len(info.channels) == raster.count
        assert {np.dtype(d) for d in raster.dtypes} == {info.dtype}
        assert Affine(*(info.transform or (1, 0, 0, 0, 1, 0))).almost_equals(
            Affine(*map(abs, raster.transform[:6])) if info.transform is None else raster.transform, 1e-9
        )
        assert info.crs == (str(raster.crs) if raster.crs else None)
        assert info.nodata == raster.nodata
        shapes = [raster.shape]
        for i in range(len(raster.overviews(1))):
            with open_raster(path, overview_level=i) as overview:
                shapes.append(overview.shape)
    assert [level.shape for level in info.levels] == shapes
    for i, level in enumerate(info.levels):
        with open_raster(path, **({"overview_level": i - 1} if i else {})) as raster:
            for region in random_regions(level.shape, 3, RNG):
                ys, xs = region.slices()
                expected = raster.read(window=((ys.start, ys.stop), (xs.start, xs.stop)))
                np.testing.assert_array_equal(window(source, i, region), expected)


@pytest.mark.parametrize(
    ("name", "says"),
    [("RGB.byte.gcp.vrt", "4 ground control points in EPSG:4326"), ("RGB.byte.rpc.vrt", "coefficients")],
)
def test_control_points_and_rpcs_are_told_and_not_applied(name, says):
    info = open_source(data(f"satellite/rasterio/{name}")).info
    assert any(says in note and "not applied" in note for note in info.notes)
    assert info.transform is None
    assert info.pixel_size is None


@pytest.mark.parametrize(
    ("driver", "suffix", "dtype"),
    [("HFA", ".img", "uint16"), ("ENVI", ".dat", "float32"), ("ENVI", ".img", "int16"), ("PCIDSK", ".pix", "uint8")],
)
def test_formats_are_told_by_content_and_read_as_written(tmp_path, driver, suffix, dtype):
    pixels = random_pixels(dtype)
    source = open_source(write(tmp_path / f"scene{suffix}", pixels, driver))
    assert source.info.format == driver.lower()
    assert CRS.from_user_input(source.info.crs).to_epsg() == 32631
    assert source.info.transform == PLACE["transform"][:6]
    assert (source.info.pixel_size.y, source.info.pixel_size.unit) == (10, "metre")
    np.testing.assert_array_equal(whole(source), pixels)


def test_overviews_are_levels(tmp_path):
    path = write(tmp_path / "scene.img", random_pixels("uint8"), "HFA")
    with rasterio.open(path, "r+") as raster:
        raster.build_overviews([2, 4], Resampling.average)
    source = open_source(path)
    assert [level.shape for level in source.info.levels] == [(200, 310), (100, 155), (50, 78)]
    with rasterio.open(path, overview_level=1) as raster:
        np.testing.assert_array_equal(whole(source, 2), raster.read())


def test_a_mask_beside_the_file_is_validity(tmp_path):
    path = write(tmp_path / "scene.img", random_pixels("int16"), "HFA")
    mask = RNG.integers(0, 2, (200, 310)).astype(bool)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(path, "r+") as raster:
        raster.write_mask(mask)
    image = Image(open_source(path))
    assert image.shape[0] == 2
    _, valid = image.read_with_validity(Region(0, 0, 200, 310), REFLECT)
    np.testing.assert_array_equal(valid, mask)


def test_an_alpha_band_is_validity(tmp_path):
    pixels = random_pixels("uint8", (4, 50, 60))
    pixels[3] = RNG.integers(0, 2, (50, 60)) * 255
    path = write(tmp_path / "scene.pix", pixels, "PCIDSK")
    vrt = tmp_path / "scene.vrt"
    vrt.write_text(_stack_vrt(path, 4, (50, 60), colours=("Red", "Green", "Blue", "Alpha")))
    image = Image(open_source(vrt))
    assert (image.channels, image.info.alpha) == (("red", "green", "blue"), 3)
    _, valid = image.read_with_validity(Region(0, 0, 50, 60), REFLECT)
    np.testing.assert_array_equal(valid, pixels[3] != 0)


def _stack_vrt(source: Path, count: int, shape: tuple[int, int], colours=(), nodata=()) -> str:
    bands = ""
    for i in range(count):
        colour = f"<ColorInterp>{colours[i]}</ColorInterp>" if colours else ""
        empty = f"<NoDataValue>{nodata[i]}</NoDataValue>" if nodata else ""
        bands += (
            f'<VRTRasterBand dataType="Byte" band="{i + 1}">{empty}{colour}<SimpleSource>'
            f'<SourceFilename relativeToVRT="1">{source.name}</SourceFilename><SourceBand>{i + 1}</SourceBand>'
            "</SimpleSource></VRTRasterBand>"
        )
    return f'<VRTDataset rasterXSize="{shape[1]}" rasterYSize="{shape[0]}">{bands}</VRTDataset>'


def test_bands_of_unlike_nodata_are_valid_where_one_of_them_is(tmp_path):
    pixels = random_pixels("uint8", (2, 40, 50))
    pixels[0, :20], pixels[1, :, :25] = 0, 255
    write(tmp_path / "scene.pix", pixels, "PCIDSK")
    vrt = tmp_path / "scene.vrt"
    vrt.write_text(_stack_vrt(tmp_path / "scene.pix", 2, (40, 50), nodata=(0, 255)))
    image = Image(open_source(vrt))
    assert image.nodata is None
    _, valid = image.read_with_validity(Region(0, 0, 40, 50), REFLECT)
    np.testing.assert_array_equal(valid, (pixels[0] != 0) | (pixels[1] != 255))


def test_scale_and_offset_are_told_and_not_applied(tmp_path):
    path = write(tmp_path / "scene.img", random_pixels("uint8"), "HFA")
    with rasterio.open(path, "r+") as raster:
        raster.scales = (0.5, 0.5)
    source = open_source(path)
    assert any("scale and offset" in note for note in source.info.notes)
    with rasterio.open(path) as raster:
        np.testing.assert_array_equal(whole(source), raster.read())


def test_nan_is_nodata(tmp_path):
    path = write(tmp_path / "scene.img", random_pixels("float32"), "HFA", nodata=math.nan)
    assert math.isnan(open_source(path).info.nodata)


def test_complex_bands_are_refused(tmp_path):
    path = write(tmp_path / "scene.dat", random_pixels("complex64"), "ENVI")
    with pytest.raises(ImageError, match="expected real numbers"):
        open_source(path)


def net_cdf(path: Path, pixels: np.ndarray) -> Path:
    made = write(path.with_suffix(".tif"), pixels, "GTiff")
    rasterio.shutil.copy(made, path, driver="netCDF")
    return path


def test_a_container_of_several_images_is_refused_with_their_names(tmp_path):
    path = net_cdf(tmp_path / "scene.nc", random_pixels("float32"))
    with pytest.raises(ImageError, match=r"found 2 \(Band1, Band2\).*gdal_translate -of VRT"):
        open_source(path)


def test_one_image_of_a_container_is_read_through_a_vrt(tmp_path):
    pixels = random_pixels("uint8")
    path = net_cdf(tmp_path / "scene.nc", pixels)
    with open_raster(f"netcdf:{path}:Band2") as chosen:
        rasterio.shutil.copy(chosen, tmp_path / "one.vrt", driver="VRT")
    np.testing.assert_array_equal(whole(open_source(tmp_path / "one.vrt")), pixels[1:])


def test_a_container_of_one_image_is_that_image(tmp_path):
    pixels = random_pixels("float32", (1, 30, 40))
    source = open_source(net_cdf(tmp_path / "scene.nc", pixels))
    assert source.info.transform == PLACE["transform"][:6]
    np.testing.assert_array_equal(whole(source), pixels)


def test_threads_read_the_same_pixels_each_with_a_handle_of_its_own():
    source = open_source(data("satellite/s2_B01_60m_15bit.jp2"))
    expected = whole(source)
    different = []

    def read():
        if not np.array_equal(whole(source), expected):
            different.append(threading.get_ident())

    threads = [threading.Thread(target=read) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not different


def test_another_process_opens_it_again(tmp_path):
    pixels = random_pixels("uint16")
    source = open_source(write(tmp_path / "scene.img", pixels, "HFA"))
    again = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(whole(again), pixels)
    assert again.identity() == source.identity()


def test_identity_changes_with_a_file_that_it_refers_to(tmp_path):
    pixels = random_pixels("uint8", (1, 40, 50))
    write(tmp_path / "scene.pix", pixels, "PCIDSK")
    vrt = tmp_path / "scene.vrt"
    vrt.write_text(_stack_vrt(tmp_path / "scene.pix", 1, (40, 50)))
    before = open_source(vrt).identity()
    assert open_source(vrt).identity() == before
    write(tmp_path / "scene.pix", pixels + 1, "PCIDSK")
    assert open_source(vrt).identity() != before


def test_a_damaged_file_fails_with_its_place(tmp_path):
    content = bytearray(data("satellite/s2_B01_60m_15bit.jp2").read_bytes())
    path = tmp_path / "cut.jp2"
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(DecodeError, match=r"cut.jp2, level 0, rows [0-9]+:[0-9]+, columns"):
        whole(open_source(path))


def test_a_source_that_went_away_is_a_failure_of_the_storage_and_not_of_the_file(tmp_path):
    write(tmp_path / "scene.pix", random_pixels("uint8", (1, 40, 50)), "PCIDSK")
    vrt = tmp_path / "scene.vrt"
    vrt.write_text(_stack_vrt(tmp_path / "scene.pix", 1, (40, 50)))
    source = open_source(vrt)
    (tmp_path / "scene.pix").unlink()
    with pytest.raises(BlockError, match="no such file") as raised:
        whole(source)
    assert not isinstance(raised.value, DecodeError)


def test_without_rasterio_the_error_says_what_to_install(tmp_path, monkeypatch):
    path = write(tmp_path / "scene.img", random_pixels("uint8"), "HFA")
    monkeypatch.setitem(sys.modules, "rasterio", None)
    with pytest.raises(ImageError, match=r"pip install 'gigatile\[gdal\]'"):
        open_source(path)


def test_a_url_is_refused_before_gdal_sees_it():
    with pytest.raises(UsageError, match="a local file"):
        GdalSource("https://example.org/a.jp2")
