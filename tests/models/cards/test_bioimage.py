"""bioimage.io descriptions: what each field becomes, what is refused, and the self-test."""

import hashlib
import json

import numpy as np
import pytest
import yaml

import gigatile as gt
from gigatile.cli.main import main
from gigatile.errors import GigatileError, ModelError
from gigatile.models.cards.find import find_card
from gigatile.models.load import load_model
from gigatile.models.self_test import self_tested
from gigatile.testing.models import InputShape, whole_weights, write_convolutions

from .mutilated import mutilated

PER_SAMPLE = {"name": "zero_mean_unit_variance", "kwargs": {"mode": "per_sample", "axes": "yx"}}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def model_in(folder):
    """A convolution of radius 2, test tensors included: the output of the model itself on a standardised input."""
    weights = write_convolutions(folder / "weights.onnx", whole_weights((1, 2, 1)))
    noise = np.random.default_rng(0).integers(0, 4000, (1, 1, 64, 48)).astype(np.uint16)
    np.save(folder / "in.npy", noise)
    given = (noise.astype(np.float64) - noise.mean()) / (noise.std() + 1e-6)
    raw = load_model(weights).raw(given.astype(np.float32))
    np.save(folder / "out.npy", 1 / (1 + np.exp(-raw)))
    return weights


def rdf_0_4(folder, **changes):
    weights = model_in(folder)
    content = {
        "format_version": "0.4.9",
        "type": "model",
        "name": "Spots",
        "inputs": [
            {
                "name": "raw",
                "axes": "bcyx",
                "data_type": "float32",
                "shape": {"min": [1, 1, 16, 16], "step": [0, 0, 16, 16]},
                "preprocessing": [PER_SAMPLE],
            }
        ],
        "outputs": [
            {
                "name": "mask",
                "axes": "bcyx",
                "data_type": "float32",
                "shape": {"reference_tensor": "raw", "scale": [1, 1, 1, 1], "offset": [0, 0, 0, 0]},
                "halo": [0, 0, 6, 6],
                "postprocessing": [{"name": "sigmoid"}],
            }
        ],
        "weights": {"onnx": {"source": "weights.onnx", "sha256": digest(weights), "opset_version": 12}},
        "test_inputs": ["in.npy"],
        "test_outputs": ["out.npy"],
    }
    return written(folder, {**content, **changes})


def written(folder, content):
    path = folder / "rdf.yaml"
    # Through JSON, so that no part that stands twice becomes an alias.
    path.write_text(yaml.safe_dump(json.loads(json.dumps(content)), sort_keys=False))
    return path


def rdf_0_5(folder, **changes):
    weights = model_in(folder)
    axes = [
        {"type": "batch"},
        {"type": "channel", "channel_names": ["raw"]},
        {"type": "space", "id": "y", "size": {"min": 16, "step": 16}, "unit": "micrometer", "scale": 0.5},
        {"type": "space", "id": "x", "size": {"min": 16, "step": 16}, "unit": "micrometer", "scale": 0.5},
    ]
    out_axes = [
        {"type": "batch"},
        {"type": "channel", "channel_names": ["spot"]},
        *(
            {
                "type": "space",
                "id": axis,
                "halo": 6,
                "size": {"tensor_id": "raw", "axis_id": axis},
                "unit": "micrometer",
                "scale": 0.5,
            }
            for axis in "yx"
        ),
    ]
    content = {
        "format_version": "0.5.3",
        "type": "model",
        "name": "Spots",
        "inputs": [
            {
                "id": "raw",
                "axes": axes,
                "test_tensor": {"source": "in.npy", "sha256": digest(folder / "in.npy")},
                "preprocessing": [
                    {"id": "ensure_dtype", "kwargs": {"dtype": "float32"}},
                    {"id": "zero_mean_unit_variance", "kwargs": {"axes": ["x", "y"]}},
                ],
            }
        ],
        "outputs": [
            {
                "id": "mask",
                "axes": out_axes,
                "test_tensor": {"source": "out.npy", "sha256": digest(folder / "out.npy")},
                "postprocessing": [{"id": "sigmoid"}],
            }
        ],
        "weights": {"onnx": {"source": "weights.onnx", "sha256": digest(weights), "opset_version": 12}},
    }
    return written(folder, {**content, **changes})


