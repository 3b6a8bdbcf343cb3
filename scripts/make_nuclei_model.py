"""Make pipelines/he-nuclei/model.onnx: stain unmixing, smoothing and local contrast as one ONNX graph.

::

    rgb 0..1 -> optical density -> [H E D] -> H+ ------> blur 1 px --+-- minus 0.75 x blur 8 px -> nucleus
                     |                     -> D+ - 2 E+ > blur 1 px --------------------------> brown (DAB)
                     +-- summed over r, g, b -----------> blur 1 px --------------------------> background
                                                                     (tissue is what is left)

Nothing is trained: every number is a published constant or a threshold, and the thresholds were chosen on the
pictures that the model card (pipelines/he-nuclei/README.md) names. Needs `onnx` and `numpy`.

Run it with ``python scripts/make_nuclei_model.py``; the same inputs give the same bytes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Array = NDArray[np.float32]

RGB_FROM_HED = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])
"""Optical density of haematoxylin, eosin and DAB (rows) in red, green and blue: A. C. Ruifrok and
D. A. Johnston, "Quantification of histochemical staining by color deconvolution", Anal. Quant. Cytol. Histol.
23 (2001) 291-299; the same figures as ``skimage.color.rgb_from_hed``."""

FINE_SIGMA_PX, FINE_RADIUS_PX = 1.0, 3
WIDE_SIGMA_PX, WIDE_RADIUS_PX = 8.0, 16
RADIUS_PX = max(FINE_RADIUS_PX, WIDE_RADIUS_PX)
"""Receptive radius: both blurs start from the same unmixed pixel, so the larger one counts."""

LOCAL_SHARE = 0.75
"""How much of the haematoxylin around a pixel counts as its background."""
NUCLEUS_ABOVE, NUCLEUS_SLOPE = 0.18, 60.0
EOSIN_VETO = 2.0
"""Dense eosin also unmixes to some DAB; real DAB unmixes to no eosin (it comes out negative)."""
BROWN_ABOVE, BROWN_SLOPE = 0.5, 3.0
BACKGROUND_BELOW, BACKGROUND_SLOPE = 0.25, 20.0
"""Summed optical density below which there is glass: unstained areas of the pictures lie at 0.07 to 0.2."""
CLASSES = ("background", "tissue", "brown", "nucleus")


def gaussian(sigma: float, radius: int) -> Array:
    """Weights of a truncated Gaussian, shape (2 * radius + 1,), float32, sum 1."""
    offsets = np.arange(-radius, radius + 1)
    weights = np.exp(-0.5 * (offsets / sigma) ** 2)
    return (weights / weights.sum()).astype(np.float32)


def unmixing() -> Array:
    """Minus-log-rgb to (H, E, D, summed density): 1x1 convolution weights, shape (4, 3, 1, 1), float32.

    The minus of the optical density is folded in, so that the graph needs no Neg.
    """
    hed_from_rgb = np.linalg.inv(RGB_FROM_HED)
    rows = np.concatenate([hed_from_rgb.T, np.ones((1, 3))])
    return (-rows).astype(np.float32)[:, :, None, None]


def mixing_of_maps() -> Array:
    """(H+, E+, D+, density) to the maps to blur (H, D - 2 E, density): shape (3, 4, 1, 1), float32."""
    rows = [[1, 0, 0, 0], [0, -EOSIN_VETO, 1, 0], [0, 0, 0, 1]]
    return np.array(rows, np.float32)[:, :, None, None]


def scores() -> tuple[Array, Array]:
    """(H fine, brown, density, H wide) to one logit a class: weights (4, 4, 1, 1) and bias (4,), float32."""
    weights = np.zeros((4, 4), np.float32)
    weights[0, 2] = -BACKGROUND_SLOPE
    weights[2, 1] = BROWN_SLOPE
    weights[3, 0], weights[3, 3] = NUCLEUS_SLOPE, -NUCLEUS_SLOPE * LOCAL_SHARE
    bias = [BACKGROUND_BELOW * BACKGROUND_SLOPE, 0.0, -BROWN_ABOVE * BROWN_SLOPE]
    return weights[:, :, None, None], np.array([*bias, -NUCLEUS_ABOVE * NUCLEUS_SLOPE], np.float32)


def _constants() -> dict[str, NDArray[np.generic]]:
    fine, wide = gaussian(FINE_SIGMA_PX, FINE_RADIUS_PX), gaussian(WIDE_SIGMA_PX, WIDE_RADIUS_PX)
    weights, bias = scores()
    return {
        # A stored 0 has no logarithm; 1/255 is the darkest value that an 8-bit file can tell from it.
        "darkest": np.array(1 / 255, np.float32),
        "white": np.array(1.0, np.float32),
        "unmix": unmixing(),
        "maps": mixing_of_maps(),
        "fine_x": np.ascontiguousarray(np.tile(fine.reshape(1, 1, 1, -1), (3, 1, 1, 1))),
        "fine_y": np.ascontiguousarray(np.tile(fine.reshape(1, 1, -1, 1), (3, 1, 1, 1))),
        "wide_x": wide.reshape(1, 1, 1, -1),
        "wide_y": wide.reshape(1, 1, -1, 1),
        "first": np.array([0], np.int64),
        "second": np.array([1], np.int64),
        "channel_axis": np.array([1], np.int64),
        "score": weights,
        "score_bias": bias,
        # exp of a logit of 88 is infinite in float32, and inf / inf is NaN; 30 already means certain.
        "least": np.array(-30.0, np.float32),
        "most": np.array(30.0, np.float32),
    }


def build() -> onnx.ModelProto:
    """The graph: ``image`` (n, 3, h, w) in 0..1 -> ``classes`` (n, 4, h, w), probabilities, both float32."""
    node, r, w = helper.make_node, FINE_RADIUS_PX, WIDE_RADIUS_PX
    nodes = [
        node("Clip", ["image", "darkest", "white"], ["lit"]),
        node("Log", ["lit"], ["log"]),
        node("Conv", ["log", "unmix"], ["stains"]),
        node("Relu", ["stains"], ["amounts"]),
        node("Conv", ["amounts", "maps"], ["raw"]),
        node("Conv", ["raw", "fine_x"], ["fine_1"], group=3, pads=[0, r, 0, r]),
        node("Conv", ["fine_1", "fine_y"], ["fine"], group=3, pads=[r, 0, r, 0]),
        node("Slice", ["raw", "first", "second", "channel_axis"], ["haematoxylin"]),
        node("Conv", ["haematoxylin", "wide_x"], ["wide_1"], pads=[0, w, 0, w]),
        node("Conv", ["wide_1", "wide_y"], ["wide"], pads=[w, 0, w, 0]),
        node("Concat", ["fine", "wide"], ["features"], axis=1),
        node("Conv", ["features", "score", "score_bias"], ["scores"]),
        node("Clip", ["scores", "least", "most"], ["logits"]),
        # Softmax over channels, spelt out: onnxruntime's Softmax on axis 1 takes 12 times as long.
        node("Exp", ["logits"], ["odds"]),
        node("ReduceSum", ["odds", "channel_axis"], ["total"], keepdims=1),
        node("Div", ["odds", "total"], ["classes"]),
    ]
    graph = helper.make_graph(
        nodes,
        "he-nuclei",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, "h", "w"])],
        [helper.make_tensor_value_info("classes", TensorProto.FLOAT, ["n", 4, "h", "w"])],
        [numpy_helper.from_array(value, name) for name, value in _constants().items()],
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9, producer_name="gigatile"
    )
    helper.set_model_props(model, {"classes": ",".join(CLASSES), "receptive_radius_px": str(RADIUS_PX)})
    onnx.checker.check_model(model, full_check=True)
    return model


def main() -> None:
    """Write the model beside its pipeline, or where ``--out`` says."""
    default = Path(__file__).resolve().parent.parent / "pipelines" / "he-nuclei" / "model.onnx"
    parser = argparse.ArgumentParser(description="Write the stain-unmixing model of pipelines/he-nuclei.")
    parser.add_argument("--out", type=Path, default=default)
    out: Path = parser.parse_args().out
    content = build().SerializeToString(deterministic=True)
    out.write_bytes(content)
    print(f"{out}: {len(content)} bytes, receptive radius {RADIUS_PX} px")


if __name__ == "__main__":
    main()
