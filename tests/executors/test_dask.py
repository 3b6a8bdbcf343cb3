"""What only a cluster does: workers that die, addresses where nobody is, ports that are taken."""

import os
import socket
import threading

import dask
import pytest
from distributed import Client

from gigatile.errors import UsageError
from gigatile.executors.dask import DaskExecutor, existing_cluster, local_cluster
from gigatile.executors.executor import Callbacks


def run(client, job, keys):
    done, lost = [], []
    callbacks = Callbacks(done.append, lambda key, error: lost.append(key), lambda n: None, threading.Event())
    DaskExecutor(client).run(job, iter(keys), callbacks)
    return sorted(done), lost


@pytest.fixture(scope="module")
def impatient():
    """Two worker processes, started again when they die; a key that took two along is given up."""
    with dask.config.set({"distributed.scheduler.allowed-failures": 1}), local_cluster(2) as client:
        yield client


def deadly(folder, key_that_kills, times):
    def job(key, stop, notify):
        if key == key_that_kills:
            for number in range(times):
                try:
                    os.close(os.open(f"{folder}/{number}", os.O_CREAT | os.O_EXCL))
                except FileExistsError:
                    continue
                os._exit(9)
        return key

    return job


def test_a_key_whose_worker_died_is_done_by_another(impatient, tmp_path):
    done, lost = run(impatient, deadly(tmp_path, 3, times=1), range(8))
    assert list(tmp_path.iterdir()), "nobody died"
    assert (done, lost) == (list(range(8)), [])


def test_a_key_that_kills_every_worker_is_reported_lost_and_no_key_goes_missing(impatient, tmp_path):
    done, lost = run(impatient, deadly(tmp_path, 3, times=100), range(8))
    # The scheduler blames the keys that waited on the dead workers as well.
    assert 3 in lost
    assert sorted(done + lost) == list(range(8))


def test_a_taken_dashboard_port_is_no_reason_to_warn():
    with socket.socket() as taken:
        try:
            taken.bind(("", 8787))
            taken.listen()
        except OSError:
            pass  # by someone else, which is as good
        with local_cluster(1) as client:
            assert len(client.scheduler_info()["workers"]) == 1


class Hasty(Client):
    def __init__(self, address, **how):
        super().__init__(address, **{**how, "timeout": "1s"})


def test_an_address_where_nobody_answers_is_a_usage_error(monkeypatch):
    monkeypatch.setattr("distributed.Client", Hasty)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(UsageError) as raised, existing_cluster(address):
            pass
    assert address in str(raised.value)
    assert "dask scheduler" in str(raised.value)
