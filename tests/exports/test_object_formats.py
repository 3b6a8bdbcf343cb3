"""Objects in every format, read by programs that share no code with the exports."""

import csv
import io
import json

import geojson
import geopandas
import numpy as np
import pandas
import pyarrow.parquet as pq
import pyogrio
import pyproj
import pytest
import shapely
from pycocotools.coco import COCO

from gigatile.errors import RunRefused, UsageError
from gigatile.exports.coco import export_coco
from gigatile.exports.csv_table import export_csv
from gigatile.exports.flatgeobuf import export_flatgeobuf
from gigatile.exports.geojson import export_geojson
from gigatile.exports.geoparquet import export_geoparquet
from gigatile.exports.object_table import ObjectTable, object_table
from gigatile.outputs.objects_schema import ObjectsMetadata, stored_metadata
from tests.objects_tables import COLOURS, NAMES, UTM, shapes, table

ALL = {
    "a.geojson": export_geojson,
    "a.geojsonl": export_geojson,
    "a.parquet": export_geoparquet,
    "a.fgb": export_flatgeobuf,
    "a.csv": export_csv,
    "a.json": export_coco,
}


def source(run):
    """The rows of a run as they were written."""
    return pq.read_table(run / "objects.parquet")


def geometry_of(rows):
    return shapely.from_wkb(rows.column("geometry").to_numpy())


def equal_shapes(some, others):
    return bool(shapely.equals(np.asarray(some), np.asarray(others)).all())


def without_nan(rows, name):
    """A column, NaN and null as None."""
    return [None if pandas.isna(value) else value for value in rows.column(name).to_pylist()]


@pytest.fixture
def exported(cells, ships, tmp_path):
    def export(run, name):
        ALL[name](object_table(str({"cells": cells, "ships": ships}[run])), tmp_path / name)
        return tmp_path / name

    return export


def strict(text):
    """JSON without the NaN and Infinity that Python's reader takes."""

    def refuse(word):
        raise AssertionError(word)

    return json.loads(text, parse_constant=refuse)


# GeoJSON


def test_geojson_of_a_slide_is_what_qupath_writes_and_reads(exported, cells):
    document = strict(exported("cells", "a.geojson").read_text())
    rows = source(cells)
    assert "crs" not in document
    assert geojson.loads(json.dumps(document)).is_valid
    numbers = rows.column("class").to_pylist()
    for at, feature in enumerate(document["features"]):
        assert feature["id"] == at + 1
        about = feature["properties"]
        assert set(about) <= {"objectType", "classification", "measurements"}
        assert about["objectType"] == "detection"
        # QuPath refuses a classification without a colour.
        named = {0: NAMES[0], 1: NAMES[1], 2: "class 2"}
        assert about["classification"]["name"] == named[numbers[at]]
        assert all(0 <= part <= 255 for part in about["classification"]["color"])
        assert len(about["classification"]["color"]) == 3
        assert None not in about["measurements"].values()
        assert about["measurements"]["area"] == rows.column("area")[at].as_py()
    assert document["features"][numbers.index(0)]["properties"]["classification"]["color"] == [255, 136, 0]
    missing = [at for at, score in enumerate(rows.column("score").to_pylist()) if score is None]
    assert missing
    assert all("score" not in document["features"][at]["properties"]["measurements"] for at in missing)
    shapes_read = [shapely.geometry.shape(feature["geometry"]) for feature in document["features"]]
    assert equal_shapes(shapes_read, geometry_of(rows))
    assert {feature["geometry"]["type"] for feature in document["features"]} == {"Polygon", "MultiPolygon"}


