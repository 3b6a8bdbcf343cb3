"""Python functions and classes as models: ``package.module:name``, ``file.py:name``, or the object itself."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import queue
import sys
from pathlib import Path
from typing import Any

from gigatile.errors import ModelError
from gigatile.models.digest import object_digest
from gigatile.models.model import Batch, Prediction


class CallableModel:
    """A function on batches, or a class of which each lane gets an instance.

    A function may be called from several threads at once. A class is instantiated when no instance is idle,
    so one instance never runs twice at the same time and there are never more than there are lanes.
    """

    channels_in = None
    fixed_tile = None
    fixed_batch = None
    device = "cpu"
    calls_once = True

    def __init__(self, target: Any, name: str, digest: str) -> None:
        self._target = target
        self.name, self.digest = name, digest
        self._idle: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def __reduce__(self) -> tuple[object, ...]:
        return CallableModel, (self._target, self.name, self.digest)

    def predict(self, batch: Batch) -> Prediction:
        """See `Model.predict`."""
        if not inspect.isclass(self._target):
            result: Prediction = self._target(batch)
            return result
        try:
            instance = self._idle.get_nowait()
        except queue.Empty:
            instance = self._target()
        try:
            answer: Prediction = instance(batch)
            return answer
        finally:
            self._idle.put(instance)


class NamedModel(CallableModel):
    """A callable that is imported by its name, here and on every worker."""

    def __init__(self, spec: str, folder: str = "", digest: str = "") -> None:
        self._spec, self._folder = spec, folder or str(Path.cwd())
        module, name = _import(spec, self._folder)
        target: Any = module
        for part in name.split("."):
            target = getattr(target, part, None)
        if not callable(target):
            raise ModelError(
                f"model {spec}",
                expected=f"a function or class {name!r} in {spec.rpartition(':')[0]}",
                found="no such name" if target is None else f"a {type(target).__name__}",
            )
        found = hashlib.sha256(Path(module.__file__ or "").read_bytes() + name.encode()).hexdigest()
        if digest and digest != found:
            raise ModelError(
                f"model {spec}",
                expected="the source that the run was planned with",
                found="another version of it on this worker",
                fix="Install the same version everywhere.",
            )
        super().__init__(target, Path(spec).name if ".py:" in spec else spec, found)

    def __reduce__(self) -> tuple[object, ...]:
        return NamedModel, (self._spec, self._folder, self.digest)


def from_object(target: Any) -> CallableModel:
    """Wrap a function, a class or an instance with ``__call__``.

    Raises
    ------
    ModelError
        It is not callable, or is a torch module.
    """
    if not callable(target):
        raise ModelError("model", expected="a path, module:name or a callable", found=repr(target))
    if any(base.__module__.startswith("torch.nn") for base in type(target).__mro__):
        raise ModelError(
            f"model {type(target).__name__}",
            expected="an ONNX file or a function of numpy arrays",
            found="a torch module",
            fix="Wrap it: lambda batch: module(torch.from_numpy(batch)).detach().numpy()",
        )
    name = getattr(target, "__qualname__", type(target).__qualname__)
    return CallableModel(target, name, object_digest(target))


def _import(spec: str, folder: str) -> tuple[Any, str]:
    """Import the module of ``module:name`` or ``file.py:name``; `folder` is importable."""
    place, _, name = spec.rpartition(":")
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        if not place.endswith(".py"):
            return importlib.import_module(place), name
        path = Path(folder, place)
        if not path.is_file():
            raise ModelError(f"model {spec}", expected="a Python file", found=f"no file {path}")
        key = f"gigatile_model_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
        if key not in sys.modules:
            loader = importlib.util.spec_from_file_location(key, path)
            assert loader is not None and loader.loader is not None
            module = importlib.util.module_from_spec(loader)
            sys.modules[key] = module
            loader.loader.exec_module(module)
        return sys.modules[key], name
    except ModelError:
        raise
    except Exception as error:
        sys.modules.pop(place, None)
        raise ModelError(
            f"model {spec}",
            expected="a module that can be imported",
            found=f"{type(error).__name__}: {error}",
        ) from error
