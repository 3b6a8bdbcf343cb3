from __future__ import annotations

import hashlib
from collections import Counter

import google_crc32c
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gigatile.errors import BlockError
from gigatile.outputs import check, reading
from gigatile.outputs.check import check_shard
from gigatile.outputs.layout import ArrayLayout, pyramid_layouts
from gigatile.outputs.omezarr import ResultMetadata
from gigatile.outputs.pyramid import downsample_shard
from gigatile.outputs.reading import SPANS, LevelReader
from gigatile.outputs.shard import ShardReceipt
from gigatile.tiling.region import Region

from .helpers import Remote, make_layout, noise, write_result, write_shard

WIDE = make_layout((64, 64), channels=2, dtype="float32", fill=np.nan, chunk=(16, 16))
"""One shard of 4 x 4 chunks and two channels."""
INDEX_BYTES = 16 * 32


def remote(tmp_path, layout=WIDE, seed=0):
    """A result in a store that counts, and its pixels."""
    store, pixels = Remote(tmp_path), noise(layout, seed, 0)
    write_result(store, (layout,), pixels)
    return store, pixels


@settings(max_examples=40, deadline=None)
@given(
    layout=st.sampled_from([WIDE, make_layout(), make_layout((130, 100), 3, "uint16", 65535, shard=(48, 96))]),
    box=st.tuples(*(st.integers(0, 63) for _ in range(4))),
    request_bytes=st.sampled_from([1, 900, 4 << 20]),
)
def test_any_box_is_read_whatever_is_asked_for_at_once(tmp_path_factory, layout, box, request_bytes):
    store, pixels = remote(tmp_path_factory.mktemp("level"), layout)
    y0, y1, x0, x1 = (*sorted(box[:2]), *sorted(box[2:]))
    region = Region(y0, x0, y1 + 1, x1 + 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "REQUEST_BYTES", request_bytes)
        reader = LevelReader(store, 0, layout)
    for channel in [None] if layout.channels is None else range(layout.channels):
        expected = pixels[(..., *region.slices())]
        np.testing.assert_array_equal(reader.read(region, channel), expected if channel is None else expected[channel])


