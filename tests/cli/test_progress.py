"""Displays fed with recorded streams of events and a clock that stands still until told."""

import io
import json

import pytest
from rich.console import Console

from gigatile.cli import account
from gigatile.cli.memory_gauge import MemoryGauge
from gigatile.cli.progress import JsonDisplay, PlainDisplay, open_display
from gigatile.cli.progress_rich import frame
from gigatile.cli.progress_text import plain_line
from gigatile.cli.snapshot import Snapshot
from gigatile.cli.tally import Tally
from gigatile.events import BlockFinished, PhaseStarted, RunEnded, RunStarted, TilesInferred

BUSY = {"read": 1.0, "infer": 8.0, "blend": 0.5, "write": 0.5}


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def start(display, blocks=10, finished=0, pixels=10_000_000, lanes=1):
    display(RunStarted("out", blocks, finished, pixels, lanes, 2**30))
    display(PhaseStarted("predict", blocks - finished))


def finish(display, block, status="done", error=""):
    display(BlockFinished("predict", f"0/0/{block}", status, 1_000_000, BUSY, 500 * 2**20, error))


def tally(clock, **start_with):
    counted = Tally(clock)
    start(counted.add, **start_with)
    return counted


def test_speed_and_eta_follow_the_blocks(clock):
    counted = tally(clock)
    for block in range(4):
        clock.now += 2
        finish(counted.add, block)
    state = counted.snapshot()
    assert (state.blocks_done, state.blocks_total, state.fraction) == (4, 10, pytest.approx(0.4))
    assert state.pixels_per_second == pytest.approx(500_000)
    assert state.eta_seconds == pytest.approx(12)
    assert state.pixels_done == pytest.approx(4_000_000)


def test_speed_is_that_of_now_not_of_the_whole_run(clock):
    counted = tally(clock, blocks=1000, pixels=1_000_000_000)
    for block in range(100):
        clock.now += 1
        finish(counted.add, block)
    for block in range(100, 110):
        clock.now += 4
        finish(counted.add, block)
    assert counted.snapshot().pixels_per_second == pytest.approx(250_000, rel=0.1)


def test_a_run_that_stands_still_slows_down_on_the_display(clock):
    counted = tally(clock)
    clock.now += 1
    finish(counted.add, 0)
    before = counted.snapshot().pixels_per_second
    clock.now += 30
    assert counted.snapshot().pixels_per_second < before / 10


def test_blocks_slower_than_the_window_still_have_a_speed(clock):
    counted = tally(clock)
    for block in range(3):
        clock.now += 300
        finish(counted.add, block)
    clock.now += 200
    assert counted.snapshot().pixels_per_second > 1_000


def test_tiles_move_the_bar_before_the_first_block_is_done(clock):
    counted = tally(clock)
    clock.now += 1
    counted.add(TilesInferred(4, 500_000))
    assert counted.snapshot().fraction == pytest.approx(0.05)
    assert counted.snapshot().eta_seconds == pytest.approx(19)


def test_progress_never_goes_back_and_never_passes_the_end(clock):
    counted, seen = tally(clock, lanes=2), [0.0]
    for block in range(10):
        for _ in range(4):
            clock.now += 0.5
            counted.add(TilesInferred(1, 300_000))  # 1.2 times the block: tiles at its edge are done twice
            seen.append(counted.snapshot().fraction)
        finish(counted.add, block)
        seen.append(counted.snapshot().fraction)
    assert seen == sorted(seen)
    assert seen[-1] == 1.0
    assert max(seen[:-1]) < 1.0


def test_a_resumed_run_starts_where_the_last_one_stopped(clock):
    counted = tally(clock, finished=6)
    state = counted.snapshot()
    assert (state.blocks_done, state.blocks_total, state.resumed) == (6, 10, 6)
    assert state.fraction == pytest.approx(0.6)
    clock.now += 2
    finish(counted.add, 0)
    assert counted.snapshot().fraction == pytest.approx(0.7)
    assert counted.snapshot().eta_seconds == pytest.approx(6)


def test_the_stage_with_the_most_busy_seconds_is_the_verdict(clock):
    counted = tally(clock)
    assert counted.snapshot().verdict == ""
    finish(counted.add, 0)
    state = counted.snapshot()
    assert state.verdict == "limited by: infer 80 %"
    assert sum(state.shares.values()) == pytest.approx(1)


