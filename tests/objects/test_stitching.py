"""Instances do not know where cells and blocks were."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pyarrow as pa
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from gigatile.errors import UsageError
from gigatile.objects.agreement import Agreement
from gigatile.objects.cells import CellBlock, CellGrid
from gigatile.objects.fragments import BlockInstances
from gigatile.objects.instance_rows import to_objects
from gigatile.objects.label_rasters import unpacked
from gigatile.objects.measures import Channels
from gigatile.objects.outlines import outlines
from gigatile.objects.seam_labels import SeamLabels
from tests.objects.stitched import IOS, Scene, components, cropped, discs, same_partition, stitched

BLOCKS = [(1, 1), (1, 3), (2, 2), (3, 1), (5, 7), (100, 100)]


def blobs(shape, seed, fill=0.55, smooth=1.0):
    """Random blobs of any form and size, 4-connected."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).random(shape), smooth)
    return ndimage.label(noise > np.quantile(noise, fill))[0]


def assert_exact(scene, found):
    """Areas, boxes, centroids, outlines and pixels are those of the truth."""
    truth = scene.truth if scene.valid is None else np.where(scene.valid, scene.truth, 0)
    assert same_partition(found.labels, truth)
    objects = to_objects(found.rows, scene.channels, ["red", "green"][: scene.channels.intensities])
    numbers, shapes = outlines(found.labels, (0, 0))
    assert numbers.tolist() == list(range(1, found.rows.num_rows + 1))
    assert objects["geometry"].to_pylist() == shapely.to_wkb(shapes, byte_order=1).tolist()
    assert objects["area"].to_pylist() == shapely.area(shapes).tolist()
    assert np.array_equal(np.stack([objects[c] for c in ("xmin", "ymin", "xmax", "ymax")], 1), shapely.bounds(shapes))
    places = np.array(ndimage.center_of_mass(found.labels > 0, found.labels, numbers)).reshape(-1, 2) + 0.5
    assert np.allclose(np.stack([objects["centroid_y"], objects["centroid_x"]], 1), places, rtol=0, atol=1e-9)
    if scene.image is not None:
        for name, channel in zip(("red", "green"), scene.image, strict=True):
            assert np.allclose(objects[f"mean_{name}"], ndimage.mean(channel, found.labels, numbers), rtol=1e-9)
            assert np.allclose(
                objects[f"std_{name}"], ndimage.standard_deviation(channel, found.labels, numbers), rtol=1e-7, atol=1e-9
            )


@settings(max_examples=20, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    side=st.tuples(st.integers(1, 25), st.integers(1, 25)),
    context=st.integers(1, 12),
    block=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    seed=st.integers(0, 2**16),
)
def test_where_cells_agree_every_object_of_any_form_is_found_once_and_exact(shape, side, context, block, seed):
    scene = Scene(blobs(shape, seed), CellGrid(shape, side, context))
    if scene.cells.rows * scene.cells.cols > 30:
        scene = Scene(scene.truth, CellGrid(shape, (13, 14), context))
    assert_exact(scene, stitched(scene, block))


@settings(max_examples=10, deadline=None)
@given(
    side=st.tuples(st.integers(11, 40), st.integers(11, 40)),
    radius=st.integers(1, 5),
    block=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    seed=st.integers(0, 2**16),
)
def test_components_of_windows_are_those_of_the_image_if_objects_fit_in_the_context(side, radius, block, seed):
    scene = Scene(discs((90, 70), 40, radius, seed), CellGrid((90, 70), side, 2 * radius + 1), components)
    assert_exact(scene, stitched(scene, block))


@settings(max_examples=6, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    side=st.tuples(st.integers(5, 20), st.integers(5, 20)),
    context=st.integers(0, 8),
    labeller=st.sampled_from([cropped, components]),
    agreement=st.builds(Agreement, st.sampled_from(["iou", "ios"]), st.sampled_from([0.0, 0.3, 0.5, 0.9])),
)
def test_the_table_and_the_labels_are_the_same_to_the_bit_for_any_block(seed, side, context, labeller, agreement):
    rng = np.random.default_rng(seed)
    shape = 29, 37
    image = rng.normal(1e3, 1, (2, *shape)).astype(np.float32)
    prediction = rng.random((3, *shape), np.float32)
    scene = Scene(
        blobs(shape, seed, 0.4), CellGrid(shape, side, context), labeller, prediction, image, rng.random(shape) > 0.05,
        agreement,
    )  # fmt: skip
    first, *others = (stitched(scene, block) for block in ((1, 1), (2, 3), (100, 1), (100, 100)))
    for other in others:
        assert first.rows.equals(other.rows)
        assert np.array_equal(first.labels, other.labels)


