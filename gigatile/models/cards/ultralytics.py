"""What ultralytics, and YOLOv5 before it, write into the files that they export.

Keys and values: ``ultralytics/engine/exporter.py`` (``self.metadata``) of https://github.com/ultralytics/ultralytics
and ``export.py`` of https://github.com/ultralytics/yolov5. In ONNX files they are ``metadata_props``, each a Python
literal as text; in TorchScript the extra file ``config.txt``, JSON. YOLOv5 writes ``stride`` and ``names`` alone.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gigatile.models.card import ModelCard


@dataclass(frozen=True, slots=True)
class Exported:
    """What such an exporter said."""

    names: tuple[str, ...]
    """Of the classes, from class 0 on."""
    task: str
    """``detect``, ``obb``, ``segment``, ``pose`` ...; empty for YOLOv5."""
    stride: int | None
    """What the sides of the input are a multiple of."""
    imgsz: tuple[int, int] | None
    """Height and width in pixels that it was exported for."""
    description: str = ""

    @property
    def finds_objects(self) -> bool:
        """Whether its output is a table of objects."""
        return self.task in ("", "detect", "obb", "segment", "pose")


def exported(metadata: Mapping[str, str]) -> Exported | None:
    """What is said in a file's metadata; None where it is not of this kind or cannot be read.

    Parameters
    ----------
    metadata : mapping of str to str
        As it lies in the file.
    """
    if not {"names", "stride"} <= metadata.keys():
        return None
    names = _names(_literal(metadata["names"]))
    if not names:
        return None
    stride = _literal(metadata["stride"])
    size = _literal(metadata.get("imgsz", ""))
    sides = [size, size] if isinstance(size, int) else size
    known = isinstance(sides, list) and len(sides) == 2 and all(isinstance(side, int) and side > 0 for side in sides)
    return Exported(
        names,
        metadata.get("task", ""),
        stride if isinstance(stride, int) and stride > 0 else None,
        (sides[0], sides[1]) if known else None,
        metadata.get("description", ""),
    )


def ultralytics_card(path: Path, metadata: Mapping[str, str]) -> ModelCard | None:
    """The card that such metadata make; None where they are of another kind, or of a model that finds no objects.

    Parameters
    ----------
    path : Path
        Of the model.
    metadata : mapping of str to str
    """
    said = exported(metadata)
    if said is None or not said.finds_objects:
        return None
    return ModelCard(
        kind="ultralytics ONNX metadata",
        path=path,
        model=path,
        name=said.description.strip(),
        scale=1 / 255,
        # What exactly, its outputs say.
        boxes="auto",
        tile=said.imgsz,
        dtype="uint8",
        class_names=said.names,
        notes=tuple(_notes(said)),
    )


def _notes(said: Exported) -> Iterator[str]:
    if said.task not in ("", "detect", "obb"):
        yield f"task {said.task}: boxes are used, masks and key points are not"
    if said.imgsz is not None:
        yield f"imgsz {said.imgsz[0]} x {said.imgsz[1]}: taken as the tile, unless --tile says another"
    if said.stride is not None:
        yield f"stride {said.stride}: sides of a tile are multiples of it"


def _literal(text: str) -> Any:
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        pass
    try:
        # Literals only: nothing in it is called or looked up.
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return None


def _names(value: Any) -> tuple[str, ...]:
    """Names from a list, or from a mapping that numbers them from 0 on; none from anything else."""
    if isinstance(value, list):
        return tuple(str(name) for name in value)
    if not isinstance(value, dict):
        return ()
    numbered = {str(number): str(name) for number, name in value.items()}
    order = [str(number) for number in range(len(numbered))]
    return tuple(numbered[number] for number in order) if set(order) == numbered.keys() else ()
