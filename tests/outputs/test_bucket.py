"""The same result in a bucket: the same bytes, the same errors, few requests."""

from __future__ import annotations

import os
from itertools import count

import numpy as np
import obstore
import pytest

from gigatile.errors import BlockError, RunRefused
from gigatile.outputs.check import check_shard
from gigatile.outputs.layout import pyramid_layouts
from gigatile.outputs.omezarr import ResultMetadata, create_result, is_complete, mark_complete, read_layouts
from gigatile.outputs.pyramid import downsample_shard
from gigatile.outputs.reading import LevelReader
from gigatile.outputs.shard import EMPTY_SHARD, ShardWriter
from gigatile.storage.open import open_store
from gigatile.tiling.region import Region
from tests import object_store

from .helpers import local, make_layout, noise, tree, write_result, write_shard

_NUMBERS = count()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch, object_store.object_store(tmp_path_factory.mktemp("s3")) as server:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        for name, value in server.env.items():
            patch.setenv(name, value)
        server.make_bucket("results")
        yield server


@pytest.fixture
def store(server):
    return open_store(f"s3://results/{next(_NUMBERS)}/prediction.zarr")


def client(server):
    return server.client("results")


def path(store, key):
    return store.where(key).removeprefix("s3://results/")


def content_of(server, store, key) -> bytes:
    return bytes(obstore.get(client(server), path(store, key)).bytes())


@pytest.mark.parametrize("kind", [(None, "uint8", 255, "nearest"), (2, "float32", np.nan, "mean")])
def test_a_result_and_its_pyramid_are_the_same_bytes_as_in_a_directory(tmp_path, server, store, kind):
    channels, dtype, fill, method = kind
    layouts = pyramid_layouts(make_layout((300, 400), channels, dtype, fill, shard=(128, 128), chunk=(32, 32)))
    pixels = noise(layouts[0], 3, 0)
    pixels[..., :128, 128:256] = fill
    for place in (local(tmp_path), store):
        write_result(place, layouts, pixels, ResultMetadata(method))
        for row in range(layouts[1].grid[0]):
            for col in range(layouts[1].grid[1]):
                downsample_shard(place, layouts, 1, row, col, method=method)
        mark_complete(place)
    assert object_store.tree(server, store.name) == tree(tmp_path)
    assert read_layouts(store) == layouts
    assert is_complete(store)


def test_a_shard_of_several_parts_is_the_same_bytes_and_is_checked(tmp_path, server, store):
    layout = make_layout((2560, 2048), None, "float32", np.nan, shard=(2560, 2048), chunk=(512, 512))
    pixels = noise(layout, 0, 0)
    here, there = (write_shard(place, "0/c/0/0", layout, pixels) for place in (local(tmp_path), store))
    assert here == there
    assert there.nbytes > 16 << 20
    assert object_store.tree(server, store.name) == tree(tmp_path)
    assert check_shard(store, "0/c/0/0", layout, there) == []
    found = LevelReader(store, 0, layout).read(Region(500, 3, 1100, 2048), None)
    np.testing.assert_array_equal(found, pixels[500:1100, 3:])


def test_fill_removes_what_stood_there_and_an_error_leaves_it(server, store):
    layout = make_layout()
    assert write_shard(store, "0/c/0/0", layout, np.full((64, 64), 255, np.uint8)) == EMPTY_SHARD
    write_shard(store, "0/c/0/0", layout, np.zeros((64, 64), np.uint8))
    before = object_store.tree(server, store.name)
    with pytest.raises(KeyError), ShardWriter(store, "0/c/0/0", layout, (64, 64)) as writer:
        writer.write(np.ones((32, 64), np.uint8))
        raise KeyError
    assert object_store.tree(server, store.name) == before != {}
    assert write_shard(store, "0/c/0/0", layout, np.full((64, 64), 255, np.uint8)) == EMPTY_SHARD
    assert object_store.tree(server, store.name) == {}


def test_damage_is_found_and_named(server, store):
    layout = make_layout((64, 64), channels=2, dtype="float32", fill=np.nan, chunk=(32, 32))
    receipt = write_shard(store, "0/c/0/0/0", layout, noise(layout, 0, 0))
    whole = content_of(server, store, "0/c/0/0/0")
    assert check_shard(store, "0/c/0/0/0", layout, receipt) == []
    for damaged in (whole[:-1], whole[:10], b"", whole[:30] + b"\0\0\0\0" + whole[34:]):
        obstore.put(client(server), path(store, "0/c/0/0/0"), damaged)
        problems = check_shard(store, "0/c/0/0/0", layout, receipt)
        assert problems
        assert all(problem.startswith(f"{store.name}/0/c/0/0/0: ") for problem in problems)
        if len(damaged) < len(whole):
            with pytest.raises(BlockError, match=f"{store.name}/0/c/0/0/0: expected chunks that decode"):
                LevelReader(store, 0, layout).read(Region(0, 0, 64, 64), 0)
    store.delete("0/c/0/0/0")
    assert check_shard(store, "0/c/0/0/0", layout, receipt) == [f"{store.name}/0/c/0/0/0: missing"]
    assert check_shard(store, "0/c/0/0/0", layout, EMPTY_SHARD) == []


def test_a_shard_that_vanishes_while_it_is_read_fails_the_block_by_name(store):
    layout = make_layout()
    write_shard(store, "0/c/0/0", layout, noise(layout, 0, 0)[:64, :64])
    reader = LevelReader(store, 0, layout)
    reader._index("0/c/0/0")
    store.delete("0/c/0/0")
    with pytest.raises(BlockError, match=f"{store.name}/0/c/0/0: .* found that it is gone"):
        reader.read(Region(0, 0, 16, 16), None)


def test_arrays_of_another_cut_are_refused(store):
    create_result(store, (make_layout(),), ResultMetadata("nearest"))
    with pytest.raises(RunRefused, match=f"{store.name}/0/zarr.json"):
        create_result(store, (make_layout(shard=(32, 64)),), ResultMetadata("nearest"))
