"""Where a TIFF lies on the Earth, against rasterio; and the pixels of real scenes at every overview."""

import math
import sys
import warnings

import numpy as np
import pytest
import rasterio
import tifffile
from affine import Affine
from rasterio.control import GroundControlPoint
from rasterio.enums import ColorInterp, MaskFlags, Resampling
from rasterio.errors import NotGeoreferencedWarning

from gigatile.images.geotiff import read_crs, read_geo, read_keys, read_nodata, read_transform
from gigatile.images.tiff import TiffSource
from tests.data import ROOT, data
from tests.images.assemble import check_grid, random_regions, whole, window

RNG = np.random.default_rng(11)
FOLDERS = ("satellite", "gt_detection", "reference")
SCENES = sorted(
    str(path.relative_to(ROOT))
    for folder in FOLDERS
    for path in (ROOT / folder).rglob("*")
    if path.suffix in (".tif", ".tiff") and path.name != "corrupt.tif"
)


def open_raster(path, **keywords):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        return rasterio.open(path, **keywords)


def same_number(a, b) -> bool:
    return a == b or (a is not None and b is not None and math.isnan(a) and math.isnan(b))


def has_mask(raster) -> bool:
    """Whether it has a mask that is neither nodata nor alpha."""
    return raster.mask_flag_enums[0] == [MaskFlags.per_dataset]


def test_there_are_scenes_to_compare_with():
    data("satellite")
    assert len(SCENES) >= 28


@pytest.mark.parametrize("name", SCENES)
def test_real_scenes_equal_rasterio_in_place_and_pixels(name):
    path = data(name)
    source = TiffSource(path)
    info = source.info
    check_grid(source)
    with open_raster(path) as raster:
        assert info.channels[raster.count :] == (("mask",) if has_mask(raster) else ())
        assert info.levels[0].shape == raster.shape
        assert {np.dtype(d) for d in raster.dtypes} == {info.dtype}
        assert Affine(*(info.transform or (1, 0, 0, 0, 1, 0))).almost_equals(raster.transform, 1e-9)
        assert same_number(info.nodata, raster.nodata)
        alphas = [i for i, kind in enumerate(raster.colorinterp) if kind == ColorInterp.alpha]
        assert info.alpha == (alphas[0] if alphas else raster.count if has_mask(raster) else None)
        factors = raster.overviews(1)
    assert len(info.levels) == 1 + len(factors)
    for i, level in enumerate(info.levels):
        with open_raster(path, **({"overview_level": i - 1} if i else {})) as raster:
            assert level.shape == raster.shape
            for region in random_regions(level.shape, 4, RNG):
                ys, xs = region.slices()
                expected = raster.read(window=((ys.start, ys.stop), (xs.start, xs.stop)))
                pixels = window(source, i, region)
                np.testing.assert_allclose(pixels[: raster.count], expected, atol=_TOLERANCE.get(name, 0))
                if has_mask(raster):
                    mask = raster.read_masks(1, window=((ys.start, ys.stop), (xs.start, xs.stop)))
                    np.testing.assert_array_equal(pixels[-1] != 0, mask != 0)


_TOLERANCE = {"satellite/rasterio/cogeo.tif": 40}
"""JPEG with halved chroma: libtiff repeats chroma samples where libjpeg, and so tifffile and OpenSlide,
interpolates them. `test_jpeg_scenes_equal_tifffile` holds it to the bit."""


def test_jpeg_scenes_equal_tifffile():
    path = data("satellite/rasterio/cogeo.tif")
    source = TiffSource(path)
    with rasterio.open(path) as raster:
        assert np.abs(whole(source)[:3] - raster.read().astype(float)).mean() < 0.5
    with tifffile.TiffFile(path) as tif:
        pages = [page for page in tif.pages if not page.subfiletype & 4]
        assert len(pages) == len(source.info.levels) == 7
        for i, page in enumerate(pages):
            np.testing.assert_array_equal(whole(source, i)[:3], np.moveaxis(page.asarray(), -1, 0))


def test_a_near_infrared_band_is_not_taken_for_alpha():
    info = TiffSource(data("satellite/naip_m_4709963_se_14_1_20150926.tif")).info
    assert info.alpha is None  # the TIFF tag says alpha, GDAL's colours say otherwise
    assert info.channels == ("0", "1", "2", "3")
    info = TiffSource(data("satellite/rasterio/RGBA.uint16.tif")).info
    assert (info.alpha, info.channels) == (3, ("blue", "green", "red", "alpha"))


