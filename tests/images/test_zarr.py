"""Zarr arrays and OME-Zarr images, written here and by others."""

import json
import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import zarr

from gigatile.errors import BlockError, GigatileError, ImageError
from gigatile.images.open import open_source
from gigatile.images.tiff import TiffSource
from gigatile.images.zarr import ZarrSource
from gigatile.units import PixelSize
from tests.data import data
from tests.images.assemble import check_grid, random_regions, whole, window

RNG = np.random.default_rng(5)


def noise(*shape: int, dtype: str = "uint8") -> np.ndarray:
    return RNG.integers(0, 200, shape).astype(dtype)


def write(path: Path, pixels: np.ndarray, **keywords) -> zarr.Array:
    array = zarr.create_array(path, shape=pixels.shape, dtype=pixels.dtype, **keywords)
    array[...] = pixels
    return array


def write_ngff(path: Path, levels: list[np.ndarray], version: str, **multiscale) -> zarr.Group:
    """An OME-Zarr with axes c, y, x in micrometres and factors of two."""
    group = zarr.open_group(path, mode="w", zarr_format=2 if version == "0.4" else 3)
    for i, pixels in enumerate(levels):
        chunks = (1, 64, 96)[-pixels.ndim :]
        group.create_array(str(i), data=pixels, chunks=chunks)
    axes = [{"name": "c", "type": "channel"}] if levels[0].ndim == 3 else []
    axes += [{"name": n, "type": "space", "unit": "micrometer"} for n in "yx"]
    datasets = [
        {
            "path": str(i),
            "coordinateTransformations": [
                {"type": "scale", "scale": [*[1.0] * (len(axes) - 2), 0.5 * 2**i, 0.25 * 2**i]}
            ],
        }
        for i in range(len(levels))
    ]
    content = {"multiscales": [{"axes": axes, "datasets": datasets, **multiscale}]}
    group.attrs.update(content if version == "0.4" else {"ome": {"version": version, **content}})
    return group


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int8", "int32", "float32", "float64", "bool", ">u2"])
def test_plain_arrays_of_both_formats(tmp_path, zarr_format, dtype):
    pixels = noise(3, 203, 311, dtype=dtype)
    write(tmp_path / "a.zarr", pixels, chunks=(2, 64, 100), zarr_format=zarr_format)
    source = ZarrSource(tmp_path / "a.zarr")
    check_grid(source)
    assert source.info.format == "zarr"
    assert source.info.dtype == pixels.dtype.newbyteorder("=")
    np.testing.assert_array_equal(whole(source), pixels)
    for region in random_regions((203, 311), 5, RNG):
        np.testing.assert_array_equal(window(source, 0, region), pixels[(slice(None), *region.slices())])


def test_units_are_inner_chunks_of_shards_taken_together(tmp_path):
    pixels = noise(2, 1000, 700)
    write(tmp_path / "a.zarr", pixels, chunks=(1, 64, 64), shards=(2, 512, 512))
    source = ZarrSource(tmp_path / "a.zarr")
    level = source.info.levels[0]
    assert level.chunks == (64, 64)
    assert level.edges_y == (0, 256, 512, 768, 1000)
    np.testing.assert_array_equal(whole(source), pixels)


def test_chunks_that_were_never_written_are_the_fill_value(tmp_path):
    array = zarr.create_array(tmp_path / "a", shape=(300, 300), chunks=(100, 100), dtype="u1", fill_value=9)
    array[100:200, 100:200] = 1
    source = ZarrSource(tmp_path / "a")
    expected = np.full((300, 300), 9)
    expected[100:200, 100:200] = 1
    np.testing.assert_array_equal(whole(source)[0], expected)
    assert source.info.nodata is None  # a fill value is not a statement about validity


@pytest.mark.parametrize(
    ("attributes", "nodata"),
    [({"_FillValue": 255}, 255), ({"nodata": "NaN"}, np.nan), ({"_FillValue": "AAAAAAAA+H8="}, np.nan), ({}, None)],
)
def test_nodata_is_what_an_attribute_says(tmp_path, attributes, nodata):
    write(tmp_path / "a", noise(20, 20), chunks=(20, 20), attributes=attributes)
    found = ZarrSource(tmp_path / "a").info.nodata
    assert found is None if nodata is None else np.array_equal([found], [nodata], equal_nan=True)


