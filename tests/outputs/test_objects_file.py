"""``objects.parquet``: what independent readers find in it, and that equal rows are equal bytes."""

import io
import json
import re
from dataclasses import replace

import geopandas
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pyproj
import pytest
import shapely

from gigatile.errors import StorageError, UsageError
from gigatile.outputs import objects_file
from gigatile.outputs.objects_file import ObjectsWriter, geometry_columns, store_sink
from gigatile.outputs.objects_schema import ORIENTED, ObjectsMetadata, objects_schema, projjson, stored_metadata
from gigatile.storage.local import LocalStore
from gigatile.units import PixelSize
from tests.objects_tables import COLOURS, HOLE, NAMES, PARTS, UTM, shapes, table, write_table

SLIDE = ObjectsMetadata("instances", (900, 1000), NAMES, COLOURS, PixelSize(0.25, 0.5))
SCENE = ObjectsMetadata("detect", (900, 1000), NAMES, COLOURS, PixelSize(10, 10, "metre"), "EPSG:32633", UTM)


def written(rows, metadata=SLIDE, **how):
    sink = io.BytesIO()
    write_table(sink, rows, metadata, **how)
    return sink.getvalue()


@pytest.fixture(scope="module")
def rows():
    return table(shapes(500, 900), SLIDE)


def test_every_row_comes_back_as_it_was(rows):
    found = pq.read_table(io.BytesIO(written(rows)))
    # NaN is unequal to itself.
    assert found.schema.equals(rows.schema)
    for name in rows.schema.names:
        here, there = found.column(name).to_pylist(), rows.column(name).to_pylist()
        assert repr(here) == repr(there), name


def test_geopandas_reads_shapes_and_no_crs_for_slides(rows):
    frame = geopandas.read_parquet(io.BytesIO(written(rows)))
    assert frame.crs is None
    assert (frame.geometry.to_wkb() == rows.column("geometry").to_pandas()).all()
    assert "bbox" not in frame.columns


def test_geopandas_reads_the_crs_of_scenes_and_coordinates_in_it():
    rows = table(shapes(200, 900), SCENE)
    frame = geopandas.read_parquet(io.BytesIO(written(rows, SCENE)))
    assert frame.crs == pyproj.CRS.from_epsg(32633)
    xmin, ymin, xmax, ymax = (rows.column(name).to_numpy() for name in ("xmin", "ymin", "xmax", "ymax"))
    there = np.stack([500_000 + 10 * xmin, 5_000_000 - 10 * ymax, 500_000 + 10 * xmax, 5_000_000 - 10 * ymin], axis=1)
    assert (frame.bounds.to_numpy() == there).all()


def test_the_covering_lets_readers_skip_what_lies_elsewhere(rows):
    content = written(rows)
    found = geopandas.read_parquet(io.BytesIO(content), bbox=(100, 100, 200, 180))
    whole = geopandas.read_parquet(io.BytesIO(content))
    inside = whole[whole.geometry.apply(lambda shape: shape.envelope.intersects(shapely.box(100, 100, 200, 180)))]
    assert 0 < len(found) < len(rows)
    assert set(found.id) == set(inside.id)
    bbox = [pq.read_metadata(io.BytesIO(content)).row_group(0).column(at) for at in range(14, 19)]
    assert all(column.is_stats_set for column in bbox if column.path_in_schema.startswith("bbox."))


