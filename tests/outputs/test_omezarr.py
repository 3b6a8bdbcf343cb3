from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import zarr
from ome_zarr_models.v05 import Image

from gigatile.errors import RunRefused, StorageError, UsageError
from gigatile.outputs.layout import pyramid_layouts
from gigatile.outputs.omezarr import (
    ResultMetadata,
    canonical_json,
    create_result,
    is_complete,
    mark_complete,
    read_layouts,
)
from gigatile.units import PixelSize

from .helpers import local, make_layout, tree

SLIDE = ResultMetadata(
    "nearest",
    pixel_size=PixelSize(0.25, 0.5),
    class_names=("background", "nuclei"),
    class_colors=("#000000", "#ff0000"),
)
SCENE = ResultMetadata(
    "mean",
    pixel_size=PixelSize(10.0, 10.0, "metre"),
    crs="EPSG:32633",
    transform=(10.0, 0.0, 500_000.0, 0.0, -10.0, 5_000_000.0),
)
PLAIN = ResultMetadata("mean")


def levels(channels=None):
    return pyramid_layouts(make_layout((1030, 770), channels, shard=(128, 128), chunk=(64, 64)))


def attributes(path):
    return json.loads((path / "zarr.json").read_text())["attributes"]


@pytest.mark.parametrize("description", [SLIDE, SCENE, PLAIN])
@pytest.mark.parametrize("channels", [None, 3])
def test_the_result_is_a_valid_ome_zarr_image(tmp_path, description, channels):
    create_result(local(tmp_path), levels(channels), description)
    image = Image.from_zarr(zarr.open_group(tmp_path, mode="r"))
    (multiscale,) = image.attributes.ome.multiscales
    assert [dataset.path for dataset in multiscale.datasets] == ["0", "1", "2", "3"]
    assert [axis.name for axis in multiscale.axes] == (["y", "x"] if channels is None else ["c", "y", "x"])
    for level, layout in enumerate(levels(channels)):
        array = zarr.open_array(tmp_path / str(level), mode="r")
        assert array.shape[-2:] == layout.shape
        assert array.metadata.dimension_names == tuple(axis.name for axis in multiscale.axes)
        assert array.chunks[-2:] == (64, 64)
        assert array.shards[-2:] == (128, 128)
        assert array.fill_value == 255


@pytest.mark.parametrize(
    ("description", "unit", "size"),
    [(SLIDE, "micrometer", (0.25, 0.5)), (SCENE, "meter", (10.0, 10.0)), (PLAIN, None, (1.0, 1.0))],
)
def test_levels_keep_their_place(tmp_path, description, unit, size):
    """The outer corner of all levels is the same: centre of the first pixel minus half a pixel."""
    create_result(local(tmp_path), levels(2), description)
    (multiscale,) = attributes(tmp_path)["ome"]["multiscales"]
    assert [axis.get("unit") for axis in multiscale["axes"]] == [None, unit, unit]
    for level, dataset in enumerate(multiscale["datasets"]):
        scale, translation = dataset["coordinateTransformations"]
        assert scale == {"type": "scale", "scale": [1.0, size[0] * 2**level, size[1] * 2**level]}
        corner = np.subtract(translation["translation"], np.multiply(scale["scale"], 0.5))
        np.testing.assert_allclose(corner, [-0.5, -size[0] / 2, -size[1] / 2])


def test_scenes_carry_their_place_on_every_level(tmp_path):
    create_result(local(tmp_path), levels(), SCENE)
    uuids = {
        "proj": "f17cb550-5864-4468-aeb7-f3180cfb622f",
        "spatial": "689b58e2-cf7b-45e0-9fff-9cfc0883d6b4",
        "multiscales": "d35379db-88df-4056-af3a-620245f8e347",
    }
    for level, layout in enumerate(levels()):
        found = attributes(tmp_path / str(level))
        assert {item["name"]: item["uuid"] for item in found["zarr_conventions"]} == {
            name: uuids[name] for name in ("proj", "spatial")
        }
        assert found["proj:code"] == "EPSG:32633"
        assert found["spatial:dimensions"] == ["y", "x"]
        assert found["spatial:shape"] == list(layout.shape)
        pixel = 10.0 * 2**level
        assert found["spatial:transform"] == [pixel, 0.0, 500_000.0, 0.0, -pixel, 5_000_000.0]
        height, width = layout.shape
        assert found["spatial:bbox"] == [5e5, 5e6 - pixel * height, 5e5 + pixel * width, 5e6]
    group = attributes(tmp_path)
    assert {item["name"]: item["uuid"] for item in group["zarr_conventions"]} == uuids
    assert [item["spatial:shape"] for item in group["multiscales"]["layout"]] == [
        list(layout.shape) for layout in levels()
    ]
    # The convention forbids these beside a layout that has them for each level.
    assert not {"spatial:shape", "spatial:transform"} & set(group)


