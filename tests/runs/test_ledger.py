"""The ledger survives whatever happens to its writers, and is never read wrong."""

import json
import pickle
import tempfile
import threading
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gigatile.engine.block import BlockKey, BlockRecord
from gigatile.runs.ledger import Ledger, LedgerState


def record(row, status="done", **fields):
    key = BlockKey(0, row, 2)
    return BlockRecord(key, status, pixels=9216, **{"nbytes": 10, "digest": f"{row:064x}", **fields})


def written(folder, *records):
    ledger = Ledger(folder, durable=False)
    for item in records:
        ledger.append(item)
    return ledger


def line(**entry):
    body = json.dumps(entry).encode()
    return b"%08x %s\n" % (zlib.crc32(body), body)


def test_what_was_appended_is_read(tmp_path):
    records = [
        record(0, seconds={"read": 0.25}, units_decoded=3, tiles=4, skipped=1, peak_rss_bytes=5),
        record(1, "empty", nbytes=0, digest=""),
        record(2, "failed", error="no weights: “ü”\nfor this", trace="Traceback\n  line"),
    ]
    state = written(tmp_path, *records).read()
    assert list(state.records()) == records
    assert state.dropped == 0
    assert state.record(BlockKey(0, 3, 2)) is None


def test_a_record_is_one_line_of_its_crc_and_json(tmp_path):
    written(tmp_path, record(1, "failed", error="a\nb"))
    (segment,) = tmp_path.iterdir()
    (text,) = segment.read_bytes().splitlines()
    assert text[:8] == b"%08x" % zlib.crc32(text[9:])
    assert json.loads(text[9:])["block"] == "0/1/2"


def test_every_writer_has_a_segment_of_its_own(tmp_path):
    first, second = written(tmp_path, record(0)), written(tmp_path, record(1))
    third = pickle.loads(pickle.dumps(first))
    third.append(record(2))
    second.append(record(3))
    assert len(list(tmp_path.iterdir())) == 3
    assert len(list(first.read().records())) == 4


