"""Layouts of detectors, each made from the same objects by hand and read back; and what is refused."""

import numpy as np
import pytest

from gigatile.errors import BlockError
from gigatile.models.boxes.decode import decoded, format_of
from gigatile.models.boxes.format import parse_boxes
from gigatile.models.boxes.frame import Frame
from gigatile.models.boxes.grids import cells
from tests.models.boxes.detectors import ultralytics

TILE = (96, 64)
HEIGHT, WIDTH = TILE
CLASSES = 3
OBJECTS = np.array(
    [
        # x1, y1, x2, y2, score, class
        [4, 10, 20, 50, 0.75, 2],
        [30, 5, 62, 9, 0.5, 0],
        [0, 0, 64, 96, 0.25, 1],
    ]
)
TURNED = np.array([[30, 40, 20, 6, 0.7, 0.75, 2], [10, 20, 8, 8, -1.2, 0.5, 0], [32, 48, 60, 20, 3.0, 0.25, 1]])


def frame(given=1, score=0.0, count=None):
    return Frame("model m", TILE, given, given if count is None else count, score)


def read(text, answer, **how):
    """Rows in order of falling score, tile by tile."""
    tiles = decoded(frame(**how), parse_boxes(text), answer)
    return [rows[np.argsort(-rows[:, -2], kind="stable")] for rows in tiles]


def centred(objects):
    boxes = objects[:, :4]
    return np.hstack([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]])


def candidates(count, objectness, places):
    """(count, 4 [+ 1] + k) with the objects at some places and hardly sure candidates elsewhere."""
    rng = np.random.default_rng(5)
    table = np.concatenate([rng.random((count, 4)) * 60, rng.random((count, objectness + CLASSES)) * 0.01], axis=1)
    for place, box, row in zip(places, centred(OBJECTS), OBJECTS, strict=True):
        table[place] = 0.0
        table[place, :4] = box
        table[place, 4 + objectness + int(row[5])] = row[4] if not objectness else row[4] / 0.8
        if objectness:
            table[place, 4] = 0.8
    return table


PLACES = (3, 40, 101)


def test_yolov5_is_objectness_times_class():
    table = candidates(3 * cells(TILE, (8, 16, 32)), 1, PLACES)
    (rows,) = read("yolov5", {"output": table[None]}, score=0.2)
    np.testing.assert_allclose(rows, OBJECTS, atol=1e-12)


def test_yolov5_of_shares_is_scaled_by_width_and_height():
    table = candidates(50, 1, (1, 2, 40))
    table[:, :4] /= [WIDTH, HEIGHT, WIDTH, HEIGHT]
    (rows,) = read("yolov5:normalised", {"output": table[None]}, score=0.2)
    np.testing.assert_allclose(rows, OBJECTS, atol=1e-9)


@pytest.mark.parametrize("turned", [False, True], ids=["columns-first", "candidates-first"])
def test_yolov8_is_read_whichever_axis_holds_the_candidates(turned):
    table = candidates(cells(TILE, (8, 16, 32)), 0, PLACES)
    answer = table[None] if turned else table.T[None]
    (rows,) = read("yolov8", {"output0": answer}, score=0.2)
    np.testing.assert_allclose(rows, OBJECTS, atol=1e-12)


def test_few_candidates_of_many_classes_are_told_apart_by_the_number_of_classes():
    table = np.zeros((20, 4 + 40))
    table[7, :4], table[7, 4 + 33] = [10, 10, 4, 6], 0.9
    for answer in (table[None], table.T[None]):
        (rows,) = read("yolov8:classes=40", {"output0": answer})
        assert rows.tolist() == [[8, 7, 12, 13, 0.9, 33]]


def test_coefficients_of_masks_behind_the_classes_are_no_classes():
    table = np.hstack([candidates(cells(TILE, (8, 16, 32)), 0, PLACES), np.full((126, 32), 9.0)])
    assert len(table) == 126
    (rows,) = read("yolov8:classes=3", {"output0": table.T[None], "output1": np.zeros((1, 32, 24, 16))}, score=0.2)
    np.testing.assert_allclose(rows, OBJECTS, atol=1e-12)


def test_oriented_yolov8_has_its_angle_last():
    table = np.zeros((126, 4 + CLASSES + 1))
    for place, row in zip(PLACES, TURNED, strict=True):
        table[place, :4], table[place, 4 + int(row[6])], table[place, -1] = row[:4], row[5], row[4]
    (rows,) = read("yolov8:obb", {"output0": table.T[None]}, score=0.2)
    np.testing.assert_allclose(rows, TURNED, atol=1e-12)


