"""Numbering, small objects and holes of a label image."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from gigatile.objects.postprocess.labels import canonical, components, large_enough, without_holes
from tests.objects.postprocess.shapes import disc, is_canonical


@settings(max_examples=60, deadline=None)
@given(arrays(np.int32, st.tuples(st.integers(0, 9), st.integers(0, 9)), elements=st.integers(0, 40)))
def test_numbering_keeps_the_partition_and_follows_the_first_pixel(labels):
    found = canonical(labels)
    assert found.dtype == np.int32
    assert is_canonical(found)
    pairs = {(int(a), int(b)) for a, b in zip(labels.ravel(), found.ravel(), strict=True)}
    assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})
    assert all((a == 0) == (b == 0) for a, b in pairs)


def test_objects_of_the_least_area_stay_and_smaller_ones_go():
    labels = np.array([[1, 1, 1, 0, 2, 2, 0, 3]], np.int32)
    np.testing.assert_array_equal(large_enough(labels, 2), [[1, 1, 1, 0, 2, 2, 0, 0]])
    np.testing.assert_array_equal(large_enough(labels, 3), [[1, 1, 1, 0, 0, 0, 0, 0]])


def test_corners_join_only_where_they_are_neighbours():
    corner = np.array([[1, 0], [0, 1]], bool)
    assert components(corner, 4).max() == 2
    assert components(corner, 8).max() == 1


def test_a_hole_up_to_the_given_size_is_filled_and_a_larger_one_stays():
    ring = disc(40, 40, 20) & ~disc(40, 40, 3)
    labels = components(ring, 4)
    hole = int(disc(40, 40, 3).sum())
    np.testing.assert_array_equal(without_holes(labels, hole) > 0, disc(40, 40, 20))
    np.testing.assert_array_equal(without_holes(labels, hole - 1), labels)


@pytest.mark.parametrize(
    "labels",
    [
        [[1, 1, 1], [1, 0, 2], [2, 2, 2]],  # two objects around it
        [[1, 0, 1], [1, 0, 1], [1, 1, 1]],  # open to the edge of the window
    ],
)
def test_what_one_object_alone_does_not_surround_is_no_hole(labels):
    labels = np.array(labels, np.int32)
    np.testing.assert_array_equal(without_holes(labels, 100), labels)
