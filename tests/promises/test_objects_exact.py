"""Promise 1 for objects: every object once; what was streamed is what a merge of everything at once gives."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gigatile as gt
from gigatile.objects.boxes import Boxes
from gigatile.objects.match import Matching
from gigatile.objects.merge import Merge
from tests.planted import MAPS, TILING, boxes_of, near, planned, plant, same_partition, truth_of, write_models

OVERLAPS = (32, 20)
"""Larger and smaller than the shapes."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exact")
    write_models(folder)
    return folder


def model_of(folder, name):
    """The function itself, for the tests' own loops."""
    scope = {"__file__": str(folder / "models.py")}
    exec((folder / "models.py").read_text(), scope)
    return scope[name]


def tiles_of(pixels, tile, overlap, value):
    """Origin, pixels beyond the border taken for `value`, and what is seen of the image: (top, left, array, region)."""
    halo, stride = overlap // 2, tile - overlap
    height, width = pixels.shape
    wide = np.pad(pixels, tile, constant_values=value)
    for y in range(0, height, stride):
        for x in range(0, width, stride):
            top, left = y - halo, x - halo
            seen = max(left, 0), max(top, 0), min(left + tile, width), min(top + tile, height)
            yield top, left, wide[top + tile :, left + tile :][:tile, :tile], seen


def all_boxes(function, pixels, tiling):
    """What a detector gives for each tile, in pixels of the image; and which tile's core has the centre."""
    tile, overlap = tiling.tile, tiling.overlap
    value = float(tiling.border.split(":")[1])
    stride, tables = tile - overlap, []
    height, width = pixels.shape
    for top, left, part, seen in tiles_of(pixels, tile, overlap, value):
        rows = function((part[None, None] * np.float32(1 / 255)).astype(np.float32))[0]
        places = rows[:, :-2].copy()
        if places.shape[1] == 4:
            places += [left, top, left, top]
            x, y = places[:, [0, 2]].mean(axis=1), places[:, [1, 3]].mean(axis=1)
            places = np.concatenate([places[:, :2].clip(seen[:2], seen[2:]), places[:, 2:].clip(seen[:2], seen[2:])], 1)
            there = (places[:, 2] > places[:, 0]) & (places[:, 3] > places[:, 1])
        else:
            places[:, :2] += [left, top]
            x, y = places[:, 0], places[:, 1]
            there = np.hypot(places[:, 2], places[:, 3]) <= tile
            there &= (x >= left) & (x < left + tile) & (y >= top) & (y < top + tile)
        there &= (x >= 0) & (x < width) & (y >= 0) & (y < height)
        boxes = Boxes(places, rows[:, -2].astype(np.float32), rows[:, -1].astype(np.int32)).take(np.flatnonzero(there))
        core = left + overlap // 2, top + overlap // 2
        tables.append((boxes, (*core, min(core[0] + stride, width), min(core[1] + stride, height))))
    return tables


def globally(tables, finding, tiling, shape):
    """The merge of all boxes of all tiles at once, sorted as the table is; rows of numbers."""
    oriented = tables[0][0].oriented
    threshold = finding.threshold or (0.1 if oriented else 0.5)
    matching = Matching(finding.match, threshold, finding.classes)

    def looks(centres):
        """How many tiles see each place: by going through all of them."""
        counts = np.zeros(len(centres), np.int64)
        for top, left, *_ in tiles_of(np.zeros(shape), tiling.tile, tiling.overlap, 0):
            inside = (centres >= [left, top]) & (centres < [left + tiling.tile, top + tiling.tile])
            counts += inside.all(axis=1)
        return counts

    merge = Merge("nms" if finding.merge == "ownership" else finding.merge, matching, looks)
    if finding.merge == "ownership":
        owned = []
        for boxes, (x0, y0, x1, y1) in tables:
            kept = merge(boxes)
            x, y = kept.centres.T
            owned.append(kept.take(np.flatnonzero((x >= x0) & (x < x1) & (y >= y0) & (y < y1))))
        merged = Boxes.joined(owned)
    else:
        merged = merge(Boxes.joined([boxes for boxes, _ in tables]))
    hulls = merged.hulls
    columns = [*hulls.T, merged.scores.astype(np.float64), merged.classes, *(merged.places.T if oriented else ())]
    order = np.lexsort([*reversed(columns[6:]), columns[5], -columns[4], *(hulls[:, k] for k in (2, 3, 0, 1))])
    return [tuple(row) for row in np.stack(columns, axis=1)[order].tolist()]