def test_the_pyramid_is_a_phase_of_its_own(clock):
    counted = tally(clock)
    for block in range(10):
        finish(counted.add, block)
    assert counted.snapshot().fraction == 1.0
    counted.add(PhaseStarted("pyramid", 4))
    clock.now += 1
    counted.add(BlockFinished("pyramid", "1/0/0", "done", 250_000, {"read": 3.0, "write": 1.0}))
    state = counted.snapshot()
    assert (state.phase, state.blocks_done, state.blocks_total, state.fraction) == ("pyramid", 1, 4, 0.25)
    assert state.verdict == "limited by: read 75 %"
    assert (state.pixels_done, state.pixels_total) == (250_000, 0)


def test_failed_blocks_and_the_peak_are_counted(clock):
    counted = tally(clock)
    finish(counted.add, 0, "failed", error="x")
    finish(counted.add, 1, "empty")
    counted.add(RunEnded(False, 1))
    state = counted.snapshot()
    assert (state.failed, state.peak_rss_bytes, state.ended, state.eta_seconds) == (1, 500 * 2**20, True, 0.0)
    assert state.fraction == pytest.approx(0.2)


def test_an_empty_run_shows_something(clock):
    counted = Tally(clock)
    assert plain_line(counted.snapshot(), 0).startswith("starting 0/0 blocks")
    counted.add(RunStarted("out", 4, 4, 100, 1, 0))
    counted.add(PhaseStarted("predict", 0))
    counted.add(RunEnded(True, 0))
    assert counted.snapshot().fraction == 1.0


def test_plain_lines_come_at_most_every_few_seconds_and_at_the_end(clock):
    stream = io.StringIO()
    display = PlainDisplay(stream, clock)
    start(display)
    for block in range(10):
        clock.now += 1
        finish(display, block)
    display(RunEnded(True, 0))
    lines = stream.getvalue().splitlines()
    assert len(lines) == 3
    assert all(line.startswith("gigatile: predict ") for line in lines)
    assert "5/10 blocks, 50 %, 1.00 Mpx/s, ETA 5.0s" in lines[0]
    assert "limited by: infer 80 %" in lines[0]
    assert "of 1.0 GiB" in lines[0]


def test_plain_lines_tell_of_failures_at_once_but_not_of_all(clock):
    stream = io.StringIO()
    display = PlainDisplay(stream, clock)
    start(display, blocks=20)
    for block in range(9):
        finish(display, block, "failed", error="cannot decode\n  tile 3")
    lines = stream.getvalue().splitlines()
    assert len(lines) == account.SHOWN_FAILURES + 1
    assert lines[0] == "gigatile: block 0/0/0 failed: cannot decode tile 3"
    assert "more blocks failed" in lines[-1]


def test_the_end_of_the_prediction_leaves_a_line(clock):
    stream = io.StringIO()
    display = PlainDisplay(stream, clock)
    start(display, blocks=1, pixels=1_000_000)
    clock.now += 2
    finish(display, 0)
    display(PhaseStarted("pyramid", 1))
    assert stream.getvalue() == ("gigatile: predict: 1 of 1 blocks, 1.0 Mpx in 2.0s, limited by: infer 80 %\n")


def test_json_is_one_object_a_line_with_stable_names(clock):
    stream = io.StringIO()
    display = JsonDisplay(stream, clock)
    start(display, blocks=2, finished=1)
    clock.now += 1.5
    finish(display, 1, "failed", error="two\nlines")
    display.notice("stopping")
    display(RunEnded(False, 1))
    records = [json.loads(line) for line in stream.getvalue().splitlines()]
    names = ["run_started", "phase_started", "block_finished", "notice", "run_ended"]
    assert [record["event"] for record in records] == names
    assert records[0] == {
        "event": "run_started", "elapsed": 0.0, "directory": "out", "blocks": 2, "finished": 1,
        "pixels": 10_000_000, "lanes": 1, "budget_bytes": 2**30,
    }  # fmt: skip
    assert records[2]["elapsed"] == 1.5
    assert (records[2]["seconds"], records[2]["error"]) == (BUSY, "two\nlines")
    assert records[3]["message"] == "stopping"


