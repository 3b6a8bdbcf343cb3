"""Promise 7: the result carries pixel size, origin and CRS, and other programs read them as ours."""

import json

import numpy as np
import pytest
import tifffile
import zarr
from ome_zarr_models.v05.image import Image as OmeImage

import gigatile as gt
from tests.data import data
from tests.small_runs import noise, run_small, write_models

TILING = gt.Tiling(tile=256, overlap=32, blend="hann", block=448)


@pytest.fixture(scope="module")
def bright(tmp_path_factory):
    return str(write_models(tmp_path_factory.mktemp("models"))) + ":bright"


def attributes(result):
    return zarr.open_group(f"{result.directory}/prediction.zarr", mode="r").attrs.asdict()


def levels(result):
    """Per level: shape along y and x, scale and translation along y and x."""
    group = zarr.open_group(f"{result.directory}/prediction.zarr", mode="r")
    found = []
    for dataset in attributes(result)["ome"]["multiscales"][0]["datasets"]:
        scale, translation = dataset["coordinateTransformations"]
        assert (scale["type"], translation["type"]) == ("scale", "translation")
        found.append((group[dataset["path"]].shape[-2:], scale["scale"][-2:], translation["translation"][-2:]))
    return found


def check_ngff(result, pixel_size, unit):
    """Valid, in the right unit, and each level lies on the one below: (p_n - p_0) / 2."""
    OmeImage.from_zarr(zarr.open_group(f"{result.directory}/prediction.zarr", mode="r"))
    axes = attributes(result)["ome"]["multiscales"][0]["axes"]
    assert [axis["name"] for axis in axes][-2:] == ["y", "x"]
    assert [axis.get("unit") for axis in axes][-2:] == [unit, unit]
    for number, (shape, scale, translation) in enumerate(levels(result)):
        size = np.array(pixel_size) * 2**number
        assert scale == pytest.approx(size, rel=1e-9)
        assert translation == pytest.approx((size - np.array(pixel_size)) / 2, rel=1e-9)
        # The outer corner of the first pixel is the same at every level, and the extent is that of the image.
        assert np.array(translation) - size / 2 == pytest.approx(-np.array(pixel_size) / 2)
        extent = np.array(levels(result)[0][0]) * pixel_size
        assert np.all(np.array(shape) * size >= extent * (1 - 1e-9))
        assert np.all((np.array(shape) - 1) * size < extent)


def test_a_real_slide_has_its_pixel_size_in_micrometres(bright, tmp_path):
    slide = gt.open(data("wsi/CMU-1-Small-Region.svs"))
    result = run_small(slide, bright, tmp_path / "out", TILING)
    assert result.complete
    assert result.prediction.shape == (2967, 2220)
    check_ngff(result, (0.499, 0.499), "micrometer")
    again = gt.open(tmp_path / "out" / "prediction.zarr")
    assert again.pixel_size.y == pytest.approx(0.499)
    assert "proj:code" not in attributes(result)


def test_the_pixels_of_a_real_slide_lie_where_the_slide_has_them(bright, tmp_path):
    slide = gt.open(data("wsi/CMU-1-Small-Region.svs"))
    result = run_small(slide, bright, tmp_path / "out", TILING, output="probabilities")
    region = gt.Region(1200, 400, 1500, 900)
    expected = slide.read(region).mean(axis=0) / 255
    assert np.abs(result.prediction[0, 1200:1500, 400:900] - expected).max() < 1e-6


def scene(result, path):
    """Compare transform and CRS of every level with what rasterio says of the source."""
    import rasterio

    with rasterio.open(path) as source:
        transform, crs, bounds = source.transform, source.crs, source.bounds
    found = attributes(result)
    assert rasterio.crs.CRS.from_string(found.get("proj:code") or found["proj:wkt2"]) == crs
    group = zarr.open_group(f"{result.directory}/prediction.zarr", mode="r")
    for number in range(len(levels(result))):
        own = group[str(number)].attrs.asdict()
        a, b, c, d, e, f = own["spatial:transform"]
        factor = 2**number
        wanted = transform.a * factor, transform.b, transform.c, transform.d, transform.e * factor, transform.f
        assert (a, b, c, d, e, f) == pytest.approx(wanted, rel=1e-12)
        assert own["spatial:shape"] == list(group[str(number)].shape[-2:])
    xmin, ymin, xmax, ymax = found["spatial:bbox"]
    assert (xmin, ymin, xmax, ymax) == pytest.approx((bounds.left, bounds.bottom, bounds.right, bounds.top))


def test_a_real_scene_has_its_crs_and_transform(bright, tmp_path):
    path = data("satellite/rasterio/RGB.byte.tif")
    result = run_small(gt.open(path), bright, tmp_path / "out", TILING)
    scene(result, path)
    size = gt.open(path).pixel_size
    check_ngff(result, (size.y, size.x), "meter")
    assert size.x == pytest.approx(300.0379, abs=1e-3)


