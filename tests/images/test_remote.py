"""Images in buckets and on web servers are those on disk, with few requests, and say where they lie when they fail."""

import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import imagecodecs
import numpy as np
import obstore
import pytest
import tifffile
import zarr

import gigatile as gt
from gigatile.errors import BlockError, DecodeError, ImageError, StorageError
from gigatile.images.open import open_source
from gigatile.storage import client
from tests.data import data
from tests.faulty_proxy import Faults, faulty_proxy
from tests.images.assemble import random_regions, whole, window
from tests.storage.web_server import web_server

RNG = np.random.default_rng(3)
PIXELS = RNG.integers(0, 255, (700, 600, 3), np.uint8)


def write_tiff(path: Path, **keywords) -> Path:
    tifffile.imwrite(path, PIXELS, tile=(64, 64), compression="deflate", photometric="rgb", **keywords)
    return path


def write_zarr(path: Path, **keywords) -> Path:
    keywords = {"chunks": (128, 128, 3), "shards": (256, 256, 3)} | keywords
    zarr.create_array(path, data=PIXELS, dimension_names=["y", "x", "c"], **keywords)
    return path


def write_old_zarr(path: Path) -> Path:
    zarr.create_array(path, data=PIXELS[..., 0], chunks=(128, 128), zarr_format=2)
    return path


def write_png(path: Path) -> Path:
    path.write_bytes(imagecodecs.png_encode(PIXELS))
    return path


KINDS = {"a.tif": write_tiff, "a.zarr": write_zarr, "old.zarr": write_old_zarr, "plain": write_zarr, "a.png": write_png}


@pytest.fixture
def send(s3, bucket):
    """Copies a file, or all files of a directory, to a name in a new bucket, and gives its URL."""
    store = s3.client(bucket.removeprefix("s3://"))

    def copy(path: Path, name: str) -> str:
        files = [path] if path.is_file() else [found for found in path.rglob("*") if found.is_file()]
        for file in files:
            rest = "" if file == path else "/" + file.relative_to(path).as_posix()
            obstore.put(store, name + rest, file.read_bytes())
        return f"{bucket}/{name}"

    return copy


@pytest.fixture
def proxy(s3, environment):
    with faulty_proxy(s3.endpoint, Faults(), seed=5) as found:
        environment.setenv("AWS_ENDPOINT_URL", found.endpoint)
        yield found


@pytest.mark.parametrize("name", KINDS)
def test_an_image_in_a_bucket_is_the_one_on_disk(tmp_path, send, name):
    local = open_source(KINDS[name](tmp_path / name))
    url = send(tmp_path / name, f"some slides/{name}")
    remote = open_source(url)
    assert remote.info.path == url
    assert remote.info.levels == local.info.levels
    assert (remote.info.format, remote.info.channels) == (local.info.format, local.info.channels)
    np.testing.assert_array_equal(whole(remote), whole(local))


@pytest.mark.parametrize("name", ["wsi/CMU-1-Small-Region.svs", "satellite/titiler_TCI.tif"])
def test_a_real_file_in_a_bucket_is_the_one_on_disk(send, name):
    local, remote = open_source(data(name)), open_source(send(data(name), "a"))
    assert remote.info.levels == local.info.levels
    assert (remote.info.crs, remote.info.transform) == (local.info.crs, local.info.transform)
    assert (remote.info.pixel_size, remote.info.notes) == (local.info.pixel_size, local.info.notes)
    for level in range(len(local.info.levels)):
        for region in random_regions(local.info.levels[level].shape, 3, RNG):
            np.testing.assert_array_equal(window(remote, level, region), window(local, level, region))


def test_an_ome_zarr_in_a_bucket_is_the_one_on_disk(send):
    path = data("omezarr/cmu1_crop_v04.ome.zarr")
    local, remote = open_source(path), open_source(send(path, "deep/crop.ome.zarr"))
    assert remote.info.levels == local.info.levels
    assert remote.info.pixel_size == local.info.pixel_size
    level = len(local.info.levels) - 1
    np.testing.assert_array_equal(whole(remote, level), whole(local, level))


def test_a_unit_is_one_request_and_opening_a_few(tmp_path, proxy, send):
    source = open_source(send(write_tiff(tmp_path / "a.tif"), "a.tif"))
    assert proxy.requests.total() <= 6
    proxy.calm()
    unit = source.decode(0, 1, 1)  # 16 tiles, which lie near each other
    assert proxy.requests == {"GET": 1}
    np.testing.assert_array_equal(unit, np.moveaxis(PIXELS[256:512, 256:512], -1, 0))


@pytest.mark.parametrize("name", ["a.tif", "a.zarr", "old.zarr"])
@pytest.mark.parametrize("faults", [Faults(error=0.15), Faults(cut=0.15)])
def test_requests_that_fail_change_no_pixel(tmp_path, proxy, send, name, faults):
    local = KINDS[name](tmp_path / name)
    url = send(local, name)
    proxy.faults = faults
    np.testing.assert_array_equal(whole(open_source(url)), whole(open_source(local)))
    assert proxy.injected.total() > 0


