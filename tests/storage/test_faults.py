"""A store that fails, cuts its answers off and is slow: what arrives is right, and it ends."""

from __future__ import annotations

import random
import socket
import time

import pytest

from gigatile.errors import StorageError
from gigatile.storage import client
from gigatile.storage.bucket import PART_BYTES
from gigatile.storage.files import open_bytes
from gigatile.storage.open import open_store
from tests.faulty_proxy import Faults, faulty_proxy
from tests.object_store import tree

CONTENT = random.Random(7).randbytes(PART_BYTES + 3_000_000)


@pytest.fixture
def proxy(s3, environment):
    with faulty_proxy(s3.endpoint, Faults(), seed=11) as found:
        environment.setenv("AWS_ENDPOINT_URL", found.endpoint)
        yield found


@pytest.mark.parametrize(
    "faults", [Faults(error=0.1), Faults(cut=0.1), Faults(slow=0.05, delay_s=0.5), Faults(error=0.05, cut=0.05)]
)
def test_everything_is_there_as_if_nothing_had_failed(proxy, s3, bucket, faults):
    proxy.faults = faults
    store = open_store(f"{bucket}/run")
    expected = {f"k/{index}": CONTENT[index : 2 * index + 1] for index in range(30)}
    for key, content in expected.items():
        store.write(key, content)
        assert store.read(key) == content
    with store.writer("shard") as writer:
        writer.write(CONTENT)
        writer.finish()
    file = open_bytes(f"{bucket}/run/shard")
    spans = [(offset, 50_000) for offset in range(0, len(CONTENT) - 50_000, 700_000)]
    assert file.read_many(spans) == [CONTENT[offset : offset + nbytes] for offset, nbytes in spans]
    journal = store.journal("ledger", "n")
    for index in range(10):
        journal.append(f"{index}\n".encode())
    store.write("gone", b"1")
    store.delete("gone")
    assert sum(1 for _ in store.entries()) == 30 + 1 + 10
    found = tree(s3, f"{bucket}/run")
    lines = [found.pop(key) for key in sorted(found) if key.startswith("ledger/")]
    assert b"".join(lines) == b"0\n1\n2\n3\n4\n5\n6\n7\n8\n9\n"
    assert found == expected | {"shard": CONTENT}
    assert proxy.injected.total() > 0


def test_a_completion_whose_answer_is_lost_is_seen_to_have_happened(proxy, s3, bucket):
    proxy.faults = Faults(cut=0.5, methods=frozenset({"POST"}))
    store = open_store(bucket)
    for index in range(6):
        with store.writer(f"shard{index}") as writer:
            writer.write(CONTENT)
            writer.finish()
    assert set(tree(s3, bucket).values()) == {CONTENT}
    assert proxy.injected["cut"] > 3


def test_a_list_that_breaks_off_goes_on_where_it_was(proxy, bucket, monkeypatch):
    monkeypatch.setattr("gigatile.storage.bucket._PAGE", 3)
    monkeypatch.setattr(client, "_retries", lambda: {"max_retries": 0})
    store = open_store(f"{bucket}/run")
    for index in range(20):
        store.write(f"{index:02d}", b"1")
    client._connection.cache_clear()
    proxy.faults = Faults(error=0.3, cut=0.2)
    for _ in range(5):
        assert [entry.key for entry in store.entries()] == [f"{index:02d}" for index in range(20)]
    assert proxy.injected.total() > 0
    client._connection.cache_clear()


def test_what_cannot_succeed_is_not_repeated(proxy, bucket, environment):
    store = open_store(bucket)
    environment.setenv("AWS_SECRET_ACCESS_KEY", "another")
    proxy.calm()
    with pytest.raises(StorageError, match="403 Forbidden"):
        store.write("a", b"1")
    assert proxy.requests == {"PUT": 1}


def test_a_store_that_always_fails_is_given_up_on(proxy, bucket, monkeypatch):
    monkeypatch.setattr(client, "RETRY_S", 1)
    monkeypatch.setattr(client, "SLOW_DOWN_S", 1)
    proxy.faults = Faults(error=1.0)
    client._connection.cache_clear()
    store = open_store(bucket)
    with pytest.raises(StorageError, match="run the same command again"):
        store.write("a", b"1")
    with pytest.raises(StorageError), store.writer("b") as writer:
        writer.write(CONTENT)
        writer.finish()
    proxy.calm()
    assert list(store.entries()) == []


@pytest.mark.parametrize("listening", [False, True])
def test_an_endpoint_without_an_answer_costs_no_more_than_the_time_for_it(environment, s3, monkeypatch, listening):
    """Nobody at the port; or somebody who takes the connection and says nothing."""
    monkeypatch.setattr(client, "RETRY_S", 1)
    monkeypatch.setattr(client, "STALLED_S", 1)
    client._connection.cache_clear()
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        if listening:
            silent.listen()
        environment.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        begin = time.monotonic()
        with pytest.raises(StorageError, match=r"an answer from http://127.0.0.1.*AWS_ENDPOINT_URL"):
            open_store("s3://bucket/run").read("run.json")
        assert time.monotonic() - begin < 20  # not the time that is measured: that it ends at all
    client._connection.cache_clear()


def test_the_time_for_an_endpoint_is_less_than_a_minute():
    """The last attempt begins before `RETRY_S`, and ends when nothing came for `STALLED_S`."""
    assert client.RETRY_S + client.STALLED_S + client.LONGEST_PAUSE_S < 60
    assert client.RETRY_S + client.CONNECT_S + client.LONGEST_PAUSE_S < 60
