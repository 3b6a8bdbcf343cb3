"""What a long ledger costs to read: bytes a block, whatever is said of it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from gigatile.engine.record import BlockKey, BlockRecord
from gigatile.ledger.lines import Started, framed, line_of_record, new_identity

MIB = 1 << 20


def synthetic(folder: Path, side: int, *, missing: int = 0, batch: int = 50, segments: int = 4) -> None:
    """The ledger of ``side ** 2`` blocks, all but the last few of them done, in batches by a few processes."""
    folder.mkdir(parents=True)
    keys = [BlockKey(0, *divmod(number, side)) for number in range(side * side - missing)]
    share = -(-len(keys) // segments)
    for segment in range(segments):
        with (folder / f"host-{segment}-00.jsonl").open("wb") as file:
            mine = keys[segment * share : (segment + 1) * share]
            for start in range(0, len(mine), batch):
                some = mine[start : start + batch]
                attempt = new_identity()
                file.write(framed(Started(attempt, [str(key) for key in some])))
                file.writelines(line_of_record(_record(key, attempt)) for key in some)


def _record(key: BlockKey, attempt: str) -> BlockRecord:
    seconds = {"read": 0.1234, "infer": 1.2345, "blend": 0.0123, "write": 0.0432}
    number = key.row * 1_000_003 + key.col + 1
    return BlockRecord(
        block=key, status="done", pixels=MIB, nbytes=100_000 + number % 1000, digest=f"{number:064x}", tiles=16,
        units_decoded=3, seam_pixels=1000, seam_difference=number / 7, seam_disagreements=number % 5,
        seconds=seconds, peak_rss_bytes=300 * MIB, attempt=attempt,
    )  # fmt: skip


CHILD = r"""
import json, sys, time
from pathlib import Path
from gigatile.ledger.reader import LedgerReader
from gigatile.ledger.state import DONE
from gigatile.storage.local import LocalStore

def peak():  # of this program, and not of the one that it was forked from
    (line,) = [line for line in open("/proc/self/status") if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024

folder, small, side = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
LedgerReader(LocalStore(small, False), [(8, 8)]).scan()  # what reading loads, and a piece of lines
before = peak()
reader = LedgerReader(LocalStore(folder, False), [(side, side), (side // 2, side // 2)])
start = time.perf_counter(), time.process_time()
state = reader.scan()
seconds = time.perf_counter() - start[0], time.process_time() - start[1]
scanned = peak()
digests = reader.digests(0)
print(json.dumps({"done": state.count(DONE), "pending": int(state.pending(0).sum()), "suspects": len(state.suspects()),
    "growth": scanned - before, "verify": peak() - scanned, "seconds": seconds,
    "digests": int(digests.any(axis=1).sum())}))
"""


def measured(folder, side, missing):
    synthetic(folder / "small", 8)
    synthetic(folder / "large", side, missing=missing)
    words = [sys.executable, "-c", CHILD, str(folder / "large"), str(folder / "small"), str(side)]
    answer = subprocess.run(words, capture_output=True, text=True, check=True)
    found = json.loads(answer.stdout)
    assert found["done"] == side * side - missing
    assert found["pending"] == missing
    assert found["digests"] == found["done"]
    assert found["suspects"] == 0
    return found


def test_reading_a_ledger_takes_bytes_a_block_and_not_an_object(tmp_path):
    """An object a block would be 50,000 * some 500 bytes = 24 MiB and more."""
    found = measured(tmp_path, 224, missing=100)
    assert found["growth"] < 10 * MIB, found
    assert found["verify"] < 8 * MIB, found


@pytest.mark.slow
def test_a_million_blocks_take_some_forty_megabytes(tmp_path, capsys):
    found = measured(tmp_path, 1000, missing=1000)
    with capsys.disabled():
        print(f"\n999,000 records scanned: {found}")
    assert found["growth"] < 45 * MIB, found
