"""What this machine, or the container on it, has."""

from __future__ import annotations

import os
import resource
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def available_bytes() -> int:
    """Memory of the machine, or of the cgroup that this process is confined to."""
    import psutil

    total = int(psutil.virtual_memory().total)
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        limit = Path("/sys/fs/cgroup", name)
        if limit.exists() and (text := limit.read_text().strip()).isdigit():
            total = min(total, int(text))
    return total


def resident_bytes() -> int:
    """Resident memory of this process now."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    import psutil

    return int(psutil.Process().memory_info().rss)


_WORKING = threading.Lock()
_runs, _base = 0, 0


@contextmanager
def working() -> Iterator[None]:
    """While this lasts `base_bytes` is what was resident when the first of those who work began."""
    global _runs, _base  # noqa: PLW0603  of the process, as its memory is
    with _WORKING:
        if _runs == 0:
            _base = resident_bytes()
        _runs += 1
    try:
        yield
    finally:
        with _WORKING:
            _runs -= 1


def base_bytes() -> int:
    """Resident memory of this process without the runs that are going on in it."""
    with _WORKING:
        return _base if _runs else resident_bytes()


def peak_resident_bytes() -> int:
    """Largest resident memory that this process ever had."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def cache_folder() -> Path:
    """``$GIGATILE_CACHE_DIR``, else ``gigatile`` in the user's cache folder (XDG Base Directory Specification)."""
    given = os.environ.get("GIGATILE_CACHE_DIR")
    return Path(given) if given else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gigatile"
