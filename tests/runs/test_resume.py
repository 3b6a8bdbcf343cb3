"""The same command finishes what is missing, and only the same command."""

import json
import os
import shutil
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr

import gigatile as gt
from gigatile.errors import Cancelled, MemoryRefused, RunRefused
from gigatile.events import BlockFinished, PhaseStarted, RunStarted
from tests.small_runs import (
    BLOCKS,
    TILING,
    document,
    entries,
    fingerprints,
    finished,
    run_small,
    temporary_files,
    tree,
    write_conv,
)


def refusal(action):
    with pytest.raises(RunRefused) as raised:
        action()
    return str(raised.value)


TILINGS = {
    "tiling.tile": {"tile": 80, "block": 128},
    "tiling.overlap": {"overlap": 32, "block": 96},
    "tiling.margin": {"margin": 4},
    "tiling.blend": {"blend": "mean"},
    "tiling.border": {"border": "symmetric"},
    "block": {"block": 192},
}
VALUES = {
    "values.scale": {"scale": 0.5},
    "values.mean": {"mean": (0.1, 0.2, 0.3)},
    "values.std": {"std": (0.1, 0.2, 0.3)},
    "values.activation": {"activation": "softmax"},
}
PLANS = {"output": {"output": "probabilities"}, "mask": {"mask": "none"}}


@pytest.mark.parametrize("name", TILINGS)
def test_another_tiling_is_refused_by_name(out, image, model, name):
    before = tree(out)
    message = refusal(lambda: run_small(image, model, out, replace(TILING, **TILINGS[name])))
    assert f"{name}:" in message
    assert "--overwrite" in message
    assert {**tree(out), "lock": b""} == {**before, "lock": b""}


@pytest.mark.parametrize("name", VALUES)
def test_other_values_are_refused_by_name(out, image, model, name):
    loaded = gt.load_model(model, **VALUES[name])
    assert f"{name}:" in refusal(lambda: run_small(image, loaded, out))


@pytest.mark.parametrize("name", PLANS)
def test_another_result_is_refused_by_name(out, image, model, name):
    assert f"{name}:" in refusal(lambda: run_small(image, model, out, **PLANS[name]))


def test_another_dtype_of_the_result_is_refused(tmp_path, image, model):
    run_small(image, model, tmp_path / "out", output="probabilities")
    message = refusal(lambda: run_small(image, model, tmp_path / "out", output="probabilities", dtype="float16"))
    assert "dtype: float32 before, float16 now" in message


def test_other_channels_are_refused(out, image, model):
    selected = gt.open(image).select(channels=[2, 1, 0])
    assert "image.channels:" in refusal(lambda: run_small(selected, model, out))


def test_another_model_is_refused(out, image, tmp_path):
    other = write_conv(tmp_path / "conv.onnx", seed=1)
    assert "model.sha256:" in refusal(lambda: run_small(image, other, out))


def test_other_source_of_a_callable_is_refused(tmp_path, image):
    def one(batch):
        return batch[:, :1]

    run_small(image, one, tmp_path / "out")
    assert run_small(image, one, tmp_path / "out").complete

    def one(batch):
        return batch[:, 1:2]

    assert "model.sha256:" in refusal(lambda: run_small(image, one, tmp_path / "out"))


def test_one_changed_pixel_of_the_image_is_refused(out, image, model, tmp_path):
    other = str(shutil.copytree(image, tmp_path / "image.zarr"))
    array = zarr.open_array(other, mode="r+")
    array[0, 0] = 255 - array[0, 0]
    assert "image." in refusal(lambda: run_small(other, model, out))


def test_every_difference_is_listed(out, image, model):
    message = refusal(lambda: run_small(image, model, out, replace(TILING, margin=0, blend="mean"), mask="none"))
    assert all(f"{name}:" in message for name in ("tiling.margin", "tiling.blend", "mask"))
    assert "tiling.overlap" not in message


def test_a_copy_of_the_image_elsewhere_with_other_times_is_the_same_input(out, image, model, tmp_path):
    copy = str(shutil.copytree(image, tmp_path / "renamed.zarr"))
    for path in (tmp_path / "renamed.zarr").rglob("*"):
        os.utime(path, (1, 1))
    (out / "prediction.zarr" / "0" / "c" / "3" / "3").unlink()
    assert run_small(copy, model, out).complete


def test_a_copy_of_the_model_under_another_name_is_the_same_model(out, image, model, tmp_path):
    copy = shutil.copy(model, tmp_path / "renamed.onnx")
    (out / "prediction.zarr" / "0" / "c" / "3" / "3").unlink()
    assert run_small(image, copy, out).complete


def test_an_automatic_block_is_the_one_of_the_existing_result(out, image, model):
    assert run_small(image, model, out, replace(TILING, block=None)).complete
    assert document(out)["layout"]["block"] == [96, 96]


def test_the_stored_block_is_refused_if_it_does_not_fit_the_memory(out, image, model, monkeypatch):
    with pytest.raises(MemoryRefused):
        run_small(image, model, out, replace(TILING, block=None), memory="1MiB")


def stopped_after(blocks, image, model, out, **how):
    """A run that is told to stop when some blocks are finished."""
    stop, count = threading.Event(), []

    def watch(event):
        if isinstance(event, BlockFinished):
            count.append(event)
            if len(count) >= blocks:
                stop.set()

    with pytest.raises(Cancelled):
        run_small(image, model, out, on_event=watch, stop=stop, workers=1, **how)


