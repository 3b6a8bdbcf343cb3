"""A server for all tests of a process, and an environment that knows nothing else."""

from __future__ import annotations

import os
import secrets

import pytest

from gigatile.storage.local import LocalStore
from gigatile.storage.open import open_store
from tests.object_store import object_store


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    with object_store(tmp_path_factory.mktemp("object-store")) as found:
        yield found


@pytest.fixture
def environment(monkeypatch, tmp_path):
    """Nothing of the user's: no AWS_*, no profile, no proxy."""
    for name in tuple(os.environ):
        if name.startswith(("AWS_", "GOOGLE_", "AZURE_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    return monkeypatch


@pytest.fixture
def s3(server, environment):
    """The server, which the environment leads to."""
    for name, value in server.env.items():
        environment.setenv(name, value)
    return server


@pytest.fixture
def bucket(s3):
    """The URL of a new bucket."""
    return s3.make_bucket(f"t-{secrets.token_hex(6)}")


@pytest.fixture(params=["local", "bucket"])
def store(request, tmp_path):
    """An empty store of each kind, below a prefix."""
    if request.param == "local":
        return LocalStore(tmp_path / "run")
    return open_store(f"{request.getfixturevalue('bucket')}/some prefix/run")
