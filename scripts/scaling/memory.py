"""Resident memory of processes, from /proc: of themselves, not of what they were forked from."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

_EVERY_S = 0.2


def resident_bytes(process: int | str = "self") -> int:
    """Now."""
    return _status(process, "VmRSS")


def peak_bytes(process: int | str = "self") -> int:
    """At most, since its program began. (``ru_maxrss`` also counts the process that started it.)"""
    return _status(process, "VmHWM")


def _status(process: int | str, name: str) -> int:
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise LookupError(f"no {name} of process {process}")


@dataclass
class Watch:
    """The memory of a process over a time."""

    process: int | str
    samples: list[int] = field(default_factory=list)

    @property
    def steady(self) -> int:
        """The median over the second half, in bytes."""
        return int(median(self.samples[len(self.samples) // 2 :]))


@contextmanager
def watched(processes: dict[str, int | str]) -> Iterator[dict[str, Watch]]:
    """Sample the memory of processes, by name, while the body runs."""
    watches = {name: Watch(process) for name, process in processes.items()}
    over = threading.Event()

    def look() -> None:
        while True:
            for watch in watches.values():
                watch.samples.append(resident_bytes(watch.process))
            if over.wait(_EVERY_S):
                return

    thread = threading.Thread(target=look, name="memory-watch", daemon=True)
    thread.start()
    try:
        yield watches
    finally:
        over.set()
        thread.join()
