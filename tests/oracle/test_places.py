"""Outputs of another resolution land where they belong: read back by zarr and ome-zarr-models, not by the library."""

from fractions import Fraction

import numpy as np
import pytest
import rasterio
import tifffile
import zarr
from ome_zarr_models.v05 import Image

import gigatile as gt
from gigatile.testing.sources import noise
from tests.data import data

from .catalogue import KNOWN
from .reference import whole

TRANSFORM = rasterio.Affine(10.0, 0.0, 500_000.0, 0.0, -10.0, 5_000_000.0)
SPOT = (44, 60)
"""An even row and column, so that the pixel is the first one of a pixel of half the resolution."""
NAMES = ["3x3", "valid 5x5 and 3x3", "twice the size", "three times the size", "half the size", "quarter of the size"]


def geotiff(path, pixels):
    profile = {"driver": "GTiff", "count": len(pixels), "height": pixels.shape[1], "width": pixels.shape[2]}
    with rasterio.open(path, "w", dtype=pixels.dtype, crs="EPSG:32633", transform=TRANSFORM, **profile) as file:
        file.write(pixels)
    return path


def ome_tiff(path, pixels):
    size = {"PhysicalSizeX": 0.25, "PhysicalSizeXUnit": "µm", "PhysicalSizeY": 0.5, "PhysicalSizeYUnit": "µm"}
    tifffile.imwrite(path, pixels, ome=True, metadata={"axes": "CYX", **size}, tile=(64, 64))
    return path


def predicted(image, model, out, tiling=None):
    """The group that a run wrote, opened by zarr alone."""
    plan = gt.plan(gt.open(image), gt.load_model(model, scale=0.01), tiling or gt.Tiling(tile=48), output="raw")
    assert plan.choice.exact
    assert gt.run(plan, out, durable=False).complete
    return plan, zarr.open_group(out / "prediction.zarr", mode="r")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("write", [geotiff, ome_tiff])
def test_values_are_those_of_the_whole_image(saved, tmp_path, name, write):
    known, pixels = KNOWN[name], noise((1, 91, 110))
    plan, group = predicted(write(tmp_path / "image.tif", pixels), saved(name), tmp_path / "out")
    scale = Fraction(known.scale)
    assert group["0"].shape[-2:] == (-int(-91 * scale // 1), -int(-110 * scale // 1))
    halo = plan.tiling.overlap // 2
    scaled = pixels * np.float32(0.01)
    assert np.array_equal(group["0"][:], whole(saved(name), scaled, halo, known.multiple, scale=scale, crop=known.crop))


def spot():
    """One bright pixel."""
    pixels = np.full((1, 96, 112), 1, np.uint8)
    pixels[0, SPOT[0], SPOT[1]] = 201
    return pixels


def seen_where(group, phases):
    """Rows and columns that differ from what the same phase has far away."""
    values = group["0"][0]
    plain = np.tile(values[:phases, :phases], (values.shape[0] // phases, values.shape[1] // phases))
    rows, cols = np.nonzero(np.abs(values - plain) > 1e-6)
    return rows, cols


@pytest.mark.parametrize("name", NAMES)
def test_a_bright_pixel_of_a_scene_is_seen_at_its_coordinates(saved, tmp_path, name):
    known = KNOWN[name]
    _, group = predicted(geotiff(tmp_path / "scene.tif", spot()), saved(name), tmp_path / "out")
    attributes = group["0"].attrs.asdict()
    transform = rasterio.Affine(*attributes["spatial:transform"])
    scale = float(known.scale)
    assert transform.almost_equals(TRANSFORM @ rasterio.Affine.scale(1 / scale))
    assert rasterio.crs.CRS.from_string(attributes["proj:code"]) == rasterio.crs.CRS.from_epsg(32633)
    rows, cols = seen_where(group, Fraction(known.scale).numerator)
    at_x, at_y = TRANSFORM @ (SPOT[1] + 0.5, SPOT[0] + 0.5)
    # All of what saw it lies within the radius, and the pixel under it is among it.
    left, top = transform @ (cols.min(), rows.min())
    right, bottom = transform @ (cols.max() + 1, rows.max() + 1)
    assert left < at_x < right
    assert bottom < at_y < top
    reach = 10 * (max(known.radius) + max(1, 1 / scale))
    assert max(right - at_x, at_x - left) <= reach
    assert max(top - at_y, at_y - bottom) <= reach
    box = attributes["spatial:bbox"]
    assert box == pytest.approx([500_000, 5_000_000 - 960, 500_000 + 1120, 5_000_000], abs=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_a_slide_has_the_pixel_size_of_its_result_at_every_level(saved, tmp_path, name):
    _, group = predicted(ome_tiff(tmp_path / "slide.ome.tif", noise((1, 600, 700))), saved(name), tmp_path / "out")
    (multiscale,) = Image.from_zarr(group).attributes.ome.multiscales
    assert [axis.name for axis in multiscale.axes] == ["c", "y", "x"]
    assert [axis.unit for axis in multiscale.axes[1:]] == ["micrometer", "micrometer"]
    factor = float(KNOWN[name].scale)
    for level, dataset in enumerate(multiscale.datasets):
        scale, shift = (step for step in dataset.coordinateTransformations)
        assert scale.scale[1:] == pytest.approx([0.5 / factor * 2**level, 0.25 / factor * 2**level])
        first = multiscale.datasets[0].coordinateTransformations[1].translation
        moved = [(0.5 / factor) * (2**level - 1) / 2, (0.25 / factor) * (2**level - 1) / 2]
        assert np.subtract(shift.translation, first)[1:] == pytest.approx(moved)


@pytest.mark.parametrize("name", NAMES)
def test_a_slide_and_its_result_begin_at_the_same_corner(saved, tmp_path, name):
    """NGFF counts from pixel centres: a source without a translation begins half a pixel before 0."""
    _, group = predicted(ome_tiff(tmp_path / "slide.ome.tif", spot()), saved(name), tmp_path / "out")
    (multiscale,) = Image.from_zarr(group).attributes.ome.multiscales
    scale, shift = multiscale.datasets[0].coordinateTransformations
    corner = np.subtract(shift.translation, np.divide(scale.scale, 2))[1:]
    assert corner == pytest.approx([-0.25, -0.125])


def test_a_real_model_of_twice_the_resolution_on_a_real_slide(tmp_path):
    path, image = data("models/FSRCNN_x2.onnx"), gt.open(data("wsi/instanseg_HE_example.tif"))
    size = image.pixel_size
    plan = gt.plan(image.select([0]), gt.load_model(path), gt.Tiling(tile=512), output="raw")
    assert plan.grid.shape == (2 * image.shape[1], 2 * image.shape[2])
    result = gt.run(plan, tmp_path / "out", durable=False)
    (multiscale,) = Image.from_zarr(
        zarr.open_group(tmp_path / "out" / "prediction.zarr", mode="r")
    ).attributes.ome.multiscales
    scale = multiscale.datasets[0].coordinateTransformations[0].scale
    assert scale[1:] == pytest.approx([size.y / 2, size.x / 2])
    part = image.read(gt.Region(300, 400, 420, 540))[:1] * np.float32(1 / 255)
    expected = whole(path, part, 0, scale=Fraction(2))[:, 24:-24, 24:-24]
    assert np.array_equal(result.prediction[:, 624:816, 824:1056], expected)
