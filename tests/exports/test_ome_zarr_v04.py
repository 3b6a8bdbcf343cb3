"""Exported OME-Zarr 0.4 is valid, has the pixels of the result, and the names and colours of its classes."""

import json
from dataclasses import replace

import numpy as np
import pytest
import rasterio
import rioxarray  # noqa: F401 - gives xarray its .rio
import xarray
import zarr
from ome_zarr_models.v04 import Image
from ome_zarr_models.v04.image_label_types import Label

import gigatile as gt
from gigatile.errors import RunRefused
from gigatile.exports import ome_zarr_v04 as module
from gigatile.exports.ome_zarr_v04 import export_ome_zarr_v04
from gigatile.exports.result import Result
from tests.exports.samples import NAMES, RGB, UTM, levels

KINDS = ("scene", "probabilities", "slide", "raw")


@pytest.fixture(params=KINDS)
def run(request):
    return request.getfixturevalue(request.param)


def exported(run, path, dtype=None):
    export_ome_zarr_v04(Result.of(run), path, dtype)
    return path


def opened(path):
    return zarr.open_group(path, mode="r", zarr_format=2)


def test_every_level_has_the_pixels_of_the_result(run, tmp_path):
    group = opened(exported(run, tmp_path / "a.zarr"))
    for level, theirs in enumerate(levels(run)):
        ours = group[str(level)]
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours[...], theirs)


def test_the_metadata_are_valid_and_lie_where_the_result_does(run, tmp_path):
    image = Image.from_zarr(opened(exported(run, tmp_path / "a.zarr")))
    (multiscale,) = image.attributes.multiscales
    theirs = zarr.open_group(f"{run}/prediction.zarr", mode="r").attrs["ome"]["multiscales"][0]
    assert multiscale.version == "0.4"
    for ours, other in zip(multiscale.datasets, theirs["datasets"], strict=True):
        scale, translation = ours.coordinateTransformations
        expected = other["coordinateTransformations"]
        assert [scale.scale, translation.translation] == [expected[0]["scale"], expected[1]["translation"]]
    assert [axis.unit for axis in multiscale.axes] == [axis.get("unit") for axis in theirs["axes"]]


def test_classes_are_a_label_image_with_names_and_colours(scene, tmp_path):
    attributes = opened(exported(scene, tmp_path / "a.zarr")).attrs.asdict()
    label = Label.model_validate(attributes["image-label"])
    colours = {colour.label_value: tuple(colour.rgba) for colour in label.colors}
    assert colours == {**{number: (*RGB[number], 255) for number in range(4)}, 255: (0, 0, 0, 0)}
    names = {each["label-value"]: each["name"] for each in attributes["image-label"]["properties"]}
    assert names == {**dict(enumerate(NAMES)), 255: "invalid"}


@pytest.mark.parametrize(("names", "colours"), [(2, 4), (4, 1), (3, 0), (0, 3)])
def test_names_without_colours_and_the_reverse_are_valid(names, colours, scene, tmp_path):
    result = replace(Result.of(scene), class_names=NAMES[:names], class_colors=tuple(RGB[:colours]))
    export_ome_zarr_v04(result, tmp_path / "a.zarr")
    attributes = opened(tmp_path / "a.zarr").attrs.asdict()
    label = Label.model_validate(attributes["image-label"])
    assert bool(label.colors) == bool(colours)
    assert len(attributes["image-label"]["properties"]) == max(names, colours) + 1


def test_channels_have_names_and_colours(probabilities, tmp_path):
    omero = opened(exported(probabilities, tmp_path / "a.zarr")).attrs["omero"]
    assert tuple(channel["label"] for channel in omero["channels"]) == NAMES
    assert [bytes.fromhex(channel["color"]) for channel in omero["channels"]] == [bytes(colour) for colour in RGB]
    assert {channel["window"]["end"] for channel in omero["channels"]} == {1.0}


def test_probabilities_as_bytes_say_their_scale(probabilities, tmp_path):
    group = opened(exported(probabilities, tmp_path / "a.zarr", "uint8"))
    truth = levels(probabilities)[0]
    pixels, valid = group["0"][...], ~np.isnan(truth)
    np.testing.assert_array_equal(pixels[valid], np.rint(254 * truth[valid].astype(np.float64)))
    assert (pixels[~valid] == 255).all()
    assert group["0"].fill_value == 255
    assert group.attrs["gigatile"]["scale"] == 1 / 254
    assert group.attrs["omero"]["channels"][0]["window"]["end"] == pytest.approx(254)


