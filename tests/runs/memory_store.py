"""A bucket in memory: objects are whole, nothing can be appended to, every `append` is an object of its own."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from gigatile.errors import RunRefused
from gigatile.storage.store import Entry


@dataclass
class MemoryStore:
    """See `Store`; `objects` is shared by all that is `below`."""

    root: str = "memory://bucket"
    prefix: str = ""
    objects: dict[str, bytes] = field(default_factory=dict)
    deaf: list[str] = field(default_factory=list)
    """Operations that raise once, by name: ``delete``."""

    local = None

    @property
    def name(self) -> str:
        return f"{self.root}/{self.prefix}"

    def below(self, key: str) -> MemoryStore:
        return MemoryStore(self.root, f"{self.prefix}{key}/", self.objects, self.deaf)

    def where(self, key: str) -> str:
        return f"{self.name}{key}"

    def read(self, key: str) -> bytes | None:
        return self.objects.get(self.prefix + key)

    def read_range(self, key: str, offset: int, nbytes: int) -> bytes:
        content = self.read(key)
        if content is None:
            raise FileNotFoundError(key)
        return content[offset : offset + nbytes]

    def size(self, key: str) -> int | None:
        content = self.read(key)
        return None if content is None else len(content)

    def entries(self, prefix: str = ""):
        start = self.prefix + prefix
        for key in sorted(self.objects):
            if key.startswith(start):
                yield Entry(key[len(self.prefix) :], len(self.objects[key]))

    def write(self, key: str, content: bytes) -> None:
        self.objects[self.prefix + key] = bytes(content)

    def writer(self, key: str) -> MemoryWriter:
        return MemoryWriter(self, key)

    def journal(self, prefix: str, name: str) -> MemoryJournal:
        return MemoryJournal(self, f"{prefix}/{name}" if prefix else name)

    def delete(self, key: str) -> None:
        if "delete" in self.deaf:
            self.deaf.remove("delete")
            raise OSError("the process died")
        self.objects.pop(self.prefix + key, None)

    def delete_tree(self, prefix: str = "") -> None:
        for entry in list(self.entries(prefix)):
            self.delete(entry.key)

    def remove_leftovers(self) -> int:
        return 0

    @contextmanager
    def lock(self, key: str):
        if self.prefix + key in self.objects:
            raise RunRefused(self.name, expected="no other run", found="a live run")
        self.write(key, b"held")
        try:
            yield
        finally:
            self.delete(key)


class MemoryWriter:
    def __init__(self, store: MemoryStore, key: str) -> None:
        self._store, self._key, self._parts = store, key, []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.abandon()

    def write(self, content) -> None:
        self._parts.append(bytes(content))

    def finish(self) -> None:
        self._store.write(self._key, b"".join(self._parts))

    def abandon(self) -> None:
        self._parts = []


class MemoryJournal:
    _count = 0

    def __init__(self, store: MemoryStore, name: str) -> None:
        self._store, self._name = store, name

    def append(self, lines: bytes) -> None:
        MemoryJournal._count += 1
        self._store.write(f"{self._name}-{MemoryJournal._count:08d}.jsonl", lines)

    note = append

    def close(self) -> None:
        pass


def copy_tree(root: Path, store: MemoryStore) -> None:
    """Copy a folder into the store."""
    for path in sorted(root.rglob("*")):
        if path.is_file() and path.name != "lock":
            store.write(path.relative_to(root).as_posix(), path.read_bytes())
