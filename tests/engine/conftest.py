"""ONNX files that many tests share."""

import pytest

from gigatile.testing.models import InputShape, whole_weights, write_convolutions, write_pooled


@pytest.fixture(scope="session")
def stacks(tmp_path_factory):
    """Convolution stacks on two channels by the radius of their receptive field."""
    folder = tmp_path_factory.mktemp("stacks")
    layers = {
        1: whole_weights([2, 3], 3),
        2: whole_weights([2, 4, 2], 3),
        3: whole_weights([2, 3], 5) + whole_weights([3, 2], 3),
        4: whole_weights([2, 3, 1], 5),
    }
    return {
        radius: write_convolutions(folder / f"radius{radius}.onnx", weights, InputShape(2))
        for radius, weights in layers.items()
    }


@pytest.fixture(scope="session")
def pooled(tmp_path_factory):
    """Models that need sides in multiples of 2 and 4, by that number."""
    folder = tmp_path_factory.mktemp("pooled")
    return {factor: write_pooled(folder / f"pooled{factor}.onnx", factor, 2) for factor in (2, 4)}


@pytest.fixture(scope="session")
def same(tmp_path_factory):
    """The identity on two channels."""
    return write_convolutions(tmp_path_factory.mktemp("same") / "identity.onnx", [], InputShape(2))
