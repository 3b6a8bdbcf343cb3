"""Ways to have a cluster: an address, a scheduler file, certificates, a spec, one that grows; what GPU boxes need."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import dask
import pytest
import trustme
from distributed import Client, LocalCluster

from gigatile.errors import UsageError
from gigatile.executors.clusters import existing_cluster, local_cluster, visible_devices, worker_limits
from gigatile.executors.dask import DaskExecutor
from gigatile.executors.queue import Policy
from tests.clusters import SeparateCluster, kill
from tests.executors.listing import carry

ONE_BY_ONE = Policy(backoff_seconds=0.01, most_keys=1)


def environment(variable):
    def job(key):
        time.sleep(0.01)
        return os.getpid(), os.environ.get(variable)

    return job


def nap(seconds):
    def job(key):
        time.sleep(seconds)
        return os.getpid()

    return job


@contextmanager
def started(cluster):
    try:
        yield cluster
    finally:
        cluster.close()


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """Two workers with a limit and a device each."""
    with started(SeparateCluster(tmp_path_factory.mktemp("plain"), workers=0, threads=1)) as cluster:
        options = ("--no-nanny", "--no-dashboard", "--nthreads", "1", "--memory-limit", "3GiB")
        for device in ("0", "1"):
            cluster.workers.append(
                cluster.start("worker", cluster.address, *options, env={"CUDA_VISIBLE_DEVICES": device})
            )
        cluster.wait_for_workers(2)
        yield cluster


def test_a_scheduler_file_is_an_address(plain):
    with existing_cluster(plain.file) as client:
        work = carry(DaskExecutor(client), range(100), nap(0.01), policy=ONE_BY_ONE)
    assert set(work.results) == {worker.pid for worker in plain.workers}


def test_the_memory_limit_of_each_worker_is_known(plain):
    with existing_cluster(plain.address) as client:
        assert worker_limits(client) == [3 << 30] * 2


def test_a_worker_started_for_a_device_sees_that_device(plain):
    with existing_cluster(plain.address) as client:
        work = carry(DaskExecutor(client), range(100), environment("CUDA_VISIBLE_DEVICES"), policy=ONE_BY_ONE)
    assert {device for _, device in work.results} == {"0", "1"}


def test_a_scheduler_file_that_is_not_there_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match="no such file"), existing_cluster(tmp_path / "nothing.json"):
        pass


@pytest.mark.usefixtures("abandoned_clients_are_collected")
@pytest.mark.parametrize("content", ["", "no json", "{}", "[1]", '{"address": 7}', '{"address": "nonsense"}'])
def test_a_file_that_is_no_scheduler_file_is_a_usage_error(tmp_path, content):
    (tmp_path / "scheduler.json").write_text(content)
    with pytest.raises(UsageError, match="scheduler"), existing_cluster(tmp_path / "scheduler.json"):
        pass


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """An authority, a certificate of it, and one of another authority."""
    folder = tmp_path_factory.mktemp("certificates")
    for name in ("own", "foreign"):
        authority = trustme.CA()
        authority.cert_pem.write_to_path(folder / f"{name}-ca.pem")
        issued = authority.issue_cert("127.0.0.1", "localhost")
        issued.private_key_pem.write_to_path(folder / f"{name}-key.pem")
        issued.cert_chain_pems[0].write_to_path(folder / f"{name}-cert.pem")
    return folder


@pytest.fixture(scope="module")
def tls_cluster(certificates, tmp_path_factory):
    options = ["--protocol", "tls", "--tls-ca-file", str(certificates / "own-ca.pem")]
    options += ["--tls-cert", str(certificates / "own-cert.pem"), "--tls-key", str(certificates / "own-key.pem")]
    folder = tmp_path_factory.mktemp("tls")
    with started(SeparateCluster(folder, workers=1, threads=1, options=options)) as cluster:
        yield cluster


def known(folder, name):
    """Dask's own configuration, as its environment variables or its files in ``~/.config/dask`` give it."""
    pair = {"cert": str(folder / f"{name}-cert.pem"), "key": str(folder / f"{name}-key.pem")}
    return dask.config.set(
        {
            "distributed.comm.tls.ca-file": str(folder / f"{name}-ca.pem"),
            "distributed.comm.tls.client": pair,
        }
    )


def test_work_is_done_over_tls_with_real_certificates(tls_cluster, certificates):
    assert tls_cluster.address.startswith("tls://")
    with known(certificates, "own"), existing_cluster(tls_cluster.address) as client:
        work = carry(DaskExecutor(client), range(20), nap(0))
        assert work.results == [tls_cluster.workers[0].pid] * 20


