"""bioimage.io model descriptions (``rdf.yaml``), formats 0.4 and 0.5.

Source: the model descriptions 0.4 and 0.5 of https://github.com/bioimage-io/spec-bioimage-io (`bioimageio.spec.model`).

========================================  ==========================================================
the card says                             which is here
========================================  ==========================================================
halo of the output                        least margin (the probe may ask for more)
zero_mean_unit_variance, per sample       normalize zscore, over the whole image
the same with fixed mean and std          mean and std
scale_range                               normalize percentile or minmax, over the whole image
scale_linear                              scale, or mean and std
sigmoid, softmax of the output            activation; output probabilities
binarize of the output at 0.5             output classes
test tensors                              a self-test
========================================  ==========================================================
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from gigatile.errors import ModelError
from gigatile.models.card import LengthUnit, ModelCard, TestPair, Tolerance
from gigatile.models.cards.bioimage_steps import Outcome, Steps, postprocessing, preprocessing
from gigatile.models.cards.bioimage_tensors import Tensor, margin_of, tensor_0_4, tensor_0_5
from gigatile.models.cards.fields import Fields
from gigatile.models.cards.text import check_sha256, existing_file, file_beside

USUAL_TILE = 512
_RUNNABLE = ("onnx", "torchscript")


def bioimage_card(path: Path, content: dict[str, Any]) -> ModelCard:
    """The card in a model description that has been read.

    Parameters
    ----------
    path : Path
        Of the description: files that it names lie beside it.
    content : dict
        Its YAML.

    Raises
    ------
    ModelError
        Another format, a damaged field, a missing or changed file, or something that we cannot do.
    """
    fields = Fields(content, str(path))
    version = fields.text("format_version")
    number = re.match(r"0\.(4|5)(\.|$)", version)
    if fields.text("type", "model") != "model" or number is None:
        raise ModelError(
            str(path),
            expected="a bioimage.io model, format_version 0.4 or 0.5",
            found=f"{fields.text('type', 'model')} {version}",
            fix="The package bioimageio.spec brings older descriptions up to date.",
        )
    is_new = number[1] == "5"
    given = fields.only("inputs", "since one image goes in")
    got = fields.only("outputs", "since one result is written")
    before, after = (tensor_0_5(given), tensor_0_5(got)) if is_new else (tensor_0_4(given), tensor_0_4(got))
    model, format_notes = _weights(path, fields, before)
    steps = preprocessing(given, before.channels)
    outcome = postprocessing(got)
    tests, test_notes = _tests(path, fields, (given, got), before.axes, after.axes)
    size, unit, size_notes = _pixel_size(before)
    scaling = steps.scaling
    return ModelCard(
        kind=f"bioimage.io {version}",
        path=path,
        model=model,
        name=fields.text("name", ""),
        scale=scaling.scale if scaling.normalize == "none" else None,
        mean=scaling.mean,
        std=scaling.std,
        normalize=scaling.normalize,
        activation=outcome.activation,
        output=outcome.output,
        tile=_tile(before),
        margin_px=margin_of(before, after),
        pixel_size=size,
        unit=unit,
        channels=before.channels,
        class_names=after.channel_names,
        tests=tests,
        notes=(*format_notes, *_notes(steps, outcome), *size_notes, *test_notes),
    )


def _notes(steps: Steps, outcome: Outcome) -> tuple[str, ...]:
    return (*steps.notes, *outcome.notes)


def _tile(given: Tensor) -> tuple[int, int] | None:
    """The size that the model takes: its only one, or an allowed one near the usual."""
    y, x = given.sides.get("y"), given.sides.get("x")
    if y is None or x is None:
        return None
    return y.near(USUAL_TILE), x.near(USUAL_TILE)


def _pixel_size(given: Tensor) -> tuple[float | None, LengthUnit, tuple[str, ...]]:
    sizes = given.spacing or {}
    if {"y", "x"} - sizes.keys():
        return None, "micrometer", ()
    (y, unit), (x, unit_x) = sizes["y"], sizes["x"]
    if unit != unit_x or abs(y - x) > 0.01 * max(y, x):
        return None, "micrometer", (f"pixels of {y:g} x {x:g}, not square: not compared with the image",)
    return y, unit, ()


def _weights(path: Path, fields: Fields, given: Tensor) -> tuple[Path, tuple[str, ...]]:
    """The weights that run here, with their digest checked: ONNX, else TorchScript."""
    weights = fields.mapping("weights")
    offered = [name for name in _RUNNABLE if weights.has(name)]
    if not offered:
        raise ModelError(
            weights.where,
            expected="weights of the kind onnx or torchscript",
            found=", ".join(weights.content) or "none",
            fix="bioimageio.core converts them: bioimageio add-weights.",
        )
    entries = {name: weights.mapping(name) for name in offered}
    here = [name for name in offered if file_beside(path, entries[name].text("source"), f"weights.{name}").is_file()]
    name = (here or offered)[0]
    entry = entries[name]
    sha = entry.text("sha256", "")
    model = existing_file(path, entry.text("source"), f"weights.{name}.source", sha)
    external = entry.content.get("external_data")
    if isinstance(external, dict):
        more = entry.mapping("external_data")
        existing_file(path, more.text("source"), f"weights.{name}.external_data", more.text("sha256", ""))
    if name == "torchscript" and given.axes != "bcyx":
        raise ModelError(f"{path}: inputs", expected="axes bcyx for TorchScript", found=given.axes)
    return model, () if sha else (f"weights.{name} has no sha256: its content is not checked",)


def _tests(
    path: Path, fields: Fields, tensors: tuple[Fields, Fields], axes: str, axes_out: str
) -> tuple[tuple[TestPair, ...], tuple[str, ...]]:
    """The stored input and output; a note where the card has none, or they were not downloaded."""
    given, got = tensors
    files: list[Path] = []
    for tensor, old in ((given, "test_inputs"), (got, "test_outputs")):
        if tensor.has("test_tensor"):
            entry = tensor.mapping("test_tensor")
            source, sha, key = entry.text("source"), entry.text("sha256", ""), entry.where
        elif fields.texts(old):
            source, sha, key = fields.texts(old)[0], "", f"{path}: {old}"
        else:
            return (), ("no test tensors: not self-tested",)
        file = file_beside(path, source, key.removeprefix(f"{path}: "))
        if not file.is_file():
            return (), (f"{file.name} is not here: not self-tested",)
        if file.suffix.lower() != ".npy":
            return (), (f"{file.name} is no .npy file: not self-tested",)
        check_sha256(path, file, sha, key.removeprefix(f"{path}: "))
        files.append(file)
    return (TestPair(files[0], axes, files[1], axes_out, _tolerance(fields)),), ()


def _tolerance(fields: Fields) -> Tolerance:
    """The author's tolerance, `config.bioimageio.reproducibility_tolerance`; the first applies to all."""
    entries = fields.mapping("config").mapping("bioimageio").mappings("reproducibility_tolerance")
    if not entries:
        return Tolerance()
    entry, usual = entries[0], Tolerance()
    return Tolerance(
        entry.number("absolute_tolerance", usual.absolute),
        entry.number("relative_tolerance", usual.relative),
        entry.number("mismatched_elements_per_million", usual.per_million),
    )
