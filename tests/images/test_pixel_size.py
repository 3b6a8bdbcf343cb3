"""Which claim of a pixel size counts, what is said of the others, and what the user's word does."""

import json
import pickle

import numpy as np
import pytest
import tifffile

import gigatile as gt
from gigatile.cli.main import main
from gigatile.errors import UsageError
from gigatile.images.image import Image
from gigatile.images.memory import ArraySource
from gigatile.images.pixel_size import PixelSizeClaim, choose_pixel_size, number_in
from gigatile.images.tiff import TiffSource
from gigatile.units import PixelSize
from tests.data import data

APERIO = "Aperio Image Library v11.2.1\r\n100x100 [0,0 100x100] (64x64) JPEG/RGB Q=70|AppMag = 20|MPP = {mpp}"


def claim(y, x, origin):
    return PixelSizeClaim(PixelSize(y, x), origin)


def write_svs(path, mpp, **keywords):
    pixels = np.zeros((100, 100, 3), np.uint8)
    description = APERIO.format(mpp=mpp)
    tifffile.imwrite(path, pixels, tile=(64, 64), photometric="rgb", metadata=None, description=description, **keywords)
    return path


def test_the_first_claim_that_a_microscope_could_have_counts():
    choice = choose_pixel_size([claim(353, 353, "tags"), claim(0.25, 0.26, "OME"), claim(0.5, 0.5, "rest")])
    assert (choice.size, choice.origin) == (PixelSize(0.25, 0.26), "OME")
    assert "tags" in choice.notes[0]
    assert "left aside" in choice.notes[0]
    assert "rest says 0.5 x 0.5 um a pixel, OME 0.25 x 0.26 um: OME counts" in choice.notes[1]


@pytest.mark.parametrize("side", [0.0, 0.0499, 20.01, 499.0])
def test_a_size_that_no_microscope_has_is_refused_with_the_fix(side):
    choice = choose_pixel_size([claim(side, 0.25, "Aperio's MPP")])
    assert (choice.size, choice.origin) == (None, "")
    assert "state the true size with --source-pixel-size" in choice.notes[0]


@pytest.mark.parametrize("side", [0.05, 0.25, 20.0])
def test_the_limits_themselves_are_plausible(side):
    assert choose_pixel_size([claim(side, side, "a")]).size == PixelSize(side, side)


def test_claims_that_agree_within_a_hundredth_are_not_noted():
    assert choose_pixel_size([claim(0.25, 0.25, "a"), claim(0.2524, 0.2476, "b")]).notes == ()
    assert len(choose_pixel_size([claim(0.25, 0.25, "a"), claim(0.25, 0.2530, "b")]).notes) == 1


@pytest.mark.parametrize(("size", "noted"), [(0.499, False), (0.25, False), (0.1, True), (4.99, True)])
def test_an_objective_that_does_not_go_with_the_size_is_noted_and_never_counts(size, noted):
    choice = choose_pixel_size([claim(size, size, "MPP")], power=20)
    assert choice.size == PixelSize(size, size)
    assert bool(choice.notes) == noted


def test_nothing_claimed_is_nothing_said():
    assert choose_pixel_size([], power=40) == choose_pixel_size([])


@pytest.mark.parametrize(
    ("text", "value"),
    [("0.4990", 0.499), (" 0,25 um", 0.25), ("4e-1", 0.4), ("nan", 0), ("", 0), (None, 0), (40.0, 40)],
)
def test_numbers_of_vendors_are_read_with_point_or_comma(text, value):
    assert number_in(text) == value