@pytest.mark.parametrize("name", SCENES)
def test_crs_of_real_scenes_is_rasterios(name):
    path = data(name)
    info = TiffSource(path).info
    with open_raster(path) as raster:
        assert (info.crs is None) == (raster.crs is None)
        if info.crs is not None:
            assert raster.crs == rasterio.crs.CRS.from_user_input(info.crs)


KEYWORDS = [
    {"driver": "GTiff", "tiled": True, "blockxsize": 64, "blockysize": 48},
    {"driver": "GTiff", "tiled": True, "blockxsize": 64, "blockysize": 64, "interleave": "band"},
    {"driver": "GTiff", "tiled": False, "blockysize": 7, "interleave": "pixel", "compress": "lzw"},
    {"driver": "GTiff", "tiled": True, "compress": "zstd", "predictor": 2, "bigtiff": "YES"},
    {"driver": "GTiff", "tiled": True, "compress": "deflate", "predictor": 2, "endianness": "BIG"},
    {"driver": "GTiff", "tiled": True, "sparse_ok": True},
    {"driver": "COG", "compress": "deflate", "blocksize": 128},
]


@pytest.mark.parametrize("keywords", KEYWORDS, ids=lambda k: "-".join(str(v) for v in k.values()))
@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint32", "float32"])
def test_what_gdal_writes_is_read_with_its_overviews(tmp_path, keywords, dtype):
    path = tmp_path / "a.tif"
    pixels = RNG.integers(0, 100, (3, 290, 331)).astype(dtype)
    pixels[:, 100:200, 100:260] = 0
    transform = Affine(30, 0, 500000, 0, -30, 4200000)
    keywords = {**keywords, "dtype": dtype, "count": 3, "height": 290, "width": 331, "nodata": 0}
    with rasterio.open(path, "w", crs="EPSG:32633", transform=transform, **keywords) as raster:
        raster.write(pixels)
        raster.set_band_description(2, "nir")
    if keywords["driver"] != "COG":
        with rasterio.open(path, "r+") as raster:
            raster.build_overviews([2, 4], Resampling.nearest)
    source = TiffSource(path)
    info = source.info
    assert info.format == "geotiff"
    assert (info.crs, info.transform, info.nodata) == ("EPSG:32633", tuple(transform)[:6], 0)
    assert info.pixel_size is not None
    assert (info.pixel_size.y, info.pixel_size.x, info.pixel_size.unit) == (30, 30, "metre")
    assert info.channels[1] == "nir"
    np.testing.assert_array_equal(whole(source), pixels)
    with rasterio.open(path) as raster:
        factors = raster.overviews(1)
    assert len(info.levels) == 1 + len(factors) >= 2
    for i in range(len(factors)):
        with rasterio.open(path, overview_level=i) as raster:
            np.testing.assert_array_equal(whole(source, i + 1), raster.read())


def test_sparse_tiles_are_nodata(tmp_path):
    path = tmp_path / "a.tif"
    profile = {"driver": "GTiff", "tiled": True, "blockxsize": 256, "blockysize": 256, "sparse_ok": True}
    size = {"height": 512, "width": 768, "count": 1, "dtype": "int16", "nodata": -9}
    with rasterio.open(path, "w", crs="EPSG:32633", transform=Affine(2, 0, 9, 0, -2, 9), **profile, **size) as r:
        r.write(np.ones((1, 256, 256), np.int16), window=((256, 512), (0, 256)))
    source = TiffSource(path)
    expected = np.full((512, 768), -9, np.int16)
    expected[256:, :256] = 1
    np.testing.assert_array_equal(whole(source)[0], expected)


@pytest.mark.parametrize("point", [False, True])
@pytest.mark.parametrize(
    "transform", [Affine(10, 0, 1000, 0, -10, 2000), Affine(8, 3, 1000, 2, -9, 2000), Affine(5, 0, 7, 0, 5, 9)]
)
def test_transforms_of_areas_and_points_are_rasterios(tmp_path, point, transform):
    path = tmp_path / "a.tif"
    with rasterio.open(
        path, "w", driver="GTiff", height=20, width=30, count=1, dtype="uint8", crs="EPSG:32633",
        transform=transform,
    ) as raster:  # fmt: skip
        raster.write(np.ones((1, 20, 30), np.uint8))
        if point:
            raster.update_tags(AREA_OR_POINT="Point")
    info = TiffSource(path).info
    with rasterio.open(path) as raster:
        assert raster.tags()["AREA_OR_POINT"] == ("Point" if point else "Area")
        assert info.transform == pytest.approx(tuple(raster.transform)[:6])
    assert info.pixel_size is not None
    assert info.pixel_size.x == pytest.approx(math.hypot(transform.a, transform.d))