@pytest.mark.parametrize("names", [["band", "lat", "lon"], ["lat", "lon", "band"], ["time", "y", "x"]])
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_axes_are_found_by_their_names(tmp_path, names, zarr_format):
    sizes = {"band": 6, "lat": 70, "lon": 80, "time": 1, "y": 70, "x": 80}
    pixels = noise(*(sizes[name] for name in names))
    keywords = {"dimension_names": names} if zarr_format == 3 else {"attributes": {"_ARRAY_DIMENSIONS": names}}
    write(tmp_path / "a", pixels, chunks=(10, 10, 10), zarr_format=zarr_format, **keywords)
    expected = np.moveaxis(pixels, -1, 0) if names[-1] == "band" else pixels
    np.testing.assert_array_equal(whole(ZarrSource(tmp_path / "a")), expected)


def test_axes_of_the_caller_count_more(tmp_path):
    pixels = noise(50, 60, 5)
    write(tmp_path / "a", pixels, chunks=(10, 10, 5))
    source = ZarrSource(tmp_path / "a", axes="yxc")
    np.testing.assert_array_equal(whole(source), np.moveaxis(pixels, -1, 0))
    np.testing.assert_array_equal(whole(pickle.loads(pickle.dumps(source))), np.moveaxis(pixels, -1, 0))


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize("ndim", [2, 3])
def test_ome_zarr_has_levels_pixel_size_and_labels(tmp_path, version, ndim):
    full = noise(3, 300, 402)[: None if ndim == 3 else 1]
    levels = [full[:, ::n, ::n] for n in (1, 2, 4)]
    stored = levels if ndim == 3 else [level[0] for level in levels]
    group = write_ngff(tmp_path / "a.zarr", stored, version)
    omero = {"channels": [{"label": name} for name in ("DAPI", "CD3", "CD8")]}
    content = group.attrs.asdict()
    (content if version == "0.4" else content["ome"])["omero"] = omero
    group.attrs.update(content)
    source = ZarrSource(tmp_path / "a.zarr")
    check_grid(source)
    info = source.info
    assert info.format == "ome-zarr"
    assert info.pixel_size == PixelSize(0.5, 0.25)
    assert info.channels == (("DAPI", "CD3", "CD8") if ndim == 3 else ("0",))
    assert [level.shape for level in info.levels] == [(300, 402), (150, 201), (75, 101)]
    for i, level in enumerate(levels):
        np.testing.assert_array_equal(whole(source, i), level)


def test_scales_of_the_whole_multiscale_count_too(tmp_path):
    steps = [{"type": "scale", "scale": [10.0, 10.0]}]
    write_ngff(tmp_path / "a", [noise(50, 50)], "0.4", coordinateTransformations=steps)
    assert ZarrSource(tmp_path / "a").info.pixel_size == PixelSize(5.0, 2.5)


def test_an_image_that_begins_elsewhere_is_told(tmp_path):
    move = {"type": "translation", "translation": [0.0, 12.5, -3.0]}
    write_ngff(tmp_path / "a.zarr", [noise(2, 64, 96)], "0.5", coordinateTransformations=[move])
    info = ZarrSource(tmp_path / "a.zarr").info
    assert info.pixel_size == PixelSize(0.5, 0.25)
    assert [note for note in info.notes if "translation (y 12.5, x -3) is left aside" in note]
    write_ngff(tmp_path / "b.zarr", [noise(2, 64, 96)], "0.5")
    assert not ZarrSource(tmp_path / "b.zarr").info.notes


def test_a_run_directory_is_told_from_an_image(tmp_path):
    (tmp_path / "run.json").write_text("{}")
    write(tmp_path / "prediction.zarr", noise(64, 96))
    with pytest.raises(ImageError, match=r"found a run directory.*Give its result: .*prediction.zarr"):
        open_source(tmp_path)


def test_an_array_that_is_no_reduction_is_no_level(tmp_path):
    write_ngff(tmp_path / "a", [noise(200, 200), noise(100, 70), noise(50, 50, dtype="uint16")], "0.5")
    info = ZarrSource(tmp_path / "a").info
    assert len(info.levels) == 1
    assert len(info.notes) == 2


