"""Metadata in ONNX files as deepness and GeoDeep write it."""

import json

import numpy as np
import onnx
import pytest

import gigatile as gt
from gigatile.errors import GigatileError, ModelError
from gigatile.models.card_fit import fitted_image
from gigatile.models.cards.find import find_card
from gigatile.models.cards.onnx_metadata import metadata
from gigatile.models.load import load_model
from gigatile.testing.models import InputShape, whole_weights, write_convolutions
from tests.data import data


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def segmentor(folder, **values):
    path = write_convolutions(folder / "model.onnx", whole_weights((3, 2)), InputShape(3))
    model = onnx.load(path)
    for key, value in values.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value if isinstance(value, str) else json.dumps(value)
    onnx.save(model, path)
    return path


LAND_COVER = {
    "model_type": json.dumps("Segmentor"),
    "class_names": {0: "ground", 1: "building"},
    "resolution": 40,
    "tiles_size": 256,
    "tiles_overlap": 15,
    "standardization_mean": [0.4, 0.5, 0.6],
    "standardization_std": [0.2, 0.25, 0.3],
    "seg_thresh": 0.5,
}


def test_metadata_become_the_options_that_say_the_same(tmp_path):
    card = find_card(segmentor(tmp_path, **LAND_COVER))
    assert card.scale == 1 / 255
    assert (card.mean, card.std) == ((0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
    assert (card.class_names, card.output) == (("ground", "building"), "classes")
    assert (card.tile, card.overlap_px) == ((256, 256), 38)
    assert (card.pixel_size, card.unit) == (0.4, "metre")
    assert card.notes == ()


def test_the_words_are_found_without_reading_the_graph(tmp_path):
    path = segmentor(tmp_path, **LAND_COVER)
    assert metadata(path) == {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    assert metadata(path)["resolution"] == "40"


def test_a_model_without_such_words_has_no_card(tmp_path):
    assert find_card(segmentor(tmp_path)) is None
    assert find_card(segmentor(tmp_path, author="somebody", names="{0: 'car'}")) is None


@pytest.mark.parametrize("size", range(0, 400, 7))
def test_a_cut_or_foreign_file_has_no_words_and_no_traceback(tmp_path, size):
    whole = segmentor(tmp_path, **LAND_COVER).read_bytes()
    path = tmp_path / "cut.onnx"
    path.write_bytes(whole[:size])
    assert set(metadata(path)) <= set(LAND_COVER) | {""}
    path.write_bytes(np.random.default_rng(size).bytes(size))
    assert isinstance(metadata(path), dict)


def test_older_files_have_python_literals_and_nothing_of_them_is_run(tmp_path):
    card = find_card(segmentor(tmp_path, model_type="Segmentor", class_names="{0: 'a', 1: 'b'}"))
    assert card.class_names == ("a", "b")
    with pytest.raises(ModelError, match="class_names"):
        find_card(segmentor(tmp_path, class_names="__import__('os').getcwd()"))


DETECTOR = {"model_type": json.dumps("Detector"), "class_names": {"0": "car"}, "det_conf": 0.3, "det_iou_thresh": 0.8}


@pytest.mark.parametrize(
    ("kind", "boxes"),
    [
        ("YOLO_v5_or_v7_default", "yolov5:classes=1"),
        ("YOLO_Ultralytics", "yolov8:classes=1"),
        ("YOLO_Ultralytics_obb", "yolov8:obb,classes=1"),
    ],
)
def test_a_detector_says_what_its_numbers_are_and_which_score_counts(tmp_path, kind, boxes):
    path = segmentor(tmp_path, **DETECTOR, det_type=kind)
    card = find_card(path)
    assert (card.boxes, card.score, card.output, card.class_names) == (boxes, 0.3, "", ("car",))
    assert any("det_iou_thresh" in note for note in card.notes)
    model = load_model(path)
    assert (str(model.boxes), model.score) == (boxes, 0.3)
    model = load_model(path, boxes="nms", score=0.5)
    assert (str(model.boxes), model.score) == ("nms", 0.5)


def test_a_detector_of_an_unknown_type_is_refused_with_the_known_ones(tmp_path):
    with pytest.raises(ModelError, match=r"det_type.*YOLO_Ultralytics"):
        find_card(segmentor(tmp_path, **DETECTOR, det_type="YOLO_v99"))


def test_what_is_not_carried_out_is_noted(tmp_path):
    words = {"seg_thresh": 0.7, "seg_small_segment": 9, "tiles_overlap": 10, "standardization_mean": [0, 0, 0]}
    notes = " ".join(find_card(segmentor(tmp_path, **words)).notes)
    assert all(key in notes for key in ("seg_thresh", "seg_small_segment", "tiles_overlap", "standardization_mean"))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model_type", json.dumps("Recognition")),
        ("class_names", {0: "a", 2: "c"}),
        ("resolution", json.dumps("fine")),
        ("tiles_size", 0.5),
        ("standardization_std", [0, 1, 1]),
    ],
)
def test_what_cannot_be_followed_is_refused_by_its_key(tmp_path, key, value):
    words = {"standardization_mean": [0, 0, 0], "tiles_overlap": 5, "model_type": json.dumps("Segmentor")}
    with pytest.raises(ModelError, match="ONNX metadata"):
        find_card(segmentor(tmp_path, **{**words, key: value}))


def test_a_run_has_the_names_the_scaling_and_at_least_the_overlap_of_the_card(tmp_path):
    path = segmentor(tmp_path, **{key: value for key, value in LAND_COVER.items() if key != "resolution"})
    pixels = np.random.default_rng(0).integers(0, 256, (3, 300, 280)).astype(np.uint8)
    plan = gt.plan(gt.open(pixels, axes="cyx"), path)
    assert plan.tiling.tile_yx == (256, 256)
    assert int(plan.tiling.overlap) >= 38  # the radius of 1 px alone would give 2
    assert plan.choice.exact
    assert plan.model.class_names == ("ground", "building")
    by_hand = load_model(path, scale=1 / 255, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))
    assert plan.model.values == by_hand.values


