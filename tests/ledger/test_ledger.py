"""The ledger survives whatever happens to its writers, and is never read wrong."""

import json
import math
import pickle
import tempfile
import threading
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gigatile.engine.record import BlockKey, BlockRecord
from gigatile.errors import StorageError
from gigatile.ledger.attempts import Suspicion
from gigatile.ledger.compaction import SEGMENTS, compact
from gigatile.ledger.reader import LedgerReader
from gigatile.ledger.state import DONE, EMPTY, FAILED, PENDING
from gigatile.ledger.writer import LedgerWriter
from gigatile.storage.local import LocalStore
from tests.runs.memory_store import MemoryStore

GRIDS = ((8, 4), (4, 2))


def store(folder):
    return LocalStore(Path(folder), durable=False)


def block(row, level=0):
    return BlockKey(level, row, 1)


def record(row, status="done", level=0, **fields):
    return BlockRecord(block(row, level), status, pixels=9216, **{"nbytes": 10, "digest": f"{row:064x}", **fields})


def written(folder, *records):
    ledger = LedgerWriter(store(folder))
    for item in records:
        ledger.append([item])
    return ledger


def reader(folder, grids=GRIDS):
    return LedgerReader(folder if isinstance(folder, MemoryStore) else store(folder), grids)


def read(folder):
    return reader(folder).scan()


def rows(folder, level=0):
    """Rows with a record that counts."""
    return np.flatnonzero(read(folder).status(level)[:, 1]).tolist()


def found(folder):
    ledger = reader(folder)
    ledger.scan()
    return sorted(ledger.records(), key=lambda item: item.block)


def line(**entry):
    body = json.dumps(entry).encode()
    return b"%08x %s\n" % (zlib.crc32(body), body)


def summary(state):
    """Everything that a state says, as values that can be compared."""
    totals = state.totals
    return {
        "status": [state.status(level).tolist() for level in range(len(state.grids))],
        "nbytes": [state.nbytes(level).tolist() for level in range(len(state.grids))],
        "seams": None if state.seams() is None else state.seams().tolist(),
        "totals": [
            totals.tiles, totals.skipped, totals.units_decoded, totals.pixels, totals.filled, totals.seam_pixels,
            totals.seam_disagreements, totals.seam_difference, dict(totals.seconds),
        ],
        "peak": state.peak_rss_bytes,
        "errors": state.errors(),
        "suspects": state.suspects(),
        "dropped": state.dropped,
    }  # fmt: skip


def test_what_was_appended_is_read(tmp_path):
    records = [
        record(0, seconds={"read": 0.25}, units_decoded=3, tiles=4, skipped=1, peak_rss_bytes=5, attempt="ab12"),
        record(1, "empty", nbytes=0, digest="", filled=("a.tif level 0 chunk (1, 2)",)),
        record(2, "failed", error="no weights: “ü”\nfor this", trace="Traceback\n  line"),
    ]
    written(tmp_path, *records)
    assert found(tmp_path) == records
    state = read(tmp_path)
    assert state.dropped == 0
    assert [state.count(code) for code in (DONE, EMPTY, FAILED)] == [1, 1, 1]
    assert state.pending(0).sum() == 8 * 4 - 3
    assert state.errors() == {block(2): "no weights: “ü”\nfor this"}
    assert state.totals.filled == 1


def test_a_record_is_one_line_of_its_crc_and_json_without_defaults(tmp_path):
    written(tmp_path, record(1, "failed", error="a\nb", nbytes=0, digest=""))
    (segment,) = tmp_path.iterdir()
    (text,) = segment.read_bytes().splitlines()
    assert text[:8] == b"%08x" % zlib.crc32(text[9:])
    entry = json.loads(text[9:])
    assert {"status", "block", "id", "pixels", "error"} == set(entry)
    assert (entry["status"], entry["block"]) == ("failed", "0/1/1")


