"""Ctrl-C, SIGTERM and the stop event: blocks in flight are given up, the directory is resumable."""

import os
import signal
import threading
import time

import pytest

from gigatile.errors import Cancelled
from gigatile.events import BlockFinished
from tests.small_runs import (
    BLOCKS,
    TILING_WORDS,
    cli,
    document,
    entries,
    fingerprints,
    finished,
    run_small,
    start_cli,
    temporary_files,
)

WORDS = ("run", "image.zarr", "--model", "models.py:sleepy", *TILING_WORDS, "--progress", "none")


@pytest.fixture(scope="module")
def sleepy(folder, image):
    run_small(image, str(folder / "models.py") + ":sleepy", folder / "sleepy", workers=2)
    return fingerprints(folder / "sleepy")


def wait_for_records(out, count, process):
    deadline = time.monotonic() + 60
    while len(entries(out)) < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.parametrize(
    ("number", "code", "executor"),
    [(signal.SIGINT, 130, "threads"), (signal.SIGTERM, 143, "threads"), (signal.SIGINT, 130, "processes")],
)
def test_a_signal_ends_the_command_and_the_same_command_finishes(  # noqa: PLR0917  fixtures
    tmp_path, folder, sleepy, number, code, executor
):
    words = (*WORDS, "-o", str(tmp_path / "out"), "--executor", executor, "--workers", "2")
    process = start_cli(*words, cwd=folder)
    wait_for_records(tmp_path / "out", 4, process)
    # To all processes of the group, as a terminal does it.
    os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert "Traceback" not in err
    assert "resume" in err
    kept = finished(tmp_path / "out")
    assert 4 <= len(kept) < BLOCKS
    assert not document(tmp_path / "out")["complete"]
    assert not any(entry["status"] == "failed" for entry in entries(tmp_path / "out"))
    cli(*words, cwd=folder)
    assert fingerprints(tmp_path / "out") == sleepy
    assert set(finished(tmp_path / "out").values()) == {1}
    assert temporary_files(tmp_path / "out") == []


@pytest.mark.parametrize("executor", ["threads", "processes"])
def test_the_stop_event_ends_the_run_and_the_same_call_finishes(tmp_path, folder, image, sleepy, executor):
    stop = threading.Event()
    model, out = str(folder / "models.py") + ":sleepy", tmp_path / "out"
    with pytest.raises(Cancelled):
        run_small(
            image, model, out, stop=stop, executor=executor, workers=2,
            on_event=lambda event: isinstance(event, BlockFinished) and stop.set(),
        )  # fmt: skip
    assert 1 <= len(finished(out)) < BLOCKS
    assert temporary_files(out) == []
    assert run_small(image, model, out).complete
    assert fingerprints(out) == sleepy
    assert set(finished(out).values()) == {1}


def test_a_stop_event_that_is_set_before_the_run_does_no_block(tmp_path, folder, image):
    stop = threading.Event()
    stop.set()
    with pytest.raises(Cancelled):
        run_small(image, str(folder / "models.py") + ":bright", tmp_path / "out", stop=stop)
    assert len(finished(tmp_path / "out")) <= 2
    assert not document(tmp_path / "out")["complete"]


def test_a_stop_is_quick_even_inside_a_large_block(tmp_path, folder, image):
    """It does not wait for the block: tiles are the unit of patience."""
    from dataclasses import replace

    from tests.small_runs import TILING

    stop, tiles = threading.Event(), []

    def watch(event):
        if type(event).__name__ == "TilesInferred":
            tiles.append(event.tiles)
            stop.set()

    model = str(folder / "models.py") + ":sleepy"
    with pytest.raises(Cancelled):
        run_small(image, model, tmp_path / "out", replace(TILING, block=480), stop=stop, workers=1, on_event=watch)
    # 0.1 s until the signal is noticed, 0.02 s a tile.
    assert sum(tiles) < 40
    assert finished(tmp_path / "out") == {}
    assert temporary_files(tmp_path / "out") == []
