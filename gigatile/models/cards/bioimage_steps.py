"""Pre- and postprocessing of a bioimage.io model description as our options.

Source: the model descriptions 0.4 and 0.5 of https://github.com/bioimage-io/spec-bioimage-io (`bioimageio.spec.model`).
A step has a ``name`` in 0.4 and an ``id`` in 0.5; the words for axes differ, too.
"""

from __future__ import annotations

from dataclasses import dataclass

from gigatile.errors import ModelError
from gigatile.models.cards.fields import Fields
from gigatile.models.cards.steps import Scaling
from gigatile.models.normalise import Method
from gigatile.models.values import Activation

_ITSELF = "Give the model file itself, with the options that say the same."


@dataclass(frozen=True, slots=True)
class Steps:
    """What happens before the model."""

    scaling: Scaling
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What happens after it."""

    activation: Activation
    output: str
    notes: tuple[str, ...] = ()


def preprocessing(tensor: Fields, channels: int | None) -> Steps:
    """Fold the steps of an input into one scaling or normalisation.

    Raises
    ------
    ModelError
        A step that we have no like of.
    """
    scaling = Scaling(tensor.at("preprocessing"))
    notes: list[str] = []
    for step in tensor.mappings("preprocessing"):
        name, kwargs = _name(step), step.mapping("kwargs")
        if name == "ensure_dtype":
            _check_dtype(kwargs, notes)
        elif name == "scale_linear":
            if kwargs.has("axis") and kwargs.text("axis") not in ("channel", "c"):
                raise kwargs.refuse("axis", "channel", _ITSELF)
            scaling = scaling.linear(kwargs.numbers("gain", 1.0), kwargs.numbers("offset", 0.0))
        elif name == "fixed_zero_mean_unit_variance" or (
            name == "zero_mean_unit_variance" and kwargs.text("mode", "fixed" if kwargs.has("mean") else "") == "fixed"
        ):
            scaling = scaling.standard(kwargs.numbers("mean"), kwargs.numbers("std"))
        elif name in ("zero_mean_unit_variance", "scale_range"):
            _check_axes(kwargs, channels)
            notes += _about_statistics(name, kwargs)
            scaling = scaling.statistics(
                "zscore" if name == "zero_mean_unit_variance" else _percentiles(kwargs, tensor)
            )
        else:
            expected = "scale_linear, scale_range, zero_mean_unit_variance, fixed_zero_mean_unit_variance, ensure_dtype"
            raise ModelError(step.where, expected=expected, found=name, fix=_ITSELF)
    return Steps(scaling, tuple(notes))


def postprocessing(tensor: Fields) -> Outcome:
    """The activation and the kind of result.

    Without a step the result is what the model gives (``raw``), unless that is said to lie between 0 and 1.

    Raises
    ------
    ModelError
        A step that we have no like of.
    """
    activation: Activation = "none"
    output = "probabilities" if _is_share(tensor) else "raw"
    notes: list[str] = []
    for step in tensor.mappings("postprocessing"):
        name, kwargs = _name(step), step.mapping("kwargs")
        if output == "classes" and name != "ensure_dtype":
            raise ModelError(step.where, expected="nothing after binarize", found=name, fix=_ITSELF)
        if name == "ensure_dtype":
            continue
        if name in ("sigmoid", "softmax") and activation == "none":
            axis = kwargs.text("axis", "channel")
            if name == "softmax" and axis not in ("channel", "c"):
                raise kwargs.refuse("axis", "channel", _ITSELF)
            activation, output = ("sigmoid" if name == "sigmoid" else "softmax"), "probabilities"
        elif name == "binarize" and kwargs.numbers("threshold") == (0.5,) and tensor_channels(tensor) in (None, 1):
            output = "classes"
        else:
            expected = "sigmoid, softmax, binarize of one channel at 0.5, ensure_dtype"
            raise ModelError(step.where, expected=expected, found=f"{name} {dict(kwargs.content)}", fix=_ITSELF)
    return Outcome(activation, output, tuple(notes))


def tensor_channels(tensor: Fields) -> int | None:
    """Channels of a tensor of format 0.5; None where it does not say."""
    axes = tensor.content.get("axes")
    if not isinstance(axes, list):
        return None
    return next(
        (len(axis.texts("channel_names")) for axis in tensor.mappings("axes") if axis.has("channel_names")), None
    )


def _name(step: Fields) -> str:
    return step.text("id") if step.has("id") else step.text("name")


def _is_share(tensor: Fields) -> bool:
    """Whether the values are said to lie between 0 and 1: ``data_range`` in 0.4, ``data.range`` in 0.5."""
    place = tensor if tensor.has("data_range") else tensor.mapping("data") if _is_mapping(tensor, "data") else None
    key = "data_range" if place is tensor else "range"
    if place is None or not place.has(key):
        return False
    limits = place.content[key]
    return isinstance(limits, list) and len(limits) == 2 and limits == [0, 1]


def _is_mapping(fields: Fields, key: str) -> bool:
    return isinstance(fields.content.get(key), dict)


def _check_dtype(kwargs: Fields, notes: list[str]) -> None:
    dtype = kwargs.text("dtype")
    if dtype not in ("float32", "float64", "float16"):
        raise kwargs.refuse("dtype", "float32", _ITSELF)
    if dtype != "float32":
        notes.append(f"ensure_dtype {dtype}: everything before the model is float32 here")


def _check_axes(kwargs: Fields, channels: int | None) -> None:
    """Statistics are taken channel by channel; over all channels together is the same only where there is one."""
    axes = kwargs.content.get("axes")
    if isinstance(axes, list):
        letters = {"channel": "c", "batch": "b"}
        named = {letters.get(str(axis), str(axis)) for axis in axes}
    elif isinstance(axes, str):
        named = set(axes)
    else:
        named = {"c", "y", "x"}
    if not {"y", "x"} <= named or named - set("bcyx"):
        raise kwargs.refuse("axes", "y and x", _ITSELF)
    if "c" in named and channels != 1:
        raise kwargs.refuse("axes", "statistics of each channel by itself (y and x)", _ITSELF)


def _about_statistics(name: str, kwargs: Fields) -> list[str]:
    eps = kwargs.number("eps", 1e-6)
    notes = [f"{name}: statistics of the whole image, once; divided without eps {eps:g}"]
    if kwargs.text("mode", "per_sample") == "per_dataset":
        notes.append(f"{name} per_dataset: each image is taken by itself")
    return notes


def _percentiles(kwargs: Fields, tensor: Fields) -> str:
    if kwargs.has("reference_tensor") and kwargs.text("reference_tensor") not in (
        tensor.text("id", ""),
        tensor.text("name", ""),
    ):
        raise kwargs.refuse("reference_tensor", "the input itself", _ITSELF)
    low, high = kwargs.number("min_percentile", 0.0), kwargs.number("max_percentile", 100.0)
    if not 0 <= low < high <= 100:
        raise kwargs.refuse("max_percentile", "0 <= min_percentile < max_percentile <= 100")
    return "minmax" if (low, high) == (0, 100) else str(Method("percentile", low, high))
