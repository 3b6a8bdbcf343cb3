"""Cloud-optimised GeoTIFF: coarse levels before fine ones, all directories at the front.

::

    header, ghost │ level 0, 1, ... n (directories) │ tiles of n │ ... │ tiles of 1 │ tiles of 0

Sources: https://gdal.org/en/stable/drivers/raster/cog.html; OGC 21-026 (Cloud Optimized GeoTIFF).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from gigatile.errors import UsageError
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
from gigatile.exports.tiles import TileCodec, encoded_tiles, tile_grids
from gigatile.exports.values import Values, exported_values
from gigatile.storage.local import write_atomically

_GHOST = (
    b"LAYOUT=IFDS_BEFORE_DATA\nBLOCK_ORDER=ROW_MAJOR\nBLOCK_LEADER=SIZE_AS_UINT4\n"
    b"BLOCK_TRAILER=LAST_4_BYTES_REPEATED\nKNOWN_INCOMPATIBLE_EDITION=NO\n "
)
"""What GDAL's driver writes; the blank leaves room for YES."""
_GEO_CODES = {33550, 33922, 34264, 34735, 34736, 34737}
_GDAL_METADATA = 42112
_SHORT = 3


def export_cog(result: Result, path: Path, dtype: str | None = None) -> None:
    """Write a result as a cloud-optimised GeoTIFF; its overviews are the levels of the result.

    Class names become GDAL's category names, in ``FILE.aux.xml`` (GeoTIFF has no place for them), and band tags
    ``CLASS_0``, ``CLASS_1`` ... in the file itself; colours its colour table; channels its bands.

    Memory bound
    ------------
    That of `encoded_tiles` and of `TiffWriter`.

    Parameters
    ----------
    result : Result
    path : Path
        Appears, whole, at the end.
    dtype : {'uint8', None}
        See `exported_values`.

    Raises
    ------
    UsageError
        `dtype` makes no sense for this result; rasterio is needed, and missing.
    BlockError, StorageError
        The result cannot be read, or the file not written.
    """
    values = exported_values(result, dtype, halves=False)
    codec = TileCodec(values, predictor_for(result, values, floats=True))
    grids = tile_grids(result)
    planes = result.channels
    geography = _geography(result)
    shared = (
        *colour_tags(result.palette, values.dtype),
        Tag(GDAL_NODATA, "ascii", nodata_text(values.fill)),
    )
    directories = []
    for level, grid in enumerate(grids):
        tags = (*pixel_tags(grid, values, codec.predictor, planes), *shared)
        own = (SOFTWARE, *geography, *_metadata(result, values)) if level == 0 else (Tag(254, "long", (REDUCED,)),)
        # With a CRS the size of a pixel is the transform's to tell.
        sizes = () if result.transform else resolution_tags(result.pixel_size, 2**level)
        directories.append(Directory((*tags, *own, *sizes), grid.tiles * planes))
    ghost = f"GDAL_STRUCTURAL_METADATA_SIZE={len(_GHOST):06d} bytes\n".encode() + _GHOST
    with new_file(path, is_exported_tiff) as file:
        # The order that the ghost promises is plane by plane, and tiles come row by row.
        writer = TiffWriter(file, directories, flavour_for(result, values, planes), ghost if planes == 1 else b"")
        empty = codec.empty(grids[0])
        for level in reversed(range(len(grids))):
            for tile in encoded_tiles(result, level, grids[level], codec):
                writer.write(level, tile.channel * grids[level].tiles + tile.tile, tile.content or empty)
        writer.finish()
        _write_categories(result, path)


def _geography(result: Result) -> tuple[Tag, ...]:
    """The tags that place level 0 on the Earth, as GDAL writes them for a file of one pixel."""
    if result.transform is None and result.crs is None:
        return ()
    import io
    import warnings

    import tifffile

    try:
        import rasterio
        from rasterio.errors import CRSError, NotGeoreferencedWarning
    except ImportError as error:
        raise UsageError(
            "export --to cog",
            expected="rasterio, which knows coordinate reference systems",
            found="no such package",
            fix="Type: pip install 'gigatile[gdal]'",
        ) from error
    shape = {"driver": "GTiff", "height": 1, "width": 1, "count": 1, "dtype": "uint8"}
    with rasterio.MemoryFile() as memory, warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        try:
            crs = None if result.crs is None else rasterio.crs.CRS.from_string(result.crs)
        except CRSError as error:
            raise UsageError(result.store.name, expected="a CRS that GDAL knows", found=str(result.crs)) from error
        transform = None if result.transform is None else rasterio.Affine(*result.transform)
        with memory.open(**shape, crs=crs, transform=transform):
            pass
        content = memory.read()
    with tifffile.TiffFile(io.BytesIO(content)) as file:
        return tuple(_copied(tag) for tag in file.pages[0].tags if tag.code in _GEO_CODES)


def _copied(tag: Any) -> Tag:
    """A tag that tifffile read."""
    if isinstance(tag.value, str):
        return Tag(tag.code, "ascii", tag.value.encode())
    return Tag(tag.code, "short" if tag.dtype == _SHORT else "double", tuple(tag.value))


def _metadata(result: Result, values: Values) -> tuple[Tag, ...]:
    """GDAL's items about bands: names, classes, scale."""
    root = ElementTree.Element("GDALMetadata")
    for band, name in enumerate(result.channel_names):
        _item(root, "DESCRIPTION", band, "description", name)
        for number, label in enumerate(result.classes):
            _item(root, f"CLASS_{number}", band, "", label)
        if values.scale is not None:
            _item(root, "OFFSET", band, "offset", "0")
            _item(root, "SCALE", band, "scale", repr(values.scale))
    return (Tag(_GDAL_METADATA, "ascii", ElementTree.tostring(root, encoding="utf-8", xml_declaration=False)),)


def _item(root: ElementTree.Element, name: str, band: int, role: str, text: str) -> None:
    attributes = {"name": name, "sample": str(band), **({"role": role} if role else {})}
    # GDAL unescapes items once more than XML does (frmts/gtiff/gtiffdataset_write.cpp, WriteMDMetadata).
    ElementTree.SubElement(root, "Item", attributes).text = escape(text)


def _write_categories(result: Result, path: Path) -> None:
    """GDAL's category names beside the file; what an earlier export left there goes."""
    beside = path.with_name(f"{path.name}.aux.xml")
    if not result.classes:
        beside.unlink(missing_ok=True)
        return
    root = ElementTree.Element("PAMDataset")
    names = ElementTree.SubElement(ElementTree.SubElement(root, "PAMRasterBand", band="1"), "CategoryNames")
    for name in result.classes:
        ElementTree.SubElement(names, "Category").text = name
    ElementTree.indent(root)
    write_atomically(beside, ElementTree.tostring(root, encoding="utf-8") + b"\n")
