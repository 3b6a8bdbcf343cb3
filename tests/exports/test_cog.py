"""Cloud-optimised GeoTIFFs hold the values, the place, the names and the colours of the result."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
import rasterio
import rasterio.shutil
import tifffile
from openslide import OpenSlide
from rasterio.errors import NotGeoreferencedWarning
from rio_cogeo import cog_validate

import gigatile as gt
from gigatile.errors import RunRefused, UsageError
from gigatile.exports import cog as module
from gigatile.exports import tiff_tags
from gigatile.exports.cog import export_cog
from gigatile.exports.result import Result
from tests.data import data
from tests.exports.samples import NAMES, RGB, UTM, levels, softly, write_scene
from tests.small_runs import noise, run_small

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
KINDS = ("scene", "probabilities", "slide", "raw")


@pytest.fixture(params=KINDS)
def run(request):
    return request.getfixturevalue(request.param)


def exported(run, path, dtype=None):
    export_cog(Result.of(run), path, dtype)
    return path


def pages(path):
    """Pixels of every level, read by GDAL."""
    with rasterio.open(path) as file:
        count = len(file.overviews(1))
        found = [file.read()]
    for level in range(count):
        with rasterio.open(path, overview_level=level) as file:
            found.append(file.read())
    return found


def test_every_level_has_the_pixels_of_the_result(run, tmp_path):
    found, expected = pages(exported(run, tmp_path / "a.tif")), levels(run)
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs.reshape(ours.shape))


def test_rio_cogeo_finds_nothing_wrong(run, tmp_path):
    assert cog_validate(exported(run, tmp_path / "a.tif"), strict=True) == (True, [], [])


def test_a_bigtiff_is_the_same_image(run, tmp_path, monkeypatch):
    small = exported(run, tmp_path / "small.tif")
    monkeypatch.setattr(tiff_tags, "CLASSIC_BYTES", 0)
    big = exported(run, tmp_path / "big.tif")
    assert (small.read_bytes()[2], big.read_bytes()[2]) == (42, 43)
    assert cog_validate(big, strict=True) == (True, [], [])
    for one, other in zip(pages(small), pages(big), strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(tifffile.imread(big), tifffile.imread(small))


def test_tiles_lie_where_gdals_leaders_say(scene, tmp_path):
    path = exported(scene, tmp_path / "a.tif")
    content = path.read_bytes()
    count = 0
    with tifffile.TiffFile(path) as file:
        for page in file.pages:
            for offset, size in zip(page.dataoffsets, page.databytecounts, strict=True):
                assert int.from_bytes(content[offset - 4 : offset], "little") == size
                assert content[offset + size : offset + size + 4] == content[offset + size - 4 : offset + size]
                count += 1
    assert count >= 16


PLACES = {
    "north-up": ("EPSG:32633", UTM),
    "rotated": ("EPSG:3857", (3.1, 0.7, 1e6, 0.9, -2.3, 2e6)),
    "south-up": ("EPSG:32718", (30.0, 0.0, 7e5, 0.0, 30.0, 8e6)),
    "degrees": ("EPSG:4326", (1 / 3600, 0.0, 12.3, 0.0, -1 / 3600, 47.1)),
    "no CRS": (None, (2.0, 0.0, 100.0, 0.0, -2.0, 200.0)),
}


@pytest.mark.parametrize("place", PLACES)
def test_crs_and_transform_are_those_of_the_source_to_the_last_digit(place, tmp_path):
    crs, transform = PLACES[place]
    source = write_scene(tmp_path / "in.tif", noise((300, 310)), crs, transform)
    assert run_small(gt.open(source), softly, tmp_path / "run").complete
    with rasterio.open(source) as one, rasterio.open(exported(tmp_path / "run", tmp_path / "out.tif")) as other:
        assert other.transform == one.transform == rasterio.Affine(*transform)
        assert other.crs == one.crs
        assert other.shape == one.shape


def test_a_crs_without_a_code_travels_as_wkt(scene, tmp_path):
    crs = rasterio.CRS.from_string("+proj=laea +lat_0=12.5 +lon_0=-33.25 +x_0=1000 +y_0=2000 +ellps=GRS80 +units=m")
    export_cog(replace(Result.of(scene), crs=crs.to_wkt(version="WKT2_2019")), tmp_path / "a.tif")
    with rasterio.open(tmp_path / "a.tif") as file:
        assert file.crs == crs


def test_classes_have_nodata_colours_and_names(scene, tmp_path):
    path = exported(scene, tmp_path / "a.tif")
    with rasterio.open(path) as file:
        assert file.nodata == 255
        assert file.dtypes == ("uint8",)
        colours = file.colormap(1)
        assert [colours[number][:3] for number in range(4)] == RGB
        assert colours[255][3] == 0, "invalid pixels are transparent"
        assert {key: value for key, value in file.tags(1).items() if key.startswith("CLASS_")} == {
            f"CLASS_{number}": name for number, name in enumerate(NAMES)
        }
    # rasterio has no category names; a VRT shows what GDAL knows.
    rasterio.shutil.copy(path, tmp_path / "a.vrt", driver="VRT")
    text = (tmp_path / "a.vrt").read_text(encoding="utf-8")
    places = [text.index(f"<Category>{name}</Category>") for name in ("background", "bright", "nöne")]
    assert places == sorted(places)
    assert "mid &amp; &lt;odd&gt;" in text


def test_channels_are_bands_with_names(probabilities, tmp_path):
    with rasterio.open(exported(probabilities, tmp_path / "a.tif")) as file:
        assert file.descriptions == NAMES
        assert file.dtypes == ("float32",) * 4
        assert np.isnan(file.nodata)
        assert file.scales == (1.0,) * 4
        assert np.isnan(file.read(1)[:250, :300]).all()
        assert not np.isnan(file.read(1)[260:, :]).any()


def test_probabilities_as_bytes_say_their_scale(probabilities, tmp_path):
    truth = levels(probabilities)[0]
    with rasterio.open(exported(probabilities, tmp_path / "a.tif", "uint8")) as file:
        pixels = file.read()
        assert file.dtypes == ("uint8",) * 4
        assert file.nodata == 255
        assert file.scales == (1 / 254,) * 4
    np.testing.assert_array_equal(pixels == 255, np.isnan(truth))
    valid = ~np.isnan(truth)
    np.testing.assert_array_equal(pixels[valid], np.rint(254 * truth[valid].astype(np.float64)))


def test_classes_as_bytes_of_probabilities_are_refused(scene, tmp_path):
    with pytest.raises(UsageError, match="--dtype uint8: expected probabilities, found --output classes"):
        exported(scene, tmp_path / "a.tif", "uint8")
    assert list(tmp_path.iterdir()) == []


def test_halves_are_widened_without_loss(folder, scene, tmp_path):
    image = gt.open(folder / "scene.tif")
    run_small(image, softly, tmp_path / "run", output="probabilities", dtype="float16")
    found = pages(exported(tmp_path / "run", tmp_path / "a.tif"))[0]
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, levels(tmp_path / "run")[0].astype(np.float32))


def test_a_slide_says_pixels_per_centimetre_at_every_level(slide, tmp_path):
    with tifffile.TiffFile(exported(slide, tmp_path / "a.tif")) as file:
        for level, page in enumerate(file.pages):
            x, y = (page.tags[name].value for name in ("XResolution", "YResolution"))
            assert page.tags["ResolutionUnit"].value == 3
            assert x[0] / x[1] == pytest.approx(10_000 / (0.5 * 2**level), rel=1e-9)
            assert y[0] / y[1] == pytest.approx(10_000 / (0.25 * 2**level), rel=1e-9)


def test_openslide_shows_the_classes_in_their_colours(slide, tmp_path):
    truth = levels(slide)
    with OpenSlide(exported(slide, tmp_path / "a.tif")) as file:
        assert [(height, width) for width, height in file.level_dimensions] == [part.shape for part in truth]
        picture = np.asarray(file.read_region((0, 0), 1, file.level_dimensions[1]))
    np.testing.assert_array_equal(picture[..., :3], np.array(RGB, np.uint8)[truth[1]])


def test_an_export_that_fails_leaves_the_earlier_one_and_nothing_else(scene, tmp_path, monkeypatch):
    path = exported(scene, tmp_path / "a.tif")
    before = path.read_bytes()

    def broken(*arguments):
        yield from ()
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "encoded_tiles", broken)
    with pytest.raises(KeyboardInterrupt):
        exported(scene, path)
    assert path.read_bytes() == before
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.tif", "a.tif.aux.xml"]


def test_what_a_killed_export_left_is_in_nobodys_way(scene, tmp_path):
    (tmp_path / ".a.tif.export.tmp").write_bytes(b"x" * 10_000_000)
    path = exported(scene, tmp_path / "a.tif")
    assert cog_validate(path, strict=True) == (True, [], [])
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.tif", "a.tif.aux.xml"]


def test_two_exports_to_one_file_are_refused(scene, tmp_path):
    from gigatile.exports.target import new_file

    with new_file(tmp_path / "a.tif", lambda path: True) as file:
        file.write(b"first")
        with pytest.raises(RunRefused, match="one that is under way"):
            exported(scene, tmp_path / "a.tif")
    assert (tmp_path / "a.tif").read_bytes() == b"first"


def test_names_of_an_earlier_export_do_not_stay(scene, raw, tmp_path):
    exported(scene, tmp_path / "a.tif")
    exported(raw, tmp_path / "a.tif")
    assert not (tmp_path / "a.tif.aux.xml").exists()


def test_the_same_result_gives_the_same_bytes(probabilities, tmp_path):
    one, other = exported(probabilities, tmp_path / "a.tif"), exported(probabilities, tmp_path / "b.tif")
    assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize(
    "name",
    ["RGB.byte.tif", "float_nan.tif", "rotated.tif", "../rio-tiler/cog_nodata_nan.tif", "../stars_geomatrix.tif"],
)
def test_real_scenes_stay_where_they_are(name, tmp_path):
    source = data(f"satellite/rasterio/{name}")
    assert run_small(gt.open(source), lambda batch: batch[:, :1] + 1, tmp_path / "run", output="raw").complete
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(source) as one, rasterio.open(exported(tmp_path / "run", tmp_path / "out.tif")) as other:
            assert (other.transform, other.crs, other.shape) == (one.transform, one.crs, one.shape)


@pytest.mark.parametrize("dtype", ["int64", "uint64", "int32", "uint32", "int16", "int8"])
@pytest.mark.usefixtures("scene")
def test_integers_of_any_width_keep_their_nodata(dtype, folder, tmp_path):
    def counted(batch):
        return np.round(batch[:, :1] * 50).astype(dtype)

    tiling = gt.Tiling(tile=128, overlap=32, blend="trim")
    assert run_small(gt.open(folder / "scene.tif"), counted, tmp_path / "run", tiling, output="raw").complete
    with rasterio.open(exported(tmp_path / "run", tmp_path / "a.tif")) as file:
        # rasterio has no nodata of 64 bits, the mask is GDAL's own
        assert file.nodata == (None if "64" in dtype else np.iinfo(dtype).max)
        valid = file.read_masks(1) > 0
        values = file.read(1)
    assert not valid[:250, :300].any()
    assert valid[250:].all()
    assert (values[:250, :300] == np.iinfo(dtype).max).all()
    assert {1, 9} <= set(values[valid].tolist()), "what a nodata cut off at its first digit would be"
