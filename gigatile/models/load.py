"""Find out what a model is, and load it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from gigatile.errors import ModelError, UsageError
from gigatile.models.augment import Augmentation
from gigatile.models.model import LoadedModel, Model
from gigatile.models.probe import Probe
from gigatile.models.probe_cache import probed
from gigatile.models.values import Activation, Values
from gigatile.tiling.scales import parse_scales


def load_model(
    model: str | PathLike[str] | LoadedModel | Any,
    *,
    scale: float | None = None,
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
    activation: Activation = "none",
    normalize: str = "none",
    tta: Augmentation = "none",
    multiscale: Sequence[float] = (1,),
    batch: int | None = None,
    device: str = "auto",
    class_names: Sequence[str] = (),
) -> LoadedModel:
    """Load a model and say what goes in and comes out.

    Parameters
    ----------
    model : path, "package.module:name", "file.py:name", or callable
        An ``.onnx`` file, or a function (or class) that takes float32 ``(n, c, y, x)`` and returns
        ``(n, k, y, x)``.
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
        Names of the channels of the result.

    Raises
    ------
    ModelError
        The model cannot be loaded.
    UsageError
        A number makes no sense.
    """
    if isinstance(model, LoadedModel):
        return model
    if batch is not None and (isinstance(batch, bool) or not isinstance(batch, int) or batch < 1):
        raise UsageError("batch", expected="a positive whole number of tiles", found=repr(batch))
    values = Values(scale, tuple(mean), tuple(std), activation, tta, normalize, multiscale=parse_scales(multiscale))
    return LoadedModel(_find(model, device), values, batch, tuple(class_names))


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
        from gigatile.models.python import from_object

        return from_object(model)
    text = str(model)
    suffix = Path(text).suffix.lower()
    if suffix == ".onnx":
        from gigatile.models.onnx import OnnxModel

        return OnnxModel(text, device)
    if re.fullmatch(r".+:[A-Za-z_][\w.]*", text):
        from gigatile.models.python import NamedModel

        return NamedModel(text)
    known = {".pt2", ".pt", ".pth", ".ts"}
    raise ModelError(
        f"model {text}",
        expected="a .onnx file, package.module:name or file.py:name",
        found="a torch file, which is not supported yet" if suffix in known else repr(text),
        fix="Export it to ONNX with torch.onnx.export." if suffix in known else "",
    )
