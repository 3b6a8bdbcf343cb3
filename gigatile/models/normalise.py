"""Normalisation by statistics of the whole image: measured once, then applied pixel by pixel.

::

    image ──measure──▶ Normalisation (a few numbers, kept with the plan)
                              │
    any tile ──apply──────────┴──▶ float32      no neighbour and no statistic of the tile: tiles equal the whole image
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf, sqrt
from typing import Any, Literal

import numpy as np

from gigatile.errors import ImageError, UsageError
from gigatile.images.image import Image
from gigatile.models.percentile import nothing_valid, percentiles
from gigatile.models.sample import PixelSample
from gigatile.models.stain import ColourTable, Macenko, Reinhard, fit_macenko, fit_reinhard

Pixels = np.ndarray[Any, Any]
Kind = Literal["none", "percentile", "minmax", "zscore", "macenko", "reinhard"]
_FORMS = "none, percentile:LO,HI, minmax, zscore, macenko or reinhard"


@dataclass(frozen=True, slots=True)
class Method:
    """What `--normalize` asks for; `str` gives it back."""

    kind: Kind
    low: float = 0.0
    """Lower percentile, 0 to 100."""
    high: float = 100.0
    """Upper percentile."""

    def __str__(self) -> str:
        limits = ",".join(repr(limit).removesuffix(".0") for limit in (self.low, self.high))
        return f"percentile:{limits}" if self.kind == "percentile" else self.kind


def parse_normalisation(text: str) -> Method:
    """Read ``none``, ``percentile:LO,HI``, ``minmax``, ``zscore``, ``macenko`` or ``reinhard``.

    Raises
    ------
    UsageError
        It is something else, or not ``0 <= LO < HI <= 100``.
    """
    if text in ("none", "minmax", "zscore", "macenko", "reinhard"):
        return Method(text)  # type: ignore[arg-type]  # mypy does not narrow str by `in`
    word, _, numbers = text.partition(":")
    if word != "percentile":
        raise UsageError("normalize", expected=_FORMS, found=repr(text), fix="For example percentile:1,99.")
    try:
        low, high = (float(number) for number in numbers.split(","))
    except ValueError as error:
        fix = "For example percentile:1,99."
        raise UsageError("normalize", expected="percentile:LO,HI", found=repr(text), fix=fix) from error
    if not 0 <= low < high <= 100:
        raise UsageError(
            "normalize",
            expected="percentiles with 0 <= LO < HI <= 100",
            found=repr(text),
            fix="For example percentile:1,99.",
        )
    return Method("percentile", low, high)


@dataclass(frozen=True, slots=True)
class Linear:
    """``(pixel - offset) / divisor`` in float32, channel by channel; not clipped."""

    offset: tuple[float, ...]
    divisor: tuple[float, ...]
    """Never 0."""

    def apply(self, pixels: Pixels) -> Pixels:
        """Shape (c, y, x), any real dtype, to float32; NaN stays NaN.

        Raises
        ------
        UsageError
            The pixels have another number of channels.
        """
        if len(pixels) != len(self.offset):
            raise UsageError("normalisation", expected=f"{len(self.offset)} channels", found=str(len(pixels)))
        out = np.array(pixels, dtype=np.float32, order="C")
        out -= np.asarray(self.offset, np.float32)[:, None, None]
        out /= np.asarray(self.divisor, np.float32)[:, None, None]
        return out

    def to_json(self) -> dict[str, list[float]]:
        """``offset`` and ``divisor``, one number a channel."""
        return {"offset": list(self.offset), "divisor": list(self.divisor)}


@dataclass(frozen=True, slots=True)
class MeasuredOn:
    """Which pixels the statistics come from."""

    level: int
    pixels: int
    """Pixels that were looked at."""
    valid: int
    """Those of them that are valid."""
    sampled: bool
    """False: all pixels of the level; True: a regular lattice of its decode units."""

    def to_json(self) -> dict[str, int | bool]:
        """The fields by name."""
        return {"level": self.level, "pixels": self.pixels, "valid": self.valid, "sampled": self.sampled}


@dataclass(frozen=True, slots=True)
class Normalisation:
    """A method with the numbers that were measured for it: equal numbers, equal values."""

    method: Method
    source: MeasuredOn
    transform: Linear | Macenko | Reinhard
    notes: tuple[str, ...] = ()
    """What a user should know, such as channels without spread."""

    def apply(self, pixels: Pixels) -> Pixels:
        """Normalise stored pixels, each by itself.

        Parameters
        ----------
        pixels : ndarray, shape (c, y, x)
            As stored (before any scale), of the image that was measured.

        Returns
        -------
        ndarray, float32, shape (c, y, x)
            Always a new array. NaN becomes 0, as for every model input. Not clipped for the linear methods; 0 to 1 for
            the stain methods.

        Raises
        ------
        UsageError
            The pixels have another number of channels, or another dtype than a stain method needs.
        """
        out = self.transform.apply(pixels)
        if pixels.dtype.kind == "f":
            out[np.isnan(out)] = 0
        return out

    def to_json(self) -> dict[str, Any]:
        """Everything as JSON values; `from_json` gives an equal object back."""
        return {
            "method": str(self.method),
            "source": self.source.to_json(),
            "values": self.transform.to_json(),
            "notes": list(self.notes),
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Normalisation:
        """The object that `to_json` was called on.

        Raises
        ------
        UsageError
            The mapping is not one that `to_json` makes.
        """
        try:
            method = parse_normalisation(stored["method"])
            values = {name: tuple(float(v) for v in numbers) for name, numbers in stored["values"].items()}
            transform: Linear | Macenko | Reinhard
            if method.kind == "macenko":
                transform = Macenko(**values)
            elif method.kind == "reinhard":
                transform = Reinhard(**values)
            else:
                transform = Linear(**values)
            return cls(method, MeasuredOn(**stored["source"]), transform, tuple(stored["notes"]))
        except UsageError:
            raise
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise UsageError(
                "normalisation",
                expected="method, source, values and notes as they were stored",
                found=f"{type(error).__name__}: {error}",
                fix="Measure the image again.",
            ) from error


def measure(image: Image, method: Method) -> Normalisation:
    """Take the statistics of the whole image.

    They come from the finest level, not finer than the one that is worked on, with at most `SAMPLE_PX` pixels: of
    small images that is all pixels. Where no level is so small, they come from a regular lattice of decode units of
    the smallest one, thinned if units are huge, again `SAMPLE_PX` at most. Invalid pixels, NaN and infinity do not
    count. The same image gives the same numbers, whatever its cache and however many threads decode.

    Memory bound
    ------------
    That of a `PixelSample`, temporary arrays of at most 2^20 values, and 2 MiB a channel (percentiles) or 64 MiB
    (stains: a counter for each of 2^24 colours).
    The pixels are decoded once; for percentiles of 32-bit values twice, of 64-bit values four times.

    Raises
    ------
    ImageError
        No pixel is valid, or (stains) there is no stained tissue or only one colour.
    UsageError
        The method is ``none``; or a stain method and the image is not 8-bit RGB.
    """
    if method.kind == "none":
        raise UsageError("normalize", expected="a method that has statistics", found="none")
    stain = method.kind in ("macenko", "reinhard")
    if stain:
        _check_rgb(image, method)
    sample = PixelSample(image)
    transform: Linear | Macenko | Reinhard
    if stain:
        transform, notes = _by_colour(sample, image.info.path, method)
    elif method.kind == "percentile":
        transform, notes = _by_percentile(sample, method)
    else:
        transform, notes = _by_moments(sample, method)
    source = MeasuredOn(sample.level, sample.pixels, sample.valid, sample.thinned)
    return Normalisation(method, source, transform, notes)


def _by_percentile(sample: PixelSample, method: Method) -> tuple[Linear, tuple[str, ...]]:
    limits = percentiles(sample.values, sample.names, sample.dtype, (method.low, method.high))
    return _linear(sample.names, [low for low, _ in limits], [high - low for low, high in limits])


def _by_moments(sample: PixelSample, method: Method) -> tuple[Linear, tuple[str, ...]]:
    moments = [_Moments() for _ in sample.names]
    for parts in sample.values():
        for channel, (values, _) in zip(moments, parts, strict=True):
            channel.add(values)
    for name, channel in zip(sample.names, moments, strict=True):
        if channel.count == 0:
            raise nothing_valid(name)
    if method.kind == "minmax":
        return _linear(sample.names, [m.low for m in moments], [m.high - m.low for m in moments])
    return _linear(sample.names, [m.mean for m in moments], [m.std for m in moments])


def _linear(names: Sequence[str], offset: Sequence[float], divisor: Sequence[float]) -> tuple[Linear, tuple[str, ...]]:
    """Divide by 1 where a channel has no spread, and say so."""
    largest = float(np.finfo(np.float32).max)
    for name, low, range_ in zip(names, offset, divisor, strict=True):
        if not (abs(low) <= largest and range_ <= largest):
            raise ImageError(name, expected="statistics within the range of float32", found=f"{low!r} and {range_!r}")
    constant = [np.float32(d) == 0 for d in divisor]
    notes = tuple(
        f"{name}: no spread at {low!r}, so it is divided by 1"
        for name, low, flat in zip(names, offset, constant, strict=True)
        if flat
    )
    divided = tuple(1.0 if flat else d for d, flat in zip(divisor, constant, strict=True))
    return Linear(tuple(offset), divided), notes


def _by_colour(sample: PixelSample, where: str, method: Method) -> tuple[Macenko | Reinhard, tuple[str, ...]]:
    table = ColourTable()
    for pixels, valid in sample.slabs():
        table.add(pixels[:, valid] if valid is not None else pixels.reshape(3, -1))
    if not sample.valid:
        raise nothing_valid(where)
    return fit_macenko(table, where) if method.kind == "macenko" else fit_reinhard(table, where)


def _check_rgb(image: Image, method: Method) -> None:
    colours = ("red", "green", "blue")
    ordered = image.channels == colours or not set(image.channels) & set(colours)
    if image.info.dtype != np.uint8 or len(image.channels) != 3 or not ordered:
        raise UsageError(
            f"{image.info.path}, normalize {method}",
            expected="8-bit red, green, blue",
            found=f"{image.info.dtype}, channels {', '.join(image.channels)}",
            fix="Name the three channels with --channels, or use percentile:1,99 or zscore.",
        )


@dataclass(slots=True)
class _Moments:
    """Count, mean, squares and range of one channel.

    Parts are merged in the order in which they come (Chan, Golub and LeVeque, "Updating formulae and a pairwise
    algorithm for computing sample variances", 1979), in float64.
    """

    count: int = 0
    origin: float = 0.0
    """The first value; means are relative to it, so that a large offset costs no digits of the deviation."""
    shift: float = 0.0
    squares: float = 0.0
    low: float = inf
    high: float = -inf

    def add(self, values: Pixels) -> None:
        if not values.size:
            return
        numbers = values.astype(np.float64)
        self.low, self.high = min(self.low, float(numbers.min())), max(self.high, float(numbers.max()))
        if self.count == 0:
            self.origin = float(numbers[0])
        with np.errstate(over="ignore", invalid="ignore"):  # numbers that large are refused in the end
            numbers -= self.origin
            mean, count = float(numbers.mean()), self.count + numbers.size
            numbers -= mean
            squares = float(np.square(numbers, out=numbers).sum())
        apart = mean - self.shift
        self.squares += squares + apart * apart * self.count * numbers.size / count
        self.shift += apart * numbers.size / count
        self.count = count

    @property
    def mean(self) -> float:
        # The mean of equal numbers may differ from them by rounding.
        return self.low if self.low == self.high else self.origin + self.shift

    @property
    def std(self) -> float:
        """Of the population (divided by n)."""
        return 0.0 if self.low == self.high else sqrt(self.squares / self.count)
