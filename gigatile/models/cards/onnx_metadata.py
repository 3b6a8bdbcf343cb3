"""Metadata inside ONNX files, as deepness (a QGIS plugin) and GeoDeep write and read it; or as ultralytics does.

The keys and their meaning: https://qgis-plugin-deepness.readthedocs.io, "Adding metadata to ONNX model", and
``model_base.py`` and ``preprocessing_utils.py`` of https://github.com/PUTvision/qgis-plugin-deepness; GeoDeep
(https://github.com/uav4geo/GeoDeep, ``inference.py``) reads the same keys. Values are JSON, in older files Python
literals. Both scale 8-bit pixels by 1/255 before anything else.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from gigatile.errors import ModelError
from gigatile.models.card import ModelCard
from gigatile.models.cards.fields import Fields
from gigatile.models.cards.steps import Scaling
from gigatile.models.cards.ultralytics import ultralytics_card

_KEYS = {
    *("model_type", "class_names", "resolution", "tiles_size", "tile_size", "tiles_overlap"),
    *("standardization_mean", "standardization_std", "seg_thresh", "seg_small_segment", "reg_output_scaling"),
    *("det_conf", "det_iou_thresh", "det_type", "det_remove_overlap"),
}
_OUTPUTS = {"segmentor": "classes", "regressor": "raw", "superresolution": "raw", "detector": ""}
_DETECTORS = {
    "YOLO_v5_or_v7_default": "yolov5",
    "YOLO_v6": "yolov5",
    "YOLO_v9": "yolov8",
    "YOLO_Ultralytics": "yolov8",
    "YOLO_Ultralytics_segmentation": "yolov8",
    "YOLO_Ultralytics_obb": "yolov8:obb",
}
"""``det_type`` in words of `--boxes`: ``detection_parameters.py`` of deepness, `DetectorType`."""
METADATA_PROPS = 14
"""Field of ``ModelProto`` in onnx.proto; its entries have ``key`` as field 1 and ``value`` as field 2."""
MOST_ENTRY_BYTES = 1 << 20


def onnx_card(path: Path) -> ModelCard | None:
    """The card inside an ONNX file; None where it has no metadata of this kind.

    Raises
    ------
    ModelError
        The metadata is damaged, or the model does what we cannot.
    """
    said = metadata(path)
    found = {key: value for key, value in said.items() if key in _KEYS | {"names"}}
    if not found.keys() & _KEYS:
        return ultralytics_card(path, said)
    fields = Fields({key: _value(path, key, text) for key, text in found.items()}, f"{path} (ONNX metadata)")
    kind = fields.text("model_type", "Segmentor")
    output = _OUTPUTS.get(kind.lower())
    if output is None:
        known = "Segmentor, Regressor, Superresolution or Detector"
        raise fields.refuse("model_type", known, "Others give neither a map of the image nor boxes.")
    scaling = Scaling(fields.where, 1 / 255)
    if fields.has("standardization_mean") and fields.has("standardization_std"):
        scaling = scaling.standard(fields.numbers("standardization_mean"), fields.numbers("standardization_std"))
    tile = next((fields.whole(key) for key in ("tiles_size", "tile_size") if fields.has(key)), None)
    size = fields.number("resolution", 0.0)
    return ModelCard(
        kind="deepness ONNX metadata",
        path=path,
        model=path,
        scale=scaling.scale,
        mean=scaling.mean,
        std=scaling.std,
        output=output,
        boxes="" if output else _boxes(fields),
        score=fields.number("det_conf") if not output and fields.has("det_conf") else None,
        tile=None if tile is None else (tile, tile),
        overlap_px=_overlap(fields, tile),
        pixel_size=size / 100 if size > 0 else None,
        unit="metre",
        dtype="uint8",
        class_names=_class_names(fields),
        notes=tuple(_notes(fields, tile)),
    )


def _boxes(fields: Fields) -> str:
    """What a detector's numbers are; the number of classes tells mask coefficients from them."""
    kind = fields.text("det_type", "YOLO_v5_or_v7_default")
    if kind not in _DETECTORS:
        raise fields.refuse("det_type", f"one of {', '.join(_DETECTORS)}")
    layout, count = _DETECTORS[kind], len(_class_names(fields))
    return f"{layout}{',' if ':' in layout else ':'}classes={count}" if count else layout


