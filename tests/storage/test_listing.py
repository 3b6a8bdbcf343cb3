"""Wildcards and Zarr hierarchies in buckets and on web servers."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import zarr

from gigatile.errors import UsageError
from gigatile.storage.files import glob, is_prefix, zarr_store
from gigatile.storage.open import open_store

from .web_server import web_server


@pytest.fixture
def slides(bucket):
    for key in (
        "slides/a.svs",
        "slides/b.svs",
        "slides/c.tif",
        "slides/deep/d.svs",
        "other/a.svs",
        "z/m.zarr/zarr.json",
    ):
        open_store(bucket).write(key, b"1")
    return bucket


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("slides/*.svs", ["slides/a.svs", "slides/b.svs"]),
        ("slides/[bc].*", ["slides/b.svs", "slides/c.tif"]),
        ("slides/?.svs", ["slides/a.svs", "slides/b.svs"]),
        ("*/a.svs", ["other/a.svs", "slides/a.svs"]),
        ("slides/*", ["slides/a.svs", "slides/b.svs", "slides/c.tif", "slides/deep"]),
        ("z/*.zarr", ["z/m.zarr"]),
        ("nothing/*.svs", []),
        ("slides/*.SVS", []),
    ],
)
def test_a_pattern_finds_what_a_shell_would(slides, pattern, expected):
    assert glob(f"{slides}/{pattern}") == [f"{slides}/{key}" for key in expected]


@pytest.mark.parametrize("url", ["https://host/*.svs", "s3://buck*/a", "s3://bucket/**/a.svs"])
def test_what_cannot_be_listed_is_refused(s3, url):
    with pytest.raises(UsageError):
        glob(url)


def files_of(root):
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_zarr_is_found_and_read_in_a_bucket_and_on_a_web_server(bucket, tmp_path, zarr_format):
    pixels = np.arange(120, dtype="u1").reshape(10, 12)
    array = zarr.create_array(tmp_path / "a.zarr", shape=(10, 12), chunks=(4, 4), dtype="u1", zarr_format=zarr_format)
    array[:] = pixels
    files = files_of(tmp_path / "a.zarr")
    for key, content in files.items():
        open_store(f"{bucket}/images #1/a.zarr").write(key, content)
    open_store(bucket).write("images #1/a.tif", b"1")
    with web_server({f"/images/a.zarr/{key}": content for key, content in files.items()}) as server:
        for url in (f"{bucket}/images #1/a.zarr", f"{server.url}/images/a.zarr", f"{server.url}/images/a.zarr/"):
            assert is_prefix(url)
            store = zarr_store(url)
            for each in (store, pickle.loads(pickle.dumps(store))):
                np.testing.assert_array_equal(zarr.open(each, mode="r")[:], pixels)
        assert not is_prefix(f"{server.url}/images")
    assert not is_prefix(f"{bucket}/images #1/a.tif")
    assert not is_prefix(f"{bucket}/images #1")


def test_a_zarr_store_is_not_written_to(bucket):
    with pytest.raises(ValueError, match=r"read-only"):
        zarr.create_array(zarr_store(f"{bucket}/a.zarr"), shape=(4,), dtype="u1")