def test_a_stopped_run_is_finished_by_the_same_call_and_no_block_is_done_twice(tmp_path, image, model, reference):
    out = tmp_path / "out"
    stopped_after(7, image, model, out)
    assert not document(out)["complete"]
    assert gt.run is not None and 7 <= sum(finished(out).values()) < BLOCKS
    assert run_small(image, model, out).complete
    assert fingerprints(out) == fingerprints(reference)
    assert set(finished(out).values()) == {1}
    assert temporary_files(out) == []


OTHER_RESOURCES = {
    "memory": {"memory": "3GiB"},
    "workers": {"workers": 3},
    "durable": {"durable": True},
    "processes": {"executor": "processes", "workers": 1},
}


@pytest.mark.parametrize("name", OTHER_RESOURCES)
def test_resources_may_differ_on_resume(tmp_path, image, model, reference, name):
    stopped_after(5, image, model, tmp_path / "out")
    assert run_small(image, model, tmp_path / "out", **OTHER_RESOURCES[name]).complete
    assert fingerprints(tmp_path / "out") == fingerprints(reference)


def test_the_batch_may_differ_on_resume(tmp_path, image, model, reference):
    stopped_after(5, image, gt.load_model(model, batch=1), tmp_path / "out")
    assert run_small(image, gt.load_model(model, batch=5), tmp_path / "out").complete
    assert fingerprints(tmp_path / "out") == fingerprints(reference)


def test_a_complete_run_does_nothing_again(out, image, model):
    before, count = tree(out / "prediction.zarr"), len(entries(out))
    events = []
    assert run_small(image, model, out, on_event=events.append).complete
    (started,) = [event for event in events if isinstance(event, RunStarted)]
    assert started.finished == started.blocks == BLOCKS
    assert not any(isinstance(event, PhaseStarted) for event in events)
    assert tree(out / "prediction.zarr") == before
    assert len(entries(out)) == count


@pytest.mark.parametrize("key", ["0/c/3/3", "1/c/1/1"])
@pytest.mark.parametrize("how", ["missing", "truncated", "longer", "empty"])
def test_a_shard_that_is_not_what_its_record_says_is_done_again(out, image, model, reference, key, how):  # noqa: PLR0917
    path = out / "prediction.zarr" / key
    content = path.read_bytes()
    if how == "missing":
        path.unlink()
    else:
        path.write_bytes({"truncated": content[:-1], "longer": content + b"\0", "empty": b""}[how])
    assert run_small(image, model, out).complete
    assert fingerprints(out) == fingerprints(reference)
    redone = {block for block, count in finished(out).items() if count == 2}
    assert redone == {key.replace("/c/", "/")}


def test_a_run_in_which_something_is_done_again_is_not_complete_meanwhile(out, image, model, reference):
    for key in ("2/2", "2/3", "3/3"):
        (out / "prediction.zarr" / "0" / "c" / key).unlink()
    stopped_after(1, image, model, out)
    assert not document(out)["complete"]
    assert not zarr.open_group(str(out / "prediction.zarr"), mode="r").attrs["gigatile"]["complete"]
    assert run_small(image, model, out).complete
    assert fingerprints(out) == fingerprints(reference)


def test_a_file_where_a_block_is_recorded_as_empty_is_removed(out, image, model, reference):
    path = out / "prediction.zarr" / "0" / "c" / "0" / "0"
    assert not path.exists()
    path.write_bytes(b"from nowhere")
    assert run_small(image, model, out).complete
    assert fingerprints(out) == fingerprints(reference)


def test_lost_metadata_of_the_result_is_written_again(out, image, model, reference):
    for path in (out / "prediction.zarr").rglob("zarr.json"):
        path.unlink()
    assert run_small(image, model, out).complete
    assert fingerprints(out) == fingerprints(reference)


def test_a_lost_ledger_means_that_everything_is_done_again(out, image, model, reference):
    shutil.rmtree(out / "ledger")
    assert run_small(image, model, out).complete
    assert fingerprints(out) == fingerprints(reference)
    assert len(finished(out)) > BLOCKS


def test_other_library_versions_are_a_warning(out, image, model):
    run_json = out / "run.json"
    stored = document(out)
    stored["versions"]["numpy"] = "1.0"
    run_json.write_text(json.dumps(stored))
    with pytest.warns(UserWarning, match="numpy 1.0 -> "):
        assert run_small(image, model, out).complete


def test_a_run_leaves_no_file_open_and_no_thread_behind(tmp_path, image, model):
    def held():
        ours = [thread.name for thread in threading.enumerate() if "gigatile" in thread.name]
        return len(list(Path("/proc/self/fd").iterdir())), [name for name in ours if "decode" not in name]

    run_small(image, model, tmp_path / "first")
    before = held()
    for name in "abc":
        run_small(image, model, tmp_path / name)
        with pytest.raises(RunRefused):
            run_small(image, model, tmp_path / name, mask="none")
    assert held() == before


def test_the_result_holds_no_times_and_no_paths(tmp_path, image, model, reference):
    copy = str(shutil.copytree(image, tmp_path / "elsewhere" / "renamed.zarr"))
    time.sleep(0.01)
    run_small(copy, shutil.copy(model, tmp_path / "renamed.onnx"), tmp_path / "deep" / "er" / "out")
    assert fingerprints(tmp_path / "deep" / "er" / "out") == fingerprints(reference)


def test_the_finished_result_holds_what_the_model_says(reference, image, model):
    """A look at the values, so that equal bytes are not equally wrong."""
    prediction = zarr.open_array(str(reference / "prediction.zarr" / "0"), mode="r")[:]
    valid = zarr.open_array(image, mode="r")[:].any(axis=2)
    assert np.array_equal(prediction == 255, ~valid)
    assert set(np.unique(prediction[valid])) == {0, 1}
