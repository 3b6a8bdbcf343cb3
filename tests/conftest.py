"""What every test needs: probes are cached in a folder of this test run, not in the user's."""

from __future__ import annotations

import os
import tempfile

_CACHE = tempfile.TemporaryDirectory(prefix="gigatile-tests-", ignore_cleanup_errors=True)
os.environ["GIGATILE_CACHE_DIR"] = _CACHE.name
