"""A plan holds to its budget or is refused with figures that can be trusted."""

import re

import numpy as np
import pytest

import gigatile as gt
from gigatile.errors import MemoryRefused
from gigatile.plans.build import fitted
from gigatile.testing.models import identity, whole_weights, write_convolutions
from gigatile.units import parse_bytes

MIB = 2**20


@pytest.fixture
def steady(monkeypatch):
    """What is resident does not change between two plans of a test, whatever earlier tests have left to be freed."""
    for module in ("build", "trials"):
        monkeypatch.setattr(f"gigatile.plans.{module}.base_bytes", lambda: 200 * MIB)


@pytest.fixture(scope="module")
def image():
    """Wide enough that its bands weigh something; read by no test."""
    return gt.open(np.broadcast_to(np.uint8(7), (3, 3000, 20000)), axes="cyx")


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_convolutions(tmp_path_factory.mktemp("m") / "m.onnx", whole_weights([3, 8, 4]))


@pytest.mark.parametrize("memory", ["500MiB", "700MiB", "1GiB", "4GiB"])
def test_what_is_not_refused_fits(image, path, memory):
    try:
        plan = gt.plan(image, path, gt.Tiling(256, 64), memory=memory)
    except MemoryRefused as error:
        assert parse_bytes(memory) < parse_bytes(needed(error))
        return
    assert plan.memory.budget_bytes == parse_bytes(memory)
    assert 0 < plan.memory.projected_bytes <= plan.memory.budget_bytes


def needed(error: MemoryRefused) -> str:
    match = re.search(r"([0-9.]+) ([KMG]iB)", error.expected)
    assert match, error.expected
    return f"{match[1]}{match[2]}"


def test_a_refusal_says_what_there_is_what_it_takes_and_what_to_do(image, path):
    with pytest.raises(MemoryRefused) as caught:
        gt.plan(image, path, gt.Tiling(1024, 256, block=16384), output="raw", memory="600MiB")
    error = caught.value
    assert "600.0 MiB" in error.found
    assert parse_bytes(needed(error)) > 600 * MIB
    assert "--memory" in error.fix


def test_the_tile_that_a_refusal_names_really_fits(image, path, steady):
    base = gt.plan(image, path, gt.Tiling(64, 16), memory="16GiB").memory.parts["base"]
    # Enough for the process itself, not for a block of tiles of 1024.
    memory = base + 160 * MIB
    with pytest.raises(MemoryRefused) as caught:
        gt.plan(image, path, gt.Tiling(1024, 256), output="raw", memory=memory)
    match = re.search(r"--tile (\d+),(\d+) --overlap (\d+)", caught.value.fix)
    assert match, str(caught.value)
    tile_y, tile_x, overlap = (int(number) for number in match.groups())
    plan = gt.plan(image, path, gt.Tiling((tile_y, tile_x), overlap), output="raw", memory=memory)
    assert plan.memory.projected_bytes <= memory


def test_with_the_memory_that_a_refusal_asks_for_it_is_not_refused(image, path, steady):
    asked = gt.Tiling(512, 128, block=1536)
    with pytest.raises(MemoryRefused) as caught:
        gt.plan(image, path, asked, memory="240MiB")
    memory = int(1.05 * parse_bytes(needed(caught.value)))
    assert gt.plan(image, path, asked, memory=memory).memory.fits


def test_a_giant_tile_is_refused_before_it_is_tried(image):
    calls = []

    def watch(batch):
        calls.append(batch.shape)
        return batch

    with pytest.raises(MemoryRefused, match="tile"):
        gt.plan(image, watch, gt.Tiling(20000, 0), memory="1GiB")
    assert not calls


def test_less_memory_gives_lanes_up_first_and_then_the_automatic_block(image, path):
    base = gt.plan(image, path, gt.Tiling(256, 64), memory="16GiB")
    plans = []
    for memory in range(base.memory.parts["base"] + 40 * MIB, base.memory.parts["base"] + 1500 * MIB, 60 * MIB):
        try:
            plans.append(fitted(gt.plan(image, path, gt.Tiling(256, 64), memory=memory), workers=4))
        except MemoryRefused:
            assert not plans, "more memory never fits less"
    assert plans
    lanes = [plan.memory.lanes for plan in plans]
    blocks = [plan.block for plan in plans]
    for i in range(1, len(plans)):
        assert blocks[i] >= blocks[i - 1]
        assert blocks[i] > blocks[i - 1] or lanes[i] >= lanes[i - 1]
    assert plans[-1].memory.lanes == 4
    assert plans[-1].block == base.block


def test_a_block_that_was_asked_for_is_never_changed(image, path):
    plan = gt.plan(image, path, gt.Tiling(256, 64, block=1920), memory="2GiB")
    assert plan.block == (1920, 1920)


def test_the_projection_does_not_grow_with_the_image(path):
    def projected(side: int) -> int:
        pixels = np.broadcast_to(np.uint8(7), (3, side, 8000))
        plan = gt.plan(gt.open(pixels, axes="cyx"), path, gt.Tiling(256, 64, block=1536), memory="2GiB")
        parts = dict(plan.memory.parts)
        return sum(size for name, size in parts.items() if name not in ("base", "allocator slack"))

    # A taller image has as many bands, not larger ones; the trial's measured bytes vary by a little.
    assert projected(100_000) < 1.2 * projected(10_000)


def test_the_tile_is_never_changed_for_memory(image):
    plan = gt.plan(image, identity, gt.Tiling(256, 64), memory="700MiB")
    assert plan.tiling.tile_yx == (256, 256)


@pytest.mark.parametrize("executor", ["processes", "cluster"])
def test_worker_processes_count_what_each_of_them_holds(image, path, executor):
    plan = gt.plan(image, path, gt.Tiling(256, 64), memory="8GiB")
    one, two = (fitted(plan, executor, workers) for workers in (1, 2))
    assert two.memory.fits
    assert one.memory.lanes >= 1
    if executor == "processes":
        assert two.memory.projected_bytes > one.memory.projected_bytes + 200 * MIB
