"""What the README says to type works: every marked block runs, in order, on small samples made here."""

import re
import shlex
from pathlib import Path

import numpy as np
import onnx
import pytest
import tifffile
from onnx import TensorProto, helper, numpy_helper

from gigatile.cli.main import main

README = Path(__file__).parents[2] / "README.md"
STAIN_PY = """
import numpy as np


def darkness(batch):
    return 1 - batch.mean(axis=1, keepdims=True)


def dark_boxes(batch):
    return [np.array([[10, 10, 30, 20, 1 - tile.mean(), 0]]) for tile in batch]
"""


def blocks(language):
    """The fenced blocks that are marked as running."""
    return re.findall(rf"^```{language} runs\n(.*?)^```$", README.read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture
def samples(tmp_path, monkeypatch):
    """A slide, a model and a function, under the names that the README uses."""
    rng = np.random.default_rng(0)
    tifffile.imwrite(
        tmp_path / "slide.ome.tif",
        rng.integers(0, 256, (1024, 1024, 3), np.uint8),
        tile=(256, 256),
        photometric="rgb",
        metadata={"axes": "YXS", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5},
    )
    weights = rng.normal(size=(4, 3, 5, 5)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"], pads=[2, 2, 2, 2])],
        "unet",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, "h", "w_"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4, "h", "w_"])],
        [numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, tmp_path / "unet.onnx")
    (tmp_path / "slides").mkdir()
    for name in ("a", "b"):
        tifffile.imwrite(
            tmp_path / "slides" / f"{name}.tif",
            rng.integers(0, 256, (300, 300, 3), np.uint8),
            tile=(128, 128),
            photometric="rgb",
        )
    (tmp_path / "stain.py").write_text(STAIN_PY)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_first_two_commands_are_the_demo_and_the_tests():
    first = re.search(r"^```sh\n(.*?)^```$", README.read_text(), re.MULTILINE | re.DOTALL)
    commands = [line.split()[0] for line in first[1].splitlines()]
    assert commands == ["scripts/demo", "scripts/test"]
    for command in commands:
        script = README.parent / command
        assert script.exists()
        assert script.stat().st_mode & 0o111, f"{command} cannot be executed"


def test_every_marked_command_succeeds(samples):
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    assert len(lines) >= 8
    for line in lines:
        program, *words = shlex.split(line)
        assert program == "gigatile", line
        assert main(words) == 0, line
    for folder in ("result", "darkness", "nuclei", "instances"):
        assert (samples / folder / "prediction.zarr" / "zarr.json").exists()
    for folder in ("instances", "boxes"):
        assert (samples / folder / "objects.parquet").exists()


def test_the_python_blocks_run_one_after_the_other(samples):
    found = blocks("python")
    assert len(found) >= 2
    names = {}
    for block in found:
        exec(compile(block, str(README), "exec"), names)
    assert names["corner"].shape == (3, 256, 512)
    assert names["image"].shape == (3, 1024, 1024)
    assert names["window"].shape == (4, 300, 300)
    assert names["result"].complete


def test_every_command_that_is_named_exists():
    named = set(re.findall(r"^gigatile (\w+)", README.read_text(), re.MULTILINE))
    assert named == {"info", "probe", "plan", "run", "status", "verify", "pipelines", "export"}


def test_links_lead_somewhere():
    links = re.findall(r"\]\(([^)#]+)\)", README.read_text())
    assert links
    for link in links:
        assert "://" in link or (README.parent / link).exists(), link