def test_measurements_of_objects_on_seams_are_those_of_the_whole_image():
    shape = 150, 130
    rng = np.random.default_rng(3)
    image = rng.integers(0, 2**16, (2, *shape)).astype(np.uint16)
    scene = Scene(blobs(shape, 5, smooth=2), CellGrid(shape, (32, 32), 8), image=image)
    for block in BLOCKS:
        assert_exact(scene, stitched(scene, block))


def test_a_large_offset_costs_the_standard_deviation_no_digits():
    shape = 60, 60
    image = 1e7 + np.random.default_rng(0).normal(0, 1e-2, (1, *shape))
    scene = Scene(np.ones(shape, np.int64), CellGrid(shape, (13, 13), 4), image=image)
    std = to_objects(stitched(scene, (2, 2)).rows, scene.channels, ["red"])["std_red"].to_numpy()
    assert std == pytest.approx([image.std()], rel=1e-5)


def test_classes_are_those_of_the_largest_mean_and_scores_are_that_mean():
    shape = 40, 40
    truth = np.zeros(shape, np.int64)
    truth[5:35, 5:35] = 1
    truth[37:39, 37:39] = 2
    prediction = np.zeros((2, *shape), np.float32)
    prediction[0], prediction[1, :20], prediction[1, 36:] = 0.25, 0.75, 0.125
    scene = Scene(truth, CellGrid(shape, (11, 11), 5), prediction=prediction)
    objects = to_objects(stitched(scene, (2, 2)).rows, scene.channels, [])
    assert objects["class"].to_pylist() == [1, 0]
    assert objects["score"].to_pylist() == [0.375, 0.25]
    plain = to_objects(stitched(Scene(truth, scene.cells), (2, 2)).rows, Channels(), [])
    assert plain["class"].to_pylist() == [0, 0]
    assert plain["score"].null_count == 2


def test_an_object_in_the_corner_of_four_blocks_is_one():
    truth = np.zeros((40, 40), np.int64)
    truth[18:23, 17:22] = 1
    scene = Scene(truth, CellGrid(truth.shape, (10, 10), 6), components)
    for block in ((1, 1), (2, 2), (4, 4)):
        assert_exact(scene, stitched(scene, block))


@pytest.mark.parametrize("flipped", [1, -1])
@pytest.mark.parametrize("block", [(1, 1), (1, 4), (4, 1), (2, 2), (3, 3), (4, 4)])
def test_parts_that_meet_at_a_corner_only_are_one_if_their_label_is(block, flipped):
    truth = np.zeros((40, 40), np.int64)
    truth[15:20, 15:20] = truth[20:25, 20:25] = 1
    truth = truth[:, ::flipped].copy()
    scene = Scene(truth, CellGrid(truth.shape, (10, 10), 3))
    assert stitched(scene, block).rows.num_rows == 1
    # Seen by 4-connected components they are two in every window.
    assert stitched(Scene(truth, scene.cells, components), block).rows.num_rows == 2


def test_two_touching_discs_stay_two():
    y, x = np.mgrid[:48, :48]
    truth = np.zeros((48, 48), np.int64)
    truth[(y - 24) ** 2 + (x - 17) ** 2 <= 49] = 1
    truth[((y - 24) ** 2 + (x - 31) ** 2 <= 49) & (truth == 0)] = 2
    assert ndimage.label(truth)[1] == 1
    for side in (8, 12, 24):
        scene = Scene(truth, CellGrid(truth.shape, (side, side), 6))
        for block in BLOCKS:
            assert_exact(scene, stitched(scene, block))


def snake(shape, pitch):
    """One line that runs to and fro over the image, 2 px wide, its turns `pitch` px apart."""
    truth = np.zeros(shape, np.int64)
    for k, y in enumerate(range(2, shape[0] - pitch - 2, pitch)):
        truth[y : y + 2, 2:-2] = 1
        truth[y : y + pitch, slice(-4, -2) if k % 2 == 0 else slice(2, 4)] = 1
    return truth


def test_a_snake_through_many_cells_is_one_object_where_cells_agree_on_it():
    truth = snake((96, 96), 12)
    scene = Scene(truth, CellGrid(truth.shape, (16, 16), 3))
    for block in BLOCKS:
        found = stitched(scene, block)
        assert found.rows.num_rows == 1
        assert_exact(scene, found)


def test_arms_that_one_cell_sees_apart_are_not_joined_through_another():
    truth = np.zeros((20, 40), np.int64)
    truth[2:5, 4:36] = truth[10:14, 4:36] = truth[2:14, 33:36] = 1
    cells = CellGrid(truth.shape, (20, 20), 6)
    for block in ((1, 1), (1, 2)):
        areas = stitched(Scene(truth, cells, components), block).rows["area"].to_pylist()
        # The thinner arm, 3 x 16 px in the left cell, is an object of its own.
        assert areas == [48, int(truth.sum()) - 48]
        assert stitched(Scene(truth, cells), block).rows["area"].to_pylist() == [truth.sum()]