@pytest.mark.parametrize("write", [rdf_0_4, rdf_0_5])
def test_a_description_becomes_the_options_that_say_the_same(tmp_path, write):
    card = find_card(write(tmp_path))
    assert (card.normalize, card.scale, card.mean, card.std) == ("zscore", None, (), ())
    assert (card.activation, card.output, card.margin_px) == ("sigmoid", "probabilities", 6)
    assert (card.tile, card.channels, card.name) == ((512, 512), 1, "Spots")
    assert card.model == tmp_path / "weights.onnx"


def test_pixel_size_and_names_of_channels_are_taken_from_0_5(tmp_path):
    card = find_card(rdf_0_5(tmp_path))
    assert (card.pixel_size, card.unit, card.class_names) == (0.5, "micrometer", ("spot",))


@pytest.mark.parametrize("write", [rdf_0_4, rdf_0_5])
def test_the_test_tensors_are_run_through_our_own_normalisation(tmp_path, write):
    path = write(tmp_path)
    (done,) = self_tested(load_model(path))
    assert done.values == 64 * 48
    assert done.mismatched == 0
    assert done.max_difference < 1e-5


@pytest.mark.parametrize("write", [rdf_0_4, rdf_0_5])
def test_a_model_that_does_not_give_what_its_card_promises_is_refused(tmp_path, write):
    path = write(tmp_path)
    expected = np.load(tmp_path / "out.npy")
    expected[0, 0, :8] += 0.01
    np.save(tmp_path / "out.npy", expected)
    if write is rdf_0_5:
        content = yaml.safe_load(path.read_text())
        content["outputs"][0]["test_tensor"]["sha256"] = digest(tmp_path / "out.npy")
        written(tmp_path, content)
    with pytest.raises(ModelError, match=r"384 of 3072 values beyond it, the largest by 0\.01"):
        load_model(path)


def test_other_weights_than_the_card_was_written_for_are_refused(tmp_path):
    path = rdf_0_4(tmp_path)
    write_convolutions(tmp_path / "weights.onnx", whole_weights((1, 2, 1), seed=1))
    with pytest.raises(ModelError, match=r"expected weights.onnx with sha256"):
        load_model(path)


@pytest.mark.parametrize("source", ["../weights.onnx", "/etc/passwd", "a/../../weights.onnx", "C:\\weights.onnx", ""])
def test_paths_of_a_card_cannot_leave_its_folder(tmp_path, source):
    folder = tmp_path / "card"
    folder.mkdir()
    model_in(tmp_path)
    path = rdf_0_4(folder, weights={"onnx": {"source": source}})
    with pytest.raises(ModelError, match="a file in the card's folder"):
        load_model(path)


def test_a_link_out_of_the_folder_is_refused_and_a_hub_of_links_is_not(tmp_path):
    folder, blobs = tmp_path / "snapshot", tmp_path / "blobs"
    folder.mkdir()
    blobs.mkdir()
    rdf_0_4(blobs)
    rdf_0_4(folder)
    (folder / "weights.onnx").unlink()
    (folder / "weights.onnx").symlink_to(blobs / "weights.onnx")
    with pytest.raises(ModelError, match="a file in the card's folder"):
        load_model(folder / "rdf.yaml")
    (folder / "rdf.yaml").unlink()
    (folder / "rdf.yaml").symlink_to(blobs / "rdf.yaml")
    assert load_model(folder / "rdf.yaml").model.name == "weights.onnx"


def test_weights_at_a_url_are_looked_for_beside_the_card(tmp_path):
    url = "https://example.org/models/weights.onnx?download=1"
    path = rdf_0_4(tmp_path, weights={"onnx": {"source": url}})
    assert find_card(path).model.name == "weights.onnx"
    (tmp_path / "weights.onnx").unlink()
    with pytest.raises(ModelError, match=r"Download https://example\.org"):
        find_card(path)


STEPS = {
    "linear": ([{"name": "scale_linear", "kwargs": {"gain": 0.5, "offset": -3, "axes": "yx"}}], (0.5, (3.0,), ())),
    "fixed": (
        [{"name": "zero_mean_unit_variance", "kwargs": {"mode": "fixed", "axes": "yx", "mean": 10, "std": 4}}],
        (1.0, (10.0,), (4.0,)),
    ),
    "both": (
        [
            {"name": "scale_linear", "kwargs": {"gain": 0.5, "offset": -3}},
            {"name": "zero_mean_unit_variance", "kwargs": {"mode": "fixed", "mean": 1, "std": 4, "axes": "yx"}},
        ],
        (0.5, (4.0,), (4.0,)),
    ),
}


