"""The images that are damaged: some made on the spot, so that there are always some, and small real ones.

A seed is a file, or a directory (Zarr), in a folder of its own.
"""

from __future__ import annotations

import json
import shutil
import struct
from dataclasses import dataclass
from pathlib import Path

import imagecodecs
import numpy as np
import tifffile
import zarr

LARGEST_BYTES = 3_000_000
"""Real files up to this size: each case is a copy."""
REAL = {
    "svs": ("wsi/CMU-1-Small-Region.svs",),
    "ome-tiff": ("wsi/viv_multi-channel.ome.tif",),
    "geotiff": (
        "satellite/rasterio/rotated.tif",
        "satellite/rasterio/float_nan.tif",
        "satellite/stars_geomatrix.tif",
        "satellite/rasterio/test_esri_wkt.tif",
        "satellite/rasterio/RGBA.uint16.tif",
        "satellite/yb10kx5k.zstd.tiff",
        "satellite/landsat_1985.tif",
        "satellite/s2_rstoolbox/sen2_S2L2A_12band_uint16.tif",
    ),
    "cog": (
        "satellite/rasterio/cogeo.tif",
        "satellite/rio-tiler/cog_scale.tif",
        "satellite/rio-tiler/cog_rgb_mask.tif",
        "satellite/rio-tiler/cog.tif",
    ),
    "tiff": (
        "wsi/openslide-python/boxes.tiff",
        "wsi/instanseg_HE_example.tif",
        "gt_nuclei_dsb2018/he_320x256_2246874c8b_labels.tif",
    ),
    "zarr": (
        "omezarr/blobs_image_v04.ome.zarr",
        "omezarr/neuroglancer_simple_0.4.zarr",
        "omezarr/neuroglancer_simple_0.5.zarr",
    ),
    "picture": ("wsi/openslide-python/boxes.png", "gt_nuclei_dsb2018/fluo_256x256_00071198d0.png"),
}
"""Files of the test data, by family."""


@dataclass(frozen=True, slots=True)
class Seed:
    """An image to be damaged."""

    family: str
    path: Path


def make_seeds(folder: Path) -> list[Seed]:
    """Write the images that need no data; the same bytes at each call."""
    folder.mkdir(parents=True, exist_ok=True)
    made = [*_tiffs(folder), *_vendors(folder), *_pictures(folder), *_zarrs(folder)]
    return sorted(made, key=lambda seed: (seed.family, seed.path.name))


def real_seeds(root: Path) -> list[Seed]:
    """The real ones that are there."""
    found = [Seed(family, root / name) for family, names in REAL.items() for name in names]
    return [seed for seed in found if seed.path.exists() and _size(seed.path) <= LARGEST_BYTES]


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else sum(p.stat().st_size for p in path.rglob("*") if p.is_file())


def picture(height: int, width: int, channels: int) -> np.ndarray:
    """Pixels that compress a little, shape (y, x, c), uint8."""
    y, x, c = np.ogrid[:height, :width, :channels]
    return ((y * 3 + x * 5 + c * 40 + (y * x) % 17) % 256).astype(np.uint8)


def _tiffs(folder: Path) -> list[Seed]:
    rgb = picture(200, 230, 3)
    layouts = {
        "deflate_tiles": {"tile": (64, 64), "compression": "deflate", "predictor": True},
        "jpeg_tiles": {"tile": (64, 64), "compression": "jpeg"},
        "jpeg2000_tiles": {"tile": (64, 64), "compression": "jpeg2000"},
        "webp_tiles": {"tile": (64, 64), "compression": "webp"},
        "png_tiles": {"tile": (64, 64), "compression": "png"},
        "jpegxl_tiles": {"tile": (64, 64), "compression": "jpegxl"},
        "lzw_strips": {"rowsperstrip": 16, "compression": "lzw"},
        "raw_strip": {},
        "raw_big": {"tile": (64, 64), "bigtiff": True, "byteorder": ">"},
        "zstd_planes": {"tile": (64, 64), "compression": "zstd", "planarconfig": "separate"},
        "lerc_tiles": {"tile": (64, 64), "compression": "lerc"},
    }
    found = []
    for name, options in layouts.items():
        path = folder / f"{name}.tif"
        pixels = np.moveaxis(rgb, -1, 0) if "planarconfig" in options else rgb
        tifffile.imwrite(path, pixels, photometric="rgb", metadata=None, software=False, **options)
        found.append(Seed("tiff", path))
    path = folder / "shaped.tif"
    tifffile.imwrite(path, picture(120, 90, 3), photometric="rgb", software=False)
    return [*found, Seed("tiff", path), _imagej(folder), _cog(folder), _geotiff(folder)]


