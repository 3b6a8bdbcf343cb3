"""Of a georeferenced result xarray shows coordinates, rioxarray CRS and transform; verify knows all of it."""

import json
import shutil
import warnings

import numpy as np
import pytest
import rasterio
import rioxarray  # noqa: F401 - gives xarray its .rio
import xarray

import gigatile as gt
from gigatile.outputs import coordinates
from gigatile.outputs.coordinates import CHUNK, coordinate_chunks, coordinate_keys
from gigatile.runs.verify import verify
from tests.exports.samples import UTM, softly, write_scene
from tests.small_runs import TILING, noise, run_small, tree

pytestmark = pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")
LAMBERT = rasterio.CRS.from_string("+proj=laea +lat_0=12.5 +lon_0=-33.25 +x_0=1000 +y_0=2000 +ellps=GRS80 +units=m")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("coordinates")


@pytest.fixture(scope="module")
def scene(folder):
    write_scene(folder / "scene.tif", noise((330, 400)))
    assert run_small(gt.open(folder / "scene.tif"), softly, folder / "scene", TILING).complete
    return folder / "scene"


def opened(run):
    """Level 0 as xarray has it; the coarser levels have other sizes and cannot be in one Dataset with it."""
    names = [path.name for path in (run / "prediction.zarr").iterdir() if path.name.isdecimal() and path.name != "0"]
    assert names
    return xarray.open_zarr(run / "prediction.zarr", consolidated=False, drop_variables=names)


def test_xarray_shows_dimensions_and_the_centres_of_pixels(scene):
    dataset = opened(scene)
    assert dict(dataset.sizes) == {"y": 330, "x": 400}
    assert set(dataset.data_vars) == {"0"}
    a, _, c, _, e, f = UTM
    np.testing.assert_array_equal(dataset.x, c + a * (np.arange(400) + 0.5))
    np.testing.assert_array_equal(dataset.y, f + e * (np.arange(330) + 0.5))
    assert (dataset.x.attrs["standard_name"], dataset.x.attrs["units"]) == ("projection_x_coordinate", "metre")
    picked = dataset["0"].sel(x=c + a * 300.5, y=f + e * 280.5)
    assert picked.values == dataset["0"].values[280, 300]


def test_rioxarray_finds_crs_transform_and_nodata(scene):
    level = opened(scene)["0"]
    assert level.rio.crs.to_epsg() == 32633
    assert level.rio.transform().almost_equals(rasterio.Affine(*UTM), 1e-9)  # it computes it from the axes
    assert level.spatial_ref.attrs["GeoTransform"] == f"500000.1 {UTM[0]!r} 0.0 5000000.3 0.0 -10.2"
    assert level.rio.nodata == 255
    with rasterio.open(scene.parent / "scene.tif") as source:
        assert level.rio.bounds() == pytest.approx(tuple(source.bounds), rel=1e-12)


def test_classes_stay_integers(scene):
    assert opened(scene)["0"].dtype == np.uint8


def test_a_crs_without_a_code_is_found(tmp_path):
    from dataclasses import replace

    from gigatile.outputs.omezarr import create_result
    from tests.outputs.helpers import local
    from tests.outputs.test_omezarr import SCENE, levels

    create_result(
        local(tmp_path / "prediction.zarr"), levels(), replace(SCENE, crs=LAMBERT.to_wkt(version="WKT2_2019"))
    )
    level = opened(tmp_path)["0"]
    assert rasterio.CRS.from_wkt(level.rio.crs.to_wkt()) == LAMBERT
    found = json.loads((tmp_path / "prediction.zarr" / "1" / "zarr.json").read_text())["attributes"]
    assert rasterio.CRS.from_wkt(found["_CRS"]["wkt"]) == LAMBERT


def test_every_level_has_the_crs_in_gdals_words(scene):
    for level in ("0", "1"):
        found = json.loads((scene / "prediction.zarr" / level / "zarr.json").read_text())["attributes"]
        assert found["_CRS"] == {"url": "http://www.opengis.net/def/crs/EPSG/0/32633"}


def test_degrees_are_longitude_and_latitude(tmp_path):
    write_scene(tmp_path / "a.tif", noise((330, 400)), "EPSG:4326", (0.01, 0.0, 12.0, 0.0, -0.01, 47.0))
    run_small(gt.open(tmp_path / "a.tif"), softly, tmp_path / "out", TILING)
    dataset = opened(tmp_path / "out")
    assert (dataset.x.attrs["standard_name"], dataset.x.attrs["units"]) == ("longitude", "degrees_east")
    assert (dataset.y.attrs["standard_name"], dataset.y.attrs["units"]) == ("latitude", "degrees_north")


