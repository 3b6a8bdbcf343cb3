"""A small U-Net in torch, and the same as an ONNX graph without batch norm.

::

    in ─softsign─▶ 12 ─────────────────────────────────▶ 12 ─▶ sigmoid: nucleus, depth in it
                    ╲ /2                              ×2 ╱
                     24 ───────────────────────────▶ 24          downwards two, upwards one 3x3 convolution
                      ╲ /2                        ×2 ╱           with batch norm and ReLU each
                       48 ─────────────────────▶ 48
                        ╲ /2                  ×2 ╱
                         96 ────────────────────

Batch norm has fixed numbers once training is over; they are folded into the convolutions, so that a pixel depends on
its surroundings and on nothing else. Upsampling repeats pixels: origins of tiles must be multiples of 8.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import nn

WIDTHS = (12, 24, 48, 96)
OUTPUTS = ("nucleus", "depth")
SQUEEZE = 0.25
"""The input goes through ``x / (1 + |x|)`` with ``x`` a quarter of it: in sparse fluorescence nuclei lie 10 and more
deviations above the mean, in stained tissue 2 below it."""


class Layers(nn.Sequential):
    """3x3 convolutions, each with batch norm and ReLU: from one number of channels to the next."""

    def __init__(self, *channels: int) -> None:
        layers: list[nn.Module] = []
        for given, width in pairwise(channels):
            layers += [nn.Conv2d(given, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        super().__init__(*layers)


class UNet(nn.Module):
    """(n, inputs, h, w), z-scored, to (n, 2, h, w) logits; h and w multiples of 8."""

    def __init__(self, inputs: int = 3) -> None:
        super().__init__()
        self.inputs = inputs
        givens = (inputs, *WIDTHS[:-1])
        self.down = nn.ModuleList(Layers(given, width, width) for given, width in zip(givens, WIDTHS, strict=True))
        self.up = nn.ModuleList(Layers(2 * width + width, width) for width in WIDTHS[-2::-1])
        self.head = nn.Conv2d(WIDTHS[0], len(OUTPUTS), 1)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        x = nn.functional.softsign(pixels * SQUEEZE)
        kept = []
        for i, layers in enumerate(self.down):
            x = layers(nn.functional.max_pool2d(x, 2) if i else x)
            kept.append(x)
        for layers, beside in zip(self.up, kept[-2::-1], strict=True):
            x = layers(torch.cat([nn.functional.interpolate(x, scale_factor=2, mode="nearest"), beside], 1))
        logits: torch.Tensor = self.head(x)
        return logits


class _Graph:
    """Nodes and numbers of an ONNX graph, as they are added."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.numbers: list[onnx.TensorProto] = []

    def number(self, name: str, value: NDArray[np.float32]) -> str:
        self.numbers.append(numpy_helper.from_array(value, name))
        return name

    def node(self, kind: str, inputs: list[str], name: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [name], **attributes))
        return name

    def layers(self, layers: nn.Module, x: str, name: str) -> str:
        parts = list(layers.children())
        for i, (conv, norm) in enumerate(zip(parts[::3], parts[1::3], strict=True)):
            weight, bias = folded(conv, norm)
            at = f"{name}_{i}"
            inputs = [x, self.number(f"{at}_weight", weight), self.number(f"{at}_bias", bias)]
            x = self.node("Relu", [self.node("Conv", inputs, f"{at}_conv", pads=[1, 1, 1, 1])], at)
        return x


@dataclass(frozen=True, slots=True)
class Front:
    """First layers that see one stain, pixel by pixel: ``(max(weights . log(clip(rgb)), 0) - mean) / deviation``."""

    darkest: float
    """Lowest value that has its own logarithm; what is darker counts as this."""
    weights: NDArray[np.float64]
    """Shape (3,): how much the logarithm of red, green and blue counts."""
    mean: float
    deviation: float

    def add(self, graph: _Graph) -> str:
        """Add the layers behind ``image``; the name of what they give."""

        def number(name: str, value: object) -> str:
            return graph.number(name, np.asarray(value, np.float32))

        lit = graph.node("Clip", ["image", number("darkest", self.darkest), number("white", 1)], "lit")
        weights = number("unmix", self.weights.reshape(1, 3, 1, 1))
        stain = graph.node(
            "Relu", [graph.node("Conv", [graph.node("Log", [lit], "logs"), weights], "unmixed")], "stain"
        )
        above = graph.node("Sub", [stain, number("mean", self.mean)], "above")
        return graph.node("Div", [above, number("deviation", self.deviation)], "standard")


