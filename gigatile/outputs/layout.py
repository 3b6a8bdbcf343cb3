"""How one level of the result is cut into shards and chunks, and what its ``zarr.json`` says.

::

    ┌───────────┬───────────┬──────┐     shard = one block = one file, written at once
    │ · · · · · │           │      │     · = chunks, what a viewer reads; a shard holds whole chunks
    │ · · · · · │  c/0/0/1  │      │     at the right and bottom edge the last chunk is padded with
    ├───────────┼───────────┼──────┤     the fill value and chunks beyond the edge are not stored
    │  c/0/1/0  │           │      │
    └───────────┴───────────┴──────┘
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gigatile.errors import UsageError
from gigatile.tiling.region import Region

BLOSC_CODEC, BLOSC_LEVEL, BLOSC_SHUFFLE = "zstd", 1, "bitshuffle"
"""Measured on class maps and probabilities, levels 1, 3, 5 and all shuffles: nothing was faster at this size
(uint8 classes 660-940 MB/s a thread, 21-23x smaller; float32 490-590 MB/s, 1.27x). Level 3 with byte shuffle:
170-180 and 135-320 MB/s for files 12-70 % larger and 2 % smaller."""

SMALLEST_LEVEL = 256
"""A level whose sides are no longer than this, or than a chunk, is the last of its pyramid."""


def default_fill(dtype: np.dtype[Any]) -> float:
    """Value of invalid pixels: NaN for floats, the largest of unsigned integers, the smallest of others."""
    if dtype.kind == "f":
        return math.nan
    return int(np.iinfo(dtype).max if dtype.kind == "u" else np.iinfo(dtype).min)


@dataclass(frozen=True, slots=True)
class ArrayLayout:
    """One Zarr v3 array with the sharding codec: axes (y, x), or (c, y, x) with all channels in each shard.

    Raises
    ------
    UsageError
        A side is not positive, the shard is no multiple of the chunk, or the fill value is not one of the
        dtype.
    """

    shape: tuple[int, int]
    """Height and width of the level in pixels."""
    channels: int | None
    """Length of axis c; None for a (y, x) array."""
    dtype: np.dtype[Any]
    """Integer or float; stored little-endian."""
    fill: float
    """Value of pixels that were never written; NaN is allowed for floats."""
    shard: tuple[int, int]
    """Height and width of a shard in pixels, a multiple of `chunk`."""
    chunk: tuple[int, int]
    """Height and width of a chunk in pixels; along c a chunk has length 1."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "dtype", np.dtype(self.dtype).newbyteorder("<"))
        # One NaN object: then equality and hash of the fields work for NaN as for any other value.
        fill = math.nan if math.isnan(self.fill) else np.asarray(self.fill).item()
        object.__setattr__(self, "fill", fill)
        sides = (*self.shape, *self.shard, *self.chunk, 1 if self.channels is None else self.channels)
        if min(sides) < 1:
            raise UsageError("array layout", expected="sides of at least one pixel", found=repr(self))
        if any(shard % chunk for shard, chunk in zip(self.shard, self.chunk, strict=True)):
            raise UsageError("array layout", expected="a shard of whole chunks", found=repr(self))
        if not _representable(fill, self.dtype):
            raise UsageError("array layout", expected=f"a fill value of dtype {self.dtype}", found=repr(fill))

    def __reduce__(self) -> tuple[object, ...]:
        # Through __post_init__, so that a NaN that travelled equals the one that stayed.
        fields = (self.shape, self.channels, self.dtype, self.fill, self.shard, self.chunk)
        return type(self), fields

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of shards."""
        return -(-self.shape[0] // self.shard[0]), -(-self.shape[1] // self.shard[1])

    @property
    def chunks_per_shard(self) -> tuple[int, ...]:
        """Chunks of a shard along (y, x) or (c, y, x); the shape of its index."""
        counts = (self.shard[0] // self.chunk[0], self.shard[1] // self.chunk[1])
        return counts if self.channels is None else (self.channels, *counts)

    def region(self, row: int, col: int) -> Region:
        """The pixels of one shard, clipped to the level."""
        y0, x0 = row * self.shard[0], col * self.shard[1]
        box = Region(y0, x0, y0 + self.shard[0], x0 + self.shard[1])
        return box.clipped(Region(0, 0, *self.shape))

    def shard_key(self, row: int, col: int) -> str:
        """Path of one shard below the array: ``c/row/col``, with channels ``c/0/row/col``."""
        return f"c/{row}/{col}" if self.channels is None else f"c/0/{row}/{col}"

    def is_fill(self, pixels: np.ndarray[Any, Any]) -> bool:
        """Whether every pixel of an array of any shape, dtype `dtype`, is the fill value (any NaN is NaN)."""
        if not self._equals_fill(pixels.flat[0]):
            return False
        return bool(np.all(self._equals_fill(pixels)))

    def _equals_fill(self, pixels: Any) -> Any:
        return np.isnan(pixels) if math.isnan(self.fill) else pixels == self.fill

    def metadata(self) -> dict[str, Any]:
        """The content of the array's ``zarr.json``, without attributes (Zarr v3 core and sharding-indexed
        1.0)."""
        little: dict[str, Any] = {"name": "bytes", "configuration": {"endian": "little"}}
        blosc = {
            "cname": BLOSC_CODEC,
            "clevel": BLOSC_LEVEL,
            "shuffle": BLOSC_SHUFFLE,
            "typesize": self.dtype.itemsize,
            "blocksize": 0,
        }
        outer = () if self.channels is None else (self.channels,)
        inner = () if self.channels is None else (1,)
        names = ("y", "x") if self.channels is None else ("c", "y", "x")
        sharding = {
            "chunk_shape": [*inner, *self.chunk],
            "codecs": [little, {"name": "blosc", "configuration": blosc}],
            "index_codecs": [little, {"name": "crc32c"}],
            "index_location": "end",
        }
        return {
            "zarr_format": 3,
            "node_type": "array",
            "shape": [*outer, *self.shape],
            "data_type": self.dtype.name,
            "fill_value": _json_fill(self.fill, self.dtype),
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [*outer, *self.shard]}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
            "dimension_names": list(names),
            "storage_transformers": [],
            "attributes": {},
        }

    @classmethod
    def from_metadata(cls, document: Mapping[str, Any]) -> ArrayLayout:
        """The layout that `metadata` described.

        Raises
        ------
        UsageError
            The document describes another kind of array than this class writes.
        """
        try:
            sharding = document["codecs"][0]["configuration"]
            *outer, rows, cols = document["shape"]
            layout = cls(
                shape=(rows, cols),
                channels=outer[0] if outer else None,
                dtype=np.dtype(document["data_type"]),
                fill=float(document["fill_value"])
                if isinstance(document["fill_value"], str)
                else document["fill_value"],
                shard=tuple(document["chunk_grid"]["configuration"]["chunk_shape"][-2:]),
                chunk=tuple(sharding["chunk_shape"][-2:]),
            )
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise _foreign(repr(error)) from error
        found = {**document, "attributes": {}}
        if layout.metadata() != found:
            raise _foreign(", ".join(sorted(k for k, v in layout.metadata().items() if found.get(k) != v)))
        return layout


def pyramid_layouts(layout: ArrayLayout) -> tuple[ArrayLayout, ...]:
    """`layout` and its coarser levels, each half as high and wide (rounded up), with the same shards and
    chunks.

    The last one fits in `SMALLEST_LEVEL` or in one chunk, whichever is larger.
    """
    levels = [layout]
    limit = max(*layout.chunk, SMALLEST_LEVEL)
    while max(levels[-1].shape) > limit:
        rows, cols = levels[-1].shape
        levels.append(
            ArrayLayout(
                shape=(-(-rows // 2), -(-cols // 2)),
                channels=layout.channels,
                dtype=layout.dtype,
                fill=layout.fill,
                shard=layout.shard,
                chunk=layout.chunk,
            )
        )
    return tuple(levels)


def _representable(fill: float, dtype: np.dtype[Any]) -> bool:
    if dtype.kind == "f":
        return isinstance(fill, int | float)
    if dtype.kind not in "iu" or fill != int(fill if math.isfinite(fill) else 0):
        return False
    return int(np.iinfo(dtype).min) <= fill <= int(np.iinfo(dtype).max)


def _json_fill(fill: float, dtype: np.dtype[Any]) -> float | str:
    """The fill value as Zarr v3 writes it: JSON has no NaN or infinity."""
    if dtype.kind != "f":
        return int(fill)
    if math.isnan(fill):
        return "NaN"
    if math.isinf(fill):
        return "Infinity" if fill > 0 else "-Infinity"
    return float(fill)


def _foreign(found: str) -> UsageError:
    return UsageError(
        "prediction.zarr",
        expected="an array as gigatile writes it",
        found=f"a difference in {found}",
        fix="Choose another output directory, or use the version of gigatile that wrote it.",
    )
