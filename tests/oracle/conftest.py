"""The catalogue as files."""

import pytest

from .catalogue import GLOBAL, KNOWN
from .graphs import Graph


@pytest.fixture(scope="session")
def saved(tmp_path_factory):
    """Path of a model of the catalogue, by name and number of channels; each is written once."""
    folder, made = tmp_path_factory.mktemp("catalogue"), {}

    def path(name, channels=1):
        if (name, channels) not in made:
            graph = Graph(channels)
            make = KNOWN[name].make if name in KNOWN else GLOBAL[name]
            made[name, channels] = graph.save(folder / f"{len(made)}.onnx", make(graph))
        return made[name, channels]

    return path
