"""ONNX models through onnxruntime.

One session a process, shared by all lanes: a run uses one thread, the one that calls it. Two lanes of one
thread were faster than one of two, and idle threads that spin take cores from the readers (0.49 -> 0.84 of the
limit without them).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cached_property, lru_cache
from glob import escape
from pathlib import Path
from typing import Any

import numpy as np

from gigatile.errors import ModelError
from gigatile.models.model import Batch, Prediction
from gigatile.models.shipping import arrived

_FLOATS = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64}
_NUMBERS = {*_FLOATS, "tensor(int64)", "tensor(int32)", "tensor(uint8)"}
TARGET_SIZES = "orig_target_sizes"
"""Second input of RT-DETR, width and height: ``rtdetr_pytorch/tools/export_onnx.py`` of lyuwenyu/RT-DETR."""
MAX_CHANNELS = 64
"""A first or last axis longer than this is taken for a side of the tile, not for channels."""


class OnnxModel:
    """One ``.onnx`` file: NCHW or NHWC, any or one size, any or one batch; CHW is a batch of one.

    Raises
    ------
    ModelError
        The file is missing or no ONNX model, has no image input, or the device is not there.
    """

    calls_once = False

    def __init__(self, path: str | Path, device: str = "auto", digest: str = "") -> None:
        self.path = Path(path).absolute()
        self.asked_device = device
        if not self.path.is_file():
            raise ModelError(f"model {path}", expected="an ONNX file", found="no such file")
        self.digest = file_digest(self.path)
        if digest and digest != self.digest:
            raise ModelError(
                f"model {path}",
                expected=f"the file the run was planned with (sha256 {digest[:12]}...)",
                found=f"another one ({self.digest[:12]}...)",
                fix="Restore the file, or plan again.",
            )
        session = self._session
        self._input = session.get_inputs()[0]
        self._size_input = self._check_inputs(session.get_inputs())
        self._in_dtype = _FLOATS[self._input.type]
        shape = self._input.shape
        # Without an axis of tiles it takes one: torchvision's detectors.
        shape = [1, *shape] if len(shape) == 3 else shape
        self._last = self._channels_last(shape)
        n, *rest = shape
        c, y, x = (rest[2], rest[0], rest[1]) if self._last else rest
        self.channels_in = c if isinstance(c, int) and c > 0 else None
        sides = tuple(side for side in (y, x) if isinstance(side, int) and side > 0)
        self.fixed_tile = (sides[0], sides[1]) if len(sides) == 2 else None
        self.fixed_batch = n if isinstance(n, int) and n > 0 else None

    def __reduce__(self) -> tuple[object, ...]:
        return _arrived, (self.path, self.asked_device, self.digest)

    @property
    def files(self) -> tuple[Path, ...]:
        """See `Model.files`: the file, and weights beside it."""
        return self.path, *_weights(self.path)

    @property
    def name(self) -> str:
        """The file's name."""
        return self.path.name

    @cached_property
    def device(self) -> str:
        """``cuda`` where the CUDA provider runs the session, else ``cpu``."""
        return "cuda" if self._session.get_providers()[0] == "CUDAExecutionProvider" else "cpu"

    @cached_property
    def _session(self) -> Any:
        try:
            import onnxruntime as ort
        except ImportError:
            raise ModelError(
                f"model {self.path.name}",
                expected="onnxruntime to run ONNX files",
                found="it is not installed",
                fix="Type: pip install 'gigatile[cpu]' (or 'gigatile[gpu]').",
            ) from None
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # What goes wrong comes back as an exception; 4 keeps it from being printed as well.
        options.log_severity_level = 4
        try:
            return ort.InferenceSession(str(self.path), options, providers=self._providers(ort))
        except Exception as error:
            # onnxruntime has one exception class per status code and no common base but Exception.
            raise ModelError(
                f"model {self.path}", expected="an ONNX model", found=str(error).splitlines()[0][:200]
            ) from error

    def _providers(self, ort: Any) -> list[Any]:
        there = "CUDAExecutionProvider" in ort.get_available_providers()
        kind, _, index = self.asked_device.partition(":")
        if kind == "cuda" and not there:
            raise ModelError(
                "device cuda",
                expected="an onnxruntime with CUDA",
                found=f"only {', '.join(ort.get_available_providers())}",
                fix="Install 'gigatile[gpu]', or type --device cpu.",
            )
        cuda: list[Any] = [("CUDAExecutionProvider", {"device_id": int(index or 0)})]
        return (cuda if there and kind != "cpu" else []) + ["CPUExecutionProvider"]

    def predict(self, batch: Batch) -> Prediction:
        """See `Model.predict`; channels are moved to where the model wants them and back."""
        result: Prediction = self._run(self._maps, batch)[0]
        if result.ndim == 3:
            result = result[:, None]
        sides = batch.shape[2:]
        # (n, 16, 16, 16) fits both layouts: then that of the input is taken for that of the output.
        if result.ndim == 4 and result.shape[1:3] == sides and (self._last or result.shape[2:] != sides):
            result = np.ascontiguousarray(result.transpose(0, 3, 1, 2))
        return result

    def outputs(self, batch: Batch) -> dict[str, Prediction]:
        """See `Model.outputs`: the tables by name; maps of prototypes and features are not computed."""
        return dict(zip(self._tables, self._run(self._tables, batch), strict=True))

    @cached_property
    def metadata(self) -> Mapping[str, str]:
        """See `Model.metadata`: the ``metadata_props``."""
        found: dict[str, str] = self._session.get_modelmeta().custom_metadata_map
        return found

    def _run(self, outputs: list[str], batch: Batch) -> list[Prediction]:
        """Some outputs of a batch, which is put into the layout that the model takes."""
        given = batch.astype(self._in_dtype, copy=False)
        if self._last:
            given = np.ascontiguousarray(given.transpose(0, 2, 3, 1))
        if len(self._input.shape) == 3:
            given = given[0]
        feed = {self._input.name: given}
        if self._size_input:
            height, width = batch.shape[2:]
            feed[self._size_input] = np.full((len(batch), 2), (width, height), np.int64)
        found: list[Prediction] = self._session.run(outputs, feed)
        return found

    @cached_property
    def _maps(self) -> list[str]:
        """The first output that can be one map per tile."""
        outputs = self._session.get_outputs()
        maps = [o.name for o in outputs if len(o.shape or ()) in (3, 4)] or [outputs[0].name]
        return maps[:1]

    @cached_property
    def _tables(self) -> list[str]:
        """Outputs of numbers, of up to three axes; all where there is none, or where the file does not say."""
        outputs = [o for o in self._session.get_outputs() if o.type in _NUMBERS]
        return [o.name for o in outputs if len(o.shape or ()) <= 3] or [o.name for o in outputs]

    def _check_inputs(self, inputs: list[Any]) -> str:
        """The name of the input that takes the sides of the tile, as RT-DETR's does; empty where there is none."""
        shape, kind = self._input.shape, self._input.type
        sizes = [put.name for put in inputs[1:] if put.name == TARGET_SIZES and put.type == "tensor(int64)"]
        if len(inputs) != 1 + len(sizes) or len(shape) not in (3, 4) or kind not in _FLOATS:
            raise ModelError(
                f"model {self.path.name}",
                expected="one input of four axes of floats (batch, channels, y, x)",
                found=f"{len(inputs)} inputs, the first {kind} {shape}",
                fix="Export the model for one image batch in float32.",
            )
        return sizes[0] if sizes else ""

    @staticmethod
    def _channels_last(shape: list[Any]) -> bool:
        """NHWC if only the last axis can be channels, or is a smaller number than the second.

        Where two neighbouring axes are equal they are the sides of a square tile, whatever the bands.
        """
        _, a, b, c = shape
        if all(isinstance(side, int) for side in (a, b, c)) and (a == b) != (b == c):
            return bool(a == b)

        def channels(axis: Any) -> int | None:
            return axis if isinstance(axis, int) and 0 < axis <= MAX_CHANNELS else None

        first, last = channels(shape[1]), channels(shape[3])
        return last is not None and (first is None or (last < first and shape[1] == shape[2]))


def file_digest(path: Path) -> str:
    """sha256 of a model file and of the weights that lie beside it as ``<name>.data``."""
    digest = hashlib.sha256()
    for part in (path, *_weights(path)):
        with part.open("rb") as file:
            while piece := file.read(1 << 20):
                digest.update(piece)
    return digest.hexdigest()


def _weights(path: Path) -> tuple[Path, ...]:
    return tuple(sorted(path.parent.glob(escape(path.name) + ".data*")))


@lru_cache(maxsize=2)
def _arrived(path: Path, device: str, digest: str) -> OnnxModel:
    """On a worker: the model, once for all images that it is run on."""
    return arrived(digest, path, lambda place: OnnxModel(place, device, digest))
