"""The TIFF reader against tifffile's own `asarray`, and against OpenSlide for slides."""

import logging
import pickle
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import imagecodecs
import numpy as np
import openslide
import pytest
import tifffile

from gigatile.errors import BlockError, GigatileError, ImageError
from gigatile.images import tiff_segments
from gigatile.images.tiff import TiffSource
from gigatile.storage.files import LocalFile
from tests.data import data
from tests.images.assemble import channel_first, check_grid, random_regions, whole, window

RNG = np.random.default_rng(7)


def pixels_of(dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    """Smooth pixels with noise, over the range of the dtype."""
    if dtype == "bool":
        return RNG.random(shape) > 0.5
    ramp = np.add.outer(np.arange(shape[0]), np.arange(shape[1])) % 97
    values = ramp.reshape(shape[:2] + (1,) * (len(shape) - 2)) + RNG.integers(0, 20, shape)
    kind = np.dtype(dtype).kind
    if kind == "f":
        return (values / 7 - 3).astype(dtype)
    return (values - (60 if kind == "i" else 0)).astype(dtype)


# Layouts --------------------------------------------------------------------------------------------------

LAYOUTS = {
    "tiles": {"tile": (32, 48)},
    "strips": {"rowsperstrip": 13},
    "one strip": {},
    "big-endian tiles": {"tile": (64, 64), "byteorder": ">"},
    "big-endian strips": {"rowsperstrip": 1, "byteorder": ">"},
    "BigTIFF": {"tile": (16, 16), "bigtiff": True},
}
CODECS = ["none", "deflate", "lzw", "zstd", "packbits"]
DTYPES = ["uint8", "int8", "uint16", "int16", "uint32", "int32", "float16", "float32", "float64", "bool"]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("codec", CODECS)
def test_every_layout_and_codec_gives_the_pixels_that_were_written(tmp_path, layout, codec):
    for i, dtype in enumerate(DTYPES):
        path = tmp_path / f"{dtype}.tif"
        pixels = pixels_of(dtype, (101, 150))
        if dtype == "bool" and (codec != "none" or "tile" in LAYOUTS[layout]):
            continue  # tifffile writes 1-bit only uncompressed
        compression = None if codec == "none" else codec
        tifffile.imwrite(path, pixels, compression=compression, photometric="minisblack", **LAYOUTS[layout])
        source = TiffSource(path)
        check_grid(source)
        assert source.info.dtype == np.dtype(dtype)
        np.testing.assert_array_equal(whole(source), pixels[np.newaxis], err_msg=f"{dtype} {i}")


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("predictor", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_interleaved_and_separate_samples_and_predictors(tmp_path, planar, dtype, predictor, layout):
    path = tmp_path / "a.tif"
    pixels = pixels_of(dtype, (75, 90, 3))
    stored = np.moveaxis(pixels, -1, 0) if planar == "separate" else pixels
    compression = "deflate" if predictor else None
    keywords = {**LAYOUTS[layout], "planarconfig": planar, "predictor": predictor, "compression": compression}
    tifffile.imwrite(path, stored, photometric="rgb", **keywords)
    source = TiffSource(path)
    check_grid(source)
    assert source.info.channels == ("red", "green", "blue")
    np.testing.assert_array_equal(whole(source), np.moveaxis(pixels, -1, 0))
    for region in random_regions((75, 90), 4, RNG):
        np.testing.assert_array_equal(window(source, 0, region), np.moveaxis(pixels[region.slices()], -1, 0))


@pytest.mark.parametrize("codec", ["jpeg", "jpeg2000", "webp", "jpegxl"])
@pytest.mark.parametrize("samples", [1, 3])
def test_picture_codecs_give_what_tifffile_gives(tmp_path, codec, samples):
    if codec == "webp" and samples == 1:
        pytest.skip("WebP has no grey pictures")
    path = tmp_path / "a.tif"
    pixels = pixels_of("uint8", (200, 170, samples)[: 2 + (samples > 1)])
    photometric = "rgb" if samples == 3 else "minisblack"
    tifffile.imwrite(path, pixels, tile=(64, 64), compression=codec, photometric=photometric)
    with tifffile.TiffFile(path) as tif:
        expected = channel_first(tif.pages[0].asarray(), tif.pages[0].axes)
    np.testing.assert_array_equal(whole(TiffSource(path)), expected)


@pytest.mark.parametrize("subsampling", [(1, 1), (2, 1), (2, 2)])
def test_ycbcr_jpeg_comes_out_as_rgb(tmp_path, subsampling):
    path = tmp_path / "a.tif"
    pixels = np.full((64, 64, 3), (200, 30, 90), np.uint8)
    tifffile.imwrite(
        path, pixels, tile=(32, 32), compression="jpeg", photometric="rgb", subsampling=subsampling,
        compressionargs={"level": 95},
    )  # fmt: skip
    with tifffile.TiffFile(path) as tif:
        assert tif.pages[0].photometric == 6
    source = TiffSource(path)
    assert source.info.channels == ("red", "green", "blue")
    np.testing.assert_allclose(whole(source).astype(int).mean(axis=(1, 2)), (200, 30, 90), atol=3)


def test_tiny_tiles_are_decoded_together(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, pixels_of("uint8", (600, 300)), tile=(32, 32), compression="deflate")
    source = TiffSource(path)
    level = source.info.levels[0]
    assert level.chunks == (32, 32)
    assert level.edges_y == (0, 256, 512, 600)
    assert level.edges_x == (0, 256, 300)
    check_grid(source)


@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_an_uncompressed_strip_of_the_whole_image_is_read_in_parts(tmp_path, samples, planar):
    path = tmp_path / "a.tif"
    pixels = pixels_of("uint16", (1501, 1100, samples)[: 2 + (samples > 1)])
    stored = np.moveaxis(pixels, -1, 0) if samples > 1 and planar == "separate" else pixels
    tifffile.imwrite(path, stored, rowsperstrip=1501, planarconfig=planar if samples > 1 else None,
                     photometric="rgb" if samples > 1 else "minisblack")  # fmt: skip
    source = TiffSource(path)
    level = source.info.levels[0]
    assert len(level.edges_y) > 3
    assert level.edges_y[1] * 1100 * 2 * samples <= 1 << 21
    expected = np.moveaxis(pixels, -1, 0) if samples > 1 else pixels[np.newaxis]
    np.testing.assert_array_equal(whole(source), expected)


def test_several_large_uncompressed_strips_are_cut_on_one_grid(tmp_path):
    path = tmp_path / "a.tif"
    pixels = pixels_of("uint16", (2500, 900))
    tifffile.imwrite(path, pixels, rowsperstrip=1200)
    source = TiffSource(path)
    assert source.info.levels[0].chunks[0] in range(1, 1200)
    np.testing.assert_array_equal(whole(source)[0], pixels)


def test_a_compressed_strip_too_large_to_decode_is_refused(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((10, 10), np.uint8), compression="deflate")
    with tifffile.TiffFile(path, mode="r+") as tif:
        for tag in ("ImageWidth", "ImageLength", "RowsPerStrip"):
            tif.pages[0].tags[tag].overwrite(40000)
    with pytest.raises(ImageError, match=r"40000 x 40000 pixels.*tiles"):
        TiffSource(path)


@pytest.mark.parametrize("nodata", [None, "7"])
def test_tiles_that_the_file_leaves_out_are_nodata(tmp_path, nodata):
    path = tmp_path / "a.tif"
    pixels = pixels_of("uint8", (64, 96)) + 10
    extratags = [(42113, "s", 0, nodata, True)] if nodata else []
    tifffile.imwrite(path, pixels, tile=(32, 32), compression="deflate", extratags=extratags)
    with tifffile.TiffFile(path, mode="r+") as tif:
        for tag in ("TileOffsets", "TileByteCounts"):
            values = list(tif.pages[0].tags[tag].value)
            values[4] = 0
            tif.pages[0].tags[tag].overwrite(values)
    source = TiffSource(path)
    expected = pixels.copy()
    expected[32:64, 32:64] = int(nodata or 0)
    np.testing.assert_array_equal(whole(source)[0], expected)


# Pyramids -------------------------------------------------------------------------------------------------


def write_pyramid(path: Path, levels: list[np.ndarray], *, subifds: bool, **keywords) -> None:
    with tifffile.TiffWriter(path, bigtiff=True) as tif:
        tif.write(levels[0], subifds=len(levels) - 1 if subifds else None, **keywords)
        for level in levels[1:]:
            tif.write(level, subfiletype=1, **{**keywords, "metadata": None})


@pytest.mark.parametrize("subifds", [True, False])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_reduced_pages_are_levels_in_the_chain_and_in_subifds(tmp_path, subifds, dtype):
    path = tmp_path / "a.tif"
    full = pixels_of(dtype, (333, 410, 3))
    levels = [full, full[::2, ::2], full[::4, ::4], full[::16, ::16]]
    write_pyramid(path, levels, subifds=subifds, tile=(64, 64), photometric="rgb", compression="zstd", metadata=None)
    source = TiffSource(path)
    assert source.info.format == "tiff"
    assert [level.shape for level in source.info.levels] == [level.shape[:2] for level in levels]
    assert [round(level.downsample) for level in source.info.levels] == [1, 2, 4, 16]
    for i, level in enumerate(levels):
        np.testing.assert_array_equal(whole(source, i), np.moveaxis(level, -1, 0))


def test_a_page_that_is_no_reduction_is_left_aside_with_a_note(tmp_path):
    path = tmp_path / "a.tif"
    full = pixels_of("uint8", (300, 400))
    strange = [full[:, ::2], full[::3, ::2], full[::2, ::2].astype(np.uint16)]
    write_pyramid(path, [full, *strange], subifds=False, tile=(64, 64), metadata=None)
    info = TiffSource(path).info
    assert len(info.levels) == 1
    assert sum("is not a level" in note for note in info.notes) == 3


@pytest.mark.parametrize("axes", ["CYX", "YXS"])
def test_an_ome_tiff_with_levels_in_subifds(tmp_path, axes):
    path = tmp_path / "a.ome.tif"
    full = pixels_of("uint16", (300, 260, 3))
    full = full if axes == "YXS" else np.moveaxis(full, -1, 0)
    step = (lambda a, n: a[::n, ::n]) if axes == "YXS" else (lambda a, n: a[:, ::n, ::n])
    metadata = {
        "axes": axes,
        "PhysicalSizeX": 250.0, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": 0.0005, "PhysicalSizeYUnit": "mm",
    }  # fmt: skip
    if axes == "CYX":
        metadata["Channel"] = {"Name": ["DAPI", "CD3", "CD8"]}
    with tifffile.TiffWriter(path, ome=True) as tif:
        keywords = {"tile": (64, 64), "photometric": "rgb" if axes == "YXS" else "minisblack"}
        tif.write(full, subifds=2, metadata=metadata, compression="lzw", **keywords)
        for n in (2, 4):
            tif.write(step(full, n), subfiletype=1, compression="lzw", **keywords)
    source = TiffSource(path)
    assert source.info.format == "ome-tiff"
    assert source.info.channels == (("red", "green", "blue") if axes == "YXS" else ("DAPI", "CD3", "CD8"))
    assert source.info.pixel_size is not None
    assert (source.info.pixel_size.y, source.info.pixel_size.x) == pytest.approx((0.5, 0.25))
    assert [level.shape for level in source.info.levels] == [(300, 260), (150, 130), (75, 65)]
    for i, n in enumerate((1, 2, 4)):
        expected = step(full, n)
        np.testing.assert_array_equal(whole(source, i), np.moveaxis(expected, -1, 0) if axes == "YXS" else expected)


@pytest.mark.parametrize("kind", ["ome", "imagej", "plain"])
def test_planes_along_z_are_refused_by_name(tmp_path, kind):
    path = tmp_path / ("a.ome.tif" if kind == "ome" else "a.tif")
    stack = pixels_of("uint8", (4, 40, 50))
    if kind == "plain":
        with tifffile.TiffWriter(path) as tif:
            for plane in stack:
                tif.write(plane, metadata=None)
    else:
        tifffile.imwrite(path, stack, metadata={"axes": "ZYX"}, imagej=kind == "imagej", ome=kind == "ome")
    with pytest.raises(ImageError, match="stack of planes: 4 along") as error:
        TiffSource(path)
    assert "\n" not in str(error.value)
    assert ("Z (depth)" in str(error.value)) == (kind != "plain")


def test_an_imagej_stack_of_channels_with_its_unit(tmp_path):
    path = tmp_path / "a.tif"
    stack = pixels_of("uint16", (3, 40, 50))
    tifffile.imwrite(path, stack, imagej=True, resolution=(4.0, 4.0), metadata={"axes": "CYX", "unit": "micron"})
    source = TiffSource(path)
    assert source.info.pixel_size is not None
    assert source.info.pixel_size.x == pytest.approx(0.25)
    np.testing.assert_array_equal(whole(source), stack)


def test_planes_behind_a_single_page_are_not_taken_for_one_plane(tmp_path):
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path, imagej=True) as tif:
        tif.write(pixels_of("uint16", (5, 40, 50)), metadata={"axes": "CYX"}, truncate=True)
    with tifffile.TiffFile(path) as tif:
        assert len(tif.pages) == 1
    with pytest.raises(ImageError, match="5"):
        TiffSource(path)


def test_complex_pixels_are_refused(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((10, 10), np.complex64))
    with pytest.raises(ImageError, match="complex64"):
        TiffSource(path)


@pytest.mark.parametrize(
    ("per_unit", "unit", "expected"),
    [(40000, "CENTIMETER", 0.25), (50800, "INCH", 0.5), (72, "INCH", None), (1, "NONE", None), (50000, "NONE", None)],
)
def test_resolution_tags_count_where_a_microscope_could_have_them(tmp_path, per_unit, unit, expected):
    path = tmp_path / "a.tif"
    pixels = np.zeros((20, 20), np.uint8)
    tifffile.imwrite(path, pixels, resolution=(per_unit, per_unit), resolutionunit=unit, metadata=None)
    info = TiffSource(path).info
    assert (info.pixel_size and info.pixel_size.x) == (expected and pytest.approx(expected))
    assert bool(info.notes) == (per_unit == 72)


def test_alpha_is_named_and_told_apart(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((20, 20, 4), np.uint8), photometric="rgb", extrasamples=["unassalpha"])
    info = TiffSource(path).info
    assert info.channels == ("red", "green", "blue", "alpha")
    assert info.alpha == 3


def test_palette_pixels_are_indices_and_the_notes_say_so(tmp_path):
    path = tmp_path / "a.tif"
    indices = pixels_of("uint8", (30, 30))
    colormap = RNG.integers(0, 65535, (3, 256)).astype(np.uint16)
    tifffile.imwrite(path, indices, photometric="palette", colormap=colormap)
    source = TiffSource(path)
    np.testing.assert_array_equal(whole(source)[0], indices)
    assert any("palette" in note for note in source.info.notes)


# Slides ---------------------------------------------------------------------------------------------------

APERIO = "Aperio Image Library v11.2.1\r\n400x300 [0,0 400x300] (64x64) JPEG/RGB Q=70|AppMag = 20|MPP = {mpp}"


def write_svs(path: Path, levels: list[np.ndarray], thumbnail: np.ndarray, **keywords) -> None:
    """The order of pages that Aperio writes: full, thumbnail in strips, levels in tiles, label, macro."""
    with tifffile.TiffWriter(path) as tif:
        tiled = {"tile": (64, 64), "photometric": "rgb", "metadata": None, **keywords}
        striped = {"photometric": "rgb", "metadata": None, "rowsperstrip": 16, "compression": "lzw"}
        description = APERIO.format(mpp="0.4990")
        tif.write(levels[0], description=description, **tiled)
        tif.write(thumbnail, description=description, **striped)
        for level in levels[1:]:
            tif.write(level, description=description, **tiled)
        tif.write(thumbnail[:50, :40], description="Aperio\r\nlabel 40x50", subfiletype=1, **striped)
        tif.write(thumbnail[:30, :80], description="Aperio\r\nmacro 80x30", subfiletype=9, **striped)


def test_levels_of_an_svs_are_its_tiled_pages(tmp_path):
    path = tmp_path / "a.svs"
    full = pixels_of("uint8", (1200, 1600, 3))
    levels = [full, np.ascontiguousarray(full[::4, ::4]), np.ascontiguousarray(full[::16, ::16])]
    write_svs(path, levels, np.ascontiguousarray(full[::2, ::2]), compression="jpeg")
    source = TiffSource(path)
    assert source.info.format == "svs"
    assert [level.shape for level in source.info.levels] == [(1200, 1600), (300, 400), (75, 100)]
    assert source.info.pixel_size is not None
    assert source.info.pixel_size.x == 0.499
    with openslide.OpenSlide(path) as slide:
        assert slide.level_count == 3
        assert float(slide.properties["openslide.mpp-x"]) == 0.499
        for i in range(3):
            seen = np.asarray(slide.read_region((0, 0), i, slide.level_dimensions[i]))[..., :3]
            np.testing.assert_array_equal(whole(source, i), np.moveaxis(seen, -1, 0))


def test_disagreeing_pixel_sizes_are_noted_and_the_metadata_count(tmp_path):
    path = tmp_path / "a.svs"
    pixels = np.zeros((100, 100, 3), np.uint8)
    tifffile.imwrite(path, pixels, tile=(64, 64), photometric="rgb", metadata=None,
                     description=APERIO.format(mpp="0.25"), resolution=(20000, 20000), resolutionunit=3)  # fmt: skip
    info = TiffSource(path).info
    assert info.pixel_size is not None
    assert info.pixel_size.x == 0.25
    assert any("0.5" in note and "0.25" in note for note in info.notes)


def test_aperio_jpeg2000_in_ycbcr_comes_out_as_rgb(tmp_path):
    path = tmp_path / "a.svs"
    rgb = np.full((128, 64, 3), (180, 60, 120), np.float64)
    rgb[32:, :, :] = (20, 200, 240)
    to_y = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])
    ycbcr = np.rint(rgb @ to_y.T + (0, 128, 128)).clip(0, 255).astype(np.uint8)
    codestreams = [
        imagecodecs.jpeg2k_encode(np.ascontiguousarray(ycbcr[y : y + 64]), codecformat="j2k", mct=False)
        for y in (0, 64)
    ]
    with tifffile.TiffWriter(path) as tif:
        tif.write(iter(codestreams), shape=rgb.shape, dtype=np.uint8, tile=(64, 64), photometric="rgb",
                  compression=33003, metadata=None, description=APERIO.format(mpp="0.5"))  # fmt: skip
    seen = whole(TiffSource(path)).astype(int)
    np.testing.assert_allclose(seen, np.moveaxis(rgb, -1, 0), atol=2)
    with openslide.OpenSlide(path) as slide:
        reference = np.asarray(slide.read_region((0, 0), 0, (64, 128)))[..., :3].astype(int)
    assert np.abs(seen - np.moveaxis(reference, -1, 0)).max() <= 1


