"""Promise 2 for objects: the same bytes from any batch, executor, worker count, order and durability; the same rows
from any block, and so from any memory, which chooses it."""

import random
from dataclasses import replace
from typing import NamedTuple

import pytest

import gigatile as gt
from gigatile.runs import execution
from tests.planted import FIND, MAPS, TILING, found, planned, rows, write_planted
from tests.small_runs import entries


class Kind(NamedTuple):
    """A way to find objects."""

    model: str
    objects: gt.Detect | gt.Instances
    tiling: gt.Tiling = TILING
    image: str = "small"


KINDS = {
    **{name: Kind("crowd", gt.Detect(name)) for name in ("nms", "nmm", "wbf", "ownership")},
    "any class, ios": Kind("crowd", gt.Detect("nmm", "ios", 0.6, "any")),
    **{f"turned {name}": Kind("turned", gt.Detect(name)) for name in ("nms", "nmm", "wbf", "ownership")},
    "labels": Kind("labels", gt.Instances()),
    "components": Kind("maps", gt.Instances("components:threshold=0.5"), MAPS, "large"),
    "watershed": Kind("depth", gt.Instances("watershed:foreground=0,distance=1"), MAPS, "large"),
}
FEW = ["nms", "turned wbf", "labels", "components"]
"""For what has to do with stages, not with merges."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """An image for tiles of boxes and labels; one of two rows and columns of cells for maps."""
    small, large = tmp_path_factory.mktemp("small"), tmp_path_factory.mktemp("large")
    write_planted(small)
    write_planted(large, (1300, 1200), count=500)
    return {"small": small, "large": large}


@pytest.fixture(scope="module")
def run_of(folders):
    """Runs a kind, in some way."""

    def run(name, out, tiling=None, how=None, **plan):
        kind = KINDS[name]
        made = planned(folders[kind.image], kind.model, kind.objects, tiling or kind.tiling, memory="4GiB", **plan)
        result = gt.run(made, out, **{"durable": False, "workers": 2, **(how or {})})
        assert result.complete
        return result

    return run


@pytest.fixture(scope="module")
def reference(run_of, tmp_path_factory):
    """By one worker, batch 1."""
    known = {}

    def of(name):
        if name not in known:
            out = tmp_path_factory.mktemp("reference") / "out"
            result = run_of(name, out, how={"workers": 1, "durable": True}, batch=1)
            known[name] = found(out), rows(result.objects())
            assert len(known[name][1]) > 60
        return known[name]

    return of


@pytest.mark.parametrize("name", KINDS)
def test_any_number_of_lanes_and_any_batch_give_the_same_bytes(run_of, reference, tmp_path, name):
    for workers, batch in ((2, 3), (4, 2)):
        run_of(name, tmp_path / f"{workers}", how={"workers": workers}, batch=batch)
        assert found(tmp_path / f"{workers}") == reference(name)[0]


class Shuffled(execution.Keys):
    """Blocks in another order."""

    def __init__(self, level, todo):
        super().__init__(level, todo)
        self._order = random.Random(5).sample(range(len(self)), len(self))

    def __getitem__(self, index):
        return super().__getitem__(self._order[index])


@pytest.mark.parametrize("name", FEW)
def test_any_order_of_blocks_gives_the_same_bytes(run_of, reference, tmp_path, monkeypatch, name):
    monkeypatch.setattr(execution, "Keys", Shuffled)
    run_of(name, tmp_path / "out", how={"workers": 1})
    assert found(tmp_path / "out") == reference(name)[0]
    blocks = [entry["block"] for entry in entries(tmp_path / "out") if entry["block"].startswith("0/")]
    assert blocks != sorted(blocks)


@pytest.mark.parametrize("name", ["nmm", "labels"])
def test_worker_processes_give_the_same_bytes(run_of, reference, tmp_path, name):
    run_of(name, tmp_path / "out", how={"executor": "processes"})
    assert found(tmp_path / "out") == reference(name)[0]


@pytest.mark.parametrize("name", FEW)
def test_a_cluster_gives_the_same_bytes(run_of, reference, tmp_path, cluster, name):
    run_of(name, tmp_path / "out", how={"executor": cluster.address, "workers": None})
    assert found(tmp_path / "out") == reference(name)[0]


BLOCKS = {"small": (64, 192, 320, 512), "large": (1400,)}


@pytest.mark.parametrize("name", KINDS)
def test_any_block_gives_the_same_rows(run_of, reference, tmp_path, name):
    kind = KINDS[name]
    for block in BLOCKS[kind.image]:
        result = run_of(name, tmp_path / str(block), replace(kind.tiling, block=block))
        assert rows(result.objects()) == reference(name)[1]


def test_there_is_more_than_one_block_to_find_in(folders):
    for kind in KINDS.values():
        plan = planned(folders[kind.image], kind.model, kind.objects, kind.tiling)
        assert plan.blocks.count == (FIND if kind.image == "small" else 4), kind
