from __future__ import annotations

import errno
import hashlib
import io
import os
import signal
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numcodecs.blosc
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from gigatile.errors import BlockError, StorageError
from gigatile.outputs.layout import ArrayLayout, default_fill
from gigatile.outputs.shard import EMPTY_SHARD, ShardWriter, encode_chunk
from gigatile.storage import local as storage
from gigatile.storage.local import leftovers

from .helpers import local, make_layout, noise, tree, write_result, write_shard


@st.composite
def layouts(draw):
    dtype = np.dtype(draw(st.sampled_from(["uint8", "uint16", "int16", "float16", "float32", "float64"])))
    chunk = draw(st.tuples(st.integers(1, 24), st.integers(1, 24)))
    times = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    shard = (chunk[0] * times[0], chunk[1] * times[1])
    return ArrayLayout(
        shape=draw(st.tuples(*(st.integers(1, min(3 * side, 90)) for side in shard))),
        channels=draw(st.sampled_from([None, 1, 3])),
        dtype=dtype,
        fill=draw(st.sampled_from([default_fill(dtype), 0])),
        shard=shard,
        chunk=chunk,
    )


@settings(max_examples=60, deadline=None)
@given(layout=layouts(), seed=st.integers(0, 1000), holes=st.sampled_from([0.0, 0.8]))
def test_zarr_reads_exactly_what_was_written(tmp_path_factory, layout, seed, holes):
    root = tmp_path_factory.mktemp("result")
    pixels = noise(layout, seed, holes)
    receipts = write_result(local(root), (layout,), pixels)
    array = zarr.open_array(root / "0", mode="r")
    assert array.dtype == layout.dtype
    np.testing.assert_array_equal(array[...], pixels)
    for (row, col), receipt in receipts.items():
        path = root / "0" / layout.shard_key(row, col)
        is_fill = layout.is_fill(pixels[(..., *layout.region(row, col).slices())])
        assert receipt.empty == is_fill == (not path.exists())
        if not is_fill:
            content = path.read_bytes()
            assert (len(content), hashlib.sha256(content).hexdigest()) == (receipt.nbytes, receipt.digest)


def test_zarr_can_write_what_we_wrote_back(tmp_path):
    """Our metadata also encodes: a copy by zarr-python decodes to the same pixels."""
    layout = make_layout(channels=2, dtype="float32", fill=np.nan)
    pixels = noise(layout, 3)
    write_result(local(tmp_path / "ours"), (layout,), pixels)
    copy = zarr.create_array(tmp_path / "theirs", **_like(zarr.open_array(tmp_path / "ours/0", mode="r")))
    copy[...] = pixels
    np.testing.assert_array_equal(copy[...], pixels)


def _like(array):
    return {
        "shape": array.shape,
        "dtype": array.dtype,
        "chunks": array.chunks,
        "shards": array.shards,
        "compressors": array.compressors,
        "fill_value": array.fill_value,
    }


@settings(max_examples=30, deadline=None)
@given(layout=layouts(), step=st.integers(1, 4))
def test_bytes_do_not_depend_on_the_bands(tmp_path_factory, layout, step):
    root = tmp_path_factory.mktemp("bands")
    pixels = noise(layout, 1)[(..., *layout.region(0, 0).slices())]
    one = write_shard(local(root), "one", layout, pixels, rows=layout.chunk[0])
    many = write_shard(local(root), "many", layout, pixels, rows=step * layout.chunk[0])
    assert one == many


def test_bytes_are_the_same_from_every_thread_and_time_after_time(tmp_path):
    layout = make_layout((512, 512), 2, "float32", np.nan, shard=(512, 512), chunk=(256, 256))
    pixels = np.cumsum(noise(layout, 5, 0), axis=-1).astype(np.float32)
    here = [write_shard(local(tmp_path), f"main{i}", layout, pixels) for i in range(5)]
    with ThreadPoolExecutor(4) as pool:
        there = list(pool.map(lambda i: write_shard(local(tmp_path), f"t{i}", layout, pixels), range(10)))
    assert threading.current_thread() is threading.main_thread()
    assert set(here + there) == {here[0]}
    assert len(set(tree(tmp_path).values())) == 1


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float16", "float32", "float64"])
def test_chunks_are_what_numcodecs_writes_with_one_thread(dtype, monkeypatch):
    monkeypatch.setattr(numcodecs.blosc, "use_threads", False)
    chunk = (np.random.default_rng(0).random((128, 128)) * 100).astype(dtype)
    codec = numcodecs.blosc.Blosc("zstd", 1, numcodecs.blosc.BITSHUFFLE, 0, typesize=chunk.itemsize)
    assert encode_chunk(chunk) == bytes(codec.encode(chunk))


def test_global_settings_of_numcodecs_stay(monkeypatch, tmp_path):
    monkeypatch.setattr(numcodecs.blosc, "use_threads", True)
    before = (numcodecs.blosc.use_threads, numcodecs.blosc.get_nthreads())
    write_shard(local(tmp_path), "s", make_layout(), noise(make_layout(), holes=0)[:64, :64])
    assert (numcodecs.blosc.use_threads, numcodecs.blosc.get_nthreads()) == before


