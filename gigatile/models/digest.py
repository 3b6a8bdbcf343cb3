"""What a callable is, as a digest: its source and what it carries along, the same in every process.

Pickles will not do: those of classes that cloudpickle takes by value hold a number drawn anew in each process, so that
a run could never be resumed, and sessions, locks and open files have none at all. So values are walked as pickle would
walk them, and hashed on the way.
"""

from __future__ import annotations

import copyreg
import hashlib
import inspect
from functools import partial
from types import CodeType, ModuleType
from typing import Any, Protocol

import numpy as np

_PLAIN = (str, bytes, bool, int, float, complex, type(None), type(...))


class _Hash(Protocol):
    def update(self, data: bytes, /) -> None: ...


def object_digest(target: Any) -> str:
    """sha256 of source and state, so that another function under the same name is another model.

    Counted are the source text of functions and classes, what functions close over, defaults, arguments of partials
    and attributes of objects. Not counted are global variables that a function reads and what cannot be pickled
    (locks, sessions): of these only the type.
    """
    digest = hashlib.sha256()
    _feed(digest, target, set())
    return digest.hexdigest()


def _feed(digest: _Hash, value: Any, open_ids: set[int]) -> None:
    """Hash a value and what it holds; a value inside itself counts once."""
    digest.update(f"|{type(value).__name__}:".encode())
    if isinstance(value, _PLAIN):
        digest.update(repr(value).encode())
    elif isinstance(value, np.ndarray) and value.dtype.kind != "O":
        digest.update(f"{value.dtype}{value.shape}".encode() + np.ascontiguousarray(value).tobytes())
    elif id(value) not in open_ids:
        open_ids.add(id(value))
        for part in _parts(value):
            _feed(digest, part, open_ids)
        open_ids.discard(id(value))


def _parts(value: Any) -> list[Any]:
    """What a value consists of, in an order that does not depend on the process."""
    if isinstance(value, (list, tuple)) and type(value) in (list, tuple):
        return list(value)
    if type(value) is dict:
        return [part for key in sorted(value, key=repr) for part in (key, value[key])]
    if type(value) in (set, frozenset):
        return sorted(value, key=repr)
    if isinstance(value, ModuleType):
        return [value.__name__]
    if inspect.isclass(value):
        return [_source(value)]
    if isinstance(value, partial):
        return [value.func, value.args, value.keywords]
    if inspect.ismethod(value):
        return [value.__func__, value.__self__]
    if inspect.isfunction(value):
        return [_source(value), *_bytecode(value), _closed_over(value), value.__defaults__, value.__kwdefaults__]
    return [type(value), getattr(value, "__qualname__", getattr(value, "__name__", "")), *_reduced(value)]


def _source(value: Any) -> str:
    """Source text, or the full name of what has none."""
    try:
        return inspect.getsource(value)
    except (OSError, TypeError):
        return _full_name(value)


def _full_name(value: Any) -> str:
    return f"{value.__module__}.{value.__qualname__}"


def _bytecode(function: Any) -> list[Any]:
    """Of lambdas, which may share a line of source, and of functions without source; of no others, since
    it changes with the version of Python.
    """
    if function.__name__ == "<lambda>" or _source(function) == _full_name(function):
        return _code(function.__code__)
    return []


def _code(code: CodeType) -> list[Any]:
    constants = [_code(c) if isinstance(c, CodeType) else c for c in code.co_consts]
    return [code.co_code, code.co_names, constants]


def _closed_over(function: Any) -> list[Any]:
    values = []
    for cell in function.__closure__ or ():
        try:
            values.append(cell.cell_contents)
        except ValueError:  # not assigned yet
            values.append(None)
    return values


def _reduced(value: Any) -> list[Any]:
    """The pieces that pickle would store; nothing for what it cannot store."""
    try:
        reduce = copyreg.dispatch_table.get(type(value))
        reduced = reduce(value) if reduce else value.__reduce_ex__(4)
    except (TypeError, AttributeError, NotImplementedError, RuntimeError):
        return []
    if isinstance(reduced, str):
        return [reduced]
    return [part if part is None or i < 3 else list(part) for i, part in enumerate(reduced[:5])]
