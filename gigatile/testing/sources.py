"""Images for tests: arrays cut into decode units of any size, and sources that count or fail.

They are ordinary sources (see `gigatile.images.info.Source`): wrap one in `gigatile.images.image.Image`.
"""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from gigatile.errors import BlockError, DecodeError
from gigatile.images.decode_units import edges
from gigatile.images.info import ImageInfo, Level, Source

Pixels = np.ndarray[Any, Any]


class UnitSource:
    """An array as an image whose decode units have a size of the test's choosing.

    Parameters
    ----------
    pixels : ndarray, shape (c, y, x), any real dtype
    unit : (int, int)
        Height and width of a decode unit, usually far smaller than a real reader's.
    nodata : float, optional
        The stored value that means "no pixel".
    alpha : int, optional
        Index of the channel that says where the image is valid.
    """

    def __init__(
        self, pixels: Pixels, unit: tuple[int, int] = (16, 16), nodata: float | None = None, alpha: int | None = None
    ) -> None:
        self.pixels = pixels
        self._unit, self._nodata, self._alpha = unit, nodata, alpha
        count, height, width = pixels.shape
        level = Level((height, width), 1.0, unit, edges(height, unit[0]), edges(width, unit[1]))
        names = tuple("alpha" if i == alpha else f"c{i}" for i in range(count))
        self._info = ImageInfo("<test>", "numpy", pixels.dtype, names, (level,), nodata=nodata, alpha=alpha)

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.pixels, self._unit, self._nodata, self._alpha)

    @property
    def info(self) -> ImageInfo:
        """What is known of the array."""
        return self._info

    def decode(self, level: int, row: int, col: int) -> Pixels:
        """A copy of one unit: see `Source.decode`."""
        grid = self._info.levels[level]
        window = self.pixels[:, grid.edges_y[row] : grid.edges_y[row + 1], grid.edges_x[col] : grid.edges_x[col + 1]]
        return window.copy()

    def identity(self) -> Mapping[str, str | int]:
        """Digest of all values."""
        return {"sha256": hashlib.sha256(np.ascontiguousarray(self.pixels).tobytes()).hexdigest()}


def noise(shape: Sequence[int], dtype: str = "uint8", seed: int = 0) -> Pixels:
    """Random pixels of any shape: the whole range of 8-bit integers, 0 to 999 of others, 0 to 1 of floats."""
    rng = np.random.default_rng(seed)
    kind = np.dtype(dtype)
    if kind.kind == "f":
        return rng.random(tuple(shape), np.float32).astype(kind)
    if kind.kind == "b":
        return rng.random(tuple(shape)) > 0.5
    low, high = (np.iinfo(kind).min, np.iinfo(kind).max + 1) if kind.itemsize == 1 else (0, 1000)
    return rng.integers(low, high, tuple(shape)).astype(kind)


def noise_source(shape: tuple[int, int, int], unit: tuple[int, int] = (16, 16), dtype: str = "uint8") -> UnitSource:
    """Noise as an image."""
    return UnitSource(noise(shape, dtype), unit)


def constant_source(
    shape: tuple[int, int, int], value: float, unit: tuple[int, int] = (16, 16), dtype: str = "uint8"
) -> UnitSource:
    """One value everywhere."""
    return UnitSource(np.full(shape, value, dtype), unit)


class CountingSource:
    """Another source, with a count of how often each unit was decoded. Safe to call from many threads."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._lock = threading.Lock()
        self.decoded: Counter[tuple[int, int, int]] = Counter()
        """Calls of `decode` by (level, row, col)."""

    @property
    def info(self) -> ImageInfo:
        """That of the other source."""
        return self._source.info

    def decode(self, level: int, row: int, col: int) -> Pixels:
        """Count, then decode."""
        with self._lock:
            self.decoded[level, row, col] += 1
        return self._source.decode(level, row, col)

    def identity(self) -> Mapping[str, str | int]:
        """That of the other source."""
        return self._source.identity()


class FailingSource:
    """Another source, some units of which cannot be decoded.

    Parameters
    ----------
    source : Source
    broken : collection of (level, row, col)
        The units that raise.
    error : type of BlockError, optional
        What they raise: `DecodeError` for bytes that are damaged, `BlockError` for a storage that fails.
    """

    def __init__(
        self,
        source: Source,
        broken: Collection[tuple[int, int, int]],
        error: type[BlockError] = DecodeError,
    ) -> None:
        self._source, self._broken, self._error = source, frozenset(broken), error

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self._source, tuple(sorted(self._broken)), self._error)

    @property
    def info(self) -> ImageInfo:
        """That of the other source."""
        return self._source.info

    def decode(self, level: int, row: int, col: int) -> Pixels:
        """Decode, or raise where the unit is broken."""
        if (level, row, col) in self._broken:
            raise self._error(f"<test>, level {level}, unit {row}, {col}", expected="pixels", found="a broken unit")
        return self._source.decode(level, row, col)

    def identity(self) -> Mapping[str, str | int]:
        """That of the other source."""
        return self._source.identity()
