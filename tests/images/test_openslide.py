"""Slides through OpenSlide: bounds, gaps, odd downsamples, NDPI's smaller levels; and what is said without it."""

import json
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import openslide
import pytest

import gigatile as gt
from gigatile.cli.main import main
from gigatile.errors import DecodeError, ImageError
from gigatile.images.image import Image
from gigatile.images.ndpi import NdpiSource
from gigatile.images.openslide import CACHE_BYTES, WHOLE_PX, OpenSlideSource
from gigatile.images.tiff import TiffSource
from gigatile.tiling.border import Border
from gigatile.units import PixelSize
from tests.data import data
from tests.images.assemble import random_regions, whole
from tests.images.scn import BOUNDS, write_scn

RNG = np.random.default_rng(5)
DAPI = "wsi/test3-DAPI-2-(387).ndpi"


@pytest.fixture(scope="module")
def scn(tmp_path_factory):
    path = tmp_path_factory.mktemp("scn") / "a.scn"
    y, x, height, width = BOUNDS
    full, quarter = write_scn(path)
    return path, [
        full[y : y + height, x : x + width],
        quarter[y // 4 : (y + height) // 4, x // 4 : (x + width) // 4],
    ]


@pytest.fixture
def without_openslide(monkeypatch):
    monkeypatch.setitem(sys.modules, "openslide", None)


def reference(path, level):
    with openslide.OpenSlide(path) as slide:
        return np.asarray(slide.read_region((0, 0), level, slide.level_dimensions[level]))


def test_the_image_is_the_scanned_rectangle(scn):
    path, shown = scn
    image = gt.open(path)
    assert isinstance(image.source, OpenSlideSource)
    assert image.info.format == "leica"
    assert image.info.bounds_offset == (200, 400)
    assert image.shape == (3, 1016, 1220)
    assert [level.shape for level in image.levels] == [(1016, 1220), (254, 305)]
    assert [level.downsample for level in image.levels] == [1, 4]
    assert image.pixel_size == PixelSize(0.5, 0.5)
    assert image.info.pixel_size_from == "OpenSlide's mpp"
    assert image.levels[0].unit_count > 4
    for level, expected in enumerate(shown):
        seen = np.moveaxis(whole(image.source, level), 0, -1)
        np.testing.assert_array_equal(seen[..., 3], expected[..., 3])
        np.testing.assert_array_equal(seen[..., :3], np.where(expected[..., 3:], expected[..., :3], 255))


def test_gaps_between_scanned_areas_are_invalid_and_white(scn):
    path, shown = scn
    image = gt.open(path)
    assert image.channels == ("red", "green", "blue")
    assert image.has_validity
    region = gt.Region(-20, -20, 1036, 1240)
    pixels, valid = image.read_with_validity(region, Border("reflect"))
    padded = np.pad(shown[0], ((20, 20), (20, 20), (0, 0)), mode="reflect")
    np.testing.assert_array_equal(valid, padded[..., 3] > 0)
    assert 0 < valid.mean() < 1
    assert (pixels[:, ~valid] == 255).all()


def test_info_tells_the_offset_of_the_bounds(scn, capsys):
    assert main(["info", str(scn[0]), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["bounds_offset"] == [200, 400]
    assert main(["info", str(scn[0])]) == 0
    assert "from pixel 400, 200 (x, y) of the file on" in capsys.readouterr().out


def test_a_result_has_gaps_where_nothing_was_scanned(scn, tmp_path):
    path, shown = scn
    model = gt.load_model(lambda batch: batch[:, :1] * 0 + 1)
    tiling = gt.Tiling(tile=256, overlap=0, margin=0, blend="trim")
    result = gt.run(gt.plan(gt.open(path), model, tiling), tmp_path / "out")
    classes = gt.open(tmp_path / "out" / "prediction.zarr").read(gt.Region(0, 0, 1016, 1220))[0]
    assert result.complete
    np.testing.assert_array_equal(classes, np.where(shown[0][..., 3], 1, 255))


def test_threads_and_pickled_copies_read_the_same(scn):
    source = OpenSlideSource(scn[0])
    copy = pickle.loads(pickle.dumps(source))
    assert copy.info == source.info
    assert copy.identity() == source.identity()
    expected = whole(source)
    with ThreadPoolExecutor(6) as pool:
        seen = list(pool.map(lambda i: whole((source, copy)[i % 2]), range(12)))
    assert all(np.array_equal(pixels, expected) for pixels in seen)


def test_the_plan_counts_the_cache_of_openslide(scn):
    plan = gt.plan(gt.open(scn[0]), gt.load_model(lambda batch: batch[:, :1]), gt.Tiling(tile=256, overlap=0))
    assert plan.memory.parts["the reader's own cache"] == CACHE_BYTES


def test_each_thread_has_its_own_handle(scn):
    source = OpenSlideSource(scn[0])
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(source._handle).result() is not source._handle()
        assert source._handle() is source._handle()


def test_identity_follows_the_content(tmp_path):
    paths = [tmp_path / name for name in ("a.scn", "b.scn", "c.scn")]
    for path, seed in zip(paths, (1, 1, 2), strict=True):
        write_scn(path, seed)
    first, same, other = (OpenSlideSource(path).identity() for path in paths)
    assert first == same != other
    assert str(tmp_path) not in str(first)


def test_levels_of_odd_downsamples_are_not_interpolated():
    path = data("wsi/openslide-python/boxes.tiff")
    ours, slide = TiffSource(path), OpenSlideSource(path)
    assert [level.downsample for level in slide.info.levels][2:] == pytest.approx([4.016, 8.086], abs=1e-3)
    assert [level.shape for level in slide.info.levels] == [level.shape for level in ours.info.levels]
    for level in range(4):
        np.testing.assert_array_equal(whole(slide, level)[:3], whole(ours, level))


def test_large_levels_of_odd_downsamples_are_noted(monkeypatch):
    path = data("wsi/openslide-python/boxes.tiff")
    monkeypatch.setattr("gigatile.images.openslide.WHOLE_PX", 10)
    monkeypatch.setattr("gigatile.images.openslide.UNIT_SIDE_PX", 8)
    assert any("level 2 is 4.01613 times smaller" in note for note in OpenSlideSource(path).info.notes)
    assert WHOLE_PX == 4 << 20


# NDPI


def test_the_real_ndpi_has_all_levels_of_openslide_and_their_pixels():
    path = data(DAPI)
    image = gt.open(path)
    assert image.info.format == "ndpi"
    assert image.channels == ("red", "green", "blue")
    with openslide.OpenSlide(path) as slide:
        assert [level.shape[::-1] for level in image.levels] == list(slide.level_dimensions)
        assert [level.downsample for level in image.levels] == list(slide.level_downsamples)
        assert image.pixel_size.x == float(slide.properties["openslide.mpp-x"])
    assert len(image.levels) == 7
    for level in range(1, 7):
        expected = reference(path, level)
        np.testing.assert_array_equal(np.moveaxis(whole(image.source, level), 0, -1), expected[..., :3])
    expected = reference(path, 0)
    for region in random_regions(image.levels[0].shape, 8, RNG):
        seen = np.moveaxis(image.read(region), 0, -1)
        np.testing.assert_array_equal(seen, expected[region.slices()][..., :3])


def test_the_ndpi_through_openslide_alone_gives_the_same():
    path = data(DAPI)
    ours, slide = TiffSource(path), OpenSlideSource(path)
    assert slide.info.channels == ours.info.channels
    for level in (1, 2, 3):
        np.testing.assert_array_equal(whole(slide, level), whole(ours, level))


def test_an_ndpi_travels_with_all_levels():
    source = gt.open(data(DAPI)).source
    copy = pickle.loads(pickle.dumps(source))
    assert isinstance(copy, NdpiSource)
    assert copy.info == source.info
    assert copy.identity() == source.identity()


@pytest.mark.usefixtures("without_openslide")
def test_an_ndpi_without_openslide_has_its_stored_levels_and_says_what_is_missing():
    image = gt.open(data(DAPI))
    assert len(image.levels) == 4
    assert any("pip install 'gigatile[openslide]'" in note for note in image.info.notes)


def test_an_ndpi_is_not_reopened_with_other_levels(monkeypatch):
    travelling = pickle.dumps(gt.open(data(DAPI)).source)
    monkeypatch.setitem(sys.modules, "openslide", None)
    with pytest.raises(ImageError, match="expected 7 levels"):
        pickle.loads(travelling)


def test_a_giant_jpeg_without_restart_markers_is_left_to_openslide(monkeypatch):
    monkeypatch.setattr("gigatile.images.ndpi.WHOLE_JPEG_PX", 1000)
    image = gt.open(data(DAPI))
    assert isinstance(image.source, OpenSlideSource)
    assert image.info.format == "hamamatsu"


# What goes wrong


@pytest.mark.usefixtures("without_openslide")
@pytest.mark.parametrize("name", ["a.mrxs", "a.vms", "a.scn"])
def test_without_the_package_the_error_says_what_to_install(scn, tmp_path, name):
    path = tmp_path / name
    path.write_bytes(scn[0].read_bytes())
    with pytest.raises(ImageError, match=r"pip install 'gigatile\[openslide\]'"):
        gt.open(path)


def test_an_index_without_its_slide_is_refused(tmp_path):
    path = tmp_path / "a.mrxs"
    path.write_bytes(b"\xff\xd8\xff\xe0 a thumbnail")
    with pytest.raises(ImageError, match="a slide that OpenSlide opens"):
        gt.open(path)


def test_a_slide_by_url_is_refused_with_the_way_out():
    with pytest.raises(ImageError, match="Copy the slide"):
        OpenSlideSource("https://example.org/a.mrxs?token=secret")


def test_tiles_that_do_not_decode_are_decode_errors_each_time():
    source = OpenSlideSource(data("wsi/openslide-python/unreadable.svs"))
    for _ in range(2):
        with pytest.raises(DecodeError, match=r"unreadable\.svs, level 0, pixels 0:16, 0:16"):
            source.decode(0, 0, 0)
    filled = Image(source).with_bad_chunks("fill").read(gt.Region(0, 0, 16, 16))
    assert not filled.any()
