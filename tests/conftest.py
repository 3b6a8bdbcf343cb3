"""What every test needs: probes are cached in a folder of this test run, not in the user's, and plans are made as in a
process that has just begun."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator

import pytest

_CACHE = tempfile.TemporaryDirectory(prefix="gigatile-tests-", ignore_cleanup_errors=True)
os.environ["GIGATILE_CACHE_DIR"] = _CACHE.name

FRESH_BYTES = 256 << 20
"""What is resident in a process that has loaded all that a run needs."""


@pytest.fixture(scope="session", autouse=True)
def _a_process_that_has_just_begun() -> Iterator[None]:
    """Plans count what is resident; after thousands of tests, with the libraries of all readers loaded, that is a GiB
    and more, and budgets would be refused by the order of tests. Memory itself is tested in child processes."""
    from gigatile.machine import base_bytes
    from gigatile.plans import build, trials

    with pytest.MonkeyPatch.context() as patch:
        for module in (build, trials):
            patch.setattr(module, "base_bytes", lambda: min(base_bytes(), FRESH_BYTES))
        yield