def test_the_real_svs_equals_openslide_and_its_label_is_no_level():
    path = data("wsi/CMU-1-Small-Region.svs")
    source = TiffSource(path)
    assert [level.shape for level in source.info.levels] == [(2967, 2220)]
    assert source.info.levels[0].chunks == (240, 240)
    assert source.info.pixel_size is not None
    assert source.info.pixel_size.x == 0.499
    pixels = whole(source)
    np.testing.assert_allclose(pixels.mean(axis=(1, 2)), (214.0112, 194.8102, 207.9042), atol=1e-4)
    with openslide.OpenSlide(path) as slide:
        seen = np.asarray(slide.read_region((0, 0), 0, (2220, 2967)))[..., :3]
    np.testing.assert_array_equal(pixels, np.moveaxis(seen, -1, 0))


WSI = [
    "wsi/CMU-1-Small-Region.svs",
    "wsi/test3-DAPI-2-(387).ndpi",
    "wsi/instanseg_HE_example.tif",
    "wsi/viv_multi-channel.ome.tif",
    "wsi/openslide-python/boxes.tiff",
]


@pytest.mark.parametrize("name", WSI)
def test_windows_of_real_slides_equal_tifffile_at_every_level(name):
    path = data(name)
    source = TiffSource(path)
    check_grid(source)
    with tifffile.TiffFile(path) as tif:
        series = tif.series[0]
        assert len(source.info.levels) == len(series.levels)
        for i, level in enumerate(series.levels):
            expected = channel_first(level.asarray(), level.axes)
            height, width = expected.shape[1:]
            assert source.info.levels[i].shape == (height, width)
            for region in random_regions((height, width), 6, RNG):
                expected_window = expected[(slice(None), *region.slices())]
                np.testing.assert_array_equal(window(source, i, region), expected_window)


