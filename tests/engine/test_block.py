"""One block at a time: what a failed try leaves behind, and what is told of it."""

from __future__ import annotations

import pickle
from threading import Event

import numpy as np
import pytest
import zarr

import gigatile as gt
from gigatile.engine.block import BlockEngine, failed_record
from gigatile.engine.record import BlockKey
from gigatile.errors import BlockError, Cancelled, StorageError
from gigatile.images.image import Image
from gigatile.outputs.omezarr import create_result
from gigatile.storage.local import LocalStore
from gigatile.testing.sources import CountingSource, UnitSource, noise
from tests.small_runs import SMALL, TILING, tree

FIRST = BlockKey(0, 0, 0)


class Model:
    """The mean of the channels, or an error."""

    def __init__(self):
        self.error: Exception | None = None

    def __call__(self, batch):
        if self.error is not None:
            raise self.error
        return batch.mean(axis=1, keepdims=True)


@pytest.fixture
def setting(tmp_path):
    """A model, a plan of it, and an engine whose results lie in `tmp_path` / "out"."""
    model = Model()
    plan = gt.plan(
        Image(CountingSource(UnitSource(noise((3, *SMALL)), (64, 64)))), model, TILING, output="probabilities"
    )
    store = LocalStore(tmp_path / "out", durable=False)
    create_result(store.below("prediction.zarr"), plan.layouts, plan.metadata)
    plan.image.counter.take()
    return model, plan, BlockEngine(plan, store, pending=np.ones(plan.blocks.grid, bool))


def do(engine, key=FIRST, stop=None):
    return engine.run(key, stop or Event(), lambda tiles: None)


def test_a_failing_model_raises_and_leaves_nothing(tmp_path, setting):
    model, plan, engine = setting
    before = tree(tmp_path / "out")
    model.error = ValueError("no weights for this")
    with pytest.raises(BlockError, match="no weights for this"):
        do(engine)
    assert tree(tmp_path / "out") == before
    assert plan.image.counter.units > 0


def test_a_block_may_be_tried_again_in_the_same_process_and_gives_the_same_bytes(tmp_path, setting):
    model, plan, engine = setting
    model.error = ValueError("not now")
    for _ in range(2):
        with pytest.raises(BlockError):
            do(engine)
    model.error = None
    record = do(engine)
    other = LocalStore(tmp_path / "other", durable=False)
    create_result(other.below("prediction.zarr"), plan.layouts, plan.metadata)
    undisturbed = do(BlockEngine(plan, other, pending=np.ones(plan.blocks.grid, bool)))
    assert (record.status, record.digest, record.tiles) == ("done", undisturbed.digest, undisturbed.tiles)
    assert tree(tmp_path / "out") == tree(tmp_path / "other")


def test_what_a_failed_try_decoded_is_counted_once(setting):
    model, plan, engine = setting
    decoded = plan.image.source.decoded
    decoded.clear()
    model.error = ValueError("not now")
    with pytest.raises(BlockError):
        do(engine)
    assert decoded.total() > 0
    model.error = None
    assert do(engine).units_decoded == decoded.total()
    decoded.clear()
    assert do(engine, BlockKey(0, 3, 4)).units_decoded == decoded.total() > 0


def test_the_seconds_of_a_failed_try_are_told_with_the_next_record_once(setting, monkeypatch):
    model, _, engine = setting
    model.error = ValueError("not now")
    with pytest.raises(BlockError):
        do(engine)
    spent = dict(engine._lost._seconds)
    assert spent["read"] > 0
    engine._lost._seconds["read"] += 1000
    model.error = None
    assert do(engine).seconds["read"] >= 1000
    assert engine._lost._seconds == {}
    assert do(engine, BlockKey(0, 0, 1)).seconds["read"] < 1000


def test_a_given_up_block_is_recorded_with_its_traceback_and_units(setting):
    model, plan, engine = setting
    model.error = ValueError("no weights for this")
    with pytest.raises(BlockError) as caught:
        do(engine)
    wasted = plan.image.counter.units
    record = failed_record(plan, FIRST, caught.value)
    assert (record.block, record.status, record.pixels) == (FIRST, "failed", 96 * 96)
    assert record.error == str(caught.value)
    assert "Traceback" in record.trace
    assert "raise self.error" in record.trace
    assert record.units_decoded == wasted > 0
    assert failed_record(plan, FIRST, caught.value).units_decoded == 0


def test_an_error_from_another_process_is_recorded_with_the_notes_that_it_brings(setting):
    _, plan, _ = setting
    error = BlockError("block 0/3/4", found="nothing")
    assert failed_record(plan, BlockKey(0, 3, 4), error).trace.endswith("BlockError: block 0/3/4: found nothing.\n")
    error.add_note("Traceback (most recent call last):\n  somewhere else")
    record = failed_record(plan, BlockKey(0, 3, 4), error)
    assert record.trace.endswith("  somewhere else\n")
    assert record.error == "block 0/3/4: found nothing."
    assert record.pixels == (330 - 3 * 96) * (400 - 4 * 96)


def test_records_travel(setting):
    _, plan, _ = setting
    record = failed_record(plan, FIRST, BlockError("here"))
    assert pickle.loads(pickle.dumps(record)) == record
    assert (record.filled, record.attempt) == ((), "")


def test_a_stopped_or_refused_block_leaves_nothing(tmp_path, setting, monkeypatch):
    _, _, engine = setting
    before = tree(tmp_path / "out")
    stop = Event()
    stop.set()
    with pytest.raises(Cancelled):
        do(engine, stop=stop)
    assert tree(tmp_path / "out") == before
    (tmp_path / "out/prediction.zarr/0/c").write_text("in the way")
    with pytest.raises(StorageError):
        do(engine)


def test_a_torn_level_fails_the_block_above_it_until_it_is_mended(tmp_path, setting):
    _, plan, engine = setting
    for row in range(plan.blocks.grid[0]):
        for col in range(plan.blocks.grid[1]):
            do(engine, BlockKey(0, row, col))
    shard = tmp_path / "out/prediction.zarr/0" / plan.layouts[0].shard_key(0, 0)
    content = shard.read_bytes()
    shard.write_bytes(content[:-1])
    above = BlockKey(1, 0, 0)
    with pytest.raises(BlockError, match="checksum is wrong") as caught:
        do(engine, above)
    assert str(shard) in str(caught.value)
    shard.write_bytes(content)
    assert do(engine, above).status == "done"
    fine, coarse = (zarr.open_array(tmp_path / "out/prediction.zarr" / level, mode="r")[...] for level in "01")
    box = plan.layouts[1].region(0, 0)
    found = coarse[(..., *box.slices())]
    below = fine[..., : 2 * box.y1, : 2 * box.x1].astype(np.float64)
    np.testing.assert_array_equal(found, below.reshape(-1, box.y1, 2, box.x1, 2).mean(axis=(2, 4)).astype(found.dtype))
