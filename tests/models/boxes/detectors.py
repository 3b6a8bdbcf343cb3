"""Small ONNX detectors, made with `onnx`, and tables with what they should be read as."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

TARGET_SIZES = "orig_target_sizes"
KINDS = {"f": TensorProto.FLOAT, "i": TensorProto.INT64}


def write_tables(path, tables, *, metadata=None, image=("n", 3, "y", "x"), inputs=(), nodes=(), constants=None):
    """A file whose outputs are given arrays, whatever the picture; and ``boxes`` that more nodes make."""
    arrays = {name: as_stored(array) for name, array in tables.items()}
    made = [helper.make_node("Identity", [f"c_{name}"], [name]) for name in arrays]
    outputs = [helper.make_tensor_value_info(name, KINDS[a.dtype.kind], list(a.shape)) for name, a in arrays.items()]
    if nodes:
        outputs.append(helper.make_tensor_value_info("boxes", TensorProto.FLOAT, ["n", "m", 4]))
    stored = {**{f"c_{name}": array for name, array in arrays.items()}, **(constants or {})}
    initial = [numpy_helper.from_array(array, name) for name, array in stored.items()]
    pictures = helper.make_tensor_value_info("images", TensorProto.FLOAT, list(image))
    graph = helper.make_graph([*made, *nodes], "tables", [pictures, *inputs], outputs, initial)
    return save(path, graph, metadata)


def as_stored(array):
    kind = np.float32 if np.asarray(array).dtype.kind == "f" else np.int64
    return np.asarray(array, kind)


def write_bright_spots(path, *, image=("n", 3, "y", "x"), multiple=32, metadata=None):
    """(n, 5, cells) as YOLOv8 gives: one candidate a cell of 32 px, as sure as the cell's mean of channel 0.

    Sides must be multiples of `multiple`: a skip connection sees to it, as in the real models.
    """
    nodes = [
        helper.make_node(
            "AveragePool", ["images"], ["pooled"], kernel_shape=[multiple] * 2, strides=[multiple] * 2, ceil_mode=1
        ),
        helper.make_node("Resize", ["pooled", "", "scales"], ["back"], mode="nearest"),
        helper.make_node("Add", ["back", "images"], ["sum"]),
        helper.make_node("AveragePool", ["sum"], ["cells"], kernel_shape=[32, 32], strides=[32, 32]),
        helper.make_node("Slice", ["cells", "zero", "one", "one"], ["first"]),
        helper.make_node("Mul", ["first", "half"], ["score"]),
        helper.make_node("Mul", ["score", "zeros"], ["nothing"]),
        helper.make_node("Add", ["nothing", "sixteen"], ["side"]),
        helper.make_node("Concat", ["side"] * 4 + ["score"], ["grid"], axis=1),
        helper.make_node("Reshape", ["grid", "shape"], ["output0"]),
    ]
    constants = [
        numpy_helper.from_array(np.array([1, 1, multiple, multiple], np.float32), "scales"),
        numpy_helper.from_array(np.array([0], np.int64), "zero"),
        numpy_helper.from_array(np.array([1], np.int64), "one"),
        numpy_helper.from_array(np.array(0.5, np.float32), "half"),
        numpy_helper.from_array(np.array(0, np.float32), "zeros"),
        numpy_helper.from_array(np.array(16, np.float32), "sixteen"),
        numpy_helper.from_array(np.array([0, 5, -1], np.int64), "shape"),
    ]
    graph = helper.make_graph(
        nodes,
        "spots",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, list(image))],
        [helper.make_tensor_value_info("output0", TensorProto.FLOAT, ["n", 5, "a"])],
        constants,
    )
    return save(path, graph, metadata)


def save(path, graph, metadata):
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, metadata or {})
    onnx.save(model, path)
    return path


def ultralytics(names, task="detect", **more):
    """The metadata that ultralytics writes."""
    return {
        "description": "Ultralytics YOLO11n model trained on x.yaml",
        "stride": "32",
        "task": task,
        "batch": "1",
        "imgsz": "[640, 640]",
        "names": str(dict(enumerate(names))),
        **more,
    }
