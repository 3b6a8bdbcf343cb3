"""Images that are arrays in this process: numpy (memory-mapped ones too) and lazy dask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import sha256
from itertools import pairwise
from math import isnan
from typing import Any

import numpy as np

from gigatile.errors import BlockError, ImageError
from gigatile.images.axes import order_axes, require_numbers
from gigatile.images.decode_units import UNIT_BYTES, UNIT_SIDE_PX, make_level
from gigatile.images.info import ImageInfo, Level
from gigatile.units import PixelSize

Pixels = np.ndarray[Any, Any]
_ARRAY_UNIT_PX = 512
"""Nothing is decoded here; units only keep windows of the array small enough for the reader's cache."""
_DIGEST_BYTES = 256 << 20
_SAMPLED_ROWS = 18


class ArraySource:
    """A numpy array as an image; not copied, so it must not change while it is read.

    Parameters
    ----------
    array : ndarray
        Pixels, in two or three axes.
    axes : str, optional
        ``"yx"``, ``"cyx"``, ``"yxc"``; guessed from the shape if not given.
    pixel_size : PixelSize, optional
    channels : sequence of str, optional
        Names of the channels; ``"alpha"`` is taken for validity.
    nodata : float, optional
        The value that means "no pixel".

    Raises
    ------
    ImageError
        The axes do not fit the shape, or the array holds no numbers.
    """

    def __init__(
        self,
        array: Pixels,
        axes: str | None = None,
        pixel_size: PixelSize | None = None,
        channels: Sequence[str] | None = None,
        nodata: float | None = None,
    ) -> None:
        self._arguments = (array, axes, pixel_size, channels, nodata)
        dtype = require_numbers(array.dtype, "<array>")
        order = order_axes(array.shape, axes, "<array>")
        view = order.arrange(array[order.index(slice(None), slice(None))]).view()
        view.flags.writeable = False  # decode hands out windows of it
        self._cyx: Pixels = view
        names = tuple(channels) if channels else tuple(str(i) for i in range(view.shape[0]))
        if len(names) != view.shape[0]:
            raise ImageError("<array>", expected=f"{view.shape[0]} channel names", found=str(len(names)))
        shape = (view.shape[1], view.shape[2])
        self._info = ImageInfo(
            path="<array>",
            format="numpy",
            dtype=dtype,
            channels=names,
            levels=(make_level(shape, shape, (_ARRAY_UNIT_PX, _ARRAY_UNIT_PX), dtype.itemsize * len(names)),),
            pixel_size=pixel_size,
            nodata=nodata,
            alpha=names.index("alpha") if "alpha" in names else None,
            notes=(order.note,) if order.note else (),
        )

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), self._arguments

    @property
    def info(self) -> ImageInfo:
        """What is known of the array."""
        return self._info

    def decode(self, level: int, row: int, col: int) -> Pixels:
        """A read-only window of the array: see `Source.decode`."""
        grid = self._info.levels[level]
        ys = slice(grid.edges_y[row], grid.edges_y[row + 1])
        xs = slice(grid.edges_x[col], grid.edges_x[col + 1])
        return self._cyx[:, ys, xs].astype(self._info.dtype, copy=False)

    def identity(self) -> Mapping[str, str | int]:
        """Digest of all values up to 256 MiB, of 18 rows per channel beyond; shape and dtype."""
        digest = sha256()
        rows = self._cyx.shape[1]
        if self._cyx.nbytes <= _DIGEST_BYTES:
            step = max(1, UNIT_BYTES // max(1, self._cyx.shape[2] * self._cyx.itemsize))
            spans = [slice(y, y + step) for y in range(0, rows, step)]
        else:
            spans = [slice(y, y + 1) for y in np.linspace(0, rows - 1, _SAMPLED_ROWS, dtype=int).tolist()]
        for channel in self._cyx:
            for span in spans:
                digest.update(np.ascontiguousarray(channel[span], self._info.dtype).tobytes())
        shape = "x".join(str(n) for n in self._cyx.shape)
        return {"shape": shape, "dtype": str(self._info.dtype), "sha256": digest.hexdigest()}


class DaskSource:
    """A lazy dask array as an image. Each unit is computed on the thread that asks for it.

    Parameters
    ----------
    array : dask.array.Array
        Pixels, in two or three axes, chunks of known size.
    axes : str, optional
        ``"yx"``, ``"cyx"``, ``"yxc"``; guessed from the shape if not given.

    Raises
    ------
    ImageError
        The axes do not fit the shape, chunk sizes are unknown, or the array holds no numbers.
    """

    def __init__(self, array: Any, axes: str | None = None) -> None:
        self._array, self._axes = array, axes
        if any(isnan(size) for size in array.shape):
            raise ImageError(
                "<dask array>",
                expected="chunks of known size",
                found=f"shape {array.shape}",
                fix="Call .compute_chunk_sizes() first.",
            )
        dtype = require_numbers(np.dtype(array.dtype), "<dask array>")
        order = order_axes(array.shape, axes, "<dask array>")
        self._cyx: Any = order.arrange(array[order.index(slice(None), slice(None))])
        channels, height, width = self._cyx.shape
        pixel_bytes = dtype.itemsize * channels
        borders = tuple(_borders(sizes) for sizes in self._cyx.chunks[1:])
        edges_x = _merged(borders[1], UNIT_SIDE_PX)
        widest = max(b - a for a, b in pairwise(edges_x))
        edges_y = _merged(borders[0], min(UNIT_SIDE_PX, UNIT_BYTES // (widest * pixel_bytes)))
        chunk = tuple(max(b - a for a, b in pairwise(ends)) for ends in borders)
        self._info = ImageInfo(
            path="<dask array>",
            format="dask",
            dtype=dtype,
            channels=tuple(str(i) for i in range(channels)),
            levels=(Level((height, width), 1.0, (chunk[0], chunk[1]), edges_y, edges_x),),
            notes=(order.note,) if order.note else (),
        )

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self._array, self._axes)

    @property
    def info(self) -> ImageInfo:
        """What is known of the array."""
        return self._info

    def decode(self, level: int, row: int, col: int) -> Pixels:
        """Compute one unit: see `Source.decode`.

        The synchronous scheduler is used because the readers are threads already, and because a task
        that asked the cluster it runs on for more tasks could wait for itself.
        """
        grid = self._info.levels[level]
        ys = slice(grid.edges_y[row], grid.edges_y[row + 1])
        xs = slice(grid.edges_x[col], grid.edges_x[col + 1])
        try:
            pixels = np.asarray(self._cyx[:, ys, xs].compute(scheduler="synchronous"))
        except Exception as error:  # the graph is the user's: anything may come out of it
            raise BlockError(
                f"<dask array>, level {level}, rows {ys.start}:{ys.stop}, columns {xs.start}:{xs.stop}",
                expected="pixels",
                found=f"{type(error).__name__}: {error}",
                fix="Compute this part of the array by itself to see why.",
            ) from error
        expected = (len(self._info.channels), ys.stop - ys.start, xs.stop - xs.start)
        if pixels.shape != expected or pixels.dtype.kind != self._info.dtype.kind:
            raise BlockError(
                f"<dask array>, level {level}, rows {ys.start}:{ys.stop}, columns {xs.start}:{xs.stop}",
                expected=f"shape {expected} of {self._info.dtype}",
                found=f"shape {pixels.shape} of {pixels.dtype}",
                fix="The array's chunks are not what its metadata say.",
            )
        return pixels.astype(self._info.dtype, copy=False)

    def identity(self) -> Mapping[str, str | int]:
        """dask's own token: the same for the same graph over the same data."""
        from dask.base import tokenize

        return {"token": tokenize(self._cyx)}


def _borders(sizes: Sequence[int]) -> tuple[int, ...]:
    """``0``, then the end of each chunk that is not empty."""
    return (0, *(int(end) for end, size in zip(np.cumsum(sizes), sizes, strict=True) if size))


def _merged(borders: tuple[int, ...], side_px: int) -> tuple[int, ...]:
    """Borders with chunks taken together while their sum stays within `side_px`."""
    kept = [borders[0]]
    for before, end in pairwise(borders[1:]):
        if end - kept[-1] > side_px:
            kept.append(before)
    return (*kept, borders[-1])
