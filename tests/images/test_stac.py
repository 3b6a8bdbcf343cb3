"""STAC items as images: which assets are channels, what they are called, and what is refused."""

import pickle

import numpy as np
import pytest

import gigatile as gt
from gigatile.errors import ImageError, UsageError
from gigatile.images.image import REFLECT, Image
from gigatile.images.open import open_source
from gigatile.tiling.region import Region
from tests.images.assemble import check_grid, whole
from tests.images.scenes import SIDE, band_asset, noise, write_band, write_item
from tests.images.test_stack import write
from tests.storage.web_server import web_server


@pytest.fixture
def bands(tmp_path):
    """Red and green at 10 m, a red edge at 20 m."""
    for name, metres, seed in (("B04", 10, 4), ("B03", 10, 3), ("B05", 20, 5)):
        write_band(tmp_path / f"{name}.tif", noise(metres, seed), metres)
    return tmp_path


def refusal(path) -> str:
    with pytest.raises(ImageError) as error:
        gt.open(path)
    return str(error.value)


def test_data_assets_of_one_band_are_channels_by_their_common_names(bands):
    write_band(bands / "visual.tif", noise(10), 10)
    item = write_item(
        bands / "scene.json",
        {
            "thumbnail": {"href": "none.png", "type": "image/png", "roles": ["thumbnail"]},
            "B03": band_asset("./B03.tif", "B03", "green"),
            "B04": band_asset(str(bands / "B04.tif"), "B04", "red"),
            "B05": band_asset((bands / "B05.tif").as_uri(), "B05"),
            "visual": {**band_asset("visual.tif", "x"), "roles": ["visual"]},
            "meta": {**band_asset("none.xml", "x"), "type": "application/xml"},
        },
    )
    source = open_source(item)
    check_grid(source)
    assert source.info.channels == ("green", "red", "B05")
    assert (source.info.format, source.info.path) == ("stac", str(item))
    assert source.info.levels[0].shape == (SIDE, SIDE)
    np.testing.assert_array_equal(whole(source)[:2], [noise(10, 3), noise(10, 4)])
    by_hand = open_source("+".join(str(bands / f"{name}.tif") for name in ("B03", "B04", "B05")))
    np.testing.assert_array_equal(whole(source), whole(by_hand))
    assert "channels by their common names: green is B03, red is B04" in source.info.notes
    assert "assets left aside: thumbnail, visual, meta" in source.info.notes
    again = pickle.loads(pickle.dumps(source))
    assert again.info == source.info


def test_a_common_name_of_several_bands_names_none_of_them(bands):
    edges = {name: band_asset(f"{name}.tif", name, "rededge") for name in ("B04", "B05")}
    item = write_item(bands / "scene.json", {**edges, "B03": band_asset("B03.tif", "B03", "green")})
    assert gt.open(item).channels == ("B04", "B05", "green")


def test_bands_of_stac_1_1_are_understood(bands):
    def asset(name, common, **more):
        band = {"name": name, "eo:common_name": common, **more}
        return {"href": f"{name}.tif", "type": "image/tiff", "roles": ["data", "reflectance"], "bands": [band]}

    classes = {"classification:classes": [{"value": 0, "name": "nodata"}]}
    item = write_item(
        bands / "scene.json",
        {
            "red": asset("B04", "red", nodata=0),
            "green": asset("B03", "green", nodata=0),
            "scl": {**asset("B05", ""), **classes},
        },
        stac_version="1.1.0",
    )
    info = gt.open(item).info
    assert info.channels == ("red", "green")
    assert info.nodata == 0
    assert "assets left aside: scl" in info.notes


def test_nodata_of_the_item_counts_where_the_file_has_none(bands):
    red = noise(10, 4)
    red[:50] = 7
    write_band(bands / "B04.tif", red, 10)
    write_band(bands / "own.tif", noise(10), 10, nodata=3)
    stated = {"raster:bands": [{"nodata": 7, "scale": 0.0001, "offset": -0.1}]}
    item = write_item(bands / "scene.json", {"B04": band_asset("B04.tif", "B04", "red", **stated)})
    image = Image(open_source(item))
    valid = image.read_with_validity(Region(0, 0, SIDE, SIDE), REFLECT)[1]
    np.testing.assert_array_equal(valid, red != 7)
    assert any("a scale and offset for B04, which are not applied" in note for note in image.info.notes)
    own = write_item(bands / "own.json", {"B04": band_asset("own.tif", "B04", **stated)})
    assert gt.open(own).nodata == 3


def test_of_one_band_in_several_assets_the_finest_tiff_is_taken(bands):
    write_band(bands / "B04.jp2", noise(10, 4), 10)
    write_band(bands / "coarse.tif", noise(20), 20)
    item = write_item(
        bands / "scene.json",
        {
            "B04_20m": band_asset("coarse.tif", "B04", gsd=20),
            "B04-jp2": {**band_asset("B04.jp2", "B04", gsd=10), "type": "image/jp2"},
            "B04": band_asset("B04.tif", "B04", **{"proj:transform": [10, 0, 600000, 0, -10, 5700000]}),
        },
    )
    source = open_source(item)
    np.testing.assert_array_equal(whole(source), noise(10, 4)[None])
    assert "assets left aside: B04_20m, B04-jp2" in source.info.notes
    assert any("B04.tif" in file.place for file in source._scene.files)