def test_the_real_ndpi_has_its_tiled_levels_and_pixel_size():
    source = TiffSource(data("wsi/test3-DAPI-2-(387).ndpi"))
    assert source.info.format == "ndpi"
    assert [round(level.downsample) for level in source.info.levels] == [1, 2, 4, 8]
    assert source.info.pixel_size is not None
    assert source.info.pixel_size.x == pytest.approx(0.2281750559028887)
    np.testing.assert_allclose(whole(source).mean(axis=(1, 2)), (0.3298, 0.1061, 39.6253), atol=1e-4)


def test_the_real_z_series_is_refused_by_name():
    with pytest.raises(ImageError, match=r"5 along Z"):
        TiffSource(data("wsi/multi-channel-z-series.ome.tif"))


# Sharing and identity -------------------------------------------------------------------------------------


def test_many_threads_and_a_pickled_copy_read_the_same(tmp_path):
    path = tmp_path / "a.tif"
    pixels = pixels_of("uint16", (900, 800))
    tifffile.imwrite(path, pixels, tile=(128, 128), compression="lzw", predictor=True)
    source = TiffSource(path)
    copy = pickle.loads(pickle.dumps(source))
    assert copy.info == source.info
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda i: whole((source, copy)[i % 2]), range(16)))
    assert all(np.array_equal(result[0], pixels) for result in results)


