"""Displays of cohorts and of warnings, fed with recorded streams of events and a clock that stands still until told."""

import io
import json
import re

import pytest
from rich.cells import cell_len
from rich.console import Console

from gigatile.cli import account
from gigatile.cli.account import Account, Tone
from gigatile.cli.meter import Meter
from gigatile.cli.progress import JsonDisplay, PlainDisplay, open_display
from gigatile.cli.progress_rich import frame, shortened
from gigatile.cli.progress_text import plain_line
from gigatile.cli.snapshot import ActiveImage, ImagesSnapshot, Snapshot
from gigatile.cli.tally import Tally
from gigatile.events import (
    BlockFinished,
    CohortEnded,
    CohortStarted,
    ImageEnded,
    ImageStarted,
    PhaseStarted,
    RunEnded,
    RunStarted,
    TilesInferred,
    Warned,
)
from gigatile.units import one_line

BUSY = {"read": 1.0, "infer": 8.0, "blend": 0.5, "write": 0.5}
BLOCK = 1_000_000


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def tally(clock, images=4):
    counted = Tally(clock)
    counted.add(CohortStarted("out", images, 2, 2**30))
    return counted


def plan(take, image, blocks=10, finished=0):
    take(ImageStarted(image, blocks, finished, blocks * BLOCK))


def finish(take, image, block=0, status="done", error=""):
    take(BlockFinished("predict", f"0/0/{block}", status, BLOCK, BUSY, 500 * 2**20, error, image))


