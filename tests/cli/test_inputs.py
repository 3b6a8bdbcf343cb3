"""Images of a command line, and status and verify of a cohort's directory."""

import json
import shutil
import subprocess
import sys

import pytest

from gigatile.cli.inputs import check_image, check_run_directory, options_of, read_inputs
from gigatile.cli.main import main
from gigatile.cli.options import read_options, run_parser
from gigatile.cohorts.inputs import InputEntry
from gigatile.cohorts.rows import Blocks
from gigatile.cohorts.summary import Summary
from gigatile.errors import ImageError, RunRefused, UsageError
from gigatile.runs.status import status
from gigatile.storage.local import LocalStore
from tests.small_runs import run_small, write_inputs


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read(line, command="run"):
    return read_options(run_parser(command, "..."), line.split())


# Options


def test_several_images_reach_the_request_as_they_were_typed():
    options = read("s/*.svs a.tif -o out --model m:f b.zarr")
    assert options.images == ("s/*.svs", "a.tif", "b.zarr")
    assert (options.image, options.inputs) == ("", None)
    assert read("a.tif -o out --model m:f").image == "a.tif"


def test_a_list_reaches_the_request():
    options = read("-o out --model m:f --inputs lists/a.csv")
    assert (options.images, options.inputs, options.image) == ((), "lists/a.csv", "")


def test_images_displace_the_list_of_a_pipeline_file(tmp_path):
    file = tmp_path / "pipeline.yaml"
    file.write_text("model: m:f\ninputs: list.csv\n")
    assert read(f"-o out --pipeline {file}").inputs == str(tmp_path / "list.csv")
    assert read(f"a.tif -o out --pipeline {file}").inputs is None
    assert read(f"a.tif --pipeline {file}", "plan").image == "a.tif"


@pytest.mark.parametrize(
    "line", ["a.tif b.tif --model m:f", "--inputs list.csv --model m:f", "a.tif --inputs l.csv --model m:f"]
)
def test_a_plan_is_that_of_one_image(line):
    with pytest.raises(UsageError, match="where it takes one"):
        read(line, "plan")


def test_no_image_and_no_list_is_an_error():
    with pytest.raises(UsageError, match="no image given"):
        read("-o out --model m:f")


def test_options_of_a_row_come_before_those_of_all(here):
    (here / "a.tif").touch()
    (here / "b.tif").touch()
    (here / "list.csv").write_text('image,level,channels,source_pixel_size\na.tif,2,"0,red",0.25\nb.tif,0,1,0.5\n')
    inputs = read_inputs((), "list.csv")
    options = read("-o out --model m:f --inputs list.csv --level 1 --scale 2")
    first, second = (options_of(options, entry) for entry in inputs.entries)
    assert (first.image, first.level, first.channels, first.scale) == ("a.tif", 2, (0, "red"), 2)
    assert (second.image, second.level, second.channels, second.scale) == ("b.tif", 0, (1,), 2)
    assert (first.source_pixel_size, second.source_pixel_size) == (0.25, 0.5)
    plain = options_of(options, InputEntry("c", "c.tif"))
    assert (plain.image, plain.level, plain.channels) == ("c.tif", 1, None)


@pytest.mark.parametrize(
    ("columns", "cells", "told"),
    [
        ("level", "x", "list.csv, line 3: level: expected a whole number"),
        ("channels", '"0,,1"', "list.csv, line 3: channels: expected values"),
        ("source_pixel_size", "-1", "list.csv, line 3: source_pixel_size: expected a number above 0"),
        ("roi", '"0,0,9"', "list.csv, line 3: roi: expected XMIN,YMIN,XMAX,YMAX or FILE.geojson"),
        ("tile", "512", "list.csv, line 1: expected known columns, found 'tile'"),
    ],
)
def test_a_wrong_option_in_a_list_names_its_line(here, columns, cells, told):
    (here / "a.tif").touch()
    (here / "list.csv").write_text(f"image,{columns}\n\na.tif,{cells}\n")
    with pytest.raises(UsageError) as error:
        read_inputs((), "list.csv")
    assert told in str(error.value)


