"""Whose directory it is, and who is working in it."""

import os
import shutil
import signal
import subprocess
import sys
import threading

import pytest

import gigatile as gt
from gigatile.errors import RunRefused, StorageError, UsageError
from gigatile.runs.directory import RunDirectory
from gigatile.runs.status import status
from gigatile.storage.store import Entry
from tests.runs.memory_store import MemoryStore, copy_tree
from tests.small_runs import TILING, document, fingerprints, run_small, temporary_files, tree

HOLD = """
import sys
from gigatile.runs.directory import RunDirectory
with RunDirectory.at(sys.argv[1]).locked():
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """A process that holds a directory until its stdin is closed."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "held")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


FOREIGN = {
    "files of somebody": {"notes.txt": b"mine", "pictures/a.png": b"x"},
    "a run.json of another program": {"run.json": b'{"id": 7}', "prediction.zarr/0": b"x", "ledger/a": b"y"},
    "a run.json that is no JSON": {"run.json": b"{", "prediction.zarr/0": b"x"},
}


@pytest.mark.parametrize("existing", ["resume", "retry-failed", "overwrite"])
@pytest.mark.parametrize("content", FOREIGN.values(), ids=FOREIGN)
def test_a_directory_of_somebody_else_is_refused_and_untouched(tmp_path, image, model, content, existing):
    if existing == "overwrite" and "run.json" in content:
        pytest.skip("--overwrite may delete a directory that has a run.json, whatever is in it")
    for name, data in content.items():
        path = tmp_path / "out" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    with pytest.raises(RunRefused) as raised:
        run_small(image, model, tmp_path / "out", existing=existing)
    assert str(tmp_path / "out") in str(raised.value)
    assert tree(tmp_path / "out") == content


def test_a_file_where_the_directory_shall_be_is_refused(tmp_path, image, model):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(RunRefused):
        run_small(image, model, tmp_path / "out")
    assert (tmp_path / "out").read_text() == "mine"


def test_a_directory_that_cannot_be_made_is_a_storage_error(image, model):
    with pytest.raises(StorageError):
        run_small(image, model, "/proc/nowhere/out")


def test_an_empty_directory_is_taken(tmp_path, image, model):
    (tmp_path / "out").mkdir()
    assert run_small(image, model, tmp_path / "out").complete


def test_a_directory_in_use_is_refused_with_the_pid_of_its_user(tmp_path, image, model, holder):
    with pytest.raises(RunRefused) as raised:
        run_small(image, model, tmp_path / "held")
    assert f"process {holder.pid} " in str(raised.value)
    assert not (tmp_path / "held" / "run.json").exists()


def test_a_directory_in_use_is_not_overwritten(out, image, model):
    before = fingerprints(out)
    with RunDirectory.at(out).locked(), pytest.raises(RunRefused):
        run_small(image, model, out, existing="overwrite")
    assert fingerprints(out) == before


def test_the_lock_of_a_killed_process_is_taken_over(tmp_path, image, model, holder):
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    assert run_small(image, model, tmp_path / "held").complete


def test_the_lock_is_let_go_of_after_a_refusal_and_after_an_error(out, image, model):
    with pytest.raises(RunRefused):
        run_small(image, model, out, output="probabilities")
    with pytest.raises(UsageError):
        run_small(image, model, out, executor="nonsense")
    assert run_small(image, model, out).complete


def test_two_threads_of_a_process_do_not_work_in_one_directory(tmp_path, image, model):
    inside, leave = threading.Event(), threading.Event()

    def wait(event):
        inside.set()
        leave.wait(30)

    plan = gt.plan(image, model, TILING)
    first = threading.Thread(target=lambda: gt.run(plan, tmp_path / "out", on_event=wait, durable=False))
    first.start()
    try:
        assert inside.wait(30)
        with pytest.raises(RunRefused):
            run_small(image, model, tmp_path / "out")
    finally:
        leave.set()
        first.join()
    assert document(tmp_path / "out")["complete"]


def test_overwrite_starts_afresh_with_other_options(out, image, model, tmp_path):
    result = run_small(image, model, out, existing="overwrite", output="probabilities")
    assert result.complete
    assert result.prediction.ndim == 3
    run_small(image, model, tmp_path / "other", output="probabilities")
    assert fingerprints(out) == fingerprints(tmp_path / "other")


