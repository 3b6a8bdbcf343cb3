"""Which artifacts are there is found out by listing, once."""

import numpy as np
import pytest

from gigatile.engine.record import BlockKey, BlockRecord
from gigatile.ledger.reader import LedgerReader
from gigatile.ledger.writer import LedgerWriter
from gigatile.outputs.layout import ArrayLayout
from gigatile.plans.stages import Stage, stages_of
from gigatile.runs.artifacts import missing_artifacts
from gigatile.tiling.tiling import Blocks
from tests.runs.memory_store import MemoryStore


def layout(channels=None):
    return ArrayLayout((350, 420), channels, np.dtype("uint8"), 255, (100, 100), (50, 50))


def pyramid(channels=None, level=1):
    return Stage("pyramid", Blocks((350, 420), (100, 100)), layout(channels), level)


@pytest.mark.parametrize("channels", [None, 3])
def test_the_place_of_a_shard_is_the_inverse_of_its_key(channels):
    stage = pyramid(channels)
    for row in range(4):
        for col in range(5):
            key = f"prediction.zarr/1/{layout(channels).shard_key(row, col)}"
            assert stage.key(row, col) == key
            assert stage.place(key) == (row, col)


def test_the_objects_of_a_part_belong_to_its_block_and_the_table_of_all_to_one_block():
    find, merge = stages_of("detect", Blocks((350, 420), (100, 100)), ())
    assert find.key(3, 4) == "parts/3/4/"
    assert find.place("parts/3/4/rows.parquet") == (3, 4)
    assert find.place("parts/3/4/ids/ids.parquet") is None
    assert find.place("parts/4/0/rows.parquet") is None
    assert (merge.grid, merge.key(0, 0), merge.place("objects.parquet")) == ((1, 1), "objects.parquet", (0, 0))


@pytest.mark.parametrize(
    "key",
    ["zarr.json", "1/zarr.json",
     "0/c/0/0", "1/c/4/0", "1/c/0/5", "1/c/0", "1/c/0/0/0", "1/c/00/1", "1/c/-1/0", "1/c/a/0",
     "1/c/0/0x", "11/c/0/0", "1/c/0/0/"],
)  # fmt: skip
def test_no_other_object_is_taken_for_a_shard(key):
    assert pyramid().place(f"prediction.zarr/{key}") is None


def test_missing_are_finished_blocks_whose_shard_is_gone_of_another_size_or_too_many():
    bucket = MemoryStore()
    writer = LedgerWriter(bucket.below("ledger"))
    status = {0: "done", 1: "done", 2: "done", 3: "empty", 4: "empty"}
    writer.append([BlockRecord(BlockKey(0, 0, col), what, 1, 9 * (what == "done")) for col, what in status.items()])
    writer.append([BlockRecord(BlockKey(0, 1, 0), "failed", 1)])
    prediction = bucket.below("prediction.zarr")
    for col, content in {0: b"x" * 9, 1: b"x" * 8, 4: b""}.items():
        prediction.write(f"0/c/0/{col}", content)
    prediction.write("0/c/1/0", b"of a block that failed")
    state = LedgerReader(bucket.below("ledger"), [(4, 5)]).scan()
    missing = missing_artifacts(state, 0, pyramid(level=0), bucket)
    assert np.argwhere(missing).tolist() == [[0, 1], [0, 2], [0, 4]]


def test_a_level_is_listed_once_and_no_shard_asked_for_one_by_one(monkeypatch):
    bucket = MemoryStore()
    state = LedgerReader(bucket, [(4, 5)]).scan()
    calls = []
    for name in ("entries", "size", "read", "read_range"):
        real = getattr(bucket, name)
        monkeypatch.setattr(bucket, name, lambda *given, name=name, real=real: (calls.append(name), real(*given))[1])
    missing_artifacts(state, 0, pyramid(level=0), bucket)
    assert calls == ["entries"]
