"""Zarr v2 and v3: plain arrays, and OME-Zarr 0.4 and 0.5 images.

::

    image.ome.zarr/   group: axes, datasets, scale         unit = a chunk, or small chunks together;
      0/              level 0: chunks, perhaps in shards           of a shard its inner chunk
      1/              level 1
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gigatile.errors import BlockError, DecodeError, GigatileError, ImageError
from gigatile.images.axes import AxisOrder, order_axes, require_numbers
from gigatile.images.decode_units import chunk_span, is_reduction, make_level, out_of_memory, refuse_giant
from gigatile.images.info import ImageInfo, Level
from gigatile.images.places import absolute
from gigatile.images.zarr_info import (
    Attributes,
    axis_names,
    channel_names,
    crs_of,
    multiscale,
    ngff_pixel_size,
    nodata_of,
    transform_of,
    transform_pixel_size,
)
from gigatile.images.zarr_limits import limited, refuse_endless
from gigatile.images.zarr_tree import Tree, open_tree, storage_failed
from gigatile.storage.url import redacted
from gigatile.units import PixelSize

Pixels = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class _Found:
    """The arrays of an image and the attributes of the group that holds them."""

    arrays: list[Any]
    group: Attributes
    image: Mapping[str, Any] | None
    """The NGFF multiscale, for OME-Zarr."""
    notes: tuple[str, ...] = ()


class ZarrSource:
    """Reader of one Zarr array or OME-Zarr image in a directory or below a URL.

    Parameters
    ----------
    place : str or Path
        The directory of the array or of the group, or its URL.
    axes : str, optional
        Such as ``"cyx"``; overrides what the metadata say.

    Raises
    ------
    ImageError
        There is no such array, or it is not one plane of channels.
    StorageError
        A store or server does not answer.
    """

    def __init__(self, place: str | Path, axes: str | None = None) -> None:
        self._place, self._axes = str(place), axes
        self._name = redacted(self._place)
        self._tree = open_tree(self._place)
        try:
            found = self._tree.reading(lambda: _open(self._tree, self._name))
            self._info, self._arrays, self._orders = self._tree.reading(lambda: _describe(self._name, axes, found))
        except GigatileError:
            raise
        except Exception as error:  # damaged metadata can fail in any line of a parser
            raise ImageError(
                self._name,
                expected="a Zarr array or OME-Zarr image",
                found=f"{type(error).__name__}: {error}",
                fix="Give the directory that holds zarr.json, .zarray or .zgroup.",
            ) from error

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (absolute(self._place), self._axes)

    @property
    def info(self) -> ImageInfo:
        """What the metadata say."""
        return self._info

    def decode(self, level: int, row: int, col: int) -> Pixels:
        """Read and decode one unit: see `Source.decode`. Chunks that are not stored are the fill value."""
        grid, array, order = self._info.levels[level], self._arrays[level], self._orders[level]
        ys = slice(grid.edges_y[row], grid.edges_y[row + 1])
        xs = slice(grid.edges_x[col], grid.edges_x[col + 1])
        first = tuple(span.start for span in chunk_span(grid, row, col))
        where = (
            f"{self._name}, level {level} (array {array.path!r}), chunk row and column from {first}, "
            f"pixels {ys.start}:{ys.stop}, {xs.start}:{xs.stop}"
        )
        try:
            window = self._tree.reading(lambda: _decoded(array, order.index(ys, xs), where))
            return np.ascontiguousarray(order.arrange(window), self._info.dtype)
        except MemoryError as error:
            raise out_of_memory(where, (ys.stop - ys.start, xs.stop - xs.start)) from error
        except OSError as error:
            found = str(error) if isinstance(error, GigatileError) else f"{type(error).__name__}: {error}"
            fix = "See that the storage is there and may be read."
            raise BlockError(where, expected="storage that can be read", found=found, fix=fix) from error

    def identity(self) -> Mapping[str, str | int]:
        """Digest of the metadata documents and of 16 stored objects, and how many objects there are.

        Of objects in a bucket their size and ETag are digested instead of their bytes; a web server, which has no
        listing, is asked for the metadata documents alone.
        """
        paths = [array.path for array in self._arrays] if self._info.format == "ome-zarr" else [""]
        return self._tree.identity(list(dict.fromkeys(["", *paths])), paths)


def _decoded(array: Any, index: tuple[Any, ...], where: str) -> Pixels:
    """Part of an array; what a store raises passes, what codecs raise becomes a `DecodeError`."""
    try:
        return np.asarray(array[index])
    except Exception as error:  # every codec and store has its own exceptions
        if storage_failed(error) or isinstance(error, MemoryError):
            raise
        raise DecodeError(
            where,
            expected="chunks that decode",
            found=f"{type(error).__name__}: {error}",
            fix="The chunk is damaged: fetch it again or restore it, or go on with --on-bad-chunk fill.",
        ) from error


def _open(tree: Tree, path: str) -> _Found:
    """The arrays of the image in a tree, full resolution first."""
    import zarr

    if not tree.has_metadata():
        raise ImageError(
            path,
            expected="a Zarr array or OME-Zarr image",
            found="a directory without zarr.json, .zarray or .zgroup",
            fix="Give an image file, or the directory of the array itself.",
        )
    node = zarr.open(tree.store(), mode="r")
    if isinstance(node, zarr.Array):
        return _Found([node], {}, None)
    attributes = node.attrs.asdict()
    if "bioformats2raw.layout" in {**attributes, **(attributes.get("ome") or {})}:
        node = node["0"]
        found = _image_in(node, node.attrs.asdict(), path)
        note = "a collection of bioformats2raw: its first image, 0, is read"
        return _Found(found.arrays, found.group, found.image, (*found.notes, note))
    return _image_in(node, attributes, path)


def _image_in(node: Any, attributes: Attributes, path: str) -> _Found:
    image, notes = multiscale(attributes, path)
    if image is not None:
        arrays = [node[dataset["path"]] for dataset in image["datasets"]]
        return _Found(arrays, attributes, image, notes)
    members = sorted(node.arrays())
    if len(members) == 1:
        return _Found([members[0][1]], attributes, None)
    names = ", ".join(name for name, _ in members[:8]) or "none"
    raise ImageError(
        path,
        expected="an array, or a group with OME-Zarr metadata",
        found=f"a group with arrays: {names}",
        fix=f"Give the path of one array, for instance {Path(path).name}/{members[0][0]}."
        if members
        else "Give the directory of an image.",
    )


def _describe(path: str, axes: str | None, found: _Found) -> tuple[ImageInfo, list[Any], list[AxisOrder]]:
    """Metadata, and the arrays that are levels with the order of their axes."""
    base = found.arrays[0]
    attributes = base.attrs.asdict()
    names = axes or (axis_names(found.image) if found.image else None) or _array_axes(base, attributes)
    order = order_axes(base.shape, names, path)
    dtype = require_numbers(np.dtype(base.dtype), path)
    count = order.channels(base.shape)
    levels, arrays, notes = _levels(path, found, order, dtype.itemsize * count)
    crs = crs_of(found.group, attributes)
    transform, transform_notes = transform_of(attributes, found.group)
    size: PixelSize | None = None
    size_notes: tuple[str, ...] = ()
    if found.image is not None and names:
        size, size_notes = ngff_pixel_size(found.image, [n.lower() for n in names], crs or transform)
        if size is not None and transform is not None:
            size = transform_pixel_size(transform, size.unit)
    info = ImageInfo(
        path=path,
        format="zarr" if found.image is None else "ome-zarr",
        dtype=dtype,
        channels=channel_names(found.group, count),
        levels=tuple(levels),
        pixel_size=size,
        pixel_size_from="" if size is None else "the spatial transform" if transform is not None else "NGFF's scale",
        crs=crs,
        transform=transform,
        nodata=nodata_of(base.fill_value, found.group, attributes),
        notes=(*found.notes, *notes, *transform_notes, *size_notes, *([order.note] if order.note else [])),
    )
    return info, arrays, [order] * len(arrays)


def _levels(path: str, found: _Found, order: AxisOrder, pixel_bytes: int) -> tuple[list[Level], list[Any], list[str]]:
    """The arrays that are reductions of the first, each smaller than the last; notes on the others."""
    base = found.arrays[0]
    full = (base.shape[order.y], base.shape[order.x])
    levels: list[Level] = []
    arrays: list[Any] = []
    notes: list[str] = []
    for array in found.arrays:
        same = array.ndim == base.ndim and array.dtype == base.dtype
        shape = (array.shape[order.y], array.shape[order.x]) if same else (0, 0)
        if arrays:
            fits = is_reduction(full, shape) and is_reduction(levels[-1].shape, shape)
            if not same or not fits or order.channels(array.shape) != order.channels(base.shape):
                notes.append(f"array {array.path!r} ({array.shape}, {array.dtype}) is no reduction of level 0")
                continue
        chunk = (array.chunks[order.y], array.chunks[order.x])
        sides = (min(chunk[0], shape[0]), min(chunk[1], shape[1]))
        where = f"{path}, array {array.path!r}"
        refuse_giant(where, sides, pixel_bytes)
        refuse_endless(where, shape, chunk, order.channels(array.shape))
        levels.append(make_level(shape, full, chunk, pixel_bytes))
        arrays.append(limited(array, where))
    return levels, arrays, notes


def _array_axes(array: Any, attributes: Attributes) -> Sequence[str] | None:
    """Names of the axes of a plain array: Zarr v3's dimension names, or xarray's attribute."""
    names = getattr(array.metadata, "dimension_names", None) or attributes.get("_ARRAY_DIMENSIONS")
    return [str(name) for name in names] if names and all(names) else None
