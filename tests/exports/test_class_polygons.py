"""Class maps as polygons: they fill the map again, read by code that shares nothing with the export."""

import json

import numpy as np
import pytest
import shapely
import zarr
from rasterio import Affine, features

import gigatile as gt
from gigatile.errors import UsageError
from gigatile.exports import class_polygons as module
from gigatile.exports.class_polygons import class_polygons, level_0_factors, named_classes, polygons_metadata
from gigatile.exports.result import Result
from gigatile.objects import simplify
from tests.exports.samples import NAMES, softly
from tests.small_runs import noise, run_small


def rows(result, classes=(), tolerance=None):
    """All rows as one table."""
    import pyarrow as pa

    schema, batches = class_polygons(result, classes, tolerance)
    return pa.Table.from_batches(batches, schema)


def shapes(table):
    return shapely.from_wkb(table["geometry"].to_numpy(zero_copy_only=False))


def level_0(run):
    return zarr.open_group(f"{run}/prediction.zarr", mode="r")["0"]


def filled(table, transform, array):
    """The map again: GDAL fills the polygons."""
    pairs = zip(shapes(table), table["class"].to_pylist(), strict=True)
    return features.rasterize(
        pairs, out_shape=array.shape, fill=array.fill_value, transform=Affine(*transform), dtype="uint8"
    )


def test_polygons_of_a_slide_count_its_pixels_and_fill_the_map(slide):
    result = Result.of(slide)
    table = rows(result)
    array = level_0(slide)
    np.testing.assert_array_equal(filled(table, (1, 0, 0, 0, 1, 0), array), array[:])
    assert table["area"].to_pylist() == shapely.area(shapes(table)).tolist()
    box = np.stack([table[side].to_numpy() for side in ("xmin", "ymin", "xmax", "ymax")], axis=1)
    np.testing.assert_array_equal(box, shapely.bounds(shapes(table)))
    assert table["id"].to_pylist() == list(range(1, len(table) + 1))
    assert {NAMES[number] for number in table["class"].to_pylist()} == set(table["class_name"].to_pylist())
    assert table["score"].null_count == len(table)
    assert polygons_metadata(result).transform is None


def test_polygons_of_a_scene_lie_in_its_crs_and_leave_nodata_out(scene):
    result = Result.of(scene)
    table = rows(result)
    array = level_0(scene)
    assert (array[:] == 255).any()
    np.testing.assert_array_equal(filled(table, array.attrs["spatial:transform"], array), array[:])
    assert shapely.is_ccw(shapely.get_exterior_ring(shapes(table))).all(), "as RFC 7946 wants it, in the CRS"
    pixel = 10.123456789012345 * 10.2
    np.testing.assert_allclose(shapely.area(shapes(table)), table["area"].to_numpy() * pixel, rtol=1e-6)
    bbox = table["bbox"].combine_chunks().flatten()
    np.testing.assert_array_equal(np.stack([side.to_numpy() for side in bbox], axis=1), shapely.bounds(shapes(table)))
    assert polygons_metadata(result).crs == "EPSG:32633"


@pytest.mark.parametrize("side", [1, 200, 5000])
def test_the_rows_do_not_depend_on_the_window(scene, monkeypatch, side):
    expected = rows(Result.of(scene))
    monkeypatch.setattr(module, "WINDOW_SIDE", side)
    assert rows(Result.of(scene)).equals(expected)


@pytest.mark.parametrize(("name", "limit"), [("ROWS", 1000), ("VERTICES", 5000)])
def test_the_rows_do_not_depend_on_how_they_are_cut_into_batches(scene, monkeypatch, name, limit):
    import pyarrow as pa

    expected = rows(Result.of(scene)).combine_chunks()
    monkeypatch.setattr(module, name, limit)
    _, batches = class_polygons(Result.of(scene))
    parts = [pa.Table.from_batches([batch]) for batch in batches]
    for part in parts:
        vertices = shapely.get_num_coordinates(shapes(part)).sum()
        assert len(part) <= limit if name == "ROWS" else vertices <= limit or len(part) == 1
    assert pa.concat_tables(parts).combine_chunks().equals(expected)


