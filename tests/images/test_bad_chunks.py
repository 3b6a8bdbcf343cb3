"""Chunks that do not decode: named, or filled with nodata, invalid and noted; never because of the storage."""

import gzip
import pickle
import struct
from fractions import Fraction
from pathlib import Path

import numcodecs
import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

import gigatile as gt
from gigatile.errors import BlockError, DecodeError, ImageError, UsageError
from gigatile.images.bad_units import MOST_PLACES, BadUnits
from gigatile.images.image import Image
from gigatile.images.info import fill_value
from gigatile.images.resample import scaled_grid
from gigatile.models.warmup import PeakRss
from gigatile.storage.files import LocalFile
from gigatile.testing.sources import CountingSource, FailingSource, UnitSource, noise
from gigatile.tiling.border import Border
from gigatile.tiling.region import Region

REFLECT = Border("reflect")
PIXELS = noise((2, 40, 40)) | 1
WHOLE = Region(0, 0, 40, 40)


def broken(pixels=PIXELS, units=((0, 1, 2),), *, error=DecodeError, **keywords) -> Image:
    """An image of 10 px units, some of them broken."""
    return Image(FailingSource(UnitSource(pixels, (10, 10), **keywords), units, error))


def filled(*args, **keywords) -> Image:
    return broken(*args, **keywords).with_bad_chunks("fill")


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_a_filled_unit_is_invalid_wherever_a_window_shows_it_and_nothing_else_is(data):
    units = data.draw(st.sets(st.tuples(st.just(0), st.integers(0, 3), st.integers(0, 3)), max_size=6))
    border = Border(data.draw(st.sampled_from(["reflect", "symmetric", "edge", "constant:7"])))
    y0, x0 = data.draw(st.integers(-30, 39)), data.draw(st.integers(-30, 39))
    region = Region(y0, x0, data.draw(st.integers(y0 + 1, 70)), data.draw(st.integers(x0 + 1, 70)))
    expected, good = PIXELS.copy(), np.ones((1, 40, 40), np.uint8)
    for _, row, col in units:
        expected[:, 10 * row : 10 * row + 10, 10 * col : 10 * col + 10] = 0
        good[:, 10 * row : 10 * row + 10, 10 * col : 10 * col + 10] = 0
    pixels, valid = filled(units=tuple(units)).read_with_validity(region, border)
    assert np.array_equal(pixels, Image(UnitSource(expected)).read(region, border=border))
    mask = Image(UnitSource(good)).read(region, border=border)[0] != 0
    assert np.array_equal(np.ones(region.shape, bool) if valid is None else valid, mask)


def test_without_the_rule_it_fails_and_names_the_unit():
    with pytest.raises(DecodeError, match="unit 1, 2"):
        broken().read_with_validity(WHOLE, REFLECT)
    with pytest.raises(UsageError, match="fail or fill"):
        broken().with_bad_chunks("ignore")


@pytest.mark.parametrize(
    ("dtype", "nodata", "value"),
    [
        ("uint8", None, 0), ("uint8", 200.0, 200), ("uint8", -9999.0, 0), ("uint8", float("nan"), 0),
        ("int16", -9999.0, -9999), ("uint8", 0.5, 0), ("float32", None, np.nan), ("float32", -9999.0, -9999),
        ("float32", float("nan"), np.nan), ("bool", None, 0), ("uint16", float("inf"), 0),
    ],
)  # fmt: skip
def test_what_is_filled_in_is_the_nodata_that_the_pixels_can_hold(dtype, nodata, value):
    image = filled(noise((1, 40, 40), dtype), nodata=nodata)
    pixels, valid = image.read_with_validity(WHOLE, REFLECT)
    assert np.array_equal(np.unique(pixels[:, 10:20, 20:30]), [value], equal_nan=pixels.dtype.kind == "f")
    assert not valid[10:20, 20:30].any()
    assert np.array_equal(fill_value(image.info), value, equal_nan=True)