def streamed(result, oriented):
    names = ["xmin", "ymin", "xmax", "ymax", "score", "class"]
    names += ["cx", "cy", "width", "height", "angle"] if oriented else []
    table = result.objects()
    assert table["id"].to_pylist() == list(range(1, len(table) + 1))
    return list(zip(*(map(float, table[name].to_pylist()) for name in names), strict=True))


FINDINGS = [
    *(gt.Detect(name) for name in ("nms", "nmm", "wbf", "ownership")),
    gt.Detect("nmm", "ios", 0.3, "any"),
    gt.Detect("wbf", "ios", 0.05, "any"),
]


@pytest.mark.parametrize("finding", FINDINGS, ids=str)
@pytest.mark.parametrize("model", ["crowd", "turned"])
def test_streamed_is_the_merge_of_all_boxes_at_once_record_for_record(folder, tmp_path, model, finding):
    pixels = plant(count=140)[0][:, :, 0]
    image = gt.open(pixels, axes="yx")
    for overlap in OVERLAPS:
        tiling = replace(TILING, overlap=overlap, block=150)
        result = gt.run(planned(folder, model, finding, tiling, image=image), tmp_path / f"{overlap}", durable=False)
        expected = globally(all_boxes(model_of(folder, model), pixels, tiling), finding, tiling, pixels.shape)
        assert streamed(result, model == "turned") == expected
        assert len(expected) > 100


