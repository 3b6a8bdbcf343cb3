"""``gigatile export``: what is typed, where it goes, what is refused."""

import json
import shutil
import sys

import geopandas
import obstore
import pytest
import rasterio
import shapely
import zarr

from gigatile.cli import export as command
from gigatile.cli.main import main
from gigatile.exports.export import FORMATS, OBJECT_FORMATS
from tests.exports.samples import NAMES, UTM
from tests.object_store import object_store
from tests.small_runs import cli, tree


def refused(capsys, *words):
    assert main(["export", *map(str, words)]) == 2
    return capsys.readouterr().err


def test_a_run_becomes_the_file_that_is_named(scene, tmp_path, capsys):
    assert main(["export", str(scene), "--to", "cog", "-o", str(tmp_path / "new" / "map.tif")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'new' / 'map.tif'}\n"
    with rasterio.open(tmp_path / "new" / "map.tif") as file:
        assert file.crs.to_epsg() == 32633


def test_dtype_reaches_the_file(probabilities, tmp_path):
    line = ["export", str(probabilities), "--to", "cog", "-o", str(tmp_path / "p.tif"), "--dtype", "uint8"]
    assert main(line) == 0
    with rasterio.open(tmp_path / "p.tif") as file:
        assert set(file.dtypes) == {"uint8"}


def test_the_formats_of_the_command_are_those_that_are_built():
    assert set(command.PIXELS) == set(FORMATS)
    assert set(command.OBJECTS) == set(OBJECT_FORMATS)


@pytest.mark.parametrize("kind", OBJECT_FORMATS)
def test_a_run_with_objects_becomes_the_file_that_is_named(kind, ships, tmp_path, capsys):
    path = tmp_path / f"ships{OBJECT_FORMATS[kind].suffix}"
    assert main(["export", str(ships), "--to", kind, "-o", str(path)]) == 0
    assert capsys.readouterr().out == f"{path}\n"
    if kind == "coco":
        assert len(json.loads(path.read_text())["annotations"]) == 300
    else:
        read = geopandas.read_parquet if kind == "geoparquet" else geopandas.read_file
        assert len(read(path)) == 300


@pytest.mark.parametrize("kind", OBJECT_FORMATS)
def test_an_unfinished_run_with_objects_is_refused(kind, ships, tmp_path, capsys):
    run = copied_unfinished(ships, tmp_path / "run")
    assert "expected a complete run" in refused(capsys, run, "--to", kind, "-o", tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_detections_have_no_pixels_to_export(ships, tmp_path, capsys):
    told = refused(capsys, ships, "--to", "cog", "-o", tmp_path / "a.tif")
    assert "expected a result with pixels, found detections" in told
    assert "geojson" in told


def test_the_table_of_the_run_is_never_replaced(ships, capsys):
    before = (ships / "objects.parquet").read_bytes()
    assert "one inside it" in refused(capsys, ships, "--to", "geoparquet", "-o", ships / "objects.parquet")
    assert (ships / "objects.parquet").read_bytes() == before


def rasterised(frame, shape, transform):
    """The classes of polygons as pixels, 255 where there are none; by GDAL."""
    from rasterio.features import rasterize

    pairs = zip(frame.geometry, frame["class"], strict=True)
    return rasterize(pairs, shape, fill=255, transform=transform, dtype="uint8")


@pytest.mark.parametrize("kind", ["geoparquet", "flatgeobuf"])
def test_a_class_map_becomes_polygons_of_the_same_pixels(kind, fields, tmp_path):
    path = tmp_path / f"map{OBJECT_FORMATS[kind].suffix}"
    assert main(["export", str(fields["scene"]), "--to", kind, "-o", str(path)]) == 0
    read = geopandas.read_parquet if kind == "geoparquet" else geopandas.read_file
    frame = read(path)
    assert frame.crs.to_epsg() == 32633
    classes = zarr.open_array(fields["scene"] / "prediction.zarr" / "0", mode="r")
    assert (rasterised(frame, classes.shape, rasterio.Affine(*UTM)) == classes[:]).all()


def test_a_class_map_of_a_slide_is_annotations_for_qupath(fields, tmp_path):
    path = tmp_path / "map.geojson"
    assert main(["export", str(fields["slide"]), "--to", "geojson", "-o", str(path), "--classes", "bright,nöne"]) == 0
    features = json.loads(path.read_text())["features"]
    assert {each["properties"]["objectType"] for each in features} == {"annotation"}
    classes = {each["properties"]["classification"]["name"]: each["properties"]["classification"] for each in features}
    assert classes[NAMES[1]] == {"name": NAMES[1], "color": [255, 136, 0]}
    assert set(classes) <= {"bright", "nöne"}
    frame = geopandas.GeoDataFrame(
        {"class": [NAMES.index(each["properties"]["classification"]["name"]) for each in features]},
        geometry=[shapely.geometry.shape(each["geometry"]) for each in features],
    )
    truth = zarr.open_array(fields["slide"] / "prediction.zarr" / "0", mode="r")[:]
    truth[(truth != 1) & (truth != 3)] = 255
    assert (rasterised(frame, truth.shape, rasterio.Affine.identity()) == truth).all()


@pytest.mark.parametrize("words", ["bright", "1", "1,bright"])
def test_classes_are_chosen_by_name_or_number(words, fields, tmp_path):
    path = tmp_path / "map.parquet"
    assert main(["export", str(fields["scene"]), "--to", "geoparquet", "-o", str(path), "--classes", words]) == 0
    frame = geopandas.read_parquet(path)
    truth = zarr.open_array(fields["scene"] / "prediction.zarr" / "0", mode="r")[:]
    assert ((rasterised(frame, truth.shape, rasterio.Affine(*UTM)) == 1) == (truth == 1)).all()
    assert set(frame["class"]) == {1}


def test_classes_of_objects_are_chosen_and_keep_their_ids(ships, tmp_path):
    path = tmp_path / "ships.parquet"
    assert main(["export", str(ships), "--to", "geoparquet", "-o", str(path), "--classes", "cell,2"]) == 0
    rows = geopandas.read_parquet(ships / "objects.parquet")
    assert geopandas.read_parquet(path)["id"].tolist() == rows[rows["class"] != 1]["id"].tolist()


@pytest.mark.parametrize(
    ("kind", "words", "told"),
    [
        ("csv", "water", "expected names (cell, odd"),
        ("csv", "99999999999", "--classes: expected names (cell"),
        ("csv", "a,,b", "a comma between"),
        ("cog", "1", "--classes: expected a format of objects, found --to cog"),
    ],
)
def test_classes_that_cannot_be_are_told(kind, words, told, ships, capsys):
    line = (ships, "--to", kind, "-o", ships.parent / "none", "--classes", words)
    assert told in refused(capsys, *line)
    assert not line[4].exists()


def test_simplified_polygons_have_fewer_vertices_and_still_share_edges(fields, tmp_path):
    paths = tmp_path / "exact.parquet", tmp_path / "simple.parquet"
    for path, words in zip(paths, ([], ["--simplify", "20"]), strict=True):
        assert main(["export", str(fields["slide"]), "--to", "geoparquet", "-o", str(path), *words]) == 0
    exact, simple = (geopandas.read_parquet(path) for path in paths)
    assert simple["id"].tolist() == exact["id"].tolist()
    assert shapely.coverage_is_valid(simple.geometry.to_numpy())
    assert shapely.get_num_coordinates(simple.geometry).sum() < shapely.get_num_coordinates(exact.geometry).sum()


@pytest.mark.parametrize(
    ("kind", "words", "told"),
    [
        ("csv", "2", "--simplify: expected a class map, found a table of objects"),
        ("csv", "0", "a number above 0"),
        ("cog", "2", "--simplify: expected a format of objects, found --to cog"),
    ],
)
def test_what_cannot_be_simplified_is_told(kind, words, told, ships, capsys):
    line = (ships, "--to", kind, "-o", ships.parent / "none", "--simplify", words)
    assert told in refused(capsys, *line)
    assert not line[4].exists()


def test_probabilities_are_no_polygons(probabilities, tmp_path, capsys):
    told = refused(capsys, probabilities, "--to", "geojson", "-o", tmp_path / "a.geojson")
    assert "expected a class map, found probabilities" in told


@pytest.mark.parametrize(
    "case", [("pyarrow", "csv", "objects"), ("shapely", "coco", "objects"), ("pyogrio", "flatgeobuf", "geo")]
)
def test_what_is_not_installed_is_named(case, ships, tmp_path, capsys, monkeypatch):
    module, kind, extra = case
    monkeypatch.setitem(sys.modules, module, None)
    told = refused(capsys, ships, "--to", kind, "-o", tmp_path / "a")
    assert f"pip install 'gigatile[{extra}]'" in told
    assert list(tmp_path.iterdir()) == []


def test_dtype_is_for_pixels(ships, tmp_path, capsys):
    told = refused(capsys, ships, "--to", "csv", "-o", tmp_path / "a.csv", "--dtype", "uint8")
    assert "--dtype: expected a format of pixels" in told


def test_a_cohort_of_objects_becomes_a_folder_of_files(cohort, ships, tmp_path, capsys):
    shutil.rmtree(cohort / "b")
    shutil.copytree(ships, cohort / "b")
    shutil.rmtree(cohort / "a")
    shutil.copytree(ships, cohort / "a")
    capsys.readouterr()
    assert main(["export", str(cohort), "--to", "geojson", "-o", str(tmp_path / "found")]) == 0
    assert capsys.readouterr().out.split() == [str(tmp_path / "found" / f"{name}.geojson") for name in "ab"]
    assert len(geopandas.read_file(tmp_path / "found" / "b.geojson")) == 300


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--to", "cog"), "no -o given"),
        (("-o", "a.tif"), "no --to given"),
        (("--to", "cogg", "-o", "a.tif"), "Did you mean 'cog'?"),
        (("--to", "cog", "-o", "s3://bucket/a.tif"), "a file of this machine"),
        (("--to", "cog", "-o", "a.tif", "--dtype", "float64"), "--dtype"),
        (("--to", "cog", "-o", "a.tif", "--dtype", "uint8"), "expected probabilities"),
        (("--to", "cog", "-o", "."), "the name of a file, found a folder"),
    ],
)
def test_a_wrong_line_is_told_what_is_wrong(words, told, scene, here, capsys):
    assert told in refused(capsys, scene, *words)
    assert list(here.iterdir()) == []


