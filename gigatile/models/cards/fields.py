"""Fields of a card, each taken with its kind checked, so that a damaged card is one clear error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gigatile.errors import ModelError

LARGEST = 2**53
"""Integers up to here are numbers of a card; what is larger is damage."""


def _is_number(value: object) -> bool:
    """Whether a value is finite, and no bool, which is an int to Python."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= LARGEST


@dataclass(frozen=True, slots=True)
class Fields:
    """A mapping of a card, with the place that messages name."""

    content: Mapping[str, Any]
    where: str

    def at(self, key: str) -> str:
        """How messages name a key."""
        return f"{self.where}.{key}" if ": " in self.where else f"{self.where}: {key}"

    def refuse(self, key: str, expected: str, fix: str = "") -> ModelError:
        """The error for a key whose value is not what it should be."""
        found = repr(self.content[key])[:200] if key in self.content else "none"
        return ModelError(self.at(key), expected=expected, found=found, fix=fix)

    def has(self, key: str) -> bool:
        """Whether the key is there and not null."""
        return self.content.get(key) is not None

    def text(self, key: str, default: str | None = None) -> str:
        """Text; `default` where the key is absent, which is an error without one."""
        if default is not None and not self.has(key):
            return default
        value = self.content.get(key)
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            raise self.refuse(key, "text")
        return str(value)

    def number(self, key: str, default: float | None = None) -> float:
        """A number; `default` where the key is absent, which is an error without one."""
        if default is not None and not self.has(key):
            return default
        value = self.content.get(key)
        if not _is_number(value):
            raise self.refuse(key, "a number")
        return float(value)  # type: ignore[arg-type]  # a number, see above

    def whole(self, key: str, default: int | None = None) -> int:
        """A whole number; `default` where the key is absent, which is an error without one."""
        value = self.number(key, default)
        if value != int(value):
            raise self.refuse(key, "a whole number")
        return int(value)

    def numbers(self, key: str, default: float | None = None) -> tuple[float, ...]:
        """A number, or a list of them."""
        value = self.content.get(key)
        if not isinstance(value, list):
            return (self.number(key, default),)
        if not value or not all(map(_is_number, value)):
            raise self.refuse(key, "numbers")
        return tuple(float(item) for item in value)

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of texts; none where the key is absent."""
        value = self.content.get(key)
        if value is None:
            return ()
        if not isinstance(value, list) or not all(isinstance(item, (str, int, float)) for item in value):
            raise self.refuse(key, "a list of texts")
        return tuple(str(item) for item in value)

    def mapping(self, key: str) -> Fields:
        """A mapping inside; an empty one where the key is absent."""
        value = self.content.get(key)
        if value is None:
            return Fields({}, self.at(key))
        if not isinstance(value, dict):
            raise self.refuse(key, "a mapping")
        return Fields(value, self.at(key))

    def mappings(self, key: str) -> tuple[Fields, ...]:
        """A list of mappings; none where the key is absent."""
        value = self.content.get(key)
        if value is None:
            return ()
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            raise self.refuse(key, "a list of mappings")
        return tuple(Fields(item, self.at(f"{key}[{i}]")) for i, item in enumerate(value))

    def only(self, key: str, why: str) -> Fields:
        """The only mapping of a list.

        Raises
        ------
        ModelError
            There is none, or several.
        """
        found: Sequence[Fields] = self.mappings(key)
        if len(found) != 1:
            raise ModelError(self.at(key), expected=f"one, {why}", found=str(len(found)))
        return found[0]
