"""Cells, their numbers, and labels that change them."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gigatile.errors import BlockError, UsageError
from gigatile.objects.cells import SIDES, CellBlock, CellGrid, Patch, canonical, working_ids
from gigatile.objects.label_rasters import LabelRasters, raster_schema, unpacked
from gigatile.objects.relabel import numbering, relabel
from gigatile.tiling.region import Region

GRIDS = st.builds(
    CellGrid,
    st.tuples(st.integers(1, 30), st.integers(1, 30)),
    st.tuples(st.integers(1, 12), st.integers(1, 12)),
    st.integers(0, 15),
)


@given(GRIDS)
def test_cores_cover_every_pixel_once_and_windows_stay_inside(cells):
    seen = np.zeros(cells.shape, int)
    for row in range(cells.rows):
        for col in range(cells.cols):
            core, window = cells.core(row, col), cells.window(row, col)
            seen[core.slices()] += 1
            assert core.pixels > 0
            assert core.clipped(window) == core
            assert window.clipped(Region(0, 0, *cells.shape)) == window
    assert (seen == 1).all()


@given(GRIDS, st.data())
def test_a_strip_holds_all_that_neighbours_beyond_that_side_see(cells, data):
    row, col = data.draw(st.integers(0, cells.rows - 1)), data.draw(st.integers(0, cells.cols - 1))
    window = cells.window(row, col)
    steps = {"top": (-1, 0), "bottom": (1, 0), "left": (0, -1), "right": (0, 1)}
    for side in SIDES:
        strip = cells.strip(row, col, side)
        assert strip.clipped(window) == strip
        seen = [Region(strip.y0, strip.x0, strip.y0, strip.x0)]
        for along in (-1, 0, 1):
            dy, dx = steps[side]
            y, x = row + dy + along * (dy == 0), col + dx + along * (dx == 0)
            if 0 <= y < cells.rows and 0 <= x < cells.cols:
                seen.append(cells.window(y, x).clipped(window))
        for shared in seen:
            assert not shared.pixels or shared.clipped(strip) == shared
        if len(seen) > 1:
            assert max(shared.pixels for shared in seen) == strip.pixels


def test_sides_of_other_blocks_are_inner_sides_only():
    cells = CellGrid((100, 100), (10, 10), 2)
    block = CellBlock(range(0, 2), range(8, 10))
    assert block.foreign(cells, 0, 8) == ("left",)
    assert block.foreign(cells, 1, 8) == ("bottom", "left")
    assert block.foreign(cells, 1, 9) == ("bottom",)
    assert block.foreign(cells, 0, 9) == ()


@pytest.mark.parametrize(("shape", "side", "context"), [((0, 1), (1, 1), 0), ((1, 1), (0, 1), 0), ((1, 1), (1, 1), -1)])
def test_a_grid_without_pixels_is_refused(shape, side, context):
    with pytest.raises(UsageError, match="cells"):
        CellGrid(shape, side, context)


LABELS = st.lists(st.lists(st.sampled_from([0, 0, 1, 2, 7, 10**12]), min_size=4, max_size=4), min_size=1, max_size=5)


@given(LABELS, st.sampled_from([np.int64, np.uint64]))
def test_canonical_labels_follow_the_first_pixels(rows, dtype):
    labels = np.array(rows, dtype)
    result, count = canonical(labels, "cell")
    firsts = list(dict.fromkeys(int(v) for v in labels.ravel() if v))
    expected = np.array([[firsts.index(v) + 1 if v else 0 for v in row] for row in labels.tolist()])
    assert count == len(firsts)
    assert result.dtype == np.uint32
    assert np.array_equal(result, expected)


def test_labels_below_zero_or_with_fractions_are_refused():
    with pytest.raises(UsageError, match=r"cell 3: expected labels of 0 or more, found -2"):
        canonical(np.array([[0, -2]]), "cell 3")
    with pytest.raises(UsageError, match="integer"):
        canonical(np.zeros((2, 2)), "cell 3")


def test_labels_are_read_again_cell_by_cell_from_parquet(tmp_path):
    labels = np.random.default_rng(0).integers(0, 2**32, (7, 9), dtype=np.uint32)
    rasters = LabelRasters()
    rasters.add(3, 4, "core", Patch(labels, Region(70, 80, 77, 89)))
    rasters.add(3, 5, "left", Patch(np.zeros((0, 5), np.uint32), Region(1, 2, 1, 7)))
    path = tmp_path / "labels.parquet"
    with pq.ParquetWriter(path, raster_schema()) as writer:
        writer.write_table(rasters.table(), row_group_size=1)
    file = pq.ParquetFile(path)
    assert file.num_row_groups == 2
    found = unpacked(file.read_row_group(0).to_pylist()[0])
    assert np.array_equal(found.labels, labels)
    assert found.region == Region(70, 80, 77, 89)
    assert unpacked(file.read_row_group(1).to_pylist()[0]).labels.shape == (0, 5)


def test_labels_that_were_damaged_are_one_error():
    rasters = LabelRasters()
    rasters.add(3, 4, "core", Patch(np.ones((3, 3), np.uint32), Region(0, 0, 3, 3)))
    row = rasters.table().to_pylist()[0]
    for change in ({"height": 4}, {"height": 2}, {"labels": b"nonsense"}):
        with pytest.raises(BlockError, match=r"labels of cell \(3, 4\)"):
            unpacked(row | change)


def test_relabelling_gives_each_pixel_the_number_of_its_object():
    members = pa.array([[7 << 32 | 2], [5 << 32 | 1, 7 << 32 | 1, 9 << 32 | 1], [7 << 32 | 3]], pa.list_(pa.uint64()))
    for table in (members, pa.chunked_array([members[:2], members[2:]])):
        working, final = numbering(table, np.array([11, 4, 0]))
        labels = np.array([[0, 1, 1], [2, 3, 0]], np.uint32)
        assert relabel(labels, 7, working, final).tolist() == [[0, 4, 4], [11, 0, 0]]
        assert relabel(labels, 7, working, final).dtype == np.uint32


def test_a_label_without_an_object_is_an_error():
    working = working_ids(7, np.array([1, 2]))
    with pytest.raises(BlockError, match="an object for label 3"):
        relabel(np.array([[1, 3]], np.uint32), 7, working, np.array([1, 2], np.uint64))
    with pytest.raises(BlockError, match="an object for label 1"):
        relabel(np.array([[1]], np.uint32), 8, working, np.array([1, 2], np.uint64))
