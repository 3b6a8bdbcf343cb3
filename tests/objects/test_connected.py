"""Components found block by block are those of scipy on the whole image, numbers included."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from gigatile.errors import BlockError, UsageError
from gigatile.objects import numbering
from gigatile.objects.connected import Rule, Sides, border, components
from gigatile.objects.numbering import BlockGrid, Numbering, final_numbers, numbering_bytes

EIGHT = np.ones((3, 3), int)


def blocks(grid):
    """Places of the blocks, their pixels, and on which sides there is another."""
    rows, cols = grid.count
    for row in range(rows):
        for col in range(cols):
            (h, w), y, x = grid.block, row * grid.block[0], col * grid.block[1]
            yield row, col, np.s_[y : y + h, x : x + w], Sides(row > 0, row < rows - 1, col > 0, col < cols - 1)


def labelled(values, block, rule):
    """All of `values` in blocks; also how many there are."""
    grid = BlockGrid(values.shape, block)
    joined = Numbering(grid, rule)
    for _, _, place, beyond in blocks(grid):
        found = components(values[place], rule, beyond)
        joined.add(border(found, values[place], rule))
    count = joined.finish()
    result = np.zeros(values.shape, np.uint32)
    for row, col, place, beyond in blocks(grid):
        found = components(values[place], rule, beyond)
        result[place] = final_numbers(found, joined.of(row, col), "block")[found.labels]
    return result, count


def by_scipy(values, rule):
    """The whole image at once; of values, each value by itself and then in the order of first pixels."""
    structure = EIGHT if rule.connectivity == 8 else None
    if rule.classes == "joined":
        return ndimage.label(values, structure)
    parts, count = np.zeros(values.shape, np.int64), 0
    for value in np.unique(values[values != 0]):
        found, more = ndimage.label(values == value, structure)
        parts = np.where(found, found + count, parts)
        count += more
    kept, first = np.unique(parts, return_index=True)
    order = np.argsort(first[kept > 0])
    number = np.zeros(count + 1, np.int64)
    number[kept[kept > 0][order]] = np.arange(1, count + 1)
    return number[parts], count


def spiral(side):
    """One winding line, a pixel wide and a pixel apart."""
    image = np.zeros((side, side), bool)
    y = x = 0
    image[0, 0] = True
    lengths = [side - 1, *(length for twice in range(side - 1, 0, -2) for length in (twice, twice))]
    for at, length in enumerate(lengths):
        dy, dx = ((0, 1), (1, 0), (0, -1), (-1, 0))[at % 4]
        for _ in range(length):
            y, x = y + dy, x + dx
            image[y, x] = True
    return image


def comb(side):
    """Teeth that only the last row joins."""
    image = np.zeros((side, side), bool)
    image[:, ::2] = True
    image[-1] = True
    return image


def snake(side):
    """Rows that are joined right and left by turns."""
    image = np.zeros((side, side), bool)
    image[::2] = True
    image[1::4, -1] = image[3::4, 0] = True
    return image


def checkers(side):
    return np.indices((side, side)).sum(0) % 2 == 0


SHAPES = {"spiral": spiral, "comb": comb, "snake": snake, "checkers": checkers}
RULES = [Rule(connectivity, classes) for connectivity in (4, 8) for classes in ("joined", "apart")]


@st.composite
def images(draw):
    """Blobs and noise of every density, shapes that wind through all blocks, turned, and their negatives."""
    kind = draw(st.sampled_from([*SHAPES, "noise", "blobs"]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    if kind in SHAPES:
        image = np.rot90(SHAPES[kind](draw(st.integers(1, 33))), draw(st.integers(0, 3)))
    else:
        noise = rng.random((draw(st.integers(1, 40)), draw(st.integers(1, 40))))
        image = (ndimage.gaussian_filter(noise, 1.5) if kind == "blobs" else noise) < draw(st.floats(0, 1))
    if draw(st.booleans()):
        image = ~image
    values = image * rng.integers(1, draw(st.integers(2, 5)), image.shape)
    return np.ascontiguousarray(values.astype(draw(st.sampled_from(["u1", "i4", "i8"]))))


@settings(deadline=None, max_examples=200)
@given(images(), st.tuples(st.integers(1, 41), st.integers(1, 41)), st.sampled_from(RULES))
def test_blocks_of_any_size_give_the_numbers_of_scipy(values, block, rule):
    values = values if rule.classes == "apart" else values != 0
    truth, total = by_scipy(values, rule)
    found, count = labelled(values, block, rule)
    assert count == total
    np.testing.assert_array_equal(found, truth)


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_that_wind_through_every_block(shape, rule):
    values = SHAPES[shape](47)
    for block in ((1, 1), (1, 47), (47, 1), (7, 5), (16, 16), (46, 46), (50, 50)):
        found, count = labelled(values.astype("u1"), block, rule)
        truth, total = by_scipy(values.astype("u1"), rule)
        assert count == total
        np.testing.assert_array_equal(found, truth)


@pytest.mark.parametrize(
    ("shape", "connectivity", "count"),
    [("comb", 4, 1), ("checkers", 4, 1105), ("checkers", 8, 1), ("spiral", 4, 1), ("snake", 4, 1)],
)
def test_the_shapes_are_what_they_are_called(shape, connectivity, count):
    assert by_scipy(SHAPES[shape](47), Rule(connectivity))[1] == count


def test_blocks_that_meet_at_a_corner_are_neighbours_for_8_only():
    values = np.array([[0, 1], [1, 0]], bool)
    assert labelled(values, (1, 1), Rule(8))[1] == 1
    assert labelled(values, (1, 1), Rule(4))[1] == 2
    assert labelled(values[::-1].copy(), (1, 1), Rule(8))[1] == 1


# dask-image, tests/test_dask_image/test_ndmeasure/test_core.py (BSD-3): seeds, shapes, chunks and connectivities.
@pytest.mark.parametrize("block", [(4, 5), (8, 5)])
@pytest.mark.parametrize("connectivity", [4, 8])
def test_the_cases_of_dask_image(block, connectivity):
    rng = np.random.RandomState(42)
    values = rng.random_sample((15, 16)) < 0.4
    rule = Rule(connectivity)
    truth, total = by_scipy(values, rule)
    found, count = labelled(values, block, rule)
    assert count == total > 5
    np.testing.assert_array_equal(found, truth)


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_no_more_open_components_than_are_planned_for(rule):
    rng = np.random.default_rng(5)
    values = (rng.random((60, 64)) < 0.5) if rule.classes == "joined" else rng.integers(1, 255, (60, 64))
    if rule.classes == "joined":
        values = np.indices((60, 64)).sum(0) % 2 == 0 if rule.connectivity == 4 else values
    grid = BlockGrid((60, 64), (13, 16))
    opened = sum(int(components(values[place], rule, beyond).is_open.sum()) for _, _, place, beyond in blocks(grid))
    assert 0 < opened <= grid.most_open(rule)
    assert numbering_bytes(grid, rule) > 0


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_joining_and_numbering_take_no_more_than_planned(rule):
    """At lines that end at every face, and the like: the most that faces can hold."""
    values = np.zeros((512, 1024), np.uint8)
    values[::2] = 1
    values[256:, 1::2] = 1
    if rule.classes == "apart":
        values = (np.indices(values.shape).sum(0) % 3 + 1).astype(np.uint8)
    grid = BlockGrid(values.shape, (32, 64))
    found = [
        border(components(values[place], rule, beyond), values[place], rule) for _, _, place, beyond in blocks(grid)
    ]
    tracemalloc.start()
    try:
        joined = Numbering(grid, rule)
        for each in found:
            joined.add(each)
        count = joined.finish()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == by_scipy(values, rule)[1]
    assert peak <= numbering_bytes(grid, rule) + 2**18


def test_pixels_that_changed_between_the_passes_are_told():
    rule, grid = Rule(), BlockGrid((8, 8), (4, 8))
    values = np.zeros((8, 8), bool)
    values[1, 1:3] = values[3:5, 5] = True
    joined = Numbering(grid, rule)
    for _, _, place, beyond in blocks(grid):
        joined.add(border(components(values[place], rule, beyond), values[place], rule))
    assert joined.finish() == 2
    values[0, 7] = True
    found = components(values[:4], rule, Sides(False, True, False, False))
    with pytest.raises(BlockError, match="when they were read again"):
        final_numbers(found, joined.of(0, 0), "block (0, 0)")


def test_more_components_than_fit_are_refused_before_numbers_are_given(monkeypatch):
    monkeypatch.setattr(numbering, "MOST", 3)
    with pytest.raises(UsageError, match="at most 3 components"):
        labelled(checkers(4), (2, 2), Rule())


@pytest.mark.parametrize(("connectivity", "classes"), [(6, "joined"), (4, "both")])
def test_other_rules_are_refused(connectivity, classes):
    with pytest.raises(UsageError, match="expected"):
        Rule(connectivity, classes)