@pytest.mark.parametrize("name", STEPS)
def test_chains_of_scalings_fold_into_scale_mean_and_std(tmp_path, name):
    steps, wanted = STEPS[name]
    card = find_card(rdf_0_4(tmp_path, inputs=changed_input(preprocessing=steps)))
    assert (card.scale, card.mean, card.std) == wanted
    value = np.float64(100)
    for step in steps:
        k = step["kwargs"]
        value = (value - k["mean"]) / k["std"] if "mean" in k else value * k["gain"] + k["offset"]
    assert (100 * card.scale - card.mean[0]) / (card.std or (1,))[0] == value


def changed_input(**changes):
    base = {"name": "raw", "axes": "bcyx", "shape": [1, 1, 64, 64], "preprocessing": [PER_SAMPLE]}
    return [{**base, **changes}]


def test_percentiles_become_those_of_the_whole_image(tmp_path):
    kwargs = {"mode": "per_sample", "axes": "yx", "min_percentile": 1, "max_percentile": 99.8}
    steps = [{"name": "scale_range", "kwargs": kwargs}]
    card = find_card(rdf_0_4(tmp_path, inputs=changed_input(preprocessing=steps)))
    assert card.normalize == "percentile:1,99.8"
    assert any("without eps" in note for note in card.notes)


