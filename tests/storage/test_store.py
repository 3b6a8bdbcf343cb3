"""What every store does, whatever lies beneath."""

from __future__ import annotations

import pickle
import random
from concurrent.futures import ThreadPoolExecutor

import pytest

from gigatile.errors import RunRefused, StorageError, UsageError
from gigatile.storage.bucket import PART_BYTES, BucketStore
from gigatile.storage.local import LocalStore
from gigatile.storage.open import open_store
from gigatile.storage.store import Entry

BIG = random.Random(4).randbytes(2 * PART_BYTES + 12_345)


def keys(store, prefix=""):
    return sorted(entry.key for entry in store.entries(prefix))


def test_what_was_written_is_read(store):
    store.write("a/b.json", b"one")
    assert store.read("a/b.json") == b"one"
    assert store.size("a/b.json") == 3
    store.write("a/b.json", b"")
    assert store.read("a/b.json") == b""
    assert store.size("a/b.json") == 0


def test_what_is_not_there_is_none(store):
    assert store.read("a") is None
    assert store.size("a") is None
    assert keys(store) == []
    with pytest.raises(FileNotFoundError):
        store.read_range("a", 0, 1)
    with pytest.raises(FileNotFoundError):
        store.read_range("a", 0, 0)


@pytest.mark.parametrize(
    ("offset", "nbytes", "expected"),
    [(0, 3, b"abc"), (2, 2, b"cd"), (8, 5, b"ij"), (10, 1, b""), (99, 1, b""), (3, 0, b"")],
)
def test_a_range_ends_where_the_object_ends(store, offset, nbytes, expected):
    store.write("a", b"abcdefghij")
    assert store.read_range("a", offset, nbytes) == expected


def test_entries_are_keys_below_a_prefix_with_their_sizes(store):
    for key in ("run.json", "ledger/1", "ledger/2", "ledger-old/3", "prediction.zarr/0/c/0/0"):
        store.write(key, key.encode())
    assert sorted(store.entries("ledger/")) == [Entry("ledger/1", 8), Entry("ledger/2", 8)]
    assert len(keys(store)) == 5
    assert keys(store, "nothing/") == []
    assert keys(store.below("prediction.zarr")) == ["0/c/0/0"]


@pytest.mark.parametrize("key", ["slide #1 50%.svs", "ü é/ä+b.txt", "q?u=1&x", "a:b@c", "c/0/0"])
def test_keys_are_taken_letter_by_letter(store, key):
    store.write(key, b"1")
    assert store.read(key) == b"1"
    assert keys(store) == [key]


@pytest.mark.parametrize("key", ["../other", "a/../../b", "/a"])
def test_keys_do_not_leave_the_root(store, key):
    with pytest.raises(StorageError, match="a name inside"):
        store.write(key, b"1")


@pytest.mark.parametrize("content", [b"", b"small", BIG[:PART_BYTES], BIG[: PART_BYTES + 1], BIG])
def test_a_writer_gives_the_object_its_name_at_the_end(store, content):
    store.write("shard", b"old")
    with store.writer("shard") as writer:
        for begin in range(0, len(content), 3_000_000):
            writer.write(memoryview(content)[begin : begin + 3_000_000])
        assert store.read("shard") == b"old"
        writer.finish()
    assert store.read("shard") == content
    assert keys(store) == ["shard"]


@pytest.mark.parametrize("content", [b"", b"small", BIG])
def test_a_writer_that_does_not_finish_leaves_nothing(store, content):
    with pytest.raises(KeyError), store.writer("a/shard") as writer:
        writer.write(content)
        raise KeyError
    assert store.size("a/shard") is None
    assert keys(store) == []
    assert store.remove_leftovers() == 0


def test_lines_of_a_journal_are_in_order_over_its_objects(store):
    journal = store.journal("ledger", "segment")
    for index in range(5):
        (journal.append if index % 2 else journal.note)(f"{index}\n".encode())
    journal.close()
    journal.append(b"5\n")
    assert all(key.startswith("ledger/segment") for key in keys(store))
    content = b"".join(store.read(key) for key in keys(store, "ledger/"))
    assert sorted(content.split()) == [b"0", b"1", b"2", b"3", b"4", b"5"]