def test_fill_removes_what_stood_there(tmp_path):
    layout = make_layout()
    store = local(tmp_path, durable=True)
    assert not write_shard(store, "0/c/0/0", layout, np.zeros((64, 64), np.uint8)).empty
    assert set(tree(tmp_path)) == {"0/c/0/0"}
    assert write_shard(store, "0/c/0/0", layout, np.full((64, 64), 255, np.uint8)) == EMPTY_SHARD
    assert tree(tmp_path) == {}


def test_fill_chunks_are_not_stored(tmp_path):
    layout = make_layout(chunk=(16, 16))
    pixels = np.full((64, 64), 255, np.uint8)
    pixels[20, 40] = 1
    receipt = write_shard(local(tmp_path), "s", layout, pixels)
    content = (tmp_path / "s").read_bytes()
    index = np.frombuffer(content[-(16 * 16 + 4) : -4], dtype="<u8").reshape(4, 4, 2)
    assert [tuple(place) for place in np.argwhere(index[..., 0] != 2**64 - 1)] == [(1, 2)]
    assert receipt.nbytes == int(index[1, 2, 1]) + 16 * 16 + 4


def test_chunks_are_padded_with_fill_beyond_the_edge(tmp_path):
    layout = make_layout((20, 10), dtype="uint16", fill=65535, shard=(32, 32), chunk=(16, 16))
    write_shard(local(tmp_path), "s", layout, np.full((20, 10), 7, np.uint16))
    content = (tmp_path / "s").read_bytes()
    index = np.frombuffer(content[-(16 * 4 + 4) : -4], dtype="<u8").reshape(2, 2, 2)
    assert (index[:, 1] == 2**64 - 1).all()
    padded = np.full((32, 16), 65535, np.uint16)
    padded[:20, :10] = 7
    for row, (offset, nbytes) in enumerate(index[:, 0].tolist()):
        chunk = np.frombuffer(numcodecs.blosc.decompress(content[offset : offset + nbytes]), np.uint16)
        np.testing.assert_array_equal(chunk.reshape(16, 16), padded[16 * row : 16 * row + 16])


@pytest.mark.parametrize(
    "band",
    [
        np.zeros((16, 64), np.int8),
        np.zeros((16, 63), np.uint8),
        np.zeros((15, 64), np.uint8),
        np.zeros((80, 64), np.uint8),
        np.zeros((0, 64), np.uint8),
        np.zeros((1, 16, 64), np.uint8),
        np.zeros(64, np.uint8),
    ],
)
def test_wrong_bands_are_refused(tmp_path, band):
    with ShardWriter(local(tmp_path), "s", make_layout(), (64, 64)) as writer:
        with pytest.raises(BlockError, match="expected a band"):
            writer.write(band)
        writer.write(np.zeros((64, 64), np.uint8))
        with pytest.raises(BlockError, match="0 rows left"):
            writer.write(np.zeros((16, 64), np.uint8))
        writer.finish()
        with pytest.raises(BlockError):
            writer.finish()


def test_a_shard_without_its_last_rows_is_refused_and_leaves_nothing(tmp_path):
    with (
        pytest.raises(BlockError, match="expected 64 rows, found 32 rows"),
        ShardWriter(local(tmp_path), "s", make_layout(), (64, 64)) as writer,
    ):
        writer.write(np.zeros((32, 64), np.uint8))
        assert len(list(leftovers(tmp_path))) == 1
        writer.finish()
    assert tree(tmp_path) == {}


def test_an_error_of_the_caller_leaves_the_old_shard(tmp_path):
    layout = make_layout()
    write_shard(local(tmp_path), "s", layout, np.zeros((64, 64), np.uint8))
    before = tree(tmp_path)
    with pytest.raises(KeyError), ShardWriter(local(tmp_path), "s", layout, (64, 64)) as writer:
        writer.write(np.ones((32, 64), np.uint8))
        raise KeyError
    assert tree(tmp_path) == before


class _Failing(io.FileIO):
    """A file that fails in the given call of write, after writing half."""

    left = 0
    code = errno.ENOSPC

    def write(self, content):
        if type(self).left == 0:
            super().write(content[: len(content) // 2])
            raise OSError(self.code, os.strerror(self.code))
        type(self).left -= 1
        return super().write(content)


@pytest.mark.parametrize("calls", [0, 1, 8])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.EROFS])
def test_failing_storage_is_a_storage_error_and_leaves_nothing(tmp_path, monkeypatch, code, calls):
    monkeypatch.setattr(_Failing, "left", calls)
    monkeypatch.setattr(_Failing, "code", code)
    monkeypatch.setattr(Path, "open", lambda path, mode, buffering: _Failing(path, mode.replace("b", "")))
    pixels = noise(make_layout(), holes=0)[:64, :64]
    with pytest.raises(StorageError, match=errno.errorcode[code]) as caught:
        write_shard(local(tmp_path), "s", make_layout(), pixels)
    assert "same command again" in str(caught.value)
    assert tree(tmp_path) == {}


