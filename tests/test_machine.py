"""What is resident, less what was freed."""

import subprocess
import sys

import pytest

FREED = """
import numpy as np
from gigatile.machine import base_bytes, resident_bytes
before = base_bytes()
# Below the size that glibc maps by itself; the last one keeps the heap from shrinking at its end.
held = [np.ones(10_000, np.uint8) for _ in range(20_000)]
last = held[-1]
del held
left = resident_bytes() - before
print(left, base_bytes() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs glibc")
def test_memory_that_was_freed_is_not_counted():
    done = subprocess.run([sys.executable, "-c", FREED], capture_output=True, text=True, check=True)
    left, counted = map(int, done.stdout.split())
    assert left > 100 << 20, "nothing was left to give back"
    assert counted < 20 << 20