def test_identity_follows_the_content_and_not_the_place(tmp_path):
    a, b = tmp_path / "a.tif", tmp_path / "sub" / "b.tif"
    b.parent.mkdir()
    tifffile.imwrite(a, pixels_of("uint8", (700, 900)))
    b.write_bytes(a.read_bytes())
    first = TiffSource(a).identity()
    assert first == TiffSource(b).identity()
    changed = bytearray(a.read_bytes())
    changed[-1] ^= 1
    b.write_bytes(changed)
    assert TiffSource(b).identity() != first
    assert str(tmp_path) not in str(first)


def test_a_file_of_up_to_a_mebibyte_is_digested_whole_and_each_byte_once(tmp_path):
    for size in (100, 65_536, 200_000, 1 << 20):
        path = tmp_path / "a"
        path.write_bytes(RNG.bytes(size))
        expected = {"size": size, "sha256": sha256(path.read_bytes()).hexdigest()}
        assert LocalFile(path).identity() == expected


# Bad input ------------------------------------------------------------------------------------------------


def read_all(path: Path) -> None:
    source = TiffSource(path)
    for level in range(len(source.info.levels)):
        whole(source, level)


@pytest.mark.parametrize("name", ["wsi/CMU-1-Small-Region.svs", "satellite/titiler_TCI.tif", WSI[1], WSI[2]])
def test_truncated_files_are_refused_in_one_paragraph(tmp_path, name):
    whole_file = data(name).read_bytes()
    path = tmp_path / Path(name).name
    for part in (0.0, 1e-6, 1e-5, 1e-4, 0.003, 0.03, 0.2, 0.5, 0.9, 0.99, 0.9999):
        path.write_bytes(whole_file[: int(len(whole_file) * part)])
        with pytest.raises(ImageError) as error:
            TiffSource(path)
        assert str(path) in str(error.value)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("layout", ["tiles", "strips"])
