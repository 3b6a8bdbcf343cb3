"""A lock on a bucket, with other processes that hold it, die, or are held up."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import pytest

from gigatile.errors import RunRefused, StorageError
from gigatile.storage import lease
from gigatile.storage.bucket import open_bucket
from gigatile.storage.client import connect
from gigatile.storage.lease import LeaseTimes
from tests.faulty_proxy import Faults, faulty_proxy

QUICK = LeaseTimes(renew_s=0.2, hold_s=1.0, believed_s=1.5, poll_s=0.1)
NEVER = LeaseTimes(renew_s=0.2, hold_s=500, believed_s=1000, poll_s=0.1)
"""Whoever waits for a renewal with these waits longer than any test."""

HOLDER = """
import sys, time
from gigatile.errors import StorageError
from gigatile.storage import lease
from gigatile.storage.bucket import open_bucket
from gigatile.storage.client import connect

url, times = sys.argv[1], lease.LeaseTimes(*map(float, sys.argv[2:]))
with lease.lease(connect(url), url.split("/", 3)[3] + "/run.lock", f"{url}/run.lock", times):
    print("held", flush=True)
    for line in sys.stdin:
        try:
            open_bucket(url).write("a", b"1")
            print("written", flush=True)
        except StorageError as error:
            print(error, flush=True)
            break
"""


@contextmanager
def hold(url, times=QUICK):
    path = f"{url.split('/', 3)[3]}/run.lock"
    with lease.lease(connect(url), path, f"{url}/run.lock", times):
        yield


@pytest.fixture
def place(bucket):
    return f"{bucket}/run"


@pytest.fixture
def holder(place):
    """Another process that holds the lock."""
    times = [str(value) for value in (QUICK.renew_s, QUICK.hold_s, QUICK.believed_s, QUICK.poll_s)]
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, place, *times], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


@pytest.fixture
def elsewhere(monkeypatch):
    """This process is on another machine than the holder, as far as anybody can see."""
    monkeypatch.setattr(lease, "_machine", lambda: "another machine")


@pytest.mark.parametrize("far", [False, True])
def test_a_lock_that_is_renewed_is_refused_by_name(place, holder, far, request):
    if far:
        request.getfixturevalue("elsewhere")
    sign = "renewed .* 1.5 s more" if far else "alive on this machine"
    with pytest.raises(RunRefused, match=f"process {holder.pid} on .* {sign}"), hold(place):
        pass


def test_a_dead_process_of_this_machine_holds_nothing(place, holder):
    holder.kill()
    holder.wait()
    with hold(place, NEVER):  # no time passes: its number is enough
        pass


def test_a_process_with_the_number_of_a_dead_one_is_not_taken_for_it(place, holder):
    holder.kill()
    holder.wait()
    store = open_bucket(place)
    found = json.loads(store.read("run.lock"))
    store.write("run.lock", json.dumps(found | {"pid": 1, "started": 12.0}).encode())
    with hold(place, NEVER):
        pass


@pytest.mark.usefixtures("elsewhere")
def test_a_process_elsewhere_that_renews_no_more_loses_the_lock(place, holder):
    holder.kill()
    holder.wait()
    with hold(place):
        assert json.loads(open_bucket(place).read("run.lock"))["machine"] == "another machine"


@pytest.mark.usefixtures("elsewhere")
def test_a_holder_that_was_asleep_is_stopped_by_its_next_write(place, holder):
    holder.stdin.write("write\n")
    holder.stdin.flush()
    assert holder.stdout.readline() == "written\n"
    holder.send_signal(signal.SIGSTOP)
    with hold(place):
        open_bucket(place).write("a", b"2")
        holder.stdin.write("write\n")
        holder.stdin.flush()
        holder.send_signal(signal.SIGCONT)
        assert "taken over" in holder.stdout.readline()
        assert open_bucket(place).read("a") == b"2"


def test_a_lock_that_was_given_back_is_free_at_once(place):
    for _ in range(3):
        with hold(place, NEVER):
            pass


def test_of_many_that_find_a_dead_holder_one_gets_the_lock(place, holder):
    holder.kill()
    holder.wait()
    key = f"{place.split('/', 3)[3]}/run.lock"

    def take(_):
        found = lease._Held(connect(place), key, f"{place}/run.lock", QUICK)
        with suppress(RunRefused):
            found.take()
            begin = time.monotonic()
            while time.monotonic() - begin < 3 * QUICK.believed_s:  # as its thread would
                time.sleep(QUICK.renew_s)
                found._renew()
            return found
        return None

    with ThreadPoolExecutor(6) as pool:
        assert sum(found is not None for found in pool.map(take, range(6))) == 1


def test_what_is_not_a_lock_is_not_taken(place):
    open_bucket(place).write("run.lock", b"my thesis")
    with pytest.raises(StorageError, match="something else under its name"), hold(place):
        pass
    assert open_bucket(place).read("run.lock") == b"my thesis"


def test_a_lock_over_one_directory_says_nothing_of_others(place):
    with hold(place):
        lease._HELD[f"{place}/run.lock"]._lost = "a lock taken over by somebody"
        for ok in (place + "-2", place.rpartition("/")[0] + "/other/a"):
            lease.check(ok)
        for url in (place, place + "/ledger/a"):
            with pytest.raises(StorageError, match="taken over by somebody"):
                lease.check(url)


@pytest.mark.parametrize("act", ["write", "delete", "delete_tree", "finish", "append"])
def test_nothing_is_written_or_removed_without_the_lock(place, act):
    store = open_bucket(place)
    store.write("a", b"1")
    with hold(place):
        writer = store.writer("a")
        writer.write(b"2")
        lease._HELD[f"{place}/run.lock"]._lost = "a lock taken over by somebody"
        acts = {
            "write": lambda: store.write("a", b"2"),
            "delete": lambda: store.delete("a"),
            "delete_tree": store.delete_tree,
            "finish": writer.finish,
            "append": lambda: store.journal("ledger", "n").append(b"1\n"),
        }
        with pytest.raises(StorageError, match="taken over"):
            acts[act]()
    assert {entry.key for entry in store.entries()} == {"a", "run.lock"}
    assert store.read("a") == b"1"


def test_a_tree_is_deleted_around_the_lock_that_is_held(place):
    store = open_bucket(place)
    store.write("a", b"1")
    with hold(place):
        store.delete_tree()
        assert [entry.key for entry in store.entries()] == ["run.lock"]
        time.sleep(2 * QUICK.renew_s)
        store.write("b", b"1")
    store.delete_tree()
    assert list(store.entries()) == []


def test_a_holder_that_cannot_reach_the_store_stops_before_others_may_begin(place, s3, environment):
    with faulty_proxy(s3.endpoint, Faults()) as proxy:
        environment.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        environment.setattr("gigatile.storage.client.RETRY_S", 0.3)
        with hold(place):
            lease.check(place)
            proxy.faults = Faults(error=1.0)
            begin = time.monotonic()
            with pytest.raises(StorageError, match="no way to renew"):
                while time.monotonic() - begin < 30:
                    time.sleep(0.1)
                    lease.check(place)


def test_a_lost_answer_is_not_taken_for_another_holder(place, s3, environment):
    with faulty_proxy(s3.endpoint, Faults(cut=0.5, methods=frozenset({"PUT"})), seed=3) as proxy:
        environment.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        for _ in range(4):
            with hold(place, LeaseTimes(renew_s=0.1, hold_s=30, believed_s=60, poll_s=0.1)):
                time.sleep(0.5)
                lease.check(place)
        assert proxy.injected["cut"] > 3