def test_two_journals_of_one_name_never_meet(store):
    for text in (b"a\n", b"b\n"):
        store.journal("ledger", "segment").append(text)
    assert sorted(store.read(key) for key in keys(store)) == [b"a\n", b"b\n"]


def test_threads_append_whole_lines(store):
    journal = store.journal("ledger", "segment")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: journal.append(f"{i:04d}\n".encode()), range(40)))
    lines = b"".join(store.read(key) for key in keys(store)).splitlines()
    assert sorted(lines) == [f"{i:04d}".encode() for i in range(40)]


def test_what_is_deleted_is_gone_and_nothing_else(store):
    for key in ("a/1", "a/2", "ab/1", "b"):
        store.write(key, b"1")
    store.delete("b")
    store.delete("b")
    store.delete_tree("a")
    assert keys(store) == ["ab/1"]
    store.delete_tree("nothing")
    store.delete_tree()
    assert keys(store) == []


def test_a_lock_is_exclusive_and_given_back(store):
    with store.lock("run.lock"):
        with pytest.raises(RunRefused), store.lock("run.lock"):
            pass
        with store.below("other").lock("run.lock"):
            pass
    with store.lock("run.lock"):
        pass


def test_a_store_is_picklable(store):
    store.write("a", b"1")
    again = pickle.loads(pickle.dumps(store))
    assert again == store
    assert again.read("a") == b"1"
    assert again.name == store.name


def test_messages_name_objects_by_where_they_are(store):
    assert store.where("a/b") == f"{store.name}/a/b"
    assert store.below("a").where("b") == store.where("a/b")


def test_places_are_told_apart_by_their_scheme(tmp_path, s3):
    assert open_store(tmp_path) == open_store(f"file://{tmp_path}") == LocalStore(tmp_path)
    assert open_store("s3://bucket/a/b/") == BucketStore("s3://bucket/a/b")
    assert open_store("s3://bucket").below("x").name == "s3://bucket/x"


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("https://host/run", "cannot be written|not written to|written to"),
        ("ftp://host/run", "ftp://"),
        ("s3:///run", "the bucket ''"),
        ("s3://bucket/a/../b", "empty parts"),
        ("s3://bucket/a//b", "empty parts"),
    ],
)
def test_places_that_make_no_sense_are_refused(url, words):
    with pytest.raises(UsageError, match=words):
        open_store(url)


def test_a_store_without_obstore_says_what_to_install(monkeypatch, s3):
    monkeypatch.setitem(__import__("sys").modules, "obstore", None)
    monkeypatch.setenv("AWS_REGION", "another-region")  # so that no connection is there yet
    with pytest.raises(UsageError, match=r"pip install 'gigatile\[cloud\]'"):
        open_store("s3://bucket/run")


def test_a_list_longer_than_a_page_is_whole(bucket, monkeypatch):
    monkeypatch.setattr("gigatile.storage.bucket._PAGE", 7)
    store = open_store(f"{bucket}/many")
    for index in range(30):
        store.write(f"k/{index}", b"1")
    assert keys(store) == sorted(f"k/{index}" for index in range(30))
    store.delete_tree()
    assert keys(store) == []


def test_no_upload_is_left_open_by_a_writer_that_gave_up(server, bucket):
    import boto3

    client = boto3.client(
        "s3", endpoint_url=server.endpoint, region_name="us-east-1", aws_access_key_id="test-access-key",
        aws_secret_access_key="test-secret-key-7f3a9",
    )  # fmt: skip
    writer = open_store(bucket).writer("shard")
    writer.write(BIG)
    name = bucket.removeprefix("s3://")
    assert len(client.list_multipart_uploads(Bucket=name).get("Uploads", [])) == 1
    writer.abandon()
    assert client.list_multipart_uploads(Bucket=name).get("Uploads", []) == []