def test_geojson_of_a_scene_is_in_its_crs_and_flat_for_gis(exported, ships):
    path = exported("ships", "a.geojson")
    frame, rows = geopandas.read_file(path, engine="pyogrio"), source(ships)
    assert frame.crs == pyproj.CRS.from_epsg(32633)
    assert equal_shapes(frame.geometry, geometry_of(rows))
    assert list(frame["class"]) == rows.column("class").to_pylist()
    assert frame["class_name"].isna().tolist() == [name is None for name in rows.column("class_name").to_pylist()]
    scores = np.array(without_nan(rows, "score"), float)
    np.testing.assert_allclose(frame["score"].to_numpy(float), scores, rtol=1e-6)
    assert strict(path.read_text())["features"][0]["properties"].keys() == {"class", "class_name", "score"}


def test_shells_of_geojson_run_as_rfc_7946_wants_them(exported):
    for run in ("cells", "ships"):
        for feature in json.loads(exported(run, "a.geojson").read_text())["features"]:
            for part in shapely.get_parts(shapely.geometry.shape(feature["geometry"])):
                assert shapely.is_ccw(part.exterior)
                assert not any(shapely.is_ccw(list(part.interiors)))


def test_lines_are_features_one_by_one_and_in_wgs_84(exported, ships):
    path = exported("ships", "a.geojsonl")
    lines = path.read_text().splitlines()
    assert len(lines) == 300
    assert all(geojson.loads(line).is_valid for line in lines)
    frame = geopandas.read_file(path, engine="pyogrio")
    assert frame.crs.to_epsg() == 4326
    there = geopandas.GeoSeries(geometry_of(source(ships)), crs="EPSG:32633").to_crs("OGC:CRS84")
    assert shapely.hausdorff_distance(frame.geometry.to_numpy(), there.to_numpy()).max() < 1e-8
    assert all(strict(line)["type"] == "Feature" for line in lines)


def test_what_has_no_longitude_and_latitude_is_refused_for_lines_and_kept_by_the_others(tmp_path):
    # A disc of the earth seen from 36,000 km: its corners are sky.
    full_disc = pyproj.CRS.from_proj4("+proj=geos +h=35785831 +lon_0=0 +sweep=y").to_wkt()
    disc = ObjectsMetadata("detect", (100, 100), crs=full_disc, transform=(110e3, 0.0, -5.5e6, 0.0, -110e3, 5.5e6))
    rows = table(np.array([shapely.box(0, 0, 2, 2), shapely.box(50, 50, 52, 52)]), disc, measured=False)
    with pytest.raises(UsageError, match="1 that lie where the CRS has none"):
        export_geojson(of_rows(rows, disc), tmp_path / "a.geojsonl")
    assert list(tmp_path.iterdir()) == []
    export_flatgeobuf(of_rows(rows, disc), tmp_path / "a.fgb")
    assert len(geopandas.read_file(tmp_path / "a.fgb")) == 2


def test_lines_of_a_slide_are_in_pixels(exported, cells):
    lines = exported("cells", "a.geojsonl").read_text().splitlines()
    found = [shapely.geometry.shape(json.loads(line)["geometry"]) for line in lines]
    assert equal_shapes(found, geometry_of(source(cells)))


def of_rows(rows, metadata, types=("Polygon",)):
    """A table that was not written to a file."""
    return ObjectTable("table", "image.tif", metadata, rows.schema, types, 0, rows.to_batches)


FINE = ObjectsMetadata("detect", (1000, 1000))


def fine_shapes():
    """Boxes with places such as models give."""
    places = np.random.default_rng(3).uniform(0, 900, (50, 2)) + 1e-7
    return shapely.box(*places.T, *(places + np.pi).T)


def longest_number(text):
    """Characters of the longest number of a JSON document."""
    numbers = []
    json.loads(text, parse_float=lambda word: numbers.append(word) or 0.0)
    return max(map(len, numbers))