@settings(max_examples=12, deadline=None)
@given(
    size=st.tuples(st.integers(20, 260), st.integers(20, 260)),
    tile=st.sampled_from([48, 64, 80]),
    half=st.integers(2, 11),
    cores=st.integers(1, 5),
    finding=st.sampled_from(FINDINGS),
    seed=st.integers(0, 9),
)
def test_streamed_is_global_for_any_image_overlap_and_block(  # noqa: PLR0917  drawn by name
    folder, tmp_path_factory, size, tile, half, cores, finding, seed
):
    """Shapes are larger than the overlap here: chains of pieces reach over several blocks."""
    pixels = plant(size, count=size[0] * size[1] // 700, seed=seed)[0][:, :, 0]
    tiling = replace(TILING, tile=tile, overlap=2 * half, block=cores * (tile - 2 * half))
    made = planned(folder, "crowd", finding, tiling, image=gt.open(pixels, axes="yx"))
    result = gt.run(made, tmp_path_factory.mktemp("any") / "out", durable=False, workers=1)
    expected = globally(all_boxes(model_of(folder, "crowd"), pixels, tiling), finding, tiling, pixels.shape)
    assert streamed(result, False) == expected


@pytest.mark.parametrize("finding", [gt.Detect("nms", "ios"), gt.Detect("nmm", "ios"), gt.Detect("ownership")], ids=str)
def test_each_planted_shape_is_one_box_exactly(folder, tmp_path, finding):
    pixels, truth = plant(count=100, apart="boxes")
    image = gt.open(pixels, axes="yxc")
    result = gt.run(planned(folder, "boxes", finding, image=image), tmp_path / "out", durable=False)
    expected = sorted((y0, x0, y1, x1) for x0, y0, x1, y1 in truth_of(truth))
    assert [(y0, x0, y1, x1) for x0, y0, x1, y1 in boxes_of(result.objects())] == expected
    assert result.status.objects["total"] == len(expected) > 80


@pytest.mark.parametrize("border", ["reflect", "symmetric", "edge", "constant:10"])
def test_shapes_at_the_edges_of_the_image_are_there_once_whatever_lies_beyond(folder, tmp_path, border):
    """Mirrored, a shape at an edge is twice as wide, and its middle lies on the edge."""
    pixels = np.full((200, 230, 1), 10, np.uint8)
    expected = [(0, 40, 9, 60), (100, 0, 120, 9), (110, 191, 130, 200), (221, 90, 230, 110)]
    for x0, y0, x1, y1 in expected:
        pixels[y0:y1, x0:x1] = 200
    tiling = replace(TILING, border=border)
    for finding in (gt.Detect("nms", "ios"), gt.Detect("ownership")):
        image = gt.open(pixels, axes="yxc")
        made = planned(folder, "boxes", finding, tiling, image=image)
        result = gt.run(made, tmp_path / f"{border}-{finding.merge}", durable=False)
        assert sorted(boxes_of(result.objects())) == sorted(expected)


WAYS = {
    "labels": (gt.Instances(), replace(TILING, block=150), (330, 400)),
    "maps": (gt.Instances("components:threshold=0.5"), MAPS, (1300, 1200)),
    "depth": (gt.Instances("watershed:foreground=0,distance=1,seed=0.05"), MAPS, (1100, 1080)),
}


@pytest.mark.parametrize("model", WAYS)
def test_each_planted_shape_is_one_instance_with_its_pixels_area_centroid_and_means(folder, tmp_path, model):
    objects, tiling, size = WAYS[model]
    pixels, truth = plant(size, count=size[0] * size[1] // 1000)
    result = gt.run(
        planned(folder, model, objects, tiling, image=gt.open(pixels, axes="yxc")), tmp_path / "out", durable=False
    )
    table, expected = result.objects(), truth_of(truth)
    assert sorted(boxes_of(table)) == sorted(expected)
    labels = result.prediction[:]
    assert same_partition(labels, truth)
    assert np.array_equal(np.unique(labels), np.arange(len(expected) + 1))
    for row in table.to_pylist():
        box = tuple(row[name] for name in ("xmin", "ymin", "xmax", "ymax"))
        area, x, y = expected[box]
        assert row["area"] == area
        assert near(row["centroid_x"], x) and near(row["centroid_y"], y)
        inside = labels == row["id"]
        assert inside.sum() == area
        bright = pixels[:, :, 0][inside]
        assert near(row["mean_0"], float(bright.mean())) and row["std_0"] == 0
        if row["id"] > 40:
            break


def test_outlines_of_instances_hold_their_pixels(folder, tmp_path):
    shapely = pytest.importorskip("shapely")
    pixels, _ = plant(count=60)
    made = planned(folder, "labels", gt.Instances(), image=gt.open(pixels, axes="yxc"))
    table = gt.run(made, tmp_path / "out", durable=False).objects()
    shapes = shapely.from_wkb(table["geometry"].to_numpy())
    assert shapely.is_valid(shapes).all()
    assert np.array_equal(shapely.area(shapes), table["area"].to_numpy())
    bounds = np.stack([table[name].to_numpy() for name in ("xmin", "ymin", "xmax", "ymax")], axis=1)
    assert np.array_equal(shapely.bounds(shapes), bounds)


def test_labels_are_an_image_label_of_ngff(folder, tmp_path):
    import zarr
    from ome_zarr_models.v05 import image_label

    pixels, _ = plant(count=30)
    made = planned(folder, "labels", gt.Instances(), image=gt.open(pixels, axes="yxc"))
    gt.run(made, tmp_path / "out", durable=False)
    group = zarr.open_group(tmp_path / "out" / "prediction.zarr", mode="r")
    assert "image-label" in group.attrs["ome"]
    image_label.ImageLabel.from_zarr(group)
