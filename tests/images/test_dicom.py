"""DICOM slides: folders and single files, concatenations, optical paths; real ones equal their SVS and OpenSlide."""

import pickle
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor

import imagecodecs
import numpy as np
import openslide
import PIL.Image
import pydicom
import pytest

import gigatile as gt
from gigatile.errors import BlockError, DecodeError, GigatileError, ImageError
from gigatile.images.dicom import DicomSource
from gigatile.images.jpeg_colours import is_surely_ycbcr
from gigatile.images.tiff import TiffSource
from gigatile.units import PixelSize
from tests.data import data
from tests.images.assemble import check_grid, random_regions, whole, window
from tests.images.dicoms import TILE, write_concatenation, write_jpegs, write_paths, write_slide

RNG = np.random.default_rng(7)
CMU = "wsi/CMU-1-Small-Region_dicom"


def colours(height, width):
    return RNG.integers(0, 256, (height, width, 3), np.uint8)


def test_a_folder_is_one_slide_with_its_levels(tmp_path):
    full = colours(75, 100)
    levels = [full, np.ascontiguousarray(full[:74:2, ::2]), np.ascontiguousarray(full[:72:4, ::4])]
    for pixels, factor in zip(levels, (1, 2, 4), strict=True):
        write_slide(tmp_path / "s", pixels, factor=factor)
    for kind in ("LABEL", "OVERVIEW", "THUMBNAIL"):
        write_slide(tmp_path / "s", colours(20, 30), kind=kind)
    (tmp_path / "s" / "readme.txt").write_text("no image")
    image = gt.open(tmp_path / "s")
    assert isinstance(image.source, DicomSource)
    check_grid(image.source)
    assert image.info.format == "dicom"
    assert image.channels == ("red", "green", "blue")
    assert [level.shape for level in image.levels] == [(75, 100), (37, 50), (18, 25)]
    assert [level.chunks for level in image.levels] == [(16, 16)] * 3
    for index, pixels in enumerate(levels):
        np.testing.assert_array_equal(np.moveaxis(whole(image.source, index), 0, -1), pixels)


def test_files_without_a_suffix_are_known_by_their_first_bytes(tmp_path):
    pixels = colours(40, 60)
    path = write_slide(tmp_path / "s", pixels)
    path.rename(path.with_name("I0001"))
    np.testing.assert_array_equal(np.moveaxis(whole(gt.open(tmp_path / "s").source), 0, -1), pixels)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "I0001").write_bytes(b"no image" * 50)
    with pytest.raises(ImageError, match=r"without zarr\.json"):
        gt.open(tmp_path / "other")


def test_any_file_stands_for_its_series_and_for_no_other(tmp_path):
    first, small, other = colours(40, 60), colours(20, 30), colours(50, 50)
    slides = ((first, "1.1", 1), (small, "1.1", 2), (other, "1.2", 1))
    paths = [write_slide(tmp_path, pixels, series, factor=factor) for pixels, series, factor in slides]
    for path, expected in zip(paths, (first, first, other), strict=True):
        np.testing.assert_array_equal(np.moveaxis(whole(gt.open(path).source), 0, -1), expected)
    assert [len(gt.open(path).levels) for path in paths] == [2, 2, 1]


def test_a_folder_of_several_slides_is_refused_by_name(tmp_path):
    for series in ("1.1", "1.2"):
        write_slide(tmp_path, colours(20, 20), series)
    with pytest.raises(ImageError, match=r"found 2 slides \(series\): 1\.1-VOLUME-20\.dcm, 1\.2"):
        gt.open(tmp_path)


def test_concatenated_files_are_one_level(tmp_path):
    pixels = colours(70, 90)
    write_concatenation(tmp_path / "s", pixels, first=13)
    image = gt.open(tmp_path / "s")
    assert len(image.levels) == 1
    np.testing.assert_array_equal(np.moveaxis(whole(image.source), 0, -1), pixels)


def test_grey_optical_paths_are_channels_with_their_names(tmp_path):
    planes = {name: RNG.integers(0, 256, (40, 50), np.uint8) for name in ("DAPI", "FITC", "Cy5")}
    write_paths(tmp_path / "s", planes)
    image = gt.open(tmp_path / "s")
    assert image.channels == ("DAPI", "FITC", "Cy5")
    np.testing.assert_array_equal(whole(image.source), np.stack(list(planes.values())))
    region = gt.Region(3, 5, 30, 44)
    np.testing.assert_array_equal(image.select(["Cy5"]).read(region)[0], planes["Cy5"][region.slices()])


def test_pixel_size_is_the_spacing_and_the_volume_is_compared(tmp_path):
    info = gt.open(write_slide(tmp_path, colours(40, 40))).info
    assert info.pixel_size == PixelSize(0.25, 0.25)
    assert info.pixel_size_from == "DICOM's PixelSpacing"
    assert info.notes == ()
    path = write_slide(tmp_path, colours(40, 80), "1.2.9")
    ds = pydicom.dcmread(path)
    ds.ImagedVolumeWidth = 0.01
    ds.save_as(path)
    assert any("ImagedVolume says 0.25 x 0.125 um" in note for note in gt.open(path).info.notes)