@pytest.mark.usefixtures("abandoned_clients_are_collected")
def test_tls_without_certificates_says_where_to_give_them(tls_cluster):
    with pytest.raises(UsageError) as raised, existing_cluster(tls_cluster.address):
        pass
    assert tls_cluster.address in str(raised.value)
    assert "DASK_DISTRIBUTED__COMM__TLS__CA_FILE" in raised.value.fix


@pytest.mark.usefixtures("abandoned_clients_are_collected")
def test_certificates_of_another_authority_are_refused(tls_cluster, certificates, monkeypatch):
    monkeypatch.setattr("gigatile.executors.clusters.ANSWER_SECONDS", 2)
    with known(certificates, "foreign"), pytest.raises(UsageError) as raised, existing_cluster(tls_cluster.address):
        pass
    assert "DASK_DISTRIBUTED__COMM__TLS__CA_FILE" in raised.value.fix


def test_an_adaptive_cluster_starts_from_nothing_grows_and_shrinks_again():
    with LocalCluster(n_workers=0, threads_per_worker=1, dashboard_address="127.0.0.1:0", memory_limit=0) as cluster:
        cluster.adapt(minimum=0, maximum=2, interval="100ms", wait_count=2, target_duration="50ms")
        with Client(cluster, set_as_default=False) as client, existing_cluster(client) as same:
            assert same is client
            assert worker_limits(client) == []
            work = carry(DaskExecutor(client), range(40), nap(0.1), policy=ONE_BY_ONE)
            assert len(work.results) == 40
            assert len(set(work.results)) >= 2, "it did not grow"
            assert not work.failures
            deadline = time.monotonic() + 30
            while worker_limits(client) and time.monotonic() < deadline:
                time.sleep(0.1)
            assert worker_limits(client) == [], "it did not shrink"


def test_workers_of_a_spec_file_do_work(tmp_path):
    options = {"nthreads": 1, "memory_limit": 0, "dashboard": False}
    spec = {name: {"cls": "distributed.Worker", "opts": {**options, "name": name}} for name in ("left", "right")}
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    with started(SeparateCluster(tmp_path, workers=0, threads=1)) as cluster:
        both = cluster.start("spec", cluster.address, "--spec-file", str(tmp_path / "spec.json"))
        try:
            cluster.wait_for_workers(2)
            with existing_cluster(cluster.address) as client:
                work = carry(DaskExecutor(client), range(20), nap(0.01), policy=ONE_BY_ONE)
            assert work.results == [both.pid] * 20
        finally:
            kill(both)


def test_each_process_of_a_machine_with_two_devices_sees_one_of_them():
    def seen(client):
        return dict(client.run(environment("CUDA_VISIBLE_DEVICES"), 0, on_error="ignore").values())

    with local_cluster(2, devices=("0", "GPU-7f3a")) as client:
        before = seen(client)
        assert sorted(before.values()) == ["0", "GPU-7f3a"]
        # One that is started again sees what the one before it saw.
        victim = next(pid for pid, device in before.items() if device == "0")
        os.kill(victim, signal.SIGKILL)
        deadline = time.monotonic() + 30
        while (victim in seen(client) or len(seen(client)) < 2) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert sorted(seen(client).values()) == ["0", "GPU-7f3a"]


@pytest.mark.parametrize(
    ("value", "devices"),
    [("0,1", ("0", "1")), (" 2 , GPU-ab ", ("2", "GPU-ab")), ("", ()), ("-1", ()), ("0", ("0",))],
)
def test_devices_are_those_that_the_environment_leaves(monkeypatch, value, devices):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    assert visible_devices() == devices


def test_without_a_choice_all_devices_that_nvidia_smi_lists_are_used(monkeypatch, tmp_path):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'GPU 0: one (UUID: GPU-a)'\necho '  MIG 1g (UUID: MIG-x)'\necho 'GPU 1: two'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert visible_devices() == ("0", "1")
    monkeypatch.setenv("PATH", "/nowhere")
    assert visible_devices() == ()


def test_clusters_are_started_without_a_terminals_interrupts_reaching_them():
    """A Ctrl-C is for the client, which ends the workers when their blocks are written."""
    script = (
        "import os, signal, sys, time\n"
        "from gigatile.executors.clusters import local_cluster\n"
        "if __name__ == '__main__':\n"
        "    with local_cluster(1) as client:\n"
        "        signal.signal(signal.SIGINT, lambda *_: None)\n"
        "        before = client.run(os.getpid)\n"
        "        os.killpg(0, signal.SIGINT)\n"
        "        time.sleep(0.5)\n"
        "        print('same' if client.run(os.getpid) == before else 'other')\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, start_new_session=True, check=False
    )
    assert found.stdout == "same\n", found.stderr
