"""A disk that is full, or files that may not grow: the run stops, says so, and is finished later."""

import subprocess
import sys

import pytest

from gigatile.errors import StorageError
from gigatile.runs.verify import verify
from tests.small_runs import (
    CLI,
    TILING_WORDS,
    cli,
    document,
    entries,
    fingerprints,
    finished,
    run_small,
    temporary_files,
)

LIMITED = "import resource, os, sys; n = int(sys.argv[1]); resource.setrlimit(resource.RLIMIT_FSIZE, (n, n)); \
os.execv(sys.argv[2], sys.argv[2:])"


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 400 KiB."""
    path = tmp_path / "disk"
    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=400k", "gigatile-test", str(path)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    yield path
    subprocess.run(["umount", str(path)], check=True)


def grow(path):
    subprocess.run(["mount", "-o", "remount,size=20m", str(path)], check=True)


@pytest.fixture(scope="module")
def expected(tmp_path_factory, image, model):
    out = tmp_path_factory.mktemp("ample") / "out"
    run_small(image, model, out, output="probabilities")
    return fingerprints(out)


def check_finished(out, expected):
    assert fingerprints(out) == expected
    assert document(out)["complete"]
    assert temporary_files(out) == []
    assert [problem for problem in verify(out).problems if "torn" not in problem] == []


def test_a_full_disk_stops_the_run_and_space_finishes_it(small_disk, image, model, expected):
    out = small_disk / "out"
    with pytest.raises(StorageError) as raised:
        run_small(image, model, out, output="probabilities")
    assert "ENOSPC" in str(raised.value)
    assert "run the same command again" in str(raised.value)
    assert not any(entry["status"] == "failed" for entry in entries(out)), "a full disk is no fault of a block"
    kept = finished(out)
    assert kept
    grow(small_disk)
    assert run_small(image, model, out, output="probabilities").complete
    check_finished(out, expected)
    assert all(finished(out)[block] == 1 for block in kept)


@pytest.mark.parametrize("executor", ["threads", "processes"])
def test_the_command_exits_with_1_on_a_full_disk(  # noqa: PLR0917  fixtures
    small_disk, image, model, folder, expected, executor
):
    words = ("run", image, "-o", str(small_disk / "out"), "--model", model, "--output", "probabilities",
             *TILING_WORDS, "--executor", executor, "--workers", "1", "--progress", "none")  # fmt: skip
    _, err = cli(*words, cwd=folder, code=1)
    assert "ENOSPC" in err
    assert "Traceback" not in err
    grow(small_disk)
    cli(*words, cwd=folder)
    check_finished(small_disk / "out", expected)


def test_a_limit_on_the_size_of_files_is_a_storage_error(tmp_path, image, model, folder, expected):
    words = ["run", image, "-o", str(tmp_path / "out"), "--model", model, "--output", "probabilities",
             *TILING_WORDS, "--progress", "none"]  # fmt: skip
    limited = subprocess.run(
        [sys.executable, "-c", LIMITED, "20000", *CLI, *words], cwd=folder, capture_output=True, text=True, check=False
    )
    assert limited.returncode == 1, limited.stderr
    assert "EFBIG" in limited.stderr
    cli(*words, cwd=folder)
    check_finished(tmp_path / "out", expected)


def test_a_directory_that_may_not_be_written_is_a_storage_error(tmp_path, image, model):
    """Something else stands where the shards shall go."""
    run_small(image, model, tmp_path / "out")
    shards = tmp_path / "out" / "prediction.zarr" / "0" / "c" / "2"
    for path in shards.iterdir():
        path.unlink()
    shards.rmdir()
    shards.write_text("in the way")
    with pytest.raises(StorageError) as raised:
        run_small(image, model, tmp_path / "out")
    assert str(shards) in str(raised.value)
    assert not document(tmp_path / "out")["complete"]
