"""What a torch file is, told from its archive before torch opens it: only what runs no code of the file's author.

::

    NAME/code/..., NAME/constants.pkl       TorchScript: its own small language, and an unpickler without imports
    NAME/archive_format = pt2               torch.export: a graph as JSON and raw weights
    NAME/data.pkl alone                     a pickle of Python objects: loading it runs whatever its author wrote

torch 2.13 unpickles parts of a ``.pt2``, too (weights saved with ``use_pickle``, custom objects, sample inputs with
classes) and hands sizes of the graph to ``sympify``, which evaluates text. So such parts are looked for and refused.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

from gigatile.errors import ModelError

Kind = Literal["torchscript", "export"]
MOST_JSON_BYTES = 256 << 20
_SIZE_WORDS = {
    *("Max", "Min", "Mod", "Eq", "Ne", "Lt", "Le", "Gt", "Ge", "And", "Or", "Not", "Abs", "Integer", "Rational"),
    *("FloorDiv", "CleanDiv", "CeilDiv", "PythonMod", "ModularIndexing", "Where", "IntTrueDiv", "FloatTrueDiv"),
    *("FloatPow", "PowByNatural", "CeilToInt", "FloorToInt", "RoundToInt", "TruncToInt", "ToFloat", "Identity"),
    *(
        "True",
        "False",
        "true",
        "false",
        "oo",
        "int_oo",
        "Symbol",
        "Add",
        "Mul",
        "Pow",
        "Integer",
        "positive",
        "integer",
    ),
    *("nonnegative", "negative", "nonzero", "real", "finite", "zero", "commutative"),
}
"""Names of sympy and of torch.utils._sympy.functions that sizes are written with."""
_DESERIALISED = ("expr_str", "hint_expr_str")


def archive_kind(path: Path) -> Kind:
    """Whether a file is TorchScript or an exported program, and safe to open.

    Raises
    ------
    ModelError
        It is neither, or opening it would run code of its author.
    """
    if not path.is_file():
        raise ModelError(f"model {path}", expected="a TorchScript or torch.export file", found="no such file")
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name.partition("/")[2] for name in archive.namelist()]
            if "archive_format" in names or any(name.startswith("models/") for name in names):
                _check_program(path, archive)
                return "export"
    except (zipfile.BadZipFile, OSError, RecursionError, ValueError) as error:
        if isinstance(error, ModelError):
            raise
        raise _pickle(path, "no archive of torch") from error
    if "constants.pkl" in names and any(name.startswith("code/") for name in names):
        return "torchscript"
    if "serialized_exported_program.json" in names:
        raise ModelError(f"model {path}", expected="a .pt2 of torch 2.8 or newer", found="one of an older torch")
    raise _pickle(path, "a pickle of Python objects" if "data.pkl" in names else "another archive")


def _pickle(path: Path, found: str) -> ModelError:
    return ModelError(
        f"model {path}",
        expected="TorchScript (torch.jit.save) or an exported program (torch.export.save)",
        found=found,
        fix="Loading a pickle would run whatever code it holds, so it is not done. Load it where you trust it, and "
        "save the module with torch.jit.script(module).save(...), torch.export.save(...) or torch.onnx.export(...).",
    )


def _check_program(path: Path, archive: zipfile.ZipFile) -> None:
    """Refuse the parts of an exported program that torch would unpickle, evaluate or run."""
    for info in archive.infolist():
        name = info.filename.partition("/")[2]
        if name.startswith("data/aotinductor/") or name.endswith((".so", ".dll", ".dylib", ".pyd")):
            raise _refused(path, name, "compiled code")
        if name.startswith(("data/weights/", "data/constants/")) and name.endswith(".pt"):
            raise _refused(path, name, "a pickle")
        if "/custom_obj" in name or "/opaque_obj" in name:
            raise _refused(path, name, "a pickled object")
        if name.endswith(".json"):
            if info.file_size > MOST_JSON_BYTES:
                raise _refused(path, name, f"{info.file_size} bytes of JSON")
            _check_json(path, name, json.loads(archive.read(info)))
        if name.startswith("data/sample_inputs/"):
            _check_sample(path, name, archive.read(info))


def _check_json(path: Path, name: str, content: Any) -> None:
    for key, value in _items(content):
        if key == "use_pickle" and value is not False:
            raise _refused(path, name, "pickled weights")
        if key in _DESERIALISED and isinstance(value, str):
            # Symbol('s0', positive=True): the only text that a size has inside.
            bare = re.sub(r"'[su]\d+'", "s0", value)
            words = set(re.findall(r"[^\W\d]\w*", bare)) - _SIZE_WORDS
            odd = {word for word in words if re.fullmatch(r"[su]\d+", word) is None}
            if odd or re.fullmatch(r"[\w\s+\-*/%(),<>=|&~]*", bare) is None:
                raise _refused(path, name, f"the size {value[:60]!r}")
        if key == "path_name" and isinstance(value, str) and value.startswith(("custom_obj", "opaque_obj")):
            raise _refused(path, name, "a pickled object")


def _items(content: Any) -> Iterator[tuple[str, Any]]:
    """Every key and value, at any depth, without recursion: graphs may be deep."""
    stack = [content]
    while stack:
        node = stack.pop()
        if isinstance(node, dict):
            yield from node.items()
            stack += node.values()
        elif isinstance(node, list):
            stack += node


def _check_sample(path: Path, name: str, content: bytes) -> None:
    """torch falls back to a full unpickler for inputs that its restricted one refuses; we do not."""
    import torch

    try:
        torch.load(BytesIO(content), weights_only=True)
    except Exception as error:
        # Unpickling fails in as many ways as there are broken pickles.
        raise _refused(path, name, f"sample inputs that are not plain tensors ({type(error).__name__})") from error


def _refused(path: Path, part: str, found: str) -> ModelError:
    return ModelError(
        f"model {path}",
        expected="an exported program of plain weights and a graph",
        found=f"{found} in {part}",
        fix="torch would run it while loading; export the module again without custom objects.",
    )