def metadata(path: Path) -> dict[str, str]:
    """The ``metadata_props`` of an ONNX file, found without reading its graph and weights.

    Whoever loads the model says what is wrong with a file that is none; it has no metadata here.

    Memory bound
    ------------
    One entry, `MOST_ENTRY_BYTES`.
    """
    # The package onnx is no dependency, and a session of onnxruntime would read all weights for a few words.
    found: dict[str, str] = {}
    with path.open("rb") as file:
        for number, size in _fields(file, path.stat().st_size):
            if number == METADATA_PROPS and size <= MOST_ENTRY_BYTES:
                key, value = _entry(file.read(size))
                found[key] = value
            else:
                file.seek(size, 1)
    return found


def _fields(file: IO[bytes], end: int) -> Iterator[tuple[int, int]]:
    """Number and length of each field with a length; the others, numbers, are passed over.

    Source: https://protobuf.dev/programming-guides/encoding (varints and wire types).
    """
    while file.tell() < end:
        tag = _varint(file)
        if tag is None:
            return
        number, kind = tag >> 3, tag & 7
        if kind == 2:
            size = _varint(file)
            if size is None or size > end - file.tell():
                return
            yield number, size
        elif kind == 0:
            _varint(file)
        elif kind in (1, 5):
            file.seek(8 if kind == 1 else 4, 1)
        else:
            return


def _varint(file: IO[bytes]) -> int | None:
    value = 0
    for shift in range(0, 70, 7):
        byte = file.read(1)
        if not byte:
            return None
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
    return None


def _entry(content: bytes) -> tuple[str, str]:
    from io import BytesIO

    parts = {1: "", 2: ""}
    file = BytesIO(content)
    for number, size in _fields(file, len(content)):
        parts[number] = file.read(size).decode("utf-8", "replace")
    return parts[1], parts[2]


def _value(path: Path, key: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        pass
    try:
        # Literals only: nothing in it is called or looked up.
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError) as error:
        if key in ("model_type", "det_type"):
            return text
        raise ModelError(f"{path} (ONNX metadata): {key}", expected="JSON", found=repr(text[:100])) from error


def _class_names(fields: Fields) -> tuple[str, ...]:
    key = "class_names" if fields.has("class_names") else "names"
    value = fields.content.get(key)
    if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        value = value[0]
    if value is None:
        return ()
    if isinstance(value, list):
        return fields.texts(key)
    try:
        numbered = {int(number): str(name) for number, name in value.items()}
    except (AttributeError, ValueError, TypeError) as error:
        raise fields.refuse(key, "class numbers with names") from error
    if sorted(numbered) != list(range(len(numbered))):
        raise fields.refuse(key, "a name for each class from 0 on")
    return tuple(numbered[i] for i in range(len(numbered)))


def _overlap(fields: Fields, tile: int | None) -> int:
    """Percent of a tile in pixels, even."""
    if tile is None or not fields.has("tiles_overlap"):
        return 0
    share = fields.number("tiles_overlap")
    if not 0 <= share < 100:
        raise fields.refuse("tiles_overlap", "percent, from 0 to below 100")
    return 2 * round(share / 100 * tile / 2)


def _notes(fields: Fields, tile: int | None) -> Iterator[str]:
    if fields.has("tiles_overlap") and tile is None:
        yield "tiles_overlap without tiles_size: the overlap is left to the probe"
    if fields.has("resolution") and fields.number("resolution") <= 0:
        yield "resolution is not above 0: not compared with the image"
    if isinstance(fields.content.get("class_names"), list):
        yield "several outputs: the first is used"
    if fields.number("seg_thresh", 0.5) != 0.5:
        yield f"seg_thresh {fields.number('seg_thresh'):g} is not applied: classes are the largest, or above 0.5"
    if fields.number("seg_small_segment", 0) > 0:
        yield "seg_small_segment is not applied: small areas stay"
    if fields.number("reg_output_scaling", 1.0) != 1:
        yield f"reg_output_scaling {fields.number('reg_output_scaling'):g} is not applied: values are the model's own"
    if fields.has("det_iou_thresh"):
        yield f"det_iou_thresh {fields.number('det_iou_thresh'):g} is not applied: --match-threshold says it"
    if fields.has("standardization_mean") != fields.has("standardization_std"):
        yield "standardization_mean and _std count only together"