def test_overwrite_leaves_files_of_the_user_alone(out, image, model):
    (out / "notes.txt").write_text("mine")
    assert run_small(image, model, out, existing="overwrite", output="probabilities").complete
    assert (out / "notes.txt").read_text() == "mine"


def test_overwrite_where_nothing_is_begins_a_run(tmp_path, image, model):
    assert run_small(image, model, tmp_path / "out", existing="overwrite").complete


@pytest.mark.parametrize("survivors", [1, 4, 9, 30])
def test_an_interrupted_overwrite_can_be_repeated_and_resumed(  # noqa: PLR0917  fixtures
    out, image, model, reference, monkeypatch, survivors
):
    """The deletion dies after some files; the directory is still known as ours and is never trusted too far."""
    real, left = os.unlink, [survivors]

    def unlink(*arguments, **how):
        if not left[0]:
            raise OSError(5, "Input/output error")
        left[0] -= 1
        return real(*arguments, **how)

    monkeypatch.setattr(os, "unlink", unlink)
    with pytest.raises(StorageError):
        run_small(image, model, out, existing="overwrite")
    monkeypatch.undo()
    assert not status(out).complete
    spared = shutil.copytree(out, out.parent / "spared")
    assert run_small(image, model, out, existing="overwrite").complete
    assert fingerprints(out) == fingerprints(reference)
    assert run_small(image, model, spared).complete
    assert fingerprints(spared) == fingerprints(reference)


def test_leftovers_of_killed_writers_are_removed_and_files_of_the_user_are_not(out, image, model):
    (out / "prediction.zarr" / "0" / "c" / "0" / ".1.123-abcdef.tmp").write_bytes(b"half a shard")
    (out / ".run.json.123-abcdef.tmp").write_bytes(b"half")
    (out / "notes.tmp").write_bytes(b"mine")
    assert run_small(image, model, out).complete
    assert temporary_files(out) == [str(out / "notes.tmp")]


class TestBucket:
    """The same guards where there are objects and no directories."""

    def test_a_prefix_with_objects_and_no_run_json_is_refused_and_untouched(self):
        bucket = MemoryStore(objects={"notes.txt": b"mine", "a/b.png": b"x"})
        for action in (RunDirectory(bucket).read, RunDirectory(bucket).clear, RunDirectory(bucket).locked().__enter__):
            with pytest.raises(RunRefused, match=r"memory://bucket.*no run.json, but a/b.png, notes.txt"):
                action()
        assert bucket.objects == {"notes.txt": b"mine", "a/b.png": b"x"}

    def test_an_empty_prefix_is_taken_and_its_lock_is_no_stranger(self):
        run = RunDirectory(MemoryStore())
        assert run.read() is None
        with run.locked():
            assert run.read() is None
            run.write({"fingerprint": "x"})
        assert run.read() == {"fingerprint": "x"}

    def test_of_very_many_strangers_only_the_first_are_listed(self):
        class Endless(MemoryStore):
            def entries(self, prefix=""):
                for number in range(10):
                    assert number < 5, "listed on and on"
                    yield Entry(f"scan-{number}.tif", 1)

        with pytest.raises(RunRefused, match=r"scan-0.tif, scan-1.tif, scan-2.tif and more"):
            RunDirectory(Endless()).read()

    def test_clearing_deletes_what_runs_write_and_nothing_else(self):
        kept = {"run.json": b'{"fingerprint": "x"}', "notes.txt": b"mine", "ledgers/a": b"mine"}
        ours = {"ledger/a": b"x", "prediction.zarr/0/c/0/0": b"x", "models/m.onnx": b"x"}
        bucket = MemoryStore(objects={**kept, **ours})
        RunDirectory(bucket).clear()
        assert bucket.objects == kept

    def test_digests_of_metadata_are_those_of_the_same_result_on_a_disk(self, reference):
        bucket = MemoryStore()
        copy_tree(reference, bucket)
        digests = RunDirectory(bucket).metadata_digests()
        assert digests == RunDirectory.at(reference).metadata_digests() == document(reference)["metadata"]
        assert set(digests) == {"zarr.json", "0/zarr.json", "1/zarr.json"}

    def test_a_lost_document_of_one_level_does_not_hide_those_of_the_next(self, reference):
        bucket = MemoryStore()
        copy_tree(reference, bucket)
        del bucket.objects["prediction.zarr/0/zarr.json"]
        assert set(RunDirectory(bucket).metadata_digests()) == {"zarr.json", "1/zarr.json"}
