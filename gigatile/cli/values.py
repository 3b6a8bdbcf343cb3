"""From the text of one option to its value; the same parsers serve the command line and pipeline files.

Nothing here imports numpy or anything heavier: an argument error answers at once.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gigatile.errors import UsageError
from gigatile.units import parse_bytes


@dataclass(frozen=True, slots=True)
class Where:
    """The place a value was written at, so that a message can name it and say what to type there."""

    name: str
    """Long name of the option with underscores, or the metavar of a positional."""
    file: str = ""
    """The pipeline file, if it was written there."""

    def __str__(self) -> str:
        return f"{self.file}: {self.name}" if self.file else option_flag(self.name)

    def typed(self, value: object) -> str:
        """How `value` would be typed here: ``--overlap 102`` or ``overlap: 102``."""
        return f"'{self.name}: {value}'" if self.file else f"{option_flag(self.name)} {value}"


@dataclass(frozen=True, slots=True)
class Given:
    """The text of one option and where it was written."""

    text: str
    where: Where


Parse = Callable[[str, Where], Any]


def option_flag(name: str) -> str:
    """``retry_failed`` as it is typed: ``--retry-failed``."""
    return "--" + name.replace("_", "-")


def refuse(text: str, where: Where, expected: str, fix: str = "") -> UsageError:
    """The error for a value that is not what its option takes."""
    return UsageError(str(where), expected=expected, found=repr(text), fix=fix)


def as_text(text: str, where: Where) -> str:
    """Any text but none at all."""
    if not text.strip():
        raise refuse(text, where, "a value")
    return text


def one_of(*choices: str) -> Parse:
    """A parser for a fixed set of words; a near miss is pointed out."""

    def parse(text: str, where: Where) -> str:
        if text in choices:
            return text
        raise refuse(text, where, ", ".join(choices[:-1]) + f" or {choices[-1]}", nearest(text, choices))

    return parse


def nearest(text: str, known: Sequence[str]) -> str:
    """``Did you mean 'hann'?``, or nothing when no known word is near."""
    from difflib import get_close_matches  # slow to import for something only errors need

    spelled = {word.lower(): word for word in known}
    close = get_close_matches(text.lower(), spelled, n=1, cutoff=0.6)
    return f"Did you mean {spelled[close[0]]!r}?" if close else ""


def fraction_of(text: str) -> float | None:
    """The value in (0, 1) of ``0.2``, ``.25``, ``25%`` or ``1/4``; None for anything else."""
    match = re.fullmatch(r"([0-9]*\.?[0-9]+)(%|/([0-9]*\.?[0-9]+))?", text.strip())
    if match is None:
        return None
    divisor = 100.0 if match[2] == "%" else float(match[3] or 1)
    value = float(match[1]) / divisor if divisor else 0.0
    return value if 0 < value < 1 else None


def whole(*, least: int, example: int) -> Parse:
    """A parser for whole numbers from `least` up; a fraction is told what to type."""

    def parse(text: str, where: Where) -> int:
        expected = f"a whole number from {least} up"
        if re.fullmatch(r"[+-]?[0-9]{1,18}", text.strip()):
            value = int(text)
            if value < least:
                raise refuse(text, where, expected)
            return value
        if re.fullmatch(r"[0-9]+\.0*", text.strip()) and int(float(text)) >= least:
            raise refuse(text, where, expected, f"Type {where.typed(int(float(text)))}.")
        raise refuse(text, where, expected, f"Type a number such as {where.typed(example)}.")

    return parse


def or_auto(parse: Parse) -> Parse:
    """`parse`, or the word ``auto``, which becomes None."""

    def parse_or_auto(text: str, where: Where) -> Any:
        return None if text == "auto" else parse(text, where)

    return parse_or_auto


def tile(text: str, where: Where) -> tuple[int, int]:
    """``N`` or ``NY,NX`` pixels as (ny, nx)."""
    parse = whole(least=1, example=512)
    parts = [parse(part, where) for part in text.split(",")]
    if len(parts) > 2:
        raise refuse(text, where, "one side or NY,NX in pixels")
    return parts[0], parts[-1]


def number(text: str, where: Where) -> float:
    """A finite number; ``1/255`` is accepted."""
    top, slash, bottom = text.partition("/")
    try:
        value = float(top) / float(bottom) if slash else float(top)
    except (ValueError, ZeroDivisionError) as error:
        raise refuse(text, where, "a number such as 0.5 or 1/255") from error
    if not math.isfinite(value):
        raise refuse(text, where, "a finite number")
    return value


def positive(text: str, where: Where) -> float:
    """A finite number above 0."""
    value = number(text, where)
    if value <= 0:
        raise refuse(text, where, "a number above 0")
    return value


def nonzero(text: str, where: Where) -> float:
    """A finite number other than 0."""
    value = number(text, where)
    if value == 0:
        raise refuse(text, where, "a number other than 0")
    return value


def many(parse: Parse) -> Parse:
    """A parser for comma-separated values, as a tuple."""

    def parse_many(text: str, where: Where) -> tuple[Any, ...]:
        parts = [part.strip() for part in text.split(",")]
        if not all(parts):
            raise refuse(text, where, "values with a comma between each two")
        return tuple(parse(part, where) for part in parts)

    return parse_many


def channels(text: str, where: Where) -> tuple[int | str, ...]:
    """Channel indices from 0, or names; which of them exist is known once the image is open."""
    parts = many(as_text)(text, where)
    return tuple(int(part) if re.fullmatch(r"[0-9]{1,6}", part) else part for part in parts)


def border(text: str, where: Where) -> str:
    """``reflect``, ``symmetric``, ``edge`` or ``constant:V``."""
    if text.startswith("constant:"):
        number(text.removeprefix("constant:"), where)
        return text
    return str(one_of("reflect", "symmetric", "edge", "constant:V")(text, where))


def size(text: str, where: Where) -> int:
    """Bytes: ``2GiB``, ``500MB``."""
    return parse_bytes(text, str(where))


def device(text: str, where: Where) -> str:
    """``auto``, ``cpu``, ``cuda`` or ``cuda:N``."""
    if not re.fullmatch(r"auto|cpu|cuda(:[0-9]{1,3})?", text):
        raise refuse(text, where, "auto, cpu, cuda or cuda:N", nearest(text, ("auto", "cpu", "cuda")))
    return text


def executor(text: str, where: Where) -> str:
    """``threads``, ``processes``, ``tcp://host:port`` or ``tls://host:port``."""
    if re.fullmatch(r"(tcp|tls)://[^\s/]+:[0-9]{1,5}", text):
        return text
    if "://" in text:
        raise refuse(text, where, "the address of a Dask scheduler such as tcp://10.0.0.5:8786")
    return str(one_of("threads", "processes", "tcp://HOST:PORT")(text, where))


