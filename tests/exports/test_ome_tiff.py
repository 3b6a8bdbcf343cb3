"""OME-TIFFs hold every level and channel of the result, say its pixel size, and are valid."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import ome_types
import pytest
import tifffile
import xmlschema
from openslide import OpenSlide

import gigatile as gt
from gigatile.errors import UsageError
from gigatile.exports import tiff_tags
from gigatile.exports.ome_tiff import export_ome_tiff
from gigatile.exports.result import Result
from gigatile.selections.choose import selection_of
from tests.data import data
from tests.exports.samples import COLOURS, NAMES, RGB, levels, softly
from tests.small_runs import run_small

KINDS = ("scene", "probabilities", "slide", "raw")


@pytest.fixture(params=KINDS)
def run(request):
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="session")
def schema():
    return xmlschema.XMLSchema(str(Path(ome_types.__file__).parent / "ome-2016-06.xsd"))


def exported(run, path, dtype=None):
    export_ome_tiff(Result.of(run), path, dtype)
    return path


def test_every_level_has_the_pixels_of_the_result(run, tmp_path):
    expected = levels(run)
    with tifffile.TiffFile(exported(run, tmp_path / "a.ome.tif")) as file:
        assert file.is_ome
        (series,) = file.series
        assert len(series.levels) == len(expected)
        for ours, theirs in zip(series.levels, expected, strict=True):
            np.testing.assert_array_equal(ours.asarray(), theirs.reshape(ours.shape))


def test_the_xml_is_valid(run, tmp_path, schema):
    with tifffile.TiffFile(exported(run, tmp_path / "a.ome.tif")) as file:
        schema.validate(file.ome_metadata)


def test_an_invalid_document_would_be_found(scene, tmp_path, schema):
    with tifffile.TiffFile(exported(scene, tmp_path / "a.ome.tif")) as file:
        assert not schema.is_valid(file.ome_metadata.replace('SizeZ="1"', ""))


def test_the_pixel_size_is_that_of_the_result(slide, tmp_path):
    pixels = ome_types.from_tiff(exported(slide, tmp_path / "a.ome.tif")).images[0].pixels
    assert (pixels.physical_size_x, pixels.physical_size_y) == (0.5, 0.25)
    assert {pixels.physical_size_x_unit.value, pixels.physical_size_y_unit.value} == {"µm"}
    with tifffile.TiffFile(tmp_path / "a.ome.tif") as file:
        for level, part in enumerate(file.series[0].levels):
            x = part.pages[0].tags["XResolution"].value
            assert x[0] / x[1] == pytest.approx(10_000 / (0.5 * 2**level), rel=1e-9)


def test_a_result_of_a_coarser_level_says_the_size_of_its_own_pixels(tmp_path):
    image = gt.open(data("omezarr/cmu1_crop_v04.ome.zarr")).select(level=1)
    assert run_small(image, softly, tmp_path / "run").complete
    pixels = ome_types.from_tiff(exported(tmp_path / "run", tmp_path / "a.ome.tif")).images[0].pixels
    assert pixels.physical_size_x == pytest.approx(2 * 0.499)
    assert (pixels.size_y, pixels.size_x) == image.grid_shape


def test_what_lies_nowhere_claims_no_pixel_size(raw, tmp_path):
    pixels = ome_types.from_tiff(exported(raw, tmp_path / "a.ome.tif")).images[0].pixels
    assert pixels.physical_size_x is None
    assert pixels.type.value == "float"


def maps(path):
    """Map annotations by the last part of their namespace."""
    document = ome_types.from_tiff(path)
    return {note.namespace.split("/")[-1]: dict(note.value) for note in document.structured_annotations}


def test_classes_have_names_and_colours(scene, tmp_path):
    path = exported(scene, tmp_path / "a.ome.tif")
    found = maps(path)
    assert tuple(found["class-names"][str(number)] for number in range(4)) == NAMES
    assert tuple(found["class-colors"][str(number)] for number in range(4)) == COLOURS
    assert found["values"] == {"output": "classes", "invalid": "255"}
    with tifffile.TiffFile(path) as file:
        for page in (file.pages[0], *file.pages[0].pages):
            assert page.photometric == tifffile.PHOTOMETRIC.PALETTE
            np.testing.assert_array_equal(page.colormap[:, :4].T // 257, RGB)


def test_openslide_shows_the_classes_in_their_colours(slide, tmp_path):
    truth = levels(slide)[0]
    with OpenSlide(exported(slide, tmp_path / "a.ome.tif")) as file:
        picture = np.asarray(file.read_region((0, 0), 0, file.dimensions))
    np.testing.assert_array_equal(picture[..., :3], np.array(RGB, np.uint8)[truth])


def test_channels_have_names_and_colours(probabilities, tmp_path):
    channels = ome_types.from_tiff(exported(probabilities, tmp_path / "a.ome.tif")).images[0].pixels.channels
    assert tuple(channel.name for channel in channels) == NAMES
    assert [channel.color.as_rgb_tuple()[:3] for channel in channels] == RGB


def test_probabilities_as_bytes_say_their_scale(probabilities, tmp_path):
    path = exported(probabilities, tmp_path / "a.ome.tif", "uint8")
    truth = levels(probabilities)[0]
    pixels = tifffile.imread(path)
    valid = ~np.isnan(truth)
    np.testing.assert_array_equal(pixels[valid], np.rint(254 * truth[valid].astype(np.float64)))
    assert (pixels[~valid] == 255).all()
    assert float(maps(path)["values"]["scale"]) == 1 / 254


def test_a_bigtiff_is_the_same_image(probabilities, tmp_path, monkeypatch):
    small = exported(probabilities, tmp_path / "small.ome.tif")
    monkeypatch.setattr(tiff_tags, "CLASSIC_BYTES", 0)
    big = exported(probabilities, tmp_path / "big.ome.tif")
    assert (small.read_bytes()[2], big.read_bytes()[2]) == (42, 43)
    for level in range(3):
        np.testing.assert_array_equal(tifffile.imread(small, level=level), tifffile.imread(big, level=level))


def test_floats_have_no_predictor_since_bio_formats_knows_none(probabilities, tmp_path):
    with tifffile.TiffFile(exported(probabilities, tmp_path / "a.ome.tif")) as file:
        assert {page.predictor for page in file.pages} == {1}


def test_gigatile_opens_its_own_export(slide, probabilities, tmp_path):
    for run in (slide, probabilities):
        image = gt.open(exported(run, tmp_path / "a.ome.tif"))
        truth = levels(run)[0]
        height, width = truth.shape[-2:]
        found = image.read(gt.Region(0, 0, height, width))
        np.testing.assert_array_equal(found, truth.reshape(found.shape))
        assert len(image.levels) == 3


def test_integers_of_64_bits_are_refused(scene, tmp_path):
    result = Result.of(scene)
    layouts = tuple(replace(layout, dtype=np.dtype("i8"), fill=-1) for layout in result.layouts)
    with pytest.raises(UsageError, match="found int64"):
        export_ome_tiff(replace(result, layouts=layouts, output="raw"), tmp_path / "a.ome.tif")
    assert list(tmp_path.iterdir()) == []


def test_as_a_mask_it_keeps_no_pixel_that_is_invalid(scene, folder, tmp_path):
    classes = levels(scene)[0]
    assert {0, 1, 255} <= set(np.unique(classes))
    image = gt.open(folder / "scene.tif")
    path = exported(scene, tmp_path / "map.ome.tif")
    kept = selection_of(image, None, path).window(gt.Region(0, 0, *classes.shape))
    np.testing.assert_array_equal(kept, (classes != 0) & (classes != 255))


def test_names_that_xml_cannot_say_do_not_break_the_document(folder, scene, tmp_path, schema):
    odd = gt.load_model(softly, class_names=("a\x07b", "tab\there", "dark", "n\u00f6ne"))
    assert run_small(gt.open(folder / "scene.tif"), odd, tmp_path / "run").complete
    path = exported(tmp_path / "run", tmp_path / "a.ome.tif")
    with tifffile.TiffFile(path) as file:
        schema.validate(file.ome_metadata)
        assert all(name in file.ome_metadata for name in ("a\ufffdb", "n\u00f6ne"))
