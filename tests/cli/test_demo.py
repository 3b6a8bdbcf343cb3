"""``gigatile demo``: slide, run, picture and figures, and nothing done twice."""

import json
import shlex

import pytest

from gigatile.cli.main import main


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """A small demo that has run once."""
    folder = tmp_path_factory.mktemp("demo")
    assert main(["demo", "-o", str(folder), "--side", "1536", "--progress", "none"]) == 0
    return folder


def test_it_leaves_a_slide_a_complete_result_and_a_picture(shown):
    assert {path.name for path in shown.iterdir()} == {
        "slide-1536.ome.tif",
        "result-1536",
        "overlay-1536.png",
    }
    facts = json.loads((shown / "result-1536" / "run.json").read_text())
    assert facts["complete"]
    assert facts["plan"]["tiling"]["overlap"] == 32
    assert facts["decoded_ratio"] == 1.0
    assert main(["verify", str(shown / "result-1536")]) == 0


def test_a_second_time_it_finds_everything_there_and_claims_no_speed(shown, capsys):
    before = (shown / "slide-1536.ome.tif").stat().st_mtime_ns
    assert main(["demo", "-o", str(shown), "--side", "1536", "--progress", "none"]) == 0
    out, err = capsys.readouterr()
    assert (shown / "slide-1536.ome.tif").stat().st_mtime_ns == before
    assert "the sample slide is there" in err
    assert "blocks were there already" in out
    assert "Mpx/s" not in out
    assert str(shown / "overlay-1536.png") in out


def test_the_command_that_it_prints_is_the_run_itself(shown, capsys):
    main(["demo", "-o", str(shown), "--side", "1536", "--progress", "none"])
    line = next(line for line in capsys.readouterr().err.splitlines() if "running: gigatile run" in line)
    words = shlex.split(line.partition("running: gigatile ")[2])
    result = shown / "result-1536"
    ledger = sorted((path.name, path.stat().st_size) for path in (result / "ledger").rglob("*"))
    assert main([*words, "--progress", "none"]) == 0
    assert sorted((path.name, path.stat().st_size) for path in (result / "ledger").rglob("*")) == ledger


@pytest.mark.parametrize("side", ["0", "1000", "x", "-256"])
def test_a_side_that_cannot_be_made_is_refused(tmp_path, capsys, side):
    assert main(["demo", "-o", str(tmp_path / "new"), "--side", side]) == 2
    assert "--side" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_a_file_in_the_place_of_the_directory_is_refused(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert main(["demo", "-o", str(tmp_path / "file")]) == 2
    assert "directory" in capsys.readouterr().err


def test_a_missing_extra_is_named_before_any_work(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["demo", "-o", str(tmp_path / "new")]) == 2
    assert "pip install 'gigatile[demo]'" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