def normalize(text: str, where: Where) -> str:
    """``none`` or the name of a normalisation, with its numbers."""
    kind, _, rest = text.partition(":")
    if kind == "percentile":
        limits = many(number)(rest, where)
        if len(limits) != 2 or not 0 <= limits[0] < limits[1] <= 100:
            raise refuse(text, where, "percentile:LO,HI with 0 <= LO < HI <= 100")
        return text
    words = ("none", "percentile:LO,HI", "minmax", "zscore", "macenko", "reinhard")
    return str(one_of(*words)(text, where))


def boxes(text: str, where: Where) -> str:
    """What a detector's numbers are, see `gigatile.models.boxes.format`."""
    from gigatile.models.boxes.format import parse_boxes

    parse_boxes(text, str(where))
    return text


def roi(text: str, where: Where) -> str:
    """``XMIN,YMIN,XMAX,YMAX`` or a GeoJSON file."""
    if Path(text).suffix.lower() not in {".geojson", ".json"}:
        if text.count(",") != 3:
            fix = "Other files of polygons are converted by 'ogr2ogr area.geojson FILE'." if Path(text).suffix else ""
            raise refuse(text, where, "XMIN,YMIN,XMAX,YMAX or FILE.geojson", fix)
        many(number)(text, where)
    return text
