"""ONNX models that carry their own receptive field, worked out backwards from the layers by integer arithmetic.

::

    output pixel o      conv k, stride s, dilation d, padding p    pixels  s*o - p  ...  s*o - p + (k-1)*d
                        transposed k, stride s, padding p          pixels  ceil((o + p - k + 1) / s) ... (o + p) // s
                        nearest, factor f                          pixel   o // f
                        bilinear, factor 2, half-pixel centres     pixels  (o - 1) // 2 ... (o - 1) // 2 + 1
                        several inputs                             the hull of all

Nothing here imports the library: it is what the library is compared with.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, checker, helper, numpy_helper, save

Span = Callable[[int], tuple[int, int]]
"""Output position -> first and last input position that it depends on, along one axis."""


@dataclass(frozen=True)
class Maps:
    """One tensor (n, channels, y, x) of a graph."""

    name: str
    channels: int
    spans: tuple[Span, Span]
    scale: Fraction = Fraction(1)
    """Pixels of it per pixel of the input."""


def _both(value: int | tuple[int, int]) -> tuple[int, int]:
    return value if isinstance(value, tuple) else (value, value)


def _conv_span(before: Span, kernel: int, stride: int, dilation: int, pad: int) -> Span:
    def span(o: int) -> tuple[int, int]:
        first = o * stride - pad
        return before(first)[0], before(first + (kernel - 1) * dilation)[1]

    return span


def _transposed_span(before: Span, kernel: int, stride: int, pad: int) -> Span:
    def span(o: int) -> tuple[int, int]:
        return before(-(-(o + pad - kernel + 1) // stride))[0], before((o + pad) // stride)[1]

    return span


def _hull(one: Span, other: Span) -> Span:
    def span(o: int) -> tuple[int, int]:
        a, b = one(o), other(o)
        return min(a[0], b[0]), max(a[1], b[1])

    return span


class Graph:
    """Layers one after another, with random weights none of which is 0."""

    def __init__(self, channels: int = 1, seed: int = 0) -> None:
        self.channels = channels
        self._random = np.random.default_rng(seed)
        self._nodes: list[Any] = []
        self._constants: list[Any] = []
        self.input = Maps("input", channels, (lambda o: (o, o), lambda o: (o, o)))

    def constant(self, value: Any) -> str:
        name = f"k{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        name = f"t{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def weights(self, *shape: int) -> np.ndarray:
        """Between 0.5 and 1 in size, mostly positive, so that a sum of a few does not vanish."""
        size = self._random.uniform(0.5, 1, shape) * np.where(self._random.random(shape) < 0.25, -1, 1)
        return (size / np.sqrt(np.prod(shape[1:]))).astype(np.float32)

    def conv(
        self,
        x: Maps,
        out: int,
        kernel: int | tuple[int, int] = 3,
        *,
        stride: int = 1,
        dilation: int = 1,
        valid: bool = False,
    ) -> Maps:
        kernels = _both(kernel)
        pads = [0 if valid else (k - 1) * dilation // 2 for k in kernels]
        name = self.node(
            "Conv", x.name, self.constant(self.weights(out, x.channels, *kernels)),
            self.constant(self.weights(out, 1)[:, 0]), pads=pads * 2, strides=[stride] * 2, dilations=[dilation] * 2,
        )  # fmt: skip
        spans = [_conv_span(s, k, stride, dilation, p) for s, k, p in zip(x.spans, kernels, pads, strict=True)]
        return Maps(name, out, (spans[0], spans[1]), x.scale / stride)

    def transposed(self, x: Maps, out: int, kernel: int, stride: int) -> Maps:
        pad = (kernel - stride) // 2
        weights = self.constant(self.weights(x.channels, out, kernel, kernel))
        name = self.node("ConvTranspose", x.name, weights, pads=[pad] * 4, strides=[stride] * 2)
        spans = [_transposed_span(s, kernel, stride, pad) for s in x.spans]
        return Maps(name, out, (spans[0], spans[1]), x.scale * stride)

    def relu(self, x: Maps) -> Maps:
        return Maps(self.node("LeakyRelu", x.name, alpha=0.1), x.channels, x.spans, x.scale)

    def sigmoid(self, x: Maps) -> Maps:
        return Maps(self.node("Sigmoid", x.name), x.channels, x.spans, x.scale)

    def pool(self, x: Maps, factor: int, kind: str = "MaxPool") -> Maps:
        name = self.node(kind, x.name, kernel_shape=[factor] * 2, strides=[factor] * 2)
        spans = [_conv_span(s, factor, factor, 1, 0) for s in x.spans]
        return Maps(name, x.channels, (spans[0], spans[1]), x.scale / factor)

    def nearest(self, x: Maps, factor: int) -> Maps:
        name = self._resize(
            x, factor, mode="nearest", nearest_mode="floor", coordinate_transformation_mode="asymmetric"
        )
        spans = [_nearest_span(s, factor) for s in x.spans]
        return Maps(name, x.channels, (spans[0], spans[1]), x.scale * factor)

    def bilinear(self, x: Maps) -> Maps:
        """Twice the size, half-pixel centres: what is usual."""
        name = self._resize(x, 2, mode="linear", coordinate_transformation_mode="half_pixel")
        spans = [_bilinear_span(s) for s in x.spans]
        return Maps(name, x.channels, (spans[0], spans[1]), x.scale * 2)

    def stretched(self, x: Maps, factor: int) -> Maps:
        """align_corners: what a pixel reads depends on the size of the tile. Its span is not worked out."""
        name = self._resize(x, factor, mode="linear", coordinate_transformation_mode="align_corners")
        return Maps(name, x.channels, x.spans, x.scale * factor)

    def _resize(self, x: Maps, factor: int, **attributes: str) -> str:
        scales = self.constant(np.array([1, 1, factor, factor], np.float32))
        return self.node("Resize", x.name, "", scales, **attributes)

    def concat(self, one: Maps, other: Maps) -> Maps:
        assert one.scale == other.scale
        spans = [_hull(a, b) for a, b in zip(one.spans, other.spans, strict=True)]
        name = self.node("Concat", one.name, other.name, axis=1)
        return Maps(name, one.channels + other.channels, (spans[0], spans[1]), one.scale)

    def instance_norm(self, x: Maps) -> Maps:
        """Mean and variance of the whole tile: every pixel depends on every other."""
        ones, zeros = self.constant(np.ones(x.channels, np.float32)), self.constant(np.zeros(x.channels, np.float32))
        return Maps(self.node("InstanceNormalization", x.name, ones, zeros), x.channels, x.spans, x.scale)

    def squeeze(self, x: Maps) -> Maps:
        """Squeeze and excitation: channels are weighted by their mean over the tile."""
        gate = self.node("Sigmoid", self.node("GlobalAveragePool", x.name))
        return Maps(self.node("Mul", x.name, gate), x.channels, x.spans, x.scale)

    def attention(self, x: Maps) -> Maps:
        """Softmax attention of each pixel to all pixels, keys and values being the pixels themselves."""
        shape = self.node("Shape", x.name)
        flat = self.node("Reshape", x.name, self.constant(np.array([0, 0, -1], np.int64)))
        turned = self.node("Transpose", flat, perm=[0, 2, 1])
        weights = self.node("Softmax", self.node("MatMul", turned, flat), axis=2)
        mixed = self.node("MatMul", flat, self.node("Transpose", weights, perm=[0, 2, 1]))
        return Maps(self.node("Reshape", mixed, shape), x.channels, x.spans, x.scale)

    def depth_to_space(self, x: Maps, factor: int) -> Maps:
        name = self.node("DepthToSpace", x.name, blocksize=factor, mode="CRD")
        spans = [_nearest_span(s, factor) for s in x.spans]
        return Maps(name, x.channels // factor**2, (spans[0], spans[1]), x.scale * factor)

    def unet(self, depth: int, width: int = 2, out: int = 2) -> Maps:
        """One convolution a level on the way down and up, max-pooling, nearest upsampling, skip connections."""
        x, skips = self.relu(self.conv(self.input, width)), []
        for _ in range(depth):
            skips.append(x)
            x = self.relu(self.conv(self.pool(x, 2), width))
        for skip in reversed(skips):
            x = self.relu(self.conv(self.concat(self.nearest(x, 2), skip), width))
        return self.conv(x, out, 1)

    def save(self, path: Path, y: Maps, tile: tuple[int, int] | None = None) -> Path:
        """Check and write; `tile` fixes the size of the input."""
        self._nodes.append(helper.make_node("Identity", [y.name], ["output"]))
        sides = list(tile or ("h", "w"))
        into = helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", self.channels, *sides])
        result = helper.make_tensor_value_info("output", TensorProto.FLOAT, ["n", y.channels, "a", "b"])
        graph = helper.make_graph(self._nodes, "oracle", [into], [result], self._constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        checker.check_model(model)
        save(model, str(path))
        return path


def _nearest_span(before: Span, factor: int) -> Span:
    return lambda o: before(o // factor)


def _bilinear_span(before: Span) -> Span:
    return lambda o: (before((o - 1) // 2)[0], before((o - 1) // 2 + 1)[1])


def radius(y: Maps, crop: int = 0) -> tuple[int, int]:
    """How far beyond the input pixels under an output pixel its receptive field reaches; the most over all phases."""
    reach = []
    for span in y.spans:
        most = 0
        for o in range(256):
            first = int(o / y.scale // 1) + crop
            last = -int(-(o + 1) / y.scale // 1) - 1 + crop
            low, high = span(o)
            most = max(most, first - low, high - last)
        reach.append(most)
    return reach[0], reach[1]


def needed(y: Maps, alignment: int, crop: int = 0) -> int:
    """The halo that aligned cores need: how far the receptive field of a cell of `alignment` pixels leaves the cell.

    Less than the radius where the pixels that look farthest do not lie at the edge of their cell.
    """
    per_cell = int(alignment * y.scale)
    most = 0
    for span in y.spans:
        for cell in range(8):
            reach = [span(o) for o in range(cell * per_cell, (cell + 1) * per_cell)]
            first = cell * alignment + crop
            most = max(
                most, first - min(low for low, _ in reach), max(high for _, high in reach) - first - alignment + 1
            )
    return -(-most // alignment) * alignment