def pyramid(take, image, block=0):
    seconds = {"read": 30.0, "write": 10.0}
    take(BlockFinished("pyramid", f"1/0/{block}", "done", BLOCK // 4, seconds, image=image))


class TestFigures:
    def test_interleaved_images_add_up(self, clock):
        counted = tally(clock)
        plan(counted.add, "a")
        plan(counted.add, "b", blocks=20)
        for block in range(5):
            clock.now += 2
            finish(counted.add, "a", block)
            finish(counted.add, "b", block)
        state = counted.snapshot()
        assert (state.blocks_done, state.blocks_total) == (10, 30)
        assert state.pixels_done == 10 * BLOCK
        assert state.pixels_per_second == pytest.approx(BLOCK)
        assert state.verdict == "limited by: infer 80 %"
        assert (state.peak_rss_bytes, state.budget_bytes, state.directory) == (500 * 2**20, 2**30, "out")

    def test_a_new_image_resets_nothing(self, clock):
        counted = tally(clock)
        plan(counted.add, "a")
        for block in range(10):
            clock.now += 1
            finish(counted.add, "a", block)
        before = counted.snapshot()
        counted.add(ImageEnded("a", "complete"))
        plan(counted.add, "b", blocks=1000)
        state = counted.snapshot()
        assert state.pixels_per_second == before.pixels_per_second == pytest.approx(BLOCK)
        assert state.shares == before.shares
        assert (state.blocks_done, state.blocks_total) == (10, 1010)
        assert state.fraction == pytest.approx(1 / 4)

    def test_the_bar_goes_by_images_and_never_back(self, clock):
        counted, seen = tally(clock, images=3), []
        sizes = {"small": 2, "large": 50, "bad": 8}
        for name, blocks in sizes.items():
            plan(counted.add, name, blocks)
            for block in range(blocks if name != "bad" else 3):
                finish(counted.add, name, block)
                seen.append(counted.snapshot().fraction)
            counted.add(ImageEnded(name, "failed" if name == "bad" else "complete"))
            seen.append(counted.snapshot().fraction)
        assert seen == sorted(seen)
        assert seen[0] == pytest.approx(1 / 6)
        assert seen[-1] == 1.0

    def test_the_time_left_takes_unknown_images_to_be_like_the_known_ones(self, clock):
        counted = tally(clock, images=4)
        plan(counted.add, "a", blocks=10)
        plan(counted.add, "b", blocks=30)
        for block in range(5):
            clock.now += 2
            finish(counted.add, "a", block)
        state = counted.snapshot()
        assert state.images.unplanned == 2
        assert state.pixels_total == pytest.approx((10 + 30 + 20 + 20) * BLOCK)
        assert state.eta_seconds == pytest.approx((5 + 30 + 20 + 20) * 2)

    def test_a_pyramid_in_between_lowers_the_speed_of_now_and_hardly_moves_the_time_left(self, clock):
        counted = tally(clock, images=1)
        plan(counted.add, "a", blocks=2000)
        for block in range(1000):
            clock.now += 1
            finish(counted.add, "a", block)
        clock.now += 30
        state = counted.snapshot()
        assert state.pixels_per_second < 0.1 * BLOCK
        assert state.eta_seconds == pytest.approx(1000, rel=0.1)

    def test_refused_images_are_not_waited_for(self, clock):
        counted = tally(clock, images=3)
        plan(counted.add, "a")
        counted.add(ImageEnded("b", "refused", "too large"))
        counted.add(ImageEnded("c", "failed", "no such file"))
        clock.now += 2
        finish(counted.add, "a")
        state = counted.snapshot()
        assert state.eta_seconds == pytest.approx(9 * 2)
        assert (state.images.failed, state.images.refused, state.images.ended) == (1, 1, 2)

    def test_what_is_left_of_a_failed_image_is_not_waited_for(self, clock):
        counted = tally(clock, images=2)
        plan(counted.add, "a")
        plan(counted.add, "b")
        for image in ("a", "b"):
            clock.now += 1
            finish(counted.add, image)
        counted.add(ImageEnded("a", "failed", "poison"))
        assert counted.snapshot().eta_seconds == pytest.approx(9)

    def test_nothing_is_guessed_while_nothing_is_known(self, clock):
        counted = tally(clock)
        clock.now += 3
        state = counted.snapshot()
        assert (state.eta_seconds, state.pixels_total, state.blocks_total, state.fraction) == (None, 0.0, 0, 0.0)
        assert "ETA unknown yet" in plain_line(state, 0)

    def test_tiles_give_a_speed_before_the_first_block_is_done(self, clock):
        counted = tally(clock)
        plan(counted.add, "a")
        clock.now += 2
        counted.add(TilesInferred(4, 500_000))
        assert counted.snapshot().pixels_per_second == pytest.approx(250_000)
        finish(counted.add, "a")
        assert counted.snapshot().pixels_per_second == pytest.approx(500_000)

    def test_what_earlier_runs_did_is_counted_apart(self, clock):
        counted = tally(clock, images=3)
        plan(counted.add, "whole", blocks=10, finished=10)
        counted.add(ImageEnded("whole", "complete"))
        plan(counted.add, "half", blocks=10, finished=6)
        clock.now += 2
        finish(counted.add, "half", 6)
        state = counted.snapshot()
        assert (state.resumed, state.images.resumed, state.images.complete) == (16, 1, 1)
        assert (state.blocks_done, state.blocks_total) == (17, 20)
        assert state.fraction == pytest.approx((1 + 0.7) / 3)
        assert state.pixels_per_second == pytest.approx(BLOCK / 2), "what was there already is no speed"
        assert state.eta_seconds == pytest.approx((3 + 10) * 2)
        counted.add(ImageEnded("half", "complete"))
        assert counted.snapshot().images.resumed == 1, "half of it was done now"

    def test_an_image_whose_pyramid_alone_was_missing_was_worked_on(self, clock):
        counted = tally(clock)
        plan(counted.add, "a", finished=10)
        pyramid(counted.add, "a")
        assert counted.snapshot().images.active == (ActiveImage("a", 10, 10, later="pyramid"),)
        counted.add(ImageEnded("a", "complete"))
        assert counted.snapshot().images.resumed == 0

    def test_pyramids_cost_time_but_are_no_progress_of_the_prediction(self, clock):
        counted = tally(clock)
        plan(counted.add, "a", blocks=1)
        plan(counted.add, "b", blocks=1)
        clock.now += 1
        finish(counted.add, "a")
        pyramid(counted.add, "a")
        state = counted.snapshot()
        assert (state.blocks_done, state.pixels_done) == (1, BLOCK)
        assert state.shares["read"] == pytest.approx(31 / 50)

    def test_blocks_that_fail_before_their_image_is_told_count(self, clock):
        counted = tally(clock)
        finish(counted.add, "a", 3, "failed", "killed its worker")
        assert counted.snapshot().images.active == ()
        plan(counted.add, "a")
        state = counted.snapshot()
        assert (state.blocks_done, state.blocks_total, state.failed) == (1, 10, 1)
        assert state.images.active == (ActiveImage("a", 1, 10),)

    def test_the_end_knows_the_images_that_were_never_begun(self, clock):
        counted = tally(clock, images=3)
        plan(counted.add, "a", blocks=1)
        finish(counted.add, "a")
        counted.add(ImageEnded("a", "complete"))
        counted.add(ImageEnded("b", "refused", "x"))
        counted.add(CohortEnded(1, 2))
        state = counted.snapshot()
        assert (state.images.complete, state.images.failed, state.images.refused) == (1, 1, 1)
        assert (state.fraction, state.eta_seconds, state.ended) == (1.0, 0.0, True)

    def test_a_hundred_thousand_images_leave_only_sums(self, clock):
        counted = tally(clock, images=100_000)
        for number in range(2_000):
            plan(counted.add, f"image_{number}", blocks=1)
            clock.now += 40
            finish(counted.add, f"image_{number}")
            counted.add(ImageEnded(f"image_{number}", "complete"))
        state = counted.snapshot()
        assert state.images.active == ()
        assert state.eta_seconds == pytest.approx(98_000 * 40, rel=0.01)


class TestSpeed:
    def test_a_steady_speed_forgets_a_slow_start(self):
        meter, value = Meter(0.0, share=0.5), 0.0
        for second in range(1, 4001):
            value += 1 if second <= 1000 else 100
            meter.add(second, value, blocks=second)
        assert meter.rate(4000, value) == pytest.approx(100)

    def test_a_steady_speed_is_not_that_of_the_last_seconds(self):
        meter, value = Meter(0.0, share=0.5), 0.0
        for second in range(1, 1001):
            value += 0 if second > 970 else 1
            meter.add(second, value, blocks=second)
        assert meter.rate(1000, value) == pytest.approx(0.94, abs=0.01)

    @pytest.mark.parametrize("share", [0.0, 0.5])
    def test_few_samples_are_kept_however_long_it_takes(self, share):
        meter, most = Meter(0.0, share=share), 0
        for step in range(100_000):
            meter.add(step * 0.5, step, blocks=step)
            most = max(most, len(meter._samples))
        assert 40 < most < 400


def plain(clock):
    stream = io.StringIO()
    return PlainDisplay(stream, clock), stream


class TestPlain:
    def test_a_cohort_is_told_in_lines_that_hold_all_figures(self, clock):
        display, stream = plain(clock)
        display(CohortStarted("out", 4, 2, 2**30))
        plan(display, "whole", finished=10)
        display(ImageEnded("whole", "complete"))
        plan(display, "a", finished=2)
        plan(display, "b")
        for block in range(5):
            clock.now += 1
            finish(display, "a", block + 2)
        (line,) = stream.getvalue().splitlines()
        assert line.startswith(
            "gigatile: images 1/4 (1 by an earlier run), 42 %, 17/30+ blocks (12 by an earlier run), "
        )
        assert ", 1.00 Mpx/s, ETA 23.0s, memory " in line
        assert line.endswith(" of 1.0 GiB, limited by: infer 80 %, working on a, b")

    def test_a_cohort_ends_with_one_summary_line(self, clock):
        display, stream = plain(clock)
        display(CohortStarted("out", 3, 2, 2**30))
        plan(display, "whole", blocks=1, finished=1)
        display(ImageEnded("whole", "complete"))
        plan(display, "a", blocks=1)
        clock.now += 2
        finish(display, "a")
        display(ImageEnded("a", "complete"))
        display(ImageEnded("b", "refused", "no"))
        before = stream.getvalue()
        clock.now += 6
        display(CohortEnded(2, 1))
        assert stream.getvalue().removeprefix(before) == (
            "gigatile: 2 of 3 images complete (1 by an earlier run), failed: 1 image (1 refused), "
            "1.0 Mpx in 8.0s (0.12 Mpx/s), limited by: infer 80 %; 'gigatile status DIR' tells what failed\n"
        )

    def test_a_cohort_in_which_nothing_was_left_to_do_has_no_speed(self, clock):
        display, stream = plain(clock)
        display(CohortStarted("out", 1, 2, 2**30))
        plan(display, "a", blocks=3, finished=3)
        display(ImageEnded("a", "complete"))
        clock.now += 2
        display(CohortEnded(1, 0))
        assert stream.getvalue() == "gigatile: 1 of 1 image complete (1 by an earlier run), in 2.0s\n"

    def test_the_first_bad_images_are_told_with_their_reason_and_the_rest_counted(self, clock):
        display, stream = plain(clock)
        display(CohortStarted("out", 20, 2, 2**30))
        display(ImageEnded("a", "refused", "a.tif: expected a TIFF,\n  found text."))
        for number in range(12):
            display(ImageEnded(f"b{number}", "failed", "bad"))
        lines = stream.getvalue().splitlines()
        assert len(lines) == account.SHOWN_FAILURES + 1
        assert lines[:2] == [
            "gigatile: image a refused: a.tif: expected a TIFF, found text.",
            "gigatile: image b0 failed: bad",
        ]
        assert lines[-1] == "gigatile: more images failed; 'gigatile status DIR' tells all of them."
        clock.now += 5
        plan(display, "c")
        assert ", failed: 13 images (1 refused), working on c" in stream.getvalue()

    def test_a_failed_block_is_told_with_its_image(self, clock):
        display, stream = plain(clock)
        display(CohortStarted("out", 2, 2, 2**30))
        plan(display, "a")
        finish(display, "a", 7, "failed", "cannot decode\n  tile 3")
        assert stream.getvalue() == "gigatile: block 0/0/7 of a failed: cannot decode tile 3\n"

    def test_lines_become_rare_in_runs_of_days(self, clock, monkeypatch):
        monkeypatch.setattr("gigatile.cli.memory_gauge.MemoryGauge.bytes", lambda gauge: 0)  # slow, and not asked here
        display, stream = plain(clock)
        display(CohortStarted("out", 1000, 2, 2**30))
        plan(display, "a", blocks=200_000)
        for block in range(10_000):
            clock.now += 8.64
            finish(display, "a", block)
        assert 1_400 < len(stream.getvalue().splitlines()) < 2_200

    def test_many_active_images_are_counted(self):
        active = tuple(ActiveImage(f"slide_{n}", n, 10) for n in range(14))
        line = plain_line(Snapshot(phase="images", images=ImagesSnapshot(40, active=active)), 0)
        assert line.endswith("working on slide_0, slide_1 and 12 more")


class TestWarnings:
    @pytest.mark.parametrize("kind", ["none", "plain", "rich"])
    @pytest.mark.parametrize("start", [RunStarted("out", 1, 0, 1, 1, 0), CohortStarted("out", 1, 1, 0)])
    def test_every_display_says_a_warning_in_one_line(self, kind, start):
        stream = io.StringIO()
        with open_display(kind, stream) as display:
            display(start)
            display(Warned("worker tcp://a:1\nis left out"))
        assert "warning: worker tcp://a:1 is left out" in re.sub(r"\s+", " ", stream.getvalue())

    def test_silence_says_nothing_but_warnings(self):
        stream = io.StringIO()
        with open_display("none", stream) as display:
            display(CohortStarted("out", 1, 1, 0))
            display(ImageEnded("a", "failed", "bad"))
            display(Warned("careful"))
            display(CohortEnded(0, 1))
        assert stream.getvalue() == "gigatile: warning: careful\n"

    def test_the_same_warning_is_said_once(self, clock):
        display, stream = plain(clock)
        for message in ("one", "one", "two", "one"):
            display(Warned(message))
        assert stream.getvalue() == "gigatile: warning: one\ngigatile: warning: two\n"

    def test_a_storm_of_warnings_is_cut_and_that_is_said(self):
        stream = io.StringIO()
        with open_display("none", stream) as display:
            for number in range(1000):
                display(Warned(f"image_{number}: other library versions"))
        lines = stream.getvalue().splitlines()
        assert len(lines) == account.SHOWN_WARNINGS + 1
        assert lines[-1] == "gigatile: more warnings follow; '--progress json' tells all of them."

    def test_warnings_are_no_failures(self, clock):
        (line,) = Account(clock).add(Warned("careful"))
        assert line.tone == Tone.WARNING

    def test_nothing_from_outside_steers_the_terminal(self, clock):
        display, stream = plain(clock)
        display(Warned("\x1b[2Jgone \x07\udcff é 日"))
        assert stream.getvalue() == "gigatile: warning: \\x1b[2Jgone \\x07\\udcff é 日\n"
        display(ImageEnded("a\x1b]0;b", "failed", "\x9b31m"))
        assert "\x1b" not in stream.getvalue()
        assert "\x9b" not in stream.getvalue()

    def test_one_line_keeps_what_is_printable(self):
        assert one_line(" a\n\t b\\c ü ") == "a b\\c ü"


def test_json_tells_cohorts_image_by_image_and_every_warning(clock):
    stream = io.StringIO()
    display = JsonDisplay(stream, clock)
    display(CohortStarted("out", 2, 3, 2**30))
    plan(display, "a", blocks=2, finished=1)
    display(TilesInferred(2, 10))
    clock.now += 1.5
    finish(display, "a", 1)
    display(ImageEnded("a", "complete"))
    display(ImageEnded("b", "refused", "two\nlines"))
    for _ in range(30):
        display(Warned("careful"))
    display(CohortEnded(1, 1))
    records = [json.loads(line) for line in stream.getvalue().splitlines()]
    names = ["cohort_started", "image_started", "block_finished", "tiles_inferred", "image_ended", "image_ended"]
    assert [record["event"] for record in records] == [*names, *["warned"] * 30, "cohort_ended"]
    assert records[0] == {
        "event": "cohort_started", "elapsed": 0.0, "directory": "out", "images": 2, "lanes": 3, "budget_bytes": 2**30,
    }  # fmt: skip
    assert records[1] == {
        "event": "image_started", "elapsed": 0.0, "image": "a", "blocks": 2, "finished": 1, "pixels": 2 * BLOCK,
    }  # fmt: skip
    assert (records[2]["image"], records[2]["elapsed"]) == ("a", 1.5)
    assert records[5] == {
        "event": "image_ended", "elapsed": 1.5, "image": "b", "state": "refused", "error": "two\nlines",
    }  # fmt: skip
    assert records[6]["message"] == "careful"
    assert records[-1] == {"event": "cohort_ended", "elapsed": 1.5, "complete": 1, "failed": 1}


LONG = "TCGA-AB-1234-01Z-00-DX1.4F2A0C5E-7B1D-4E7A-9C55-1B2C3D4E5F60-{}"
STATE = Snapshot(
    directory="out", phase="images", blocks_done=1280, blocks_total=6640, resumed=1016, failed=13, fraction=0.43,
    pixels_done=115_300e6, pixels_total=268_400e6, pixels_per_second=23.42e6, eta_seconds=7500,
    peak_rss_bytes=700 * 2**20, budget_bytes=2**30,
    shares={"read": 0.1, "infer": 0.6, "blend": 0.15, "write": 0.15},
    images=ImagesSnapshot(
        4000, complete=1200, resumed=300, failed=2, refused=1, unplanned=2790,
        active=(
            ActiveImage("slide_a", 28, 64), ActiveImage(LONG.format("A"), 1024, 4096),
            ActiveImage("日本語の長い名前" * 6, 1, 1), ActiveImage("b", 64, 64, later="pyramid"),
            ActiveImage("c", 0, 3), ActiveImage("d", 0, 3),
        ),
    ),
)  # fmt: skip


def shown(state, width):
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(frame(state, 600 * 2**20, "", width))
    return console.file.getvalue()


class TestRich:
    @pytest.mark.parametrize("width", [80, 120])
    def test_the_frame_of_a_cohort_shows_all_figures(self, width):
        text = shown(STATE, width)
        for figure in (
            "images", "43 %", "1203 of 4000 (300 by an earlier run)", "ETA 2h 05m", "1280 of 6640+ (1016 by an earlier",
            "115,300.0 of about 268,400.0 Mpx", "23.42 Mpx/s", "600.0 MiB of 1.0 GiB", "peak 700.0 MiB",
            "read 10 %  infer 60 %  blend 15 %  write 15 %", "limited by: infer 60 %",
            "3 images (1 refused) and 13 blocks",
            "slide_a", "28 of 64 blocks", "1024 of 4096 blocks", "1 of 1 block", "pyramid", "and 2 more",
        ):  # fmt: skip
            assert figure in text
        lines = text.splitlines()
        assert max(map(cell_len, lines)) <= width
        assert len(lines) == 7 + 4 + 1, "nothing wraps"

    def test_long_names_keep_both_ends(self):
        assert re.search(r"now  .*\n +TCGA-AB-1234\S+…\S+-A +1024 of 4096 blocks", shown(STATE, 80))
        assert LONG.format("A") in shown(STATE, 120)

    @pytest.mark.parametrize("text", ["", "a", LONG, "日本語" * 20, "a日" * 30])
    @pytest.mark.parametrize("width", [1, 2, 3, 10, 11, 40])
    def test_shortened_names_fit(self, text, width):
        short = shortened(text, width)
        assert cell_len(short) <= width
        assert short == text or "…" in short
        assert width < 10 or short[:2] == text[:2]

    def test_the_frame_can_be_drawn_on_any_terminal(self):
        assert shown(STATE, 20)
        assert shown(Snapshot(phase="images", images=ImagesSnapshot(3)), 80)

    def test_a_cohort_on_a_terminal_ends_with_its_summary(self):
        stream = io.StringIO()
        with open_display("rich", stream) as display:
            display(CohortStarted("out", 2, 2, 2**30))
            plan(display, "a", blocks=1)
            finish(display, "a")
            display(ImageEnded("a", "complete"))
            display(ImageEnded("b", "refused", "bad header"))
            display(CohortEnded(1, 1))
        text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue())
        assert "image b refused: bad header" in text
        assert "1 of 2 images complete, failed: 1 image (1 refused)" in re.sub(r"\s+", " ", text.splitlines()[-2])
        assert stream.getvalue().count("\x1b[?25h") == 1  # the cursor is visible again


def test_the_events_of_a_single_run_show_no_images(clock):
    counted = Tally(clock)
    counted.add(RunStarted("out", 4, 0, 4 * BLOCK, 1, 0))
    counted.add(PhaseStarted("predict", 4))
    finish(counted.add, "")
    counted.add(RunEnded(False, 1))
    assert counted.snapshot().images is None
    assert counted.snapshot().blocks_done == 1
