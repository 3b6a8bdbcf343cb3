"""A directory that is new survives a power cut only when the one above it was synced."""

import pytest

from gigatile.storage import local
from gigatile.storage.local import LocalStore, write_atomically


@pytest.fixture
def synced(monkeypatch):
    found = []
    monkeypatch.setattr(local, "sync_directory", found.append)
    return found


def test_every_directory_above_a_new_one_is_synced_for_locks_and_small_files(tmp_path, synced):
    with LocalStore(tmp_path / "a" / "b").lock("lock"):
        assert {tmp_path, tmp_path / "a"} <= set(synced)
    synced.clear()
    write_atomically(tmp_path / "a" / "c" / "d" / "file", b"1")
    assert {tmp_path / "a", tmp_path / "a" / "c", tmp_path / "a" / "c" / "d"} == set(synced)


def test_a_new_log_syncs_its_folder_and_the_one_above(tmp_path, synced):
    LocalStore(tmp_path).journal("ledger", "n").append(b"1\n")
    assert synced == [tmp_path / "ledger", tmp_path]


def test_directories_that_are_there_are_not_synced_for_others(tmp_path, synced):
    with LocalStore(tmp_path).lock("lock"):
        assert synced == []
