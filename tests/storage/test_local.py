"""Directories: what is on the disk at which moment."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from gigatile.errors import StorageError
from gigatile.storage import local
from gigatile.storage.local import LocalStore, leftovers, temporary_path, write_atomically


def tree(root):
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_equal_content_is_not_written_again(tmp_path):
    write_atomically(tmp_path / "a", b"one")
    before = (tmp_path / "a").stat()
    write_atomically(tmp_path / "a", b"one")
    assert (tmp_path / "a").stat() == before


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize("act", ["write", "writer"])
def test_a_failing_step_leaves_the_old_file_alone(tmp_path, monkeypatch, step, act):
    store = LocalStore(tmp_path)
    store.write("a", b"one")
    monkeypatch.setattr(*((local.os, "fsync", full) if step == "fsync" else (Path, "replace", full)))
    with pytest.raises(StorageError, match=r"No space left on device \(ENOSPC\)\. Free some space"):
        if act == "write":
            store.write("a", b"two")
        else:
            with store.writer("a") as writer:
                writer.write(b"two")
                writer.finish()
    monkeypatch.undo()
    assert tree(tmp_path) == {"a": b"one"}


def test_bytes_and_directory_are_synced_around_the_rename(tmp_path, monkeypatch):
    steps = []
    replace = Path.replace
    monkeypatch.setattr(local.os, "fsync", lambda _: steps.append("fsync"))
    monkeypatch.setattr(local, "sync_directory", steps.append)
    monkeypatch.setattr(Path, "replace", lambda path, target: steps.append("rename") or replace(path, target))
    write_atomically(tmp_path / "a", b"one")
    with LocalStore(tmp_path).writer("new/b") as writer:
        writer.write(b"two")
        writer.finish()
    assert steps == ["fsync", "rename", tmp_path, "fsync", "rename", tmp_path / "new", tmp_path]


def test_without_durability_nothing_is_synced_but_small_files(tmp_path, monkeypatch):
    steps = []
    monkeypatch.setattr(local.os, "fsync", steps.append)
    store = LocalStore(tmp_path, durable=False)
    with store.writer("a") as writer:
        writer.write(b"1")
        writer.finish()
    store.journal("ledger", "n").append(b"1\n")
    assert steps == []
    store.write("run.json", b"{}")
    assert steps


def test_a_line_is_synced_and_a_note_is_not(tmp_path, monkeypatch):
    journal = LocalStore(tmp_path).journal("ledger", "n")
    journal.append(b"0\n")
    steps = []
    monkeypatch.setattr(local.os, "fsync", steps.append)
    journal.note(b"1\n")
    assert steps == []
    journal.append(b"2\n")
    assert len(steps) == 1


def test_after_a_torn_line_the_next_goes_elsewhere(tmp_path, monkeypatch):
    journal = LocalStore(tmp_path).journal("ledger", "n")
    journal.append(b"whole\n")
    write = os.write
    monkeypatch.setattr(local.os, "write", lambda fd, lines: write(fd, lines[:2]))
    with pytest.raises(StorageError, match="ENOSPC"):
        journal.append(b"torn\n")
    monkeypatch.undo()
    journal.append(b"after\n")
    assert sorted(tree(tmp_path).values()) == [b"after\n", b"whole\nto"]


def test_temporary_names_never_meet(tmp_path):
    names = {temporary_path(tmp_path / "a") for _ in range(1000)}
    assert len(names) == 1000
    assert all(name.parent == tmp_path and name.name.startswith(".a.") for name in names)


def test_only_temporary_files_are_left_over(tmp_path):
    kept = [tmp_path / name for name in ("a", "a.tmp", ".hidden", "c/0")]
    lost = [temporary_path(path) for path in kept]
    for path in kept + lost:
        path.parent.mkdir(exist_ok=True)
        path.touch()
    store = LocalStore(tmp_path)
    assert sorted(leftovers(tmp_path)) == sorted(lost)
    assert sorted(entry.key for entry in store.entries()) == [".hidden", "a", "a.tmp", "c/0"]
    assert store.remove_leftovers() == len(lost)
    assert set(tree(tmp_path)) == {"a", "a.tmp", ".hidden", "c/0"}


def test_a_lock_on_a_full_disk_is_an_error_that_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(local.os, "write", full)
    with pytest.raises(StorageError, match="Free some space"), LocalStore(tmp_path).lock("run.lock"):
        pass


def test_a_directory_that_cannot_be_written_is_an_error_that_names_it(tmp_path):
    (tmp_path / "file").write_bytes(b"1")
    store = LocalStore(tmp_path / "file")
    with pytest.raises(StorageError, match=str(tmp_path / "file")):
        store.write("a", b"1")
    with pytest.raises(StorageError), store.lock("run.lock"):
        pass