def test_a_rotated_south_up_transform_is_scaled_as_it_is(tmp_path):
    create_result(local(tmp_path), levels(), replace(SCENE, transform=(1.0, 2.0, 3.0, 4.0, 5.0, 6.0)))
    found = attributes(tmp_path / "1")
    assert found["spatial:transform"] == [2.0, 4.0, 3.0, 8.0, 10.0, 6.0]
    assert found["spatial:bbox"] == [3.0, 6.0, 3.0 + 2 * 385 + 4 * 515, 6.0 + 8 * 385 + 10 * 515]


def test_a_crs_without_code_is_written_as_wkt2(tmp_path):
    wkt = 'PROJCRS["Albers",BASEGEOGCRS["NAD83",ID["EPSG",4269]]]'
    create_result(local(tmp_path), levels(), replace(SCENE, crs=wkt))
    assert attributes(tmp_path / "0")["proj:wkt2"] == wkt
    assert "proj:code" not in attributes(tmp_path / "0")


def test_slides_carry_no_geography(tmp_path):
    create_result(local(tmp_path), levels(), SLIDE)
    assert set(attributes(tmp_path)) == {"ome", "gigatile"}
    assert attributes(tmp_path / "0") == {}
    assert attributes(tmp_path)["gigatile"] == {
        "complete": False,
        "class_names": ["background", "nuclei"],
        "class_colors": ["#000000", "#ff0000"],
    }


@pytest.mark.parametrize("description", [SLIDE, SCENE, PLAIN])
def test_creating_again_changes_no_byte(tmp_path, description):
    create_result(local(tmp_path), levels(2), description)
    before = tree(tmp_path)
    create_result(local(tmp_path), levels(2), description)
    assert tree(tmp_path) == before
    mark_complete(local(tmp_path))
    complete = tree(tmp_path)
    assert {name for name in before if before[name] != complete[name]} == {"zarr.json"}
    create_result(local(tmp_path), levels(2), description)
    assert tree(tmp_path) == complete
    mark_complete(local(tmp_path))
    assert tree(tmp_path) == complete


def test_metadata_is_canonical_and_without_place_or_time(tmp_path):
    create_result(local(tmp_path / "a"), levels(2), SCENE)
    create_result(local(tmp_path / "b"), levels(2), SCENE)
    found = tree(tmp_path / "a")
    assert found == tree(tmp_path / "b")
    for key, content in found.items():
        if key.endswith("zarr.json"):
            assert canonical_json(json.loads(content)) == content
        assert str(tmp_path).encode() not in content


def test_completeness_is_told_only_at_the_end(tmp_path):
    assert not is_complete(local(tmp_path))
    with pytest.raises(UsageError, match="expected the metadata of a result, found none"):
        mark_complete(local(tmp_path))
    create_result(local(tmp_path), levels(), PLAIN)
    assert not is_complete(local(tmp_path))
    mark_complete(local(tmp_path))
    assert is_complete(local(tmp_path))
    assert attributes(tmp_path)["gigatile"] == {"complete": True}


@pytest.mark.parametrize("channels", [None, 3])
def test_layouts_are_read_back(tmp_path, channels):
    assert read_layouts(local(tmp_path)) == ()
    create_result(local(tmp_path), levels(channels), SCENE)
    assert read_layouts(local(tmp_path)) == levels(channels)


def test_arrays_of_another_cut_are_refused_before_anything_is_written(tmp_path):
    create_result(local(tmp_path), levels(), SLIDE)
    before = tree(tmp_path)
    other = pyramid_layouts(make_layout((1030, 770), None, shard=(256, 256), chunk=(64, 64)))
    with pytest.raises(RunRefused, match="found another one"):
        create_result(local(tmp_path), other, SLIDE)
    assert tree(tmp_path) == before


def test_new_words_over_the_same_arrays_are_taken(tmp_path):
    create_result(local(tmp_path), levels(), PLAIN)
    create_result(local(tmp_path), levels(), SLIDE)
    assert attributes(tmp_path)["gigatile"]["class_names"] == ["background", "nuclei"]


@pytest.mark.parametrize("name", ["zarr.json", "0/zarr.json"])
def test_damaged_metadata_is_one_clear_error_and_mended_by_the_next_run(tmp_path, name):
    create_result(local(tmp_path), levels(), PLAIN)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_text("{")
    if name == "0/zarr.json":
        with pytest.raises(UsageError, match=r"0/zarr\.json: expected Zarr metadata in JSON"):
            read_layouts(local(tmp_path))
    create_result(local(tmp_path), levels(), PLAIN)
    assert (tmp_path / name).read_bytes() == whole


def test_a_file_in_the_way_is_a_storage_error(tmp_path):
    (tmp_path / "0").write_text("in the way")
    with pytest.raises(StorageError):
        create_result(local(tmp_path), levels(), PLAIN)


@pytest.mark.parametrize(("dtype", "fill"), [("float32", math.nan), ("float64", -math.inf), ("int16", -1)])
def test_zarr_reads_the_fill_of_a_result_without_pixels(tmp_path, dtype, fill):
    layout = make_layout(dtype=dtype, fill=fill, channels=2)
    create_result(local(tmp_path), (layout,), PLAIN)
    pixels = zarr.open_array(tmp_path / "0", mode="r")[...]
    assert pixels.dtype == layout.dtype
    np.testing.assert_array_equal(pixels, np.full((2, 100, 90), fill, dtype))
