"""What a writer holds, measured from outside."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from gigatile.storage.bucket import WRITER_BYTES

CHILD = """
import json, resource, sys
from gigatile.storage.open import open_store

store = open_store(sys.argv[1])
store.write("first", bytes(1 << 20))  # the library, its threads, a connection
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
piece = bytes(1 << 20)
with store.writer("shard") as writer:
    for _ in range(int(sys.argv[2])):
        writer.write(piece)
    writer.finish()
print(json.dumps((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10))
"""


def test_a_writer_holds_no_more_than_it_says_however_long_the_object(bucket):
    found = {}
    for megabytes in (64, 160):
        command = [sys.executable, "-c", CHILD, bucket, str(megabytes)]
        found[megabytes] = json.loads(subprocess.run(command, check=True, capture_output=True, env=os.environ).stdout)
    assert max(found.values()) < WRITER_BYTES + (12 << 20), found  # allocators keep what they were given back
    assert found[160] - found[64] < 12 << 20, found