def test_what_is_no_run_is_refused(tmp_path, capsys):
    assert "no run.json in it" in refused(capsys, tmp_path, "--to", "cog", "-o", tmp_path / "a.tif")


def test_the_result_itself_is_never_written_into(scene, capsys):
    inside = scene / "prediction.zarr" / "0" / "c" / "a.tif"
    assert "one inside it" in refused(capsys, scene, "--to", "cog", "-o", inside)
    assert not inside.exists()


@pytest.fixture
def foreign(folder):
    """Content of files that are no exports."""
    whole = (folder / "scene.tif").read_bytes()
    return {"scene.tif": whole, "cut.tif": whole[:100], "notes.txt": b"What we found."}


@pytest.mark.parametrize("kind", ["cog", "ome-tiff"])
def test_a_file_that_is_no_earlier_export_is_never_overwritten(kind, foreign, scene, here, capsys):
    for name, content in foreign.items():
        (here / name).write_bytes(content)
        told = refused(capsys, scene, "--to", kind, "-o", here / name)
        assert "an earlier export, which is replaced, found something else" in told
        assert (here / name).read_bytes() == content
    assert {entry.name for entry in here.iterdir()} == set(foreign)


@pytest.mark.parametrize("kind", ["cog", "ome-tiff", "ome-zarr-0.4"])
def test_an_earlier_export_is_replaced(kind, scene, probabilities, tmp_path):
    path = tmp_path / "map"
    assert main(["export", str(probabilities), "--to", kind, "-o", str(path)]) == 0
    before = list(tree(path).values()) if path.is_dir() else path.read_bytes()
    assert main(["export", str(scene), "--to", kind, "-o", str(path)]) == 0
    assert (list(tree(path).values()) if path.is_dir() else path.read_bytes()) != before