def test_chosen_classes_are_the_only_ones(slide):
    result = Result.of(slide)
    everything = rows(result)
    chosen = rows(result, named_classes(result, ["nöne", "1"]))
    assert set(chosen["class"].to_pylist()) <= {1, 3}
    kept = [number in (1, 3) for number in everything["class"].to_pylist()]
    assert chosen.drop(["id"]).to_pylist() == everything.filter(kept).drop(["id"]).to_pylist()


def test_classes_that_the_map_cannot_have_are_refused(slide, probabilities):
    result = Result.of(slide)
    with pytest.raises(UsageError, match="found water"):
        named_classes(result, ["bright", "water"])
    with pytest.raises(UsageError, match="from 0 to 254, found 255"):
        class_polygons(result, [255])
    with pytest.raises(UsageError, match="expected a class map, found probabilities"):
        class_polygons(Result.of(probabilities))


def test_a_polygon_that_no_row_can_hold_is_refused(slide, monkeypatch):
    monkeypatch.setattr(module, "_LARGEST", 10)
    with pytest.raises(UsageError, match="expected polygons of at most 10 vertices"):
        rows(Result.of(slide))


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The class map of 150 x 130 pixels with regions of some pixels."""
    out = tmp_path_factory.mktemp("small") / "out"
    pixels = noise((50, 44)).repeat(3, axis=0).repeat(3, axis=1)[:, :130]
    assert run_small(gt.open(pixels, axes="yxc"), gt.load_model(softly), out, output="classes").complete
    return Result.of(out)


def test_simplified_polygons_are_a_coverage_whatever_the_window(small, monkeypatch):
    exact, simple = rows(small), rows(small, tolerance=3)
    assert simple.column("area").equals(exact.column("area"))
    assert simple.column("class").equals(exact.column("class"))
    assert shapely.coverage_is_valid(shapes(simple))
    assert shapely.is_valid(shapes(simple)).all()
    assert shapely.get_num_coordinates(shapes(simple)).sum() < 0.8 * shapely.get_num_coordinates(shapes(exact)).sum()
    np.testing.assert_array_equal(simple["xmax"].to_numpy(), shapely.bounds(shapes(simple))[:, 2])
    monkeypatch.setattr(module, "WINDOW_SIDE", 1)
    assert rows(small, tolerance=3).combine_chunks().equals(simple.combine_chunks())


def test_what_cannot_be_simplified_is_refused(small, monkeypatch):
    with pytest.raises(UsageError, match="greater than 0, found nan"):
        class_polygons(small, (), float("nan"))
    monkeypatch.setattr(simplify, "MOST_VERTICES", 1000)
    with pytest.raises(UsageError, match="expected at most 1,000 vertices"):
        rows(small, tolerance=2)


def bright(batch):
    return (batch.mean(axis=1, keepdims=True) > 0.5).astype(np.float32)


def half(batch):
    """Half the resolution."""
    return bright(batch)[:, :, ::2, ::2]


def test_a_result_of_half_the_resolution_is_told_in_level_0_pixels(tmp_path):
    pixels = noise((101, 90))
    out = tmp_path / "out"
    tiling = gt.Tiling(tile=32, overlap=8, blend="trim")
    assert run_small(gt.open(pixels, axes="yxc"), gt.load_model(half), out, tiling, output="classes").complete
    result = Result.of(out)
    assert level_0_factors(result) == (2, 2)
    table = rows(result)
    array = level_0(out)
    np.testing.assert_array_equal(filled(table, (2, 0, 0, 0, 2, 0), array), array[:])
    assert sum(table["area"].to_pylist()) == 4 * array.size
    assert table["area"].to_pylist() == shapely.area(shapes(table)).tolist()
    assert json.dumps(polygons_metadata(result).to_json())
