"""Whatever a model gives, and whatever it is taken for: sound rows, or one clear error."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gigatile.errors import BlockError
from gigatile.models.boxes.decode import decoded, format_of
from gigatile.models.boxes.format import parse_boxes
from gigatile.models.boxes.frame import Frame

FORMATS = (
    *("auto", "rows", "rows:cxcywh,normalised", "yolox", "yolox:decoded,classes=2", "yolov5", "yolov5:xywh,classes=9"),
    *("yolov8", "yolov8:obb,normalised", "yolov8:obb,classes=2", "nms", "nms:obb", "nms:yxyx", "split"),
    *("split:normalised,xywh", "detr", "detr:softmax,pixels"),
)
NUMBERS = st.sampled_from([0.0, 0.25, 1.0, 2.0, 7.5, -3.0, 1e300, -1e300, np.nan, np.inf, -np.inf])
NAMES = st.sampled_from(["boxes", "scores", "labels", "dets", "logits", "num_dets", "output0", "x"])
SIDES = st.sampled_from([0, 1, 2, 4, 5, 6, 7, 9, 21])


@st.composite
def arrays(draw):
    shape = draw(st.lists(SIDES, min_size=0, max_size=4))
    while np.prod(shape) > 2000:
        shape = shape[:-1]
    kind = draw(st.sampled_from(["f4", "f8", "i8", "u1", "?"]))
    if kind in ("f4", "f8"):
        with np.errstate(over="ignore"):
            return draw(hnp.arrays("f8", tuple(shape), elements=NUMBERS)).astype(kind)
    return draw(hnp.arrays(kind, tuple(shape)))


def answers():
    tables = arrays()
    named = st.dictionaries(NAMES, tables, max_size=4)
    odd = st.sampled_from([None, "text", 3, [[1, 2], [3]], [None], object()])
    return st.one_of(tables, named, st.lists(st.one_of(tables, named), max_size=4), odd)


@settings(max_examples=300, deadline=None)
@given(answers(), st.sampled_from(FORMATS), st.integers(1, 3), st.sampled_from([0.0, 0.3]))
@example(np.zeros((0, 5, 6), np.float32), "auto", 1, 0.0)
@example(np.zeros((0, 21, 6), np.float32), "auto", 1, 0.0)
def test_any_answer_is_sound_rows_or_one_error(answer, text, count, score):
    frame = Frame("model m", (32, 32), count, count, score)
    try:
        format = format_of(frame, parse_boxes(text), answer, {})
        tiles = decoded(frame, format, answer)
    except BlockError:
        return
    assert len(tiles) == count
    assert {rows.shape[1] for rows in tiles} in ({6}, {7})
    for rows in tiles:
        assert rows.dtype == np.float64
        assert np.isfinite(rows).all()
        assert (rows[:, -2] >= score).all()
        assert (rows[:, -1] == np.floor(np.abs(rows[:, -1]))).all()
        if rows.shape[1] == 6:
            assert (rows[:, 2:4] >= rows[:, :2]).all()
        else:
            assert (rows[:, 2:4] >= 0).all()


@pytest.mark.parametrize("text", FORMATS)
def test_each_format_above_accepts_something(text):
    """Lest the test above passes because everything is refused."""
    frame = Frame("model m", (32, 32), 1, 1, 0.0)
    table = {6: np.zeros((1, 21, 6)), 7: np.zeros((1, 7, 21)), 0: [np.zeros((0, 6))]}
    parts = {"boxes": np.zeros((1, 3, 4)), "scores": np.zeros((1, 3)), "labels": np.zeros((1, 3), int)}
    queries = {"pred_boxes": np.ones((1, 3, 4)), "logits": np.zeros((1, 3, 5))}
    columns = {"yolox:decoded,classes=2": 7, "yolov5:classes=9": 14, "yolov5:xywh,classes=9": 14, "nms:obb": 7}
    wide = np.zeros((1, 21, columns.get(text, 6)))
    answer = {"auto": table[0], "rows": table[0], "yolov8": table[7], "split": parts, "detr": queries}.get(
        text.partition(":")[0], wide
    )
    assert len(decoded(frame, format_of(frame, parse_boxes(text), answer, {}), answer)) == 1
