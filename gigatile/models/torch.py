"""TorchScript, exported programs (``.pt2``) and modules of torch, through the extra ``torch``.

A call uses one thread, the one that calls it, as with onnxruntime: lanes are the parallelism. torch has one number of
threads for a process, so a process that runs such a model has its `torch.set_num_threads` at 1 from then on.
"""

from __future__ import annotations

import copy
import json
import threading
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import cached_property, lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np

from gigatile.errors import ModelError
from gigatile.models.digest import object_digest
from gigatile.models.model import Batch, Prediction
from gigatile.models.onnx import file_digest
from gigatile.models.shipping import arrived
from gigatile.models.torch_archive import archive_kind


class TorchModel:
    """One TorchScript file or exported program: NCHW float32 in, the first tensor that it gives out.

    Raises
    ------
    ModelError
        The file is missing, is neither, or would run its author's code while loading; or the device is not there.
    """

    calls_once = False

    def __init__(self, path: str | Path, device: str = "auto", digest: str = "") -> None:
        self.path = Path(path).absolute()
        self.asked_device = device
        require_torch(self.path.name)
        self._kind = archive_kind(self.path)
        self.digest = file_digest(self.path)
        if digest and digest != self.digest:
            raise ModelError(
                f"model {path}",
                expected=f"the file the run was planned with (sha256 {digest[:12]}...)",
                found=f"another one ({self.digest[:12]}...)",
                fix="Restore the file, or plan again.",
            )
        self._place = _device(device)
        self.channels_in, self.fixed_tile, self.fixed_batch = _declared(self._loaded)

    def __reduce__(self) -> tuple[object, ...]:
        return _arrived, (self.path, self.asked_device, self.digest)

    @property
    def files(self) -> tuple[Path, ...]:
        """See `Model.files`."""
        return (self.path,)

    @property
    def name(self) -> str:
        """The file's name."""
        return self.path.name

    @property
    def device(self) -> str:
        """``cuda`` or ``cpu``."""
        return str(self._place.type)

    @cached_property
    def _loaded(self) -> Any:
        """A script module, or an exported program."""
        import torch

        try:
            if self._kind == "torchscript":
                return torch.jit.load(str(self.path), map_location=self._place).eval()
            program = torch.export.load(str(self.path))
            if self._place.type != "cpu":
                from torch.export.passes import move_to_device_pass

                program = move_to_device_pass(program, str(self._place))
            return program
        except Exception as error:
            # torch raises RuntimeError, ValueError, AssertionError and others of its own for files it cannot load.
            said = str(error).strip().splitlines() or [type(error).__name__]
            raise ModelError(f"model {self.path}", expected="a file that torch loads", found=said[0][:200]) from error

    @cached_property
    def _function(self) -> Any:
        return self._loaded if self._kind == "torchscript" else self._loaded.module()

    def predict(self, batch: Batch) -> Prediction:
        """See `Model.predict`."""
        return _run(self._function, batch, self._place, _first_array)

    def outputs(self, batch: Batch) -> Any:
        """See `Model.outputs`."""
        return _run(self._function, batch, self._place, _arrays)

    @cached_property
    def metadata(self) -> Mapping[str, str]:
        """See `Model.metadata`: what ultralytics puts into a TorchScript file as ``config.txt``."""
        if self._kind != "torchscript":
            return {}
        import torch

        files = {"config.txt": ""}
        torch.jit.load(str(self.path), map_location="cpu", _extra_files=files)
        text = files["config.txt"]
        try:
            said = json.loads(text or "{}")
        except json.JSONDecodeError:
            return {}
        plain = {key: value if isinstance(value, str) else json.dumps(value) for key, value in said.items()}
        return plain if isinstance(said, dict) else {}


class ModuleModel:
    """A `torch.nn.Module` of the user, copied and put into eval mode; travels to workers by value."""

    calls_once = False
    channels_in = None
    fixed_tile = None
    fixed_batch = None

    def __init__(self, module: Any, device: str = "auto") -> None:
        self._place = _device(device)
        # A copy: eval mode and device are ours, the module is the user's.
        self._module = copy.deepcopy(module).eval().to(self._place)
        self._asked_device = device
        self.name = type(module).__qualname__
        self.digest = _module_digest(module)

    def __reduce__(self) -> tuple[object, ...]:
        return ModuleModel, (self._module.cpu() if self.device == "cpu" else self._on_cpu(), self._asked_device)

    def _on_cpu(self) -> Any:
        return copy.deepcopy(self._module).cpu()

    @property
    def device(self) -> str:
        """``cuda`` or ``cpu``."""
        return str(self._place.type)

    @property
    def files(self) -> tuple[Path, ...]:
        """See `Model.files`: objects travel by value."""
        return ()

    def predict(self, batch: Batch) -> Prediction:
        """See `Model.predict`."""
        return _run(self._module, batch, self._place, _first_array)

    def outputs(self, batch: Batch) -> Any:
        """See `Model.outputs`."""
        return _run(self._module, batch, self._place, _arrays)

    metadata: Mapping[str, str] = MappingProxyType({})