@pytest.mark.parametrize("metadata", [SLIDE, SCENE])
def test_the_metadata_follow_the_rules_of_geoparquet(metadata):
    rows = table(shapes(100, 900), metadata)
    content = written(rows, metadata)
    geo = json.loads(pq.read_schema(io.BytesIO(content)).metadata[b"geo"])
    assert geo["version"] == "1.1.0"
    assert geo["primary_column"] == "geometry"
    column = geo["columns"]["geometry"]
    assert set(column) == {"encoding", "geometry_types", "crs", "edges", "covering", "bbox"}
    assert (column["encoding"], column["edges"]) == ("WKB", "planar")
    kinds = r"^(GeometryCollection|(Multi)?(Point|LineString|Polygon))( Z)?$"
    assert column["geometry_types"] == ["MultiPolygon", "Polygon"]
    assert all(re.match(kinds, kind) for kind in column["geometry_types"])
    assert column["covering"]["bbox"] == {side: ["bbox", side] for side in ("xmin", "ymin", "xmax", "ymax")}
    assert column["bbox"] == list(shapely.total_bounds(shapely.from_wkb(rows.column("geometry").to_numpy())))
    assert (column["crs"] is None) == (metadata is SLIDE)
    if metadata is SCENE:
        assert column["crs"]["$schema"].endswith("projjson.schema.json")
        assert column["crs"]["id"] == {"authority": "EPSG", "code": 32633}
    geometry = pq.ParquetFile(io.BytesIO(content)).schema.column(rows.schema.get_field_index("geometry"))
    assert (geometry.physical_type, geometry.max_repetition_level) == ("BYTE_ARRAY", 0)


def test_counts_and_metadata_come_back(rows):
    content = written(rows, oversized=3)
    metadata, counts, types = stored_metadata(pq.read_schema(io.BytesIO(content)))
    assert metadata == SLIDE
    assert types == ("MultiPolygon", "Polygon")
    numbers = rows.column("class").to_pylist()
    assert (counts.total, counts.oversized) == (500, 3)
    assert counts.per_class == {NAMES[0]: numbers.count(0), NAMES[1]: numbers.count(1), "2": numbers.count(2)}
    assert stored_metadata(pa.schema([])) is None


def test_classes_of_one_name_are_counted_together():
    named = replace(SLIDE, class_names=("N/A", "cell", "N/A"))
    content = io.BytesIO()
    numbers = write_table(content, table(shapes(200, 400.0), named), named)
    assert sum(numbers.per_class.values()) == numbers.total == 200
    assert set(numbers.per_class) == {"N/A", "cell"}


@pytest.mark.parametrize("metadata", [SLIDE, SCENE])
def test_metadata_survive_json(metadata):
    assert ObjectsMetadata.from_json(json.loads(json.dumps(metadata.to_json()))) == metadata


def test_a_table_without_objects_is_a_table():
    content = written(table(shapes(0, 900), SLIDE))
    assert len(geopandas.read_parquet(io.BytesIO(content))) == 0
    _, counts, types = stored_metadata(pq.read_schema(io.BytesIO(content)))
    assert (counts.total, counts.per_class, types) == (0, {}, ())


@pytest.mark.parametrize("batch", [1, 7, 64, 500])
def test_equal_rows_are_equal_bytes_however_they_come(batch, rows, monkeypatch):
    monkeypatch.setattr(objects_file, "ROWS", 64)
    content = written(rows, batch=batch)
    assert content == written(rows, batch=101)
    groups = pq.read_metadata(io.BytesIO(content))
    assert [groups.row_group(at).num_rows for at in range(groups.num_row_groups)] == [64] * 7 + [52]


def test_long_outlines_end_a_row_group_early_and_at_the_same_row(rows, monkeypatch):
    monkeypatch.setattr(objects_file, "GROUP_BYTES", 5000)
    contents = {written(rows, batch=batch) for batch in (1, 13, 500)}
    assert len(contents) == 1
    groups = pq.read_metadata(io.BytesIO(contents.pop()))
    sizes = [len(value) for value in rows.column("geometry").to_pylist()]
    start = 0
    for at in range(groups.num_row_groups):
        stop = start + groups.row_group(at).num_rows
        assert sum(sizes[start : stop - 1]) < 5000
        assert sum(sizes[start:stop]) >= 5000 or stop == len(sizes)
        start = stop
    assert start == len(sizes)