@pytest.mark.parametrize("times", [1, 2, 3, 4])
def test_a_pyramid_asks_once_for_each_index_and_each_row_of_chunks(tmp_path, times):
    """Also where a chunk of the next level lies above two shards, as with 1 or 3 chunks a shard."""
    side = 16 * times
    layouts = pyramid_layouts(make_layout((300, 300), 2, "float32", np.nan, shard=(side, side), chunk=(16, 16)))
    store = Remote(tmp_path)
    write_result(store, layouts, noise(layouts[0], 0, 0), ResultMetadata("mean"))
    store.ranges.clear()
    for row in range(layouts[1].grid[0]):
        for col in range(layouts[1].grid[1]):
            downsample_shard(store, layouts, 1, row, col, method="mean")
    asked = Counter(key for key, _, _ in store.ranges)
    assert len(asked) == layouts[0].grid[0] * layouts[0].grid[1]
    for row in range(layouts[0].grid[0]):
        for col in range(layouts[0].grid[1]):
            rows_of_chunks = -(-layouts[0].region(row, col).shape[0] // 16)
            assert asked[f"0/{layouts[0].shard_key(row, col)}"] == 1 + rows_of_chunks


@pytest.mark.parametrize("request_bytes", [1, 2500, 4 << 20])
def test_a_pyramid_reads_each_stored_byte_once(tmp_path, monkeypatch, request_bytes):
    monkeypatch.setattr(reading, "REQUEST_BYTES", request_bytes)
    layouts = pyramid_layouts(make_layout((300, 300), 2, "float32", np.nan, shard=(128, 128), chunk=(16, 16)))
    store = Remote(tmp_path)
    write_result(store, layouts, noise(layouts[0], 0, 0), ResultMetadata("mean"))
    stored = sum(entry.nbytes for entry in store.entries("0") if "/c/" in entry.key)
    store.ranges.clear()
    for row in range(layouts[1].grid[0]):
        for col in range(layouts[1].grid[1]):
            downsample_shard(store, layouts, 1, row, col, method="mean")
    assert sum(nbytes for _, _, nbytes in store.ranges) == stored


def test_what_is_held_is_a_few_requests(tmp_path, monkeypatch):
    layout = make_layout((256, 256), 3, "float32", np.nan, shard=(128, 128), chunk=(16, 16))
    monkeypatch.setattr(reading, "REQUEST_BYTES", 5000)
    store, _ = remote(tmp_path, layout)
    reader = LevelReader(store, 0, layout)
    largest = 0
    for y0 in range(0, 256, 32):
        for channel in range(3):
            for x0 in range(0, 256, 32):
                reader.read(Region(y0, x0, y0 + 32, x0 + 32), channel)
                largest = max(largest, sum(len(span.content) for span in reader._spans.values()))
    assert 5000 < largest <= SPANS * 5000


def torn(store, change) -> bytes:
    """Change the content of the only shard."""
    path = store.root / "0/c/0/0/0"
    path.write_bytes(change(path.read_bytes()))
    return path.read_bytes()


def sealed(content: bytes) -> bytes:
    """The bytes with a right index checksum."""
    return content[:-4] + google_crc32c.value(content[-INDEX_BYTES - 4 : -4]).to_bytes(4, "little")


@pytest.mark.parametrize("when", ["before the index", "after the index"])
def test_a_shard_that_vanishes_while_it_is_read_fails_the_block_by_name(tmp_path, monkeypatch, when):
    store, _ = remote(tmp_path)
    reader = LevelReader(store, 0, WIDE)
    path = store.root / "0/c/0/0/0"
    if when == "after the index":
        reader._index("0/c/0/0/0")
        path.unlink()
    else:
        monkeypatch.setattr(Remote, "size", lambda store, key: path.unlink() or 5000)
    with pytest.raises(BlockError, match=r"0/c/0/0/0: expected chunks that decode, found that it is gone"):
        reader.read(Region(0, 0, 16, 16), 0)


def test_a_shard_that_is_cut_while_it_is_read_fails_the_block_by_name(tmp_path):
    store, _ = remote(tmp_path)
    reader = LevelReader(store, 0, WIDE)
    reader._index("0/c/0/0/0")
    torn(store, lambda content: content[:100])
    with pytest.raises(BlockError, match=r"0/c/0/0/0: expected chunks that decode, found .* the end after byte 100"):
        reader.read(Region(0, 0, 16, 16), 0)


@pytest.mark.parametrize("value", [10**9, 2**64 - 2])
@pytest.mark.parametrize("part", [0, 8])
def test_an_index_that_points_beyond_the_chunks_is_never_followed(tmp_path, value, part):
    store, _ = remote(tmp_path)

    def change(content):
        place = len(content) - INDEX_BYTES - 4 + part
        return sealed(content[:place] + value.to_bytes(8, "little") + content[place + 8 :])

    torn(store, change)
    store.ranges.clear()
    with pytest.raises(BlockError, match=r"0/c/0/0/0: .* an index that points beyond the chunks"):
        LevelReader(store, 0, WIDE).read(Region(0, 0, 16, 16), 0)
    assert len(store.ranges) == 1


def test_a_chunk_that_states_gigabytes_is_not_decoded(tmp_path):
    store, _ = remote(tmp_path)
    torn(store, lambda content: content[:4] + (2**32 - 1).to_bytes(4, "little") + content[8:])
    with pytest.raises(BlockError, match=r"0/c/0/0/0: .* chunk \(0, 0, 0\): not 1024 bytes, compressed"):
        LevelReader(store, 0, WIDE).read(Region(0, 0, 16, 16), 0)


@pytest.mark.parametrize("request_bytes", [1 << 8, 1 << 12, 4 << 20])
def test_a_check_asks_for_each_byte_once_and_for_its_index(tmp_path, monkeypatch, request_bytes):
    monkeypatch.setattr(check, "REQUEST_BYTES", request_bytes)
    store = Remote(tmp_path)
    receipt = write_shard(store, "s", WIDE, noise(WIDE, 0, 0))
    assert check_shard(store, "s", WIDE, receipt) == []
    index, *rest = store.ranges
    assert index == ("s", receipt.nbytes - INDEX_BYTES - 4, INDEX_BYTES + 4)
    assert len(rest) == -(-receipt.nbytes // request_bytes)
    at = 0
    for _, offset, nbytes in rest:
        assert (offset, nbytes) == (at, min(request_bytes, receipt.nbytes - at))
        at += nbytes
    assert at == receipt.nbytes


def test_a_check_takes_chunks_in_any_order_and_twice(tmp_path, monkeypatch):
    """As another writer might lay them down; what no chunk owns is said."""
    monkeypatch.setattr(check, "REQUEST_BYTES", 300)
    store = Remote(tmp_path)
    write_shard(store, "s", WIDE, noise(WIDE, 0, 0))
    content = (tmp_path / "s").read_bytes()
    index = np.frombuffer(content[-INDEX_BYTES - 4 : -4], "<u8").reshape(-1, 2).copy()
    index[[0, 31]], index[5] = index[[31, 0]], index[17]
    content = sealed(content[: -INDEX_BYTES - 4] + index.tobytes() + bytes(4))
    (tmp_path / "s").write_bytes(content)
    receipt = ShardReceipt(len(content), hashlib.sha256(content).hexdigest(), False)
    covered, end = int(index[:, 1].sum()), len(content) - INDEX_BYTES - 4
    expected = [] if covered == end else [f"{tmp_path}/s: chunks cover {covered} of {end} bytes"]
    assert check_shard(store, "s", WIDE, receipt) == expected
    assert sum(nbytes for _, _, nbytes in store.ranges) == len(content) + INDEX_BYTES + 4


def test_a_chunk_that_claims_the_whole_shard_is_not_held(tmp_path, monkeypatch):
    monkeypatch.setattr(check, "REQUEST_BYTES", 300)
    store = Remote(tmp_path)
    write_shard(store, "s", WIDE, noise(WIDE, 0, 0))
    content = (tmp_path / "s").read_bytes()
    end = len(content) - INDEX_BYTES - 4
    content = sealed(content[:end] + (0).to_bytes(8, "little") + end.to_bytes(8, "little") + content[end + 16 :])
    (tmp_path / "s").write_bytes(content)
    receipt = ShardReceipt(len(content), hashlib.sha256(content).hexdigest(), False)
    (problem,) = check_shard(store, "s", WIDE, receipt)
    assert f"chunk (0, 0, 0) has {end} bytes where 1040 are the most" in problem


def test_a_shard_that_vanishes_while_it_is_checked_is_missing(tmp_path, monkeypatch):
    store = Remote(tmp_path)
    receipt = write_shard(store, "s", WIDE, noise(WIDE, 0, 0))
    monkeypatch.setattr(Remote, "size", lambda store, key: (tmp_path / "s").unlink(missing_ok=True) or receipt.nbytes)
    assert check_shard(store, "s", WIDE, receipt) == [f"{tmp_path}/s: missing"]


def test_levels_need_no_shard_where_all_is_fill(tmp_path):
    layout = ArrayLayout((64, 64), None, np.dtype("uint8"), 255, (32, 32), (16, 16))
    assert (LevelReader(Remote(tmp_path), 0, layout).read(Region(0, 0, 64, 64), None) == 255).all()