def test_many_threads_and_a_pickled_copy_read_the_same(tmp_path):
    write_slide(tmp_path, colours(200, 300))
    source = DicomSource(tmp_path)
    copy = pickle.loads(pickle.dumps(source))
    assert (copy.info, copy.identity()) == (source.info, source.identity())
    expected = whole(source)
    with ThreadPoolExecutor(8) as pool:
        seen = list(pool.map(lambda i: whole((source, copy)[i % 2]), range(32)))
        assert pool.submit(source._handle).result() is not source._handle()
    assert [i for i, pixels in enumerate(seen) if not np.array_equal(pixels, expected)] == []


def test_identity_follows_the_levels_and_not_the_names(tmp_path):
    path = write_slide(tmp_path / "a", colours(40, 40))
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    (tmp_path / "b" / path.name).rename(tmp_path / "b" / "renamed.dcm")
    first, same = (DicomSource(tmp_path / name).identity() for name in "ab")
    assert first == same
    write_slide(tmp_path / "b", colours(20, 20), factor=2)
    assert DicomSource(tmp_path / "b").identity() != first


# What goes wrong


def test_levels_that_claim_the_same_spacing_are_not_lost_in_silence(tmp_path):
    for side in (80, 40):
        write_slide(tmp_path, colours(side, side))
    with pytest.raises(ImageError, match="40 pixels wide, where the files have one of 80"):
        gt.open(tmp_path)


def test_without_the_package_the_error_says_what_to_install(tmp_path, monkeypatch):
    write_slide(tmp_path, colours(20, 20))
    monkeypatch.setitem(sys.modules, "wsidicom", None)
    with pytest.raises(ImageError, match=r"pip install 'gigatile\[dicom\]'"):
        gt.open(tmp_path)


@pytest.mark.parametrize("kind", ["LABEL", "THUMBNAIL"])
def test_a_slide_without_a_level_is_refused(tmp_path, kind):
    with pytest.raises(ImageError, match=f"found only {kind}"):
        gt.open(write_slide(tmp_path, colours(20, 20), kind=kind))


def test_dicom_of_another_kind_is_refused(tmp_path):
    path = write_slide(tmp_path, colours(20, 20))
    ds = pydicom.dcmread(path)
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    ds.save_as(path)
    with pytest.raises(ImageError, match="CT Image Storage"):
        gt.open(path)


def test_a_cut_file_is_an_error_with_a_place(tmp_path, capfd):
    path = write_slide(tmp_path, colours(64, 64))
    whole_file = path.read_bytes()
    path.write_bytes(whole_file[: len(whole_file) - 5000])
    try:
        source = DicomSource(path)
    except ImageError as error:
        assert str(path) in str(error)
    else:
        with pytest.raises(DecodeError, match="level 0, tile"):
            whole(source)
    path.write_bytes(whole_file[:600])
    with pytest.raises(ImageError, match=path.name):
        DicomSource(path)
    assert capfd.readouterr() == ("", "")


def test_files_that_are_gone_when_a_thread_opens_them_fail_the_block(tmp_path):
    path = write_slide(tmp_path, colours(20, 20))
    source = DicomSource(path)
    path.unlink()
    with ThreadPoolExecutor(1) as pool, pytest.raises(BlockError, match="opened again"):
        pool.submit(source.decode, 0, 0, 0).result()


def test_a_damaged_level_of_a_folder_is_not_passed_over(tmp_path):
    write_slide(tmp_path, colours(80, 80))
    path = write_slide(tmp_path, colours(40, 40), factor=2)
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(ImageError, match=path.name):
        gt.open(tmp_path)


def test_mutilated_files_give_our_errors_alone(tmp_path):
    sound = write_slide(tmp_path, colours(40, 40)).read_bytes()
    path = tmp_path / "a" / "a.dcm"
    path.parent.mkdir()
    seen = set()
    for _ in range(150):
        content = bytearray(sound)
        for place in RNG.integers(132, 2200, RNG.integers(1, 6)):
            content[place] = RNG.integers(256)
        path.write_bytes(content[: RNG.integers(200, len(content)) if RNG.random() < 0.2 else None])
        try:
            seen.add(whole(gt.open(path).source).shape[0] > 0)
        except GigatileError as error:
            seen.add(type(error))
    assert {True, ImageError} <= seen


# Real ones


def test_the_real_slide_equals_its_svs_pixel_for_pixel():
    source, svs = DicomSource(data(CMU)), TiffSource(data("wsi/CMU-1-Small-Region.svs"))
    assert source.info.channels == svs.info.channels
    assert source.info.pixel_size == svs.info.pixel_size
    np.testing.assert_array_equal(whole(source), whole(svs))


