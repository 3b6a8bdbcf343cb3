"""What the numbers of a detector mean: the text after ``--boxes``.

::

    --boxes LAYOUT[:OPTION,...]       yolox   yolov5:normalised   yolov8:obb   split:cxcywh,normalised

    layout   arrays (n tiles, a candidates, k classes)                          made by
    ------   -----------------------------------------------------------------  -----------------------------------
    auto     recognised by number, shapes and names of the outputs
    rows     a list of n arrays, one row an object: x1 y1 x2 y2 score class,    functions; files that give (n, m, 6)
             or cx cy w h radians score class
    yolox    (n, a, 5 + k) offsets in cells of 8, 16, 32 px, objectness, k      YOLOX tools/export_onnx.py
    yolov5   (n, a, 5 + k) cx cy w h objectness, k                              YOLOv5, YOLOv7 (grid inside)
    yolov8   (n, 4 + k, a) cx cy w h, k [, radians]; also (n, a, 4 + k)         ultralytics 8 and later, RT-DETR of it
    nms      (n, m, 6) x1 y1 x2 y2 score class; oriented (n, m, 7)              YOLOv10, YOLO26, exports with nms=True;
             cx cy w h score class radians; or (m, 7)                           YOLOv7 --end2end (batch index, box,
             tile x1 y1 x2 y2 class score                                       class, score)
    split    boxes (n, m, 4), scores (n, m), labels (n, m), also without n;     torchvision, SSD of the ONNX zoo,
             boxes (n, m, 5) hold the scores                                    RT-DETR (its own export), MMDeploy
    detr     boxes (n, q, 4) cx cy w h of the tile, logits (n, q, k)            transformers (DETR, RT-DETR), RF-DETR

Sources: ``yolox/utils/demo_utils.py`` (`demo_postprocess`) of Megvii-BaseDetection/YOLOX; ``models/yolo.py`` and
``export.py`` of ultralytics/yolov5; ``models/experimental.py`` (`ONNX_ORT`) of WongKinYiu/yolov7;
``ultralytics/engine/exporter.py`` (`NMSModel`) and ``nn/modules/head.py`` of ultralytics/ultralytics;
``rtdetr_pytorch/tools/export_onnx.py`` of lyuwenyu/RT-DETR; docs.pytorch.org/vision, "Object Detection";
``rfdetr/export`` of roboflow/rf-detr; mmdeploy.readthedocs.io, "How to get partitioned ONNX models".
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from gigatile.errors import UsageError

Layout = Literal["auto", "rows", "yolox", "yolov5", "yolov8", "nms", "split", "detr"]
Order = Literal["xyxy", "yxyx", "xywh", "cxcywh"]
"""How the four numbers of a box are written: corners, or a corner or the centre with width and height."""
EXAMPLES = "yolox, yolov5:normalised, yolov8:obb, nms, split:cxcywh"
_ORDERS = get_args(Order)


@dataclass(frozen=True, slots=True)
class _Kind:
    order: Order
    options: tuple[str, ...]
    """What may stand behind the colon, ``classes`` with a number."""


_KINDS: dict[str, _Kind] = {
    "auto": _Kind("xyxy", ()),
    "rows": _Kind("xyxy", ("normalised", *_ORDERS)),
    "yolox": _Kind("cxcywh", ("decoded", "classes")),
    "yolov5": _Kind("cxcywh", ("normalised", "classes", *_ORDERS)),
    "yolov8": _Kind("cxcywh", ("normalised", "obb", "classes", *_ORDERS)),
    "nms": _Kind("xyxy", ("normalised", "obb", *_ORDERS)),
    "split": _Kind("xyxy", ("normalised", *_ORDERS)),
    "detr": _Kind("cxcywh", ("pixels", "softmax", *_ORDERS)),
}


@dataclass(frozen=True, slots=True)
class BoxFormat:
    """What a detector's numbers are; `str` gives the text that `parse_boxes` reads."""

    layout: Layout = "auto"
    order: Order = "xyxy"
    """Of boxes that are not oriented."""
    normalised: bool = False
    """Whether places are shares of the tile's sides, not pixels."""
    oriented: bool = False
    """Whether boxes are turned: centre, width, height, radians."""
    decoded: bool = False
    """YOLOX: whether the grid is in the graph already (``--decode_in_inference``)."""
    softmax: bool = False
    """DETR: classes by softmax, the last for none, and not by sigmoid."""
    classes: int | None = None
    """Columns that are classes; None: all that are left. Masks' coefficients and key points follow them."""

    def __str__(self) -> str:
        kind = _KINDS[self.layout]
        said = [] if self.order == kind.order else [str(self.order)]
        if self.normalised != (self.layout == "detr"):
            said.append("normalised" if self.normalised else "pixels")
        said += ["obb"] * self.oriented + ["decoded"] * self.decoded + ["softmax"] * self.softmax
        said += [] if self.classes is None else [f"classes={self.classes}"]
        return f"{self.layout}:{','.join(said)}" if said else self.layout


AUTO = BoxFormat()
ROWS = BoxFormat("rows")


def parse_boxes(text: str, where: str = "--boxes") -> BoxFormat:
    """What ``--boxes`` says.

    Parameters
    ----------
    text : str
        ``LAYOUT`` or ``LAYOUT:OPTION,...``; layouts as above. Options: the order of a box (``xyxy``, ``yxyx``,
        ``xywh``, ``cxcywh``), ``normalised`` (shares of the tile, for ``detr`` that is usual and ``pixels`` the
        option), ``obb`` (oriented), ``decoded`` (YOLOX with its grid inside), ``softmax``, ``classes=K``.
    where : str
        How messages name the text.

    Raises
    ------
    UsageError
        It is no layout, or an option that the layout does not have.
    """
    layout, _, rest = text.strip().partition(":")
    if layout not in _KINDS:
        found, fix = repr(text), f"For example: {EXAMPLES}."
        raise UsageError(where, expected=f"one of {', '.join(_KINDS)}", found=found, fix=fix)
    kind = _KINDS[layout]
    format = BoxFormat(layout, kind.order, normalised=layout == "detr")  # type: ignore[arg-type]  # a layout, see above
    for option in (part.strip() for part in rest.split(",") if part.strip()):
        format = _with(format, option, where)
    if format.oriented and format.order != kind.order:
        expected = "either obb, which says how boxes are written, or their order"
        raise UsageError(where, expected=expected, found=repr(text))
    return format


def _with(format: BoxFormat, option: str, where: str) -> BoxFormat:
    """One option more."""
    name, equals, number = option.partition("=")
    name = {"normalized": "normalised"}.get(name, name)
    allowed = _KINDS[format.layout].options
    is_count = name == "classes"
    if name not in allowed or bool(equals) != is_count:
        shown = ", ".join("classes=K" if known == "classes" else known for known in allowed) or "none"
        raise UsageError(where, expected=f"for {format.layout} one of: {shown}", found=repr(option))
    if is_count and not (number.isdecimal() and int(number) > 0):
        raise UsageError(where, expected="classes=K with a whole number above 0", found=repr(option))
    if name in _ORDERS:
        return replace(format, order=name)  # type: ignore[arg-type]  # an order, see the condition
    changes: dict[str, dict[str, Any]] = {
        "normalised": {"normalised": True},
        "pixels": {"normalised": False},
        "obb": {"oriented": True},
        "decoded": {"decoded": True},
        "softmax": {"softmax": True},
        "classes": {"classes": int(number or 0)},
    }
    return replace(format, **changes[name])