def test_alpha_does_not_make_a_filled_unit_valid_again():
    pixels = PIXELS.copy()
    pixels[1] = 255
    _, valid = filled(pixels, alpha=1, nodata=200).read_with_validity(WHOLE, REFLECT)
    assert not valid[10:20, 20:30].any()
    assert valid.sum() == 1500


def test_memory_plans_count_the_mask_and_pickles_keep_the_rule():
    image = filled().select([1])
    assert not broken().has_validity
    for copy in (image, pickle.loads(pickle.dumps(image)), image.apart(0), image.noting()):
        assert copy.has_validity
        assert copy.on_bad_chunk == "fill"
        assert copy.selected == (1,)
        assert np.array_equal(copy.read(WHOLE)[0, 10:20, 20:30], np.zeros((10, 10)))


def test_what_was_filled_is_noted_once_until_it_is_taken():
    image = filled(units=((0, 1, 2), (0, 3, 3)))
    image.read_with_validity(Region(0, 0, 10, 10), REFLECT)
    assert image.bad_units.take() == ()
    for _ in range(2):
        image.read_with_validity(WHOLE, REFLECT)
    places = image.bad_units.take()
    assert [place.split(":")[0] for place in places] == ["<test>, level 0, unit 1, 2", "<test>, level 0, unit 3, 3"]
    assert all("a broken unit" in place for place in places)
    assert image.bad_units.take() == ()
    image.read(Region(10, 20, 11, 21))
    assert len(image.bad_units.take()) == 1, "also by what reads no mask, and from the cache"


def test_whoever_notes_apart_gets_what_it_met_itself():
    image = filled(units=((0, 1, 2), (0, 3, 3)))
    first, second = image.noting(), image.noting()
    first.read(Region(0, 0, 20, 40))
    second.read(Region(10, 20, 40, 40))
    assert len(first.bad_units.take()) == 1
    assert len(second.bad_units.take()) == 2
    assert image.bad_units.take() == ()
    assert first.cache is image.cache
    assert first.counter is image.counter


def test_notes_stay_few_and_say_that_there_were_more():
    units = BadUnits()
    for number in range(3 * MOST_PLACES):
        units.note(f"place {number}")
    found = units.take()
    assert len(found) == MOST_PLACES + 1
    assert "more" in found[-1]
    units.note("again")
    assert units.take() == ("again",)


def test_a_filled_unit_takes_no_room_and_is_decoded_no_more_while_it_is_kept():
    source = CountingSource(FailingSource(UnitSource(PIXELS, (10, 10)), [(0, 1, 2)]))
    image = Image(source, on_bad_chunk="fill")
    for _ in range(3):
        image.read(WHOLE)
    assert source.decoded[0, 1, 2] == 2, "twice, because the bytes may have been damaged on their way"
    assert image.counter.take() == 16


def test_bytes_that_come_right_the_second_time_are_not_filled():
    class Once(FailingSource):
        def decode(self, level, row, col):
            if (level, row, col) == (0, 1, 2) and not hasattr(self, "met"):
                self.met = True
                raise DecodeError("<test>", found="a bit that flipped under way")
            return UnitSource(PIXELS, (10, 10)).decode(level, row, col)

    image = Image(Once(UnitSource(PIXELS, (10, 10)), []), on_bad_chunk="fill")
    assert np.array_equal(image.read(WHOLE), PIXELS)
    assert image.bad_units.take() == ()


def test_a_storage_that_fails_is_not_filled():
    with pytest.raises(BlockError, match="unit 1, 2"):
        filled(error=BlockError).read(WHOLE)


def test_means_leave_out_what_was_filled():
    image = filled(np.full((1, 40, 40), 100, np.uint8))
    scaled = image.on(scaled_grid(image, Fraction(1, 4)))
    means, valid = scaled.read_with_validity(Region(0, 0, 10, 10), REFLECT)
    assert (means[0][valid] == 100).all()
    assert 80 <= valid.sum() < 100
    assert len(image.bad_units.take()) == 1, "what a scaled copy meets is noted with the image"


