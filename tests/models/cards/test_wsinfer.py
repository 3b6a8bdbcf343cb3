"""wsinfer configurations: classifiers of patches, one pixel of the result a patch."""

import json
from dataclasses import replace

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper, save

import gigatile as gt
from gigatile.cli.main import main
from gigatile.errors import GigatileError, ModelError
from gigatile.models.cards.find import find_card
from gigatile.models.load import load_model
from gigatile.units import PixelSize

from .mutilated import mutilated


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def patch_classifier(path):
    """Mean colour of a patch, times 3 and -3: two logits."""
    weights = numpy_helper.from_array(np.array([[3, 0, 0], [-3, 0, 0]], np.float32).T.copy(), "w")
    nodes = [
        helper.make_node("GlobalAveragePool", ["x"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["logits"]),
    ]
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, "h", "w_"])
    got = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 2])
    graph = helper.make_graph(nodes, "patches", [given], [got], [weights])
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 12)], ir_version=8), str(path))


def config(folder, **changes):
    patch_classifier(folder / "model.onnx")
    content = {
        "spec_version": "1.0",
        "architecture": "resnet34",
        "num_classes": 2,
        "class_names": ["notumor", "tumor"],
        "patch_size_pixels": 50,
        "spacing_um_px": 0.25,
        "transform": [
            {"name": "Resize", "arguments": {"size": 32}},
            {"name": "ToTensor"},
            {"name": "Normalize", "arguments": {"mean": [0.4, 0.5, 0.6], "std": [0.1, 0.2, 0.1]}},
        ],
        **changes,
    }
    path = folder / "config.json"
    path.write_text(json.dumps(content))
    return path


def slide(pixels, size):
    image = gt.open(pixels, axes="cyx")
    image.source._info = replace(image.info, pixel_size=PixelSize(size, size))
    return gt.Image(image.source)


def test_a_configuration_becomes_the_options_that_say_the_same(tmp_path):
    card = find_card(config(tmp_path))
    assert card.pixel_size == pytest.approx(0.25 * 50 / 32)
    assert (card.tile, card.one_pixel_a_tile, card.channels) == ((32, 32), True, 3)
    assert (card.scale, card.mean, card.std) == (pytest.approx(1 / 255), (0.4, 0.5, 0.6), (0.1, 0.2, 0.1))
    assert (card.activation, card.output, card.class_names) == ("softmax", "probabilities", ("notumor", "tumor"))
    assert any("Resize 50 to 32" in note for note in card.notes)


def test_each_patch_is_one_pixel_with_its_probabilities(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32 * 5, 32 * 7)).astype(np.uint8)
    pixels[0, :64] //= 4
    plan = gt.plan(slide(pixels, 0.39), load_model(config(tmp_path)))
    assert (plan.tiling.overlap, plan.choice.exact) == (0, True)
    gt.run(plan, tmp_path / "out")
    result = gt.open(tmp_path / "out" / "prediction.zarr")
    assert result.shape == (2, 5, 7)
    means = pixels[0].reshape(5, 32, 7, 32).mean(axis=(1, 3)) / 255
    logit = 3 * (means - 0.4) / 0.1
    wanted = 1 / (1 + np.exp(-2 * logit))
    got = result.read(gt.Region(0, 0, 5, 7))
    assert np.abs(got[0] - wanted).max() < 1e-4
    assert np.abs(got.sum(axis=0) - 1).max() < 1e-6
    assert np.ptp(got[0]) > 0.1
    assert result.pixel_size.y == pytest.approx(32 * 0.39)


def test_a_slide_at_another_resolution_is_refused_with_what_to_type(tmp_path):
    pixels = np.zeros((3, 128, 128), np.uint8)
    with pytest.raises(GigatileError, match=r"found 0\.25 micrometer.*Type --pixel-size 0\.390625"):
        gt.plan(slide(pixels, 0.25), load_model(config(tmp_path)))


def test_the_command_that_it_says_runs(tmp_path):
    import tifffile

    pixels = np.random.default_rng(1).integers(0, 256, (250, 300, 3)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", tile=(64, 64))
    line = ["run", str(tmp_path / "a.tif"), "--model", str(config(tmp_path)), "-o", str(tmp_path / "out")]
    assert main(line) == 2
    assert main([*line, "--source-pixel-size", "0.25", "--pixel-size", "0.390625"]) == 0
    assert gt.open(tmp_path / "out" / "prediction.zarr").shape == (2, 5, 6)


@pytest.mark.parametrize(
    "changes",
    [
        {"spec_version": "2.0"},
        {"num_classes": 3},
        {"spacing_um_px": 0},
        {"transform": [{"name": "ToTensor"}, {"name": "GaussianBlur"}]},
        {"transform": [{"name": "Normalize", "arguments": {"mean": [0], "std": [1]}}]},
        {"transform": []},
        {"class_names": "ab"},
    ],
)
def test_what_cannot_be_followed_is_refused(tmp_path, changes):
    with pytest.raises(ModelError):
        find_card(config(tmp_path, **changes))


def test_a_configuration_without_its_model_is_refused(tmp_path):
    path = config(tmp_path)
    (tmp_path / "model.onnx").unlink()
    with pytest.raises(ModelError, match=r"torchscript_model\.pt or model\.onnx beside it"):
        find_card(path)


def test_the_probe_prints_the_card(tmp_path, capsys):
    assert main(["probe", str(config(tmp_path))]) == 0
    said = capsys.readouterr().out
    assert "wsinfer 1.0" in said
    assert "0.390625 micrometer" in said


def test_a_mutilated_config_is_an_error_and_no_traceback(tmp_path):
    path = config(tmp_path)
    content = json.loads(path.read_text())
    refused = 0
    for seed in range(100):
        path.write_text(json.dumps(mutilated(content, seed)))
        try:
            find_card(path)
        except GigatileError as error:
            refused += bool(str(error))
    assert refused > 40