def test_levels_get_smaller_one_after_the_other(tmp_path):
    write_ngff(tmp_path / "a", [noise(200, 200), noise(100, 100), noise(100, 100), noise(50, 50)], "0.5")
    info = ZarrSource(tmp_path / "a").info
    assert [level.shape[0] for level in info.levels] == [200, 100, 50]
    assert len(info.notes) == 1


def test_a_result_for_a_scene_has_its_place(tmp_path):
    group = write_ngff(tmp_path / "a", [noise(100, 100)], "0.5")
    content = group.attrs.asdict()
    for axis in content["ome"]["multiscales"][0]["axes"]:
        axis["unit"] = "meter"
    group.attrs.update(
        {**content, "gigatile": {"complete": True}, "proj:code": "EPSG:32633", "multiscales": {"layout": []}}
    )
    group["0"].attrs.update({"spatial:transform": [10, 0, 500, 0, -20, 900], "spatial:registration": "pixel"})
    info = ZarrSource(tmp_path / "a").info
    assert (info.crs, info.transform) == ("EPSG:32633", (10, 0, 500, 0, -20, 900))
    assert info.pixel_size == PixelSize(20, 10, "metre")
    assert info.nodata == 0  # in our results the fill value is what invalid pixels are


def test_a_node_registration_places_the_centre_of_a_pixel(tmp_path):
    attributes = {"spatial:transform": [10, 0, 500, 0, -10, 900], "spatial:registration": "node"}
    write(tmp_path / "a", noise(20, 20), chunks=(20, 20), attributes={**attributes, "proj:code": "EPSG:3857"})
    assert ZarrSource(tmp_path / "a").info.transform == (10, 0, 495, 0, -10, 905)


def test_a_group_with_one_array_is_that_array(tmp_path):
    group = zarr.open_group(tmp_path / "a", mode="w")
    pixels = noise(3, 40, 50)
    group.create_array("scene", data=pixels, chunks=(3, 20, 20))
    np.testing.assert_array_equal(whole(ZarrSource(tmp_path / "a")), pixels)
    group.create_array("other", data=pixels)
    with pytest.raises(ImageError, match=r"other, scene.*a/other"):
        ZarrSource(tmp_path / "a")


def test_a_collection_of_bioformats2raw_opens_its_first_image(tmp_path):
    group = zarr.open_group(tmp_path / "a", mode="w", zarr_format=2)
    group.attrs["bioformats2raw.layout"] = 3
    pixels = noise(2, 60, 70)
    write_ngff(tmp_path / "a" / "0", [pixels], "0.4")
    source = ZarrSource(tmp_path / "a")
    np.testing.assert_array_equal(whole(source), pixels)
    assert any("bioformats2raw" in note for note in source.info.notes)


@pytest.mark.parametrize(
    ("attributes", "message"), [({"plate": {}}, "plate"), ({"ome": {"well": {}}}, "well"), ({}, "arrays: none")]
)
def test_groups_that_are_no_image_are_refused(tmp_path, attributes, message):
    zarr.open_group(tmp_path / "a", mode="w", attributes=attributes)
    with pytest.raises(ImageError, match=message):
        ZarrSource(tmp_path / "a")


def test_directories_that_are_no_zarr_and_broken_metadata_are_refused(tmp_path):
    with pytest.raises(ImageError, match=r"without zarr\.json"):
        ZarrSource(tmp_path)
    with pytest.raises(ImageError, match="no such directory"):
        ZarrSource(tmp_path / "no.zarr")
    write(tmp_path / "a", noise(20, 20), chunks=(20, 20))
    good = (tmp_path / "a" / "zarr.json").read_text()
    for broken in (good[: len(good) // 2], "[]", "{}", good.replace("uint8", "quaternion"), good.replace("20", "-1")):
        (tmp_path / "a" / "zarr.json").write_text(broken)
        with pytest.raises(ImageError) as error:
            ZarrSource(tmp_path / "a")
        assert str(tmp_path / "a") in str(error.value)


def test_a_level_that_is_missing_is_an_error(tmp_path):
    write_ngff(tmp_path / "a", [noise(50, 50), noise(25, 25)], "0.5")
    shutil.rmtree(tmp_path / "a" / "1")
    with pytest.raises(ImageError, match="KeyError"):
        ZarrSource(tmp_path / "a")


@pytest.mark.parametrize("sharded", [False, True])
def test_a_damaged_chunk_is_named(tmp_path, sharded):
    keywords = {"shards": (128, 128)} if sharded else {}
    write(tmp_path / "a", noise(256, 256), chunks=(64, 64), **keywords)
    for path in (tmp_path / "a" / "c").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:-7])
    source = ZarrSource(tmp_path / "a")
    with pytest.raises(BlockError) as error:
        source.decode(0, 0, 0)
    assert f"{tmp_path / 'a'}, level 0" in str(error.value)
    assert "pixels 0:256, 0:256" in str(error.value)