def test_a_cell_that_misses_an_object_cuts_it_and_joins_nothing_else():
    truth = np.zeros((20, 60), np.int64)
    truth[4:8, 2:58] = 1
    truth[8:12, 2:58] = 2

    def blind(window, row, col):
        return np.where(window == 1, 0, window) if (row, col) == (0, 2) else window

    scene = Scene(truth, CellGrid(truth.shape, (20, 12), 5), blind)
    for block in BLOCKS:
        found = stitched(scene, block)
        boxes = [tuple(row.values()) for row in found.rows.select(["ymin", "xmin", "ymax", "xmax"]).to_pylist()]
        assert boxes == [(4, 2, 8, 24), (4, 36, 8, 58), (8, 2, 12, 58)]


def test_without_agreement_above_the_threshold_an_object_stays_cut():
    truth = np.zeros((10, 20), np.int64)
    truth[2:8, 4:16] = 1

    def stingy(window, row, col):
        # The right cell sees a third of the object's rows only.
        return np.where((np.arange(10) < 4)[:, None], window, 0) if col == 1 else window

    for agreement, objects in ((Agreement("iou", 0.3), 1), (Agreement("iou", 0.4), 2), (Agreement("ios", 0.9), 1)):
        scene = Scene(truth, CellGrid(truth.shape, (10, 10), 5), stingy, agreement=agreement)
        assert stitched(scene, (1, 1)).rows.num_rows == objects
        assert stitched(scene, (1, 2)).rows.num_rows == objects


def test_labels_without_a_pixel_in_their_core_join_nothing():
    truth = np.zeros((20, 20), np.int64)
    truth[0:5, 5:10] = 1
    truth[5:12, 8:10] = 2

    def merging(window, row, col):
        # The cell to the right owns nothing of both, and takes them for one.
        return np.minimum(window, 1) if (row, col) == (0, 1) else window

    scene = Scene(truth, CellGrid(truth.shape, (10, 10), 5), merging)
    for block in ((1, 1), (1, 2), (2, 1), (2, 2)):
        assert_exact(scene, stitched(scene, block))


def test_infinite_intensities_are_measured_without_a_warning():
    image = np.full((1, 20, 20), np.inf, np.float32)
    scene = Scene(np.ones((20, 20), np.int64), CellGrid((20, 20), (8, 8), 3), image=image)
    objects = to_objects(stitched(scene, (1, 1)).rows, scene.channels, ["red"])
    assert objects["mean_red"].to_pylist() == [np.inf]
    assert np.isnan(objects["std_red"].to_pylist()[0])


def test_a_block_holds_strips_and_neither_windows_nor_images():
    cells = CellGrid((512, 2048), (256, 256), 8)
    truth = discs(cells.shape, 500, 7)
    scene = Scene(truth, cells)
    found = BlockInstances(cells, CellBlock(range(2), range(8)), scene.agreement, Channels(0, 3))
    held = []
    tracemalloc.start()
    try:
        for row in range(2):
            for col in range(8):
                window = cells.window(row, col)
                found.add(row, col, truth[window.slices()], intensities=np.ones((3, *window.shape), np.float32))
                held.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    # Windows of 16 cells would be 4.4 MB, cores 4.2 MB.
    assert held[-1] - held[0] < 1_000_000
    assert found.finish().rows.num_rows == len(np.unique(truth)) - 1


def test_cells_out_of_order_and_arrays_of_other_shapes_are_refused():
    cells = CellGrid((20, 20), (5, 5), 2)
    block = BlockInstances(cells, CellBlock(range(0, 2), range(0, 2)), IOS, Channels(0, 1))
    image, labels = np.zeros((1, 7, 7)), np.zeros((7, 7), int)
    with pytest.raises(UsageError, match=r"labels of cell \(0, 0\): expected shape \(7, 7\), found \(7, 6\)"):
        block.add(0, 0, labels[:, :6], intensities=image)
    with pytest.raises(UsageError, match=r"image of cell \(0, 0\): expected shape \(1, 7, 7\), found \(0, 7, 7\)"):
        block.add(0, 0, labels)
    with pytest.raises(UsageError, match=r"prediction of cell"):
        block.add(0, 0, labels, prediction=np.zeros((2, 7, 7), np.float32), intensities=image)
    block.add(0, 0, labels, intensities=image)
    for row, col in ((0, 0), (0, 2), (2, 0)):
        with pytest.raises(ValueError, match="out of order"):
            block.add(row, col, labels, intensities=image)