UNSUPPORTED = {
    "clip": [{"name": "clip", "kwargs": {"min": 0, "max": 1}}],
    "binarize": [{"name": "binarize", "kwargs": {"threshold": 1}}],
    "per pixel": [{"name": "zero_mean_unit_variance", "kwargs": {"mode": "per_sample", "axes": "c"}}],
    "twice": [PER_SAMPLE, {"name": "scale_linear", "kwargs": {"gain": 2}}],
    "8 bit": [{"name": "ensure_dtype", "kwargs": {"dtype": "uint8"}}],
    "no number": [{"name": "scale_linear", "kwargs": {"gain": "2"}}],
    "no gain": [{"name": "scale_linear", "kwargs": {"gain": 0}}],
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_a_step_that_we_have_no_like_of_is_refused_by_its_place(tmp_path, name):
    path = rdf_0_4(tmp_path, inputs=changed_input(preprocessing=UNSUPPORTED[name]))
    with pytest.raises(ModelError, match=r"inputs\[0\]\.preprocessing"):
        find_card(path)


def test_statistics_over_all_channels_together_are_refused_unless_there_is_one(tmp_path):
    steps = [{"name": "zero_mean_unit_variance", "kwargs": {"mode": "per_sample", "axes": "cyx"}}]
    assert find_card(rdf_0_4(tmp_path, inputs=changed_input(preprocessing=steps))).normalize == "zscore"
    three = changed_input(preprocessing=steps, shape=[1, 3, 64, 64])
    with pytest.raises(ModelError, match="each channel by itself"):
        find_card(rdf_0_4(tmp_path, inputs=three))


REFUSED = {
    "two inputs": ({"inputs": changed_input() * 2}, "one image goes in"),
    "volume": ({"inputs": changed_input(axes="bczyx", shape=[1, 1, 8, 64, 64])}, "batch, channel, y and x"),
    "old": ({"format_version": "0.3.2"}, "format_version 0.4 or 0.5"),
    "data set": ({"type": "dataset"}, "a bioimage.io model"),
    "keras": ({"weights": {"keras_hdf5": {"source": "w.h5"}}}, "onnx or torchscript"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_we_cannot_run_is_one_clear_error(tmp_path, name):
    changes, said = REFUSED[name]
    with pytest.raises(ModelError, match=said):
        find_card(rdf_0_4(tmp_path, **changes))


@pytest.mark.parametrize("write", [rdf_0_4, rdf_0_5])
def test_a_mutilated_description_is_an_error_and_no_traceback(tmp_path, write):
    path = write(tmp_path)
    content = yaml.safe_load(path.read_text())
    refused = 0
    for seed in range(60):
        written(tmp_path, mutilated(content, seed))
        try:
            find_card(path)
        except GigatileError as error:
            refused += bool(str(error))
    assert refused > 30


def test_objects_in_test_tensors_are_not_unpickled(tmp_path):
    path = rdf_0_4(tmp_path)
    np.save(tmp_path / "in.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ModelError, match="expected numbers"):
        load_model(path)


def test_a_run_needs_the_card_alone_and_equals_the_options_by_hand(tmp_path):
    path = rdf_0_4(tmp_path)
    pixels = np.random.default_rng(1).integers(0, 5000, (1, 700, 650)).astype(np.uint16)
    import tifffile

    tifffile.imwrite(tmp_path / "a.tif", pixels[0])
    assert main(["run", str(tmp_path / "a.tif"), "--model", str(path), "-o", str(tmp_path / "card")]) == 0
    by_hand = ["--model", str(tmp_path / "weights.onnx"), "--normalize", "zscore", "--activation", "sigmoid"]
    by_hand += ["--output", "probabilities", "--overlap", "12", "--tile", "512"]
    assert main(["run", str(tmp_path / "a.tif"), *by_hand, "-o", str(tmp_path / "hand")]) == 0
    runs = [json.loads((tmp_path / name / "run.json").read_text()) for name in ("card", "hand")]
    # The halo of the card is more than the radius of 2 px needs.
    assert runs[0]["plan"]["tiling"]["overlap"] == 12
    assert runs[0]["plan"]["values"] == runs[1]["plan"]["values"]
    results = [gt.open(tmp_path / name / "prediction.zarr") for name in ("card", "hand")]
    whole = gt.Region(0, 0, 700, 650)
    assert np.array_equal(results[0].read(whole), results[1].read(whole))


def test_what_is_typed_wins_over_the_card_and_the_pipeline_file_stands_between(tmp_path):
    from gigatile.cli.options import read_options, run_parser

    path = rdf_0_4(tmp_path)
    pipeline = tmp_path / "pipeline.yaml"
    pipeline.write_text("model: rdf.yaml\nactivation: none\nnormalize: minmax\n")
    line = ["a.tif", "-o", "out", "--pipeline", str(pipeline), "--normalize", "percentile:1,99"]
    options = read_options(run_parser("run", "..."), line)
    assert (options.normalize, options.activation, options.output) == ("percentile:1,99", "none", "probabilities")
    line = ["a.tif", "-o", "out", "--model", str(path), "--mean", "3"]
    options = read_options(run_parser("run", "..."), line)
    assert (options.normalize, options.mean, options.activation) == ("none", (3.0,), "sigmoid")
    line = ["a.tif", "-o", "out", "--pipeline", str(path)]
    assert read_options(run_parser("run", "..."), line).normalize == "zscore"


def test_an_image_of_another_pixel_size_is_refused_with_what_to_type(tmp_path):
    model = load_model(rdf_0_5(tmp_path))
    from gigatile.models.card_fit import fitted_image

    image = image_of(0.25)
    with pytest.raises(GigatileError, match=r"found 0.25 micrometer at level 0. Type --pixel-size 0.5"):
        fitted_image(image, model.card)
    with pytest.raises(GigatileError, match="--source-pixel-size"):
        fitted_image(image_of(None), model.card)
    assert fitted_image(image_of(0.52), model.card).shape == (1, 64, 64)


def image_of(size):
    from dataclasses import replace

    from gigatile.units import PixelSize

    image = gt.open(np.zeros((1, 64, 64), np.uint16))
    image.source._info = replace(image.info, pixel_size=PixelSize(size, size) if size else None)
    return gt.Image(image.source)


def test_an_image_of_another_number_of_channels_is_refused(tmp_path):
    path = rdf_0_4(tmp_path)
    with pytest.raises(GigatileError, match=r"expected 1 channels, found 3.*--channels 0"):
        gt.plan(gt.open(np.zeros((3, 64, 64), np.uint16), axes="cyx"), load_model(path))


def test_weights_of_a_fixed_size_give_the_tile(tmp_path):
    write_convolutions(tmp_path / "weights.onnx", whole_weights((1, 2, 1)), InputShape(1, 64, 1))
    path = rdf_0_4(tmp_path, inputs=changed_input())
    assert find_card(path).tile == (64, 64)
