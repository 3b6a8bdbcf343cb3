"""A cluster for the whole folder: starting one takes seconds."""

import pytest

from tests.clusters import separate_cluster


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    with separate_cluster(tmp_path_factory.mktemp("cluster")) as found:
        yield found
