"""What `verify` finds, and that a rerun mends it."""

import json
import random

import pytest

from gigatile.errors import RunRefused
from gigatile.ledger.reader import LedgerReader
from gigatile.ledger.state import PENDING
from gigatile.runs.directory import RunDirectory
from gigatile.runs.verify import verify
from gigatile.storage.local import FileJournal
from tests.runs.memory_store import MemoryStore, copy_tree
from tests.small_runs import BLOCKS, cli, document, entries, fingerprints, finished, run_small, tree


def problems(directory):
    report = verify(directory)
    assert report.to_json()["ok"] == (not report.problems)
    return report.problems


def mended(out, image, model, reference):
    assert run_small(image, model, out).complete
    assert problems(out) == ()
    return fingerprints(out) == fingerprints(reference)


def shards(directory):
    return sorted(path for path in (directory / "prediction.zarr").rglob("*") if path.is_file() and path.name.isdigit())


def test_an_unharmed_run_has_no_problems_and_every_shard_is_read(out):
    before = tree(out)
    report = verify(out)
    assert report.problems == ()
    assert report.complete
    assert report.checked == len(shards(out)) == sum(e["status"] == "done" for e in entries(out))
    assert tree(out) == before


@pytest.mark.parametrize("seed", range(12))
def test_a_flipped_bit_anywhere_in_a_shard_is_found_and_mended(out, image, model, reference, seed):
    choose = random.Random(seed)
    path = choose.choice(shards(out))
    content = bytearray(path.read_bytes())
    content[choose.randrange(len(content))] ^= 1 << choose.randrange(8)
    path.write_bytes(content)
    found = problems(out)
    assert any(str(path) in problem for problem in found)
    assert mended(out, image, model, reference)
    assert sorted(finished(out).values())[-2:] == [1, 2], "not the damaged block alone was done again"


@pytest.mark.parametrize("level", [0, 1])
@pytest.mark.parametrize("size", [0, 1, 19, -1])
def test_a_truncated_shard_is_found_and_mended(out, image, model, reference, level, size):  # noqa: PLR0917
    path = out / "prediction.zarr" / str(level) / "c" / "1" / "1"
    path.write_bytes(path.read_bytes()[:size])
    assert any(str(path) in problem for problem in problems(out))
    assert mended(out, image, model, reference)


@pytest.mark.parametrize("key", ["0/c/3/3", "1/c/0/1"])
def test_a_missing_shard_is_found_and_mended(out, image, model, reference, key):
    path = out / "prediction.zarr" / key
    path.unlink()
    assert any(f"{path}: missing" in problem for problem in problems(out))
    assert mended(out, image, model, reference)


def test_two_shards_that_changed_places_are_found(out):
    first, second = (out / "prediction.zarr" / "0" / "c" / "2" / name for name in "12")
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)
    found = problems(out)
    assert any(str(first) in problem for problem in found)
    assert any(str(second) in problem for problem in found)


def test_a_file_under_a_block_recorded_as_empty_is_found_and_mended(out, image, model, reference):
    extra = out / "prediction.zarr" / "0" / "c" / "0" / "0"
    extra.write_bytes((out / "prediction.zarr" / "0" / "c" / "3" / "3").read_bytes())
    assert any(str(extra) in problem for problem in problems(out))
    assert mended(out, image, model, reference)


@pytest.mark.parametrize("name", ["0/c/9/9", "0/c/3/33", "1/c/7", "7/c/0/0", "notes.txt"])
def test_a_file_that_no_block_owns_is_found(out, name):
    extra = out / "prediction.zarr" / name
    extra.parent.mkdir(parents=True, exist_ok=True)
    extra.write_bytes(b"x")
    assert any(str(extra) in problem for problem in problems(out))


@pytest.mark.parametrize("name", ["zarr.json", "0/zarr.json", "1/zarr.json"])
def test_missing_metadata_is_found_and_mended(out, image, model, reference, name):
    (out / "prediction.zarr" / name).unlink()
    assert any(name in problem for problem in problems(out))
    assert mended(out, image, model, reference)


@pytest.mark.parametrize("name", ["zarr.json", "0/zarr.json", "1/zarr.json"])
def test_metadata_that_were_changed_are_found(out, name):
    path = out / "prediction.zarr" / name
    content = path.read_bytes()
    for changed in (content[:-20], content.replace(b"1", b"2", 1), b""):
        path.write_bytes(changed)
        assert any(str(path) in problem for problem in problems(out))


def segment_of(directory, block):
    """The segment that says that a block is done."""
    words = b'"status":"done","id"', f'"block":"{block}"'.encode()
    (found,) = [path for path in (directory / "ledger").iterdir() if all(word in path.read_bytes() for word in words)]
    return found


def test_a_missing_record_is_found_and_mended(out, image, model, reference):
    segment = segment_of(out, "0/2/2")
    lines = segment.read_bytes().splitlines(keepends=True)
    kept = [line for line in lines if b'"block":"0/2/2"' not in line]
    assert len(kept) == len(lines) - 1
    segment.write_bytes(b"".join(kept))
    assert any("0/2/2" in problem and "no record" in problem for problem in problems(out))
    assert mended(out, image, model, reference)


