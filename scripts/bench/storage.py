"""obstore and fsspec (s3fs) side by side: one S3 server process on this machine, in turns on the same objects.

::

    round 1:  obstore | s3fs     for each kind of work; medians of the rounds, seconds and processor seconds
    round 2:  s3fs | obstore     of this process (the server has its own)

- ranges: 400 reads of 20 kB at random places of one object, each library's own call for many ranges, nothing coalesced;
- threads: the same reads, one call each, from 16 threads: as tiles are read;
- read: one object of 64 MiB in one call;
- write: 64 MiB in parts of 8 MiB, two at a time (s3fs: as many as it likes);
- list: 1,000 keys.

Then what `COALESCE_BYTES` is worth: one row of 64 tiles of 20 kB with gaps of 40 kB between them, through a proxy
that adds 20 ms to each request, with 16 requests at a time.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import obstore
import s3fs

from gigatile.storage import remote
from gigatile.storage.bucket import PART_BYTES, PARTS_UNDER_WAY
from gigatile.storage.client import connect
from tests.faulty_proxy import Faults, faulty_proxy
from tests.object_store import ObjectStoreServer, object_store

BIG = 64 << 20
SPAN = 20_000
KEYS = 1_000

Work = dict[str, Callable[[], Any]]


def with_obstore(bucket: str, spans: list[int], big: bytes) -> Work:
    store = connect(bucket)

    def write() -> None:
        with obstore.open_writer(store, "written", buffer_size=PART_BYTES, max_concurrency=PARTS_UNDER_WAY) as file:
            for begin in range(0, BIG, PART_BYTES):
                file.write(big[begin : begin + PART_BYTES])

    def one(start: int) -> int:
        return len(obstore.get_range(store, "big", start=start, length=SPAN))

    return {
        "ranges": lambda: obstore.get_ranges(store, "big", starts=spans, lengths=[SPAN] * len(spans), coalesce=0),
        "threads": lambda: _threads(one, spans),
        "read": lambda: bytes(obstore.get(store, "big").bytes()),
        "write": write,
        "list": lambda: sum(len(page) for page in obstore.list(store, "many", chunk_size=1000)),
    }


def with_s3fs(bucket: str, spans: list[int], big: bytes, server: ObjectStoreServer) -> Work:
    fs = s3fs.S3FileSystem(endpoint_url=server.endpoint, use_listings_cache=False, skip_instance_cache=True)
    place = bucket.removeprefix("s3://")

    def write() -> None:
        with fs.open(f"{place}/written", "wb", block_size=PART_BYTES) as file:
            for begin in range(0, BIG, PART_BYTES):
                file.write(big[begin : begin + PART_BYTES])

    def one(start: int) -> int:
        return len(fs.cat_file(f"{place}/big", start=start, end=start + SPAN))

    stops = [start + SPAN for start in spans]
    return {
        "ranges": lambda: fs.cat_ranges([f"{place}/big"] * len(spans), spans, stops),
        "threads": lambda: _threads(one, spans),
        "read": lambda: fs.cat_file(f"{place}/big"),
        "write": write,
        "list": lambda: len(fs.find(f"{place}/many")),
    }


def _threads(one: Callable[[int], int], spans: list[int]) -> int:
    with ThreadPoolExecutor(16) as pool:
        return sum(pool.map(one, spans))


def _timed(work: Callable[[], Any]) -> tuple[float, float]:
    wall, processor = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - processor


def compare(bucket: str, server: ObjectStoreServer, rounds: int) -> dict[str, dict[str, float]]:
    """Medians of each kind of work, and s3fs / obstore."""
    draw = random.Random(0)
    big = draw.randbytes(1 << 20) * (BIG >> 20)
    store = connect(bucket)
    obstore.put(store, "big", big)
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda index: obstore.put(store, f"many/{index}", b"1"), range(KEYS)))
    spans = [draw.randrange(BIG - SPAN) for _ in range(400)]
    libraries = {"obstore": with_obstore(bucket, spans, big), "s3fs": with_s3fs(bucket, spans, big, server)}
    times: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for turn in range(rounds + 1):
        for name in sorted(libraries, reverse=turn % 2 == 0):
            for kind, work in libraries[name].items():
                spent = _timed(work)
                if turn:  # the first round opens connections
                    times.setdefault((kind, name), []).append(spent)
    found: dict[str, dict[str, float]] = {}
    for kind in libraries["obstore"]:
        row = {}
        for name in libraries:
            walls, processors = zip(*times[kind, name], strict=True)
            row |= {f"{name}_s": statistics.median(walls), f"{name}_cpu_s": statistics.median(processors)}
        row |= {"ratio": row["s3fs_s"] / row["obstore_s"], "cpu_ratio": row["s3fs_cpu_s"] / row["obstore_cpu_s"]}
        found[kind] = row
    return found


def gaps(bucket: str, server: ObjectStoreServer, rounds: int) -> dict[str, dict[str, float]]:
    """Seconds, requests and bytes for one row of tiles, by the gap that is read over."""
    found = {}
    spans = [((1 << 20) + index * 60_000, SPAN) for index in range(64)]
    with faulty_proxy(server.endpoint, Faults(latency_s=0.02)) as proxy:
        os.environ["AWS_ENDPOINT_URL"] = proxy.endpoint
        file = remote.open_remote(f"{bucket}/big")
        for gap in (0, 32 << 10, 64 << 10, 256 << 10, 1 << 20):
            remote.COALESCE_BYTES = gap
            requests = remote.coalesced(spans, gap, remote.REQUEST_BYTES)
            walls = [_timed(lambda: file.read_many(spans))[0] for _ in range(rounds)]
            found[f"{gap >> 10} KiB"] = {
                "s": statistics.median(walls),
                "requests": len(requests),
                "MB": sum(stop - start for start, stop in requests) / 1e6,
            }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="figures as JSON on stdout")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, object_store(Path(folder)) as server:
        os.environ.update(server.env)
        bucket = server.make_bucket("bench")
        found = {"libraries": compare(bucket, server, options.rounds), "gaps": gaps(bucket, server, options.rounds)}
    if options.json:
        print(json.dumps(found, indent=1))
        return
    for title, rows in found.items():
        print(title)
        for name, row in rows.items():
            print(f"  {name:8}", "  ".join(f"{key} {value:8.3f}" for key, value in row.items()))


if __name__ == "__main__":
    main()
