from __future__ import annotations

from dataclasses import replace

import google_crc32c
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gigatile.errors import StorageError
from gigatile.outputs.check import check_shard
from gigatile.outputs.shard import EMPTY_SHARD, ShardReceipt

from .helpers import local, make_layout, noise, write_shard

LAYOUT = make_layout((64, 64), channels=2, dtype="float32", fill=np.nan, chunk=(32, 32))
INDEX_BYTES = 16 * 8


@pytest.fixture
def shard(tmp_path):
    path = tmp_path / "s"
    return path, write_shard(local(tmp_path), "s", LAYOUT, noise(LAYOUT, 0, 0))


def check(path, layout, receipt):
    return check_shard(local(path.parent), path.name, layout, receipt)


def sealed(content: bytes) -> tuple[bytes, ShardReceipt]:
    """The bytes with a right index checksum, and the receipt that a writer would give for them."""
    import hashlib

    index = content[-INDEX_BYTES - 4 : -4]
    content = content[:-4] + google_crc32c.value(index).to_bytes(4, "little")
    return content, ShardReceipt(len(content), hashlib.sha256(content).hexdigest(), False)


def test_a_good_shard_has_no_problems(shard):
    assert check(shard[0], LAYOUT, shard[1]) == []


def test_every_dtype_and_padding_has_no_problems(tmp_path):
    for dtype in ("uint8", "uint16", "float16", "float32", "float64"):
        layout = make_layout((50, 41), dtype=dtype, fill=0)
        receipt = write_shard(local(tmp_path), dtype, layout, noise(layout, 1, 0))
        assert check(tmp_path / dtype, layout, receipt) == []


def test_empty_and_missing_are_told_apart(tmp_path, shard):
    path, receipt = shard
    assert check(tmp_path / "none", LAYOUT, EMPTY_SHARD) == []
    assert check(tmp_path / "none", LAYOUT, receipt) == [f"{tmp_path}/none: missing"]
    assert check(path, LAYOUT, EMPTY_SHARD) == [f"{path}: recorded as empty, but there is a file"]


def test_another_size_or_digest_is_found(shard):
    path, receipt = shard
    (problem,) = check(path, LAYOUT, replace(receipt, nbytes=receipt.nbytes + 1))
    assert f"{receipt.nbytes} bytes, {receipt.nbytes + 1} recorded" in problem
    (problem,) = check(path, LAYOUT, replace(receipt, digest="0" * 64))
    assert "SHA-256" in problem


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_every_flipped_bit_and_every_cut_is_found(tmp_path_factory, data):
    directory = tmp_path_factory.mktemp("damage")
    path = directory / "s"
    receipt = write_shard(local(directory), "s", LAYOUT, noise(LAYOUT, 0, 0))
    content = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] ^= 1 << data.draw(st.integers(0, 7))
    else:
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    path.write_bytes(content)
    assert check(path, LAYOUT, receipt)


def test_a_wrong_index_checksum_is_found(shard):
    path, receipt = shard
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    problems = check(path, LAYOUT, receipt)
    assert any("checksum of its index is wrong" in problem for problem in problems)


def test_a_chunk_that_does_not_decode_is_named_though_the_digest_agrees(shard):
    """As when a faulty writer recorded what it wrote."""
    path, _ = shard
    content = path.read_bytes()
    start, length = np.frombuffer(content[-INDEX_BYTES - 4 :][16 * 6 : 16 * 7], dtype="<u8").tolist()
    broken = content[: start + 24] + bytes(length - 24) + content[start + length :]
    broken, receipt = sealed(broken)
    path.write_bytes(broken)
    (problem,) = check(path, LAYOUT, receipt)
    assert "chunk (1, 1, 0) does not decode" in problem


def test_a_chunk_of_another_shape_is_found(shard):
    path, receipt = shard
    other = make_layout((64, 64), channels=2, dtype="float64", fill=np.nan, chunk=(32, 32))
    problems = check(path, other, receipt)
    assert len(problems) == 8
    assert all("4096 bytes" in problem and "8192 are right" in problem for problem in problems)


def test_an_index_that_points_outside_is_found(shard):
    path, _ = shard
    content = bytearray(path.read_bytes())
    content[-INDEX_BYTES - 4 : -INDEX_BYTES + 4] = (10**9).to_bytes(8, "little")
    broken, receipt = sealed(bytes(content))
    path.write_bytes(broken)
    (problem,) = check(path, LAYOUT, receipt)
    assert "chunk (0, 0, 0) lies beyond the chunk data" in problem


def test_bytes_that_no_chunk_owns_are_found(shard):
    path, _ = shard
    content = bytearray(path.read_bytes())
    content[-INDEX_BYTES - 4 : -INDEX_BYTES - 4 + 16] = b"\xff" * 16
    broken, receipt = sealed(bytes(content))
    path.write_bytes(broken)
    (problem,) = check(path, LAYOUT, receipt)
    assert "chunks cover" in problem


def test_what_cannot_be_read_is_an_error_not_a_problem(tmp_path, shard):
    (tmp_path / "folder").mkdir()
    with pytest.raises(StorageError):
        check(tmp_path / "folder", LAYOUT, shard[1])
