"""`open` chooses the reader by content, and says in one paragraph why something is no image."""

import subprocess
import sys
from pathlib import Path

import dask.array as da
import imagecodecs
import numpy as np
import pytest
import tifffile
import zarr

from gigatile.errors import ImageError, UsageError
from gigatile.images import decode_units
from gigatile.images.image import Image
from gigatile.images.open import open as open_image
from gigatile.images.open import open_source
from gigatile.images.picture import PictureSource
from gigatile.tiling.region import Region
from tests.data import data
from tests.images.assemble import check_grid, whole

RNG = np.random.default_rng(1)
PIXELS = RNG.integers(0, 255, (60, 70, 3)).astype(np.uint8)


def write_tiff(path: Path) -> Path:
    tifffile.imwrite(path, PIXELS, photometric="rgb")
    return path


def write_zarr(path: Path) -> Path:
    zarr.create_array(path, data=PIXELS, chunks=(32, 32, 3), dimension_names=["y", "x", "c"])
    return path


def write_png(path: Path) -> Path:
    path.write_bytes(imagecodecs.png_encode(PIXELS))
    return path


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (lambda folder: write_tiff(folder / "a.tif"), "tiff"),
        (lambda folder: str(write_tiff(folder / "misnamed.jpg")), "tiff"),
        (lambda folder: write_zarr(folder / "a.zarr"), "zarr"),
        (lambda folder: write_png(folder / "a.png"), "png"),
        (lambda folder: PIXELS, "numpy"),
        (lambda folder: da.from_array(PIXELS, chunks=30), "dask"),
    ],
)
def test_every_kind_of_target_opens_to_the_same_pixels(tmp_path, make, kind):
    image = open_image(make(tmp_path))
    assert isinstance(image, Image)
    assert image.info.format == kind
    assert image.shape == (3, 60, 70)
    np.testing.assert_array_equal(image.read(Region(5, 6, 40, 50)), np.moveaxis(PIXELS[5:40, 6:50], -1, 0))


def test_axes_are_for_arrays_and_zarr_only(tmp_path):
    assert open_image(PIXELS, axes="cyx").shape == (60, 70, 3)
    assert open_image(da.from_array(PIXELS), axes="cyx").shape == (60, 70, 3)
    assert open_image(write_zarr(tmp_path / "a"), axes="cyx").shape == (60, 70, 3)
    with pytest.raises(UsageError, match="axes"):
        open_source(write_tiff(tmp_path / "a.tif"), "yxc")


HEADS = {
    "JPEG 2000": b"\0\0\0\x0cjP  \r\n\x87\n",
    "DICOM": b"\0" * 128 + b"DICM" + b"\0" * 50,
    "VRT": b'<VRTDataset rasterXSize="1">',
    "HDF5": b"\x89HDF\r\n\x1a\n",
    "CZI": b"ZISRAWFILE\0\0",
    "ZIP": b"PK\x03\x04rest",
    "numpy": b"\x93NUMPY\x01\0",
    "begins with": b"hello, I am not an image",
    "empty": b"",
}


@pytest.mark.parametrize("name", HEADS)
def test_files_without_a_reader_are_refused_by_what_they_are(tmp_path, name):
    path = tmp_path / "a.bin"
    path.write_bytes(HEADS[name])
    with pytest.raises(ImageError, match=name) as error:
        open_source(path)
    assert str(path) in str(error.value)
    assert error.value.fix
    assert "\n" not in str(error.value)


def test_an_index_file_is_not_taken_for_the_picture_it_begins_with(tmp_path):
    path = tmp_path / "slide.mrxs"
    path.write_bytes(imagecodecs.jpeg_encode(PIXELS))
    with pytest.raises(ImageError, match="a slide that OpenSlide opens"):
        open_source(path)


def test_what_is_not_there_is_refused(tmp_path):
    with pytest.raises(ImageError, match="no such file"):
        open_source(tmp_path / "no.tif")
    with pytest.raises(ImageError, match=r"b\.tif: expected an image, found no such file"):
        open_source(f"{write_tiff(tmp_path / 'a.tif')}+b.tif")
    with pytest.raises(UsageError, match="URL") as error:
        open_source("s3://key:secret@bucket/a.tif")
    assert "secret" not in str(error.value)
    with pytest.raises(UsageError, match="ftp://"):
        open_source("ftp://ann:secret@host/a.tif")
    (tmp_path / "dicom").mkdir()
    (tmp_path / "dicom" / "a.dcm").write_bytes(b"")
    with pytest.raises(ImageError, match="DICOM"):
        open_source(tmp_path / "dicom")
    with pytest.raises(UsageError, match="int"):
        open_source(5)


@pytest.mark.parametrize(
    ("shape", "channels", "alpha"),
    [((40, 50), 1, None), ((40, 50, 2), 2, 1), ((40, 50, 3), 3, None), ((40, 50, 4), 4, 3)],
)
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_png_pictures_keep_their_values_and_alpha(tmp_path, shape, channels, alpha, dtype):
    pixels = RNG.integers(0, 255, shape).astype(dtype)
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(pixels))
    source = open_source(tmp_path / "a.png")
    check_grid(source)
    assert (len(source.info.channels), source.info.alpha) == (channels, alpha)
    assert source.info.dtype == dtype
    expected = np.moveaxis(pixels, -1, 0) if pixels.ndim == 3 else pixels[np.newaxis]
    np.testing.assert_array_equal(whole(source), expected)