def test_threads_do_not_tear_each_others_records(tmp_path):
    ledger = Ledger(tmp_path, durable=False)
    start = threading.Barrier(8)

    def write(part):
        start.wait()
        for row in range(part, 400, 8):
            ledger.append(record(row, trace="x" * 5000))

    threads = [threading.Thread(target=write, args=(part,)) for part in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    state = ledger.read()
    assert len(list(state.records())) == 400
    assert state.dropped == 0


def test_a_tail_torn_at_any_byte_costs_that_record_alone(tmp_path):
    written(tmp_path, record(0), record(1), record(2, "failed", error="because"))
    (segment,) = tmp_path.iterdir()
    content = segment.read_bytes()
    ends = [i + 1 for i, byte in enumerate(content) if byte == ord("\n")]
    for size in range(len(content) + 1):
        segment.write_bytes(content[:size])
        state = Ledger(tmp_path, durable=False).read()
        whole = sum(end <= size for end in ends)
        assert [found.block.row for found in state.records()] == list(range(whole)), size
        assert state.dropped == (size not in (0, *ends)), size


def test_a_byte_changed_anywhere_is_never_read_as_something_else(tmp_path):
    records = [record(0), record(1, "failed", error="because"), record(2)]
    written(tmp_path, *records)
    (segment,) = tmp_path.iterdir()
    content = segment.read_bytes()
    for place in range(len(content)):
        damaged = bytearray(content)
        damaged[place] ^= 1 << place % 8
        segment.write_bytes(damaged)
        state = Ledger(tmp_path, durable=False).read()
        assert all(found in records for found in state.records())
        assert state.dropped >= 1, place


def test_a_torn_tail_does_not_swallow_what_the_next_writer_says(tmp_path):
    written(tmp_path, record(0), record(1))
    (segment,) = tmp_path.iterdir()
    segment.write_bytes(segment.read_bytes()[:-5])
    state = written(tmp_path, record(2)).read()
    assert [found.block.row for found in state.records()] == [0, 2]


def test_done_wins_over_failed_whichever_came_first(tmp_path):
    written(tmp_path / "a", record(0, "failed", error="first"), record(0))
    written(tmp_path / "b", record(0), record(0, "failed", error="later"))
    for name in "ab":
        assert Ledger(tmp_path / name, durable=False).read().record(BlockKey(0, 0, 2)).status == "done"


def test_a_damaged_block_is_to_be_done_again(tmp_path):
    ledger = written(tmp_path, record(0), record(1))
    key = BlockKey(0, 0, 2)
    ledger.revoke(key, ledger.read().identities(key), "damaged")
    state = ledger.read()
    assert state.record(key) is None
    assert state.record(BlockKey(0, 1, 2)) is not None
    ledger.append(record(0, digest="f" * 64))
    assert ledger.read().record(key).digest == "f" * 64


def test_a_damaged_block_that_had_failed_before_it_was_done_does_not_count_as_failed(tmp_path):
    ledger = written(tmp_path, record(0, "failed", error="first"), record(0))
    key = BlockKey(0, 0, 2)
    ledger.revoke(key, ledger.read().identities(key), "damaged")
    assert ledger.read().record(key) is None


def test_a_retried_block_says_why_it_failed_the_last_time(tmp_path):
    key = BlockKey(0, 0, 2)
    for attempt in range(6):
        ledger = written(tmp_path, record(0, "failed", error=f"attempt {attempt}"))
        state = ledger.read()
        assert state.record(key).error == f"attempt {attempt}"
        ledger.revoke(key, state.identities(key), "retried")
    assert ledger.read().record(key) is None


@st.composite
def histories(draw):
    """Entries of a few blocks: finished by several writers, failed several times, revoked in part."""
    ids = [f"{number:012x}" for number in range(draw(st.integers(1, 8)))]
    found = []
    for identity in ids:
        status = draw(st.sampled_from(["done", "empty", "failed", "damaged", "retried"]))
        block = f"{draw(st.integers(0, 1))}/0/{draw(st.integers(0, 1))}"
        if status in ("damaged", "retried"):
            revoked = draw(st.lists(st.sampled_from(ids), unique=True))
            found.append({"id": identity, "block": block, "status": status, "revokes": revoked})
        else:
            fields = {"error": f"error {identity}"} if status == "failed" else {"digest": identity}
            found.append({"id": identity, "block": block, "status": status, "pixels": 1, **fields})
    return found


@settings(max_examples=80, deadline=None)
@given(history=histories(), data=st.data())
def test_neither_the_order_of_records_nor_their_segments_matter(history, data):
    keys = [BlockKey(level, 0, col) for level in range(2) for col in range(2)]
    states = []
    for _ in range(2):
        with tempfile.TemporaryDirectory() as folder:
            for entry in data.draw(st.permutations(history)):
                segment = Path(folder, f"{data.draw(st.integers(0, 2))}.jsonl")
                with segment.open("ab") as file:
                    file.write(line(**entry))
            states.append(Ledger(Path(folder), durable=False).read())
    first, second = states
    assert [first.record(key) for key in keys] == [second.record(key) for key in keys]
    assert list(first.records()) == list(second.records())


def test_reading_where_there_is_no_ledger_finds_nothing(tmp_path):
    assert Ledger(tmp_path / "none", durable=False).read() == LedgerState()


@pytest.mark.parametrize("durable", [True, False])
def test_a_record_is_in_the_file_when_append_returns(tmp_path, durable):
    ledger = Ledger(tmp_path, durable=durable)
    for count in range(1, 4):
        ledger.append(record(count))
        assert len(list(Ledger(tmp_path, durable=False).read().records())) == count


def test_no_file_stays_open_when_a_ledger_is_closed_or_forgotten(tmp_path):
    def held():
        return len(list(Path("/proc/self/fd").iterdir()))

    before = held()
    first, second = written(tmp_path, record(0)), written(tmp_path, record(1))
    assert held() == before + 2
    first.close()
    del second
    assert held() == before
    first.append(record(2))
    assert len(list(first.read().records())) == 3