def test_info_says_which_claim_won_and_what_disagreed(tmp_path, capsys):
    path = write_svs(tmp_path / "a.svs", "0.25", resolution=(20000, 20000), resolutionunit=3)
    assert main(["info", str(path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["pixel_size"] == {"y": 0.25, "x": 0.25, "unit": "micrometer"}
    assert told["pixel_size_from"] == "Aperio's MPP"
    assert any("0.5 x 0.5 um" in note and "Aperio's MPP counts" in note for note in told["notes"])
    assert main(["info", str(path)]) == 0
    assert "0.25 µm, from Aperio's MPP" in capsys.readouterr().out


@pytest.mark.parametrize("mpp", ["0", "499", "0.000499", "unknown"])
def test_an_slide_with_a_senseless_mpp_has_none_and_is_told_what_to_type(tmp_path, mpp):
    info = TiffSource(write_svs(tmp_path / "a.svs", mpp)).info
    assert (info.pixel_size, info.pixel_size_from) == (None, "")
    assert any("--source-pixel-size" in note for note in info.notes)


def test_the_tags_count_where_the_vendor_is_senseless(tmp_path):
    info = TiffSource(write_svs(tmp_path / "a.svs", "0", resolution=(20000, 20000), resolutionunit=3)).info
    assert info.pixel_size == PixelSize(0.5, 0.5)
    assert info.pixel_size_from == "TIFF's XResolution and YResolution"
    assert any("Aperio's MPP" in note for note in info.notes)


def test_an_ome_size_in_the_wrong_unit_is_left_aside(tmp_path):
    path = tmp_path / "a.ome.tif"
    metadata = {"axes": "YX", "PhysicalSizeX": 0.25, "PhysicalSizeXUnit": "mm", "PhysicalSizeY": 0.25,
                "PhysicalSizeYUnit": "mm"}  # fmt: skip
    tifffile.imwrite(path, np.zeros((20, 20), np.uint8), metadata=metadata)
    info = TiffSource(path).info
    assert info.pixel_size is None
    assert any("250 x 250 um" in note and "--source-pixel-size" in note for note in info.notes)


def test_anisotropic_pixels_stay_so(tmp_path):
    path = tmp_path / "a.ome.tif"
    metadata = {"axes": "YX", "PhysicalSizeX": 0.25, "PhysicalSizeXUnit": "µm", "PhysicalSizeY": 500,
                "PhysicalSizeYUnit": "nm"}  # fmt: skip
    tifffile.imwrite(path, np.zeros((20, 20), np.uint8), metadata=metadata)
    info = TiffSource(path).info
    assert info.pixel_size == PixelSize(0.5, 0.25)
    assert info.pixel_size_from == "OME-XML's PhysicalSize"


def test_what_the_user_says_counts_and_the_files_word_is_noted(tmp_path):
    image = gt.open(write_svs(tmp_path / "a.svs", "0.25"))
    stated = image.select(channels=[2, 0], level=0).with_bad_chunks("fill").with_pixel_size(0.5)
    for copy in (stated, pickle.loads(pickle.dumps(stated)), stated.select(level=0), stated.apart(0)):
        assert copy.pixel_size == PixelSize(0.5, 0.5)
        assert copy.info.pixel_size_from == "--source-pixel-size"
        assert copy.selected == (2, 0)
        assert copy.on_bad_chunk == "fill"
    assert any("Aperio's MPP says 0.25 x 0.25" in note for note in stated.info.notes)
    assert image.pixel_size == PixelSize(0.25, 0.25)
    region = gt.Region(0, 0, 100, 100)
    np.testing.assert_array_equal(stated.read(region), image.read(region)[[2, 0]])


def test_a_stated_size_is_part_of_what_a_run_is():
    image = Image(ArraySource(np.zeros((10, 10), np.uint8)))
    identities = [dict(image.with_pixel_size(size).source.identity()) for size in (0.25, 0.5)]
    assert identities[0] != identities[1]
    assert all(image.source.identity().items() <= identity.items() for identity in identities)


@pytest.mark.parametrize("size", [0.0, -1.0, float("nan"), float("inf")])
def test_a_stated_size_is_above_zero(size):
    with pytest.raises(UsageError, match="above 0"):
        Image(ArraySource(np.zeros((10, 10), np.uint8))).with_pixel_size(size)


def test_a_scene_keeps_the_pixel_size_of_its_transform():
    scene = gt.open(data("satellite/rasterio/RGB.byte.tif"))
    with pytest.raises(UsageError, match="georeferenced"):
        scene.with_pixel_size(0.5)


def test_the_option_reaches_the_result(tmp_path):
    path = write_svs(tmp_path / "a.svs", "499")
    out = tmp_path / "out"
    words = ["--tile", "64", "--overlap", "0", "--output", "raw", "--source-pixel-size", "0.25", "--progress", "none"]
    model = tmp_path / "mean.py"
    model.write_text("def model(batch):\n    return batch.mean(axis=1, keepdims=True)\n")
    assert main(["run", str(path), "-o", str(out), "--model", f"{model}:model", *words]) == 0
    assert gt.open(out / "prediction.zarr").pixel_size == PixelSize(0.25, 0.25)


SLIDES = {
    "wsi/CMU-1-Small-Region.svs": (0.499, "Aperio's MPP"),
    "wsi/test3-DAPI-2-(387).ndpi": (0.2281750559028887, "TIFF's XResolution and YResolution"),
    "wsi/instanseg_HE_example.tif": (0.5000799214486333, "OME-XML's PhysicalSize"),
    "omezarr/cmu1_crop_v04.ome.zarr": (0.499, "NGFF's scale"),
}


@pytest.mark.parametrize("name", SLIDES)
def test_real_slides_say_their_size_and_whence_and_nothing_disagrees(name):
    info = gt.open(data(name)).info
    assert info.pixel_size is not None
    assert (info.pixel_size.x, info.pixel_size_from) == (pytest.approx(SLIDES[name][0]), SLIDES[name][1])
    assert not any("pixel" in note for note in info.notes)
