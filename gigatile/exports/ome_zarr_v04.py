"""OME-Zarr 0.4, which is Zarr v2: one file a chunk, for viewers that know no shards.

Sources: https://ngff.openmicroscopy.org/0.4; https://zarr-specs.readthedocs.io/en/latest/v2/v2.0.html
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gigatile.exports.result import Colour, Result
from gigatile.exports.target import new_folder
from gigatile.exports.tiles import TileGrid, encoded_tiles
from gigatile.exports.values import Values, exported_values
from gigatile.outputs.coordinates import coordinate_chunks, coordinate_documents, crs_attribute, mapped_attributes
from gigatile.outputs.layout import BLOSC_CODEC, BLOSC_LEVEL
from gigatile.outputs.shard import encode_chunk

MARKER = ".zgroup"
_BITSHUFFLE = 2
_USUAL_COLOURS: tuple[Colour, ...] = (
    (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255), (0, 255, 255), (255, 255, 255),
)  # fmt: skip
"""Of channels that have none, since OMERO's metadata must name one."""


@dataclass(frozen=True, slots=True)
class _ChunkCodec:
    """See `Codec`: Blosc, as in the result."""

    values: Values

    def encode(self, tile: np.ndarray[Any, Any]) -> bytes:
        """See `Codec.encode`."""
        return encode_chunk(tile)


def export_ome_zarr_v04(result: Result, path: Path, dtype: str | None = None) -> None:
    """Write a result as OME-Zarr 0.4; levels, chunks and values are those of the result.

    Class maps are label images with the names and colours of the classes; channels have theirs in ``omero``.

    Memory bound
    ------------
    That of `encoded_tiles`.

    Parameters
    ----------
    result : Result
    path : Path
        A folder that appears, whole, at the end.
    dtype : {'uint8', None}
        See `exported_values`.

    Raises
    ------
    UsageError
        `dtype` makes no sense for this result, or something else has that name.
    BlockError, StorageError
        The result cannot be read, or the folder not written.
    """
    values = exported_values(result, dtype, halves=False)
    with new_folder(path, _is_export) as folder:
        for level, layout in enumerate(result.layouts):
            array = folder / str(level)
            array.mkdir()
            _write_json(array / ".zarray", _array(result, level, values))
            names = ["y", "x"] if layout.channels is None else ["c", "y", "x"]
            # v2 declares the fill value, which xarray takes for nodata.
            mapped = {} if level or result.transform is None else mapped_attributes(math.nan)
            _write_json(array / ".zattrs", {"_ARRAY_DIMENSIONS": names, **mapped, **crs_attribute(result.crs)})
            grid = TileGrid(layout.shape, layout.chunk)
            for tile in encoded_tiles(result, level, grid, _ChunkCodec(values)):
                if tile.content is None:
                    continue
                row, col = divmod(tile.tile, grid.count[1])
                place = (row, col) if layout.channels is None else (tile.channel, row, col)
                _write(array.joinpath(*map(str, place)), tile.content)
        _write_coordinates(result, folder)
        _write_json(folder / ".zattrs", _attributes(result, values))
        _write_json(folder / MARKER, {"zarr_format": 2})


def _is_export(path: Path) -> bool:
    """Whether a folder is an OME-Zarr that we have exported: other people's have no ``gigatile``."""
    if not (path / MARKER).is_file():
        return False
    try:
        attributes = json.loads((path / ".zattrs").read_bytes())
    except (FileNotFoundError, ValueError):
        return False
    return isinstance(attributes, dict) and {"gigatile", "multiscales"} <= attributes.keys()