def test_a_rotated_scene_has_a_transform_and_no_axes(tmp_path):
    rotated = (3.1, 0.7, 1e6, 0.9, -2.3, 2e6)
    write_scene(tmp_path / "a.tif", noise((330, 400)), "EPSG:3857", rotated)
    run_small(gt.open(tmp_path / "a.tif"), softly, tmp_path / "out", TILING)
    dataset = opened(tmp_path / "out")
    assert set(dataset.coords) == {"spatial_ref"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert dataset["0"].rio.transform() == rasterio.Affine(*rotated)
    assert verify(tmp_path / "out").count == 0


def test_what_lies_nowhere_has_no_coordinates(tmp_path):
    run_small(gt.open(noise(), axes="yxc"), softly, tmp_path / "out", TILING)
    assert {path.name for path in (tmp_path / "out" / "prediction.zarr").iterdir()} == {"zarr.json", "0", "1"}


def test_the_bytes_do_not_depend_on_the_run(scene, tmp_path):
    run_small(gt.open(scene.parent / "scene.tif"), softly, tmp_path / "again", TILING)
    assert tree(tmp_path / "again" / "prediction.zarr") == tree(scene / "prediction.zarr")


@pytest.fixture
def own(scene, tmp_path):
    """A run that may be damaged."""
    run_small(gt.open(scene.parent / "scene.tif"), softly, tmp_path / "own", TILING)
    assert verify(tmp_path / "own").count == 0
    return tmp_path / "own"


@pytest.mark.parametrize("key", ["x/c/0", "y/zarr.json", "spatial_ref/zarr.json"])
def test_verify_finds_coordinates_that_changed_or_are_gone_and_a_run_mends_them(own, key):
    path = own / "prediction.zarr" / key
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + b"?")
    (problem,) = verify(own).problems
    assert problem == f"{path}: its SHA-256 differs from the recorded one"
    path.unlink()
    (problem,) = verify(own).problems
    assert problem == f"{path}: missing"
    run_small(gt.open(_source(own)), softly, own, TILING)
    assert path.read_bytes() == whole
    assert verify(own).count == 0


def _source(run):
    return json.loads((run / "run.json").read_text())["input"]["path"]


def test_a_finished_run_of_an_earlier_version_gets_them_and_stays_unharmed(own):
    for name in ("x", "y", "spatial_ref"):
        shutil.rmtree(own / "prediction.zarr" / name)
    document = json.loads((own / "run.json").read_text())
    kept = {key: digest for key, digest in document["metadata"].items() if not key.startswith(coordinates.PREFIXES)}
    (own / "run.json").write_text(json.dumps({**document, "metadata": {**kept, "0/zarr.json": "of another text"}}))
    assert run_small(gt.open(_source(own)), softly, own, TILING).complete
    assert (own / "prediction.zarr" / "x" / "c" / "0").exists()
    assert verify(own).count == 0


@pytest.mark.parametrize("key", ["x/c/1", "spatial_ref/c", "z/zarr.json", "x/notes.txt"])
def test_verify_finds_strangers_among_them(own, key):
    path = own / "prediction.zarr" / key
    path.parent.mkdir(exist_ok=True)
    path.write_text("x")
    (problem,) = verify(own).problems
    assert problem == f"{path}: no block of this result has such a file"


def test_an_unfinished_run_has_them_without_being_a_stranger(own):
    document = json.loads((own / "run.json").read_text())
    (own / "run.json").write_text(json.dumps({**document, "complete": False, "metadata": {}}))
    assert verify(own).count == 0


def test_long_axes_are_cut_and_told_in_full(monkeypatch):
    monkeypatch.setattr(coordinates, "CHUNK", 100)
    chunks = dict(coordinate_chunks((150, 301), UTM))
    assert set(chunks) == {"x/c/0", "x/c/1", "x/c/2", "x/c/3", "y/c/0", "y/c/1"}
    assert set(chunks) < coordinate_keys((150, 301))
    x = np.concatenate([np.frombuffer(chunks[f"x/c/{number}"]) for number in range(4)])
    np.testing.assert_array_equal(x[:301], UTM[2] + UTM[0] * (np.arange(301) + 0.5))
    assert np.isnan(x[301:]).all()
    assert CHUNK == 1 << 16
