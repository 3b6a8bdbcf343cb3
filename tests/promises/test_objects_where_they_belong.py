"""Promise 7 for objects: level-0 pixels from any grid, coordinates of the CRS for scenes; ROI and mask."""

import numpy as np
import pytest
import tifffile

import gigatile as gt
from tests.planted import TILING, boxes_of, planned, plant, rows, same_partition, truth_of, write_models
from tests.small_runs import write_zarr

BOX = ("xmin", "ymin", "xmax", "ymax")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("where")
    write_models(folder)
    return folder


FINDINGS = {"boxes": gt.Detect("nms", "ios"), "labels": gt.Instances()}
both = pytest.mark.parametrize("model", FINDINGS)


def run(folder, out, model, **how):
    image = how.pop("image")
    image = gt.open(image, axes="yxc") if isinstance(image, np.ndarray) else image
    return gt.run(planned(folder, model, FINDINGS[model], image=image, **how), out, durable=False)


@both
def test_with_a_roi_there_are_the_objects_inside_of_it_and_they_are_the_same(folder, tmp_path, model):
    pixels, _ = plant(count=80, apart="boxes")
    roi = (90, 70, 260, 250)
    everything = run(folder, tmp_path / "all", model, image=pixels).objects()
    inside = run(folder, tmp_path / "roi", model, image=pixels, roi=gt.Region(roi[1], roi[0], roi[3], roi[2])).objects()
    boxes = boxes_of(everything)
    whole = {b for b in boxes if b[0] >= roi[0] and b[1] >= roi[1] and b[2] <= roi[2] and b[3] <= roi[3]}
    meeting = {b for b in boxes if b[0] < roi[2] and b[2] > roi[0] and b[1] < roi[3] and b[3] > roi[1]}
    found = set(boxes_of(inside))
    assert whole <= found
    if model == "boxes":
        # A box counts where its centre is; it is not cut.
        centre = {b for b in meeting if roi[0] <= (b[0] + b[2]) / 2 < roi[2] and roi[1] <= (b[1] + b[3]) / 2 < roi[3]}
        assert found == centre
    else:
        # Labels are cut at the edge of what is kept.
        assert len(whole) < len(found) <= len(meeting)
        assert all(x0 >= roi[0] and y0 >= roi[1] and x1 <= roi[2] and y1 <= roi[3] for x0, y0, x1, y1 in found)


@both
def test_no_object_comes_out_of_nodata(folder, tmp_path, model):
    pixels, _ = plant(count=80, apart="boxes")
    pixels = pixels.copy()
    pixels[100:230, 120:300] = 0
    write_zarr(tmp_path / "image.zarr", pixels, nodata=0)
    found = run(folder, tmp_path / "out", model, image=gt.open(str(tmp_path / "image.zarr")))
    cut = pixels[:, :, 0] > 20
    from scipy import ndimage

    assert sorted(boxes_of(found.objects())) == sorted(truth_of(ndimage.label(cut)[0]))


@both
def test_an_image_of_nodata_has_no_objects_and_is_complete(folder, tmp_path, model):
    write_zarr(tmp_path / "image.zarr", np.zeros((200, 210, 1), np.uint8), nodata=0)
    result = run(folder, tmp_path / "out", model, image=gt.open(str(tmp_path / "image.zarr")))
    assert result.complete
    assert len(result.objects()) == 0 == result.status.objects["total"]


def write_slide(path, pixels, levels=3):
    """A TIFF pyramid, half a micrometre a pixel."""
    with tifffile.TiffWriter(path) as tif:
        for level in range(levels):
            more = {"subifds": levels - 1} if level == 0 else {"subfiletype": 1}
            step = 2**level
            tif.write(
                pixels[::step, ::step],
                tile=(64, 64),
                photometric="minisblack",
                resolution=(20_000 / step, 20_000 / step),
                resolutionunit="CENTIMETER",
                **more,
            )
    return str(path)


@both
@pytest.mark.parametrize("how", ["level", "pixel size"])
def test_objects_of_a_coarser_grid_are_in_pixels_of_level_0(folder, tmp_path, model, how):
    small, truth = plant((170, 210), count=30, apart="boxes")
    pixels = small[:, :, 0].repeat(2, 0).repeat(2, 1)
    slide = gt.open(write_slide(tmp_path / "slide.tif", pixels))
    image = slide.select(level=1) if how == "level" else slide.at(1.0)
    result = run(folder, tmp_path / "out", model, image=image)
    table, expected = result.objects(), truth_of(truth)
    assert sorted(boxes_of(table)) == sorted(tuple(2.0 * v for v in box) for box in expected)
    if model == "labels":
        assert result.prediction.shape == (170, 210)
        assert same_partition(result.prediction[:], truth)
        for row in table.to_pylist():
            area, x, y = expected[tuple(row[name] / 2 for name in BOX)]
            assert row["area"] == 4 * area
            assert (row["centroid_x"], row["centroid_y"]) == pytest.approx((2 * x, 2 * y))


@both
def test_the_geometry_of_a_scene_is_in_its_crs(folder, tmp_path, model):
    rasterio = pytest.importorskip("rasterio")
    shapely = pytest.importorskip("shapely")
    pixels, _ = plant((200, 230), count=30, apart="boxes")
    transform = rasterio.Affine(10, 0, 500_000, 0, -10, 5_600_000)
    with rasterio.open(
        tmp_path / "scene.tif", "w", driver="GTiff", width=230, height=200, count=1, dtype="uint8",
        crs="EPSG:32632", transform=transform,
    ) as file:  # fmt: skip
        file.write(pixels[:, :, 0], 1)
    result = run(folder, tmp_path / "out", model, image=gt.open(str(tmp_path / "scene.tif")))
    table = result.objects()
    for row, shape in zip(rows(table), shapely.from_wkb(table["geometry"].to_numpy()), strict=True):
        x0, y0, x1, y1 = (row[name] for name in BOX)
        corners = (500_000 + 10 * x0, 5_600_000 - 10 * y1, 500_000 + 10 * x1, 5_600_000 - 10 * y0)
        assert shapely.bounds(shape) == pytest.approx(corners)
    frame = result.objects(form="geopandas")
    assert frame.crs.to_epsg() == 32632
    assert len(frame) > 15


@both
def test_a_region_of_the_table_has_the_objects_whose_boxes_meet_it(folder, tmp_path, model):
    pixels, _ = plant(count=80)
    result = run(folder, tmp_path / "out", model, image=pixels, tiling=TILING)
    region = gt.Region(60, 100, 200, 310)
    expected = [
        row
        for row in rows(result.objects())
        if row["xmin"] < region.x1 and row["xmax"] > region.x0 and row["ymin"] < region.y1 and row["ymax"] > region.y0
    ]
    assert rows(result.objects(region)) == expected
    assert 0 < len(expected) < len(result.objects())