def test_json_tells_of_tiles_at_most_twice_a_second_and_loses_none(clock):
    stream = io.StringIO()
    display = JsonDisplay(stream, clock)
    start(display)
    for _ in range(100):
        clock.now += 0.05
        display(TilesInferred(2, 10))
    display(PhaseStarted("pyramid", 1))
    records = [json.loads(line) for line in stream.getvalue().splitlines()]
    tiles = [record for record in records if record["event"] == "tiles_inferred"]
    assert 2 <= len(tiles) <= 11
    assert (sum(record["tiles"] for record in tiles), sum(record["pixels"] for record in tiles)) == (200, 1000)
    assert records[-1]["event"] == "phase_started"


def shown(state, width=80, notice=""):
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(frame(state, 600 * 2**20, notice))
    return console.file.getvalue()


STATE = Snapshot(
    directory="out", phase="predict", blocks_done=28, blocks_total=64, resumed=16, failed=2, fraction=0.43,
    pixels_done=115.3e6, pixels_total=268_400_000, pixels_per_second=3.42e6, eta_seconds=125,
    peak_rss_bytes=700 * 2**20, budget_bytes=2**30,
    shares={"read": 0.09, "infer": 0.83, "blend": 0.03, "write": 0.05},
)  # fmt: skip


def test_the_rich_frame_shows_all_figures_within_80_columns():
    text = shown(STATE)
    for figure in (
        "predict", "43 %", "28 of 64 (16 by an earlier run)", "ETA 2m 05s", "115.3 of 268.4 Mpx", "3.42 Mpx/s",
        "600.0 MiB of 1.0 GiB", "peak 700.0 MiB", "read 9 %  infer 83 %  blend 3 %  write 5 %",
        "limited by: infer 83 %", "failed    2",
    ):  # fmt: skip
        assert figure in text
    assert max(map(len, text.splitlines())) <= 80
    assert "stopping" in shown(STATE, notice="Ctrl-C: stopping")


def test_the_rich_frame_can_be_drawn_before_anything_happened():
    assert "unknown yet" in shown(Snapshot())
    assert shown(STATE, width=30)


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("kind", "stream", "expected"),
    [
        ("auto", Terminal, "━"),
        ("auto", io.StringIO, "gigatile: predict"),
        ("rich", io.StringIO, "━"),
        ("json", Terminal, '{"event": "run_started"'),
        ("none", Terminal, None),
    ],
)
def test_the_display_asked_for_is_the_one_opened(monkeypatch, kind, stream, expected):
    monkeypatch.setenv("TERM", "xterm")
    out = stream()
    with open_display(kind, out) as display:
        start(display, blocks=1)
        finish(display, 0)
        display(RunEnded(True, 0))
    if expected is None:
        assert out.getvalue() == ""
    else:
        assert expected in out.getvalue()


def test_auto_is_plain_on_a_dumb_terminal(monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    out = Terminal()
    with open_display("auto", out) as display:
        start(display)
        display(RunEnded(True, 0))
    assert "\x1b" not in out.getvalue()
    assert "gigatile: predict" in out.getvalue()


def test_the_rich_display_tells_failures_and_notices_and_ends_on_an_error():
    out = Terminal()
    with pytest.raises(KeyError), open_display("rich", out) as display:
        start(display)
        finish(display, 3, "failed", error="bad bytes")
        display.notice("stopping now")
        raise KeyError
    assert "block 0/0/3 failed: bad bytes" in out.getvalue()
    assert "stopping now" in out.getvalue()
    assert out.getvalue().endswith("\x1b[?25h")  # the cursor is visible again


def test_memory_is_looked_at_once_a_second(clock, monkeypatch):
    # Children of an earlier test may end meanwhile.
    monkeypatch.setattr("psutil.Process.children", lambda self, recursive: [])
    gauge = MemoryGauge(clock)
    first = gauge.bytes()
    ballast = b"x" * (64 * 2**20)
    assert gauge.bytes() == first > 2**20
    clock.now += 1
    assert gauge.bytes() > first + 32 * 2**20
    del ballast


def test_a_reader_that_left_does_not_end_the_run(clock):
    import os

    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as stream:
        display = PlainDisplay(stream, clock)
        display(RunEnded(True, 0))


def test_events_that_are_no_failures_say_nothing(clock):
    assert account.Account(clock).add(RunEnded(True, 0)) == []