def test_one_class_of_a_model_with_one_channel_stands_above_the_background(tmp_path):
    write_convolutions(tmp_path / "model.onnx", whole_weights((3, 1)), InputShape(3))
    model = onnx.load(tmp_path / "model.onnx")
    entry = model.metadata_props.add()
    entry.key, entry.value = "class_names", json.dumps({0: "field"})
    onnx.save(model, tmp_path / "model.onnx")
    image = gt.open(np.zeros((3, 64, 64), np.uint8), axes="cyx")
    assert gt.plan(image, tmp_path / "model.onnx").model.class_names == ("background", "field")
    kept = gt.plan(image, tmp_path / "model.onnx", output="probabilities")
    assert kept.model.class_names == ("field",)


def test_pixels_that_are_not_8_bit_are_refused_unless_the_scale_is_typed(tmp_path):
    path = segmentor(tmp_path, **{"class_names": {0: "a", 1: "b"}})
    image = gt.open(np.zeros((3, 64, 64), np.uint16), axes="cyx")
    with pytest.raises(GigatileError, match=r"expected uint8 pixels.*--scale"):
        gt.plan(image, path)
    assert gt.plan(image, load_model(path, scale=1e-4)).model.values.scale == 1e-4


def test_the_photomap_of_deepness_becomes_as_large_as_in_its_own_test(tmp_path):
    # test_map_processor_segmentation.py of deepness: 841 x 1243 px of 2 cm, at 3 cm, are 561 x 829.
    scene = data("satellite/deepness/dummy_fotomap_small.tif")
    model = onnx.load(data("models/deepness_dummy_512_to_484.onnx"))
    words = {
        "model_type": "Segmentor",
        "class_names": {"0": "ground", "1": "field"},
        "resolution": 3,
        "tiles_overlap": 15,
    }
    for key, value in words.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, json.dumps(value)
    onnx.save(model, tmp_path / "model.onnx")
    card = find_card(tmp_path / "model.onnx")
    with pytest.raises(GigatileError, match=r"Type --pixel-size 0\.03\."):
        fitted_image(gt.open(scene), card)
    assert fitted_image(gt.open(scene).at(0.03), card).grid_shape == (561, 829)