@pytest.mark.parametrize("name", ["a.tif", "a.zarr"])
def test_a_storage_that_goes_away_fails_the_block_and_is_never_filled(tmp_path, proxy, send, monkeypatch, name):
    monkeypatch.setattr(client, "RETRY_S", 0.2)
    monkeypatch.setattr(client, "SLOW_DOWN_S", 0.2)
    url = send(KINDS[name](tmp_path / name), name)
    image = gt.open(url).with_bad_chunks("fill")
    proxy.faults = Faults(error=1.0)
    with pytest.raises(BlockError, match=r"level 0.*(from byte \d+|pixels 256:512)") as error:
        image.source.decode(0, 1, 1)
    assert url in str(error.value)
    assert not isinstance(error.value, DecodeError)
    with pytest.raises(BlockError):
        image.read(gt.Region(0, 0, 700, 600))
    assert image.bad_units.take() == ()
    proxy.calm()
    assert np.array_equal(image.read(gt.Region(300, 300, 400, 400)), np.moveaxis(PIXELS[300:400, 300:400], -1, 0))


@pytest.mark.parametrize("name", ["no.tif", "no.zarr", "no"])
def test_what_is_not_there_is_an_image_that_is_missing(bucket, name):
    with pytest.raises(ImageError) as error:
        open_source(f"{bucket}/{name}")
    assert error.value.exit_code == 2
    assert f"{bucket}/{name}" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_bucket_that_does_not_answer_is_no_bad_image(environment):
    environment.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    environment.setenv("AWS_ACCESS_KEY_ID", "x")
    environment.setenv("AWS_SECRET_ACCESS_KEY", "not-to-be-seen")
    environment.setattr(client, "RETRY_S", 0.2)
    for name in ("a.tif", "a.zarr"):
        with pytest.raises(StorageError) as error:
            open_source(f"s3://bucket/{name}")
        assert error.value.exit_code == 1
        assert "not-to-be-seen" not in str(error.value)


def test_an_object_that_changes_under_way_is_an_error_and_never_a_mixture(tmp_path, send):
    path = write_tiff(tmp_path / "a.tif")
    url = send(path, "a.tif")
    image = gt.open(url).with_bad_chunks("fill")
    path.write_bytes(path.read_bytes() + b"more")
    send(path, "a.tif")
    with pytest.raises(BlockError, match="another one in its place"):
        image.read(gt.Region(300, 300, 400, 400))


@pytest.mark.parametrize("name", ["a.tif", "a.zarr", "a.png"])
def test_identity_is_that_of_the_content_and_not_of_the_place(tmp_path, send, name):
    path = KINDS[name](tmp_path / name)
    here = open_source(send(path, f"here/{name}")).identity()
    assert open_source(send(path, f"there/{name}")).identity() == here
    assert "here" not in str(here)
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    global PIXELS  # noqa: PLW0603  what the writers write
    PIXELS, before = PIXELS ^ 1, PIXELS
    KINDS[name](path)
    PIXELS = before
    assert open_source(send(path, f"here/{name}")).identity() != here


@pytest.mark.parametrize("name", ["a.tif", "a.zarr", "a.png"])
def test_a_source_travels_to_another_process_as_its_url(tmp_path, s3, send, name):
    source = open_source(send(KINDS[name](tmp_path / name), name))
    sent = pickle.dumps(source)
    assert len(sent) < 1000
    assert s3.env["AWS_SECRET_ACCESS_KEY"].encode() not in sent
    code = "import sys, pickle; s = pickle.load(sys.stdin.buffer); sys.stdout.buffer.write(s.decode(0, 0, 0).tobytes())"
    done = subprocess.run([sys.executable, "-c", code], input=sent, capture_output=True, check=True)
    assert done.stdout == source.decode(0, 0, 0).tobytes()


def test_files_of_a_web_server_are_read_and_what_is_secret_is_shown_nowhere(tmp_path):
    contents = {"/a.tif": write_tiff(tmp_path / "a.tif").read_bytes(), "/a.png": write_png(tmp_path / "p").read_bytes()}
    contents["/bad.tif"] = contents["/a.tif"][:3000]
    with web_server(contents, query="token=s3cret") as server:
        for name in ("a.tif", "a.png"):
            source = open_source(f"{server.url}/{name}?token=s3cret")
            assert source.info.path == f"{server.url}/{name}"
            np.testing.assert_array_equal(whole(source), np.moveaxis(PIXELS, -1, 0))
            np.testing.assert_array_equal(pickle.loads(pickle.dumps(source)).decode(0, 0, 0), source.decode(0, 0, 0))
        with pytest.raises(ImageError, match=r"bad\.tif") as error:
            open_source(f"{server.url}/bad.tif?token=s3cret")
        assert "s3cret" not in str(error.value)
        with pytest.raises(ImageError, match=r"no\.tif") as error:
            open_source(f"{server.url}/no.tif?token=s3cret")
        assert "s3cret" not in str(error.value)


def test_a_zarr_on_a_web_server_is_read(tmp_path):
    path = write_zarr(tmp_path / "a.zarr")
    contents = {
        f"/{file.relative_to(tmp_path).as_posix()}": file.read_bytes() for file in path.rglob("*") if file.is_file()
    }
    with web_server(contents) as server:
        source = open_source(f"{server.url}/a.zarr")
        np.testing.assert_array_equal(whole(source), np.moveaxis(PIXELS, -1, 0))
        assert source.identity() == open_source(f"{server.url}/a.zarr/").identity()
