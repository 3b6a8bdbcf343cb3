"""Regions of one class, swept window by window, against scipy and the whole image at once."""

import numpy as np
import pytest
import shapely
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rasterio import features
from scipy import ndimage

from gigatile.objects.outlines import outlines
from gigatile.objects.regions import components, regions
from tests.objects.label_arrays import CHECKERBOARD, PINCHED, RINGS, label_arrays


def swept(values, window):
    """Everything that a sweep gives: values, pixels, polygons."""
    found = list(regions(values.shape, window, lambda region: values[region.slices()]))
    return [
        (int(v), int(n), p) for part in found for v, n, p in zip(part.values, part.pixels, part.polygons, strict=True)
    ]


def whole(values):
    """The same from the components that scipy finds in the whole image, by their last pixels."""
    found = []
    for value in np.unique(values[values != 0]):
        number, _ = ndimage.label(values == value)
        ids, polygons = outlines(number)
        for one, polygon in zip(ids, polygons, strict=True):
            inside = np.flatnonzero(number.ravel() == one)
            found.append((int(inside[-1]), int(value), len(inside), polygon))
    return [row[1:] for row in sorted(found, key=lambda row: row[0])]


def spiral(side):
    """One path of 1 px that winds to the centre, and the one between its turns."""
    values = np.ones((side, side), int)
    y, x, dy, dx = 1, 0, 0, 1
    values[1, 0] = 2
    for length in range(side - 2, 0, -2):
        for _ in range(2):
            for _ in range(length):
                y, x = y + dy, x + dx
                values[y, x] = 2
            dy, dx = dx, -dy
    return values


@settings(deadline=None)
@given(label_arrays(), st.tuples(st.integers(1, 9), st.integers(1, 9)))
@example(RINGS, (2, 3))
@example(RINGS + 1, (1, 1))
@example(PINCHED, (3, 2))
@example(2 - CHECKERBOARD, (2, 2))
def test_windows_of_any_size_give_the_regions_of_the_whole_in_one_order(values, window):
    expected = whole(values)
    found = swept(values, window)
    assert [row[:2] for row in found] == [row[:2] for row in expected]
    ours, theirs = (np.array([row[2] for row in rows], object) for rows in (found, expected))
    assert shapely.equals_exact(ours, theirs, tolerance=0).all()


@pytest.mark.parametrize("window", [(5, 7), (16, 4), (64, 64)])
def test_a_spiral_across_all_windows_is_one_region(window):
    values = spiral(41)
    assert [row[:2] for row in swept(values, window)] == [row[:2] for row in whole(values)]
    assert sum(row[0] == 2 for row in swept(values, window)) == 1


@settings(deadline=None)
@given(label_arrays(most=2))
def test_components_are_those_of_scipy(values):
    found = components(values)
    assert found.values[found.number].tolist() == values.tolist()
    expected = sum(ndimage.label(values == value)[1] for value in (1, 2))
    assert found.number.max() == expected == len(found.values) - 1
    assert found.pixels[1:].tolist() == np.bincount(found.number.ravel(), minlength=expected + 1)[1:].tolist()


def blobs(shape, classes):
    """A map of smooth regions."""
    planes = np.random.default_rng(3).standard_normal((classes, *shape))
    return ndimage.gaussian_filter(planes, (0, 4, 4)).argmax(axis=0) + 1


def test_a_dense_map_becomes_polygons_that_fill_each_pixel_once():
    values = blobs((600, 500), 5)
    values[100:140, 200:333] = 0
    found = swept(values, (128, 96))
    assert shapely.is_valid([row[2] for row in found]).all()
    again = features.rasterize([(row[2], row[0]) for row in found], out_shape=values.shape, dtype="int64")
    np.testing.assert_array_equal(again, values)
    assert sum(row[1] for row in found) == np.count_nonzero(values)
    assert [row[1] for row in found] == [row[2].area for row in found]


def test_what_is_open_is_all_that_a_sweep_holds():
    """Islands that end within a strip are given with it, not at the end."""
    values = np.zeros((400, 40), int)
    values[5::20, 3:37] = 7
    values[::20, 0] = 8
    given_by_strip = [len(part) for part in regions(values.shape, (20, 40), lambda region: values[region.slices()])]
    assert given_by_strip == [2] * 20