def test_the_corner_of_a_point_raster_lies_half_a_pixel_out():
    tags = {33550: (10.0, 4.0, 0.0), 33922: (0.0, 0.0, 0.0, 100.0, 200.0, 0.0)}
    assert read_transform(tags.get, 1)[0] == (10, 0, 100, 0, -4, 200)
    assert read_transform(tags.get, 2)[0] == (10, 0, 95, 0, -4, 202)


def test_a_tie_point_inside_the_raster_counts_from_there():
    tags = {33550: (10.0, 4.0, 0.0), 33922: (3.0, 2.0, 0.0, 100.0, 200.0, 0.0)}
    assert read_transform(tags.get, 1)[0] == (10, 0, 70, 0, -4, 208)


def test_control_points_alone_give_no_transform(tmp_path):
    path = tmp_path / "a.tif"
    points = [GroundControlPoint(r, c, 10 + c, 50 - r) for r, c in ((0, 0), (0, 9), (9, 0), (9, 9.5))]
    with open_raster(
        path, mode="w", driver="GTiff", height=10, width=10, count=1, dtype="uint8", gcps=points, crs="EPSG:4326"
    ) as raster:
        raster.write(np.ones((1, 10, 10), np.uint8))
    info = TiffSource(path).info
    assert (info.transform, info.crs, info.pixel_size) == (None, None, None)
    assert any("4 ground control points" in note for note in info.notes)


@pytest.mark.parametrize(("epsg", "unit"), [(32633, "metre"), (4326, "degree"), (2263, "US survey foot")])
def test_the_unit_is_that_of_the_crs(tmp_path, epsg, unit):
    path = tmp_path / "a.tif"
    with rasterio.open(
        path, "w", driver="GTiff", height=4, width=4, count=1, dtype="uint8", crs=f"EPSG:{epsg}",
        transform=Affine(0.5, 0, 1, 0, -0.25, 2),
    ) as raster:  # fmt: skip
        raster.write(np.ones((1, 4, 4), np.uint8))
    info = TiffSource(path).info
    assert info.crs == f"EPSG:{epsg}"
    assert info.pixel_size is not None
    assert (info.pixel_size.y, info.pixel_size.x, info.pixel_size.unit) == (0.25, 0.5, unit)


def test_a_crs_without_a_code_is_wkt2_or_where_rasterio_is_missing_a_note(monkeypatch):
    info = TiffSource(data("satellite/rasterio/test_esri_wkt.tif")).info
    assert info.crs is not None
    assert info.crs.startswith('PROJCRS["USA_Contiguous_Albers')
    monkeypatch.setitem(sys.modules, "rasterio", None)
    info = TiffSource(data("satellite/rasterio/test_esri_wkt.tif")).info
    assert info.crs is None
    assert any("Albers" in note for note in info.notes)
    assert info.pixel_size is not None
    assert info.pixel_size.unit == "metre"


def test_keys_that_point_outside_their_tags_are_left_out():
    directory = (1, 1, 0, 3, 1024, 0, 1, 1, 1026, 34737, 5, 100, 3072, 0, 1, 32633)
    keys = read_keys(directory, (), "WGS|")
    assert keys == {1024: 1, 3072: 32633}
    assert read_crs(keys) == ("EPSG:32633", ())
    assert read_keys((1, 1), (), "") == {}


@pytest.mark.parametrize(
    ("text", "dtype", "value"),
    [
        ("0", "uint8", 0.0),
        ("-9999", "int16", -9999.0),
        ("nan", "float32", math.nan),
        ("-3.4028234663852886e+38", "float32", float(np.finfo(np.float32).min)),
        ("0.1", "float32", float(np.float32(0.1))),
        ("255.0\0", "uint8", 255.0),
        ("-9999", "uint8", None),
        ("nan", "uint16", None),
        ("1.5", "int32", None),
        ("none", "uint8", None),
    ],
)
def test_nodata_is_the_stored_value_or_nothing_with_a_note(text, dtype, value):
    found, notes = read_nodata(text, np.dtype(dtype))
    assert same_number(found, value)
    assert bool(notes) == (value is None)


def test_a_page_without_geographic_tags_says_nothing():
    geo = read_geo({}.get, np.dtype("uint8"))
    assert (geo.transform, geo.crs, geo.pixel_size, geo.nodata, geo.notes) == (None, None, None, None, ())


def test_damaged_metadata_becomes_a_note(tmp_path):
    path = tmp_path / "a.tif"
    tags = [(42112, "s", 0, "<GDALMetadata", True), (42113, "s", 0, "many", True)]
    tifffile.imwrite(path, np.ones((9, 9), np.uint8), extratags=tags)
    notes = " ".join(TiffSource(path).info.notes)
    assert "not XML" in notes
    assert "not a number" in notes