def test_a_torn_record_is_found_and_its_block_done_again(out, image, model, reference):
    segment = segment_of(out, "1/1/1")
    segment.write_bytes(segment.read_bytes()[:-7])
    found = problems(out)
    assert any("torn" in problem for problem in found)
    assert run_small(image, model, out).complete
    assert fingerprints(out) == fingerprints(reference)


def test_a_failed_block_is_a_problem_and_its_record_stays(folder, tmp_path):
    def raises(batch):
        raise_now = batch.shape[1] == 3 and batch.max() > 0.99
        if raise_now:
            raise ValueError("no weights for this")
        return batch[:, :1]

    result = run_small(str(folder / "image.zarr"), raises, tmp_path / "out")
    assert result.status.failed
    assert sum("no weights for this" in problem for problem in problems(tmp_path / "out")) == result.status.failed
    assert not run_small(str(folder / "image.zarr"), raises, tmp_path / "out").complete


def test_damaged_records_are_revoked_in_one_append(out, monkeypatch):
    for name in ("1", "2", "3"):
        (out / "prediction.zarr" / "0" / "c" / "2" / name).write_bytes(b"torn")
    appended = []
    real = FileJournal.append
    monkeypatch.setattr(FileJournal, "append", lambda journal, lines: (appended.append(lines), real(journal, lines))[1])
    assert len(problems(out)) >= 3
    assert len(appended) == 1
    said = [entry for entry in entries(out) if entry["status"] == "damaged"]
    assert {"0/2/1", "0/2/2", "0/2/3"} == {entry["block"] for entry in said}


def test_of_very_many_problems_the_first_are_told_and_all_are_counted_and_mended(
    out, image, model, reference, monkeypatch
):
    monkeypatch.setattr("gigatile.runs.verify.PROBLEMS", 3)
    broken = shards(out)
    for path in broken:
        path.unlink()
    report = verify(out)
    assert len(report.problems) == 3
    assert report.count == len(broken) > 3
    assert f"and {len(broken) - 3} more" in str(report)
    assert report.to_json()["problem_count"] == len(broken)
    assert mended(out, image, model, reference)


class TestBucket:
    """The same of a run in a bucket."""

    @pytest.fixture
    def bucket(self, reference, monkeypatch):
        bucket = MemoryStore()
        copy_tree(reference, bucket)
        monkeypatch.setattr("gigatile.runs.directory.open_store", lambda place, durable: bucket)
        return bucket

    def test_an_unharmed_run_has_no_problems(self, bucket):
        before = dict(bucket.objects)
        report = verify("memory://bucket")
        assert report.problems == ()
        assert report.checked == sum("/c/" in key for key in bucket.objects) > 20
        assert bucket.objects == before

    @pytest.mark.parametrize("what", ["torn", "flipped", "missing", "strange"])
    def test_what_is_wrong_is_found_and_its_record_revoked(self, bucket, what):
        key = "prediction.zarr/0/c/2/2"
        content = bucket.objects.pop(key)
        if what == "torn":
            bucket.objects[key] = content[:-1]
        elif what == "flipped":
            bucket.objects[key] = bytes([content[0] ^ 1]) + content[1:]
        elif what == "strange":
            bucket.objects |= {key: content, "prediction.zarr/0/c/9/9": content}
            key = "prediction.zarr/0/c/9/9"
        found = problems("memory://bucket")
        assert found
        assert all(f"memory://bucket/{key}" in problem for problem in found)
        state = LedgerReader(bucket.below("ledger"), [(4, 5), (2, 3)]).scan()
        assert state.pending(0)[2, 2] == (what != "strange")
        assert state.count(PENDING) == (what != "strange")


def test_verifying_twice_says_the_same_until_it_is_mended(out):
    (out / "prediction.zarr" / "0" / "c" / "3" / "3").unlink()
    assert problems(out)
    assert problems(out)


def test_a_crash_between_the_two_marks_of_completeness_is_no_damage(out, image, model, reference, monkeypatch):
    path = out / "prediction.zarr" / "0" / "c" / "3" / "3"
    path.unlink()
    write = RunDirectory.write

    def dies(directory, content):
        if content["complete"]:
            raise KeyboardInterrupt
        write(directory, content)

    monkeypatch.setattr(RunDirectory, "write", dies)
    with pytest.raises(KeyboardInterrupt):
        run_small(image, model, out)
    monkeypatch.undo()
    assert problems(out) == ()
    assert not document(out)["complete"]
    assert mended(out, image, model, reference)


def test_a_result_that_is_not_marked_complete_though_the_run_is_is_found(out):
    path = out / "prediction.zarr" / "zarr.json"
    path.write_text(path.read_text().replace('"complete": true', '"complete": false'))
    assert any("not marked complete" in problem for problem in problems(out))


def test_a_directory_without_a_run_is_refused(tmp_path):
    (tmp_path / "other").write_text("x")
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(RunRefused):
            verify(path)
    assert tree(tmp_path) == {"other": b"x"}


def test_the_command_answers_3_for_damage_and_0_without(out):
    text, _ = cli("verify", str(out), "--json", cwd=out)
    assert json.loads(text)["ok"] is True
    (out / "prediction.zarr" / "0" / "c" / "3" / "3").write_bytes(b"")
    text, _ = cli("verify", str(out), "--json", cwd=out, code=3)
    assert "0/3/3" in " ".join(json.loads(text)["problems"])
    assert document(out)["layout"]["blocks"] == BLOCKS
