"""Models for tests: small ONNX files with a known receptive field, and callables that misbehave on request.

Weights are whole numbers, so that every sum is exact in float32 in any order: a difference between tiled and
whole is then one of geometry, never of rounding. The makers need the `onnx` package.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Dim = int | str


@dataclass(frozen=True, slots=True)
class InputShape:
    """What an ONNX file declares for its input; a name stands for "any"."""

    channels: int = 1
    tile: int | None = None
    """Height and width; None: any."""
    batch: int | None = None
    """Tiles per call; None: any."""
    dtype: str = "float32"
    """``float32``, ``float16`` or ``float64``."""
    last: bool = False
    """Whether channels come last (NHWC)."""

    def dims(self, channels: int) -> list[Dim]:
        """Shape of a tensor with this many channels."""
        n: Dim = self.batch or "n"
        y, x = (self.tile or "y"), (self.tile or "x")
        return [n, y, x, channels] if self.last else [n, channels, y, x]


def whole_weights(channels: Sequence[int], kernel: int = 3, seed: int = 0) -> list[Array]:
    """Convolution weights of -1, 0 and 1.

    Parameters
    ----------
    channels : sequence of int
        Channels in, between the layers, and out: one layer less than numbers.
    kernel : int
        Odd side of each kernel; each layer adds ``kernel // 2`` to the radius of the receptive field.

    Returns
    -------
    list of ndarray, float32, shape (out, in, kernel, kernel)
    """
    rng = np.random.default_rng(seed)
    pairs = pairwise(channels)
    weights = [rng.integers(-1, 2, (out, into, kernel, kernel)).astype(np.float32) for into, out in pairs]
    for layer in weights:
        # The corners count: without them the true radius could be smaller than the nominal one.
        layer[:, :, :: kernel - 1, :: kernel - 1] = 1
    return weights


def write_convolutions(path: Path, weights: Sequence[Array], shape: InputShape | None = None) -> Path:
    """An ONNX file of zero-padded convolutions with ReLU between them; no layers: the identity.

    Returns
    -------
    Path
        `path` itself.
    """
    from onnx import helper, numpy_helper

    channels = weights[0].shape[1] if weights else (shape.channels if shape else 1)
    shape = shape or InputShape(channels)
    nodes, constants, at = [], [], "input"
    if shape.last:
        nodes.append(helper.make_node("Transpose", [at], ["first"], perm=[0, 3, 1, 2]))
        at = "first"
    for i, weight in enumerate(weights):
        constants.append(numpy_helper.from_array(weight.astype(shape.dtype), f"w{i}"))
        pads = [weight.shape[2] // 2, weight.shape[3] // 2] * 2
        nodes.append(helper.make_node("Conv", [at, f"w{i}"], [f"c{i}"], pads=pads))
        at = f"c{i}"
        if i + 1 < len(weights):
            nodes.append(helper.make_node("Relu", [at], [f"r{i}"]))
            at = f"r{i}"
    finish = helper.make_node("Transpose", [at], ["output"], perm=[0, 2, 3, 1])
    nodes.append(finish if shape.last else helper.make_node("Identity", [at], ["output"]))
    out = weights[-1].shape[0] if weights else channels
    return _save(path, (nodes, constants), shape, out)


def write_pooled(path: Path, factor: int = 2, channels: int = 1) -> Path:
    """An ONNX file that pools by `factor`, convolves 3 x 3, enlarges again and adds its input.

    Its sides must be multiples of `factor`; the radius of its receptive field is ``2 * factor - 1``, and it is
    exact only on tiles whose origin is a multiple of `factor`.
    """
    from onnx import helper, numpy_helper

    scales = np.array([1, 1, factor, factor], np.float32)
    weight = whole_weights([channels, channels])[0]
    constants = [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(scales, "scales")]
    side = [factor, factor]
    nodes = [
        helper.make_node("MaxPool", ["input"], ["pooled"], kernel_shape=side, strides=side),
        helper.make_node("Conv", ["pooled", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Resize", ["c", "", "scales"], ["up"], mode="nearest", nearest_mode="floor",
                         coordinate_transformation_mode="asymmetric"),
        helper.make_node("Add", ["up", "input"], ["output"]),
    ]  # fmt: skip
    return _save(path, (nodes, constants), InputShape(channels), channels)


def write_cropping(path: Path, by: int = 2) -> Path:
    """An ONNX file whose output is smaller than its input by `by` pixels on each side."""
    from onnx import helper, numpy_helper

    side = 2 * by + 1
    weight = np.ones((1, 1, side, side), np.float32)
    node = helper.make_node("Conv", ["input", "w"], ["output"])
    return _save(path, ([node], [numpy_helper.from_array(weight, "w")]), InputShape(), 1, sides=("a", "b"))


def _save(
    path: Path, graph: tuple[list[Any], list[Any]], shape: InputShape, out: int, sides: Sequence[Dim] = ()
) -> Path:
    """Check and write nodes and constants from `input` to `output`."""
    import onnx
    from onnx import TensorProto, helper

    kind = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "float64": TensorProto.DOUBLE}[shape.dtype]
    into = helper.make_tensor_value_info("input", kind, shape.dims(shape.channels))
    dims = ["n", out, *sides] if sides else shape.dims(out)
    nodes, constants = graph
    result = helper.make_tensor_value_info("output", kind, dims)
    made = helper.make_graph(nodes, "test", [into], [result], constants)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 15)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
    return path


def identity(batch: Array) -> Array:
    """What goes in."""
    return batch


@dataclass(frozen=True, slots=True)
class Constant:
    """A callable that gives the same channels everywhere."""

    values: tuple[float, ...]
    """One value a channel."""
    dtype: str = "float32"

    def __call__(self, batch: Array) -> Array:
        """The values, as an array (n, k, y, x)."""
        out = np.empty((len(batch), len(self.values), *batch.shape[2:]), self.dtype)
        out[:] = np.array(self.values, self.dtype)[:, None, None]
        return out


class OnCall:
    """The identity, but for one of its calls.

    Parameters
    ----------
    number : int
        Which call misbehaves, counted from 1 over all threads; planning makes the first one.
    then : {"raise", "nan", "shape", "channels"}
        Raise `ValueError`, give NaN in one pixel, leave out the last row, or give one channel more.
    times : int
        How often it does so: at that call, and at later ones with the same batch.
    """

    def __init__(self, number: int, then: str, times: int = 1) -> None:
        self._number, self._then, self._times = number, then, times
        self._batch: Array | None = None
        self._lock = threading.Lock()
        self.calls = 0

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self._number, self._then, self._times)

    def __call__(self, batch: Array) -> Array:
        """The batch, or what `then` says."""
        with self._lock:
            self.calls += 1
            if self.calls == self._number:
                self._batch = batch.copy()
            due = self._batch is not None and self._times > 0 and np.array_equal(batch, self._batch)
            self._times -= due
        if not due:
            return batch
        if self._then == "raise":
            raise ValueError("asked to fail")
        if self._then == "shape":
            return batch[:, :, :-1]
        if self._then == "channels":
            return np.concatenate([batch, batch[:, :1]], axis=1)
        out = batch.copy()
        out[0, 0, out.shape[2] // 2, out.shape[3] // 2] = np.nan
        return out


class SmallMemory:
    """A model, `batch + 1`, whose memory holds a few tiles only; beyond, it fails as a runtime would.

    Parameters
    ----------
    tiles : int
        What the memory holds.
    error : Exception
        What is raised beyond.
    """

    name, digest, device = "small-memory", "1" * 64, "cpu"
    channels_in: int | None = None
    fixed_tile: tuple[int, int] | None = None
    fixed_batch: int | None = None
    calls_once = False

    def __init__(self, tiles: int, error: Exception) -> None:
        self._tiles, self._error = tiles, error
        self._lock = threading.Lock()
        self.sizes: list[int] = []
        """Sizes of the batches that were asked for, those that failed too."""

    def predict(self, batch: Array) -> Array:
        """See `gigatile.models.model.Model.predict`."""
        with self._lock:
            self.sizes.append(len(batch))
        if len(batch) > self._tiles:
            raise self._error
        return batch + np.float32(1)


class BatchUnstable:
    """A model whose last bits depend on how many tiles it gets: ``batch + 1e-6 n``. Not a plain callable."""

    name, digest, device = "batch-unstable", "0" * 64, "cpu"
    channels_in: int | None = None
    fixed_tile: tuple[int, int] | None = None
    fixed_batch: int | None = None
    calls_once = False

    def __init__(self) -> None:
        self.sizes: list[int] = []
        """Sizes of the batches that were asked for."""

    def predict(self, batch: Array) -> Array:
        """See `gigatile.models.model.Model.predict`."""
        self.sizes.append(len(batch))
        return batch + np.float32(1e-6) * np.float32(len(batch))