def test_damaged_bytes_never_leak_a_foreign_exception(tmp_path, layout):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, pixels_of("uint8", (60, 60, 3)), compression="deflate", photometric="rgb",
                     **LAYOUTS[layout])  # fmt: skip
    original = path.read_bytes()
    outcomes = []
    for _ in range(250):
        damaged = bytearray(original)
        start = 0 if RNG.random() < 0.7 else len(damaged) - 400
        for at in RNG.integers(start, min(start + 400, len(damaged)), 3):
            damaged[at] = RNG.integers(256)
        path.write_bytes(damaged)
        try:
            read_all(path)
            outcomes.append("read")
        except GigatileError as error:
            outcomes.append(type(error).__name__)
    assert {"ImageError", "DecodeError"} <= set(outcomes)


def test_a_broken_segment_is_named_by_file_level_and_byte():
    path = data("wsi/openslide-python/unreadable.svs")
    source = TiffSource(path)
    with pytest.raises(BlockError) as error:
        source.decode(0, 0, 0)
    assert f"{path}, level 0, segment 0 at byte 16" in str(error.value)


def test_a_jpeg_tile_that_ends_early_is_an_error_and_not_grey(tmp_path):
    path = tmp_path / "a.tif"
    pixels = RNG.integers(0, 255, (64, 64, 3)).astype(np.uint8)
    tifffile.imwrite(path, pixels, tile=(64, 64), compression="jpeg", photometric="rgb")
    with tifffile.TiffFile(path, mode="r+") as tif:
        count = tif.pages[0].databytecounts[0]
        tif.pages[0].tags["TileByteCounts"].overwrite(count // 2)
    with pytest.raises(BlockError, match="no end marker"):
        TiffSource(path).decode(0, 0, 0)


def test_the_real_corrupt_scene_is_refused():
    with pytest.raises(ImageError, match="beyond the end"):
        TiffSource(data("satellite/rasterio/corrupt.tif"))


@pytest.mark.parametrize("content", [b"", b"II*\0", b"II*\0\x08\0\0\0\0\0", b"not a picture" * 99])
def test_files_that_are_no_tiff_are_refused(tmp_path, content):
    path = tmp_path / "a.tif"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=r"a\.tif"):
        TiffSource(path)


