"""Labels of instances leave as pixels, too: the numbers of objects.parquet."""

import numpy as np
import pytest
import rasterio
import tifffile
import zarr

import gigatile as gt
from gigatile.exports.export import export_run


def bright(batch):
    return batch[:, :1]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Two squares, one of them across all blocks."""
    pixels = np.zeros((300, 320), np.uint8)
    pixels[20:40, 30:60] = pixels[100:220, 90:240] = 255
    out = tmp_path_factory.mktemp("labels") / "out"
    tiling = gt.Tiling(tile=64, overlap=16, block=96)
    plan = gt.plan(gt.open(pixels, axes="yx"), bright, tiling, objects=gt.Instances("components:context=16"))
    result = gt.run(plan, out)
    assert result.objects().num_rows == 2
    return out, np.where(pixels, np.where(np.arange(300)[:, None] < 50, 1, 2), 0)


def read_cog(path):
    with rasterio.open(path) as file:
        return file.read(1)


@pytest.mark.parametrize(
    ("kind", "name", "read"),
    [
        ("cog", "x.tif", read_cog),
        ("ome-tiff", "x.ome.tif", tifffile.imread),
        ("ome-zarr-0.4", "x.ome.zarr", lambda path: zarr.open_array(path, path="0", mode="r")[...]),
    ],
)
@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_every_pixel_has_the_number_of_its_object(run, tmp_path, kind, name, read):
    out, expected = run
    export_run(out, kind, tmp_path / name, None)
    found = read(tmp_path / name)
    assert found.dtype == np.uint32
    assert np.array_equal(found, expected)