def test_cells_without_labels_may_be_left_out():
    truth = np.zeros((30, 30), np.int64)
    truth[2:8, 8:28] = 1
    truth[14:26, 22:27] = 2
    cells = CellGrid(truth.shape, (10, 10), 4)
    found = BlockInstances(cells, CellBlock(range(3), range(3)), IOS, Channels())
    for row, col in ((0, 0), (0, 1), (0, 2), (1, 2), (2, 2)):
        found.add(row, col, truth[cells.window(row, col).slices()])
    whole = stitched(Scene(truth, cells), (3, 3))
    assert found.finish().rows.equals(whole.rows)


def test_objects_towards_a_block_that_failed_are_kept_as_far_as_they_are_known():
    truth = np.ones((30, 30), np.int64)
    scene = Scene(truth, CellGrid(truth.shape, (5, 5), 2))
    found = stitched(scene, (2, 2), missing={(1, 1)})
    assert found.rows["area"].to_pylist() == [800]
    assert not found.labels[10:20, 10:20].any()


def test_finished_rows_come_in_the_order_of_their_boxes():
    truth = discs((120, 90), 60, 5, seed=4)
    cells = CellGrid(truth.shape, (10, 10), 4)
    scene = Scene(truth, cells)
    whole = scene.part(CellBlock(range(cells.rows), range(cells.cols))).rows
    corners = list(zip(whole["ymin"].to_pylist(), whole["xmin"].to_pylist(), strict=True))
    assert corners == sorted(corners)
    # Two columns of blocks, and the sweep alone: what their seam cuts.
    parts = [scene.part(CellBlock(range(cells.rows), cols)) for cols in (range(5), range(5, 9))]
    strips = {(r["cell_row"], r["cell_col"], r["kind"]): unpacked(r) for p in parts for r in p.labels.to_pylist()}
    sweep = SeamLabels(cells, (cells.rows, 5), IOS, scene.channels, lambda *place: strips.get(place))
    seam = sweep.add([(p.rows.filter(p.rows["open"]), p.pairs) for p in parts])
    assert seam.num_rows > 5
    corners = list(zip(seam["ymin"].to_pylist(), seam["xmin"].to_pylist(), strict=True))
    assert corners == sorted(corners)


def test_an_object_is_finished_with_the_row_of_blocks_below_which_nothing_sees_it():
    truth = discs((200, 40), 60, 5)
    cells, block = CellGrid(truth.shape, (10, 10), 4), (2, 2)
    scene = Scene(truth, cells)
    strips = {}
    sweep = SeamLabels(cells, block, IOS, scene.channels, lambda *place: strips.get(place))
    found = 0
    for step in range(sweep.steps):
        opened = []
        for x in range(2):
            part = scene.part(CellBlock(range(2 * step, 2 * step + 2), range(2 * x, 2 * x + 2)))
            waits = part.rows["open"].to_numpy()
            found += int((~waits).sum())
            opened.append((part.rows.filter(pa.array(waits)), part.pairs))
            strips |= {(r["cell_row"], r["cell_col"], r["kind"]): unpacked(r) for r in part.labels.to_pylist()}
        found += sweep.add(opened).num_rows
        # What reaches the context of the next row of blocks may wait, all else is done.
        done = set(np.unique(truth[: 20 * (step + 1) - 4])) - {0}
        waiting = set(np.unique(truth[20 * (step + 1) - 4 : 20 * (step + 1)])) - {0}
        assert len(done - waiting) <= found <= len(done | waiting)
    assert found == len(np.unique(truth)) - 1
    with pytest.raises(ValueError, match="10 rows of blocks"):
        sweep.add([])


def test_each_strip_along_a_seam_is_loaded_once():
    truth = discs((120, 120), 60, 5)
    scene = Scene(truth, CellGrid(truth.shape, (10, 10), 4))
    found = stitched(scene, (3, 4))
    # 12 x 12 cells: 3 inner seams of rows and 2 of columns, 12 cells along each, on both sides.
    assert set(found.loads.values()) == {1}
    assert len(found.loads) == 2 * 12 * (3 + 2)


def test_a_block_without_labels_leaves_empty_tables_of_the_same_columns():
    scene = Scene(np.zeros((20, 20), np.int64), CellGrid((20, 20), (5, 5), 2), image=np.zeros((1, 20, 20)))
    found = stitched(scene, (2, 2))
    assert found.rows.num_rows == 0
    assert {"sum_0", "spread_0", "geometry"} <= set(found.rows.schema.names)
    assert to_objects(found.rows, scene.channels, ["red"]).num_rows == 0
    assert isinstance(found.rows, pa.Table)
