"""STAC items of the Machine Learning Model extension."""

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest

import gigatile as gt
from gigatile.errors import GigatileError, ModelError
from gigatile.models.cards.find import find_card
from gigatile.models.load import load_model
from gigatile.testing.models import InputShape, whole_weights, write_convolutions
from gigatile.units import PixelSize

from .mutilated import mutilated

BANDS = ["B04", "B03", "B02"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def item(folder, *, given=None, got=None, asset=None, properties=None):
    model = write_convolutions(folder / "model.onnx", whole_weights((3, 2)), InputShape(3))
    checksum = "1220" + hashlib.sha256(model.read_bytes()).hexdigest()
    common = dict(zip(BANDS, ("red", "green", "blue"), strict=True))
    content = {
        "type": "Feature",
        "stac_version": "1.0.0",
        "properties": {
            "mlm:name": "fields",
            "mlm:tasks": ["semantic-segmentation"],
            "gsd": 10,
            "mlm:input": [
                {
                    "name": "scene",
                    "bands": BANDS,
                    "input": {
                        "shape": [-1, 3, 64, 64],
                        "dim_order": ["batch", "bands", "height", "width"],
                        "data_type": "float32",
                    },
                    "value_scaling": [
                        {"type": "z-score", "mean": 1000, "stddev": 250},
                        {"type": "min-max", "minimum": 500, "maximum": 3000},
                        {"type": None},
                    ],
                    **(given or {}),
                }
            ],
            "mlm:output": [
                {
                    "name": "classes",
                    "tasks": ["semantic-segmentation"],
                    "result": {"shape": [-1, 2, 64, 64], "dim_order": ["batch", "class", "height", "width"]},
                    "classification:classes": [
                        {"value": 1, "name": "field", "color_hint": "00FF7f"},
                        {"value": 0, "name": "other", "color_hint": "202020"},
                    ],
                    **(got or {}),
                }
            ],
            **(properties or {}),
        },
        "assets": {
            "weights": {
                "href": "./model.onnx",
                "roles": ["mlm:model", "mlm:weights"],
                "file:checksum": checksum,
                "eo:bands": [{"name": name, "common_name": common[name]} for name in BANDS],
                **(asset or {}),
            }
        },
    }
    path = folder / "item.json"
    path.write_text(json.dumps(content))
    return path


def scene(names, size=10.0, unit="metre"):
    rng = np.random.default_rng(0)
    image = gt.open(rng.integers(0, 4000, (len(names), 96, 80)).astype(np.uint16), axes="cyx")
    image.source._info = replace(image.info, channels=tuple(names), pixel_size=PixelSize(size, size, unit))
    return gt.Image(image.source)


def test_an_item_becomes_the_options_that_say_the_same(tmp_path):
    card = find_card(item(tmp_path))
    assert (card.scale, card.mean, card.std) == (1.0, (1000, 500, 0), (250, 2500, 1))
    assert (card.class_names, card.class_colors) == (("other", "field"), ("#202020", "#00ff7f"))
    assert card.bands == (("B04", "red"), ("B03", "green"), ("B02", "blue"))
    assert (card.tile, card.pixel_size, card.unit, card.output) == ((64, 64), 10, "metre", "classes")


@pytest.mark.parametrize(
    "names", [("B02", "B03", "B04", "B08"), ("b2", "B3", "B4", "B8"), ("blue", "Green", "RED", "nir")]
)
def test_bands_are_found_by_name_or_common_name_in_the_order_of_the_model(tmp_path, names):
    plan = gt.plan(scene(names), item(tmp_path))
    assert plan.image.selected == (2, 1, 0)


def test_a_missing_band_is_refused_with_what_there_is(tmp_path):
    with pytest.raises(GigatileError, match=r"no B03, only B02, B04, B08\. Name the channels"):
        gt.plan(scene(("B02", "B04", "B08")), item(tmp_path))


@pytest.mark.parametrize(
    ("place", "told"),
    [
        ({}, "in micrometres, and --pixel-size 1e+07"),
        ({"crs": "EPSG:32633"}, "gdalwarp"),
        ({"transform": (10.0, 0.0, 0.0, 0.0, -10.0, 0.0)}, "gdal_edit.py -a_srs"),
    ],
)
def test_an_image_without_a_pixel_size_is_told_what_helps_with_it(tmp_path, place, told):
    image = scene(BANDS)
    image.source._info = replace(image.info, pixel_size=None, **place)
    with pytest.raises(GigatileError) as refused:
        gt.plan(gt.Image(image.source), item(tmp_path))
    assert told in str(refused.value)


def test_channels_that_somebody_chose_are_not_chosen_again(tmp_path):
    image = scene(("a", "b", "c", "d")).select(channels=(3, 0, 1))
    assert gt.plan(image, item(tmp_path)).image.selected == (3, 0, 1)


@pytest.mark.parametrize(
    ("size", "unit", "said"),
    [
        (20.0, "metre", r"found 20 metre at level 0\. Type --pixel-size 10\."),
        (8.0, "foot", r"Type --pixel-size 32\.8084"),
        (1e-4, "degree", "which is no length"),
    ],
)
def test_a_scene_of_another_resolution_is_refused_with_what_to_type(tmp_path, size, unit, said):
    with pytest.raises(GigatileError, match=said):
        gt.plan(scene(BANDS, size, unit), item(tmp_path))


def test_within_ten_percent_the_resolution_is_the_same(tmp_path):
    assert gt.plan(scene(BANDS, 10.9), item(tmp_path)).model.card.name == "fields"


REFUSED = {
    "code before": (
        {"given": {"pre_processing_function": {"format": "python", "expression": "os:system"}}},
        "pre_proc",
    ),
    "resize": ({"given": {"resize_type": "interpolation-cubic"}}, "resize_type"),
    "clip": ({"given": {"value_scaling": [{"type": "clip", "minimum": 0, "maximum": 1}]}}, "z-score"),
    "expression": ({"given": {"bands": [{"name": "ndvi", "format": "x", "expression": "B08-B04"}]}}, "expressions"),
    "time": (
        {"given": {"input": {"shape": [1, 2, 3, 64, 64], "dim_order": ["batch", "time", "bands", "height", "width"]}}},
        "time series",
    ),
    "task": ({"got": {"tasks": ["object-detection"]}}, "semantic-segmentation"),
    "two scalings": ({"given": {"value_scaling": [{"type": "scale", "value": 2}] * 2}}, "1 or 3"),
    "url": ({"asset": {"href": "https://example.org/other.onnx"}}, r"Download https://example\.org/other\.onnx"),
    "outside": ({"asset": {"href": "../model.onnx"}}, "a file in the card's folder"),
    "content": ({"asset": {"file:checksum": "1220" + "0" * 64}}, "with sha256"),
    "gap": ({"got": {"classification:classes": [{"value": 1, "name": "a"}]}}, "without a gap"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_followed_is_refused(tmp_path, name):
    changes, said = REFUSED[name]
    with pytest.raises(ModelError, match=said):
        find_card(item(tmp_path, **changes))


def test_a_function_after_the_model_is_noted(tmp_path):
    got = {"post_processing_function": {"format": "python", "expression": "a:b"}}
    assert any("post_processing_function" in note for note in find_card(item(tmp_path, got=got)).notes)


def test_the_values_are_those_that_were_said(tmp_path):
    model = load_model(item(tmp_path))
    pixels = np.full((3, 2, 2), 1500, np.uint16)
    assert np.array_equal(model.values.normalised(pixels)[:, 0, 0], np.float32([2, 0.4, 1500]))


def test_a_json_file_of_something_else_is_no_model(tmp_path):
    (tmp_path / "a.json").write_text('{"type": "Feature", "properties": {}}')
    with pytest.raises(ModelError, match=r"a bioimage\.io rdf\.yaml, a wsinfer"):
        load_model(tmp_path / "a.json")


def test_a_mutilated_item_is_an_error_and_no_traceback(tmp_path):
    path = item(tmp_path)
    content = json.loads(path.read_text())
    refused = 0
    for seed in range(100):
        path.write_text(json.dumps(mutilated(content, seed)))
        try:
            find_card(path)
        except GigatileError as error:
            refused += bool(str(error))
    assert refused > 40
