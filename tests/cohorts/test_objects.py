"""Objects of many images: each has its table, and the cohort counts them all."""

import csv
import json

import pytest

from gigatile.cohorts.rows import ImageRow, objects_of
from tests.planted import TILING_WORDS, found, plant, write_models
from tests.small_runs import cli, write_zarr

TASKS = {"detect": "crowd", "instances": "labels"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cohort")
    write_models(folder)
    (folder / "slides").mkdir()
    for seed, (name, size) in enumerate({"a": (200, 260), "b": (150, 140)}.items()):
        write_zarr(folder / "slides" / f"{name}.zarr", plant(size, 25, seed)[0])
    return folder


@pytest.fixture(scope="module", params=TASKS)
def cohort(folder, request):
    """A run over both, and one over the first alone."""
    task = request.param
    words = ("--task", task, "--model", f"models.py:{TASKS[task]}", *TILING_WORDS)
    words = (*words, "--class-names", "rock,tree") if task == "detect" else words
    cli("run", "slides", "-o", f"all-{task}", *words, cwd=folder)
    cli("run", "slides/a.zarr", "-o", f"alone-{task}", *words, cwd=folder)
    return f"all-{task}"


def test_an_image_of_a_cohort_has_the_objects_that_it_has_alone(folder, cohort):
    assert found(folder / cohort / "a") == found(folder / cohort.replace("all", "alone"))


def test_status_and_summary_count_the_objects_of_all_images(folder, cohort):
    each = [json.loads(cli("status", f"{cohort}/{name}", "--json", cwd=folder)[0])["objects"] for name in "ab"]
    status = json.loads(cli("status", cohort, "--json", cwd=folder)[0])
    expected = {
        "total": sum(counts["total"] for counts in each),
        "per_class": {
            name: sum(counts["per_class"].get(name, 0) for counts in each)
            for name in sorted({name for counts in each for name in counts["per_class"]})
        },
        "oversized": sum(counts["oversized"] for counts in each),
    }
    assert status["objects"] == expected
    assert min(counts["total"] for counts in each) > 10
    assert [image["objects"] for image in status["images"]] == each
    text, _ = cli("status", cohort, cwd=folder)
    assert f"objects     {expected['total']}: " in text
    summary = json.loads((folder / cohort / "summary.json").read_text())
    assert summary["totals"]["objects"] == expected
    with (folder / cohort / "summary.csv").open(newline="") as file:
        assert [row["objects"] for row in csv.DictReader(file)] == [str(counts["total"]) for counts in each]


def test_verify_reads_the_tables_of_all_images(folder, cohort):
    found = json.loads(cli("verify", cohort, "--json", cwd=folder)[0])
    assert found["ok"]
    path = folder / cohort / "b" / "objects.parquet"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + b"X")
    try:
        told = json.loads(cli("verify", cohort, "--json", cwd=folder, code=3)[0])
        assert not told["ok"] and "objects.parquet" in told["problems"][0]
    finally:
        words = ("--task", cohort.removeprefix("all-"), "--model", f"models.py:{TASKS[cohort.removeprefix('all-')]}")
        names = ("--class-names", "rock,tree") if "detect" in cohort else ()
        cli("run", "slides", "-o", cohort, *words, *TILING_WORDS, *names, cwd=folder)
    assert path.read_bytes() == content


def test_the_objects_of_each_image_become_a_file_of_the_export(folder, cohort):
    cli("export", cohort, "--to", "geojson", "-o", f"{cohort}-geojson", cwd=folder)
    for name in "ab":
        (file,) = (folder / f"{cohort}-geojson").glob(f"{name}*")
        counts = json.loads((folder / cohort / name / "run.json").read_text())["objects"]
        assert len(json.loads(file.read_text())["features"]) == counts["total"]


def test_images_without_objects_do_not_count_and_classes_come_in_the_order_of_their_numbers():
    def row(name, **per_class):
        counts = {"total": sum(per_class.values()), "per_class": per_class, "oversized": 1}
        return ImageRow(name, name, name, objects=counts)

    assert objects_of([ImageRow("a", "a", "a")]) is None
    rows = [row("a", **{"10": 1, "2": 2}), ImageRow("b", "b", "b"), row("c", **{"1": 5, "10": 3})]
    assert objects_of(rows) == {"total": 11, "per_class": {"1": 5, "2": 2, "10": 4}, "oversized": 2}
    assert list(objects_of(rows)["per_class"]) == ["1", "2", "10"]