# Files ----------------------------------------------------------------------------------------------------

SCENE = noise((512, 512))


def write_tiff(path: Path) -> tuple[Path, int]:
    """A TIFF of 64 px tiles, and where the bytes of tile (5, 6) lie."""
    tifffile.imwrite(path, SCENE, tile=(64, 64), compression="deflate")
    with tifffile.TiffFile(path) as tif:
        return path, tif.pages[0].dataoffsets[5 * 8 + 6]


def overwrite(path: Path, offset: int, content: bytes = b"\xff" * 40) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(content)


def check_scene(image: Image, bad: Region, place: str) -> None:
    pixels, valid = image.read_with_validity(Region(0, 0, 512, 512), REFLECT)
    expected = np.ones((512, 512), bool)
    expected[bad.slices()] = False
    assert np.array_equal(valid, expected)
    assert np.array_equal(pixels[0], np.where(expected, SCENE, 0))
    (noted,) = image.bad_units.take()
    assert place in noted
    assert len(noted) <= 300


def test_a_damaged_tile_of_a_tiff_is_filled_with_its_unit_and_named_by_its_byte(tmp_path):
    path, offset = write_tiff(tmp_path / "a.tif")
    overwrite(path, offset)
    place = f"level 0, segment 46 at byte {offset}"
    check_scene(gt.open(path).with_bad_chunks("fill"), Region(256, 256, 512, 512), place)
    with pytest.raises(DecodeError, match=f"{path}, {place}"):
        gt.open(path).read(Region(300, 300, 301, 301))


def test_a_tiff_that_was_cut_off_after_it_was_opened_is_filled(tmp_path):
    path, offset = write_tiff(tmp_path / "a.tif")
    image = gt.open(path).with_bad_chunks("fill")
    with path.open("r+b") as file:
        file.truncate(offset + 5)
    _, valid = image.read_with_validity(Region(0, 0, 512, 512), REFLECT)
    assert not valid[256:, 256:].any()
    assert valid[:256].all()
    assert all("EOFError" in place for place in image.bad_units.take())


def test_a_tile_that_is_said_to_take_far_more_bytes_than_its_pixels_is_not_read(tmp_path, monkeypatch):
    path, _ = write_tiff(tmp_path / "a.tif")
    with path.open("ab") as file:
        file.write(bytes(4 << 20))
    with tifffile.TiffFile(path, mode="r+") as tif:
        tag = tif.pages[0].tags["TileByteCounts"]
        tag.overwrite([3 << 20 if i == 46 else count for i, count in enumerate(tag.value)], dtype="I")
    longest, read = [], LocalFile.read
    image = gt.open(path).with_bad_chunks("fill")
    monkeypatch.setattr(LocalFile, "read", lambda file, at, nbytes: (longest.append(nbytes), read(file, at, nbytes))[1])
    check_scene(image, Region(256, 256, 512, 512), "level 0, segment 46 at byte")
    assert max(longest) < 1 << 20


def test_a_strip_that_is_left_out_does_not_make_a_giant_of_a_small_file(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((10, 10), np.uint8))
    with tifffile.TiffFile(path, mode="r+") as tif:
        for name, value in {"ImageWidth": 2**31 - 1, "ImageLength": 2**31 - 1, "RowsPerStrip": 2**31 - 1}.items():
            tif.pages[0].tags[name].overwrite(value, dtype="I")
        tif.pages[0].tags["StripOffsets"].overwrite(0)
    assert path.stat().st_size < 1000
    with pytest.raises(ImageError, match="2147483647 x 2147483647 pixels"):
        gt.open(path)


def png_of(width: int, height: int, depth: int = 8) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, 6, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + header + bytes(100)


