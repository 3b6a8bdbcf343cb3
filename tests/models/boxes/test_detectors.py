"""Loaded detectors: ONNX files, functions, modules; their trials, batches and memory; and functions that label."""

import json
import pickle
from dataclasses import replace

import numpy as np
import pytest

import gigatile as gt
from gigatile.errors import BlockError, ModelError, ModelOutOfMemory
from gigatile.models.boxes.format import parse_boxes
from gigatile.models.boxes.rows import with_columns
from gigatile.models.warmup import (
    batch_changes_boxes,
    detector_size_multiple,
    try_detector,
    try_labels,
)
from tests.data import data
from tests.models.boxes.detectors import TARGET_SIZES, ultralytics, write_bright_spots, write_tables

ROWS = np.array([[4, 10, 20, 50, 0.75, 2], [30, 5, 62, 9, 0.5, 0]], np.float32)


def blank(n=1, side=64, channels=3):
    return np.zeros((n, channels, side, side), np.float32)


def spotted(*cells, side=64):
    """One picture a given cell (row, column), white there."""
    batch = blank(len(cells), side)
    for i, (row, col) in enumerate(cells):
        batch[i, :, row * 32 : row * 32 + 32, col * 32 : col * 32 + 32] = 1
    return batch


def test_a_file_with_several_outputs_gives_rows(tmp_path):
    tables = {"labels": ROWS[None, :, 5].astype(int), "boxes": ROWS[None, :, :4], "scores": ROWS[None, :, 4]}
    model = gt.load_model(write_tables(tmp_path / "m.onnx", tables))
    assert [rows.tolist() for rows in model.detect(blank())] == [ROWS.tolist()]
    trial = try_detector(model, 3, (64, 64))
    assert (str(trial.boxes), trial.columns, trial.oriented) == ("split", 6, False)


def test_maps_beside_the_table_are_not_computed(tmp_path):
    tables = {"output0": np.zeros((1, 7, 84)), "output1": np.zeros((1, 32, 16, 16))}
    model = gt.load_model(write_tables(tmp_path / "m.onnx", tables))
    assert list(model.outputs(blank())) == ["output0"]


def test_a_candidate_is_found_where_the_picture_is_bright_in_each_tile_of_a_batch(tmp_path):
    model = replace(gt.load_model(write_bright_spots(tmp_path / "m.onnx"), scale=1), score=0.5)
    model = replace(model, boxes=parse_boxes("yolov8:classes=1"))
    batch = np.concatenate([spotted((0, 1), (1, 0)), blank()])
    found = model.detect(batch)
    assert [len(rows) for rows in found] == [1, 1, 0]
    assert found[0].tolist() == [[8, 8, 24, 24, 1, 0]]
    assert found[0].dtype == np.float64


def test_a_batch_of_one_size_is_filled_up_and_the_rest_left_out(tmp_path):
    model = gt.load_model(write_bright_spots(tmp_path / "m.onnx", image=(4, 3, 64, 64)), scale=1)
    model = replace(model, boxes=parse_boxes("yolov8:classes=1"), score=0.5)
    assert [len(rows) for rows in model.detect(spotted((0, 0), (1, 1)))] == [1, 1]


def test_the_multiple_of_the_sides_is_found_and_told(tmp_path):
    model = gt.load_model(write_bright_spots(tmp_path / "m.onnx"), scale=1)
    model = replace(model, boxes=parse_boxes("yolov8:classes=1"))
    assert detector_size_multiple(model, 3) == 32
    with pytest.raises(ModelError, match="multiples of 32: type --tile 96,64"):
        try_detector(model, 3, (100, 64))
    assert try_detector(model, 3, (96, 64)).columns == 6


def test_a_detector_of_one_size_says_which(tmp_path):
    model = gt.load_model(write_bright_spots(tmp_path / "m.onnx", image=(1, 3, 64, 64)))
    assert detector_size_multiple(model, 3) == 1
    with pytest.raises(ModelError, match="--tile 64,64"):
        try_detector(model, 3, (128, 128))
    with pytest.raises(ModelError, match="3 channels"):
        try_detector(model, 4, (64, 64))


def test_what_is_not_recognised_is_an_error_of_planning_that_names_the_option(tmp_path):
    model = gt.load_model(write_tables(tmp_path / "m.onnx", {"a": np.zeros((1, 200, 9))}))
    with pytest.raises(ModelError, match=r"a float32 \(1, 200, 9\).*--boxes"):
        try_detector(model, 3, (64, 64))


def test_metadata_of_ultralytics_decides_and_names_the_classes(tmp_path):
    tables = {"output0": np.zeros((1, 8, 84))}
    path = write_tables(tmp_path / "m.onnx", tables, metadata=ultralytics(["ship", "car", "plane"], "obb"))
    model = gt.load_model(path)
    assert model.class_names == ("ship", "car", "plane")
    assert str(try_detector(model, 3, (64, 64)).boxes) == "yolov8:obb,classes=3"
    assert try_detector(model, 3, (64, 64)).oriented
    assert gt.load_model(path, class_names=["a", "b", "c"]).class_names == ("a", "b", "c")