@pytest.mark.parametrize(("writer", "name"), [(export_geojson, "a.geojson"), (export_coco, "a.json")])
def test_numbers_of_json_are_short_and_a_thousandth_of_a_pixel_near(writer, name, tmp_path):
    boxes = fine_shapes()
    writer(of_rows(table(boxes, FINE, measured=False), FINE), tmp_path / name)
    text = (tmp_path / name).read_text()
    assert longest_number(text) <= len("0.12345678")
    document = json.loads(text)
    if name == "a.json":
        corners = [np.reshape(each["segmentation"][0], (-1, 2)) for each in document["annotations"]]
        found = np.array([shapely.Polygon(points) for points in corners])
    else:
        found = np.array([shapely.geometry.shape(each["geometry"]) for each in document["features"]])
    assert shapely.hausdorff_distance(found, boxes).max() < 0.001


def test_degrees_have_as_many_digits_as_a_thousandth_of_a_pixel_needs(tmp_path):
    degrees = ObjectsMetadata(
        "detect", (1000, 1000), crs="EPSG:4326", transform=(8.9e-5, 0.0, 11.3, 0.0, -8.9e-5, 47.1)
    )
    rows = table(fine_shapes(), degrees, measured=False)
    export_geojson(of_rows(rows, degrees), tmp_path / "a.geojson")
    frame = geopandas.read_file(tmp_path / "a.geojson", engine="pyogrio")
    assert frame.crs.to_epsg() == 4326
    assert shapely.hausdorff_distance(frame.geometry.to_numpy(), geometry_of(rows)).max() < 8.9e-8
    assert longest_number((tmp_path / "a.geojson").read_text()) <= len("11.12345678")


def test_a_crs_without_a_code_is_refused_for_geojson_and_taken_by_the_others(tmp_path):
    wkt = pyproj.CRS.from_proj4("+proj=laea +lat_0=52 +lon_0=11 +ellps=GRS80 +units=m").to_wkt()
    strange = ObjectsMetadata("detect", (1000, 1000), crs=wkt, transform=UTM)
    rows = table(fine_shapes(), strange, measured=False)
    with pytest.raises(UsageError, match="a CRS with a code"):
        export_geojson(of_rows(rows, strange), tmp_path / "a.geojson")
    assert list(tmp_path.iterdir()) == []
    export_flatgeobuf(of_rows(rows, strange), tmp_path / "a.fgb")
    assert "Lambert Azimuthal" in geopandas.read_file(tmp_path / "a.fgb").crs.to_wkt()
    export_geojson(of_rows(rows, strange), tmp_path / "a.ndjson")
    assert geopandas.read_file(f"GeoJSONSeq:{tmp_path / 'a.ndjson'}").crs.to_epsg() == 4326


def test_wkt_of_a_crs_that_has_a_code_is_named_by_it(tmp_path):
    known = ObjectsMetadata("detect", (1000, 1000), crs=pyproj.CRS.from_epsg(25832).to_wkt(), transform=UTM)
    export_geojson(of_rows(table(fine_shapes(), known), known), tmp_path / "a.geojson")
    assert geopandas.read_file(tmp_path / "a.geojson").crs.to_epsg() == 25832


# GeoParquet, FlatGeobuf, CSV


@pytest.mark.parametrize("run", ["cells", "ships"])
def test_geoparquet_is_the_table_itself(run, exported, request):
    path, rows = exported(run, "a.parquet"), source(request.getfixturevalue(run))
    found = pq.read_table(path)
    assert found.schema.equals(rows.schema)
    assert repr(found.to_pydict()) == repr(rows.to_pydict())
    metadata, counts, _ = stored_metadata(found.schema)
    assert (metadata, counts) == stored_metadata(rows.schema)[:2]
    assert len(geopandas.read_parquet(path)) == 300


