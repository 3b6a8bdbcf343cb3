"""Cohorts whose images, list and results lie in a bucket, over the wire."""

import json
import os
import secrets

import pytest

from gigatile.cli.inputs import check_run_directory
from gigatile.cli.main import main
from gigatile.cohorts.inputs import InputEntry, resolve_inputs
from gigatile.cohorts.rows import Blocks
from gigatile.cohorts.status import cohort_status, cohort_verify
from gigatile.cohorts.summary import Summary
from gigatile.errors import ImageError, RunRefused
from gigatile.runs.status import status
from gigatile.storage.open import open_store
from tests.object_store import object_store


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with object_store(tmp_path_factory.mktemp("object-store")) as found:
        yield found


@pytest.fixture
def bucket(server, monkeypatch):
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in server.env.items():
        monkeypatch.setenv(name, value)
    return server.make_bucket(f"t-{secrets.token_hex(6)}")


def put(bucket, *keys):
    store = open_store(bucket)
    for key in keys:
        store.write(key, b"x")


@pytest.fixture
def cohort(bucket, reference):
    """One finished run, one whose client died, one image that could not be read."""
    store = open_store(f"{bucket}/results/cohort")
    summary = Summary.open(store)
    summary.register([InputEntry(name, f"{bucket}/slides/{name}.svs") for name in ("a", "b", "bad")])
    for name in "ab":
        for path in (path for path in reference.rglob("*") if path.is_file()):
            store.write(f"{name}/{path.relative_to(reference)}", path.read_bytes())
        summary.begin(name, Blocks(20), 132_000)
    summary.finish("a", status(f"{store.name}/a"))
    summary.give_up("bad", "failed", "no TIFF")
    summary.close()
    return store


@pytest.mark.parametrize("word", ["slides/*", "slides/", "slides", "slides/s?*.*"])
def test_a_pattern_and_a_prefix_are_the_images_below_them_in_natural_order(bucket, word):
    put(bucket, "slides/s10.svs", "slides/s9.tif", "slides/sz.ome.zarr/zarr.json", "slides/notes.txt", "slides/d/x.svs")
    found = resolve_inputs([f"{bucket}/{word}"])
    assert found.is_cohort
    assert [(entry.name, entry.image) for entry in found.entries] == [
        ("s9", f"{bucket}/slides/s9.tif"),
        ("s10", f"{bucket}/slides/s10.svs"),
        ("sz", f"{bucket}/slides/sz.ome.zarr"),
    ]


def test_a_zarr_and_an_object_are_one_image_each(bucket):
    put(bucket, "group/zarr.json", "plain")
    for key in ("group", "plain"):
        found = resolve_inputs([f"{bucket}/{key}"])
        assert (found.is_cohort, [entry.name for entry in found.entries]) == (False, [key])


def test_a_prefix_without_images_is_an_error(bucket):
    put(bucket, "slides/notes.txt")
    for word in ("slides/", "slides/*", "none/", "*.svs"):
        with pytest.raises(ImageError, match="expected images there, found none"):
            resolve_inputs([f"{bucket}/{word}"])


def test_a_list_in_a_bucket_names_images_beside_it(bucket):
    open_store(bucket).write("lists/l.csv", b"image,name\n../a.svs,one\ndeep/b.svs,two\n")
    found = resolve_inputs([], f"{bucket}/lists/l.csv")
    assert [(entry.name, entry.image) for entry in found.entries] == [
        ("one", f"{bucket}/a.svs"),
        ("two", f"{bucket}/lists/deep/b.svs"),
    ]
    open_store(bucket).write("lists/out.csv", b"image\n../../other-bucket/a.svs\n")
    with pytest.raises(ImageError, match=r"line 2: .* one that leaves it"):
        resolve_inputs([], f"{bucket}/lists/out.csv")
    with pytest.raises(ImageError, match=r"none\.csv"):
        resolve_inputs([], f"{bucket}/lists/none.csv")


def test_status_and_verify_of_a_bucket_tell_what_the_ledgers_know(cohort):
    assert [row.state for row in cohort_status(cohort).rows] == ["complete", "complete", "failed"]
    assert cohort_verify(cohort).count == 0
    shard = max((entry for entry in cohort.entries("b/prediction.zarr/0/c/")), key=lambda entry: entry.nbytes)
    cohort.write(shard.key, (cohort.read(shard.key) or b"")[:-1])
    assert cohort_verify(cohort).problems[0].startswith("b: ")
    assert [row.state for row in cohort_status(cohort).rows] == ["complete", "partial", "failed"]


def test_the_commands_take_the_url_of_a_cohort_and_of_one_of_its_images(cohort, capsys):
    assert check_run_directory(cohort.name) == "cohort"
    assert check_run_directory(f"{cohort.name}/a") == "run"
    with pytest.raises(RunRefused):
        check_run_directory(f"{cohort.name}/none")
    assert main(["status", cohort.name, "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["images"]) == 3
    assert main(["verify", cohort.name]) == 0
    assert "nothing wrong" in capsys.readouterr().out


def test_a_prefix_of_something_else_is_refused(bucket):
    put(bucket, "one/run.json", "one/ledger/x", "other/photos/x.jpg")
    for key in ("one", "other"):
        with pytest.raises(RunRefused):
            Summary.open(open_store(f"{bucket}/{key}"))