def test_complex_arrays_and_planes_along_time_are_refused(tmp_path):
    write(tmp_path / "a", np.zeros((9, 9), np.complex64), chunks=(9, 9))
    with pytest.raises(ImageError, match="complex64"):
        ZarrSource(tmp_path / "a")
    write(tmp_path / "b", noise(2, 9, 9), chunks=(1, 9, 9), dimension_names=["t", "y", "x"])
    with pytest.raises(ImageError, match="2 along 't'"):
        ZarrSource(tmp_path / "b")


def test_many_threads_and_a_pickled_copy_read_the_same(tmp_path):
    pixels = noise(3, 500, 600)
    write(tmp_path / "a", pixels, chunks=(3, 128, 128))
    source = ZarrSource(tmp_path / "a")
    copy = pickle.loads(pickle.dumps(source))
    assert copy.info == source.info
    with ThreadPoolExecutor(6) as pool:
        results = list(pool.map(lambda i: whole((source, copy)[i % 2]), range(8)))
    assert all(np.array_equal(result, pixels) for result in results)


def test_identity_follows_content_and_metadata_and_not_the_place(tmp_path):
    write(tmp_path / "a", noise(300, 300), chunks=(100, 100))
    first = ZarrSource(tmp_path / "a").identity()
    shutil.copytree(tmp_path / "a", tmp_path / "sub" / "b")
    assert ZarrSource(tmp_path / "sub" / "b").identity() == first
    assert first["objects"] == 9
    zarr.open_array(tmp_path / "a", mode="r+")[0, 0] = 255
    second = ZarrSource(tmp_path / "a").identity()
    document = json.loads((tmp_path / "sub" / "b" / "zarr.json").read_text())
    document["attributes"]["nodata"] = 1
    (tmp_path / "sub" / "b" / "zarr.json").write_text(json.dumps(document))
    assert len({str(first), str(second), str(ZarrSource(tmp_path / "sub" / "b").identity())}) == 3
    assert str(tmp_path) not in str(first)


# Real images ----------------------------------------------------------------------------------------------


def test_the_real_crop_equals_its_slide():
    source = ZarrSource(data("omezarr/cmu1_crop_v04.ome.zarr"))
    check_grid(source)
    slide = whole(TiffSource(data("wsi/CMU-1-Small-Region.svs")))
    np.testing.assert_array_equal(whole(source), slide[:, 1200:2736, 400:1936])
    assert source.info.pixel_size == PixelSize(0.499, 0.499)
    assert [round(level.downsample) for level in source.info.levels] == [1, 2, 4, 8]
    for i, level in enumerate(source.info.levels):
        array = zarr.open_array(data(f"omezarr/cmu1_crop_v04.ome.zarr/s{i}"), mode="r")
        for region in random_regions(level.shape, 4, RNG):
            np.testing.assert_array_equal(window(source, i, region), array[(slice(None), *region.slices())])


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_the_real_small_images_of_both_versions_agree(version):
    source = ZarrSource(data(f"omezarr/neuroglancer_simple_{version}.zarr"))
    assert source.info.pixel_size is not None
    assert (source.info.pixel_size.y, source.info.pixel_size.x) == pytest.approx((0.004, 0.03))
    other = ZarrSource(data("omezarr/neuroglancer_simple_0.4.zarr"))
    for i in range(3):
        np.testing.assert_array_equal(whole(source, i), whole(other, i))


def test_the_real_image_without_units_has_no_pixel_size():
    info = ZarrSource(data("omezarr/blobs_image_v04.ome.zarr")).info
    assert info.pixel_size is None
    assert any("no unit" in note for note in info.notes)


def test_the_real_volume_is_refused_by_name():
    with pytest.raises(GigatileError, match="2 along 'z'"):
        ZarrSource(data("omezarr/bioimagetools_image-04.zarr"))