def require_torch(name: str) -> None:
    """Refuse, with what to type, where torch is not installed.

    Raises
    ------
    ModelError
        It is not.
    """
    try:
        import torch  # noqa: F401
    except ImportError:
        raise ModelError(
            f"model {name}",
            expected="torch to run it",
            found="it is not installed",
            fix="Type: pip install 'gigatile[torch]'.",
        ) from None


T = TypeVar("T")
_THREADS = threading.local()


def _run(function: Any, batch: Batch, place: Any, taken: Callable[[Any], T]) -> T:
    """One call, without gradients, on one thread of the CPU, and what is taken of its result."""
    import torch

    if not getattr(_THREADS, "is_one", False):
        torch.set_num_threads(1)
        _THREADS.is_one = True
    on_gpu = place.type == "cuda"
    # TF32 and the choice of the fastest kernel change last bits from one run to the next.
    exact = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
    with torch.inference_mode(), exact if on_gpu else nullcontext():
        given = torch.from_numpy(np.ascontiguousarray(batch, dtype=np.float32)).to(place)
        return taken(function(given))


def _array(tensor: Any) -> Prediction:
    """A tensor on the CPU; bfloat16, which numpy does not have, as float32."""
    import torch

    tensor = tensor.detach()
    return np.asarray((tensor.float() if tensor.dtype == torch.bfloat16 else tensor).cpu().numpy())


def _first_array(result: Any) -> Prediction:
    return _array(_first_tensor(result))


def _arrays(result: Any) -> Any:
    """All tensors as arrays: of a dict by name, of tuples and lists, nested ones too, in one list."""
    import torch

    if isinstance(result, torch.Tensor):
        return _array(result)
    if isinstance(result, dict):
        return {str(name): _arrays(value) for name, value in result.items()}
    if not isinstance(result, (list, tuple)):
        raise TypeError(f"expected tensors, or tuples and dicts of them, found {type(result).__name__}")
    parts: list[Any] = []
    for part in map(_arrays, result):
        parts.extend(part if isinstance(part, list) else [part])
    return parts


def _first_tensor(result: Any) -> Any:
    """The tensor itself, or the first of a tuple or dict of them."""
    import torch

    for _ in range(4):
        if isinstance(result, torch.Tensor):
            return result
        values = list(result.values()) if isinstance(result, dict) else result
        if not isinstance(values, (list, tuple)) or not values:
            break
        result = values[0]
    raise TypeError(f"expected a tensor, or a tuple or dict of tensors, found {type(result).__name__}")


def _device(asked: str) -> Any:
    import torch

    there = torch.cuda.is_available()
    if asked == "cpu" or (asked == "auto" and not there):
        return torch.device("cpu")
    if not there:
        raise ModelError(
            f"device {asked}", expected="a torch with CUDA and a GPU", found="none", fix="Type --device cpu."
        )
    place = torch.device("cuda:0" if asked in ("auto", "cuda") else asked)
    if place.index >= torch.cuda.device_count():
        raise ModelError(f"device {asked}", expected=f"one of {torch.cuda.device_count()} GPUs", found=str(place.index))
    return place


def _declared(loaded: Any) -> tuple[int | None, tuple[int, int] | None, int | None]:
    """Channels, tile and batch that an exported program was made for; a script says none of them.

    Raises
    ------
    ModelError
        The program takes anything but one float32 tensor of four axes.
    """
    import torch

    if not isinstance(loaded, torch.export.ExportedProgram):
        return None, None, None
    names = set(loaded.graph_signature.user_inputs)
    given = [node.meta["val"] for node in loaded.graph.nodes if node.op == "placeholder" and node.name in names]
    if len(given) != 1 or not isinstance(given[0], torch.Tensor) or given[0].ndim != 4:
        raise ModelError(
            "model",
            expected="one input of four axes (batch, channels, y, x)",
            found=", ".join(str(tuple(value.shape)) if hasattr(value, "shape") else str(value) for value in given),
            fix="Export the module for one image batch.",
        )
    if given[0].dtype != torch.float32:
        raise ModelError("model", expected="a float32 input", found=str(given[0].dtype))
    n, c, y, x = (side if isinstance(side, int) else None for side in given[0].shape)
    return c, (y, x) if y is not None and x is not None else None, n


def _module_digest(module: Any) -> str:
    """Source of the class and everything in the module's state, in order of name."""
    state = {name: tensor.detach().cpu().numpy() for name, tensor in module.state_dict().items()}
    return object_digest((type(module), repr(module), state))


@lru_cache(maxsize=2)
def _arrived(path: Path, device: str, digest: str) -> TorchModel:
    """On a worker: the model, once for all images that it is run on."""
    return arrived(digest, path, lambda place: TorchModel(place, device, digest))
