"""Reading ``method:name=value,name=value``, so that each wrong word is told what to type instead."""

from __future__ import annotations

import math
import re
from difflib import get_close_matches

from gigatile.errors import UsageError


class Words:
    """The options of one method, as typed; each is read once, and what nobody read is refused by `end`.

    Raises
    ------
    UsageError
        A part is not ``name=value``, or a name comes twice.
    """

    def __init__(self, where: str, method: str, text: str) -> None:
        self._where, self._method = where, method
        self._values: dict[str, str] = {}
        self._known: list[str] = []
        for part in text.split(",") if text.strip() else []:
            name, equals, value = (word.strip() for word in part.partition("="))
            if not equals or not name or not value:
                raise self.refused("name=value with a comma between each two", repr(part))
            if name in self._values:
                raise self.refused(f"{name} once", f"{name}={self._values[name]} and {name}={value}")
            self._values[name] = value

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def refused(self, expected: str, found: str, fix: str = "") -> UsageError:
        """The error for one of them."""
        return UsageError(f"{self._where} {self._method}", expected=expected, found=found, fix=fix)

    def text(self, name: str, default: str) -> str:
        """One value as it was typed."""
        self._known.append(name)
        return self._values.get(name, default)

    def number(self, name: str, default: float, *, low: float = -math.inf, high: float = math.inf) -> float:
        """A finite number from `low` to `high`."""
        text = self.text(name, "")
        if not text:
            return default
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and low <= value <= high):
            raise self.refused(f"{name}= {_range(low, high)}", repr(text), self._typed(name, default))
        return value

    def whole(self, name: str, default: int, *, low: int = 0, high: int = 2**31 - 1) -> int:
        """A whole number from `low` to `high`."""
        text = self.text(name, "")
        if not text:
            return default
        if not re.fullmatch(r"[0-9]{1,10}", text) or not low <= int(text) <= high:
            top = "" if high == 2**31 - 1 else f" to {high}"
            raise self.refused(
                f"{name}= a whole number from {low}{top or ' up'}", repr(text), self._typed(name, default)
            )
        return int(text)

    def one_of(self, name: str, default: str, *choices: str) -> str:
        """One of a few words."""
        text = self.text(name, default)
        if text not in choices:
            raise self.refused(f"{name}= {' or '.join(choices)}", repr(text), self._typed(name, default))
        return text

    def channels(self, name: str) -> tuple[int, ...]:
        """Channel numbers: ``2``, ``2+5`` or ``2-5`` (with both ends); none if nothing was typed."""
        text = self.text(name, "")
        if not text:
            return ()
        if not re.fullmatch(r"[0-9]{1,5}(-[0-9]{1,5})?(\+[0-9]{1,5}(-[0-9]{1,5})?)*", text):
            raise self.refused(f"{name}= channels such as 2-5 or 2+4", repr(text))
        found: list[int] = []
        for part in text.split("+"):
            low, _, high = part.partition("-")
            found += range(int(low), int(high or low) + 1)
        if not found or len(set(found)) != len(found):
            raise self.refused(f"{name}= each channel once, from the lower to the higher", repr(text))
        return tuple(found)

    def end(self) -> None:
        """Refuse what nobody asked for.

        Raises
        ------
        UsageError
            A name is unknown; the nearest known one is told.
        """
        for name in self._values:
            if name not in self._known:
                close = get_close_matches(name, self._known, n=1, cutoff=0.6)
                fix = f"Did you mean {close[0]}?" if close else ""
                raise self.refused(f"one of {', '.join(sorted(self._known))}", repr(name), fix)

    def _typed(self, name: str, value: object) -> str:
        return f"For example {self._method}:{name}={value}."


def _range(low: float, high: float) -> str:
    if math.isfinite(low) and math.isfinite(high):
        return f"a number from {low:g} to {high:g}"
    return f"a number from {low:g} up" if math.isfinite(low) else "a number"