def test_a_cohort_is_not_exported_over_its_own_images(cohort, folder, tmp_path, capsys):
    assert main(["export", str(cohort), "--to", "cog", "-o", str(tmp_path)]) == 3
    assert "a: not exported" in capsys.readouterr().err
    assert (tmp_path / "a.tif").read_bytes() == (folder / "scene.tif").read_bytes()


def copied_unfinished(run, path):
    """The same run with a block that failed."""
    shutil.copytree(run, path)
    document = json.loads((path / "run.json").read_text())
    (path / "run.json").write_text(json.dumps({**document, "complete": False}))
    return path


def test_an_unfinished_run_is_refused(scene, tmp_path, capsys):
    run = copied_unfinished(scene, tmp_path / "run")
    assert "expected a complete run" in refused(capsys, run, "--to", "cog", "-o", tmp_path / "a.tif")
    assert not (tmp_path / "a.tif").exists()


def test_a_damaged_shard_is_named_and_leaves_no_file(scene, tmp_path, capsys):
    shutil.copytree(scene, tmp_path / "run")
    shard = tmp_path / "run" / "prediction.zarr" / "0" / "c" / "2" / "2"
    content = bytearray(shard.read_bytes())
    content[20:60] = bytes(40)
    shard.write_bytes(content)
    assert main(["export", str(tmp_path / "run"), "--to", "cog", "-o", str(tmp_path / "a.tif")]) == 3
    assert "0/c/2/2" in capsys.readouterr().err
    assert [entry.name for entry in tmp_path.iterdir()] == ["run"]


