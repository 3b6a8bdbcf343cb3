"""Text that others wrote: YAML and JSON as plain values, and the files that it names. Nothing in it is run."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

from gigatile.errors import ModelError, UsageError

MOST_BYTES = 8 << 20
"""Cards are kilobytes; what is larger is something else."""
PIECE_BYTES = 1 << 20
LONGEST_NAME = 255


class SafeLoader(yaml.SafeLoader):
    """YAML's safe loader; a key that stands twice is an error instead of the last one winning, and so are aliases:
    ten lines of them can stand for gigabytes."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """The next node, unless it is an alias."""
        if self.check_event(yaml.AliasEvent):
            raise yaml.composer.ComposerError(None, None, "an alias (*name): write it out", self.get_mark())
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Build a mapping whose keys are all different."""
        seen: set[object] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(None, None, f"{key!r} is no key", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} stands twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def yaml_mapping(path: Path) -> dict[str, Any]:
    """A YAML file of ``key: value`` lines.

    Raises
    ------
    UsageError
        It is too large, not YAML in UTF-8, or no mapping: names the file and the line.
    """
    text = _text(path, "YAML")
    try:
        content = yaml.load(text, SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UsageError(f"{path}{line}", expected="YAML", found=error.problem or "something else") from error
    except yaml.YAMLError as error:
        raise UsageError(str(path), expected="YAML", found=" ".join(str(error).split())) from error
    except RecursionError as error:
        raise UsageError(str(path), expected="one 'key: value' a line", found="lists nested too deeply") from error
    if not isinstance(content, dict):
        raise UsageError(str(path), expected="one 'key: value' a line", found=type(content).__name__)
    return content


def json_mapping(path: Path) -> dict[str, Any]:
    """A JSON file that holds an object.

    Raises
    ------
    UsageError
        It is too large, not JSON in UTF-8, or no object.
    """
    try:
        content = json.loads(_text(path, "JSON"))
    except json.JSONDecodeError as error:
        raise UsageError(f"{path}, line {error.lineno}", expected="JSON", found=error.msg) from error
    except RecursionError as error:
        raise UsageError(str(path), expected="a JSON object", found="lists nested too deeply") from error
    if not isinstance(content, dict):
        raise UsageError(str(path), expected="a JSON object", found=type(content).__name__)
    return content


def _text(path: Path, kind: str) -> str:
    if path.stat().st_size > MOST_BYTES:
        raise UsageError(str(path), expected=f"a {kind} file of a few kilobytes", found=f"{path.stat().st_size} bytes")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(str(path), expected=f"a {kind} file in UTF-8", found="other bytes") from error


def file_beside(card: Path, source: str, key: str) -> Path:
    """The file that a card names: in its folder or below. It need not be there.

    A URL stands for the file of the same name beside the card, which is where packages of models have it.

    Raises
    ------
    ModelError
        The name leads out of the card's folder.
    """
    if "://" in source:
        source = unquote(PurePosixPath(urlsplit(source).path).name)
    parts = PurePosixPath(source), PureWindowsPath(source)
    outside = not source or "\0" in source or len(source.encode()) > LONGEST_NAME
    outside = outside or any(part.is_absolute() or ".." in part.parts for part in parts)
    path = card.parent / source
    if not outside:
        # Model hubs keep a folder of links into a folder of contents: the card is such a link itself.
        homes = {card.parent.resolve(), card.resolve().parent}
        outside = not any(path.resolve().is_relative_to(home) for home in homes)
    if outside:
        raise ModelError(
            f"{card}: {key}",
            expected="a file in the card's folder",
            found=repr(source),
            fix="Put it beside the card, and name it by its name alone.",
        )
    return path


def existing_file(card: Path, source: str, key: str, sha256: str | None = None) -> Path:
    """`file_beside`, which has to be there and to have its digest.

    Raises
    ------
    ModelError
        It leads out of the folder, is missing, or has other content than the card was written for.
    """
    path = file_beside(card, source, key)
    if not path.is_file():
        fix = f"Download {source} to that place." if "://" in source else ""
        raise ModelError(f"{card}: {key}", expected=f"a file {path.name} beside it", found="none", fix=fix)
    check_sha256(card, path, sha256, key)
    return path


def check_sha256(card: Path, path: Path, sha256: str | None, key: str) -> None:
    """Refuse a file of another content than the card says.

    Raises
    ------
    ModelError
        The digests differ.
    """
    if not sha256:
        return
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(PIECE_BYTES):
            digest.update(piece)
    if digest.hexdigest() != str(sha256).strip().lower():
        raise ModelError(
            f"{card}: {key}",
            expected=f"{path.name} with sha256 {str(sha256)[:12]}...",
            found=f"{digest.hexdigest()[:12]}...",
            fix="It is damaged or of another version: download it again.",
        )
