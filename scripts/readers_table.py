"""Print the table of docs/formats.md: every image of the test data, as gigatile and as a reference reader read it.

The images are those of the test data (``GIGATILE_TEST_DATA``, or ``../shared/data`` beside the checkout). Compared are
shape, dtype, levels, pixel size, CRS, transform, nodata, mask, and the pixels of random windows at every level. An
image that no row of `REFERENCES` is for is opened, read and not compared; another reference reader is another row and
a function from a path to `Facts`. Needs the extras gdal, openslide, dicom and demo.

``python scripts/readers_table.py [--write docs/formats.md]`` takes about a minute; it ends with 1 if anything differs.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np

from gigatile.errors import GigatileError
from gigatile.images.image import Image
from gigatile.images.open import open_source
from gigatile.tiling.region import Region

Array = np.ndarray[Any, Any]
DATA = Path(os.environ.get("GIGATILE_TEST_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")
NO_IMAGES = (".csv", ".json", ".xml", ".gpkg", ".md", ".onnx", ".npy", ".pb", "SHA256SUMS")
WINDOWS, SIDE_PX = 4, 256
BEGIN, END = "<!-- readers_table.py -->", "<!-- end -->"


@dataclass(frozen=True, slots=True)
class Facts:
    """What a reference reader says of an image; None: it does not say, and it is not compared."""

    bands: int
    levels: tuple[tuple[int, int], ...]
    dtype: str
    read: Callable[[int, Region], Array]
    """Pixels (c, y, x) of a window of a level; the bands alone."""
    pixel_size: tuple[float, float] | None = None
    transform: tuple[float, ...] | None = None
    crs: Any = None
    """Whatever can be compared by `same_crs`."""
    nodata: float | None = None
    mask: Callable[[int, Region], Array] | None = None
    """Whether pixels of a window are valid by a mask that is neither nodata nor a band."""
    says_place: bool = True
    """Whether pixel size, transform, CRS and nodata are compared, absent ones too."""


@dataclass(frozen=True, slots=True)
class Reference:
    """A reader to compare with."""

    pattern: str
    """Of paths below the test data; the first row that fits counts."""
    name: str
    open: Callable[[Path], Facts]
    tolerance: float = 0
    """Largest difference of a pixel."""
    why: str = ""
    """Of a tolerance, or of what is left out."""


def by_rasterio(path: Path) -> Facts:
    """GDAL, by way of rasterio."""
    import rasterio
    from rasterio.enums import MaskFlags

    def opened(level: int) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
            return rasterio.open(path, **({"overview_level": level - 1} if level else {}))

    def read(level: int, region: Region) -> Array:
        with opened(level) as raster:
            return np.asarray(raster.read(window=_window(region)))

    def mask(level: int, region: Region) -> Array:
        with opened(level) as raster:
            return np.asarray(raster.read_masks(1, window=_window(region)) != 0)

    with opened(0) as raster:
        counts = [raster.shape]
        for level in range(1, 1 + len(raster.overviews(1))):
            with opened(level) as reduced:
                counts.append(reduced.shape)
        affine = tuple(raster.transform)[:6]
        is_placed = (*affine[:4], abs(affine[4]), affine[5]) != (1, 0, 0, 0, 1, 0)
        size = (math.hypot(affine[1], affine[4]), math.hypot(affine[0], affine[3]))
        return Facts(
            bands=raster.count,
            levels=tuple(counts),
            dtype=str(np.result_type(*raster.dtypes)),
            read=read,
            pixel_size=size if is_placed and raster.crs else None,
            transform=affine if is_placed else None,
            crs=raster.crs,
            nodata=raster.nodata,
            mask=mask if raster.mask_flag_enums[0] == [MaskFlags.per_dataset] else None,
        )


def _window(region: Region) -> tuple[tuple[int, int], tuple[int, int]]:
    return (region.y0, region.y1), (region.x0, region.x1)


def by_pillow(path: Path) -> Facts:
    """Pillow; palettes are looked up."""
    from PIL import Image as Picture

    with Picture.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB") if picture.mode == "P" else picture)
    pixels = pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)

    def read(level: int, region: Region) -> Array:
        return pixels[(slice(None), *region.slices())]

    return Facts(len(pixels), (pixels.shape[1:],), str(pixels.dtype), read)


def by_zarr(path: Path) -> Facts:
    """zarr-python, with the axes and paths that the OME metadata name."""
    import zarr

    group = zarr.open_group(path, mode="r")
    attributes: Any = dict(group.attrs)
    multiscale = (attributes.get("ome") or attributes)["multiscales"][0]
    arrays = [group[each["path"]] for each in multiscale["datasets"]]

    def read(level: int, region: Region) -> Array:
        found = np.asarray(arrays[level][..., region.y0 : region.y1, region.x0 : region.x1])
        return found.reshape(-1, *found.shape[-2:])

    levels = tuple((int(each.shape[-2]), int(each.shape[-1])) for each in arrays)
    return Facts(math.prod(arrays[0].shape[:-2]), levels, str(arrays[0].dtype), read, says_place=False)


def by_openslide(path: Path) -> Facts:
    """OpenSlide; each level is read whole, from its first pixel on, because it interpolates elsewhere."""
    import openslide

    with openslide.OpenSlide(path) as slide:
        sizes = slide.level_dimensions
        pixels = [
            np.moveaxis(np.asarray(slide.read_region((0, 0), *each))[..., :3], -1, 0) for each in enumerate(sizes)
        ]
        size = (float(slide.properties["openslide.mpp-y"]), float(slide.properties["openslide.mpp-x"]))
    return Facts(3, tuple((h, w) for w, h in sizes), "uint8", _reader(pixels), pixel_size=size)


def by_tifffile(path: Path) -> Facts:
    """tifffile; the pixel size of OME-XML, in micrometres as all files here have it."""
    import tifffile

    with tifffile.TiffFile(path) as tif:
        levels = tif.series[0].levels
        is_last = levels[0].axes.endswith("S")
        pixels = [np.moveaxis(each.asarray(), -1, 0) if is_last else each.asarray() for each in levels]
        xml = tifffile.xml2dict(tif.ome_metadata)["OME"]["Image"]["Pixels"] if tif.ome_metadata else {}
    size = tuple(float(xml[f"PhysicalSize{axis}"]) for axis in "YX") if "PhysicalSizeX" in xml else None
    shapes = tuple((each.shape[-2], each.shape[-1]) for each in pixels)
    return Facts(len(pixels[0]), shapes, str(pixels[0].dtype), _reader(pixels), pixel_size=size and (size[0], size[1]))


def by_pydicom(path: Path) -> Facts:
    """pydicom for the headers and the places of frames, imagecodecs to decode them one by one."""
    import pydicom

    folder = path if path.is_dir() else path.parent
    found = [pydicom.dcmread(each) for each in sorted(folder.glob("*.dcm"))]
    series = found[0].SeriesInstanceUID if path.is_dir() else pydicom.dcmread(path).SeriesInstanceUID
    levels = [each for each in found if each.SeriesInstanceUID == series and each.ImageType[2] == "VOLUME"]
    levels.sort(key=lambda each: -each.TotalPixelMatrixColumns)
    pixels = [_frames(each) for each in levels]
    spacing = levels[0].SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing
    shapes = tuple((each.shape[1], each.shape[2]) for each in pixels)
    size = (float(spacing[0]) * 1000, float(spacing[1]) * 1000)
    return Facts(len(pixels[0]), shapes, str(pixels[0].dtype), _reader(pixels), pixel_size=size)


def _frames(dataset: Any) -> Array:
    """A TILED_FULL level, put together from its frames."""
    import imagecodecs
    from pydicom.encaps import generate_frames

    height, width, side_y, side_x = (
        int(dataset[name].value) for name in ("TotalPixelMatrixRows", "TotalPixelMatrixColumns", "Rows", "Columns")
    )
    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax.is_compressed:
        frames = list(generate_frames(dataset.PixelData, number_of_frames=int(dataset.NumberOfFrames)))
        is_ls = "LS" in syntax.name
        # As the header says, RGB; but JFIF is YCbCr, whatever the header says (CMU-1-Small-Region, levels 1 to 4).
        colours = (None if f[6:10] == b"JFIF" else 2 for f in frames)
        tiles = [
            imagecodecs.jpegls_decode(f) if is_ls else imagecodecs.jpeg8_decode(f, colorspace=c)
            for f, c in zip(frames, colours, strict=True)
        ]
    else:
        tiles = list(dataset.pixel_array.reshape(int(dataset.NumberOfFrames), side_y, side_x, -1))
    out = np.zeros((dataset.SamplesPerPixel, height, width), tiles[0].dtype)
    for number, tile in enumerate(tiles):
        y, x = (k * side for k, side in zip(divmod(number, -(-width // side_x)), (side_y, side_x), strict=True))
        target = out[:, y : y + side_y, x : x + side_x]
        target[...] = np.moveaxis(tile, -1, 0)[:, : target.shape[1], : target.shape[2]]
    return out


def _reader(pixels: Sequence[Array]) -> Callable[[int, Region], Array]:
    return lambda level, region: pixels[level][(slice(None), *region.slices())]


_CHROMA = "libtiff repeats the halved chroma where libjpeg, and gigatile with it, interpolates"
REFERENCES = (
    Reference("satellite/rasterio/cogeo.tif", "rasterio", by_rasterio, 40, _CHROMA),
    Reference("*.png", "Pillow", by_pillow),
    Reference("*.jp*g", "Pillow", by_pillow),
    Reference("satellite/*", "rasterio", by_rasterio),
    Reference("reference/*.tif", "rasterio", by_rasterio),
    Reference("gt_*.tif", "rasterio", by_rasterio),
    Reference("omezarr/*", "zarr", by_zarr),
    Reference("*.dcm", "pydicom", by_pydicom),
    Reference("wsi/*_dicom", "pydicom", by_pydicom),
    Reference("*.svs", "OpenSlide", by_openslide),
    Reference("*.ndpi", "OpenSlide", by_openslide),
    Reference("wsi/*.tif*", "tifffile", by_tifffile),
)
"""The first row whose pattern fits is taken."""


def images(folder: Path) -> Iterator[Path]:
    """Files that are no tables, models or texts; Zarr hierarchies and folders of DICOM files as one image each."""
    for path in sorted(folder.iterdir()):
        if path.is_dir() and path.name != "models":
            is_one = path.suffix == ".zarr" or path.name.endswith("_dicom")
            yield from [path] if is_one else images(path)
        elif path.is_file() and not path.name.endswith(NO_IMAGES):
            yield path


def same_crs(own: str | None, reference: Any) -> bool:
    """Whether they mean the same system."""
    import rasterio

    if own is None or not reference:
        return own is None and not reference
    return bool(rasterio.crs.CRS.from_user_input(own) == rasterio.crs.CRS.from_user_input(reference))


def differences(image: Image, facts: Facts, tolerance: float) -> list[str]:
    """What differs, in words; pixels included."""
    info = image.info
    own_shapes = tuple(level.shape for level in info.levels)
    pairs: list[tuple[str, Any, Any]] = [("levels", own_shapes, facts.levels), ("dtype", str(info.dtype), facts.dtype)]
    pairs.append(("bands", len(info.channels) - (facts.mask is not None), facts.bands))
    found = [f"{name}: {own}, reference {other}" for name, own, other in pairs if own != other]
    if facts.says_place:
        size = info.pixel_size and (info.pixel_size.y, info.pixel_size.x)
        numbers = [("pixel size", size, facts.pixel_size), ("transform", info.transform, facts.transform)]
        found += [f"{name}: {own}, reference {other}" for name, own, other in numbers if not _close(own, other)]
        if not same_crs(info.crs, facts.crs):
            found.append(f"CRS: {info.crs}, reference {facts.crs}")
        if str(info.nodata) != str(facts.nodata):
            found.append(f"nodata: {info.nodata}, reference {facts.nodata}")
    return found or [text for level in range(len(own_shapes)) for text in _pixels(image, facts, level, tolerance)]


def _close(own: Sequence[float] | None, other: Sequence[float] | None) -> bool:
    if own is None or other is None:
        return own is other
    return bool(np.allclose(own, other, rtol=1e-9, atol=1e-12))


def windows(shape: tuple[int, int]) -> list[Region]:
    """The same windows in every run."""
    rng = np.random.default_rng(shape)
    corners = [(int(rng.integers(shape[0])), int(rng.integers(shape[1]))) for _ in range(WINDOWS)]
    return [Region(y, x, min(y + SIDE_PX, shape[0]), min(x + SIDE_PX, shape[1])) for y, x in corners]


def _pixels(image: Image, facts: Facts, level: int, tolerance: float) -> Iterator[str]:
    whole = Image(image.source, channels=tuple(range(len(image.info.channels))))
    for region in windows(image.levels[level].shape):
        own, other = whole.read(region, level), facts.read(level, region)
        bands = own[: facts.bands]
        off = np.abs(bands.astype(float) - other.astype(float))
        if (
            not np.array_equal(np.isnan(bands.astype(float)), np.isnan(other.astype(float)))
            or np.nanmax(off) > tolerance
        ):
            yield f"level {level}, {region}: off by {np.nanmax(off):g}"
        if facts.mask and not np.array_equal(own[-1] != 0, facts.mask(level, region)):
            yield f"level {level}, {region}: another mask"


def row(path: Path) -> tuple[list[str], bool]:
    """The cells of an image, and whether it agrees, is refused, or has no reference."""
    name = str(path.relative_to(DATA))
    reference = next((each for each in REFERENCES if fnmatch(name, each.pattern)), None)
    try:
        image = Image(open_source(path))
        for level in range(len(image.levels)):
            for region in windows(image.levels[level].shape)[:1]:
                image.read(region, level)
    except GigatileError as error:
        why = f"expected {error.expected}, found {error.found}" if error.expected else error.found
        return [name, "", "", "", "", "", "", f"refused: {why}".replace(str(path), path.name)], True
    said = "opened and read, not compared"
    is_fine = True
    if reference:
        found = differences(image, reference.open(path), reference.tolerance)
        is_fine = not found
        said = "; ".join(found) or f"as {reference.name}"
        if reference.why:
            said += f" ({reference.why})"
    return [*_cells(name, image), said], is_fine


def _cells(name: str, image: Image) -> list[str]:
    info, size = image.info, image.pixel_size
    height, width = info.levels[0].shape
    unit = "" if size is None else {"micrometer": "µm", "metre": "m", "degree": "°"}.get(size.unit, size.unit)
    crs = (info.crs or "").partition(",")[0].replace("[", " ").replace('"', "")
    validity = "" if info.alpha is None else info.channels[info.alpha]
    nodata = "" if info.nodata is None else f"{info.nodata:g}"
    return [
        name,
        info.format,
        f"{len(image.channels)} x {height} x {width} {info.dtype}",
        str(len(info.levels)),
        "" if size is None else f"{size.y:.6g} {unit}",
        crs,
        ", ".join(filter(None, (nodata, validity))),
    ]


HEADER = ["image", "format", "channels x rows x columns", "levels", "pixel size", "CRS", "nodata, mask", "compared"]


def main() -> int:
    """Print or write the table."""
    parser = argparse.ArgumentParser(description="Every image of the test data against a reference reader.")
    parser.add_argument("--write", type=Path, help="a Markdown file with two markers, the table between them")
    target = parser.parse_args().write
    rows, is_fine = [], True
    for path in images(DATA):
        cells, fits = row(path)
        rows.append(cells)
        is_fine &= fits
    lines = ["| " + " | ".join(cells) + " |" for cells in (HEADER, ["---"] * len(HEADER), *rows)]
    if target is None:
        print("\n".join(lines))
    else:
        before, _, rest = target.read_text(encoding="utf-8").partition(BEGIN)
        after = rest.partition(END)[2]
        target.write_text("\n".join([before + BEGIN, *lines, END + after]), encoding="utf-8")
    return 0 if is_fine else 1


if __name__ == "__main__":
    sys.exit(main())
