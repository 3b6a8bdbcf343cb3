"""Promise 6: with enough memory each source chunk is decoded once, and what a run reports is what was done."""

import threading

import numpy as np
import pytest

import gigatile as gt
from gigatile.errors import Cancelled
from gigatile.events import BlockFinished
from gigatile.images.decode_units import chunk_span
from gigatile.images.image import Image
from gigatile.images.zarr import ZarrSource
from tests.small_runs import TILING, document, entries, noise, run_small, write_models, write_zarr

CHUNK = 128
SHAPE = (500, 600)
CHUNKS = 4 * 5


class Counter:
    """How often each unit of a Zarr array was decoded, and which of its chunks that takes."""

    def __init__(self):
        self.lock, self.units = threading.Lock(), []

    def chunks(self, source):
        spans = [chunk_span(source.info.levels[level], row, col) for level, row, col in self.units]
        return sum(len(rows) * len(cols) for rows, cols in spans)


@pytest.fixture
def counter(monkeypatch):
    counter, decode = Counter(), ZarrSource.decode

    def counted(source, level, row, col):
        with counter.lock:
            counter.units.append((level, row, col))
        return decode(source, level, row, col)

    monkeypatch.setattr(ZarrSource, "decode", counted)
    return counter


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("decoded")
    write_zarr(folder / "image.zarr", noise(SHAPE), chunk=CHUNK)
    write_models(folder)
    return folder


def planned(folder, memory="4GiB", tiling=TILING):
    return gt.plan(str(folder / "image.zarr"), str(folder / "models.py") + ":bright", tiling, memory=memory)


def test_planning_reads_no_pixels(folder, counter):
    str(planned(folder)), planned(folder).to_json()
    assert counter.units == []


@pytest.mark.parametrize("workers", [1, 2, 3, 4])
@pytest.mark.parametrize("block", [48, 240])
def test_with_enough_memory_every_chunk_is_decoded_once(folder, counter, tmp_path, workers, block):
    plan = planned(folder, tiling=gt.Tiling(tile=64, overlap=16, blend="hann", block=block))
    result = gt.run(plan, tmp_path / "out", workers=workers, durable=False)
    assert len(counter.units) == len(set(counter.units)), "a unit was decoded twice"
    assert counter.chunks(plan.image.source) == CHUNKS
    assert result.status.decoded_ratio == 1.0
    assert document(tmp_path / "out")["decoded_ratio"] == 1.0


@pytest.mark.parametrize("cache_bytes", [0, 100_000, 400_000])
def test_with_a_small_cache_the_reported_ratio_is_what_was_decoded(folder, counter, tmp_path, monkeypatch, cache_bytes):
    use_cache = Image.use_cache
    monkeypatch.setattr(Image, "use_cache", lambda image, size, schedule: use_cache(image, cache_bytes, schedule))
    plan = planned(folder)
    result = gt.run(plan, tmp_path / "out", workers=2, durable=False)
    units = plan.image.levels[0].unit_count
    assert len(counter.units) > units
    assert result.status.decoded_ratio == len(counter.units) / units
    assert sum(entry["units_decoded"] for entry in entries(tmp_path / "out")) == len(counter.units)


def test_a_resumed_run_reports_what_both_parts_decoded(folder, counter, tmp_path):
    stop = threading.Event()
    with pytest.raises(Cancelled):
        gt.run(
            planned(folder), tmp_path / "out", workers=1, durable=False, stop=stop,
            on_event=lambda event: isinstance(event, BlockFinished) and stop.set(),
        )  # fmt: skip
    result = gt.run(planned(folder), tmp_path / "out", workers=1, durable=False)
    assert result.complete
    units = planned(folder).image.levels[0].unit_count
    # What was decoded for blocks that were given up is nobody's: it may be missing, never more.
    assert 1.0 <= result.status.decoded_ratio <= len(counter.units) / units


@pytest.mark.parametrize("blend", ["trim", "hann"])
def test_tiles_are_inferred_as_often_as_the_plan_says(folder, tmp_path, blend):
    calls = []

    def counting(batch):
        calls.append(len(batch))
        return batch[:, :1]

    tiling = gt.Tiling(tile=64, overlap=16, blend=blend, block=240)
    plan = gt.plan(str(folder / "image.zarr"), counting, tiling)
    calls.clear()
    result = gt.run(plan, tmp_path / "out", durable=False)
    assert sum(calls) == plan.tiles_inferred == result.status.tiles_inferred
    assert result.status.overcompute == pytest.approx(sum(calls) * 64 * 64 / np.prod(SHAPE))
    cores = -(-SHAPE[0] // 48) * -(-SHAPE[1] // 48)
    assert plan.to_json()["tiles"] == cores
    assert (sum(calls) == cores) == (blend == "trim")


def test_worker_processes_report_what_they_decoded(folder, tmp_path):
    result = run_small(
        str(folder / "image.zarr"), str(folder / "models.py") + ":bright", tmp_path / "out", executor="processes",
        workers=2,
    )  # fmt: skip
    # Two caches: at most twice.
    assert 1.0 <= result.status.decoded_ratio <= 2.0
