"""A hundredth of what scripts/scale measures: memory a block, what a resume hands out, and that its children tell.

Rates and seconds are for the script: no test asserts time.
"""

import gc
import tracemalloc
from pathlib import Path
from threading import Event

import cloudpickle
import numpy as np
import pytest

from gigatile.events import ignore
from gigatile.executors.dask import INLINE_BYTES
from gigatile.runs.begin import begun
from gigatile.runs.carrier import open_carrier
from gigatile.runs.directory import RunDirectory
from gigatile.runs.job import BlockJob
from gigatile.runs.runner import how_to_run
from scripts.scaling import main as scale
from scripts.scaling.synthetic import RecordingJob, empty_plan, write_ledger

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
FEW, MANY = 3_000, 12_000
BYTES_A_BLOCK = 50
"""50 MB for a million blocks, their pyramid included."""


def drive(out: Path, blocks: int) -> int:
    """Record every block of a run, in this thread; returns the most bytes that were allocated meanwhile."""
    directory = RunDirectory.at(out, durable=False)
    plan = empty_plan(blocks)
    gc.collect()
    tracemalloc.start()
    try:
        with (
            open_carrier("threads", 1) as carrier,
            begun(plan, directory, carrier, how_to_run(carrier, ignore), "resume") as work,
        ):
            job = RecordingJob(directory, plan.layouts)
            while not work.finished:
                task = work.take("here", idle=True)
                assert task is not None
                work.done(task, "here", job(task.keys, False, Event(), lambda steps, size: None))
            job.rest()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_block_costs_the_client_no_more_than_fifty_bytes(tmp_path):
    drive(tmp_path / "warm", 100)  # what is imported late
    few, many = (drive(tmp_path / str(blocks), blocks) for blocks in (FEW, MANY))
    assert many - few <= BYTES_A_BLOCK * (MANY - FEW)


def test_with_nearly_all_done_only_the_rest_is_handed_out(tmp_path):
    plan, left = empty_plan(10_000), 10
    directory = RunDirectory.at(tmp_path / "run", durable=False)
    with open_carrier("threads", 1) as carrier:
        how = how_to_run(carrier, ignore)
        with begun(plan, directory, carrier, how, "resume"):
            write_ledger(plan, directory, 10_000 - left)
        with begun(plan, directory, carrier, how, "resume") as work:
            assert work.finished_before == 10_000 - left
            job, keys = RecordingJob(directory, plan.layouts), []
            while (task := work.take("here", idle=True)) is not None and task.keys[0].stage == 0:
                keys += [(key.row, key.col) for key in task.keys]
                work.done(task, "here", job(task.keys, False, Event(), lambda steps, size: None))
    assert keys == [(99, col) for col in range(90, 100)]


def test_the_job_of_a_million_blocks_travels_with_a_message_and_knows_what_is_to_be_done(tmp_path):
    plan = empty_plan(1_000_000)
    pending = np.random.default_rng(0).random(plan.blocks.grid) < 0.5
    payload = cloudpickle.dumps(BlockJob(plan, RunDirectory.at(tmp_path), pending, "token"))
    assert len(payload) < INLINE_BYTES
    assert np.array_equal(cloudpickle.loads(payload).pending, pending)


def test_the_engine_records_every_empty_block_and_its_pyramid(tmp_path):
    run = scale.measure("threads", "real", 400, tmp_path)
    assert run.found["blocks"] == [400, 100]  # 320 x 320 px, and 160 x 160
    assert run.found["tasks"] < 500
    assert run.memory_mb("client", "peak") >= run.memory_mb("client", "steady") > 10


def test_a_scheduler_of_its_own_is_measured_and_small_blocks_travel_together(tmp_path):
    run = scale.measure("cluster", "no-op", 3_000, tmp_path)
    assert run.found["blocks"][0] == 3_000
    assert run.all_blocks > 3_900
    assert run.found["tasks"] < run.all_blocks / 4
    assert run.memory_mb("scheduler", "peak") > 10


def test_a_resume_is_measured_up_to_its_first_block(tmp_path):
    run = scale.measure_resume(2_000, 2, tmp_path)
    assert run.all_blocks <= 2
    assert run.found["start_s"] >= run.found["begin_s"] > 0


def test_a_missed_target_is_told_from_one_that_is_met():
    def run(peak: int, seconds: float) -> scale.Run:
        memory = {"client": {"peak": peak * scale.MB, "steady": peak * scale.MB}}
        found = {"blocks": [1000], "work_s": seconds, "start_s": 1.0, "begin_cpu_s": 1.0, "memory": memory}
        return scale.Run("threads", 1000, found)

    assert all(met for _, met in scale.targets([run(40, 1.0), run(90, 1.0)], run(40, 1.0)))
    missed = [line for line, met in scale.targets([run(40, 1.0), run(91, 1.1)], run(40, 1.0)) if not met]
    assert len(missed) == 2
    assert "memory" in missed[0]
    assert "rate" in missed[1]