def test_jpeg_pictures_are_what_their_codec_gives(tmp_path):
    encoded = imagecodecs.jpeg_encode(PIXELS, level=90)
    (tmp_path / "a.jpg").write_bytes(encoded)
    source = open_source(tmp_path / "a.jpg")
    assert source.info.format == "jpeg"
    np.testing.assert_array_equal(whole(source), np.moveaxis(imagecodecs.jpeg_decode(encoded), -1, 0))


@pytest.mark.parametrize("kind", ["png", "jpg"])
def test_truncated_pictures_are_refused_and_not_filled_with_grey(tmp_path, kind):
    encoded = imagecodecs.png_encode(PIXELS) if kind == "png" else imagecodecs.jpeg_encode(PIXELS)
    path = tmp_path / f"a.{kind}"
    for part in (0.002, 0.1, 0.5, 0.99):
        path.write_bytes(encoded[: max(4, int(len(encoded) * part))])
        with pytest.raises(ImageError):
            open_source(path)


@pytest.mark.parametrize("kind", ["png", "jpg"])
def test_giant_pictures_are_refused_before_they_are_decoded(tmp_path, monkeypatch, kind):
    monkeypatch.setattr("gigatile.images.picture.CHUNK_LIMIT_PX", PIXELS.shape[0] * PIXELS.shape[1] - 1)
    path = tmp_path / "a"
    path.write_bytes(imagecodecs.png_encode(PIXELS) if kind == "png" else imagecodecs.jpeg_encode(PIXELS))
    with pytest.raises(ImageError, match="cannot be read in parts"):
        PictureSource(path)


@pytest.mark.parametrize(
    ("name", "format_name"),
    [
        ("wsi/CMU-1-Small-Region.svs", "svs"),
        ("wsi/test3-DAPI-2-(387).ndpi", "ndpi"),
        ("wsi/highdicom/sm_image.dcm", "dicom"),
        ("wsi/CMU-1-Small-Region_dicom", "dicom"),
        ("wsi/instanseg_HE_example.tif", "ome-tiff"),
        ("satellite/titiler_TCI.tif", "geotiff"),
        ("satellite/yb10kx5k.zstd.tiff", "tiff"),
        ("omezarr/cmu1_crop_v04.ome.zarr", "ome-zarr"),
        ("wsi/he_tcga_high-nuclei.png", "png"),
        ("gt_detection/terrain1.jpg", "jpeg"),
        ("satellite/nemo.jp2", "jp2openjpeg"),
        ("satellite/rasterio/RGB.byte.gcp.vrt", "vrt"),
    ],
)
def test_real_files_open_as_what_they_are(name, format_name):
    assert open_image(data(name)).info.format == format_name


@pytest.mark.parametrize(
    "name",
    [
        "wsi/highdicom",
        "satellite/deepness/dummy_fotomap_area.gpkg",
        "wsi/multi-channel-z-series.ome.tif",
        "satellite/rasterio/corrupt.tif",
        "MANIFEST.md",
    ],
)
def test_real_files_that_are_not_read_say_so_in_one_paragraph(name):
    with pytest.raises(ImageError) as error:
        open_image(data(name))
    assert "\n" not in str(error.value)
    assert error.value.fix


def test_importing_the_readers_does_not_import_the_heavy_libraries():
    code = (
        "import sys, gigatile.images.open; "
        "heavy = ('tifffile', 'zarr', 'dask', 'imagecodecs', 'rasterio', 'openslide', 'wsidicom', 'pydicom'); "
        "print([m for m in heavy if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("full", "reduced", "fits"),
    [
        ((1000, 800), (500, 400), True),
        ((1001, 801), (500, 400), True),
        ((1001, 801), (501, 401), True),
        ((32914, 46000), (8228, 11500), True),
        ((1, 900), (1, 450), True),
        ((2967, 2220), (768, 574), True),
        ((2967, 2220), (768, 768), False),
        ((1000, 800), (1000, 400), False),
        ((1000, 800), (1024, 400), False),
        ((100, 100), (100, 100), False),
        ((100, 100), (0, 0), False),
    ],
)
def test_a_level_is_a_reduction_by_one_factor(full, reduced, fits):
    assert decode_units.is_reduction(full, reduced) is fits


@pytest.mark.parametrize(
    ("chunk", "pixel_bytes", "unit"),
    [
        ((256, 256), 3, (256, 256)),
        ((240, 240), 3, (240, 240)),
        ((1024, 1024), 3, (1024, 1024)),
        ((64, 64), 3, (256, 256)),
        ((16, 2220), 3, (144, 2220)),
        ((1, 100_000), 3, (3, 100_000)),
        ((1, 1_000_000), 8, (1, 1_000_000)),
        ((64, 64), 200, (64, 64)),
        ((1, 1), 1, (256, 256)),
    ],
)
def test_units_are_chunks_taken_together_within_a_side_and_a_size(chunk, pixel_bytes, unit):
    assert decode_units.unit_shape(chunk, pixel_bytes) == unit