def test_what_ultralytics_says_is_noted_on_the_card(tmp_path):
    path = write_tables(tmp_path / "m.onnx", {"output0": np.zeros((1, 7, 84))}, metadata=ultralytics("abc"))
    card = gt.load_model(path).card
    assert (card.kind, card.tile, card.scale) == ("ultralytics ONNX metadata", (640, 640), 1 / 255)
    assert any("32" in note for note in card.notes)
    assert any("640" in note for note in card.notes)


def test_rt_detr_is_told_the_size_of_the_tile(tmp_path):
    from onnx import TensorProto, helper

    sizes = helper.make_tensor_value_info(TARGET_SIZES, TensorProto.INT64, ["n", 2])
    nodes = [
        helper.make_node("Cast", [TARGET_SIZES], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Concat", ["floats", "floats"], ["twice"], axis=1),
        helper.make_node("Mul", ["twice", "shares"], ["flat"]),
        helper.make_node("Unsqueeze", ["flat", "one"], ["boxes"]),
    ]
    tables = {"labels": np.array([[1]]), "scores": np.array([[0.5]])}
    constants = {"shares": np.array([0, 0.25, 0.5, 1], np.float32), "one": np.array([1])}
    path = write_tables(tmp_path / "m.onnx", tables, inputs=[sizes], nodes=nodes, constants=constants)
    model = gt.load_model(path)
    (rows,) = model.detect(np.zeros((1, 3, 40, 80), np.float32))
    assert rows.tolist() == [[0, 10, 40, 40, 0.5, 1]]


def test_a_picture_without_an_axis_of_tiles_is_a_batch_of_one(tmp_path):
    tables = {"boxes": ROWS[:, :4], "labels": ROWS[:, 5].astype(int), "scores": ROWS[:, 4]}
    model = gt.load_model(write_tables(tmp_path / "m.onnx", tables, image=(3, "y", "x")))
    assert (model.model.fixed_batch, model.model.channels_in) == (1, 3)
    assert model.detect(blank())[0].tolist() == ROWS.tolist()


def find_bright(batch):
    """A box around what is above 0.5, as the contract has it."""
    found = []
    for tile in batch:
        ys, xs = np.nonzero(tile[0] > 0.5)
        found.append([[xs.min(), ys.min(), xs.max() + 1, ys.max() + 1, 0.9, 4]] if len(ys) else np.zeros((0, 6)))
    return found


class Counted:
    def __init__(self):
        self.calls = []

    def __call__(self, batch):
        self.calls.append(batch.shape)
        return find_bright(batch)


def test_a_function_gives_rows_and_is_tried_once():
    function = Counted()
    model = gt.load_model(function)
    trial = try_detector(model, 3, (64, 64), 2)
    assert function.calls == [(2, 3, 64, 64)]
    assert str(trial.boxes) == "rows"
    assert trial.bytes_per_tile >= 64 * 64 * 3 * 4
    assert model.detect(spotted((1, 1)))[0].tolist() == [[32, 32, 64, 64, 0.9, 4]]


def test_what_a_function_raises_or_returns_amiss_fails_the_block():
    for wrong in (lambda b: 1 / 0, lambda b: [], lambda b: [[[1, 2, 3]]], lambda b: None, lambda b: "rows"):
        with pytest.raises(BlockError, match="model "):
            gt.load_model(wrong).detect(blank())
        with pytest.raises(ModelError, match="model "):
            try_detector(gt.load_model(wrong), 3, (64, 64))


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("CUDA out of memory. Tried to allocate")])
@pytest.mark.parametrize("method", ["detect", "labels"])
def test_memory_that_runs_out_is_told_apart_so_that_batches_can_be_halved(error, method):
    def greedy(batch):
        raise error

    with pytest.raises(ModelOutOfMemory):
        getattr(gt.load_model(greedy), method)(blank(2))


def test_a_detector_travels_to_workers(tmp_path):
    model = gt.load_model(write_bright_spots(tmp_path / "m.onnx"), scale=1)
    model = pickle.loads(pickle.dumps(replace(model, boxes=parse_boxes("yolov8:classes=1"), score=0.5)))
    assert model.detect(spotted((0, 1)))[0].tolist() == [[8, 8, 24, 24, 1, 0]]


def test_bits_that_depend_on_the_batch_are_noticed(tmp_path):
    stable = gt.load_model(write_bright_spots(tmp_path / "m.onnx"), scale=1)
    stable = replace(stable, boxes=parse_boxes("yolov8:classes=1"))
    assert not batch_changes_boxes(stable, 3, (64, 64), 2)

    def unstable(batch):
        return [[[0, 0, 1, 1, 1 / len(batch), 0]]] * len(batch)

    assert batch_changes_boxes(gt.load_model(unstable), 3, (64, 64), 2)


