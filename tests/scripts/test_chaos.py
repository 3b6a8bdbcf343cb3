"""A hundredth of scripts/chaos: killed runs end with the same bytes; and the script would see it if they did not."""

import json
import shutil
import zlib
from collections import Counter
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from gigatile.runs.verify import verify
from scripts.havoc import main
from scripts.havoc.damage import HARMS
from scripts.havoc.play import Blow, Play, Result, Scene
from scripts.havoc.records import differences, read_ledger
from scripts.havoc.rounds import _fill
from scripts.havoc.stage import Folder, Stage, set_up, small_disk
from tests.small_runs import noise, tree, write_zarr

SIDE = 1000
BLOCKS = 9 + 4 + 1


def small_image(folder: Path) -> Path:
    return Path(write_zarr(folder / "image.zarr", noise((SIDE, SIDE)), chunk=256))


@pytest.fixture(scope="module")
def stage(tmp_path_factory) -> Stage:
    folder = tmp_path_factory.mktemp("stage")
    return set_up(folder, 0.0, small_image(folder))


@pytest.fixture
def finished(stage, tmp_path) -> Play:
    """A round that is over, with a copy of the undisturbed run for its outcome."""
    shutil.copytree(stage.folder / "reference", tmp_path / "out")
    return Play(Scene(stage, Folder(tmp_path / "out"), tmp_path), Result(0, "threads", False), Random(0))


def test_killed_runs_end_with_the_bytes_of_an_undisturbed_one(tmp_path):
    # With this seed: one kill of a client with threads, one of a worker process.
    request = main.Request(2, 0, 5, ("threads", "processes"), image=small_image(tmp_path), seconds_a_tile=0.01)
    lines = []
    results = list(main.play(request, tmp_path, lines.append))
    assert sum(len(result.blows) for result in results) == 2
    assert [result.problems for result in results if result.problems] == []
    assert {result.executor for result in results} == {"threads", "processes"}
    assert all(result.codes[-1] == 0 for result in results)
    assert f"{BLOCKS} blocks" in lines[0]
    assert "kills 2" in main.table(results, 1.0)


def test_an_undisturbed_run_has_nothing_wrong_and_did_nothing_twice(finished):
    finished.judge()
    result = finished.result
    assert (result.problems, result.lost, result.twice, result.in_flight) == ([], 0, 0, 0)


def test_another_byte_a_lost_record_and_a_temporary_file_are_seen(finished):
    out = Path(finished.place.word)
    shard = out / "prediction.zarr" / "0" / "c" / "0" / "1" / "1"
    shard.write_bytes(shard.read_bytes()[:-1])
    shard.with_name(".1.77-ab.tmp").write_bytes(b"")
    HARMS["cut a record"](out, Random(1))
    finished.judge()
    said = "\n".join(finished.result.problems)
    assert "0/c/0/1/1 differs" in said
    assert "no record of " in said
    assert ".1.77-ab.tmp is left" in said


@pytest.mark.parametrize("kind", HARMS)
def test_every_harm_is_done_to_one_file_and_seen_by_verify(finished, kind):
    out = Path(finished.place.word)
    before = tree(out)
    file, blocks = HARMS[kind](out, Random(2))
    after = tree(out)
    assert [name for name in before if before[name] != after.get(name)] == [str(file.relative_to(out))]
    assert blocks.keys() <= finished.stage.blocks
    about = "torn" if kind == "cut a record" else str(file)
    assert any(about in problem for problem in verify(out).problems)


def line(**said) -> bytes:
    body = json.dumps(said).encode()
    return b"%08x %s\n" % (zlib.crc32(body), body)


def started(name: str, *blocks: str) -> bytes:
    return line(status="started", id=name, blocks=blocks)


def done(name: str, block: str, attempt: str) -> bytes:
    return line(status="done", id=name, block=block, attempt=attempt)


def test_blocks_in_flight_are_those_begun_and_not_ended_by_those_who_died():
    mine = [started("a", "0/0/0", "0/0/1"), done("1", "0/0/0", "a"), done("2", "0/0/1", "a"), started("b", "0/0/2")]
    before = read_ledger({"host-7-x.jsonl": b"".join(mine), "host-8-y.jsonl": started("c", "0/0/3")})
    after = read_ledger(
        {
            "host-7-x.jsonl": b"".join([*mine, done("3", "0/0/2", "b"), started("d", "0/0/4")]),
            "host-8-y.jsonl": started("c", "0/0/3"),
            "host-9-z.jsonl": started("e", "0/0/3") + done("4", "0/0/3", "e"),
        }
    )
    everybody = Blow("kill client", before, None, frozenset(before.segments))
    assert everybody.in_flight(after) == Counter({"0/0/2": 1, "0/0/3": 1, "0/0/4": 1})
    assert replace(everybody, victims=frozenset({8})).in_flight(after) == Counter({"0/0/3": 1})
    # The same without another command: what was begun later and came to its end was not disturbed.
    assert replace(everybody, segments=None).in_flight(after) == Counter({"0/0/2": 1, "0/0/3": 1, "0/0/4": 1})


def test_blocks_done_again_without_a_reason_are_a_problem(finished):
    out = Path(finished.place.word)
    (out / "ledger" / "host-1-again.jsonl").write_bytes(started("ffff", "0/0/0") + done("fffe", "0/0/0", "ffff"))
    finished.judge()
    assert [problem for problem in finished.result.problems if "done again though not in flight" in problem]
    assert (finished.result.lost, finished.result.twice) == (1, 1)


def test_lines_of_a_ledger_that_are_none_are_counted_and_left_out():
    whole = started("a", "0/0/0")
    found = read_ledger({"host-1-x.jsonl": whole + whole[:-9] + b"\n" + whole[:30]})
    assert (found.begun, found.torn) == (Counter({"0/0/0": 1}), 2)


def test_missing_changed_and_additional_files_are_differences():
    assert differences({"a": "1", "b": "2", "d": "4"}, {"a": "1", "b": "3", "c": "4"}) == ["b", "c", "d"]


def test_a_filled_disk_takes_no_more_than_the_spare_bytes(tmp_path):
    try:
        with small_disk(tmp_path / "disk", 2) as disk:
            _fill(disk, Random(3))
            with pytest.raises(OSError, match="No space"):
                (disk / "more").write_bytes(bytes(100_000))
    except OSError as error:
        pytest.skip(str(error))
