"""How a level is cut into decode units: whole native chunks, small ones taken together.

::

    native chunks of 64 px          units of 4 x 4 chunks
    ┌─┬─┬─┬─┬─┬─┐                   ┌───────┬───┐
    ├─┼─┼─┼─┼─┼─┤                   │       │   │
    ├─┼─┼─┼─┼─┼─┤        ──▶        │       │   │      the last row and column are
    ├─┼─┼─┼─┼─┼─┤                   ├───────┼───┤      clipped to the level
    └─┴─┴─┴─┴─┴─┘                   └───────┴───┘
"""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil

from gigatile.errors import BlockError
from gigatile.images.info import Level
from gigatile.images.optional import NeedsReader
from gigatile.units import format_bytes

UNIT_SIDE_PX = 256
"""Chunks are taken together up to this side. A call costs 20-50 us in Python; decoding 256 x 256 x 3
pixels costs 300 us and more, so that below this side calls would dominate, and above it a cache of
units would hold pixels that nobody asked for."""

UNIT_BYTES = 1 << 20
"""Chunks are taken together only while the unit stays within this, so that strips 100 000 px wide or
scenes of 100 bands do not make units of tens of megabytes."""

CHUNK_LIMIT_PX = 256 << 20
"""Largest chunk that is decoded as a whole; a compressed strip cannot be decoded in parts."""

CHUNK_LIMIT_BYTES = 1 << 30
"""The same in bytes, all channels together."""


def unit_shape(chunk: tuple[int, int], pixel_bytes: int) -> tuple[int, int]:
    """Height and width of a unit: a multiple of the chunk in both directions.

    Parameters
    ----------
    chunk : (int, int)
        Height and width of a native chunk in pixels.
    pixel_bytes : int
        Bytes of one decoded pixel, all channels.
    """
    height, width = chunk
    across = max(1, min(UNIT_SIDE_PX // width, UNIT_BYTES // (height * width * pixel_bytes)))
    room = UNIT_BYTES // (height * width * across * pixel_bytes)
    down = max(1, min(UNIT_SIDE_PX // height, room))
    return down * height, across * width


def edges(size: int, step: int) -> tuple[int, ...]:
    """Borders ``0, step, 2 step, ..., size``."""
    return (*range(0, size, step), size)


def make_level(shape: tuple[int, int], full: tuple[int, int], chunk: tuple[int, int], pixel_bytes: int) -> Level:
    """The `Level` of `shape` in an image whose level 0 has the shape `full`."""
    chunk = (max(1, min(chunk[0], shape[0])), max(1, min(chunk[1], shape[1])))
    unit = unit_shape(chunk, pixel_bytes)
    return Level(
        shape=shape,
        downsample=(full[0] / shape[0] + full[1] / shape[1]) / 2,
        chunks=chunk,
        edges_y=edges(shape[0], unit[0]),
        edges_x=edges(shape[1], unit[1]),
    )


def is_reduction(full: tuple[int, int], reduced: tuple[int, int]) -> bool:
    """Whether one factor takes `full` to `reduced`, each side rounded by at most one pixel.

    A thumbnail, a label or a level padded to whole tiles fails this: coordinates would drift.
    """
    if min(reduced) < 1 or reduced[0] * reduced[1] >= full[0] * full[1]:
        return False
    lows = [big / (small + 1) for big, small in zip(full, reduced, strict=True)]
    highs = [big / (small - 1) if small > 1 else float("inf") for big, small in zip(full, reduced, strict=True)]
    return all(small <= big for big, small in zip(full, reduced, strict=True)) and max(lows) <= min(highs)


def chunk_span(level: Level, row: int, col: int) -> tuple[range, range]:
    """Rows and columns of the native chunks that lie in a unit of a level."""
    (height, width), ys, xs = level.chunks, level.edges_y, level.edges_x
    return (
        range(ys[row] // height, ceil(ys[row + 1] / height)),
        range(xs[col] // width, ceil(xs[col + 1] / width)),
    )


def chunks_of(level: Level, row: int, col: int) -> Iterator[tuple[int, int, slice, slice]]:
    """Each native chunk of a unit: its row and column, and its place in the unit, clipped to the level."""
    (height, width), top, left = level.chunks, level.edges_y[row], level.edges_x[col]
    rows, cols = chunk_span(level, row, col)
    for i in rows:
        ys = slice(i * height - top, min((i + 1) * height, level.shape[0]) - top)
        for j in cols:
            yield i, j, ys, slice(j * width - left, min((j + 1) * width, level.shape[1]) - left)


def out_of_memory(where: str, shape: tuple[int, int]) -> BlockError:
    """The error of a unit of this height and width that the memory does not hold: not the file's fault."""
    return BlockError(
        where,
        expected=f"memory for {shape[0]} x {shape[1]} pixels",
        found="none left",
        fix="Type a smaller --memory or --workers 1, or close other programs.",
    )


def refuse_giant(where: str, chunk: tuple[int, int], pixel_bytes: int) -> None:
    """Refuse chunks that cannot be decoded in bounded memory.

    Raises
    ------
    NeedsReader
        The chunk has more than `CHUNK_LIMIT_PX` pixels or `CHUNK_LIMIT_BYTES` bytes, all channels together.
    """
    pixels = chunk[0] * chunk[1]
    if pixels > CHUNK_LIMIT_PX or pixels * pixel_bytes > CHUNK_LIMIT_BYTES:
        raise NeedsReader(
            where,
            expected=f"chunks of at most {CHUNK_LIMIT_PX >> 20} Mpx and {format_bytes(CHUNK_LIMIT_BYTES)}",
            found=f"one of {chunk[0]} x {chunk[1]} pixels of {pixel_bytes} bytes, which can only be decoded as a whole",
            fix="Rewrite the image with tiles (gdal_translate -co TILED=YES, vips tiffsave --tile) "
            "or smaller Zarr chunks.",
        )
