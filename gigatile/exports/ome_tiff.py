"""Pyramidal OME-TIFF: one directory a channel, its coarser levels in SubIFDs, for QuPath and all that is Bio-Formats.

::

    header │ channel 0 ─┬─ channel 1 ─┬─ ... (directories) │ tiles of the coarsest level │ ... │ tiles of level 0
                        └ levels 1..n └ levels 1..n

Sources: https://docs.openmicroscopy.org/ome-model/6.3.1/ome-tiff/specification.html, "Sub-resolutions" among it.
"""

from __future__ import annotations

from pathlib import Path

from gigatile.exports.ome_xml import ome_xml
from gigatile.exports.result import Result
from gigatile.exports.target import new_file
from gigatile.exports.tiff_front import Directory, Tag
from gigatile.exports.tiff_tags import (
    GDAL_NODATA,
    REDUCED,
    SOFTWARE,
    colour_tags,
    flavour_for,
    is_exported_tiff,
    nodata_text,
    pixel_tags,
    predictor_for,
    resolution_tags,
)
from gigatile.exports.tiff_writer import TiffWriter
from gigatile.exports.tiles import TileCodec, TileGrid, encoded_tiles, tile_grids
from gigatile.exports.values import exported_values

_SUBFILE, _DESCRIPTION = 254, 270


def export_ome_tiff(result: Result, path: Path, dtype: str | None = None) -> None:
    """Write a result as a pyramidal OME-TIFF whose levels are those of the result.

    It lies on the pixels that the model worked on: PhysicalSize is theirs. Class maps have a colour table, as those
    that QuPath writes; floats have no predictor, which Bio-Formats does not know.

    Memory bound
    ------------
    That of `encoded_tiles` and of `TiffWriter`.

    Parameters
    ----------
    result : Result
    path : Path
        Appears, whole, at the end; Bio-Formats wants a name that ends in ``.ome.tif``.
    dtype : {'uint8', None}
        See `exported_values`.

    Raises
    ------
    UsageError
        `dtype` makes no sense for this result, or OME has no such pixels.
    BlockError, StorageError
        The result cannot be read, or the file not written.
    """
    values = exported_values(result, dtype, halves=False)
    codec = TileCodec(values, predictor_for(result, values, floats=False))
    grids = tile_grids(result)
    description = ome_xml(result, values)
    levels = [_tags(result, codec, level, grid) for level, grid in enumerate(grids)]
    children = tuple(Directory(tags, grid.tiles) for tags, grid in zip(levels[1:], grids[1:], strict=True))
    first = (Tag(_DESCRIPTION, "ascii", description), SOFTWARE)
    directories = [
        Directory((*levels[0], *(first if channel == 0 else ())), grids[0].tiles, children)
        for channel in range(result.channels)
    ]
    with new_file(path, is_exported_tiff) as file:
        writer = TiffWriter(file, directories, flavour_for(result, values, result.channels))
        empty = codec.empty(grids[0])
        for level in reversed(range(len(grids))):
            for tile in encoded_tiles(result, level, grids[level], codec):
                writer.write(tile.channel * len(grids) + level, tile.tile, tile.content or empty)
        writer.finish()


def _tags(result: Result, codec: TileCodec, level: int, grid: TileGrid) -> tuple[Tag, ...]:
    return (
        *pixel_tags(grid, codec.values, codec.predictor, 1),
        *colour_tags(result.palette, codec.values.dtype),
        *resolution_tags(result.pixel_size, 2**level),
        *((Tag(_SUBFILE, "long", (REDUCED,)),) if level else ()),
        Tag(GDAL_NODATA, "ascii", nodata_text(codec.values.fill)),
    )
