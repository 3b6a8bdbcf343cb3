"""``gigatile info``: what an image file says of itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from gigatile.cli.inputs import check_image
from gigatile.cli.options import one_image
from gigatile.cli.parser import Parser, add_debug, emit, emit_json
from gigatile.units import format_bytes

if TYPE_CHECKING:
    from gigatile.images.image import Image


def main(argv: Sequence[str]) -> int:
    """Print the metadata of one image."""
    parser = Parser("gigatile info", description="What an image file says of itself.")
    parser.add_argument("image", nargs="*", metavar="IMAGE", help="a TIFF, SVS, OME-TIFF, GeoTIFF or Zarr")
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_debug(parser)
    arguments = parser.parse(argv)
    path = one_image(arguments.image, parser.prog)
    check_image(path)
    from gigatile.images.open import open as open_image

    image = open_image(path)
    if arguments.json:
        emit_json(describe(image))
    else:
        emit(table(image))
    return 0


def describe(image: Image) -> dict[str, Any]:
    """The keys of the contract for ``info --json``."""
    size, nodata, bounds = image.pixel_size, image.nodata, image.info.bounds_offset
    return {
        "path": image.info.path,
        "format": image.info.format,
        "shape": list(image.shape),
        "dtype": str(image.dtype),
        "channels": list(image.channels),
        "levels": [{"shape": list(level.shape), "downsample": level.downsample} for level in image.levels],
        "pixel_size": None if size is None else {"y": size.y, "x": size.x, "unit": size.unit},
        "crs": image.crs,
        "transform": None if image.transform is None else list(image.transform),
        "nodata": None if nodata is None else _finite(nodata),
        "chunks": list(image.levels[0].chunks),
        "bounds_offset": None if bounds is None else list(bounds),
        "pixel_size_from": image.info.pixel_size_from or None,
        "notes": list(image.info.notes),
    }


def _finite(value: float) -> float | int | str:
    """JSON has no NaN and no infinity: they are words; whole numbers are written as such."""
    if not math.isfinite(value):
        return str(value)
    return int(value) if value == int(value) else value


def table(image: Image) -> str:
    """The same for people."""
    channels, height, width = image.shape
    raw = channels * height * width * image.dtype.itemsize
    validity = image.info.alpha
    alpha = "" if validity is None else f", and {image.info.channels[validity]}, which says what is valid"
    rows = [
        ("path", image.info.path),
        ("format", image.info.format),
        ("size", f"{width:,} x {height:,} pixels (width x height), {format_bytes(raw)} uncompressed"),
        ("channels", f"{channels} ({', '.join(image.channels)}){alpha}"),
        ("dtype", str(image.dtype)),
        ("pixel size", _pixel_size(image)),
        ("CRS", image.crs or "none"),
        ("transform", "none" if image.transform is None else ", ".join(f"{v:.12g}" for v in image.transform)),
        ("nodata", "none" if image.nodata is None else str(_finite(image.nodata))),
        ("levels", str(len(image.levels))),
    ]
    if image.info.bounds_offset is not None:
        y, x = image.info.bounds_offset
        rows.insert(3, ("bounds", f"the scanned rectangle, from pixel {x:,}, {y:,} (x, y) of the file on"))
    lines = [f"{name:<11} {value}" for name, value in rows]
    lines += [
        f"  {index:>3}  {level.shape[1]:>9,} x {level.shape[0]:<9,} 1/{level.downsample:<7.6g}"
        f" chunks {level.chunks[1]} x {level.chunks[0]}"
        for index, level in enumerate(image.levels)
    ]
    lines += [f"{'note':<11} {note}" for note in image.info.notes]
    return "\n".join(lines)


def _pixel_size(image: Image) -> str:
    size = image.pixel_size
    if size is None:
        return "unknown"
    unit = "µm" if size.unit == "micrometer" else size.unit
    origin = f", from {image.info.pixel_size_from}" if image.info.pixel_size_from else ""
    if math.isclose(size.x, size.y, rel_tol=1e-6):
        return f"{size.x:.6g} {unit}{origin}"
    return f"{size.x:.6g} x {size.y:.6g} {unit} (x, y){origin}"