def test_a_missing_file_and_a_directory_are_refused(tmp_path):
    with pytest.raises(ImageError, match="no such file"):
        TiffSource(tmp_path / "no.tif")
    with pytest.raises(ImageError, match="directory"):
        TiffSource(tmp_path)


def test_a_codec_without_a_decoder_is_refused_when_opening(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, pixels_of("uint8", (60, 60)), compression="deflate")
    with tifffile.TiffFile(path, mode="r+") as tif:
        tif.pages[0].tags["Compression"].overwrite(34661)
    with pytest.raises(ImageError, match="compression 34661"):
        TiffSource(path)


def test_what_tifffile_complains_about_goes_to_the_notes_and_not_to_stderr(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(logging.getLogger("tifffile"), "propagate", False)  # away from pytest's own handler
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, pixels_of("uint8", (60, 60)), rowsperstrip=10, metadata=None)
    content = bytearray(path.read_bytes())
    for entry in range(10, 10 + 12 * int.from_bytes(content[8:10], "little"), 12):
        if int.from_bytes(content[entry : entry + 2], "little") == 305:  # Software: of a type that is none
            content[entry + 2] = 99
    path.write_bytes(content)
    info = TiffSource(path).info
    assert any(note.startswith("tifffile: ") for note in info.notes)
    assert capfd.readouterr().err == ""


def test_a_short_segment_is_not_broadcast_over_the_tile(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, pixels_of("uint8", (64, 64)), tile=(32, 32))
    with tifffile.TiffFile(path, mode="r+") as tif:
        counts = list(tif.pages[0].databytecounts)
        tif.pages[0].tags["TileByteCounts"].overwrite([32, *counts[1:]])
    with pytest.raises(BlockError, match="decoded to"):
        TiffSource(path).decode(0, 0, 0)


def test_the_ycbcr_matrix_keeps_grey_grey():
    grey = np.repeat(np.arange(256, dtype=np.uint8)[:, None, None], 3, axis=2)
    grey[..., 1:] = 128
    np.testing.assert_array_equal(
        tiff_segments._ycbcr_to_rgb(grey), np.repeat(np.arange(256, dtype=np.uint8)[:, None, None], 3, axis=2)
    )
