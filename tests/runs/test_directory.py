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
