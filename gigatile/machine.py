"""What this machine, or the container on it, has."""

from __future__ import annotations

import ctypes
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
            _give_back_freed()
            _base = resident_bytes()
        _runs += 1
    try:
        yield
    finally:
        with _WORKING:
            _runs -= 1


def base_bytes() -> int:
    """Resident memory of this process without the runs that are going on in it, and without what was freed before."""
    with _WORKING:
        if _runs:
            return _base
        _give_back_freed()
        return resident_bytes()


def _give_back_freed() -> None:
    """Have allocators return pages that nothing is in any more: a long-lived process would count them as its own, and
    plans be refused for memory that is free."""
    if "pyarrow" in sys.modules:
        sys.modules["pyarrow"].default_memory_pool().release_unused()
    # glibc's; others do it by themselves, or have no word for it.
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def peak_resident_bytes() -> int:
    """Largest resident memory that this process ever had."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def cache_folder() -> Path:
    """``$GIGATILE_CACHE_DIR``, else ``gigatile`` in the user's cache folder (XDG Base Directory Specification)."""
    given = os.environ.get("GIGATILE_CACHE_DIR")
    return Path(given) if given else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gigatile"
