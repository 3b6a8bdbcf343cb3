"""info, plan, run, status and verify from end to end, on a small image and a model of a few lines."""

import json
import re
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import tifffile

from gigatile.cli.main import main

MODEL = """
import numpy as np

def bright(batch):
    return batch.mean(axis=1, keepdims=True)

def two(batch):
    return np.concatenate([batch[:, :1], batch[:, 1:2]], axis=1)

def broken(batch):
    if batch.any():
        raise ValueError("no weights for this")
    return batch[:, :1]

def slow(batch):
    import time
    time.sleep(0.1)
    return batch[:, :1]
"""


@pytest.fixture(autouse=True)
def unchanged_warnings(monkeypatch):
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    pixels = np.random.default_rng(3).integers(1, 255, (200, 150, 3), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "slide.tif", pixels, tile=(64, 64), photometric="rgb")
    (tmp_path / "models.py").write_text(MODEL)
    (tmp_path / "pipeline.yaml").write_text("model: models.py:bright\ntile: 64\noverlap: 8\nblock: 64\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def answer(capsys, *words, code=0):
    """stdout of a command that ends with `code`."""
    ended = main(list(words))
    out, err = capsys.readouterr()
    assert ended == code, err
    return out


RUN = ("run", "slide.tif", "-o", "out", "--pipeline", "pipeline.yaml", "--progress", "none")


def test_info_json_has_the_keys_of_the_contract(capsys, folder):
    info = json.loads(answer(capsys, "info", "slide.tif", "--json"))
    assert list(info) == [
        "path", "format", "shape", "dtype", "channels", "levels", "pixel_size", "crs", "transform", "nodata",
        "chunks", "bounds_offset", "pixel_size_from", "notes",
    ]  # fmt: skip
    assert (info["path"], info["shape"], info["dtype"]) == ("slide.tif", [3, 200, 150], "uint8")
    assert info["levels"] == [{"shape": [200, 150], "downsample": 1.0}]
    assert info["chunks"] == [64, 64]
    assert info["crs"] is info["transform"] is info["nodata"] is info["bounds_offset"] is None


def test_info_writes_nan_as_a_word(capsys, folder):
    tags = [(42113, "s", 0, "nan", True)]
    tifffile.imwrite("nan.tif", np.zeros((5, 4), np.float32), extratags=tags)
    assert json.loads(answer(capsys, "info", "nan.tif", "--json"))["nodata"] == "nan"
    assert re.search(r"nodata +nan", answer(capsys, "info", "nan.tif"))


def test_info_says_the_same_to_people(capsys, folder):
    text = answer(capsys, "info", "slide.tif")
    assert "150 x 200 pixels (width x height)" in text
    assert re.search(r"levels +1\n +0 +150 x 200 +1/1 +chunks 64 x 64", text)


def test_plan_tells_the_cost_and_writes_nothing(capsys, folder):
    before = sorted(folder.iterdir())
    words = ("plan", "slide.tif", "-o", "out", "--pipeline", "pipeline.yaml", "--memory", "1GiB")
    plan = json.loads(answer(capsys, *words, "--json"))
    keys = {
        "tiles",
        "blocks",
        "tile",
        "overlap",
        "margin",
        "block",
        "batch",
        "overcompute",
        "memory",
        "disk_bytes",
        "eta_seconds",
    }
    assert keys <= plan.keys()
    assert {"budget_bytes", "projected_bytes", "parts"} <= plan["memory"].keys()
    assert (plan["tile"], plan["overlap"], plan["memory"]["budget_bytes"]) == (64, 8, 2**30)
    assert "tiles" in answer(capsys, *words)
    assert [path for path in sorted(folder.iterdir()) if path.name != "__pycache__"] == before


def test_plan_of_processes_shares_the_memory_among_them(capsys, folder):
    words = ("plan", "slide.tif", "--pipeline", "pipeline.yaml", "--memory", "2GiB", "--workers", "2", "--json")
    threads = json.loads(answer(capsys, *words))["memory"]["projected_bytes"]
    processes = json.loads(answer(capsys, *words, "--executor", "processes"))["memory"]["projected_bytes"]
    assert processes > 1.5 * threads


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--mean", "1,2"), "--mean for slide.tif: expected 1 or 3 numbers"),
        (("--channels", "0,3"), "slide.tif"),
        (("--level", "1"), "level"),
        (("--memory", "1MiB"), "memory: expected"),
        (("--class-names", "a,b,c"), "class_names for"),
        (("--model", "models.py:none"), "none"),
    ],
)
def test_what_does_not_fit_the_image_or_the_model_is_refused(capsys, folder, words, told):
    assert main([*RUN, *words]) == 2
    out, err = capsys.readouterr()
    assert told in err
    assert (out, err.count("\n")) == ("", 1)
    assert not (folder / "out").exists()