def load(network: UNet, path: Path) -> None:
    """Start from the weights of a graph that `to_onnx` wrote, batch norm at rest: it then adds and scales, no more.

    Where the graph has several inputs and the network one, that stands for all of them.
    """
    given = {t.name: torch.from_numpy(numpy_helper.to_array(t).copy()) for t in onnx.load(path).graph.initializer}
    parts = [(f"down_{i}", p) for i, p in enumerate(network.down)] + [(f"up_{i}", p) for i, p in enumerate(network.up)]
    with torch.no_grad():
        for name, layers in parts:
            modules = list(layers.children())
            for i, (conv, norm) in enumerate(zip(modules[::3], modules[1::3], strict=True)):
                assert isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
                assert norm.running_var is not None
                weight = given[f"{name}_{i}_weight"]
                conv.weight.copy_(weight if weight.shape == conv.weight.shape else weight.sum(1, keepdim=True))
                norm.bias.copy_(given[f"{name}_{i}_bias"])
                norm.running_var.fill_(1 - norm.eps)
        assert network.head.bias is not None
        network.head.weight.copy_(given["head_weight"])
        network.head.bias.copy_(given["head_bias"])


def folded(conv: nn.Module, norm: nn.Module) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Weight and bias of a convolution that does what it and the batch norm behind it do, folded in float64."""

    def array(value: torch.Tensor) -> NDArray[np.float64]:
        return value.detach().double().numpy()

    assert isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
    assert norm.running_var is not None and norm.running_mean is not None
    gain = array(norm.weight) / np.sqrt(array(norm.running_var) + norm.eps)
    bias = array(norm.bias) - array(norm.running_mean) * gain
    weight = array(conv.weight) * gain[:, None, None, None]
    return weight.astype(np.float32), bias.astype(np.float32)


def to_onnx(network: UNet, front: Front | None = None) -> onnx.ModelProto:
    """The graph: ``image`` (n, 3, h, w) -> ``maps`` (n, 2, h, w), 0 to 1, float32, opset 17.

    ``image`` is what the network was trained on, or, with `front`, red, green and blue between 0 and 1.
    """
    graph = _Graph()
    x = "image" if front is None else front.add(graph)
    quarter = graph.number("squeeze", np.array(SQUEEZE, np.float32))
    double = graph.number("double", np.array([1, 1, 2, 2], np.float32))
    x = graph.node("Softsign", [graph.node("Mul", [x, quarter], "scaled")], "squeezed")
    kept = []
    for i, layers in enumerate(network.down):
        if i:
            x = graph.node("MaxPool", [x], f"pool_{i}", kernel_shape=[2, 2], strides=[2, 2])
        x = graph.layers(layers, x, f"down_{i}")
        kept.append(x)
    for i, (layers, beside) in enumerate(zip(network.up, kept[-2::-1], strict=True)):
        modes = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        x = graph.node("Resize", [x, "", double], f"grown_{i}", **modes)
        x = graph.layers(layers, graph.node("Concat", [x, beside], f"joined_{i}", axis=1), f"up_{i}")
    to_numpy: Callable[[torch.Tensor], NDArray[np.float32]] = lambda value: value.detach().numpy()  # noqa: E731
    assert network.head.bias is not None
    head = [
        graph.number("head_weight", to_numpy(network.head.weight)),
        graph.number("head_bias", to_numpy(network.head.bias)),
    ]
    graph.node("Sigmoid", [graph.node("Conv", [x, *head], "logits")], "maps")
    inputs = network.inputs if front is None else 3
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "nuclei",
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", inputs, "h", "w"])],
            [helper.make_tensor_value_info("maps", TensorProto.FLOAT, ["n", len(OUTPUTS), "h", "w"])],
            graph.numbers,
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=9,
        producer_name="gigatile",
    )
    helper.set_model_props(model, {"outputs": ",".join(OUTPUTS)})
    onnx.checker.check_model(model, full_check=True)
    return model
