"""Python functions and classes as models: ``package.module:name``, ``file.py:name``, or the object itself."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import queue
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

from gigatile.errors import ModelError
from gigatile.models.digest import object_digest
from gigatile.models.model import Batch, Prediction
from gigatile.models.shipping import arrived


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
    metadata: Mapping[str, str] = MappingProxyType({})

    def __init__(self, target: Any, name: str, digest: str) -> None:
        self._target = target
        self.name, self.digest = name, digest
        self._idle: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def __reduce__(self) -> tuple[object, ...]:
        return CallableModel, (self._target, self.name, self.digest)

    @property
    def files(self) -> tuple[Path, ...]:
        """See `Model.files`: objects travel by value."""
        return ()

    def predict(self, batch: Batch) -> Prediction:
        """See `Model.predict`."""
        result: Prediction = self.outputs(batch)
        return result

    def outputs(self, batch: Batch) -> Any:
        """See `Model.outputs`: what the callable returns."""
        if not inspect.isclass(self._target):
            return self._target(batch)
        try:
            instance = self._idle.get_nowait()
        except queue.Empty:
            instance = self._target()
        try:
            return instance(batch)
        finally:
            self._idle.put(instance)


class NamedModel(CallableModel):
    """A callable that is imported by its name, here and on every worker."""

    def __init__(self, spec: str, folder: str = "", digest: str = "") -> None:
        self._spec, self._folder = spec, folder or str(Path.cwd())
        module, name, source_digest = _import(spec, self._folder, digest)
        target: Any = module
        for part in name.split("."):
            target = getattr(target, part, None)
        if not callable(target):
            raise ModelError(
                f"model {spec}",
                expected=f"a function or class {name!r} in {spec.rpartition(':')[0]}",
                found="no such name" if target is None else f"a {type(target).__name__}",
            )
        found = _digest(source_digest, name)
        if digest and digest != found:
            raise _another(spec)
        super().__init__(target, Path(spec).name if ".py:" in spec else spec, found)

    def __reduce__(self) -> tuple[object, ...]:
        return _arrived, (self._spec, self._folder, self.digest)

    @property
    def files(self) -> tuple[Path, ...]:
        """See `Model.files`: a ``file.py``; modules are installed on the workers."""
        place = self._spec.rpartition(":")[0]
        return (Path(self._folder, place),) if place.endswith(".py") else ()


def _arrived(spec: str, folder: str, digest: str) -> NamedModel:
    """On a worker: by its name there, or from the file that came along."""
    place, _, name = spec.rpartition(":")

    def load(path: Path) -> NamedModel:
        return NamedModel(f"{path}:{name}" if place.endswith(".py") else spec, folder, digest)

    return arrived(digest, Path(folder, place), load)


def from_object(target: Any) -> CallableModel:
    """Wrap a function, a class or an instance with ``__call__``.

    Raises
    ------
    ModelError
        It is not callable.
    """
    if not callable(target):
        raise ModelError("model", expected="a path, module:name or a callable", found=repr(target))
    name = getattr(target, "__qualname__", type(target).__qualname__)
    return CallableModel(target, name, object_digest(target))


def is_torch_module(target: Any) -> bool:
    """Whether an object is a `torch.nn.Module`, found out without importing torch."""
    return any(base.__module__.startswith("torch.nn") for base in type(target).__mro__)


def _digest(source_digest: str, name: str) -> str:
    return hashlib.sha256(f"{source_digest}:{name}".encode()).hexdigest()


def _another(spec: str) -> ModelError:
    return ModelError(
        f"model {spec}",
        expected="the source that the run was planned with",
        found="another version of it on this worker",
        fix="Install the same version everywhere.",
    )


def _import(spec: str, folder: str, digest: str) -> tuple[ModuleType, str, str]:
    """Module, name and digest of the source, for ``module:name`` or ``file.py:name``; `folder` is importable.

    Raises
    ------
    ModelError
        There is no such module or file, or importing it raises; or a digest is given, and the file has another: it may
        come from a run directory, and is not run.
    """
    place, _, name = spec.rpartition(":")
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        if place.endswith(".py"):
            module, found = _run_file(Path(folder, place), name, digest)
        else:
            module, found = _import_module(place)
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(
            f"model {spec}",
            expected="a module that can be imported",
            found=f"{type(error).__name__}: {error}",
        ) from error
    return module, name, found


def _run_file(path: Path, name: str, planned: str) -> tuple[ModuleType, str]:
    """A file as a module of its own, made anew for each content: workers outlive the edits of their users."""
    if not path.is_file():
        raise ModelError(f"model {path.name}", expected="a Python file", found=f"no file {path}")
    source = path.read_bytes()
    digest = hashlib.sha256(source).hexdigest()
    if planned and _digest(digest, name) != planned:
        raise _another(f"{path}:{name}")
    key = f"gigatile_model_{path.stem}_{hashlib.sha256(f'{path}:{digest}'.encode()).hexdigest()[:12]}"
    if key not in sys.modules:
        module = ModuleType(key)
        module.__file__ = str(path)
        # Compiled here and not by an import: a cached pyc is told from its source by whole seconds only.
        code = compile(source, str(path), "exec")
        sys.modules[key] = module
        try:
            exec(code, module.__dict__)
        except BaseException:
            del sys.modules[key]
            raise
    return sys.modules[key], digest


_IMPORTED: dict[str, tuple[object, str]] = {}
"""The import (its spec, which a reload replaces) and source digest of each module that models came from."""


def _import_module(place: str) -> tuple[ModuleType, str]:
    module = importlib.import_module(place)
    file = getattr(module, "__file__", None)
    if file is None:
        raise ModelError(f"model {place}", expected="a module with a source file", found=f"{place}, which has none")
    digest = hashlib.sha256(Path(file).read_bytes()).hexdigest()
    loaded, known = _IMPORTED.setdefault(place, (module.__spec__, digest))
    if loaded is not module.__spec__:
        _IMPORTED[place] = (module.__spec__, digest)
    elif known != digest:
        raise ModelError(
            f"model {place}",
            expected="the source that this process has imported",
            found=f"{file} changed since",
            fix="Restart the process (the workers, on a cluster), or name it as file.py:name.",
        )
    return module, digest