@pytest.fixture
def cohort(folder, scene, tmp_path):
    """Two images, of which one is whole."""
    for name in ("a", "b"):
        shutil.copy(folder / "scene.tif", tmp_path / f"{name}.tif")
    (tmp_path / "m.py").write_text("def bright(batch):\n    return batch.mean(axis=1, keepdims=True)\n")
    words = ("--model", f"{tmp_path / 'm.py'}:bright", "-o", tmp_path / "out", "--tile", "128", "--progress", "none")
    assert main(["run", *map(str, (tmp_path / "a.tif", tmp_path / "b.tif", *words))]) == 0
    return tmp_path / "out"


def test_a_cohort_becomes_a_folder_of_files(cohort, tmp_path, capsys):
    capsys.readouterr()
    assert main(["export", str(cohort), "--to", "cog", "-o", str(tmp_path / "maps")]) == 0
    assert capsys.readouterr().out.split() == [str(tmp_path / "maps" / name) for name in ("a.tif", "b.tif")]
    for name in ("a.tif", "b.tif"):
        with rasterio.open(tmp_path / "maps" / name) as file:
            assert file.shape == (610, 700)


def test_images_that_are_not_whole_are_named_and_the_others_exported(cohort, tmp_path, capsys):
    shutil.move(cohort / "a", tmp_path / "away")
    copied_unfinished(tmp_path / "away", cohort / "a")
    assert main(["export", str(cohort), "--to", "cog", "-o", str(tmp_path / "maps")]) == 3
    assert "a: not exported" in capsys.readouterr().err
    assert [entry.name for entry in (tmp_path / "maps").iterdir()] == ["b.tif"]


def test_a_run_in_a_bucket_gives_the_same_file(scene, tmp_path, tmp_path_factory):
    with object_store(tmp_path_factory.mktemp("store")) as server:
        bucket, client = server.make_bucket("runs"), server.client("runs")
        for name, content in tree(scene).items():
            obstore.put(client, f"scene/{name}", content)
        words = ("export", f"{bucket}/scene", "--to", "cog", "-o")
        cli(*words, str(tmp_path / "far.tif"), cwd=tmp_path, **server.env)
    assert main(["export", str(scene), "--to", "cog", "-o", str(tmp_path / "near.tif")]) == 0
    assert (tmp_path / "far.tif").read_bytes() == (tmp_path / "near.tif").read_bytes()


def test_objects_in_a_bucket_give_the_same_file(ships, tmp_path, tmp_path_factory):
    with object_store(tmp_path_factory.mktemp("store")) as server:
        bucket, client = server.make_bucket("runs"), server.client("runs")
        for name, content in tree(ships).items():
            obstore.put(client, f"ships/{name}", content)
        cli("export", f"{bucket}/ships", "--to", "geojson", "-o", "far.geojson", cwd=tmp_path, **server.env)
    assert main(["export", str(ships), "--to", "geojson", "-o", str(tmp_path / "near.geojson")]) == 0
    assert (tmp_path / "far.geojson").read_bytes() == (tmp_path / "near.geojson").read_bytes()