def test_which_of_two_assets_is_meant_is_not_guessed(bands):
    item = write_item(bands / "scene.json", {"a": band_asset("B04.tif", "B04"), "b": band_asset("B03.tif", "B04")})
    assert "expected one asset with the band B04, found a and b" in refusal(item)


def test_an_only_asset_with_several_bands_is_the_image(tmp_path):
    pixels = np.stack([noise(10, i) for i in range(4)])
    write(tmp_path / "naip.tif", pixels)
    names = [{"name": name, "common_name": name.lower()} for name in ("Red", "Green", "Blue", "NIR")]
    assets = {"image": {"href": "naip.tif", "roles": ["data"], "eo:bands": names}}
    item = write_item(tmp_path / "scene.json", assets)
    source = open_source(item)
    assert source.info.channels == ("red", "green", "blue", "nir")
    np.testing.assert_array_equal(whole(source), pixels)
    assets["image"]["eo:bands"] = names[:3]
    assert "naip.tif: expected 3 band(s), red, green, blue" in refusal(write_item(item, assets))
    assert "found 2 assets with several" in refusal(write_item(item, {"a": assets["image"], "b": assets["image"]}))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{", "found damaged JSON"),
        ("[" * 100_000, "a file that begins with"),
        ('{"a": ' + "[" * 100_000, "found damaged JSON"),
        ('{"type": "Catalog", "stac_version": "1.0.0"}', "found a STAC catalog"),
        ('{"type": "FeatureCollection", "features": []}', "found many features"),
        ('{"type": "Feature", "geometry": null}', "found other JSON"),
        ('{"type": "Feature", "stac_version": "1.0.0"}', "found one without assets"),
        ('{"type": "Feature", "stac_version": "1.0.0", "assets": {}}', "no assets"),
        ('{"type": "Feature", "stac_version": "1.0.0", "assets": {"a": 1, "b": {}}}', r"none \(a, b\)"),
        ('{"type": ["x"], "stac_version": {}, "assets": {}}', "found other JSON"),
        ('{"type": "Feature", "stac_version": "1", "assets": {"a": {"eo:bands": [{"name": "r"}]}}}', "an href"),
    ],
)
def test_other_json_is_refused_with_what_it_is(tmp_path, content, told):
    path = tmp_path / "item.json"
    path.write_text(content)
    with pytest.raises(ImageError, match=told):
        gt.open(path)


def test_an_item_of_a_model_is_refused_with_what_to_type(tmp_path):
    item = write_item(tmp_path / "model.json", {"weights": {"href": "a.onnx", "roles": ["mlm:model"]}})
    assert f"found one of a model (mlm:). Give it as --model {item}" in refusal(item)
    assert "one of a model" in refusal(write_item(item, {}, properties={"mlm:name": "x"}))


def test_missing_files_and_other_ground_are_refused(bands):
    item = write_item(bands / "scene.json", {"B04": band_asset("gone.tif", "B04")})
    assert "scene.json: assets.B04: expected the file" in refusal(item)
    write_band(bands / "far.tif", noise(10), 10, "EPSG:32632")
    write_item(item, {"B04": band_asset("B04.tif", "B04"), "B03": band_asset("far.tif", "B03")})
    assert "expected the CRS EPSG:32631, found EPSG:32632" in refusal(item)


def test_an_asset_that_is_an_item_is_not_followed(bands):
    item = write_item(bands / "scene.json", {"B04": {**band_asset("scene.json", "B04"), "type": None}})
    assert "scene.json: expected a TIFF" in refusal(item)


def test_what_an_item_names_on_servers_is_read_in_place_but_for_jp2(bands):
    with web_server({"/B04.tif": (bands / "B04.tif").read_bytes()}) as server:
        item = write_item(bands / "scene.json", {"B04": band_asset(f"{server.url}/B04.tif", "B04", "red")})
        np.testing.assert_array_equal(whole(open_source(item)), noise(10, 4)[None])
    item = write_item(bands / "scene.json", {"B04": band_asset("https://host/B04.jp2?secret", "B04")})
    told = refusal(item)
    assert "assets.B04: expected a local file, as JP2 is read by GDAL" in told
    assert "secret" not in told


def test_axes_are_not_for_items(bands):
    with pytest.raises(UsageError, match="no axes"):
        gt.open(write_item(bands / "scene.json", {"B04": band_asset("B04.tif", "B04")}), axes="yx")


def test_a_tiff_is_one_whatever_its_name(bands):
    (bands / "B04.tif").rename(bands / "B04.json")
    assert gt.open(bands / "B04.json").info.format == "geotiff"
