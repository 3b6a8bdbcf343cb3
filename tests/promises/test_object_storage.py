"""Buckets are as good as disks: the same bytes, whatever fails on the way, whoever dies."""

import os
import signal
import time
from dataclasses import replace

import obstore
import pytest

from tests.clusters import separate_cluster
from tests.faulty_proxy import Faults, faulty_proxy
from tests.object_store import object_store, tree
from tests.planted import TILING_WORDS as OBJECT_TILING
from tests.planted import write_planted
from tests.small_runs import TILING_WORDS, cli, start_cli, write_inputs
from tests.small_runs import tree as files

WORDS = ("--model", "conv.onnx", *TILING_WORDS, "--progress", "none", "--executor")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with object_store(tmp_path_factory.mktemp("store")) as found:
        yield found


@pytest.fixture(scope="module")
def bucket(server):
    return server.make_bucket("slides")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, server, bucket):
    """The inputs, on the disk and in the bucket, and a run that knows only the disk."""
    folder = write_inputs(tmp_path_factory.mktemp("inputs"))
    client = server.client("slides")
    for name, content in files(folder / "image.zarr").items():
        obstore.put(client, f"image.zarr/{name}", content)
    cli("run", "image.zarr", "-o", "disk", *WORDS, "threads", cwd=folder)
    return folder


@pytest.fixture(scope="module")
def expected(folder):
    return files(folder / "disk" / "prediction.zarr")


def prediction(server, url):
    return tree(server, f"{url}/prediction.zarr")


def test_from_a_bucket_into_a_bucket_the_bytes_are_the_same(server, bucket, folder, expected):
    out, _ = cli("run", f"{bucket}/image.zarr", "-o", f"{bucket}/calm", *WORDS, "threads", cwd=folder, **server.env)
    assert prediction(server, f"{bucket}/calm") == expected
    assert "calm/prediction.zarr" in out
    for command in ("status", "verify"):
        cli(command, f"{bucket}/calm", cwd=folder, **server.env)
    # Again: nothing is left to do, and nothing is written anew.
    before = without_lock(server, f"{bucket}/calm")
    cli("run", f"{bucket}/image.zarr", "-o", f"{bucket}/calm", *WORDS, "threads", cwd=folder, **server.env)
    assert without_lock(server, f"{bucket}/calm") == before


@pytest.mark.parametrize("executor", ["threads", "processes"])
def test_with_one_request_in_twenty_failing_the_bytes_are_the_same(server, bucket, folder, expected, executor):
    faults = Faults(error=0.03, cut=0.02)
    with faulty_proxy(server.endpoint, faults, seed=7) as proxy:
        environment = {**server.env, "AWS_ENDPOINT_URL": proxy.endpoint}
        place = f"{bucket}/faulty-{executor}"
        cli("run", f"{bucket}/image.zarr", "-o", place, *WORDS, executor, cwd=folder, **environment)
        assert proxy.injected.total() > 5, "hardly anything failed"
    assert prediction(server, place) == expected


@pytest.mark.slow
def test_a_store_that_goes_away_stops_the_run_and_the_same_command_finishes_it(server, bucket, folder, expected):
    with faulty_proxy(server.endpoint, Faults(latency_s=0.005)) as proxy:
        environment = {**server.env, "AWS_ENDPOINT_URL": proxy.endpoint}
        words = ("run", "image.zarr", "-o", f"{bucket}/cut", *WORDS, "threads")
        process = start_cli(*words, cwd=folder, **environment)
        wait_for_shards(server, f"{bucket}/cut", 3, process)
        proxy.faults = replace(proxy.faults, error=1.0)
        _, err = process.communicate(timeout=120)
        assert process.returncode == 1, err
        assert "cut" in err and "Traceback" not in err
        proxy.calm()
        cli(*words, cwd=folder, **environment)
    assert prediction(server, f"{bucket}/cut") == expected