@pytest.mark.parametrize("run", ["cells", "ships"])
def test_flatgeobuf_has_all_rows_and_a_spatial_index(run, exported, request):
    path, rows = exported(run, "a.fgb"), source(request.getfixturevalue(run))
    about = pyogrio.read_info(path)
    assert (about["features"], about["geometry_type"]) == (300, "MultiPolygon")
    assert about["capabilities"]["fast_spatial_filter"]
    frame = geopandas.read_file(path).sort_values("id")
    assert (frame.crs is None) if run == "cells" else (frame.crs.to_epsg() == 32633)
    assert frame["id"].tolist() == list(range(1, 301))
    assert equal_shapes(frame.geometry, geometry_of(rows))
    for name in ("class", "xmin", "ymax"):
        assert frame[name].tolist() == rows.column(name).to_pylist()
    xmin, ymin, xmax, ymax = geometry_of(rows)[7].bounds
    some = geopandas.read_file(path, bbox=(xmin, ymin, xmax, ymax))
    assert 8 in some["id"].tolist()
    assert len(some) < 30


def test_csv_has_all_columns_and_shapes_as_wkt(exported, cells):
    path, rows = exported("cells", "a.csv"), source(cells)
    frame = pandas.read_csv(path)
    assert frame.columns.tolist() == [name for name in rows.schema.names if name != "bbox"]
    assert equal_shapes(shapely.from_wkt(frame["geometry"]), geometry_of(rows))
    assert frame["class_name"].dropna().unique().tolist() == list(
        dict.fromkeys(filter(None, without_nan(rows, "class_name")))
    )
    for name in ("xmin", "area", "mean_red", "std_green"):
        assert [None if pandas.isna(value) else value for value in frame[name]] == without_nan(rows, name)
    fields = list(csv.reader(io.StringIO(path.read_text())))
    assert {len(line) for line in fields} == {len(rows.schema.names) - 1}
    assert "nan" not in path.read_text().lower()


def test_csv_opens_as_a_layer(exported, ships):
    frame = geopandas.read_file(exported("ships", "a.csv"), engine="pyogrio", GEOM_POSSIBLE_NAMES="geometry")
    assert equal_shapes(frame.geometry, geometry_of(source(ships)))


# COCO


@pytest.fixture
def coco(exported, capsys):
    def read(run):
        path = exported(run, "a.json")
        strict(path.read_text())
        return COCO(str(path))

    return read


# pycocotools 2.0.11 has not heard of numpy 2 yet.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("run", ["cells", "ships"])
def test_coco_masks_are_the_pixels_of_the_outlines(run, coco, request):
    document, rows = coco(run), source(request.getfixturevalue(run))
    yy, xx = np.mgrid[:610, :700] + 0.5
    shapes_px = geometry_of(rows)
    if run == "ships":
        back = np.array([0.1, -0.1])
        shapes_px = shapely.transform(shapes_px, lambda xy: (xy - np.array([UTM[2], UTM[5]])) * back)
    kinds = set()
    for at in range(0, 300, 7):
        annotation = document.anns[at + 1]
        kinds.add(type(annotation["segmentation"]))
        truth = shapely.contains_xy(shapes_px[at], xx, yy)
        assert (document.annToMask(annotation).astype(bool) == truth).all()
        assert annotation["area"] == truth.sum()
        box = [rows.column(name)[at].as_py() for name in ("xmin", "ymin", "xmax", "ymax")]
        assert annotation["bbox"] == [box[0], box[1], box[2] - box[0], box[3] - box[1]]
    assert kinds == {list, dict}, "with holes and without"


def test_coco_names_image_and_categories(coco, cells):
    document, rows = coco("cells"), source(cells)
    assert document.imgs[1]["file_name"] == "slide.ome.tif"
    assert (document.imgs[1]["height"], document.imgs[1]["width"]) == (610, 700)
    assert {number: each["name"] for number, each in document.cats.items()} == {0: NAMES[0], 1: NAMES[1], 2: "class 2"}
    assert [each["category_id"] for each in document.dataset["annotations"]] == rows.column("class").to_pylist()
    for annotation, score in zip(document.dataset["annotations"], rows.column("score").to_pylist(), strict=True):
        assert annotation.get("score") == (None if score is None else pytest.approx(score, rel=1e-6))


