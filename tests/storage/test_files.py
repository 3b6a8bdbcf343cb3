"""Files that are read at positions, from disks, buckets and web servers."""

from __future__ import annotations

import io
import pickle
import random
import ssl
from itertools import pairwise

import numpy as np
import pytest
import tifffile
import trustme
from hypothesis import given
from hypothesis import strategies as st

from gigatile.errors import ImageError, StorageError, UsageError
from gigatile.storage.files import AHEAD_BLOCKS, BLOCK_BYTES, as_file, open_bytes, sampled_digest
from gigatile.storage.open import open_store
from gigatile.storage.remote import COALESCE_BYTES, REQUEST_BYTES, coalesced
from tests.faulty_proxy import Faults, faulty_proxy

from .web_server import web_server

CONTENT = random.Random(3).randbytes(3_000_000)


@pytest.fixture(params=["local", "bucket", "web"])
def place(request, tmp_path):
    """Where CONTENT lies, in each way."""
    if request.param == "local":
        (tmp_path / "a.tif").write_bytes(CONTENT)
        yield str(tmp_path / "a.tif")
    elif request.param == "bucket":
        bucket = request.getfixturevalue("bucket")
        open_store(bucket).write("slides #1/a.tif", CONTENT)
        yield f"{bucket}/slides #1/a.tif"
    else:
        with web_server({"/a%20b.tif": CONTENT}) as server:
            yield f"{server.url}/a%20b.tif"


def test_bytes_are_those_of_the_file(place):
    file = open_bytes(place)
    assert file.size == len(CONTENT)
    assert file.name == place
    for offset, nbytes in [(0, 10), (65_530, 20), (1_000_000, 2_000_000), (2_999_999, 1), (5, 0)]:
        assert file.read(offset, nbytes) == CONTENT[offset : offset + nbytes]


def test_many_spans_come_in_their_order(place):
    file, draw = open_bytes(place), random.Random(1)
    spans = [(draw.randrange(2_900_000), draw.randrange(100_000)) for _ in range(60)]
    assert file.read_many(spans) == [CONTENT[offset : offset + nbytes] for offset, nbytes in spans]
    assert file.read_many([]) == []


@pytest.mark.parametrize("span", [(2_999_999, 2), (3_000_000, 1), (4_000_000, 1)])
def test_the_end_of_the_file_is_an_error(place, span):
    with pytest.raises(EOFError, match="bytes too early"):
        open_bytes(place).read(*span)


def test_a_file_is_picklable(place):
    file = open_bytes(place)
    again = pickle.loads(pickle.dumps(file))
    assert again.read(2_000_000, 5) == CONTENT[2_000_000:2_000_005]
    assert again.identity() == file.identity()


def test_an_identity_tells_contents_apart_and_not_places(tmp_path, bucket):
    for name, content in (("a", CONTENT), ("b", CONTENT), ("c", CONTENT[:-1] + b"?")):
        (tmp_path / name).write_bytes(content)
        open_store(bucket).write(name, content)
    for root in (tmp_path, bucket):
        a, b, c = (open_bytes(f"{root}/{name}").identity() for name in "abc")
        assert a == b != c
        assert a["size"] == len(CONTENT)
    assert open_bytes(tmp_path / "a").identity() == {
        "size": 3_000_000,
        "sha256": "553aad6cf90992a2d27279c233725a19b5972f64e1e31d9f7262ee2287f0690a",
    }


def test_what_cannot_be_opened_is_said_in_one_paragraph(tmp_path, bucket):
    open_store(bucket).write("empty", b"")
    (tmp_path / "empty").touch()
    with web_server({"/empty": b""}) as server:
        for root, missing in ((tmp_path, "no such file"), (bucket, "no such object"), (server.url, "no such object")):
            with pytest.raises(ImageError, match=missing):
                open_bytes(f"{root}/nothing")
            with pytest.raises(ImageError, match="empty file"):
                open_bytes(f"{root}/empty")
    with pytest.raises(ImageError, match="a directory"):
        open_bytes(tmp_path)
    with pytest.raises(ImageError, match="no such bucket"):
        open_bytes("s3://there-is-no-such-bucket/a.tif")
    with pytest.raises(UsageError, match="ftp"):
        open_bytes("ftp://host/a.tif")


def test_a_file_that_changes_under_way_is_an_error(bucket):
    store = open_store(bucket)
    store.write("a", CONTENT)
    file = open_bytes(f"{bucket}/a")
    store.write("a", CONTENT[:-1] + b"?")
    with pytest.raises(StorageError, match="another one in its place"):
        file.read(100_000, 10)
    store.delete("a")
    with pytest.raises(StorageError, match="another one in its place"):
        file.read(100_000, 10)


@pytest.mark.parametrize("etags", ["weak", "none"])
def test_a_web_server_without_strong_etags_will_do(etags):
    with web_server({"/a": CONTENT}, etags=etags) as server:
        file = open_bytes(f"{server.url}/a")
        assert file.read(1_000_000, 3) == CONTENT[1_000_000:1_000_003]
        assert ("etag" if etags == "weak" else "sha256") in file.identity()
        server.contents["/a"] = CONTENT[:-1] if etags == "none" else CONTENT[:-1] + b"?"
        with pytest.raises(StorageError, match="another one in its place"):
            file.read(1_000_000, 3)


def test_a_web_server_without_ranges_is_refused():
    with (
        web_server({"/a": b"1" * 1000}, ranges="no") as server,
        pytest.raises(ImageError, match="Range request not supported"),
    ):
        open_bytes(f"{server.url}/a")


