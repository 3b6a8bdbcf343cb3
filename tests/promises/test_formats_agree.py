"""Promise 7 with real data: a slide gives the same result whatever it is stored as, and a crop that of its place."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr

import gigatile as gt
from tests.data import data

SVS = "wsi/CMU-1-Small-Region.svs"
CROP = gt.Region(1200, 400, 2736, 1936)
"""Where `omezarr/cmu1_crop_v04.ome.zarr` was cut out of the slide."""
RADIUS = 2
UM = 0.499


def local(batch):
    """Something that is not linear and sees two pixels around, pixel by pixel: no bit depends on the tiles."""
    padded = np.pad(batch, ((0, 0), (0, 0), (2, 2), (2, 2)), mode="edge")
    height, width = batch.shape[2:]
    total = np.zeros_like(batch)
    for dy, dx in ((0, 2), (2, 0), (2, 2), (2, 4), (4, 2), (1, 3), (3, 1)):
        total = np.maximum(total, padded[:, :, dy : dy + height, dx : dx + width]) * np.float32(0.9)
    return total[:, :1] - total[:, 1:2] * total[:, 2:]


def write_ome_tiff(folder: Path, pixels: np.ndarray) -> Path:
    path = folder / "slide.ome.tif"
    sizes = {"PhysicalSizeX": UM, "PhysicalSizeXUnit": "µm", "PhysicalSizeY": UM, "PhysicalSizeYUnit": "µm"}
    tifffile.imwrite(path, np.moveaxis(pixels, 0, -1), tile=(256, 256), photometric="rgb", compression="deflate",
                     metadata={"axes": "YXS", **sizes})  # fmt: skip
    return path


def write_ome_zarr(folder: Path, pixels: np.ndarray) -> Path:
    path = folder / "slide.ome.zarr"
    axes = [{"name": "c", "type": "channel"}, *({"name": n, "type": "space", "unit": "micrometer"} for n in "yx")]
    dataset = {"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [1, UM, UM]}]}
    group = zarr.open_group(path, mode="w", zarr_format=3)
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"name": "a", "axes": axes, "datasets": [dataset]}]}
    array = group.create_array("0", shape=pixels.shape, dtype=pixels.dtype, chunks=(3, 300, 500))
    array[...] = pixels
    return path


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    """The same slide in four formats."""
    folder = tmp_path_factory.mktemp("formats")
    svs = data(SVS)
    image = gt.open(svs)
    pixels = image.read(gt.Region(0, 0, *image.grid_shape))
    return {
        "svs": svs,
        "dicom": data("wsi/CMU-1-Small-Region_dicom"),
        "ome-tiff": write_ome_tiff(folder, pixels),
        "ome-zarr": write_ome_zarr(folder, pixels),
    }


def run(path, out, tiling, **options):
    result = gt.run(gt.plan(gt.open(path), gt.load_model(local, scale=1 / 255), tiling, **options), out)
    assert result.complete
    return out / "prediction.zarr"


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_the_same_slide_gives_the_same_bytes_from_every_format(slides, tmp_path):
    tiling = gt.Tiling(tile=512, overlap=32, margin=RADIUS, blend="hann", block=960)
    results = {}
    for name, path in slides.items():
        assert gt.open(path).info.format == name
        results[name] = files(run(path, tmp_path / name, tiling, output="raw"))
    expected = results.pop("svs")
    assert len(expected) > 10
    for name, found in results.items():
        assert found.keys() == expected.keys(), name
        assert [key for key in expected if found[key] != expected[key]] == [], name


def test_a_crop_gives_the_result_of_its_place(slides, tmp_path):
    tiling = gt.Tiling(tile=512, overlap=32, margin=RADIUS, blend="trim")
    crop = data("omezarr/cmu1_crop_v04.ome.zarr")
    whole, cut = (
        gt.open(run(path, tmp_path / name, tiling, output="raw"))
        for name, path in (("whole", slides["svs"]), ("cut", crop))
    )
    inner = gt.Region(RADIUS, RADIUS, CROP.y1 - CROP.y0 - RADIUS, CROP.x1 - CROP.x0 - RADIUS)
    there = whole.read(inner.shifted(CROP.y0, CROP.x0))
    np.testing.assert_array_equal(cut.read(inner), there)
    assert np.unique(there).size > 1000
    assert not np.array_equal(cut.read(inner), whole.read(inner.shifted(CROP.y0 + 1, CROP.x0)))