# All of them


@pytest.mark.parametrize("name", ALL)
def test_a_run_without_objects_gives_an_empty_file_that_opens(name, tmp_path):
    rows = table(shapes(0, 600), FINE, measured=False)
    ALL[name](of_rows(rows, FINE, ()), tmp_path / name)
    if name == "a.json":
        assert COCO(str(tmp_path / name)).anns == {}
    elif name == "a.geojsonl":
        assert (tmp_path / name).read_bytes() == b""
    elif name == "a.geojson":
        assert geojson.loads((tmp_path / name).read_text()).is_valid
    elif name == "a.csv":
        assert len(pandas.read_csv(tmp_path / name)) == 0
    else:
        read = geopandas.read_parquet if name == "a.parquet" else geopandas.read_file
        assert len(read(tmp_path / name)) == 0


@pytest.mark.parametrize("name", ALL)
def test_an_earlier_export_is_replaced_and_nothing_else(name, exported, tmp_path):
    path = exported("ships", name)
    before = path.read_bytes()
    exported("cells", name)
    assert path.read_bytes() != before
    for content in (b"What we found.", before[3:], b'{"type":"FeatureCollection","features":[]}', b"id,class\n1,2\n"):
        path.write_bytes(content)
        with pytest.raises(RunRefused, match="an earlier export, which is replaced"):
            exported("ships", name)
        assert path.read_bytes() == content


def test_the_table_of_another_run_is_no_earlier_export(exported, cells, tmp_path):
    content = (cells / "objects.parquet").read_bytes()
    (tmp_path / "a.parquet").write_bytes(content)
    with pytest.raises(RunRefused, match="an earlier export"):
        exported("ships", "a.parquet")
    assert (tmp_path / "a.parquet").read_bytes() == content


@pytest.mark.parametrize("name", ALL)
def test_equal_runs_are_equal_files(name, exported):
    first = exported("cells", name).read_bytes()
    assert exported("cells", name).read_bytes() == first


@pytest.mark.parametrize("name", ALL)
def test_what_fails_on_the_way_leaves_no_file_and_its_own_error(name, tmp_path):
    rows = table(shapes(100, 600), FINE, measured=False)

    def broken():
        yield rows.to_batches()[0]
        raise RunRefused("here", expected="more", found="damage")

    with pytest.raises(RunRefused, match="here: expected more, found damage"):
        ALL[name](ObjectTable("t", "i", FINE, rows.schema, (), 0, broken), tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_colours_are_those_of_the_run(exported):
    document = json.loads(exported("cells", "a.geojson").read_text())
    seen = {tuple(each["properties"]["classification"]["color"]) for each in document["features"]}
    assert {tuple(bytes.fromhex(colour[1:])) for colour in COLOURS} < seen
    assert len(seen) == 3


def test_what_a_killed_export_left_is_removed(exported, tmp_path):
    left = tmp_path / ".a.fgb.export.tmp"
    left.mkdir()
    (left / "objects.fgb").write_bytes(b"half of it")
    (left / "a_temp.fgb").write_bytes(b"and what GDAL had beside it")
    assert len(geopandas.read_file(exported("ships", "a.fgb"))) == 300
    assert [path.name for path in tmp_path.iterdir()] == ["a.fgb"]


def test_scenes_without_a_crs_are_no_slides(tmp_path):
    nowhere = ObjectsMetadata("detect", (1000, 1000), NAMES, transform=UTM)
    rows = table(shapes(20, 600), nowhere, measured=False)
    export_geojson(of_rows(rows, nowhere), tmp_path / "a.geojson")
    document = json.loads((tmp_path / "a.geojson").read_text())
    assert "crs" not in document
    assert "class_name" in document["features"][0]["properties"]
    found = [shapely.geometry.shape(each["geometry"]) for each in document["features"]]
    assert equal_shapes(found, geometry_of(rows))
