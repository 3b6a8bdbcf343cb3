"""Exact percentiles of a stream too large to be sorted: 16 bits of the answer a pass.

::

    pass 1: histogram of the upper 16 bits     ▁▂▅█▇▃▁▁        which bin holds the wanted rank?
                                                  ╲                 (8- and 16-bit pixels: that is the answer)
    pass 2: of what lies in that bin,          ▂▂▃▅▂▁▂▁        ... until all bits are known
            histogram of the next 16 bits

Integers and IEEE floats sort as unsigned integers do once the sign is dealt with (the key of a radix sort: Knuth,
"The Art of Computer Programming" 3, 5.2.5).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from math import floor
from typing import Any

import numpy as np

from gigatile.errors import ImageError

Values = np.ndarray[Any, Any]
Sample = tuple[Values, Values | None]
"""Finite values, shape (n,), and how often each counts (None: once)."""
_DIGIT_BITS = 16


def percentiles(
    passes: Callable[[], Iterable[Sequence[Sample]]],
    names: Sequence[str],
    dtype: np.dtype[Any],
    wanted: Sequence[float],
) -> list[tuple[float, ...]]:
    """Percentiles as `numpy.percentile` defines them (method ``linear``), in float64.

    Memory bound
    ------------
    512 KiB a channel in the first pass, then 1 MiB a channel and wanted percentile; and one part of the stream.

    Parameters
    ----------
    passes : callable
        Starts the stream again; gives one sample a channel at a time. Called once for 8- and 16-bit values, twice for
        32-bit, four times for 64-bit ones.
    names : sequence of str
        Names of the channels, for messages.
    dtype : dtype
        Of the values.
    wanted : sequence of float
        0 to 100.

    Raises
    ------
    ImageError
        A channel has no values.
    """
    selections = [_Selection(np.dtype(dtype), wanted) for _ in names]
    while not all(selection.done for selection in selections):
        for samples in passes():
            for selection, (values, weights) in zip(selections, samples, strict=True):
                selection.add(values, weights)
        for name, selection in zip(names, selections, strict=True):
            selection.end_pass(name)
    return [selection.result() for selection in selections]


class _Selection:
    """The percentiles of one channel, as far as they are known."""

    def __init__(self, dtype: np.dtype[Any], wanted: Sequence[float]) -> None:
        self._dtype, self._wanted = dtype, wanted
        self._width = dtype.itemsize * 8
        self._bits = min(self._width, _DIGIT_BITS)
        self._shift = self._width - self._bits
        """Bits below those that this pass looks at."""
        self._counts: dict[int, Values] = {0: np.zeros(1 << self._bits, np.int64)}
        """Histogram of this pass's digit, by the bits known so far."""
        self._ranks: list[tuple[int, int]] = []
        """Of each order statistic wanted: the bits known so far, and the rank among the values that share them."""
        self._fractions: list[float] = []

    @property
    def done(self) -> bool:
        return self._shift < 0

    def add(self, values: Values, weights: Values | None) -> None:
        keys = _keys(values)
        digits = (keys >> np.uint64(self._shift)) if self._shift else keys
        known = digits >> np.uint64(self._bits) if len(self._ranks) else None
        for prefix, counts in self._counts.items():
            here = slice(None) if known is None else known == np.uint64(prefix)
            digit = (digits[here] & np.uint64((1 << self._bits) - 1)).astype(np.intp)
            # Weights are counts below 2^53, which float64 adds exactly.
            found = np.bincount(digit, None if weights is None else weights[here], minlength=1 << self._bits)
            counts += found.astype(np.int64)

    def end_pass(self, name: str) -> None:
        if not self._ranks:
            self._start_ranks(int(self._counts[0].sum()), name)
        sums = {prefix: np.cumsum(counts) for prefix, counts in self._counts.items()}
        ranks = []
        for prefix, rank in self._ranks:
            digit = int(np.searchsorted(sums[prefix], rank, side="right"))
            before = int(sums[prefix][digit - 1]) if digit else 0
            ranks.append(((prefix << self._bits) | digit, rank - before))
        self._ranks = ranks
        self._shift -= self._bits
        if not self.done:
            self._counts = {prefix: np.zeros(1 << self._bits, np.int64) for prefix, _ in ranks}

    def _start_ranks(self, count: int, name: str) -> None:
        if count == 0:
            raise nothing_valid(name)
        for percent in self._wanted:
            position = (count - 1) * (percent / 100)
            low = min(floor(position), count - 1)
            self._ranks += [(0, low), (0, min(low + 1, count - 1))]
            self._fractions.append(position - low)

    def result(self) -> tuple[float, ...]:
        found = [_value(key, self._dtype) for key, _ in self._ranks]
        pairs = list(pairwise(found))[::2]
        return tuple(_between(low, high, t) for (low, high), t in zip(pairs, self._fractions, strict=True))


def nothing_valid(where: str) -> ImageError:
    """The error for a channel or an image without values."""
    return ImageError(
        where,
        expected="at least one valid pixel to take statistics from",
        found="none",
        fix="Leave the normalisation out, or leave this channel or image out.",
    )


def _between(low: float, high: float, fraction: float) -> float:
    """Linear interpolation from the nearer end, as numpy's, so that the last bit is the same."""
    if fraction >= 0.5:
        return high - (high - low) * (1 - fraction)
    return low + (high - low) * fraction


def _keys(values: Values) -> Values:
    """uint64 numbers in the order of the values."""
    width = values.dtype.itemsize * 8
    bits = np.ascontiguousarray(values).view(f"u{values.dtype.itemsize}").astype(np.uint64)
    sign = np.uint64(1 << (width - 1))
    if values.dtype.kind == "i":
        return bits ^ sign
    if values.dtype.kind == "f":
        return np.where(bits & sign, bits ^ np.uint64((1 << width) - 1), bits | sign)
    return bits


def _value(key: int, dtype: np.dtype[Any]) -> float:
    """The value that has a key."""
    width = dtype.itemsize * 8
    sign = 1 << (width - 1)
    if dtype.kind == "i":
        key ^= sign
    if dtype.kind == "f":
        key = key ^ sign if key & sign else key ^ ((1 << width) - 1)
    return float(np.array(key, f"u{dtype.itemsize}").view(dtype))
