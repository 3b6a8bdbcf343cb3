"""Promise 4: `kill -9` of anything at any moment loses at most the blocks in flight."""

import multiprocessing
import os
import random
import shutil
import signal
import time
from pathlib import Path

import psutil
import pytest

from gigatile.executors.dask import WINDOW
from gigatile.runs.verify import verify
from tests.clusters import separate_cluster
from tests.small_runs import (
    BLOCKS,
    TILING_WORDS,
    cli,
    document,
    entries,
    fingerprints,
    finished,
    run_small,
    start_cli,
    temporary_files,
    write_inputs,
)

WORDS = ("run", "image.zarr", "-o", "out", "--model", "models.py:sleepy", *TILING_WORDS, "--progress", "none")
ALL = BLOCKS + 6


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("crash")
    return write_inputs(folder)


@pytest.fixture(scope="module")
def undisturbed(source):
    """What an uninterrupted run of the sleepy model leaves."""
    run_small(str(source / "image.zarr"), str(source / "models.py") + ":sleepy", source / "sleepy", workers=2)
    assert set(finished(source / "sleepy").values()) == {1}
    assert len(finished(source / "sleepy")) == ALL
    return fingerprints(source / "sleepy")


@pytest.fixture
def folder(source, tmp_path):
    """A working directory for the command, with the image and the models of the module."""
    for name in ("image.zarr", "models.py"):
        (tmp_path / name).symlink_to(source / name)
    return tmp_path


def wait_for_records(directory, count, process):
    deadline = time.monotonic() + 60
    while len(entries(directory)) < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)


def check_finished(directory, expected, again=0):
    """Equal bytes, and each block done once, but for those whose worker died before it could say so."""
    assert fingerprints(directory) == expected
    assert len(finished(directory)) == ALL
    assert sum(finished(directory).values()) <= ALL + again, "a finished block was done again"
    assert document(directory)["complete"]
    assert temporary_files(directory) == []
    assert verify(directory).problems == ()


def run_conv(source, out, workers):
    """In a child process: as fast as it can, with fsync, so that most of the time goes into files."""
    run_small(f"{source}/image.zarr", f"{source}/conv.onnx", Path(out), workers=workers, durable=True)


@pytest.fixture(scope="module")
def forks():
    """Children that have the library loaded, so that killing a run costs little more than the run."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.small_runs", "onnxruntime", "gigatile.runs.runner", "tests.promises"])
    return context


@pytest.fixture(scope="module")
def reference(source, forks):
    child = forks.Process(target=run_conv, args=(str(source), str(source / "reference"), 2))
    child.start()
    child.join()
    assert child.exitcode == 0
    return fingerprints(source / "reference")


@pytest.mark.parametrize("seed", range(2))
def test_kills_at_any_moment_leave_what_the_next_run_finishes(source, forks, reference, tmp_path, seed):
    choose, out, kills = random.Random(seed), tmp_path / "out", 0
    while kills < 5:
        if (out / "run.json").exists() and document(out)["complete"]:
            shutil.rmtree(out)  # this one was faster than the kill
        before = finished(out)
        child = forks.Process(target=run_conv, args=(str(source), str(out), choose.randint(1, 3)))
        child.start()
        # After some records more than there were (none: while it starts), and then at any moment.
        goal = len(before) + choose.randint(0, 6)
        while child.exitcode is None and len(entries(out)) < goal:
            time.sleep(0.001)
        child.join(choose.uniform(0, 0.01 if goal > len(before) else 0.2))
        if child.exitcode is None:
            os.kill(child.pid, signal.SIGKILL)
            kills += 1
        child.join()
        assert before <= finished(out), "a record went missing"
        if (out / "run.json").exists():
            assert not (document(out)["complete"] and len(finished(out)) < ALL)
            assert [problem for problem in verify(out).problems if "torn" not in problem] == []
    run_conv(str(source), str(out), 2)
    check_finished(out, reference)


@pytest.mark.parametrize("seed", [1])
def test_the_same_command_after_kill_9_finishes_the_run(folder, undisturbed, seed):
    choose = random.Random(seed)
    for goal in sorted(choose.sample(range(2, BLOCKS - 2), 2)):
        process = start_cli(*WORDS, "--workers", "2", cwd=folder)
        wait_for_records(folder / "out", goal, process)
        time.sleep(choose.uniform(0, 0.05))
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    assert 2 <= len(entries(folder / "out")) < ALL
    cli(*WORDS, cwd=folder)
    check_finished(folder / "out", undisturbed)


def children_of(process):
    return psutil.Process(process.pid).children(recursive=True)


def gone(processes, timeout=30):
    """Wait for processes that nobody has to end; those that outlive the wait are a failure."""
    _, alive = psutil.wait_procs(processes, timeout=timeout)
    for process in alive:
        process.kill()
    assert not alive, "worker processes outlived their client"


def test_a_killed_client_of_worker_processes_is_resumed(folder, undisturbed):
    words = (*WORDS, "--executor", "processes", "--workers", "2")
    process = start_cli(*words, cwd=folder)
    wait_for_records(folder / "out", 5, process)
    workers = children_of(process)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    gone(workers)
    assert len(finished(folder / "out")) < ALL
    cli(*words, cwd=folder)
    check_finished(folder / "out", undisturbed)


def writers(directory):
    """Process ids of those that have written records."""
    return {int(path.name.split("-")[-2]) for path in (directory / "ledger").iterdir()}


def test_a_killed_worker_process_costs_only_its_block(folder, undisturbed):
    process = start_cli(*WORDS, "--executor", "processes", "--workers", "2", cwd=folder)
    wait_for_records(folder / "out", 4, process)
    victim = min(writers(folder / "out"))
    os.kill(victim, signal.SIGKILL)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    check_finished(folder / "out", undisturbed, again=2 * WINDOW)
    assert len(writers(folder / "out")) >= 2


@pytest.fixture
def own_cluster(tmp_path):
    """A cluster of its own, because its processes are killed."""
    with separate_cluster(tmp_path / "cluster") as found:
        yield found


def elsewhere(folder, cluster):
    """The command for workers that were started in another directory."""
    return (*WORDS[:1], str(folder / "image.zarr"), *WORDS[2:], "--executor", cluster.address)


def test_a_killed_client_of_a_separate_cluster_is_resumed(folder, undisturbed, own_cluster):
    words = elsewhere(folder, own_cluster)
    process = start_cli(*words, cwd=folder)
    wait_for_records(folder / "out", 5, process)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    while own_cluster.busy():
        time.sleep(0.1)
    assert len(finished(folder / "out")) < ALL
    cli(*words, cwd=folder)
    check_finished(folder / "out", undisturbed)


def test_a_killed_worker_of_a_separate_cluster_is_replaced_by_the_other(folder, undisturbed, own_cluster):
    process = start_cli(*elsewhere(folder, own_cluster), cwd=folder)
    wait_for_records(folder / "out", 4, process)
    os.kill(own_cluster.workers[0].pid, signal.SIGKILL)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    check_finished(folder / "out", undisturbed, again=2 * WINDOW)


def test_a_killed_scheduler_ends_the_run_and_leaves_it_resumable(folder, undisturbed, own_cluster):
    process = start_cli(*elsewhere(folder, own_cluster), cwd=folder)
    wait_for_records(folder / "out", 4, process)
    os.kill(own_cluster.scheduler.pid, signal.SIGKILL)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1, err
    assert err.startswith("gigatile: error: the Dask scheduler"), err
    assert len(err.splitlines()) == 1, err
    own_cluster.close()
    cli(*WORDS, cwd=folder)
    check_finished(folder / "out", undisturbed)
