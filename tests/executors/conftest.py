"""Every kind of executor, started once for the folder."""

import gc
from contextlib import contextmanager

import cloudpickle
import pytest

from gigatile.executors.clusters import existing_cluster, local_cluster
from gigatile.executors.dask import DaskExecutor
from gigatile.executors.threads import ThreadExecutor
from tests.clusters import separate_cluster
from tests.executors import listing

# Workers cannot import the tests.
cloudpickle.register_pickle_by_value(listing)

KINDS = ("one thread", "three threads", "processes", "cluster")
WORKERS = {"one thread": 1, "three threads": 3, "processes": 2, "cluster": 2}


@contextmanager
def _opened(kind, folder):
    if kind in ("one thread", "three threads"):
        yield ThreadExecutor(WORKERS[kind])
    elif kind == "processes":
        with local_cluster(2) as client:
            yield DaskExecutor(client)
    else:
        # Two threads a worker: a worker does one key at a time all the same.
        with separate_cluster(folder, workers=2, threads=2) as cluster, existing_cluster(cluster.address) as client:
            yield DaskExecutor(client)


@pytest.fixture(scope="session", params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(scope="session")
def executor(kind, tmp_path_factory):
    with _opened(kind, tmp_path_factory.mktemp("cluster")) as found:
        yield found


@pytest.fixture(scope="session")
def workers(kind):
    return WORKERS[kind]


@pytest.fixture
def abandoned_clients_are_collected():
    """A `Client` whose constructor raised takes distributed's lock of loops as it is collected; were that to happen
    in the thread of the next loop, whose starter holds the lock, that one would not start."""
    yield
    gc.collect()
