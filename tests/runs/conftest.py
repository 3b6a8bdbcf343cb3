"""One image and one finished run for the folder; tests that change the run work on a copy."""

import shutil

import pytest

from tests.small_runs import run_small, write_inputs


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return write_inputs(folder)


@pytest.fixture(scope="session")
def image(folder):
    return str(folder / "image.zarr")


@pytest.fixture(scope="session")
def model(folder):
    return str(folder / "conv.onnx")


@pytest.fixture(scope="session")
def reference(folder, image, model):
    out = folder / "reference"
    assert run_small(image, model, out).complete
    return out


@pytest.fixture
def out(tmp_path, reference):
    """A copy of the finished run."""
    return shutil.copytree(reference, tmp_path / "out")