def test_no_more_than_a_row_group_waits_in_memory(monkeypatch, rows):
    monkeypatch.setattr(objects_file, "ROWS", 100)
    with ObjectsWriter(io.BytesIO(), rows.schema, SLIDE) as writer:
        for piece in rows.to_batches(max_chunksize=30):
            writer.write(piece)
            assert sum(each.num_rows for each in writer._waiting) < 100
        writer.finish()


def test_oriented_boxes_have_their_columns():
    assert objects_schema(ORIENTED).names[8:13] == ["cx", "cy", "width", "height", "angle"]


def test_other_columns_are_refused(rows):
    with ObjectsWriter(io.BytesIO(), rows.schema, SLIDE) as writer, pytest.raises(UsageError, match="expected columns"):
        writer.write(rows.drop_columns(["score"]).to_batches()[0])


def test_big_endian_shapes_are_refused(rows):
    turned = [shapely.to_wkb(shape, byte_order=0) for shape in shapely.from_wkb(rows.column("geometry").to_numpy())]
    at = rows.schema.get_field_index("geometry")
    other = rows.set_column(at, rows.schema.field(at), pa.array(turned, pa.binary()))
    with ObjectsWriter(io.BytesIO(), rows.schema, SLIDE) as writer, pytest.raises(UsageError, match="little-endian"):
        writer.write(other.to_batches()[0])


def test_a_store_gets_the_same_bytes_and_only_when_they_are_whole(rows, tmp_path):
    store = LocalStore(tmp_path, False)
    with store.writer("objects.parquet") as target:
        write_table(store_sink(target), rows, SLIDE)
        assert store.size("objects.parquet") is None
        target.finish()
    assert store.read("objects.parquet") == written(rows)


def test_a_full_disk_is_told_as_such(rows):
    class Full:
        def write(self, content):
            raise StorageError("disk", expected="space", found="none")

    with pytest.raises(StorageError, match="expected space"):
        write_table(store_sink(Full()), rows, SLIDE)


def test_a_crs_without_a_place_is_refused():
    with pytest.raises(UsageError, match="a transform with the CRS"):
        ObjectsMetadata("detect", (1, 1), crs="EPSG:32633")


def test_an_unknown_crs_is_told():
    with pytest.raises(UsageError, match="a CRS that PROJ knows"):
        projjson("EPSG:999999")


@pytest.mark.parametrize(("module", "needed"), [("pyproj", "geo"), ("pyarrow", "objects")])
def test_what_is_not_installed_is_named_with_the_command(module, needed, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, module, None)
    with pytest.raises(UsageError, match=re.escape(f"pip install 'gigatile[{needed}]'")):
        projjson("EPSG:4326") if module == "pyproj" else objects_schema()


def test_shapes_are_placed_by_the_whole_transform():
    turned = (0.0, 2.0, 100.0, -3.0, 0.0, 50.0)
    geometry, bbox = geometry_columns(np.array([HOLE, PARTS]), turned)
    shape = shapely.from_wkb(geometry[0].as_py())
    x, y = shapely.get_coordinates(HOLE).T
    assert (shapely.get_coordinates(shape) == np.stack([2 * y + 100, 50 - 3 * x], axis=1)).all()
    assert bbox[0].as_py() == {"xmin": 100.0, "ymin": 23.0, "xmax": 118.0, "ymax": 50.0}


@pytest.mark.parametrize(
    "transform", [None, (10.0, 0.0, 500.0, 0.0, -10.0, 900.0), (10.0, 0.0, 500.0, 0.0, 10.0, 900.0)]
)
def test_shells_turn_as_rfc_7946_wants_whatever_the_transform(transform):
    geometry, _ = geometry_columns(shapely.box([0, 4], [0, 4], [2, 9], [3, 8]), transform)
    shells = shapely.get_exterior_ring(shapely.from_wkb(geometry.to_numpy(zero_copy_only=False)))
    assert shapely.is_ccw(shells).all()