def _imagej(folder: Path) -> Seed:
    path = folder / "imagej.tif"
    planes = picture(80, 70, 2).transpose(2, 0, 1)
    tifffile.imwrite(path, planes, imagej=True, metadata={"axes": "CYX"}, resolution=(2.0, 2.0))
    return Seed("tiff", path)


_UTM = (1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, 32633)
_BANDS = '<GDALMetadata><Item name="DESCRIPTION" sample="0" role="description">B4</Item></GDALMetadata>'


def _geotiff(folder: Path) -> Seed:
    path = folder / "placed.tif"
    tags = [
        (33550, "d", 3, (10.0, 10.0, 0.0), True),
        (33922, "d", 6, (0.0, 0.0, 0.0, 600000.0, 5000000.0, 0.0), True),
        (34735, "H", len(_UTM), _UTM, True),
        (42112, "s", 0, _BANDS, True),
        (42113, "s", 0, "-9999", True),
    ]
    pixels = picture(90, 110, 1)[..., 0].astype(np.int16)
    tifffile.imwrite(path, pixels, extratags=tags, rowsperstrip=8, compression="deflate", metadata=None, software=False)
    return Seed("geotiff", path)


def _cog(folder: Path) -> Seed:
    path = folder / "pyramid.tif"
    with tifffile.TiffWriter(path) as writer:
        for step in (1, 2, 4):
            level = picture(256, 320, 3)[::step, ::step]
            kind = {"subfiletype": int(step > 1), "tile": (64, 64), "compression": "jpeg"}
            writer.write(level, photometric="rgb", metadata=None, software=False, **kind)
    return Seed("cog", path)


def _vendors(folder: Path) -> list[Seed]:
    ome, svs, ndpi = folder / "small.ome.tif", folder / "small.svs", folder / "small.ndpi"
    planes = picture(128, 160, 3).transpose(2, 0, 1)
    metadata = {
        "axes": "CYX",
        "PhysicalSizeX": 0.5,
        "PhysicalSizeY": 0.5,
        "UUID": "urn:uuid:00000000-0000-4000-8000-000000000000",
    }
    with tifffile.TiffWriter(ome, ome=True) as writer:
        options = {"tile": (64, 64), "compression": "deflate", "photometric": "minisblack"}
        writer.write(planes, subifds=1, metadata=metadata, **options)
        writer.write(planes[:, ::2, ::2], subfiletype=1, **options)
    text = "Aperio Image Library v1\n160x128 [0,0 160x128] (64x64) JPEG/RGB Q=70|AppMag = 20|MPP = 0.4990"
    with tifffile.TiffWriter(svs) as writer:
        for step in (1, 2):
            level = picture(128, 160, 3)[::step, ::step]
            options = {"tile": (64, 64), "compression": "jpeg", "photometric": "rgb", "software": False}
            writer.write(level, description=text, metadata=None, **options)
    with tifffile.TiffWriter(ndpi) as writer:
        for lens, step in ((20.0, 1), (10.0, 2), (-1.0, 4)):
            tags = [(271, "s", 0, "Hamamatsu", True), (65420, "I", 1, 1, True), (65421, "f", 1, lens, True)]
            level = picture(128, 160, 3)[::step, ::step]
            options = {"rowsperstrip": 8, "compression": "jpeg", "photometric": "rgb", "software": False}
            writer.write(level, extratags=tags, metadata=None, **options)
    ndpi.write_bytes(_with_long_offsets(ndpi.read_bytes()))
    return [Seed("ome-tiff", ome), Seed("svs", svs), Seed("ndpi", ndpi)]