def test_the_real_slide_equals_openslide_at_every_level():
    folder = data(CMU)
    source = DicomSource(folder)
    path = next(folder.glob("*.dcm"))
    with openslide.OpenSlide(path) as slide:
        assert [level.shape[::-1] for level in source.info.levels] == list(slide.level_dimensions)
        assert [level.downsample for level in source.info.levels] == pytest.approx(list(slide.level_downsamples))
        for level, size in enumerate(slide.level_dimensions):
            # The last row and column of levels 1 to 3 are stored as tiles of other sizes, which OpenSlide refuses.
            width, height = (side // 240 * 240 if 0 < level < 4 else side for side in size)
            expected = np.asarray(slide.read_region((0, 0), level, (width, height)))[..., :3]
            seen = np.moveaxis(whole(source, level), 0, -1)
            assert seen.shape[:2] == size[::-1]
            if level == 0:
                np.testing.assert_array_equal(seen[:height, :width], expected)
            else:  # Header and frames differ, and OpenSlide believes the header: it gives YCbCr as if it were RGB.
                ycbcr = PIL.Image.frombytes("YCbCr", (width, height), expected.tobytes())
                mended = np.asarray(ycbcr.convert("RGB")).astype(int)
                assert np.abs(seen[:height, :width] - mended).max() <= 1


def test_colours_that_header_and_frames_call_differently_are_mended_and_noted():
    source = DicomSource(data(CMU))
    assert [note[:8] for note in source.info.notes] == ["level 1:", "level 2:", "level 3:", "level 4:"]
    assert all("read as YCbCr" in note for note in source.info.notes)
    full = whole(source)
    for level in range(1, 5):
        factor, small = 2**level, whole(source, level)
        height, width = (min(a, b // factor) for a, b in zip(small.shape[1:], full.shape[1:], strict=True))
        cells = full[:, : height * factor, : width * factor].reshape(3, height, factor, width, factor)
        # As RGB they were 60 to 66 off.
        assert np.abs(cells.mean(axis=(2, 4)) - small[:, :height, :width]).mean() < 4.5


def as_jpeg(rgb, subsampling, *, jfif):
    """Samples that are stored as they are, in a JPEG with or without a JFIF segment and no other sign."""
    frame = imagecodecs.jpeg8_encode(rgb, 95, colorspace="YCBCR", outcolorspace="YCBCR", subsampling=subsampling)
    assert frame[6:10] == b"JFIF"
    return frame if jfif else frame[:2] + frame[20:]


@pytest.mark.parametrize(
    ("subsampling", "jfif", "sure"),
    [("444", True, False), ("422", True, True), ("420", True, True), ("420", False, False), ("444", False, False)],
)
def test_a_frame_is_believed_against_the_header_only_on_two_signs(subsampling, jfif, sure):
    frame = as_jpeg(RNG.integers(0, 256, (32, 32, 3)).astype(np.uint8), subsampling, jfif=jfif)
    assert is_surely_ycbcr(frame) == sure
    assert not any(is_surely_ycbcr(frame[:cut]) for cut in range(30))
    assert not is_surely_ycbcr(b"")


@pytest.mark.parametrize(("subsampling", "mended"), [("444", False), ("420", True)])
def test_frames_of_a_slide_are_read_as_what_they_surely_are(tmp_path, subsampling, mended):
    rgb = np.broadcast_to(np.array([200, 40, 90], np.uint8), (TILE, TILE, 3))
    stored = np.asarray(PIL.Image.fromarray(rgb.copy()).convert("YCbCr"))
    write_jpegs(tmp_path / "slide", (2 * TILE, TILE), [as_jpeg(stored, subsampling, jfif=True)] * 2)
    source = DicomSource(tmp_path / "slide")
    expected = rgb if mended else stored
    assert np.abs(np.moveaxis(whole(source), 0, -1).astype(int) - expected[0, 0]).max() <= 2
    assert len(source.info.notes) == 1
    assert ("read as YCbCr" in source.info.notes[0]) == mended


@pytest.mark.parametrize("name", ["sm_image", "sm_image_jpegls", "sm_image_grayscale"])
def test_the_samples_of_highdicom_equal_pydicom(name):
    path = data(f"wsi/highdicom/{name}.dcm")
    source = DicomSource(path)
    dataset = pydicom.dcmread(path)
    if name == "sm_image_jpegls":  # lossless, of the same pixels as the first; pydicom alone has no decoder for it
        dataset = pydicom.dcmread(path.with_name("sm_image.dcm"))
    frames = dataset.pixel_array.reshape(5, 5, 10, 10, -1)
    expected = frames.swapaxes(1, 2).reshape(50, 50, -1)
    assert source.info.dtype == expected.dtype
    assert source.info.pixel_size == PixelSize(0.499, 0.499)
    np.testing.assert_array_equal(np.moveaxis(whole(source), 0, -1), expected)
    for region in random_regions((50, 50), 5, RNG):
        np.testing.assert_array_equal(np.moveaxis(window(source, 0, region), 0, -1), expected[region.slices()])


def test_the_real_samples_in_one_folder_are_three_slides():
    with pytest.raises(ImageError, match="3 slides"):
        gt.open(data("wsi/highdicom"))


def test_the_real_grey_sample_is_called_by_its_stain():
    assert gt.open(data("wsi/highdicom/sm_image_grayscale.dcm")).channels == ("DAPI",)