def test_short_writes_are_continued(tmp_path, monkeypatch):
    class Short(io.FileIO):
        def write(self, content):
            return super().write(content[:7])

    pixels = noise(make_layout(), holes=0)[:64, :64]
    whole = write_shard(local(tmp_path), "whole", make_layout(), pixels)
    monkeypatch.setattr(Path, "open", lambda path, mode, buffering: Short(path, mode.replace("b", "")))
    assert write_shard(local(tmp_path), "short", make_layout(), pixels) == whole
    monkeypatch.undo()
    assert (tmp_path / "short").read_bytes() == (tmp_path / "whole").read_bytes()


def test_a_file_size_limit_of_the_system_is_a_storage_error(tmp_path):
    script = """
        import resource, signal, sys
        from pathlib import Path
        import numpy as np
        from gigatile.errors import StorageError
        from gigatile.outputs.layout import ArrayLayout
        from gigatile.outputs.shard import ShardWriter
        from gigatile.storage.local import LocalStore
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        layout = ArrayLayout((256, 256), None, np.dtype("uint8"), 255, (256, 256), (64, 64))
        try:
            with ShardWriter(LocalStore(Path(sys.argv[1])), "s", layout, (256, 256)) as writer:
                writer.write(np.random.default_rng(0).integers(0, 255, (256, 256), dtype=np.uint8))
                writer.finish()
        except StorageError as error:
            sys.exit(str(error))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), tmp_path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "EFBIG" in done.stderr
    assert "Free some space" in done.stderr
    assert tree(tmp_path) == {}


def test_a_lost_directory_is_a_storage_error(tmp_path):
    with (
        pytest.raises(StorageError, match="ENOENT"),
        ShardWriter(local(tmp_path), "a/s", make_layout(), (64, 64)) as writer,
    ):
        writer.write(np.zeros((64, 64), np.uint8))
        local(tmp_path).remove_leftovers()
        (tmp_path / "a").rmdir()
        writer.finish()


def test_kill_in_the_middle_leaves_no_target(tmp_path):
    script = """
        import os, sys, signal
        from pathlib import Path
        import numpy as np
        from gigatile.outputs.layout import ArrayLayout
        from gigatile.outputs.shard import ShardWriter
        from gigatile.storage.local import LocalStore
        layout = ArrayLayout((256, 256), None, np.dtype("uint8"), 255, (256, 256), (64, 64))
        with ShardWriter(LocalStore(Path(sys.argv[1])), "0/c/0/0", layout, (256, 256)) as writer:
            writer.write(np.zeros((192, 256), np.uint8))
            os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script), tmp_path], check=False)
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "0/c/0/0").exists()
    assert len(list(leftovers(tmp_path))) == 1
    assert local(tmp_path).remove_leftovers() == 1
    assert tree(tmp_path) == {}


def test_the_name_comes_after_the_bytes_and_before_the_directory(tmp_path, monkeypatch):
    """Durable means: file synced, then renamed, then every directory up to the result's."""
    steps = []
    replace = Path.replace
    monkeypatch.setattr(storage.os, "fsync", lambda descriptor: steps.append("fsync"))
    monkeypatch.setattr(storage, "sync_directory", steps.append)
    monkeypatch.setattr(Path, "replace", lambda path, target: steps.append("rename") or replace(path, target))
    layout = make_layout(channels=1)
    key = f"0/{layout.shard_key(0, 0)}"
    write_shard(local(tmp_path, durable=True), key, layout, np.zeros((1, 64, 64), np.uint8))
    assert steps == ["fsync", "rename", *(tmp_path / key).parents[:5]]
    assert steps[-1] == tmp_path
    assert (tmp_path / "0").is_dir()


def test_memory_beyond_the_band_is_a_few_chunks(tmp_path):
    """A 64 MiB shard, band by band, in a process of its own: it grows by chunks, not by the shard."""
    script = """
        import resource, sys
        from pathlib import Path
        import numpy as np
        from gigatile.outputs.layout import ArrayLayout
        from gigatile.outputs.shard import ShardWriter, encode_chunk
        from gigatile.storage.local import LocalStore
        import google_crc32c
        layout = ArrayLayout((4096, 4096), None, np.dtype("float32"), np.nan, (4096, 4096), (512, 512))
        band = np.random.default_rng(0).random((512, 4096), dtype=np.float32)
        encode_chunk(band[:64, :64].copy())
        def peak():
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        before = peak()
        with ShardWriter(LocalStore(Path(sys.argv[1]), False), "s", layout, (4096, 4096)) as writer:
            for _ in range(8):
                writer.write(band)
            writer.finish()
        print(peak() - before)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), tmp_path], capture_output=True, text=True, check=True
    )
    assert (tmp_path / "s").stat().st_size > 48 << 20
    assert int(done.stdout) < 12 << 20