def raw_yolox(table, strides):
    """What YOLOX's head gives for boxes in pixels: offsets from the cell and logarithms, in cells."""
    out, start = table.copy(), 0
    for stride in strides:
        for y in range(HEIGHT // stride):
            for x in range(WIDTH // stride):
                out[start, :2] = table[start, :2] / stride - [x, y]
                out[start, 2:4] = np.log(np.maximum(table[start, 2:4], 1e-3) / stride)
                start += 1
    assert start == len(table)
    return out


@pytest.mark.parametrize("strides", [(8, 16, 32), (4, 8, 16, 32)], ids=str)
def test_yolox_is_read_from_its_grid(strides):
    table = candidates(cells(TILE, strides), 1, PLACES)
    (rows,) = read("yolox", {"output": raw_yolox(table, strides)[None]}, score=0.2)
    np.testing.assert_allclose(rows, OBJECTS, atol=1e-9)
    (rows,) = read("yolox:decoded", {"output": table[None]}, score=0.2)
    np.testing.assert_allclose(rows, OBJECTS, atol=1e-9)


def test_yolox_of_another_tile_is_refused_with_the_number_of_cells():
    with pytest.raises(BlockError, match=r"126 candidates.*found 100 on a tile of 96 x 64"):
        read("yolox", {"output": np.zeros((1, 100, 8))})


def test_a_huge_side_of_an_unlikely_yolox_candidate_is_no_error():
    table = raw_yolox(candidates(126, 1, PLACES), (8, 16, 32))
    table[0, 2:4] = 5000
    (rows,) = read("yolox", {"output": table[None]}, score=0.2)
    np.testing.assert_allclose(rows, OBJECTS, atol=1e-9)


def test_filled_up_rows_of_score_zero_are_no_objects():
    table = np.zeros((1, 10, 6))
    table[0, :3] = OBJECTS
    (rows,) = read("nms", {"output0": table})
    assert rows.tolist() == OBJECTS.tolist()


def test_oriented_rows_of_ultralytics_have_the_angle_behind_the_class():
    table = np.zeros((1, 10, 7))
    table[0, :3] = TURNED[:, [0, 1, 2, 3, 5, 6, 4]]
    (rows,) = read("nms:obb", {"output0": table})
    assert rows.tolist() == TURNED.tolist()


def test_rows_with_the_number_of_their_tile_go_to_their_tiles():
    table = [[1, *OBJECTS[0, :4], 2, 0.75], [0, *OBJECTS[1, :4], 0, 0.5], [1, *OBJECTS[2, :4], 1, 0.25]]
    first, second, third = read("nms", {"output": np.array(table)}, given=3)
    assert first.tolist() == OBJECTS[1:2].tolist()
    assert second.tolist() == OBJECTS[[0, 2]].tolist()
    assert third.shape == (0, 6)
    with pytest.raises(BlockError, match="tile numbers from 0 to 0"):
        read("nms", {"output": np.array(table)})


def parts(names=("boxes", "scores", "labels"), boxes=OBJECTS[:, :4]):
    return dict(zip(names, (boxes[None], OBJECTS[None, :, 4], OBJECTS[None, :, 5].astype(np.int64)), strict=True))


@pytest.mark.parametrize("names", [("boxes", "scores", "labels"), ("bboxes", "scores", "classes"), ("2", "0", "1")])
def test_boxes_scores_and_labels_are_found_by_name_or_by_shape(names):
    (rows,) = read("split", parts(names))
    assert rows.tolist() == OBJECTS.tolist()


def test_parts_without_an_axis_of_tiles_are_of_one_tile():
    (rows,) = read("split", {name: array[0] for name, array in parts().items()})
    assert rows.tolist() == OBJECTS.tolist()


def test_parts_may_hold_the_scores_beside_the_boxes():
    (rows,) = read("split", {"dets": OBJECTS[None, :, :5], "labels": OBJECTS[None, :, 5].astype(np.int64)})
    assert rows.tolist() == OBJECTS.tolist()


def test_parts_beyond_the_count_do_not_count():
    (rows,) = read("split", {**parts(), "num_detections": np.array([2])})
    assert rows.tolist() == OBJECTS[:2].tolist()


@pytest.mark.parametrize("order", ["yxyx", "xywh", "cxcywh"])
def test_boxes_of_every_order_become_corners(order):
    x1, y1, x2, y2 = OBJECTS[:, :4].T
    written = {
        "yxyx": (y1, x1, y2, x2),
        "xywh": (x1, y1, x2 - x1, y2 - y1),
        "cxcywh": ((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1),
    }[order]
    shares = (HEIGHT, WIDTH, HEIGHT, WIDTH) if order == "yxyx" else (WIDTH, HEIGHT, WIDTH, HEIGHT)
    boxes = np.stack(written, axis=1)
    (rows,) = read(f"split:{order}", parts(boxes=boxes))
    np.testing.assert_allclose(rows, OBJECTS, atol=1e-9)
    (rows,) = read(f"split:{order},normalised", parts(boxes=boxes / shares))
    np.testing.assert_allclose(rows, OBJECTS, atol=1e-9)


@pytest.mark.parametrize("kind", ["sigmoid", "softmax"])
def test_queries_become_boxes_by_sigmoid_or_by_softmax(kind):
    boxes = np.vstack([centred(OBJECTS) / [WIDTH, HEIGHT, WIDTH, HEIGHT], np.full((5, 4), 0.5)])
    logits = np.full((8, CLASSES + (kind == "softmax")), -30.0)
    for i, row in enumerate(OBJECTS):
        logits[i, int(row[5])] = np.log(row[4] / (1 - row[4]))
    if kind == "softmax":
        logits[:3, 3], logits[3:, 3] = 0, 30
    answer = {"logits": logits[None], "pred_boxes": boxes[None]}
    (rows,) = read("detr" if kind == "sigmoid" else "detr:softmax", answer, score=0.1)
    np.testing.assert_allclose(rows, OBJECTS, atol=1e-9)


def test_rows_of_a_function_are_kept_from_the_least_score_on():
    first, second = read("rows", [OBJECTS, np.zeros((0, 6))], given=2, score=0.5)
    assert first.tolist() == OBJECTS[:2].tolist()
    assert second.shape == (0, 6)


def test_dicts_of_torchvision_are_rows():
    tile = {"boxes": OBJECTS[:, :4], "labels": OBJECTS[:, 5].astype(np.int64), "scores": OBJECTS[:, 4]}
    empty = {"boxes": np.zeros((0, 4)), "labels": np.zeros(0, np.int64), "scores": np.zeros(0)}
    first, second = read("rows", [tile, empty], given=2, score=0.3)
    assert first.tolist() == OBJECTS[:2].tolist()
    assert second.shape == (0, 6)


def test_oriented_rows_pass_and_empty_tiles_take_their_columns():
    first, second = read("rows", [TURNED, []], given=2)
    assert first.tolist() == TURNED.tolist()
    assert second.shape == (0, 7)


BAD = {
    "nan": (lambda t: t.__setitem__((1, 0), np.nan), "finite numbers, found row 1"),
    "inf": (lambda t: t.__setitem__((1, 4), np.inf), "finite numbers, found row 1"),
    "nan score": (lambda t: t.__setitem__((1, 4), np.nan), "finite numbers, found row 1"),
    "corners": (lambda t: t.__setitem__((2, 2), -1), "x1 <= x2 and y1 <= y2, found row 2"),
    "half class": (lambda t: t.__setitem__((0, 5), 0.5), "whole number from 0 on"),
    "negative class": (lambda t: t.__setitem__((0, 5), -1), "whole number from 0 on"),
    "huge class": (lambda t: t.__setitem__((0, 5), 2.0**31), "whole number from 0 on"),
}


@pytest.mark.parametrize("name", BAD)
def test_rows_that_are_no_boxes_are_refused_by_their_number(name):
    spoil, message = BAD[name]
    table = OBJECTS.copy()
    spoil(table)
    with pytest.raises(BlockError, match=message) as caught:
        decoded(frame(2, score=0.1), parse_boxes("rows"), [OBJECTS, table])
    assert "tile 1 of its batch" in str(caught.value)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ([OBJECTS], "a list of 2 arrays, one a tile, found 1"),
        ([OBJECTS, OBJECTS, OBJECTS], "a list of 2 arrays, one a tile, found 3"),
        ([OBJECTS, OBJECTS[:, :5]], r"rows of 6 \(x1.*or 7.*found float64 of shape \(3, 5\)"),
        ([OBJECTS, TURNED], "the same for all tiles, found both"),
        ([OBJECTS, [[1, 2], [3]]], "arrays of numbers, found list"),
        ([OBJECTS, None], "found object of shape"),
        (None, "a list of 2 arrays"),
        ([OBJECTS, [["a"] * 6]], "arrays of numbers, found <U1"),
    ],
)
def test_what_is_no_list_of_rows_is_refused(answer, message):
    with pytest.raises(BlockError, match=message):
        decoded(frame(2), parse_boxes("rows"), answer)


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("yolov5", (1, 126, 8)),
        ("yolov8", (1, 7, 126)),
        ("yolox", (1, 126, 8)),
        ("nms", (1, 9, 6)),
        ("yolov8:obb", (1, 8, 126)),
    ],
)
def test_a_score_that_is_no_number_fails_the_block_however_unlikely(text, shape):
    table = np.zeros(shape)
    table[0, -1, -1] = np.nan
    table[0, -2, :] = np.nan
    if text == "nms":
        table[0, 3, 4] = np.nan
    with pytest.raises(BlockError, match="finite scores"):
        read(text, {"output": table}, score=0.9)