def test_chunks_without_a_valid_pixel_have_no_file(scene, tmp_path):
    path = exported(scene, tmp_path / "a.zarr")
    assert (levels(scene)[0][:192, :192] == 255).all()
    assert not (path / "0" / "0" / "0").exists()
    assert (path / "0" / "3" / "3").exists()


def test_gigatile_opens_its_own_export(slide, tmp_path):
    image = gt.open(exported(slide, tmp_path / "a.zarr"))
    assert (image.pixel_size.y, image.pixel_size.x) == (0.25, 0.5)
    np.testing.assert_array_equal(image.read(gt.Region(0, 0, 610, 700))[0], levels(slide)[0])


def test_an_earlier_export_is_replaced_and_nothing_else(scene, raw, tmp_path):
    path = exported(scene, tmp_path / "a.zarr")
    exported(raw, path)
    assert opened(path)["0"].shape == (1, 300, 200)
    (tmp_path / "b.zarr").mkdir()
    (tmp_path / "b.zarr" / "notes.txt").write_text("mine")
    with pytest.raises(RunRefused, match="found something else"):
        exported(scene, tmp_path / "b.zarr")
    assert [entry.name for entry in (tmp_path / "b.zarr").iterdir()] == ["notes.txt"]
    assert {entry.name for entry in tmp_path.iterdir()} == {"a.zarr", "b.zarr"}


def test_an_export_that_fails_leaves_the_earlier_one_and_nothing_else(scene, tmp_path, monkeypatch):
    path = exported(scene, tmp_path / "a.zarr")

    def broken(*arguments):
        yield from ()
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "encoded_tiles", broken)
    with pytest.raises(KeyboardInterrupt):
        exported(scene, path)
    np.testing.assert_array_equal(opened(path)["0"][...], levels(scene)[0])
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.zarr"]


def test_what_a_killed_export_left_is_not_taken_for_part_of_the_next(scene, tmp_path):
    left = tmp_path / ".a.zarr.export.tmp" / "7"
    left.mkdir(parents=True)
    (left / "x").write_text("x")
    assert not (exported(scene, tmp_path / "a.zarr") / "7").exists()


def test_slides_and_arrays_have_dimensions_and_no_geography(raw, tmp_path):
    path = exported(raw, tmp_path / "a.zarr")
    assert json.loads((path / "0" / ".zattrs").read_text()) == {"_ARRAY_DIMENSIONS": ["c", "y", "x"]}
    assert {entry.name for entry in path.iterdir()} == {".zattrs", ".zgroup", "0", "1"}


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")  # of the coarser level
def test_an_older_gdal_finds_crs_and_transform(scene, tmp_path):
    path = exported(scene, tmp_path / "a.zarr")
    with rasterio.open(f'ZARR:"{path}":/0') as file:
        assert file.crs.to_epsg() == 32633
        assert file.transform.almost_equals(rasterio.Affine(*UTM), 1e-6)
        assert file.nodata == 255
        np.testing.assert_array_equal(file.read(1), levels(scene)[0])
    with rasterio.open(f'ZARR:"{path}":/1') as file:
        np.testing.assert_array_equal(file.read(1), levels(scene)[1])


@pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")
def test_rioxarray_finds_crs_and_bounds(scene, tmp_path):
    path = exported(scene, tmp_path / "a.zarr")
    level = xarray.open_zarr(path, consolidated=False, drop_variables=["1", "2"])["0"]
    assert level.rio.crs.to_epsg() == 32633
    height, width = level.shape
    assert level.rio.bounds() == pytest.approx(
        (UTM[2], UTM[5] + UTM[4] * height, UTM[2] + UTM[0] * width, UTM[5]), rel=1e-12
    )


def test_an_ome_zarr_of_others_is_never_replaced(scene, tmp_path):
    path = tmp_path / "slide.ome.zarr"
    group = zarr.open_group(path, mode="w", zarr_format=2, attributes={"multiscales": [{"version": "0.4"}]})
    group.create_array("0", shape=(4, 4), dtype="u1")[:] = 7
    with pytest.raises(RunRefused, match="found something else"):
        exported(scene, path)
    assert (zarr.open_group(path, mode="r")["0"][:] == 7).all()
