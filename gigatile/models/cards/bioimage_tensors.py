"""Tensors of a bioimage.io model description in one form, from format 0.4 (letters) and 0.5 (objects per axis).

Source: the model descriptions 0.4 and 0.5 of https://github.com/bioimage-io/spec-bioimage-io (`bioimageio.spec.model`).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Any

from gigatile.errors import ModelError
from gigatile.models.card import LengthUnit
from gigatile.models.cards.fields import Fields

_LETTERS = {"b": "b", "batch": "b", "c": "c", "channel": "c", "y": "y", "x": "x"}
_UNITS: dict[str, tuple[float, LengthUnit]] = {
    "nanometer": (1e-3, "micrometer"),
    "micrometer": (1.0, "micrometer"),
    "millimeter": (1e3, "micrometer"),
    "centimeter": (1e-2, "metre"),
    "meter": (1.0, "metre"),
}


@dataclass(frozen=True, slots=True)
class Side:
    """Size of an axis: `least` pixels, or that and any number of `step` more."""

    least: int
    step: int = 0
    """0: one size only."""

    def near(self, wanted: int) -> int:
        """The size that is allowed and nearest to another."""
        if self.step == 0 or wanted <= self.least:
            return self.least
        return self.least + round((wanted - self.least) / self.step) * self.step


@dataclass(frozen=True, slots=True)
class Tensor:
    """Input or output of a model."""

    axes: str
    """Letters out of ``bcyx``, in order."""
    sides: dict[str, Side]
    """By letter, where they are said."""
    halo_px: int = 0
    """What the author cuts off each edge of an output."""
    scale: dict[str, float] | None = None
    """Output pixels per input pixel by letter, where that is said."""
    spacing: dict[str, tuple[float, LengthUnit]] | None = None
    """Size of a pixel by letter."""
    channel_names: tuple[str, ...] = ()

    @property
    def channels(self) -> int | None:
        """Number of channels, where it is said."""
        if self.channel_names:
            return len(self.channel_names)
        side = self.sides.get("c")
        return side.least if side is not None and not side.step else None


def tensor_0_4(fields: Fields) -> Tensor:
    """From ``axes: bcyx``, ``shape`` and ``halo``."""
    axes = _checked(fields, list(fields.text("axes").replace("channel", "c").lower()))
    shape = fields.content.get("shape")
    sides: dict[str, Side] = {}
    scale: dict[str, float] | None = None
    if isinstance(shape, list):
        sides = {axis: Side(_whole(fields, "shape", n)) for axis, n in _each(fields, "shape", axes)}
    elif isinstance(shape, dict) and "min" in shape:
        inner = fields.mapping("shape")
        steps = dict(_each(inner, "step", axes))
        sides = {
            axis: Side(_whole(inner, "min", n), _whole(inner, "step", steps.get(axis, 0)))
            for axis, n in _each(inner, "min", axes)
        }
    elif isinstance(shape, dict):
        inner = fields.mapping("shape")
        # A scale of 0 or null stands for an axis that the input does not have: its size is twice the offset.
        scale = {axis: float(n) for axis, n in _each(inner, "scale", axes) if n}
        offsets = _each(inner, "offset", axes)
        sides = {axis: Side(int(2 * float(n))) for axis, n in offsets if axis not in scale}
    else:
        raise fields.refuse("shape", "a list of sizes, min and step, or a reference to the input")
    halo = max((_whole(fields, "halo", n) for axis, n in _each(fields, "halo", axes) if axis in "yx"), default=0)
    return Tensor(axes, sides, halo, scale)


def tensor_0_5(fields: Fields) -> Tensor:
    """From a list of axes, each with its own size, halo and scale."""
    described = fields.mappings("axes")
    letters = _checked(fields, [_letter(axis) for axis in described])
    sides: dict[str, Side] = {}
    spacing: dict[str, tuple[float, LengthUnit]] = {}
    names: tuple[str, ...] = ()
    halo = 0
    for letter, axis in zip(letters, described, strict=True):
        if letter == "c":
            # The schema wants a list of names; in 0.5.0 files a single name may stand for them.
            names = axis.texts("channel_names")
        elif letter in "yx":
            size = axis.content.get("size")
            if isinstance(size, int):
                sides[letter] = Side(size)
            elif isinstance(size, dict) and "min" in size and "step" in size:
                inner = axis.mapping("size")
                sides[letter] = Side(inner.whole("min"), inner.whole("step"))
            halo = max(halo, axis.whole("halo", 0))
            if axis.has("unit"):
                factor, unit = _unit(axis)
                spacing[letter] = axis.number("scale", 1.0) * factor, unit
    return Tensor(letters, sides, halo, None, spacing or None, names)


def margin_of(given: Tensor, got: Tensor) -> int:
    """The halo of an output in pixels of the input, whole."""
    scale = (got.scale or {}).get("y", 1.0)
    if got.spacing and given.spacing and "y" in got.spacing and "y" in given.spacing:
        scale = given.spacing["y"][0] / got.spacing["y"][0]
    return ceil(got.halo_px / scale) if scale > 0 else got.halo_px


def _letter(axis: Fields) -> str:
    kind = axis.text("type")
    if kind == "space":
        return axis.text("id", "x")
    return kind


def _checked(fields: Fields, names: list[str]) -> str:
    letters = [_LETTERS.get(name, "") for name in names]
    if sorted(letters) != ["b", "c", "x", "y"]:
        raise ModelError(
            fields.at("axes"),
            expected="batch, channel, y and x",
            found=" ".join(names),
            fix="Volumes and time series are not supported.",
        )
    return "".join(letters)


def _each(fields: Fields, key: str, axes: str) -> list[tuple[str, Any]]:
    """A list with one entry an axis; none where the key is absent."""
    values = fields.content.get(key)
    if values is None:
        return []
    if not isinstance(values, list) or len(values) != len(axes):
        raise fields.refuse(key, f"{len(axes)} numbers, one for each of {axes}")
    return list(zip(axes, values, strict=True))


def _whole(fields: Fields, key: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise fields.refuse(key, "whole numbers")
    return value


def _unit(axis: Fields) -> tuple[float, LengthUnit]:
    unit = axis.text("unit")
    if unit not in _UNITS:
        raise axis.refuse("unit", "one of " + ", ".join(_UNITS))
    return _UNITS[unit]
