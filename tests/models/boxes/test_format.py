"""The text after --boxes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gigatile.errors import UsageError
from gigatile.models.boxes.format import _KINDS, BoxFormat, parse_boxes


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("auto", BoxFormat()),
        ("yolox", BoxFormat("yolox", "cxcywh")),
        ("yolox:decoded,classes=80", BoxFormat("yolox", "cxcywh", decoded=True, classes=80)),
        ("yolov5:normalised", BoxFormat("yolov5", "cxcywh", normalised=True)),
        ("yolov8:obb", BoxFormat("yolov8", "cxcywh", oriented=True)),
        ("split:cxcywh,normalized", BoxFormat("split", "cxcywh", normalised=True)),
        ("detr", BoxFormat("detr", "cxcywh", normalised=True)),
        ("detr:pixels,xyxy,softmax", BoxFormat("detr", "xyxy", softmax=True)),
    ],
)
def test_formats_are_read(text, expected):
    assert parse_boxes(text) == expected


@given(st.data())
def test_a_format_written_as_text_is_read_back(data):
    layout = data.draw(st.sampled_from(sorted(_KINDS)))
    options = _KINDS[layout].options
    chosen = data.draw(st.lists(st.sampled_from(options), unique=True)) if options else []
    if "obb" in chosen:
        chosen = [name for name in chosen if name not in {"xyxy", "yxyx", "xywh", "cxcywh"}]
    text = f"{layout}:" + ",".join("classes=7" if name == "classes" else name for name in chosen)
    format = parse_boxes(text)
    assert parse_boxes(str(format)) == format


@pytest.mark.parametrize(
    "text",
    [
        *("", "yolo", "YOLOX", "rows:obb", "auto:normalised", "yolov8:classes", "yolov8:classes=0", "yolov8:classes=x"),
        *("yolov8:obb=1", "nms:classes=3", "yolov8:obb,xyxy", "detr:normalised"),
    ],
)
def test_what_is_no_format_is_refused_with_what_there_is(text):
    with pytest.raises(UsageError) as caught:
        parse_boxes(text)
    assert caught.value.where == "--boxes"
    assert caught.value.expected