@pytest.mark.parametrize("text", ["yolox", "yolov5", "yolov8", "nms", "split", "detr"])
def test_outputs_of_another_layout_are_refused_with_their_shapes(text):
    with pytest.raises(BlockError, match=r"\(1, 2\)") as caught:
        read(text, {"feature": np.zeros((1, 2))})
    assert "--boxes" in caught.value.fix


def test_a_table_of_another_batch_is_refused():
    with pytest.raises(BlockError, match=r"an output \(2, a, 1 or more\)"):
        read("yolov8", {"output": np.zeros((1, 7, 126))}, given=2)


def test_tiles_that_fill_a_batch_up_are_not_looked_at():
    table = np.full((4, 10, 6), np.nan)
    table[:2] = 0
    table[0, :3] = OBJECTS
    first, second = decoded(frame(4, count=2), parse_boxes("nms"), {"output": table})
    assert (len(first), len(second)) == (3, 0)


A = cells(TILE, (8, 16, 32))
GRID = np.arange(A)[:, None] * 8.0


@pytest.mark.parametrize(
    ("answer", "metadata", "expected"),
    [
        ([OBJECTS], {}, "rows"),
        ([[]], {}, "rows"),
        ({"output": np.zeros((1, A, 8))}, {}, "yolox"),
        ({"output": np.tile(GRID, (1, 1, 8))}, {}, "yolox:decoded"),
        ({"output": np.zeros((1, 3 * A, 8))}, {}, "yolov5"),
        ({"output0": np.zeros((1, 3 * A, 6))}, {"stride": "32", "names": "{0: 'x'}"}, "yolov5:classes=1"),
        ({"output0": np.zeros((1, 7, A))}, {}, "yolov8"),
        ({"output0": np.zeros((1, 7, A))}, ultralytics("abc"), "yolov8:classes=3"),
        (
            {"output0": np.zeros((1, 39, A)), "p": np.zeros((1, 32, 9, 9))},
            ultralytics("abc", "segment"),
            "yolov8:classes=3",
        ),
        ({"output0": np.zeros((1, 8, A))}, ultralytics("abc", "obb"), "yolov8:obb,classes=3"),
        ({"output0": np.zeros((1, 7, 4))}, ultralytics("abc"), "yolov8:classes=3"),
        ({"output0": np.zeros((1, 300, 6))}, ultralytics("ab"), "nms"),
        ({"output0": np.zeros((1, 300, 6))}, {}, "nms"),
        ({"output0": np.zeros((1, 300, 7))}, ultralytics("abc", "obb"), "nms:obb"),
        ({"output0": np.zeros((1, 300, 7))}, {}, "rows"),
        ({"output": np.zeros((0, 7))}, {}, "nms"),
        (
            {"output0": np.zeros((1, 300, 6))},
            ultralytics("ab", description="Ultralytics rtdetr-l model "),
            "yolov8:normalised,classes=2",
        ),
        (parts(), {}, "split"),
        ({"dets": OBJECTS[None, :, :5], "labels": OBJECTS[None, :, 5].astype(int)}, {}, "split"),
        ({"dets": np.zeros((1, 300, 4)), "labels": np.zeros((1, 300, 91))}, {}, "detr"),
        ((OBJECTS[:, :4], OBJECTS[:, 5].astype(int), OBJECTS[:, 4]), {}, "split"),
    ],
)
def test_common_exports_are_recognised(answer, metadata, expected):
    assert str(format_of(frame(), parse_boxes("auto"), answer, metadata)) == expected


@pytest.mark.parametrize(
    "answer",
    [
        {"logits": np.zeros((1, 100, 92)), "pred_boxes": np.zeros((1, 100, 4))},
        {"a": np.zeros((1, 200, 9))},
        {"a": np.zeros((1, 3, 9, 9))},
        {},
    ],
    ids=["sigmoid-or-softmax", "unknown-table", "maps", "nothing"],
)
def test_what_could_be_two_layouts_or_none_asks_for_boxes(answer):
    with pytest.raises(BlockError, match="detector that is known") as caught:
        format_of(frame(), parse_boxes("auto"), answer, {})
    assert "--boxes" in caught.value.fix
