"""Masks inside and beside TIFFs, and overviews beside them, against rasterio."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.enums import ColorInterp, Resampling

from gigatile.errors import DecodeError, ImageError
from gigatile.images.image import REFLECT, Image
from gigatile.images.tiff import TiffSource
from gigatile.tiling.region import Region
from tests.data import data
from tests.images.assemble import check_grid, whole

RNG = np.random.default_rng(17)
SHAPE = (300, 410)
TILED = {"tiled": True, "blockxsize": 64, "blockysize": 64}
PLACE = {"crs": "EPSG:32631", "transform": rasterio.Affine(10, 0, 300000, 0, -10, 4100040)}


def blobs() -> np.ndarray:
    """A mask with an empty corner, an empty frame and single pixels."""
    mask = RNG.random(SHAPE) > 0.1
    mask[:, :130] = False
    mask[-5:] = False
    return mask


def write(path: Path, inside: str, mask: np.ndarray | None, bands: int = 2, dtype="uint16", **profile) -> np.ndarray:
    pixels = RNG.integers(1, 250, (bands, *SHAPE)).astype(dtype)
    size = {"count": bands, "height": SHAPE[0], "width": SHAPE[1], "dtype": dtype}
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=inside),
        rasterio.open(path, "w", driver="GTiff", **PLACE, **size, **profile) as out,
    ):
        out.write(pixels)
        if mask is not None:
            out.write_mask(mask)
    return pixels


def validity(path: Path, level: int = 0) -> np.ndarray:
    image = Image(TiffSource(path), level=level)
    valid = image.read_with_validity(Region(0, 0, *image.grid_shape), REFLECT)[1]
    assert valid is not None
    return valid


@pytest.mark.parametrize("inside", ["YES", "NO"])
@pytest.mark.parametrize("profile", [TILED, {}, {**TILED, "compress": "deflate"}, {"interleave": "pixel"}])
def test_a_mask_is_validity_wherever_it_is_stored(tmp_path, inside, profile):
    path, mask = tmp_path / "a.tif", blobs()
    pixels = write(path, inside, mask, **profile)
    assert Path(f"{path}.msk").exists() == (inside == "NO")
    source = TiffSource(path)
    check_grid(source)
    np.testing.assert_array_equal(whole(source)[:2], pixels)
    np.testing.assert_array_equal(validity(path), mask)
    assert Image(source).channels == ("0", "1")
    assert source.info.channels == ("0", "1", "mask")


@pytest.mark.parametrize("inside", ["YES", "NO"])
def test_each_overview_has_the_mask_that_gdal_gives_it(tmp_path, inside):
    path, mask = tmp_path / "a.tif", blobs()
    write(path, inside, mask, **TILED)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=inside), rasterio.open(path, "r+") as raster:
        raster.build_overviews([2, 4], Resampling.nearest)
    assert len(TiffSource(path).info.levels) == 3
    for level in (1, 2):
        with rasterio.open(path, overview_level=level - 1) as raster:
            np.testing.assert_array_equal(validity(path, level), raster.read_masks(1) != 0)


def test_a_level_without_a_mask_of_its_own_takes_the_nearest_pixels_of_the_finer_one(tmp_path):
    path, mask = tmp_path / "a.tif", blobs()
    write(path, "NO", None, **TILED)
    with rasterio.open(path, "r+") as raster:
        raster.build_overviews([2], Resampling.nearest)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK="NO"), rasterio.open(path, "r+") as raster:
        raster.write_mask(mask)
    np.testing.assert_array_equal(validity(path, 1), mask[1::2, 1::2])


def test_bits_that_are_not_stored_are_invalid(tmp_path):
    path = tmp_path / "a.tif"
    mask = np.zeros(SHAPE, bool)
    mask[:64, :64] = True
    write(path, "YES", mask, **TILED, sparse_ok=True)
    np.testing.assert_array_equal(validity(path), mask)


def test_a_mask_inside_comes_before_one_beside_the_file(tmp_path):
    path, first, second = tmp_path / "a.tif", blobs(), ~blobs()
    write(path, "YES", first, **TILED)
    write(tmp_path / "b.tif", "NO", second, **TILED)
    (tmp_path / "b.tif.msk").rename(f"{path}.msk")
    np.testing.assert_array_equal(validity(path), first)
    with rasterio.open(path) as raster:
        np.testing.assert_array_equal(raster.read_masks(1) != 0, first)


def test_a_mask_joins_an_alpha_band(tmp_path):
    path, mask = tmp_path / "a.tif", blobs()
    pixels = write(path, "YES", mask, bands=4, dtype="uint8", photometric="RGB", alpha="YES", **TILED)
    pixels[3, 200:] = 0
    with rasterio.open(path, "r+") as raster:
        assert raster.colorinterp[3] == ColorInterp.alpha
        raster.write(pixels)
    source = TiffSource(path)
    assert (len(source.info.channels), source.info.alpha) == (4, 3)
    np.testing.assert_array_equal(validity(path), mask & (pixels[3] != 0))


def test_a_mask_works_with_every_dtype(tmp_path):
    for dtype in ("int8", "float32", "int32"):
        path, mask = tmp_path / f"{dtype}.tif", blobs()
        write(path, "YES", mask, bands=1, dtype=dtype, **TILED)
        np.testing.assert_array_equal(validity(path), mask)


def test_overviews_beside_the_file_are_levels(tmp_path):
    path = tmp_path / "a.tif"
    write(path, "YES", None, **TILED)
    with rasterio.Env(TIFF_USE_OVR="YES"), rasterio.open(path, "r+") as raster:
        raster.build_overviews([2, 4, 8], Resampling.average)
    assert Path(f"{path}.ovr").exists()
    source = TiffSource(path)
    assert [level.shape for level in source.info.levels] == [SHAPE, (150, 205), (75, 103), (38, 52)]
    for level in (1, 2, 3):
        with rasterio.open(path, overview_level=level - 1) as raster:
            np.testing.assert_array_equal(whole(source, level), raster.read())


def test_another_process_and_the_identity_know_the_files_beside(tmp_path):
    path, mask = tmp_path / "a.tif", blobs()
    write(path, "NO", mask, **TILED)
    source = TiffSource(path)
    again = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(whole(again), whole(source))
    before = source.identity()
    assert again.identity() == before
    write(tmp_path / "b.tif", "NO", ~mask, **TILED)
    (tmp_path / "b.tif.msk").rename(f"{path}.msk")
    assert TiffSource(path).identity() != before
    Path(f"{path}.msk").unlink()
    assert set(TiffSource(path).identity()) == {"size", "sha256"}


def test_a_mask_of_another_size_is_told_and_not_read(tmp_path):
    write(tmp_path / "a.tif", "NO", None, **TILED)
    with rasterio.open(
        tmp_path / "a.tif.msk", "w", driver="GTiff", count=1, height=30, width=40, dtype="uint8", **PLACE
    ) as out:
        out.write(np.ones((1, 30, 40), np.uint8))
    info = TiffSource(tmp_path / "a.tif").info
    assert info.alpha is None
    assert any("another size" in note for note in info.notes)


def test_a_damaged_mask_is_refused_or_fails_by_its_own_name(tmp_path):
    path = tmp_path / "a.tif"
    write(path, "NO", blobs(), **TILED)
    content = bytearray(Path(f"{path}.msk").read_bytes())
    source = TiffSource(path)
    plane = source._content.masks[0].stored.plane
    at = int(plane.offsets.flat[-1])
    content[at : at + 16] = b"\xff" * 16
    Path(f"{path}.msk").write_bytes(content)
    with pytest.raises(DecodeError, match=r"a\.tif\.msk, mask of level 0"):
        whole(TiffSource(path))
    Path(f"{path}.msk").write_bytes(content[:50])
    with pytest.raises(ImageError, match=r"a\.tif\.msk"):
        TiffSource(path)


def test_real_overviews_beside_the_file():
    levels = TiffSource(data("satellite/rasterio/red.tif")).info.levels
    assert [level.shape for level in levels] == [(64, 64), (32, 32), (16, 16)]


@pytest.mark.parametrize("name", ["rasterio/RGB2.byte.tif", "rio-tiler/cog_rgb_mask.tif", "rasterio/cogeo.tif"])
def test_real_masks_say_what_rasterio_says(name):
    path = data(f"satellite/{name}")
    with rasterio.open(path) as raster:
        np.testing.assert_array_equal(validity(path), raster.dataset_mask() != 0)
