"""Simplified outlines: a coverage before, a coverage after."""

import numpy as np
import pytest
import shapely
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import ndimage

from gigatile.errors import UsageError
from gigatile.objects.outlines import outlines
from gigatile.objects.regions import regions
from gigatile.objects.simplify import noded, simplified
from tests.objects.label_arrays import CHECKERBOARD, PINCHED, RINGS, label_arrays


def smooth_map(classes=4, shape=(200, 220)):
    """Regions of several classes without a gap between them."""
    planes = np.random.default_rng(5).standard_normal((classes, *shape))
    values = ndimage.gaussian_filter(planes, (0, 6, 6)).argmax(axis=0) + 1
    return np.concatenate([part.polygons for part in regions(shape, (64, 64), lambda region: values[region.slices()])])


@settings(deadline=None)
@given(label_arrays(), st.floats(0.5, 5))
@example(CHECKERBOARD, 2.0)
@example(RINGS, 2.0)
@example(PINCHED, 3.0)
@example(2 - PINCHED, 3.0)
@example(np.array([[1, 1, 1, 1], [2, 2, 3, 3]]), 1.0)
def test_neighbours_share_their_edges_before_and_after(labels, tolerance):
    _, polygons = outlines(labels)
    whole = noded(polygons)
    assert shapely.coverage_is_valid(whole)
    assert shapely.equals(whole, polygons).all()
    simple = simplified(polygons, tolerance)
    assert shapely.is_valid(simple).all()
    assert shapely.coverage_is_valid(simple)
    assert [len(shapely.get_rings(shapely.get_parts(p))) for p in simple] == [
        len(shapely.get_rings(shapely.get_parts(p))) for p in polygons
    ]


def test_a_map_without_gaps_has_none_when_it_is_simplified():
    polygons = smooth_map()
    simple = simplified(polygons, 2.0)
    assert shapely.get_num_coordinates(simple).sum() < 0.4 * shapely.get_num_coordinates(polygons).sum()
    union = shapely.union_all(simple)
    assert union.geom_type == "Polygon"
    assert len(union.interiors) == 0, "a gap would be a hole"
    assert shapely.area(simple).sum() == pytest.approx(union.area, abs=1e-6), "an overlap would count twice"
    moved = shapely.hausdorff_distance(shapely.boundary(polygons), shapely.boundary(simple))
    assert 0 < moved.max() < 3.4 * 2.0


def test_each_shape_alone_would_leave_gaps():
    """What the shapes are noded for: the test above can fail."""
    polygons = smooth_map()
    alone = shapely.coverage_simplify(polygons, 2.0)
    assert not shapely.coverage_is_valid(alone)


def test_shells_keep_their_direction():
    for part in simplified(smooth_map(), 3.0):
        assert part.exterior.is_ccw


def test_only_positive_tolerances_are_taken():
    _, polygons = outlines(RINGS)
    for wrong in (0, -1, float("nan"), float("inf")):
        with pytest.raises(UsageError, match="greater than 0"):
            simplified(polygons, wrong)
    assert len(simplified(polygons[:0], 1)) == 0