def test_one_append_of_many_records_is_one_write_with_one_fsync(tmp_path, monkeypatch):
    calls = Counter()
    import os

    for name in ("write", "fsync"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *given, name=name, real=real: (calls.update([name]), real(*given))[1])
    ledger = LedgerWriter(LocalStore(tmp_path, durable=True))
    ledger.append([record(0)])
    calls.clear()
    ledger.append([record(row) for row in range(1, 8)])
    assert calls == {"write": 1, "fsync": 1}
    ledger.started([block(0)], alone=True)
    assert calls == {"write": 2, "fsync": 1}
    ledger.append([])
    assert calls == {"write": 2, "fsync": 1}


def test_every_writer_has_a_segment_of_its_own(tmp_path):
    first, second = written(tmp_path, record(0)), written(tmp_path, record(1))
    third = pickle.loads(pickle.dumps(first))
    third.append([record(2)])
    second.append([record(3)])
    assert len(list(tmp_path.iterdir())) == 3
    assert rows(tmp_path) == [0, 1, 2, 3]


def test_threads_do_not_tear_each_others_records(tmp_path):
    ledger = LedgerWriter(store(tmp_path))
    start = threading.Barrier(8)

    def write(part):
        start.wait()
        for row in range(part, 400, 8):
            ledger.append([record(row, trace="x" * 5000)])

    threads = [threading.Thread(target=write, args=(part,)) for part in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    state = LedgerReader(store(tmp_path), [(400, 2)]).scan()
    assert state.count(DONE) == 400
    assert state.dropped == 0


def test_a_tail_torn_at_any_byte_costs_that_record_alone(tmp_path):
    ledger = written(tmp_path, record(0), record(1), record(2, "failed", error="because"))
    ledger.started([block(3)], alone=True)
    (segment,) = tmp_path.iterdir()
    content = segment.read_bytes()
    ends = [i + 1 for i, byte in enumerate(content) if byte == ord("\n")]
    for size in range(len(content) + 1):
        segment.write_bytes(content[:size])
        state = read(tmp_path)
        whole = sum(end <= size for end in ends)
        assert np.flatnonzero(state.status(0)[:, 1]).tolist() == list(range(min(whole, 3))), size
        assert len(state.suspects()) == (whole == 4), size
        assert state.dropped == (size not in (0, *ends)), size


def test_a_torn_tail_that_is_completed_later_is_read_then(tmp_path):
    written(tmp_path, record(0), record(1))
    (segment,) = tmp_path.iterdir()
    content = segment.read_bytes()
    segment.write_bytes(b"")
    ledger = reader(tmp_path)
    for size in range(len(content)):
        with segment.open("ab") as file:
            file.write(content[size : size + 1])
        state = ledger.refresh()
        assert summary(state) == summary(read(tmp_path))
    assert state.count(DONE) == 2
    assert state.dropped == 0


def test_a_byte_changed_anywhere_is_never_read_as_something_else(tmp_path):
    records = [record(0), record(1, "failed", error="because"), record(2)]
    written(tmp_path, *records)
    (segment,) = tmp_path.iterdir()
    content = segment.read_bytes()
    for place in range(len(content)):
        damaged = bytearray(content)
        damaged[place] ^= 1 << place % 8
        segment.write_bytes(damaged)
        assert all(item in records for item in found(tmp_path))
        assert read(tmp_path).dropped >= 1, place


NO_RECORDS = {
    "no JSON": b"x",
    "an array": b"[1]",
    "a number": b"7",
    "two objects": b'{"status":"done","id":"1","block":"0/0/1"},{"status":"done","id":"2","block":"0/1/1"}',
    "another kind": b'{"status":"abolished","id":"1","block":"0/0/1"}',
    "no kind": b'{"id":"1","block":"0/0/1"}',
    "no id": b'{"status":"done","block":"0/0/1"}',
    "an id that is none": b'{"status":"done","id":"xyz","block":"0/0/1"}',
    "an empty id": b'{"status":"done","id":"","block":"0/0/1"}',
    "a long id": b'{"status":"done","id":"11111111111111111","block":"0/0/1"}',
    "a block beyond": b'{"status":"done","id":"1","block":"0/8/1"}',
    "a level beyond": b'{"status":"done","id":"1","block":"2/0/1"}',
    "a negative block": b'{"status":"done","id":"1","block":"0/-1/1"}',
    "a block of two numbers": b'{"status":"done","id":"1","block":"0/1"}',
    "a block of four numbers": b'{"status":"done","id":"1","block":"0/1/1/1"}',
    "a block of letters": b'{"status":"done","id":"1","block":"a/b/c"}',
    "a huge block": b'{"status":"done","id":"1","block":"0/99999999999999999999999/1"}',
    "a block that is a number": b'{"status":"done","id":"1","block":7}',
    "a negative size": b'{"status":"done","id":"1","block":"0/0/1","nbytes":-1}',
    "a size beyond int64": b'{"status":"done","id":"1","block":"0/0/1","nbytes":1e30}',
    "a huge size": b'{"status":"done","id":"1","block":"0/0/1","nbytes":123456789012345678901234567890}',
    "a text for a size": b'{"status":"done","id":"1","block":"0/0/1","nbytes":"10"}',
    "an endless number": b'{"status":"done","id":"1","block":"0/0/1","seam_difference":1e999}',
    "seconds that are a list": b'{"status":"done","id":"1","block":"0/0/1","seconds":[1]}',
    "no UTF-8": b'{"status":"failed","id":"1","block":"0/0/1","error":"\xff"}',
    "deep": b'{"status":"done","id":"1","block":"0/0/1","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "blocks that are a text": b'{"status":"started","id":"1","blocks":"0/0/1"}',
    "blocks beyond": b'{"status":"started","id":"1","blocks":["9/9/9"]}',
    "a release of nothing": b'{"status":"released","id":"1","attempt":"?"}',
    "revokes that are a text": b'{"status":"damaged","id":"1","revokes":"1"}',
}


@pytest.mark.parametrize("body", NO_RECORDS.values(), ids=NO_RECORDS)
def test_a_line_of_another_content_is_dropped_whatever_its_crc_says(tmp_path, body):
    written(tmp_path, record(2), record(3))
    (segment,) = tmp_path.iterdir()
    before = summary(read(tmp_path))
    with segment.open("ab") as file:
        file.write(b"%08x %s\n" % (zlib.crc32(body), body))
    written(tmp_path, record(4))
    state = read(tmp_path)
    assert state.dropped == 1
    assert np.flatnonzero(state.status(0)[:, 1]).tolist() == [2, 3, 4]
    assert len(found(tmp_path)) == 3
    assert before["totals"][0] == state.totals.tiles


def test_revoking_what_was_never_there_changes_nothing(tmp_path):
    ledger = written(tmp_path, record(0))
    ledger.revoke(block(0), ["f" * 16, "no id"], "damaged")
    assert rows(tmp_path) == [0]


def test_a_torn_tail_does_not_swallow_what_the_next_writer_says(tmp_path):
    written(tmp_path, record(0), record(1))
    (segment,) = tmp_path.iterdir()
    segment.write_bytes(segment.read_bytes()[:-5])
    written(tmp_path, record(2))
    assert rows(tmp_path) == [0, 2]


def test_done_wins_over_failed_whichever_came_first(tmp_path):
    written(tmp_path / "a", record(0, "failed", error="first"), record(0))
    written(tmp_path / "b", record(0), record(0, "failed", error="later"))
    for name in "ab":
        state = read(tmp_path / name)
        assert state.status(0)[0, 1] == DONE
        assert state.errors() == {}


def test_a_block_that_two_workers_did_counts_once(tmp_path):
    again = record(0, tiles=4, units_decoded=2, seconds={"read": 0.5}, seam_pixels=5, seam_difference=0.1)
    written(tmp_path / "once", again)
    written(tmp_path / "twice", again, again)
    written(tmp_path / "twice", again)
    assert summary(read(tmp_path / "once")) == summary(read(tmp_path / "twice"))
    assert found(tmp_path / "once") == found(tmp_path / "twice")


def test_a_damaged_block_is_to_be_done_again(tmp_path):
    ledger = written(tmp_path, record(0, tiles=3), record(1, tiles=4))
    view = reader(tmp_path)
    view.scan()
    assert ledger.revoke_all(view.identities([block(0)]), "damaged") == 1
    state = view.refresh()
    assert state.status(0)[0, 1] == PENDING
    assert state.status(0)[1, 1] == DONE
    assert state.totals.tiles == 4
    ledger.append([record(0, digest="f" * 64)])
    assert [item.digest for item in found(tmp_path) if item.block == block(0)] == ["f" * 64]


def test_a_damaged_block_that_had_failed_before_it_was_done_does_not_count_as_failed(tmp_path):
    ledger = written(tmp_path, record(0, "failed", error="first"), record(0))
    view = reader(tmp_path)
    view.scan()
    assert ledger.revoke_all(view.identities([block(0)]), "damaged") == 2
    assert view.refresh().status(0)[0, 1] == PENDING


def test_what_is_revoked_is_not_revoked_again(tmp_path):
    ledger = written(tmp_path, record(0))
    for expected in (1, 0):
        view = reader(tmp_path)
        view.scan()
        assert ledger.revoke_all(view.identities([block(0)]), "damaged") == expected


def test_a_retried_block_says_why_it_failed_the_last_time(tmp_path):
    view = reader(tmp_path)
    for attempt in range(6):
        ledger = written(tmp_path, record(0, "failed", error=f"attempt {attempt}"))
        state = view.refresh()
        assert state.errors() == {block(0): f"attempt {attempt}"}
        ledger.revoke_all(view.identities(state.failures()), "retried")
    assert view.refresh().status(0)[0, 1] == PENDING


def test_errors_beyond_those_that_are_kept_come_up_when_those_before_are_mended(tmp_path, monkeypatch):
    monkeypatch.setattr("gigatile.ledger.state.ERRORS", 2)
    ledger = written(tmp_path, *(record(row, "failed", error=f"row {row}") for row in (5, 1, 7, 0, 3, 2)))
    view = reader(tmp_path)
    assert list(view.scan().errors().values()) == ["row 0", "row 1"]
    ledger.append([record(0), record(1)])
    state = view.refresh()
    assert list(state.errors().values()) == ["row 2", "row 3"]
    assert [key.row for key in state.failures()] == [2, 3, 5, 7]
    assert summary(state) == summary(read(tmp_path))


class TestSuspicion:
    """`started` lines say who was at a block when its process died."""

    def test_a_block_that_was_begun_and_came_to_nothing_is_a_suspect(self, tmp_path):
        ledger = written(tmp_path)
        ledger.started([block(0), block(1)], alone=False)
        ledger.started([block(1)], alone=True)
        assert read(tmp_path).suspects() == {block(0): Suspicion(1, 0), block(1): Suspicion(2, 1)}

    def test_what_was_finished_failed_or_given_up_is_none(self, tmp_path):
        ledger = written(tmp_path)
        attempt = ledger.started([block(0), block(1), block(2)], alone=False)
        ledger.append([record(0, attempt=attempt), record(1, "failed", attempt=attempt)])
        assert read(tmp_path).suspects() == {block(2): Suspicion(1, 0)}
        ledger.released(attempt)
        assert read(tmp_path).suspects() == {}

    def test_a_block_that_is_damaged_later_is_not_blamed_for_the_attempt_that_did_it(self, tmp_path):
        ledger = written(tmp_path)
        attempt = ledger.started([block(0)], alone=True)
        ledger.append([record(0, attempt=attempt)])
        view = reader(tmp_path)
        identity = next(iter(view.scan() and view.identities([block(0)])))
        (entry,) = [e for e in map(json.loads, _bodies(tmp_path)) if e["status"] == "done"]
        ledger.revoke(block(0), [entry["id"]], "damaged")
        assert identity
        assert view.refresh().suspects() == read(tmp_path).suspects() == {}

    def test_deaths_are_forgotten_when_the_block_is_retried(self, tmp_path):
        ledger = written(tmp_path)
        for _ in range(3):
            ledger.started([block(0)], alone=True)
        ledger.append([record(0, "failed", error="poison")])
        view = reader(tmp_path)
        ledger.revoke_all(view.identities(view.scan().failures()), "retried")
        state = view.refresh()
        assert state.status(0)[0, 1] == PENDING
        assert state.suspects() == read(tmp_path).suspects() == {}
        ledger.started([block(0)], alone=True)
        assert view.refresh().suspects() == {block(0): Suspicion(1, 1)}

    def test_attempts_at_finished_blocks_are_not_kept(self, tmp_path):
        ledger = written(tmp_path)
        for row in range(8):
            attempt = ledger.started([block(row)], alone=False)
            ledger.append([record(row, attempt=attempt)])
        state = read(tmp_path)
        assert state._attempts._begun.count == 0


def _bodies(folder):
    return [text[9:] for path in folder.iterdir() for text in path.read_bytes().splitlines()]


@st.composite
def histories(draw):
    """Lines of a few blocks: finished by several writers, failed several times, begun, given up, revoked in part."""
    ids = [f"{number:x}" for number in range(1, draw(st.integers(2, 10)))]
    lines = []
    for identity in ids:
        status = draw(st.sampled_from(["done", "empty", "failed", "damaged", "retried", "started", "released"]))
        names = [f"{level}/0/{col}" for level in range(2) for col in range(2)]
        entry = {"id": identity, "status": status}
        if status in ("damaged", "retried"):
            entry["revokes"] = draw(st.lists(st.sampled_from(ids), unique=True, max_size=3))
        elif status == "started":
            entry |= {"blocks": draw(st.lists(st.sampled_from(names), unique=True)), "alone": draw(st.booleans())}
        elif status == "released":
            entry["attempt"] = draw(st.sampled_from(ids))
        else:
            number = int(identity, 16)
            entry |= {
                "block": draw(st.sampled_from(names)),
                "pixels": 10 + number, "nbytes": number, "tiles": 2**number, "seam_pixels": number,
                "seam_difference": draw(st.floats(0, 1e30)), "peak_rss_bytes": number,
                "seconds": {"read": draw(st.floats(0, 100)), "infer": 0.1}, "error": f"error {identity}",
                "attempt": draw(st.sampled_from(["", *ids])),
            }  # fmt: skip
        lines.append(line(**entry))
    return lines


@settings(max_examples=150, deadline=None)
@given(history=histories(), data=st.data())
def test_order_segments_and_repetitions_do_not_matter_and_reading_bit_by_bit_is_reading_at_once(history, data):
    states = []
    for _ in range(2):
        with tempfile.TemporaryDirectory() as folder:
            view = reader(folder)
            again = data.draw(st.lists(st.sampled_from(history), max_size=3))
            for text in data.draw(st.permutations([*history, *again])):
                with Path(folder, f"{data.draw(st.integers(0, 2))}.jsonl").open("ab") as file:
                    file.write(text)
                if data.draw(st.booleans()):
                    view.refresh()
            states += [summary(view.refresh()), summary(read(folder)), summary(view.scan())]
    assert all(state == states[0] for state in states)


@settings(max_examples=60, deadline=None)
@given(history=histories())
def test_the_state_is_what_the_description_says(history):
    """An independent reading of the same lines, one Python object each."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "a.jsonl").write_bytes(b"".join(history))
        state = read(folder)
        lines = [json.loads(text[9:]) for text in history]
        revoked = {identity for entry in lines for identity in entry.get("revokes", ())}
        standing = {}
        for entry in lines:
            if "block" in entry and entry["id"] not in revoked:
                rank = (entry["status"] == "failed", int(entry["id"], 16))
                standing[entry["block"]] = min(standing.get(entry["block"], (rank, entry)), (rank, entry), key=rank_of)
        chosen = {name: entry for name, (_, entry) in standing.items()}
        codes = {"done": DONE, "empty": EMPTY, "failed": FAILED}
        for level in range(2):
            for col in range(2):
                entry = chosen.get(f"{level}/0/{col}")
                assert state.status(level)[0, col] == (codes[entry["status"]] if entry else PENDING)
        level0 = [entry for name, entry in chosen.items() if name.startswith("0/")]
        assert state.totals.tiles == sum(entry["tiles"] for entry in level0)
        assert state.totals.pixels == sum(entry["pixels"] for entry in level0 if entry["status"] != "failed")
        difference = math.fsum(entry["seam_difference"] for entry in level0)
        assert state.totals.seam_difference == pytest.approx(difference, rel=1e-12, abs=1e-12)
        for name, suspicion in deaths(lines, chosen, revoked).items():
            assert state.suspects()[BlockKey.parse(name)].deaths == suspicion
        assert len(state.suspects()) == len(deaths(lines, chosen, revoked))


def rank_of(item):
    return item[0]


def deaths(lines, chosen, revoked):
    given_up = {entry["attempt"] for entry in lines if entry["status"] == "released"}
    ended = {(entry["attempt"], entry["block"]) for entry in lines if "block" in entry}
    return Counter(
        name
        for entry in lines if entry["status"] == "started" and entry["id"] not in revoked | given_up
        for name in entry["blocks"] if name not in chosen and (entry["id"], name) not in ended
    )  # fmt: skip


@pytest.mark.parametrize("together", [1, 3])
def test_more_contested_blocks_than_are_settled_together_are_settled_all_the_same(tmp_path, monkeypatch, together):
    monkeypatch.setattr("gigatile.ledger.reader.SETTLED_TOGETHER", together)
    ledger = written(tmp_path, *(record(row, "failed", error="x", tiles=1) for row in range(8)))
    view = reader(tmp_path)
    ledger.revoke_all(view.identities(view.scan().failures()), "retried")
    ledger.append([record(row, tiles=row) for row in range(8)])
    ledger.append([record(row, tiles=row) for row in range(8)])
    state = view.refresh()
    assert summary(state) == summary(read(tmp_path))
    assert state.count(DONE) == 8
    assert state.totals.tiles == sum(range(8))


@pytest.mark.parametrize("piece", [1, 7, 100, 1 << 22])
def test_pieces_of_any_size_are_put_together(tmp_path, monkeypatch, piece):
    written(tmp_path, *(record(row, trace="x" * row * 40) for row in range(8)))
    written(tmp_path, record(0, level=1))
    expected = found(tmp_path)
    monkeypatch.setattr("gigatile.ledger.reader.PIECE_BYTES", piece)
    assert found(tmp_path) == expected
    assert len(expected) == 9


def test_reading_again_reads_only_what_is_new(tmp_path):
    ledger = written(tmp_path, *(record(row) for row in range(6)))
    read_bytes = []

    class Counting(LocalStore):
        def read_range(self, key, offset, nbytes):
            read_bytes.append(nbytes)
            return LocalStore.read_range(self, key, offset, nbytes)

    view = LedgerReader(Counting(tmp_path, False), GRIDS)
    view.refresh()
    read_bytes.clear()
    view.refresh()
    assert read_bytes == []
    size = sum(path.stat().st_size for path in tmp_path.iterdir())
    ledger.append([record(6)])
    assert view.refresh().count(DONE) == 7
    assert sum(read_bytes) == sum(path.stat().st_size for path in tmp_path.iterdir()) - size


def test_a_segment_that_is_gone_is_not_remembered(tmp_path):
    written(tmp_path, record(0))
    view = reader(tmp_path)
    view.refresh()
    (segment,) = tmp_path.iterdir()
    written(tmp_path, record(1))
    segment.unlink()
    assert view.refresh().count(DONE) == 1
    assert summary(view.refresh()) == summary(read(tmp_path))


def test_reading_where_there_is_no_ledger_finds_nothing(tmp_path):
    state = read(tmp_path / "none")
    assert state.pending(0).all()
    assert not (tmp_path / "none").exists()


def test_a_difference_that_is_no_number_is_not_compared(tmp_path):
    written(tmp_path, record(0, seam_pixels=4, seam_difference=math.nan, seam_disagreements=4))
    written(tmp_path, record(1, seam_pixels=2, seam_difference=math.inf), record(2, seam_pixels=3, seam_difference=6.0))
    state = read(tmp_path)
    assert state.count(DONE) == 3
    assert (state.totals.seam_pixels, state.totals.seam_difference, state.totals.seam_disagreements) == (3, 6.0, 0)
    assert state.seams()[:, :3, 1].tolist() == [[0, 0, 6], [0, 0, 3]]


@pytest.mark.parametrize("durable", [True, False])
def test_a_record_is_in_the_file_when_append_returns(tmp_path, durable):
    ledger = LedgerWriter(LocalStore(tmp_path, durable))
    for count in range(1, 4):
        ledger.append([record(count)])
        assert rows(tmp_path) == list(range(1, count + 1))


def test_no_file_stays_open_when_a_ledger_is_closed_or_forgotten(tmp_path):
    def held():
        return len(list(Path("/proc/self/fd").iterdir()))

    before = held()
    first, second = written(tmp_path, record(0)), written(tmp_path, record(1))
    assert held() == before + 2
    first.close()
    del second
    assert held() == before
    first.append([record(2)])
    assert rows(tmp_path) == [0, 1, 2]
    first.close()


class TestBucket:
    """Where every `append` is an object."""

    def filled(self, objects=SEGMENTS + 10):
        bucket = MemoryStore()
        ledger = LedgerWriter(bucket)
        for number in range(objects):
            attempt = ledger.started([block(number % 8)], alone=True) if number % 50 == 0 else ""
            ledger.append([record(number % 8, tiles=1, nbytes=number, attempt=attempt)])
        return bucket

    def test_a_local_ledger_and_one_of_few_objects_are_left_as_they_are(self, tmp_path):
        for _ in range(3):
            written(tmp_path, record(0))
        assert compact(store(tmp_path)) == 0
        bucket = self.filled(5)
        before = dict(bucket.objects)
        assert compact(bucket) == 0
        assert bucket.objects == before

    def test_compaction_leaves_one_object_that_says_the_same(self):
        bucket = self.filled()
        objects, before = len(bucket.objects), summary(read(bucket))
        assert compact(bucket) == objects
        assert len(bucket.objects) == 1
        assert summary(read(bucket)) == before

    @pytest.mark.parametrize("survivors", [0, 1, 100])
    def test_a_crash_while_the_small_ones_are_deleted_changes_nothing(self, monkeypatch, survivors):
        bucket = self.filled()
        view, before = reader(bucket), summary(read(bucket))
        view.refresh()
        real, left = bucket.delete, [survivors]

        def delete(key):
            if not left[0]:
                raise StorageError("bucket", found="nothing")
            left[0] -= 1
            real(key)

        monkeypatch.setattr(bucket, "delete", delete)
        with pytest.raises(StorageError):
            compact(bucket)
        assert summary(view.refresh()) == summary(read(bucket)) == before

    def test_a_reader_goes_on_over_a_compaction(self):
        bucket = self.filled()
        view = reader(bucket)
        before = summary(view.refresh())
        compact(bucket)
        assert summary(view.refresh()) == before
        LedgerWriter(bucket).append([record(0, level=1)])
        assert summary(view.refresh()) == summary(read(bucket)) != before

    def test_a_reader_whose_segments_are_compacted_while_it_reads_lists_them_again(self, monkeypatch):
        bucket = self.filled()
        before = summary(read(bucket))
        view, real, done = reader(bucket), bucket.read_range, []

        def read_range(key, offset, nbytes):
            if not done and "-000002" not in key:
                done.append(compact(bucket))
            return real(key, offset, nbytes)

        monkeypatch.setattr(bucket, "read_range", read_range)
        assert summary(view.refresh()) == before
        assert done

    def test_a_torn_object_is_not_glued_to_the_next(self):
        bucket = self.filled()
        key = sorted(bucket.objects)[0]
        bucket.objects[key] = bucket.objects[key][:-5]
        before = summary(read(bucket))
        compact(bucket)
        after = summary(read(bucket))
        assert before == after
        assert after["dropped"] == 1