def _with_long_offsets(data: bytes) -> bytes:
    """A classic TIFF as Hamamatsu writes it: offsets to directories have 64 bits, and behind each directory come
    the upper halves of its values."""
    out = bytearray(data)
    (at,) = struct.unpack_from("<I", data, 4)
    link = 4
    while at:
        (count,) = struct.unpack_from("<H", data, at)
        struct.pack_into("<Q", out, link, len(out))
        link = len(out) + 2 + 12 * count
        out += data[at : at + 2 + 12 * count] + bytes(8 + 4 * count)
        (at,) = struct.unpack_from("<I", data, at + 2 + 12 * count)
    return bytes(out)


def _pictures(folder: Path) -> list[Seed]:
    png, jpeg = folder / "picture.png", folder / "picture.jpg"
    png.write_bytes(imagecodecs.png_encode(picture(90, 120, 3)))
    jpeg.write_bytes(imagecodecs.jpeg_encode(picture(90, 120, 3)))
    return [Seed("picture", png), Seed("picture", jpeg)]


def _zarrs(folder: Path) -> list[Seed]:
    """A plain array of each version and codec, a sharded one, and an OME-Zarr image of each version."""
    from numcodecs import Blosc, GZip, Zstd
    from zarr.codecs import BloscCodec, GzipCodec, ZstdCodec

    codecs = {
        2: {"zstd": Zstd(1), "blosc": Blosc("lz4"), "gzip": GZip(1)},
        3: {"zstd": ZstdCodec(), "blosc": BloscCodec(), "gzip": GzipCodec()},
    }
    found = []
    pixels = picture(120, 150, 2).transpose(2, 0, 1)
    for version, by_name in codecs.items():
        for name, codec in by_name.items():
            found.append(folder / f"{name}_v{version}.zarr")
            _array(found[-1], pixels, version, {"compressors": codec})
    found.append(folder / "sharded.zarr")
    _array(found[-1], pixels, 3, {"shards": (2, 96, 96)})
    return [Seed("zarr", path) for path in (*found, _ome_zarr(folder, 2), _ome_zarr(folder, 3))]


def _array(path: Path, pixels: np.ndarray, version: int, options: dict) -> None:
    shutil.rmtree(path, ignore_errors=True)
    stored = zarr.create_array(
        path, shape=pixels.shape, dtype=pixels.dtype, chunks=(1, 48, 48), zarr_format=version, **options
    )
    stored[...] = pixels


def _ome_zarr(folder: Path, version: int) -> Path:
    path = folder / f"image_v{version}.ome.zarr"
    axes = [
        {"name": "c", "type": "channel"},
        *({"name": name, "type": "space", "unit": "micrometer"} for name in "yx"),
    ]
    datasets = []
    for number, step in enumerate((1, 2)):
        pixels = picture(120, 150, 2).transpose(2, 0, 1)[:, ::step, ::step]
        _array(path / str(number), pixels, version, {})
        scale = [{"type": "scale", "scale": [1.0, 0.5 * step, 0.5 * step]}]
        datasets.append({"path": str(number), "coordinateTransformations": scale})
    image = {"multiscales": [{"version": "0.4", "axes": axes, "datasets": datasets, "name": "image"}]}
    if version == 2:
        (path / ".zgroup").write_text('{"zarr_format": 2}')
        (path / ".zattrs").write_text(json.dumps(image))
    else:
        ome = {"ome": {"version": "0.5", **image}}
        (path / "zarr.json").write_text(json.dumps({"zarr_format": 3, "node_type": "group", "attributes": ome}))
    return path