@pytest.mark.parametrize("sides", [(10**6, 10**6, 8), (2**31 - 1, 2**31 - 1, 8), (16_000, 16_000, 16)])
def test_a_giant_picture_in_a_tiny_file_is_refused_by_its_header(tmp_path, sides):
    (tmp_path / "a.png").write_bytes(png_of(*sides))
    with pytest.raises(ImageError, match="at most 256 Mpx and 1"):
        gt.open(tmp_path / "a.png")


@pytest.mark.parametrize("version", [2, 3])
def test_a_chunk_that_decodes_to_more_than_its_pixels_is_filled_before_it_does(tmp_path, version):
    zarr.create_array(
        tmp_path / "a.zarr", data=SCENE, chunks=(256, 256), zarr_format=version, filters=None,
        compressors=numcodecs.GZip() if version == 2 else zarr.codecs.GzipCodec(), **AXES[version],
    )  # fmt: skip
    bomb = gzip.compress(bytes(200 << 20), 6)
    chunk = tmp_path / "a.zarr" / ("1.1" if version == 2 else "c/1/1")
    assert chunk.exists()
    chunk.write_bytes(bomb)
    image = gt.open(tmp_path / "a.zarr").with_bad_chunks("fill")
    with PeakRss() as memory:
        check_scene(image, Region(256, 256, 512, 512), "pixels 256:512")
    assert memory.peak - memory.before < 100 << 20


AXES = {2: {}, 3: {"dimension_names": ["y", "x"]}}


def test_an_error_of_the_disk_is_not_filled(tmp_path, monkeypatch):
    path, _ = write_tiff(tmp_path / "a.tif")
    image = gt.open(path).with_bad_chunks("fill")

    def fail(file, offset, nbytes):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(LocalFile, "read", fail)
    with pytest.raises(BlockError, match=r"a\.tif, level 0, segments 0 to 27, from byte \d+.*Input/output") as error:
        image.read(Region(0, 0, 10, 10))
    assert not isinstance(error.value, DecodeError)
    assert image.bad_units.take() == ()


@pytest.mark.parametrize("codec", ["blosc", "gzip", "zstd"])
@pytest.mark.parametrize("sharded", [False, True])
def test_a_damaged_chunk_of_a_zarr_is_filled(tmp_path, codec, sharded):
    compressors = {"blosc": zarr.codecs.BloscCodec(), "gzip": zarr.codecs.GzipCodec(), "zstd": zarr.codecs.ZstdCodec()}
    zarr.create_array(
        tmp_path / "a.zarr", data=SCENE, chunks=(256, 256), shards=(512, 512) if sharded else None,
        compressors=compressors[codec], dimension_names=["y", "x"],
    )  # fmt: skip
    if sharded:
        shard = tmp_path / "a.zarr" / "c" / "0" / "0"
        index = np.frombuffer(shard.read_bytes()[-4 - 16 * 4 : -4], "<u8")
        overwrite(shard, int(index[3 * 2]), b"\0" * 40)
    else:
        overwrite(tmp_path / "a.zarr" / "c" / "1" / "1", 0, b"\0" * 40)
    check_scene(gt.open(tmp_path / "a.zarr").with_bad_chunks("fill"), Region(256, 256, 512, 512), "pixels 256:512")


@pytest.mark.parametrize("codec", ["bz2", "zlib", "lz4"])
def test_a_damaged_chunk_of_an_old_zarr_is_filled(tmp_path, codec):
    compressor = numcodecs.get_codec({"id": codec})
    zarr.create_array(
        tmp_path / "a.zarr", data=SCENE, chunks=(256, 256), zarr_format=2, compressors=compressor, filters=None
    )
    overwrite(tmp_path / "a.zarr" / "1.1", 0)
    check_scene(gt.open(tmp_path / "a.zarr").with_bad_chunks("fill"), Region(256, 256, 512, 512), "pixels 256:512")