def test_a_killed_client_is_resumed(server, bucket, folder, expected):
    words = ("run", "image.zarr", "-o", f"{bucket}/killed", *WORDS, "threads")
    with faulty_proxy(server.endpoint, Faults(latency_s=0.01)) as proxy:
        environment = {**server.env, "AWS_ENDPOINT_URL": proxy.endpoint}
        process = start_cli(*words, cwd=folder, **environment)
        wait_for_shards(server, f"{bucket}/killed", 3, process)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        # Its lease names this machine and a process that is dead: nobody waits for it.
        cli(*words, cwd=folder, **environment)
    assert prediction(server, f"{bucket}/killed") == expected


def test_a_second_client_is_refused_while_the_first_works(server, bucket, folder):
    words = ("run", "image.zarr", "-o", f"{bucket}/two", "--workers", "1", "--model", "models.py:sleepy", *WORDS[2:])
    first = start_cli(*words, "threads", cwd=folder, **server.env)
    wait_for_shards(server, f"{bucket}/two", 1, first)
    _, err = cli(*words, "threads", cwd=folder, code=2, **server.env)
    assert str(first.pid) in err
    assert first.wait(120) == 0, first.communicate()


def test_workers_of_a_cluster_need_only_the_bucket(server, folder, expected, tmp_path, monkeypatch):
    """They are started elsewhere, without the image, the model or the folder of the command."""
    bucket = "s3://slides"
    for name, value in server.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("GIGATILE_CACHE_DIR", str(tmp_path / "cache"))
    with separate_cluster(tmp_path / "cluster", workers=2, threads=1) as cluster:
        words = (f"{bucket}/image.zarr", "-o", f"{bucket}/cluster", *WORDS, cluster.address)
        cli("run", *words, cwd=folder, **server.env)
    assert prediction(server, f"{bucket}/cluster") == expected
    shipped = [key for key in tree(server, f"{bucket}/cluster/models") if key.endswith("conv.onnx")]
    assert len(shipped) == 1


@pytest.mark.parametrize(("task", "model"), [("detect", "crowd"), ("instances", "labels")])
def test_objects_in_a_bucket_are_those_on_a_disk_also_after_a_kill(server, bucket, tmp_path, task, model):
    write_planted(tmp_path, (200, 260), count=40)
    words = ("run", "image.zarr", "--task", task, "--model", f"models.py:{model}", *OBJECT_TILING, "--progress", "none")
    cli(*words, "-o", "disk", cwd=tmp_path)
    place = f"{bucket}/{task}"
    with faulty_proxy(server.endpoint, Faults(latency_s=0.01)) as proxy:
        environment = {**server.env, "AWS_ENDPOINT_URL": proxy.endpoint}
        process = start_cli(*words, "-o", place, cwd=tmp_path, **environment)
        deadline = time.monotonic() + 60
        while not any(key.endswith("closed.parquet") for key in tree(server, f"{place}/parts")):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    cli(*words, "-o", place, cwd=tmp_path, **server.env)
    found = tree(server, place)
    on_disk = {key: content for key, content in files(tmp_path / "disk").items() if key.startswith("prediction.zarr/")}
    assert {key: content for key, content in found.items() if key.startswith("prediction.zarr/")} == on_disk
    assert found["objects.parquet"] == (tmp_path / "disk" / "objects.parquet").read_bytes()
    for command in ("status", "verify"):
        cli(command, place, cwd=tmp_path, **server.env)
    cli("export", place, "--to", "csv", "-o", "objects.csv", cwd=tmp_path, **server.env)
    assert len((tmp_path / "objects.csv").read_text().splitlines()) > 30


def without_lock(server, url):
    return {key: content for key, content in tree(server, url).items() if key != "lock"}


def wait_for_shards(server, url, count, process):
    deadline = time.monotonic() + 60
    while sum("/c/" in f"/{key}" for key in tree(server, f"{url}/prediction.zarr")) < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