def test_run_says_where_the_result_is_and_status_and_verify_agree(capsys, folder):
    out = answer(capsys, *RUN)
    assert str(Path("out") / "prediction.zarr") in out
    status = json.loads(answer(capsys, "status", "out", "--json"))
    assert status["complete"] is True
    blocks = status["blocks"]
    assert blocks["total"] == blocks["done"] + blocks["empty"] > 0
    assert "seam_score" in status
    assert {"tiles_inferred", "decoded_ratio", "overcompute", "peak_rss_bytes", "objects"} <= status.keys()
    assert answer(capsys, "status", "out")
    assert answer(capsys, "verify", "out")
    json.loads(answer(capsys, "verify", "out", "--json"))


def test_the_same_command_again_has_nothing_to_do(capsys, folder):
    answer(capsys, *RUN)
    before = {path: path.stat().st_mtime_ns for path in (folder / "out" / "prediction.zarr").rglob("*")}
    answer(capsys, *RUN)
    after = {path: path.stat().st_mtime_ns for path in (folder / "out" / "prediction.zarr").rglob("*")}
    assert after == before


def test_another_model_in_the_same_directory_is_refused(capsys, folder):
    answer(capsys, *RUN)
    assert main([*RUN, "--model", "models.py:two"]) == 2
    assert "out" in capsys.readouterr().err
    answer(capsys, *RUN, "--model", "models.py:two", "--overwrite")


def test_verify_finds_a_damaged_shard(capsys, folder):
    answer(capsys, *RUN)
    shard = max((path for path in (folder / "out" / "prediction.zarr").rglob("c/*/*")), key=lambda p: p.stat().st_size)
    content = bytearray(shard.read_bytes())
    content[len(content) // 3] ^= 0xFF
    shard.write_bytes(content)
    assert answer(capsys, "verify", "out", code=3)


def test_failed_blocks_are_exit_code_3_and_are_not_complete(capsys, folder):
    answer(capsys, *RUN, "--model", "models.py:broken", code=3)
    status = json.loads(answer(capsys, "status", "out", "--json"))
    assert status["complete"] is False
    assert status["blocks"]["failed"] > 0


def test_json_progress_tells_every_block(capsys, folder):
    assert main([*RUN[:-1], "json"]) == 0
    events = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    started, ended = events[0], events[-1]
    assert (started["event"], ended["event"], ended["complete"]) == ("run_started", "run_ended", True)
    done = [e for e in events if e["event"] == "block_finished" and e["phase"] == "predict"]
    assert len(done) == started["blocks"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_a_directory_that_the_same_command_finishes(capsys, folder, number, code):
    words = [*RUN[:-1], "json", "--model", "models.py:slow", "--workers", "1"]
    script = "import sys; from gigatile.cli.main import main; sys.exit(main(sys.argv[1:]))"
    child = subprocess.Popen(
        [sys.executable, "-c", script, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    seen = []
    for line in child.stderr:
        seen.append(line)
        if '"block_finished"' in line:
            child.send_signal(number)
            break
    started = time.monotonic()
    out, err = child.communicate(timeout=30)
    text = "".join(seen) + err
    assert child.returncode == code, text
    assert out == ""
    assert '"notice"' in text
    assert "can be resumed by the same command" in text
    assert time.monotonic() - started < 30
    status = json.loads(answer(capsys, "status", "out", "--json"))
    assert status["complete"] is False
    assert status["blocks"]["pending"] > 0
    answer(capsys, *RUN, "--model", "models.py:slow")
