"""Promise 2: the same bytes from any batch, executor, worker count, order and durability; the same values from any
block and any memory."""

import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gigatile as gt
from gigatile.errors import MemoryRefused
from gigatile.runs import execution
from tests.small_runs import BLOCKS, TILING, entries, fingerprints, noise, run_small, write_conv, write_zarr


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An image with a nodata area, and a model with a sigmoid."""
    folder = tmp_path_factory.mktemp("independent")
    pixels = noise()
    pixels[:110, 90:230] = 0
    pixels[200:, 310:] = 0
    write_zarr(folder / "image.zarr", pixels, nodata=0)
    write_conv(folder / "conv.onnx")
    return folder


def loaded(folder, batch=None):
    return gt.load_model(folder / "conv.onnx", batch=batch)


def probabilities(folder, name, batch=None, **how):
    result = run_small(
        str(folder / "image.zarr"), loaded(folder, batch), folder / name, output="probabilities", memory="4GiB", **how
    )
    assert result.complete
    return fingerprints(folder / name)


@pytest.fixture(scope="module")
def reference(folder):
    found = probabilities(folder, "reference", batch=1, workers=1, durable=True)
    assert sum(entry["status"] == "done" for entry in entries(folder / "reference")) > BLOCKS
    return found


@pytest.mark.parametrize("workers", [2, 3, 4])
def test_any_number_of_lanes_gives_the_same_bytes(folder, reference, workers):
    assert probabilities(folder, f"lanes-{workers}", workers=workers) == reference


@pytest.mark.parametrize("batch", range(2, 9))
def test_any_batch_gives_the_same_bytes(folder, reference, batch):
    assert probabilities(folder, f"batch-{batch}", batch=batch, workers=2) == reference


def test_doing_without_fsync_gives_the_same_bytes(folder, reference):
    assert probabilities(folder, "hasty", durable=False) == reference


class Shuffled(execution.Keys):
    """Blocks in another order."""

    def __init__(self, level, todo):
        super().__init__(level, todo)
        self._order = random.Random(5).sample(range(len(self)), len(self))

    def __getitem__(self, index):
        return super().__getitem__(self._order[index])


def test_any_order_of_blocks_gives_the_same_bytes(folder, reference, monkeypatch):
    monkeypatch.setattr(execution, "Keys", Shuffled)
    assert probabilities(folder, "shuffled", workers=1) == reference
    blocks = [entry["block"] for entry in entries(folder / "shuffled") if entry["block"].startswith("0/")]
    assert blocks != sorted(blocks)


def test_worker_processes_give_the_same_bytes(folder, reference):
    assert probabilities(folder, "processes", executor="processes", workers=2, batch=3) == reference


def test_a_separate_scheduler_with_two_workers_gives_the_same_bytes(folder, reference, cluster):
    assert probabilities(folder, "tcp", executor=cluster.address) == reference
    # HOST-PID-...: one segment a worker, since a worker keeps its job, and with it the model, from level to level.
    writers = [path.name.rsplit("-", 1)[0] for path in (folder / "tcp" / "ledger").iterdir()]
    assert len(writers) == len(set(writers)) == 2


def test_a_client_that_is_passed_in_gives_the_same_bytes_and_stays_open(folder, reference, cluster):
    from distributed import Client

    with Client(cluster.address, set_as_default=False) as client:
        assert probabilities(folder, "client", executor=client) == reference
        assert client.status == "running"


def test_workers_that_did_the_same_run_before_do_it_again_after_overwrite(folder, reference, cluster):
    """What a worker remembers of a run must not outlive the run's directory."""
    for _ in range(2):
        found = probabilities(folder, "again", executor=cluster.address, existing="overwrite")
        assert found == reference
        assert len(entries(folder / "again")) == len(entries(folder / "reference"))


