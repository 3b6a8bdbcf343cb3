"""The summary of a cohort, and what status and verify make of it."""

import csv
import json
import shutil
from dataclasses import fields, replace
from io import StringIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gigatile.cohorts.inputs import InputEntry, resolve_inputs
from gigatile.cohorts.rows import STATES, Blocks, ImageRow, decode_json, encode_csv, encode_json, paragraph, totals
from gigatile.cohorts.status import SHOWN, cohort_status, cohort_verify
from gigatile.cohorts.summary import Summary
from gigatile.errors import RunRefused, StorageError
from gigatile.runs.status import Status, status
from gigatile.storage.local import LocalStore


class Clock:
    """A clock that tests move."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


class CountingStore(LocalStore):
    """Counts what is written, and is full when told so."""

    def __init__(self, root):
        super().__init__(root)
        object.__setattr__(self, "written", [])
        object.__setattr__(self, "full", [])

    __slots__ = ("full", "written")

    def write(self, key, content):
        if self.full:
            raise StorageError(key, expected="room", found="none")
        self.written.append(key)
        super().write(key, content)


def entries(*names):
    return [InputEntry(name, f"slides/{name}.svs") for name in names]


def ended(**changes):
    """The status of an image of 20 blocks, complete unless told otherwise."""
    found = Status("x", True, 20, 18, 2, 0, 70, 1.0, 1.4, 1000, {"infer": 1.5, "read": 0.5}, 0.25, 0.0, 40)
    return replace(found, **changes)


def document(store):
    return json.loads((store.root / "summary.json").read_text())


def table(store):
    return list(csv.DictReader(StringIO((store.root / "summary.csv").read_text())))


@pytest.fixture
def store(tmp_path):
    return CountingStore(tmp_path / "cohort")


# The documents


def test_images_are_written_before_anything_else_happens(store):
    summary = Summary.open(store)
    assert not store.root.exists()
    summary.register(entries("a", "b"))
    assert [(image["name"], image["state"]) for image in document(store)["images"]] == [
        ("a", "pending"),
        ("b", "pending"),
    ]
    assert [row["name"] for row in table(store)] == ["a", "b"]
    assert document(store)["complete"] is False


def test_what_becomes_of_an_image_is_in_both_documents(store):
    with Summary.open(store) as summary:
        summary.register(entries("a", "b", "c", "d"))
        summary.begin("a", Blocks(20), 132_000)
        assert (summary["a"].state, summary["a"].ended) == ("partial", None)
        summary.finish("a", ended())
        summary.begin("b", Blocks(20, done=3), 5)
        summary.progress("b", Blocks(20, done=7), 30)
        summary.begin("c", Blocks(20), 7)
        summary.finish("c", ended(complete=False, done=16, failed=2, errors=("block 0/1/1: no weights\nfor this", "x")))
        summary.give_up("d", "failed", "slides/d.svs: expected a TIFF,\n found bytes.")
    a, b, c, d = document(store)["images"]
    assert (a["state"], a["blocks"]["done"], a["pixels"], a["seconds"], a["tiles_inferred"]) == (
        "complete",
        18,
        132_000,
        2,
        70,
    )
    assert a["started"].endswith("Z")
    assert a["ended"] >= a["started"]
    assert (b["state"], b["blocks"], b["tiles_inferred"], b["ended"]) == (
        "partial",
        {"total": 20, "done": 7, "empty": 0, "failed": 0, "pending": 13},
        30,
        None,
    )
    assert (c["state"], c["error"]) == ("partial", "block 0/1/1: no weights for this (and 1 more blocks)")
    assert (d["state"], d["error"], d["blocks"]["total"]) == (
        "failed",
        "slides/d.svs: expected a TIFF, found bytes.",
        0,
    )
    sums = document(store)["totals"]
    assert sums["images"] == {"total": 4, "complete": 1, "partial": 2, "failed": 1, "refused": 0, "pending": 0}
    assert sums["blocks"] == {"total": 60, "done": 41, "empty": 4, "failed": 2, "pending": 13}
    assert (sums["pixels"], sums["tiles_inferred"]) == (132_012, 170)
    rows = table(store)
    assert [row["state"] for row in rows] == ["complete", "partial", "partial", "failed"]
    assert (rows[0]["blocks_total"], rows[0]["seconds"], rows[2]["blocks_failed"]) == ("20", "2.0", "2")
    assert rows[3]["error"] == d["error"]


def test_an_image_of_which_no_block_succeeded_has_failed(store):
    summary = Summary.open(store)
    summary.register(entries("a"))
    summary.finish("a", ended(complete=False, done=0, empty=0, failed=20, errors=("no",)))
    assert summary["a"].state == "failed"


def test_a_cohort_is_complete_when_all_its_images_are(store):
    summary = Summary.open(store)
    assert not summary.complete
    summary.register(entries("a", "b"))
    summary.finish("a", ended())
    assert not summary.complete
    summary.finish("b", ended())
    summary.flush()
    assert summary.complete
    assert document(store)["complete"] is True


rows = st.builds(
    ImageRow,
    name=st.just("a"),
    image=st.text(),
    location=st.text(),
    state=st.sampled_from(STATES),
    blocks=st.builds(Blocks, *[st.integers(0, 10**7)] * 4),
    pixels=st.integers(0, 10**13),
    seconds=st.floats(0, 1e9),
    stages=st.dictionaries(st.text(max_size=5), st.floats(0, 1e6), max_size=3),
    started=st.none() | st.text(max_size=20),
    error=st.text(),
    decoded_ratio=st.none() | st.floats(0, 10),
    ledger_bytes=st.integers(0, 10**10),
)


@given(rows)
def test_what_was_written_is_read_back(row):
    assert decode_json(encode_json([row]), "x") == [row]
    [line] = csv.DictReader(StringIO(encode_csv([row]).decode(), newline=""))
    assert line["state"] == row.state
    assert line["image"].removeprefix("'") == row.image.removeprefix("'")


def test_sums_are_those_of_the_rows_in_any_order():
    some = [
        ImageRow(n, n, n, state, Blocks(9, i, 1, 1), filled=i, pixels=i, seconds=i / 8, tiles_inferred=i)
        for i, (n, state) in enumerate(zip("abcde", STATES, strict=True))
    ]
    assert totals(some) == totals(some[::-1])
    assert totals(some)["blocks"] == {"total": 45, "done": 10, "empty": 5, "failed": 5, "pending": 25}
    assert totals(some)["filled"] == 10
    assert totals([])["images"]["total"] == 0


def test_no_spreadsheet_takes_a_file_name_for_a_formula():
    row = ImageRow("=1+1", "=HYPERLINK(1)", "x", error="@x")
    [line] = csv.DictReader(StringIO(encode_csv([row]).decode()))
    assert (line["name"], line["image"], line["error"]) == ("'=1+1", "'=HYPERLINK(1)", "'@x")


def test_errors_are_one_line_of_bounded_length():
    assert paragraph("a\n\n  b\tc ") == "a b c"
    assert len(paragraph("x" * 100_000)) == 2000


def test_secrets_of_urls_are_in_no_file(store):
    url = "https://ann:hunter2@host/a.tif?X-Amz-Signature=topsecret"
    with Summary.open(store) as summary:
        summary.register(resolve_inputs([url]).entries)
    content = b"".join(path.read_bytes() for path in store.root.iterdir())
    assert b"https://host/a.tif" in content
    assert not any(secret in content for secret in (b"hunter2", b"topsecret", b"ann"))


def test_names_that_are_no_utf8_can_be_written_and_are_known_again(tmp_path, store):
    folder = tmp_path / "s"
    folder.mkdir()
    (folder / "caf\udce9.tif").touch()
    with Summary.open(store) as summary:
        summary.register(resolve_inputs([str(folder)]).entries)
    again = resolve_inputs([str(folder)], known=Summary.open(store).known)
    assert [entry.name for entry in again.entries] == ["caf_udce9"]
    assert again.notes == ()


# Writing


def test_a_summary_is_written_every_few_seconds_and_not_at_each_block(store):
    clock = Clock()
    summary = Summary(store, (), clock)
    summary.register(entries("a"))
    summary.begin("a", Blocks(1000), 1)
    del store.written[:]
    for n in range(1000):
        clock.now += 0.01
        summary.progress("a", Blocks(1000, done=n), n)
    assert store.written.count("summary.json") == 3
    summary.close()
    assert store.written.count("summary.json") == 4
    assert document(store)["images"][0]["blocks"]["done"] == 999


def test_nothing_is_written_when_nothing_has_changed(store):
    summary = Summary.open(store)
    summary.register(entries("a"))
    del store.written[:]
    summary.flush()
    summary.close()
    assert store.written == []


def test_what_takes_long_to_write_is_written_less_often(store, monkeypatch):
    clock = Clock()
    summary = Summary(store, (), clock)
    summary.register(entries("a"))

    def slow(key, content):
        store.written.append(key)
        clock.now += 1

    monkeypatch.setattr(CountingStore, "write", lambda self, key, content: slow(key, content))
    clock.now += 10
    del store.written[:]
    for n in range(300):
        clock.now += 1
        summary.progress("a", Blocks(1000, done=n), n)
    assert 2 <= store.written.count("summary.json") <= 4


def test_a_full_disk_is_told_and_what_could_not_be_written_is_written_later(store):
    clock = Clock()
    summary = Summary(store, (), clock)
    summary.register(entries("a"))
    clock.now += 10
    store.full.append(True)
    with pytest.raises(StorageError):
        summary.begin("a", Blocks(3), 1)
    with pytest.raises(ValueError, match="mine") as error, summary:
        raise ValueError("mine")
    assert "found none" in error.value.__notes__[0]
    store.full.clear()
    summary.close()
    assert document(store)["images"][0]["state"] == "partial"


def test_many_threads_may_tell_of_images(store):
    from concurrent.futures import ThreadPoolExecutor

    names = [f"i{n}" for n in range(40)]
    clock = Clock()
    summary = Summary(store, (), clock)
    summary.register(entries(*names))

    def tell(name):
        for n in range(20):
            clock.now += 1
            summary.progress(name, Blocks(20, done=n + 1), n)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(tell, names))
    summary.close()
    assert {image["blocks"]["done"] for image in document(store)["images"]} == {20}


# Reading back, and adding


def test_images_of_earlier_runs_stay_and_keep_their_names(tmp_path, store):
    for path in ("old/a.svs", "new/a.svs", "new/b.svs"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).touch()
    first = Summary.open(store)
    first.register(resolve_inputs([str(tmp_path / "old")], known=first.known).entries)
    first.finish("a", ended())
    first.close()
    second = Summary.open(store)
    second.register(resolve_inputs([str(tmp_path / "new")], known=second.known).entries)
    assert [(image["name"], image["state"]) for image in document(store)["images"]] == [
        ("a", "complete"),
        ("new__a", "pending"),
        ("b", "pending"),
    ]


def test_what_failed_without_having_begun_is_pending_again(store):
    summary = Summary.open(store)
    summary.register([*entries("a", "b"), InputEntry("c", "c.svs", problem="list.csv, line 3: not there.")])
    assert (summary["c"].state, summary["c"].error) == ("failed", "list.csv, line 3: not there.")
    summary.give_up("a", "failed", "no TIFF")
    summary.begin("b", Blocks(3), 1)
    summary.give_up("b", "refused", "another run")
    summary.register(entries("a", "b", "c"))
    assert [(row.state, row.error) for row in summary.rows] == [
        ("pending", ""),
        ("refused", "another run"),
        ("pending", ""),
    ]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{}",
        b'{"format": "gigatile-cohort", "version": 1}',
        b'{"format": "other", "version": 1, "images": []}',
        b'{"format": "gigatile-cohort", "version": 2, "images": []}',
        b'{"format": "gigatile-cohort", "version": 1, "images": [3]}',
        b'{"x": ' + b"[" * 100_000,
        b"\xff\xfe",
    ],
)
def test_a_damaged_summary_is_one_clear_error(store, content):
    store.root.mkdir()
    (store.root / "summary.json").write_bytes(content)
    with pytest.raises(RunRefused, match=r"summary\.json"):
        Summary.open(store)


@pytest.mark.parametrize("name", ["../x", "/etc", "a/b", "..", "", "a\\b", "summary.json", "prediction.zarr"])
def test_names_in_a_summary_cannot_leave_the_directory(store, name):
    store.root.mkdir()
    content = encode_json([ImageRow("a", "x", "x")]).replace(b'"name":"a"', b'"name":' + json.dumps(name).encode())
    (store.root / "summary.json").write_bytes(content)
    with pytest.raises(RunRefused, match="safe names"):
        Summary.open(store)


def test_a_truncated_summary_never_passes_for_a_whole_one():
    whole = encode_json([ImageRow(name, name, name) for name in "abc"])
    for end in range(len(whole.rstrip()) - 1):
        with pytest.raises(RunRefused):
            decode_json(whole[:end], "x")


@pytest.mark.parametrize(
    ("files", "told"),
    [
        (["run.json", "ledger/x"], "the run of one image"),
        (["notes.txt"], "notes.txt"),
        (["a/run.json", "photos/x.jpg"], "photos"),
    ],
)
def test_a_directory_of_something_else_is_refused(store, files, told):
    for file in files:
        (store.root / file).parent.mkdir(parents=True, exist_ok=True)
        (store.root / file).touch()
    with pytest.raises(RunRefused, match=told):
        Summary.open(store)


def test_a_cohort_whose_summary_was_lost_is_taken_up_again(store):
    for file in ("a/run.json", "a/ledger/x", "b/run.json", "lock", "summary.csv"):
        (store.root / file).parent.mkdir(parents=True, exist_ok=True)
        (store.root / file).touch()
    assert Summary.open(store).rows == ()


def test_a_file_in_the_place_of_the_directory_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RunRefused, match="found a file"):
        Summary.open(LocalStore(tmp_path / "file"))


# Status and verify


@pytest.fixture
def cohort(store, reference):
    """Two finished runs, and an image that could not be read."""
    summary = Summary.open(store)
    summary.register(entries("a", "b", "bad"))
    for name in "ab":
        shutil.copytree(reference, store.root / name)
        summary.begin(name, Blocks(20), 132_000)
        summary.finish(name, status(store.root / name))
    summary.give_up("bad", "failed", "slides/bad.svs: expected a TIFF, found 3 bytes.")
    summary.close()
    return store


def damage(run):
    shard = max((path for path in (run / "prediction.zarr" / "0").rglob("c/*/*")), key=lambda path: path.stat().st_size)
    content = bytearray(shard.read_bytes())
    content[len(content) // 3] ^= 0xFF
    shard.write_bytes(content)


def test_status_has_the_keys_of_one_image_and_a_list_of_all(cohort, reference):
    one, found = status(reference), cohort_status(cohort).to_json()
    assert one.to_json().keys() <= found.keys()
    assert found["blocks"].keys() == one.to_json()["blocks"].keys()
    assert found["complete"] is False
    assert found["blocks"]["done"] == 2 * one.done
    assert found["tiles_inferred"] == 2 * one.tiles_inferred
    assert found["overcompute"] == pytest.approx(one.overcompute)
    assert found["decoded_ratio"] == pytest.approx(one.decoded_ratio)
    assert found["seam_score"] == pytest.approx(one.seam_score)
    assert found["peak_rss_bytes"] == one.peak_rss_bytes
    assert [(image["name"], image["state"]) for image in found["images"]] == [
        ("a", "complete"),
        ("b", "complete"),
        ("bad", "failed"),
    ]
    assert found["states"]["complete"] == 2
    json.dumps(found, allow_nan=False)


def test_status_for_people_counts_first_and_then_names_what_is_not_complete(cohort):
    lines = str(cohort_status(cohort)).splitlines()
    assert lines[0].endswith("not complete")
    assert lines[1] == "images      2 complete, 0 partial, 1 failed, 0 refused, 0 pending of 3"
    assert lines[2].startswith("blocks      ")
    assert lines[-1] == "failed      bad (slides/bad.svs): slides/bad.svs: expected a TIFF, found 3 bytes."


def test_status_names_at_most_twenty_images(store):
    summary = Summary.open(store)
    summary.register(entries(*(f"i{n}" for n in range(50))))
    summary.give_up("i49", "failed", "no")
    summary.close()
    lines = [line for line in str(cohort_status(store)).splitlines() if line.startswith(("failed ", "pending "))]
    assert len(lines) == SHOWN
    assert lines[0] == "failed      i49 (slides/i49.svs): no"
    assert "and 30 more" in str(cohort_status(store))


def test_status_believes_a_ledger_that_knows_more_than_the_summary(store, reference):
    """As after a crash of the client, whose workers went on."""
    summary = Summary.open(store)
    summary.register(entries("a"))
    summary.begin("a", Blocks(20), 132_000)
    summary.close()
    shutil.copytree(reference, store.root / "a")
    [row] = cohort_status(store).rows
    assert (row.state, row.blocks.total) == ("complete", 20)


def test_status_reads_no_ledger_of_an_image_that_the_summary_knows(cohort, monkeypatch):
    def never(directory):
        raise AssertionError(directory)

    monkeypatch.setattr("gigatile.runs.status.status", never)
    assert len(cohort_status(cohort).rows) == 3


def test_a_pyramid_that_has_to_be_mended_is_not_complete(cohort):
    shard = max((cohort.root / "b" / "prediction.zarr" / "1").rglob("c/*/*"))
    shard.write_bytes(shard.read_bytes()[:-1])
    assert cohort_verify(cohort).count > 0
    found = cohort_status(cohort)
    assert found.rows[1].state == "partial"
    assert "b (slides/b.svs): its pyramid is not finished" in str(found)


def test_an_image_whose_directory_is_gone_is_not_complete(cohort):
    shutil.rmtree(cohort.root / "b")
    found = cohort_status(cohort)
    assert [row.state for row in found.rows] == ["complete", "partial", "failed"]
    assert "run.json is missing" in found.rows[1].error
    assert "b: " in cohort_verify(cohort).problems[0]


def test_verify_finds_a_damaged_shard_and_status_knows_from_then_on(cohort):
    assert cohort_verify(cohort).count == 0
    damage(cohort.root / "b")
    report = cohort_verify(cohort)
    assert report.count == 1
    assert report.problems[0].startswith("b: block ")
    found = report.to_json()
    assert (found["ok"], found["complete"], found["problem_count"]) == (False, False, 1)
    assert [(image["name"], image["ok"]) for image in found["images"]] == [("a", True), ("b", False)]
    assert "1 problems in" in str(report)
    assert [row.state for row in cohort_status(cohort).rows] == ["complete", "partial", "failed"]


def test_a_run_that_cannot_be_read_does_not_end_the_check_of_the_others(cohort):
    (cohort.root / "a" / "run.json").write_text("{")
    damage(cohort.root / "b")
    assert [problem.split(":")[0] for problem in cohort_verify(cohort).problems] == ["a", "b"]


def test_nothing_wrong_is_said_in_one_line(cohort):
    shards = cohort_verify(cohort).checked
    assert shards > 0
    assert str(cohort_verify(cohort)) == (
        f"{cohort.name}: {shards} shards of 2 images checked, nothing wrong; not complete yet, but unharmed"
    )


def test_a_directory_without_a_cohort_is_refused(tmp_path):
    for look in (cohort_status, cohort_verify):
        with pytest.raises(RunRefused, match=r"no summary\.json"):
            look(LocalStore(tmp_path / "none"))


def test_every_field_of_a_row_is_in_the_json():
    row = ImageRow("a", "a", "a")
    assert {field.name for field in fields(ImageRow)} == row.to_json().keys()
