"""Find out what a model is, and load it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

from gigatile.errors import ModelError, UsageError
from gigatile.models.augment import Augmentation
from gigatile.models.boxes.format import parse_boxes
from gigatile.models.card import ModelCard
from gigatile.models.cards.find import find_card
from gigatile.models.model import LoadedModel, Model
from gigatile.models.patches import PatchModel
from gigatile.models.probe import Probe
from gigatile.models.probe_cache import probed
from gigatile.models.self_test import self_tested
from gigatile.models.values import Activation, Values
from gigatile.tiling.scales import parse_scales

TORCH_SUFFIXES = {".pt", ".pt2", ".pth", ".ts", ".torchscript"}


def load_model(
    model: str | PathLike[str] | LoadedModel | Any,
    *,
    scale: float | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    activation: Activation | None = None,
    normalize: str | None = None,
    tta: Augmentation = "none",
    multiscale: Sequence[float] = (1,),
    batch: int | None = None,
    device: str = "auto",
    class_names: Sequence[str] | None = None,
    boxes: str = "auto",
    score: float | None = None,
) -> LoadedModel:
    """Load a model and say what goes in and comes out.

    Parameters
    ----------
    model : path, "package.module:name", "file.py:name", or callable
        An ``.onnx`` file, or a function (or class) that takes float32 ``(n, c, y, x)`` and returns
        ``(n, k, y, x)``; or the card of a model that lies beside it: a bioimage.io ``rdf.yaml``, a wsinfer
        ``config.json``, a STAC item. What a card says, metadata in an ONNX file included, is the default of the
        arguments below; the tests that it brings along are run once on a machine.
    scale : float, optional
        Factor on stored pixels: 1/255 for uint8 and 1 otherwise if not given.
    mean, std : sequence of float
        Subtracted, then divided by, after scaling; one number or one per channel.
    activation : {"none", "sigmoid", "softmax"}
        Applied to each tile before blending.
    normalize : str
        ``percentile:LO,HI``, ``minmax``, ``zscore``, ``macenko`` or ``reinhard``: by statistics of the whole image,
        measured when a run begins; in the place of scale, mean and std.
    tta : {"none", "flips", "d4"}
        Test-time augmentation: the mean over mirrored (and turned) copies of each tile.
    multiscale : sequence of float
        Scales from 1, the grid of the result, downwards at which the image is read; predictions are brought back to
        that grid and averaged.
    batch : int, optional
        Tiles per call; chosen if not given (1 on the CPU, where larger batches bought nothing).
    device : {"auto", "cpu", "cuda", "cuda:N"}
        ``auto`` takes CUDA where it is there.
    class_names : sequence of str
        Names of the channels of the result, or of the classes of objects.
    boxes : str
        What the numbers of a detector are, see `gigatile.models.boxes.format`; recognised if not given.
    score : float, optional
        Least score of an object; 0.25 if not given, and 0 for functions and models that give finished rows.

    Raises
    ------
    ModelError
        The model cannot be loaded, asks for what we cannot do, or fails the test of its card.
    UsageError
        A number makes no sense.
    """
    if isinstance(model, LoadedModel):
        return model
    if batch is not None and (isinstance(batch, bool) or not isinstance(batch, int) or batch < 1):
        raise UsageError("batch", expected="a positive whole number of tiles", found=repr(batch))
    asked = {"scale": scale, "mean": mean, "std": std, "normalize": normalize, "activation": activation}
    given = {name: value for name, value in {**asked, "class_names": class_names}.items() if value is not None}
    card = find_card(model)
    said = ModelCard("", Path(), Path()) if card is None else card.under(tuple(given))
    values = Values(
        scale if scale is not None else said.scale,
        tuple(mean if mean is not None else said.mean),
        tuple(std if std is not None else said.std),
        activation or said.activation,
        tta,
        normalize or said.normalize,
        multiscale=parse_scales(multiscale),
    )
    format = parse_boxes(said.boxes if boxes == "auto" and said.boxes else boxes)
    score = said.score if score is None else score
    names = tuple(class_names if class_names is not None else said.class_names)
    if card is None:
        return LoadedModel(_find(model, device), values, batch, names, boxes=format, score=score)
    loaded = LoadedModel(
        _carded(card, device), values, batch, names, said.class_colors, card=said, boxes=format, score=score
    )
    self_tested(replace(loaded, values=_values_of(card), card=card))
    return loaded


def _carded(card: ModelCard, device: str) -> Model:
    """The model of a card."""
    model = _find(card.model, device)
    if card.one_pixel_a_tile:
        assert card.tile is not None, "such a card has a tile"
        return PatchModel(model, card.tile)
    return model


def _values_of(card: ModelCard) -> Values:
    """What the card alone says: its tests are for that."""
    return Values(card.scale, card.mean, card.std, card.activation, "none", card.normalize)


def probe(model: str | PathLike[str] | LoadedModel | Any, channels: int | None = None) -> Probe:
    """Measure how far a model looks, how it must be aligned, and whether its tiles can equal the whole image.

    Parameters
    ----------
    model : as for `load_model`
    channels : int, optional
        Channels to try it with; what it says itself, or 3, if not given.

    Returns
    -------
    Probe
        Measured once on a machine, and kept by the model's hash.

    Raises
    ------
    ModelError
        The model cannot be loaded, does not run on noise, or gives no maps.
    """
    return probed(load_model(model), channels)


def _find(model: Any, device: str) -> Model:
    if re.fullmatch(r"auto|cpu|cuda(:\d+)?", device) is None:
        raise ModelError("device", expected="auto, cpu, cuda or cuda:N", found=repr(device))
    if not isinstance(model, (str, PathLike)):
        from gigatile.models.python import from_object, is_torch_module

        if is_torch_module(model):
            from gigatile.models.torch import ModuleModel

            return ModuleModel(model, device)
        return from_object(model)
    text = str(model)
    suffix = Path(text).suffix.lower()
    if suffix == ".onnx":
        from gigatile.models.onnx import OnnxModel

        return OnnxModel(text, device)
    if suffix in TORCH_SUFFIXES:
        from gigatile.models.torch import TorchModel

        return TorchModel(text, device)
    if re.fullmatch(r".+:[A-Za-z_][\w.]*", text):
        from gigatile.models.python import NamedModel

        return NamedModel(text)
    raise ModelError(
        f"model {text}",
        expected="a .onnx, TorchScript or .pt2 file, a card, package.module:name or file.py:name",
        found=repr(text),
    )