def test_nodata_of_a_real_scene_is_no_class(bright, tmp_path):
    import rasterio

    path = data("satellite/rasterio/RGB.byte.tif")
    result = run_small(gt.open(path), bright, tmp_path / "out", TILING)
    with rasterio.open(path) as source:
        blank = (source.read() == 0).all(axis=0)
    assert 0.1 < blank.mean() < 0.9
    assert np.array_equal(result.prediction[:] == 255, blank)


def test_a_real_cog_has_its_crs_and_a_result_of_channels_validates(bright, tmp_path):
    path = data("satellite/rio-tiler/cog_nodata_nan.tif")
    result = run_small(gt.open(path), bright, tmp_path / "out", TILING, output="raw")
    scene(result, path)
    size = gt.open(path).pixel_size
    check_ngff(result, (size.y, size.x), "meter")


def test_a_result_is_an_image_of_the_same_place(bright, tmp_path):
    path = data("satellite/rasterio/RGB.byte.tif")
    run_small(gt.open(path), bright, tmp_path / "out", TILING)
    source, again = gt.open(path), gt.open(tmp_path / "out" / "prediction.zarr")
    assert again.crs == source.crs
    assert again.transform == pytest.approx(source.transform)
    assert again.shape[1:] == source.shape[1:]
    assert again.nodata == 255


@pytest.fixture
def pyramid(tmp_path):
    """An OME-TIFF of 600 x 720 pixels of 0.25 x 0.5 micrometres, with levels of 1/2 and 1/4."""
    pixels = noise((600, 720))
    path = tmp_path / "pyramid.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as writer:
        options = {"photometric": "rgb", "tile": (64, 64)}
        metadata = {
            "axes": "YXS", "PhysicalSizeX": 0.5, "PhysicalSizeXUnit": "µm", "PhysicalSizeY": 0.25,
            "PhysicalSizeYUnit": "µm",
        }  # fmt: skip
        writer.write(pixels, subifds=2, metadata=metadata, **options)
        writer.write(pixels[::2, ::2], subfiletype=1, **options)
        writer.write(pixels[::4, ::4], subfiletype=1, **options)
    return path


@pytest.mark.parametrize("level", [0, 1, 2])
def test_a_coarser_level_as_processing_grid_has_its_own_pixel_size(bright, tmp_path, pyramid, level):
    image = gt.open(pyramid).select(level=level)
    result = run_small(image, bright, tmp_path / "out", gt.Tiling(tile=64, overlap=8, block=112), output="raw")
    assert result.prediction.shape == (1, 600 >> level, 720 >> level)
    OmeImage.from_zarr(zarr.open_group(str(tmp_path / "out" / "prediction.zarr"), mode="r"))
    _, scale, _ = levels(result)[0]
    assert scale == pytest.approx([0.25 * 2**level, 0.5 * 2**level])
    expected = noise((600, 720))[:: 2**level, :: 2**level].mean(axis=2) / 255
    assert np.allclose(result.prediction[0], expected, atol=1e-6)


@pytest.mark.parametrize("level", [0, 1, 2])
def test_a_level_of_a_real_cog_keeps_the_outer_corner_and_scales_the_pixel(bright, tmp_path, level):
    path = data("satellite/rio-tiler/cog.tif")
    image = gt.open(path).select(level=level)
    run_small(image, bright, tmp_path / "out", TILING)
    source = gt.open(path).transform
    found = zarr.open_array(str(tmp_path / "out" / "prediction.zarr" / "0"), mode="r").attrs["spatial:transform"]
    assert found[2] == source[2]
    assert found[5] == source[5]
    ratio = gt.open(path).shape[2] / image.grid_shape[1]
    assert found[0] == pytest.approx(source[0] * ratio, rel=2e-3)
    assert found[4] == pytest.approx(source[4] * ratio, rel=2e-3)


def test_an_image_without_a_pixel_size_claims_none(bright, tmp_path):
    result = run_small(gt.open(noise(), axes="yxc"), bright, tmp_path / "out")
    axes = attributes(result)["ome"]["multiscales"][0]["axes"]
    assert all("unit" not in axis for axis in axes)
    assert not [key for key in attributes(result) if key.startswith(("spatial:", "proj:"))]
    check_ngff(result, (1.0, 1.0), None)


def test_names_of_classes_travel_with_the_result(tmp_path):
    def two(batch):
        return np.concatenate([batch[:, :1], 1 - batch[:, :1]], axis=1)

    model = gt.load_model(two, class_names=["light", "dark"])
    result = run_small(gt.open(noise(), axes="yxc"), model, tmp_path / "out")
    assert json.loads(json.dumps(attributes(result)["gigatile"]))["class_names"] == ["light", "dark"]