# Images


def test_what_is_one_image_is_taken_and_what_is_not_is_refused(here):
    (here / "a[1].tif").touch()
    (here / "folder").mkdir()
    check_image("a[1].tif")
    check_image("s3://bucket/a.tif")
    with pytest.raises(UsageError, match="found a directory"):
        check_image("folder")
    with pytest.raises(ImageError, match="Did you mean 'folder'"):
        check_image("foldr")


def test_looking_at_words_loads_nothing_heavy():
    heavy = "numpy zarr dask tifffile obstore onnxruntime msgspec pydantic"
    code = "import sys, gigatile.cli.inputs as i; i.read_inputs([sys.argv[1]], None); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, __file__], capture_output=True, text=True, check=True)
    assert set(heavy.split()) & set(done.stdout.split()) == set()


# Directories


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A cohort of one image that is done and one that could not be read."""
    folder = write_inputs(tmp_path_factory.mktemp("cohort"))
    root = folder / "cohort"
    run_small(str(folder / "image.zarr"), str(folder / "conv.onnx"), root / "a")
    summary = Summary(LocalStore(root), ())
    summary.register([InputEntry("a", "a.tif"), InputEntry("b", "b.tif")])
    summary.begin("a", Blocks(20), 1)
    summary.finish("a", status(root / "a"))
    summary.give_up("b", "failed", "b.tif: expected a TIFF.")
    summary.close()
    return root


def answer(capsys, *words, code=0):
    ended = main(list(words))
    out, err = capsys.readouterr()
    assert ended == code, err
    return out


def test_of_a_run_directory_its_result_is_the_image(runs):
    with pytest.raises(UsageError, match=r"run directory.*prediction\.zarr"):
        check_image(str(runs / "a"))


def test_the_directory_of_a_run_is_told_from_that_of_a_cohort(runs):
    assert check_run_directory(str(runs)) == "cohort"
    assert check_run_directory(str(runs / "a")) == "run"
    for other in (runs / "a" / "ledger", runs / "none", runs / "summary.csv"):
        with pytest.raises(RunRefused):
            check_run_directory(str(other))


def test_status_takes_a_cohort_and_each_of_its_images(runs, capsys):
    found = json.loads(answer(capsys, "status", str(runs), "--json"))
    one = json.loads(answer(capsys, "status", str(runs / "a"), "--json"))
    assert one.keys() <= found.keys()
    assert (found["complete"], one["complete"]) == (False, True)
    assert found["blocks"] == one["blocks"]
    assert [image["state"] for image in found["images"]] == ["complete", "failed"]
    assert "1 complete, 0 partial, 1 failed" in answer(capsys, "status", str(runs))


def test_verify_takes_a_cohort_and_ends_with_3_where_anything_is_damaged(runs, tmp_path, capsys):
    copy = shutil.copytree(runs, tmp_path / "copy")
    assert json.loads(answer(capsys, "verify", str(copy), "--json"))["ok"] is True
    assert "nothing wrong" in answer(capsys, "verify", str(copy))
    shard = max((path for path in copy.rglob("prediction.zarr/0/c/*/*")), key=lambda path: path.stat().st_size)
    shard.write_bytes(shard.read_bytes()[:-5])
    assert json.loads(answer(capsys, "verify", str(copy), "--json", code=3))["problems"][0].startswith("a: ")
    assert "1 problems" in answer(capsys, "verify", str(copy), code=3)
    assert "1 partial" in answer(capsys, "status", str(copy))


def test_a_damaged_summary_is_one_paragraph_and_exit_code_2(runs, tmp_path, capsys):
    copy = shutil.copytree(runs, tmp_path / "copy")
    (copy / "summary.json").write_text('{"images": 3}')
    for command in ("status", "verify"):
        assert main([command, str(copy)]) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1
        assert "summary.json" in err