def test_a_file_that_moved_is_found():
    with web_server({"/b": CONTENT}) as server, web_server({}) as first:
        first.moved["/a"] = f"{server.url}/b"
        assert open_bytes(f"{first.url}/a").read(1_000_000, 3) == CONTENT[1_000_000:1_000_003]


def test_a_certificate_authority_of_ones_own_is_trusted_by_name(environment, tmp_path):
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    with web_server({"/a": CONTENT}, tls=context) as server:
        environment.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
        assert open_bytes(f"{server.url}/a").read(100_000, 3) == CONTENT[100_000:100_003]
    environment.setenv("SSL_CERT_FILE", str(tmp_path / "nothing.pem"))
    with pytest.raises(UsageError, match="SSL_CERT_FILE"):
        open_bytes("https://localhost:1/b")


@pytest.fixture
def counted(s3, environment, bucket):
    """A file of CONTENT in a bucket, and the proxy that its requests go through."""
    open_store(bucket).write("a", CONTENT)
    with faulty_proxy(s3.endpoint, Faults()) as proxy:
        environment.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        file = open_bytes(f"{bucket}/a")
        assert proxy.requests == {"GET": 1}  # size, ETag and header at once
        proxy.calm()
        yield file, proxy


def test_near_spans_are_one_request_and_far_ones_several(counted):
    file, proxy = counted
    file.read_many([(200_000 + 1000 * index, 500) for index in range(100)])
    assert proxy.ranges == ["bytes=200000-299499"]
    proxy.calm()
    step = COALESCE_BYTES + 10_001
    file.read_many([(200_000 + step * index, 10_000) for index in range(5)])
    assert len(proxy.ranges) == 5


def test_the_header_that_came_on_opening_is_not_asked_for_again(counted):
    file, proxy = counted
    assert file.read(0, 65_536) == CONTENT[:65_536]
    assert file.read_many([(8, 4), (100, 50)]) == [CONTENT[8:12], CONTENT[100:150]]
    assert not proxy.requests


def test_a_pickled_file_asks_nothing_when_it_opens(counted):
    file, proxy = counted
    again = pickle.loads(pickle.dumps(file))
    assert not proxy.requests
    again.read(0, 4)
    assert proxy.ranges == ["bytes=0-3"]


def test_a_header_that_is_parsed_in_small_steps_costs_few_requests(counted):
    file, proxy = counted
    face = as_file(file)
    face.seek(1_000_000)
    assert b"".join(face.read(7) for _ in range(100_000)) == CONTENT[1_000_000:1_700_000]
    assert len(proxy.ranges) <= 6  # 1, 2, 4, 8 blocks of 64 KiB


@given(
    st.lists(st.tuples(st.integers(0, 500), st.integers(0, 90)), max_size=12), st.integers(0, 40), st.integers(1, 99)
)
def test_requests_cover_every_span_and_no_byte_twice(spans, gap, limit):
    requests = coalesced(spans, gap, limit)
    asked = [byte for start, stop in requests for byte in range(start, stop)]
    assert len(asked) == len(set(asked))
    needed = {byte for offset, nbytes in spans for byte in range(offset, offset + nbytes)}
    assert needed <= set(asked)
    assert all(0 < stop - start <= limit for start, stop in requests)
    assert requests == sorted(requests)
    wasted = set(asked) - needed
    assert not wasted or gap > 0


def test_a_long_span_is_several_requests():
    assert coalesced([(0, 2 * REQUEST_BYTES + 1)], 0, REQUEST_BYTES) == [
        (0, REQUEST_BYTES), (REQUEST_BYTES, 2 * REQUEST_BYTES), (2 * REQUEST_BYTES, 2 * REQUEST_BYTES + 1)
    ]  # fmt: skip


def test_a_file_object_does_what_a_file_does(place):
    draw = random.Random(5)
    face, expected = as_file(open_bytes(place)), io.BytesIO(CONTENT)
    for _ in range(300):
        match draw.randrange(4):
            case 0:
                offset = draw.randrange(3_100_000)
                assert face.seek(offset) == expected.seek(offset)
            case 1:
                assert face.seek(-9, io.SEEK_END) == expected.seek(-9, io.SEEK_END)
            case 2:
                nbytes = draw.choice([0, 1, 100, BLOCK_BYTES, 3 * BLOCK_BYTES, (AHEAD_BLOCKS + 1) * BLOCK_BYTES])
                assert face.read(nbytes) == expected.read(nbytes)
            case 3:
                assert face.tell() == expected.tell()
    face.seek(2_900_000)
    assert face.read() == CONTENT[2_900_000:]
    with pytest.raises(ValueError, match="no place"):
        face.seek(-1)


def test_a_tiff_is_parsed_and_read_through_a_file_object(bucket, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (700, 900, 3), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", pixels, tile=(128, 128), compression="zlib")
    open_store(bucket).write("a.tif", (tmp_path / "a.tif").read_bytes())
    for place in (tmp_path / "a.tif", f"{bucket}/a.tif"):
        with tifffile.TiffFile(as_file(open_bytes(place))) as tiff:
            np.testing.assert_array_equal(tiff.asarray(), pixels)


@pytest.mark.parametrize(("size", "reads"), [(1, 1), (65_536, 1), (100_000, 2), (10_000_000, 18)])
def test_a_digest_reads_no_byte_twice(size, reads):
    spans = []

    def read(offset, nbytes):
        spans.append((offset, nbytes))
        return bytes(nbytes)

    sampled_digest(read, size)
    assert len(spans) == reads
    assert all(a + n <= b for (a, n), (b, _) in pairwise(spans))
    assert spans[0][0] == 0
    assert sum(spans[-1]) == size
