"""wsinfer model configurations (``config.json`` beside ``torchscript_model.pt``).

Source: ``model-config.schema.json`` of https://github.com/SBU-BMI/wsinfer-zoo (spec_version 1.0); the activation is
that of ``run_inference.py`` of https://github.com/SBU-BMI/wsinfer: softmax over several classes, sigmoid of one.

::

    350 px at 0.25 um, resized to 224 px   =   tiles of 224 px at 0.390625 um, one class each
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gigatile.errors import ModelError
from gigatile.models.card import ModelCard
from gigatile.models.cards.fields import Fields
from gigatile.models.cards.steps import Scaling
from gigatile.models.cards.text import existing_file

_FILES = ("torchscript_model.pt", "model.onnx")


def wsinfer_card(path: Path, content: dict[str, Any]) -> ModelCard:
    """The card in a configuration that has been read.

    Raises
    ------
    ModelError
        Another version, a damaged field, a transform that we have no like of, or no model beside it.
    """
    fields = Fields(content, str(path))
    if fields.text("spec_version") != "1.0":
        raise fields.refuse("spec_version", "1.0")
    names, count = fields.texts("class_names"), fields.whole("num_classes")
    if len(names) != count:
        raise ModelError(fields.at("class_names"), expected=f"num_classes, {count} names", found=str(len(names)))
    patch, spacing = fields.whole("patch_size_pixels"), fields.number("spacing_um_px")
    if patch < 1 or spacing <= 0:
        raise ModelError(str(path), expected="a patch and a spacing above 0", found=f"{patch} px, {spacing} um")
    scaling, side = _transforms(fields, patch)
    notes: tuple[str, ...] = ("one class a patch: the result has one pixel a tile",)
    if side != patch:
        notes += (f"Resize {patch} to {side} px: read at {spacing * patch / side:.6g} um instead",)
    return ModelCard(
        kind="wsinfer 1.0",
        path=path,
        model=_model(path),
        name=fields.text("architecture", ""),
        scale=scaling.scale,
        mean=scaling.mean,
        std=scaling.std,
        activation="softmax" if count > 1 else "sigmoid",
        output="probabilities",
        tile=(side, side),
        one_pixel_a_tile=True,
        pixel_size=spacing * patch / side,
        channels=3,
        dtype="uint8",
        class_names=names,
        notes=notes,
    )


def _transforms(fields: Fields, patch: int) -> tuple[Scaling, int]:
    """Scaling, and the side of what the model sees."""
    scaling, side, is_tensor = Scaling(fields.at("transform")), patch, False
    for step in fields.mappings("transform"):
        name, arguments = step.text("name"), step.mapping("arguments")
        if name == "Resize" and not is_tensor:
            sides = {int(number) for number in arguments.numbers("size")}
            if len(sides) != 1 or min(sides) < 1:
                raise arguments.refuse("size", "one side of a square")
            side = sides.pop()
        elif name == "ToTensor" and not is_tensor:
            scaling, is_tensor = scaling.linear((1 / 255,), (0.0,)), True
        elif name == "Normalize" and is_tensor:
            scaling = scaling.standard(arguments.numbers("mean"), arguments.numbers("std"))
        else:
            raise ModelError(step.where, expected="Resize, then ToTensor, then Normalize", found=name)
    if not is_tensor:
        raise ModelError(fields.at("transform"), expected="a step ToTensor", found="none")
    return scaling, side


def _model(path: Path) -> Path:
    """The model is not named: it has a fixed name beside the configuration."""
    for name in _FILES:
        if (path.parent / name).is_file():
            return existing_file(path, name, "model")
    raise ModelError(str(path), expected=f"{' or '.join(_FILES)} beside it", found="neither")
