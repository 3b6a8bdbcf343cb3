from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from gigatile.errors import StorageError
from gigatile.storage import local as files
from gigatile.storage.local import LocalStore, leftovers, temporary_path, write_atomically
from tests.small_runs import tree


def test_a_file_is_replaced_as_a_whole(tmp_path):
    write_atomically(tmp_path / "new" / "a", b"one")
    write_atomically(tmp_path / "new" / "a", b"two")
    assert tree(tmp_path) == {"new/a": b"two"}


def test_equal_content_is_not_written_again(tmp_path):
    write_atomically(tmp_path / "a", b"one")
    before = (tmp_path / "a").stat()
    write_atomically(tmp_path / "a", b"one")
    assert (tmp_path / "a").stat() == before


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failing_step_leaves_the_old_file_alone(tmp_path, monkeypatch, step):
    def fail(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    write_atomically(tmp_path / "a", b"one")
    monkeypatch.setattr(*((files.os, "fsync", fail) if step == "fsync" else (Path, "replace", fail)))
    with pytest.raises(StorageError, match=r"No space left on device \(ENOSPC\)\. Free some space"):
        write_atomically(tmp_path / "a", b"two")
    monkeypatch.undo()
    assert tree(tmp_path) == {"a": b"one"}


def test_bytes_and_directory_are_synced_around_the_rename(tmp_path, monkeypatch):
    steps = []
    replace = Path.replace
    monkeypatch.setattr(files.os, "fsync", lambda _: steps.append("fsync"))
    monkeypatch.setattr(files, "sync_directory", steps.append)
    monkeypatch.setattr(Path, "replace", lambda path, target: steps.append("rename") or replace(path, target))
    write_atomically(tmp_path / "a", b"one")
    assert steps == ["fsync", "rename", tmp_path]


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
    assert sorted(leftovers(tmp_path)) == sorted(lost)
    assert LocalStore(tmp_path).remove_leftovers() == len(lost)
    assert set(tree(tmp_path)) == {"a", "a.tmp", ".hidden", "c/0"}
