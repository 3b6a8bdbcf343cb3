"""Many images as one run: a directory each, one queue, and nothing that one image does ends the others."""

import os
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile

import gigatile as gt
from gigatile.cohorts.inputs import resolve_inputs
from gigatile.cohorts.run import run_cohort
from gigatile.cohorts.summary import Summary
from gigatile.engine.record import BlockKey
from gigatile.errors import Cancelled, RunRefused, UsageError
from gigatile.events import BlockFinished, CohortEnded, ImageEnded, ImageStarted
from gigatile.executors import clusters
from gigatile.ledger.writer import LedgerWriter
from gigatile.plans.build import fitted, shared
from gigatile.storage.open import open_store
from tests.small_runs import TILING, fingerprints, finished, lines, noise, write_conv, write_models, write_zarr

IMAGES = {"a": (330, 400), "b": (90, 90), "c": (200, 300)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three images, and what each gives when it is run alone."""
    folder = tmp_path_factory.mktemp("cohort")
    write_models(folder)
    write_conv(folder / "conv.onnx")
    (folder / "slides").mkdir()
    for seed, (name, shape) in enumerate(IMAGES.items()):
        write_zarr(folder / "slides" / f"{name}.zarr", noise(shape, seed))
        gt.run(planner(folder)(folder / "slides" / f"{name}.zarr"), folder / "alone" / name, durable=False)
    return folder


def planner(folder, model="conv.onnx", **options):
    loaded = gt.load_model(str(folder / model))

    def make_plan(entry):
        return gt.plan(gt.open(getattr(entry, "image", entry)), loaded, TILING, **{"memory": "3GiB", **options})

    return make_plan


def run(folder, out, make_plan=None, images=None, **how):
    """Run a cohort; returns its result and what was told."""
    told = []
    entries = resolve_inputs([str(path) for path in images or [folder / "slides"]]).entries
    make_plan = make_plan or planner(folder)
    result = run_cohort(entries, make_plan, out, durable=False, on_event=told.append, **how)
    return result, told


class Elsewhere:
    """A model that says that it runs on a CUDA device."""

    device = "cuda"

    def __init__(self, model):
        self._model = model

    def __getattr__(self, name):
        return getattr(self._model, name)


def states(out):
    return {row.name: row.state for row in Summary.open(open_store(out)).rows}


@pytest.mark.parametrize("how", [{"workers": 1}, {"workers": 3}, {"executor": "processes", "workers": 2}])
def test_each_image_gives_what_it_gives_alone(folder, tmp_path, how):
    result, told = run(folder, tmp_path / "out", **how)
    assert (result.complete, result.failed) == (3, 0)
    for name in IMAGES:
        assert fingerprints(tmp_path / "out" / name) == fingerprints(folder / "alone" / name)
        assert set(finished(tmp_path / "out" / name).values()) == {1}
    assert {event.image for event in told if isinstance(event, BlockFinished)} == set(IMAGES)
    assert told[-1] == CohortEnded(3, 0)


def test_processes_are_started_once_for_all_images(folder, tmp_path):
    run(folder, tmp_path / "out", executor="processes", workers=2)
    writers = {path.name.split("-")[-2] for path in (tmp_path / "out").glob("*/ledger/*")}
    assert len(writers) <= 3, "two workers and the client"


def test_no_more_processes_are_started_than_the_budget_holds(folder, tmp_path, monkeypatch):
    """Two cores, and memory for one worker process: as when each image is run alone."""
    started = []
    true = clusters.local_cluster
    monkeypatch.setattr(clusters, "local_cluster", lambda n, *rest: started.append((n, *rest[:1])) or true(n, *rest))
    enough = fitted(planner(folder)(folder / "slides" / "a.zarr"), "processes", 2).memory
    assert enough.lanes == 2
    for budget, processes in ((enough.budget_bytes, 2), (enough.projected_bytes - (64 << 20), 1)):
        result, _ = run(folder, tmp_path / str(budget), planner(folder, memory=budget), executor="processes", workers=2)
        assert result.failed == 0
        assert started.pop() == (processes, ())


def test_each_process_has_a_device_of_its_own_where_the_model_runs_on_devices(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a,GPU-b,GPU-c")
    asked = []

    def ask(lanes, devices, stop):
        asked.append((lanes, tuple(devices)))
        raise UsageError("a cluster", expected="nothing", found="a question")

    monkeypatch.setattr(clusters, "local_cluster", ask)

    def make_plan(entry):
        plan = planner(folder)(entry)
        on_device = replace(plan.model, model=Elsewhere(plan.model.model))
        return replace(plan, model=on_device)

    with pytest.raises(UsageError, match="a question"):
        run(folder, tmp_path / "out", make_plan, executor="processes")
    assert asked == [(3, ("GPU-a", "GPU-b", "GPU-c"))]


def test_the_model_is_brought_to_a_cluster_once_and_not_once_an_image(folder, tmp_path):
    with clusters.local_cluster(1) as client:
        result, _ = run(folder, tmp_path / "out", executor=client)
        assert result.failed == 0
        assert [path.relative_to(tmp_path / "out").parts[0] for path in tmp_path.rglob("conv.onnx")] == ["models"]
        (tmp_path / "out" / "summary.json").unlink()
        result, told = run(folder, tmp_path / "out", executor=client)
    assert result.complete == 3
    assert not [event for event in told if isinstance(event, BlockFinished)]


def test_a_bad_image_does_not_end_the_others(folder, tmp_path):
    broken = tmp_path / "broken.tif"
    broken.write_bytes((b"II*\0" + bytes(60)) * 3)
    result, told = run(folder, tmp_path / "out", images=[folder / "slides", broken])
    assert (result.complete, result.failed) == (3, 1)
    assert states(tmp_path / "out") == {"a": "complete", "b": "complete", "c": "complete", "broken": "failed"}
    (ended,) = [event for event in told if isinstance(event, ImageEnded) and event.image == "broken"]
    assert "broken.tif" in ended.error


def test_an_image_whose_blocks_fail_does_not_end_the_others_and_is_done_again_when_asked(folder, tmp_path):
    pixels = noise((200, 200), seed=9)
    pixels[190, 190] = 255
    spoiled = write_zarr(tmp_path / "spoiled.zarr", pixels)
    (folder / "broken").write_text("")
    try:
        images = [folder / "slides", spoiled]
        result, _ = run(folder, tmp_path / "out", planner(folder, "models.py:fragile"), images)
        assert (result.complete, result.failed) == (3, 1)
        assert states(tmp_path / "out")["spoiled"] == "partial"
    finally:
        (folder / "broken").unlink()
    result, _ = run(folder, tmp_path / "out", planner(folder, "models.py:fragile"), images, existing="retry-failed")
    assert (result.complete, result.failed) == (4, 0)


def test_a_directory_that_holds_another_run_is_refused_and_the_others_go_on(folder, tmp_path):
    run(folder, tmp_path / "out", images=[folder / "slides" / "a.zarr"])
    result, told = run(folder, tmp_path / "out", planner(folder, output="probabilities"))
    assert (result.complete, result.failed) == (2, 1)
    assert states(tmp_path / "out") == {"a": "refused", "b": "complete", "c": "complete"}
    (ended,) = [event for event in told if isinstance(event, ImageEnded) and event.state == "refused"]
    assert "output" in ended.error


def test_images_may_be_added_later_and_nothing_is_done_again(folder, tmp_path):
    run(folder, tmp_path / "out", images=[folder / "slides" / "a.zarr", folder / "slides" / "b.zarr"])
    before = fingerprints(tmp_path / "out" / "a"), finished(tmp_path / "out" / "a")
    _, told = run(folder, tmp_path / "out")
    assert {event.image for event in told if isinstance(event, BlockFinished)} == {"c"}
    assert (fingerprints(tmp_path / "out" / "a"), finished(tmp_path / "out" / "a")) == before
    assert set(states(tmp_path / "out").values()) == {"complete"}


def test_the_last_block_of_an_image_does_not_keep_lanes_from_the_next(folder, tmp_path):
    """The first image has one block, which does not end before one of the second is done."""
    other = threading.Event()
    first = write_zarr(tmp_path / "1.zarr", np.full((60, 60, 3), 7, np.uint8))
    second = write_zarr(tmp_path / "2.zarr", np.full((200, 200, 3), 9, np.uint8))

    def patient(batch):
        if batch.max() * 255 > 8:
            other.set()
        elif batch.max() > 0:
            assert other.wait(60), "the next image was kept waiting"
        return batch[:, :1]

    def make_plan(entry):
        return gt.plan(gt.open(entry.image), model, TILING, memory="3GiB")

    model = gt.load_model(patient)
    result, told = run(folder, tmp_path / "out", make_plan, [first, second], workers=2)
    assert result.complete == 2
    told = [event for event in told if isinstance(event, ImageStarted | ImageEnded)]
    assert [type(event).__name__ for event in told[:2]] == ["ImageStarted", "ImageStarted"]


def test_an_image_that_needs_the_whole_budget_has_the_process_for_itself(folder, tmp_path):
    plan = planner(folder)(folder / "slides" / "a.zarr")
    assert shared(plan, 2) is not None
    tight = planner(folder, memory=plan.memory.projected_bytes + 2**20)
    assert shared(tight(folder / "slides" / "a.zarr"), 2) is None
    result, told = run(folder, tmp_path / "out", tight, workers=2)
    assert result.complete == 3
    order = [type(event).__name__ for event in told if isinstance(event, ImageStarted | ImageEnded)]
    assert order == ["ImageStarted", "ImageEnded"] * 3


def test_an_image_that_no_worker_can_read_does_not_end_the_others(folder, tmp_path):
    gone = tmp_path / "gone.tif"
    tifffile.imwrite(gone, noise((200, 200)), tile=(64, 64), photometric="rgb")
    plan_one = planner(folder)

    def make_plan(entry):
        plan = plan_one(entry)
        if entry.name == "gone":
            gone.unlink()  # the client has it open; to workers its path means nothing
        return plan

    images = [gone, folder / "slides" / "a.zarr"]
    result, told = run(folder, tmp_path / "out", make_plan, images, executor="processes", workers=2)
    assert (result.complete, result.failed) == (1, 1)
    assert states(tmp_path / "out") == {"gone": "failed", "a": "complete"}
    (ended,) = [event for event in told if isinstance(event, ImageEnded) and event.image == "gone"]
    assert "gone.tif" in ended.error and "no such file" in ended.error


def test_what_somebody_died_of_goes_first_and_alone_though_other_images_wait(folder, tmp_path):
    images = [folder / "slides" / "a.zarr", folder / "slides" / "c.zarr"]
    with pytest.raises(ZeroDivisionError):
        run(folder, tmp_path / "out", planner(folder, "models.py:sleepy"), images, workers=1, stop=Broken())
    for segment in (tmp_path / "out" / "a" / "ledger").iterdir():
        segment.unlink()
    LedgerWriter(open_store(tmp_path / "out" / "a" / "ledger")).started([BlockKey(0, 2, 2)], alone=False)
    run(folder, tmp_path / "out", planner(folder, "models.py:sleepy"), images, workers=2)
    begun = [line for line in lines(tmp_path / "out" / "a") if line["status"] == "started"]
    (again,) = [line for line in begun if line["blocks"] == ["0/2/2"] and line.get("alone")]
    mine = next(path for path in (tmp_path / "out" / "a" / "ledger").iterdir() if again["id"] in path.read_text())
    assert again["id"] in mine.read_text().splitlines()[0], "others came first"


class Broken:
    """A stop signal that fails after the first images have begun."""

    def __init__(self):
        self._asked = 0

    def is_set(self):
        self._asked += 1
        if self._asked > 3:
            raise ZeroDivisionError
        return False


def test_processes_that_die_are_replaced_as_often_as_it_takes(folder, tmp_path):
    """More deaths than the cohort has processes."""
    (tmp_path / "deadly.py").write_text(
        "import multiprocessing, os\n"
        f"DEATHS = [{str(tmp_path / 'death')!r} + str(number) for number in range(2)]\n"
        "def model(batch):\n"
        "    for death in DEATHS if multiprocessing.parent_process() else ():\n"
        "        if not os.path.exists(death):\n"
        "            open(death, 'w').close()\n"
        "            os._exit(9)\n"
        "    return batch[:, :1]\n"
    )
    model = gt.load_model(f"{tmp_path / 'deadly.py'}:model")

    def make_plan(entry):
        return gt.plan(gt.open(entry.image), model, TILING, memory="3GiB")

    stop = threading.Event()
    hanging = threading.Timer(120, stop.set)
    hanging.start()
    try:
        result, _ = run(folder, tmp_path / "out", make_plan, executor="processes", workers=1, stop=stop)
    finally:
        hanging.cancel()
    assert (result.complete, result.failed) == (3, 0)
    assert len(list(tmp_path.glob("death*"))) == 2


def test_a_stopped_cohort_is_finished_by_the_same_call(folder, tmp_path):
    stop = threading.Event()
    told = []

    def on_event(event):
        told.append(event)
        if sum(isinstance(e, BlockFinished) for e in told) == 3:
            stop.set()

    entries = resolve_inputs([str(folder / "slides")]).entries
    make_plan = planner(folder, "models.py:sleepy")
    with pytest.raises(Cancelled):
        run_cohort(entries, make_plan, tmp_path / "out", durable=False, workers=1, on_event=on_event, stop=stop)
    assert "complete" not in set(states(tmp_path / "out").values()) or len(set(states(tmp_path / "out").values())) > 1
    result = run_cohort(entries, make_plan, tmp_path / "out", durable=False, workers=2)
    assert result.complete == 3
    for name in IMAGES:
        assert set(finished(tmp_path / "out" / name).values()) == {1}


def test_a_directory_in_which_a_cohort_works_is_refused_to_a_second(folder, tmp_path):
    store = open_store(tmp_path / "out")
    with store.lock("lock"), pytest.raises(RunRefused, match=str(os.getpid())):
        run(folder, tmp_path / "out")


def test_a_model_class_is_made_once_a_lane_and_not_once_an_image(folder, tmp_path):
    (tmp_path / "counted.py").write_text(
        "from pathlib import Path\n"
        "class Model:\n"
        "    def __init__(self):\n"
        "        with Path(__file__).with_name('made').open('a') as file: file.write('.')\n"
        "    def __call__(self, batch):\n"
        "        return batch[:, :1]\n"
    )
    result, _ = run(folder, tmp_path / "out", planner(tmp_path, "counted.py:Model"), [folder / "slides"], workers=2)
    assert result.complete == 3
    assert len((tmp_path / "made").read_text()) <= 2


def test_nothing_is_left_of_a_cohort_in_the_process(folder, tmp_path):
    threads = set(threading.enumerate())
    run(folder, tmp_path / "out", workers=2)
    deadline = time.monotonic() + 10
    while {t for t in set(threading.enumerate()) - threads if not t.name.startswith("gigatile-decode")}:
        assert time.monotonic() < deadline, threading.enumerate()
        time.sleep(0.05)
    assert [str(path) for path in Path(tmp_path / "out").rglob("*.tmp")] == []