def test_a_plan_that_is_run_twice_on_the_same_workers_is_run_twice(folder, cluster, tmp_path, monkeypatch):
    # Nothing but the run itself distinguishes the first from the second.
    monkeypatch.setattr("gigatile.plans.build.base_bytes", lambda: 200 * 2**20)
    plan = gt.plan(str(folder / "image.zarr"), loaded(folder), TILING, memory="4GiB")
    for _ in range(3):
        result = gt.run(plan, tmp_path / "out", executor=cluster.address, existing="overwrite", durable=False)
        assert result.status.done + result.status.empty == BLOCKS


def test_workers_see_an_image_that_was_changed_before_an_overwrite(folder, cluster, tmp_path):
    image = write_zarr(tmp_path / "image.zarr", noise(seed=1))
    before = run_small(image, loaded(folder), tmp_path / "out", executor=cluster.address).prediction[:]
    import zarr

    zarr.open_array(image, mode="r+")[...] = noise(seed=2)
    after = run_small(
        image, loaded(folder), tmp_path / "out", executor=cluster.address, existing="overwrite"
    ).prediction[:]
    assert not np.array_equal(after, before)
    assert np.array_equal(after, run_small(image, loaded(folder), tmp_path / "threads").prediction[:])


@pytest.mark.parametrize("blend", ["trim", "mean", "linear", "hann", "gaussian"])
def test_any_block_gives_the_same_values(folder, tmp_path, blend):
    values = []
    for block in (48, 96, 240, 480):
        tiling = replace(TILING, blend=blend, block=block)
        result = run_small(
            str(folder / "image.zarr"), loaded(folder), tmp_path / str(block), tiling, output="probabilities"
        )
        values.append(result.prediction[:])
    assert len(np.unique(values[0])) > 1000
    for other in values[1:]:
        assert np.array_equal(values[0], other, equal_nan=True)


@settings(max_examples=12, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    sides=st.tuples(st.sampled_from([16, 24, 32]), st.integers(0, 7)),
    blend=st.sampled_from(["trim", "mean", "linear", "hann", "gaussian"]),
    cores=st.tuples(st.integers(1, 6), st.integers(1, 6)),
)
def test_any_two_blocks_give_the_same_values_for_any_image(  # noqa: PLR0917  drawn by name
    folder, tmp_path_factory, shape, sides, blend, cores
):
    tile, halo = sides
    out = tmp_path_factory.mktemp("pair")
    pixels = noise(shape, seed=shape[0] * 91 + shape[1])
    values = []
    for name, count in zip("ab", cores, strict=True):
        tiling = gt.Tiling(tile=tile, overlap=2 * halo, blend=blend, block=count * (tile - 2 * halo))
        image = gt.open(pixels, axes="yxc")
        result = run_small(image, loaded(folder), out / name, tiling, output="probabilities", workers=1)
        values.append(result.prediction[:])
    assert np.array_equal(*values)


def test_a_smaller_budget_changes_the_block_but_no_value(folder, tmp_path):
    """The automatic block gives way to memory."""
    # Many channels, so that rows of a block are what memory is needed for.
    conv = write_conv(tmp_path / "wide.onnx", out=8)
    image = gt.open(noise((1900, 1900)), axes="yxc")
    tiling = gt.Tiling(tile=128, overlap=32, blend="trim")

    def planned(memory):
        return gt.plan(image, conv, tiling, output="probabilities", dtype="uint8", memory=memory)

    ample = planned("8GiB")
    low, high = 0, ample.memory.projected_bytes
    while high - low > 2**20:
        middle = (low + high) // 2
        try:
            planned(middle)
        except MemoryRefused:
            low = middle
        else:
            high = middle
    tight = planned(high + 8 * 2**20)
    assert tight.block != ample.block
    # First, because a run leaves memory behind that the next one has to count.
    second = gt.run(tight, tmp_path / "tight", durable=False, workers=1).prediction[:]
    first = gt.run(ample, tmp_path / "ample", durable=False).prediction[:]
    assert len(np.unique(first)) > 50
    assert np.array_equal(first, second)