def _array(result: Result, level: int, values: Values) -> dict[str, Any]:
    layout = result.layouts[level]
    outer, inner = ((), ()) if layout.channels is None else ((layout.channels,), (1,))
    return {
        "zarr_format": 2,
        "shape": [*outer, *layout.shape],
        "chunks": [*inner, *layout.chunk],
        "dtype": values.dtype.newbyteorder("<").str,
        "compressor": {
            "id": "blosc",
            "cname": BLOSC_CODEC,
            "clevel": BLOSC_LEVEL,
            "shuffle": _BITSHUFFLE,
            "blocksize": 0,
        },
        "fill_value": "NaN" if np.isnan(values.fill) else int(values.fill),
        "filters": None,
        "order": "C",
        "dimension_separator": "/",
    }


def _write_coordinates(result: Result, folder: Path) -> None:
    """The axes and the CRS of a scene as Zarr v2 has them: GDAL before 3.13 finds its place by them."""
    if result.transform is None:
        return
    shape, unit = result.layouts[0].shape, "" if result.pixel_size is None else result.pixel_size.unit
    for key, document in coordinate_documents(shape, result.transform, result.crs, unit):
        array = folder / key.partition("/")[0]
        stored = {
            "zarr_format": 2,
            "shape": document["shape"],
            "chunks": document["chunk_grid"]["configuration"]["chunk_shape"],
            "dtype": np.dtype(document["data_type"]).newbyteorder("<").str,
            "compressor": None,
            "fill_value": document["fill_value"],
            "filters": None,
            "order": "C",
            "dimension_separator": "/",
        }
        _write_json(array / ".zarray", stored)
        _write_json(array / ".zattrs", {"_ARRAY_DIMENSIONS": document["dimension_names"], **document["attributes"]})
    for key, content in coordinate_chunks(shape, result.transform):
        _write(folder / key.replace("/c/", "/"), content)


def _attributes(result: Result, values: Values) -> dict[str, Any]:
    own: dict[str, Any] = {"output": result.output, "channel_names": list(result.channel_names)}
    if values.scale is not None:
        own["scale"] = values.scale
    found: dict[str, Any] = {
        "multiscales": [{"version": "0.4", "name": "prediction", **result.multiscale}],
        "gigatile": own,
    }
    if result.classes or result.palette:
        own |= {"class_names": list(result.classes), "class_colors": [_hex(colour) for colour in result.palette]}
        found["image-label"] = _labels(result, values)
    if result.output == "probabilities":
        found["omero"] = _omero(result, values)
    return found


def _labels(result: Result, values: Values) -> dict[str, Any]:
    """What napari shows: a name for each class, a colour, and nothing where pixels are invalid. Both lists must have
    the same values."""
    count, invalid = max(len(result.classes), len(result.palette)), int(values.fill)
    names = [*result.classes, *(f"class {number}" for number in range(len(result.classes), count)), "invalid"]
    numbers = [*range(count), invalid]
    found: dict[str, Any] = {
        "version": "0.4",
        "properties": [{"label-value": number, "name": name} for number, name in zip(numbers, names, strict=True)],
    }
    if result.palette:
        grey = [[128, 128, 128, 255]] * (count - len(result.palette))
        colours = [*([*colour, 255] for colour in result.palette), *grey, [0, 0, 0, 0]]
        found["colors"] = [{"label-value": number, "rgba": rgba} for number, rgba in zip(numbers, colours, strict=True)]
    return found


def _omero(result: Result, values: Values) -> dict[str, Any]:
    colours = result.channel_colors or [_USUAL_COLOURS[at % len(_USUAL_COLOURS)] for at in range(result.channels)]
    one = 1.0 if values.scale is None else 1 / values.scale
    window = {"min": 0.0, "max": one, "start": 0.0, "end": one}
    channels = [
        {"label": name, "color": _hex(colour).removeprefix("#").upper(), "active": True, "window": window}
        for name, colour in zip(result.channel_names, colours, strict=True)
    ]
    return {"version": "0.4", "channels": channels}


def _hex(colour: Iterable[int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)


def _write_json(path: Path, document: dict[str, Any]) -> None:
    _write(path, (json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode())


def _write(path: Path, content: bytes) -> None:
    """A file of a folder that gets its name when all of them are on the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