def test_columns_other_than_those_of_other_tiles_are_refused_and_empty_tables_take_them():
    assert with_columns("m", np.zeros((0, 6)), 7).shape == (0, 7)
    assert with_columns("m", np.zeros((2, 6)), 6).shape == (2, 6)
    with pytest.raises(BlockError, match="7 columns, as for other tiles"):
        with_columns("m", np.zeros((1, 6)), 7)


def label_bright(batch):
    return (batch[:, 0] > 0.5).astype(np.int16) * 3


def test_a_function_that_labels_gives_maps_of_unsigned_integers():
    model = gt.load_model(label_bright)
    labels = model.labels(spotted((0, 1), (1, 0)))
    assert labels.shape == (2, 64, 64)
    assert labels.dtype == np.uint32
    assert (labels[0, :32, 32:] == 3).all()
    assert labels.sum() == 2 * 3 * 32 * 32
    trial = try_labels(model, 3, (64, 64), 2)
    assert (trial.channels_out, trial.dtype) == (1, np.uint32)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda b: b[:, 0], "integers, found dtype float32"),
        (lambda b: b[:, 0] > 0, "integers, found dtype bool"),
        (lambda b: np.zeros(b.shape, int), r"\(1, 64, 64\), found shape \(1, 3, 64, 64\)"),
        (lambda b: np.zeros((1, 32, 32), int), r"found shape \(1, 32, 32\)"),
        (lambda b: np.full((1, 64, 64), -1), "from 0 to 4294967295, found -1"),
        (lambda b: np.full((1, 64, 64), 2**32), "found 4294967296"),
    ],
)
def test_what_are_no_labels_of_the_tile_is_refused_while_planning_and_later(wrong, message):
    with pytest.raises(BlockError, match=message):
        gt.load_model(wrong).labels(blank())
    with pytest.raises(ModelError, match=message):
        try_labels(gt.load_model(wrong), 3, (64, 64))


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_torch_modules_and_scripts_find_objects(tmp_path):
    torch = pytest.importorskip("torch")

    class Torchvision(torch.nn.Module):
        """As torchvision's detectors: a list of dicts in eval mode."""

        def forward(self, batch):
            return [
                {
                    "boxes": torch.tensor(ROWS[:, :4]),
                    "labels": torch.tensor([2, 0]),
                    "scores": torch.tensor([0.75, 0.5]),
                }
            ] * len(batch)

    class Ultralytics(torch.nn.Module):
        """As their exports of masks: a table and prototypes."""

        def forward(self, batch):
            table = torch.zeros(batch.shape[0], 7, 84)
            table[:, :4, 5] = 8
            table[:, 6, 5] = 0.5
            return table, torch.zeros(batch.shape[0], 32, 16, 16)

    assert [rows.tolist() for rows in gt.load_model(Torchvision()).detect(blank(2))] == [ROWS.tolist()] * 2
    script = torch.jit.trace(Ultralytics(), torch.zeros(1, 3, 64, 64))
    config = {**ultralytics("abc"), "names": {0: "a", 1: "b", 2: "c"}, "stride": 32}
    script.save(str(tmp_path / "m.torchscript"), _extra_files={"config.txt": json.dumps(config)})
    model = gt.load_model(tmp_path / "m.torchscript")
    assert str(try_detector(model, 3, (64, 64)).boxes) == "yolov8:classes=3"
    assert model.detect(blank())[0].tolist() == [[4, 4, 12, 12, 0.5, 2]]


def test_yolox_nano_finds_the_reference_boxes():
    """Six tiles of 416 px: 342 candidates from 0.3 on, and 24 boxes after NMS, as in the reference."""
    from skimage import io

    from gigatile.testing.detection_scores import greedy_nms

    picture = io.imread(data("gt_detection/small-vehicles1.jpeg"))[..., ::-1]
    model = replace(gt.load_model(data("models/yolox_nano.onnx"), scale=1), score=0.3)
    trial = try_detector(model, 3, (416, 416))
    assert str(trial.boxes) == "yolox"
    found = []
    for y in (0, 164):
        for x in (0, 332, 652):
            tile = np.moveaxis(picture[y : y + 416, x : x + 416], -1, 0)[None].astype(np.float32)
            (rows,) = model.detect(tile)
            found.append(rows + np.array([x, y, x, y, 0, 0]))
    rows = np.concatenate(found)
    assert len(rows) == 342
    kept = rows[greedy_nms(rows, 0.5)]
    reference = json.loads(data("reference/reference.json").read_text())["yolox_small-vehicles1_tile416_up1"]["boxes"]
    assert len(kept) == len(reference) == 24
    # Written with two decimals, in the order of their scores.
    np.testing.assert_allclose(kept, reference, atol=0.0051)
