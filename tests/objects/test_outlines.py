"""Outlines against rasterio and GEOS, and back to pixels."""

from itertools import pairwise

import numpy as np
import pytest
import shapely
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rasterio import features
from shapely import geometry

from gigatile.errors import UsageError
from gigatile.objects.outlines import canonical, dissolved, outlines
from tests.data import data
from tests.objects.label_arrays import CHECKERBOARD, CORNERED, PINCHED, RINGS, cuts, label_arrays


def burnt(ids, polygons, shape, origin=(0, 0)):
    """The label array that polygons give, filled by GDAL."""
    moved = shapely.transform(polygons, lambda xy: xy - origin[::-1])
    shapes = [(polygon, int(number)) for number, polygon in zip(ids, moved, strict=True)]
    return features.rasterize(shapes, out_shape=shape, dtype="int64") if shapes else np.zeros(shape, int)


def gdal_outlines(labels):
    """Polygons of 4-connected parts by GDAL, united by label."""
    found = {}
    for shape, value in features.shapes(labels.astype(np.int32), mask=labels != 0, connectivity=4):
        found.setdefault(int(value), []).append(geometry.shape(shape))
    return {value: shapely.MultiPolygon(parts) for value, parts in sorted(found.items())}


def ring_lists(polygons):
    """Each ring as a list of vertices."""
    rings = shapely.get_rings(shapely.get_parts(polygons))
    return [shapely.get_coordinates(ring)[:-1].tolist() for ring in rings]


def same_to_the_vertex(first, second):
    return len(first) == len(second) and bool(shapely.equals_exact(first, second, tolerance=0).all())


@settings(deadline=None)
@given(label_arrays(), st.tuples(st.integers(-5, 5), st.integers(-5, 5)))
@example(CHECKERBOARD, (0, 0))
@example(RINGS, (0, 0))
@example(PINCHED, (0, 0))
@example(PINCHED[:, ::-1], (0, 0))
@example(CORNERED, (0, 0))
@example(1 - PINCHED, (0, 0))
def test_polygons_fill_the_pixels_of_their_labels(labels, origin):
    ids, polygons = outlines(labels, origin)
    assert ids.tolist() == [number for number in np.unique(labels) if number]
    assert shapely.is_valid(polygons).all()
    assert shapely.area(polygons).tolist() == [np.sum(labels == number) for number in ids]
    np.testing.assert_array_equal(burnt(ids, polygons, labels.shape, origin), labels)


@settings(deadline=None)
@given(label_arrays())
@example(CHECKERBOARD)
@example(RINGS)
@example(PINCHED)
@example(1 - PINCHED)
def test_polygons_have_the_parts_and_holes_that_gdal_finds(labels):
    expected = gdal_outlines(labels)
    ids, polygons = outlines(labels)
    assert ids.tolist() == list(expected)
    for ours, theirs in zip(polygons, expected.values(), strict=True):
        assert ours.geom_type == ("Polygon" if len(theirs.geoms) == 1 else "MultiPolygon")
        assert len(shapely.get_parts(ours)) == len(theirs.geoms)
        assert shapely.equals(ours, theirs)
        assert shapely.get_num_coordinates(ours) <= shapely.get_num_coordinates(theirs)
        ours_normal, theirs_normal = (
            shapely.normalize(shapely.MultiPolygon(shapely.get_parts(g).tolist())) for g in (ours, theirs)
        )
        assert [p.exterior.area for p in ours_normal.geoms] == [p.exterior.area for p in theirs_normal.geoms]


@settings(deadline=None)
@given(label_arrays())
@example(RINGS)
@example(PINCHED)
def test_rings_are_in_the_one_form_that_is_promised(labels):
    _, polygons = outlines(labels)
    for ring in ring_lists(polygons):
        assert ring[0] == min(ring, key=lambda place: place[::-1]), "begins at the topmost, then leftmost vertex"
        assert len({tuple(place) for place in ring}) == len(ring), "no ring touches itself"
        turns = zip(ring, ring[1:] + ring[:1], ring[2:] + ring[:2], strict=True)
        assert all((b[0] - a[0]) * (c[1] - b[1]) != (b[1] - a[1]) * (c[0] - b[0]) for a, b, c in turns), (
            "no idle vertex"
        )
    for part in shapely.get_parts(polygons):
        assert part.exterior.is_ccw
        assert not any(hole.is_ccw for hole in part.interiors)
        heads = [hole.coords[0][::-1] for hole in part.interiors]
        assert heads == sorted(heads)
    for shape in polygons:
        heads = [part.exterior.coords[0][::-1] for part in shapely.get_parts(shape)]
        assert heads == sorted(heads)


@settings(deadline=None)
@given(label_arrays(), st.data())
@example(RINGS, None)
@example(PINCHED, None)
@example(CHECKERBOARD, None)
def test_pieces_cut_anywhere_dissolve_to_the_outline_of_the_whole(labels, choice):
    height, width = labels.shape
    rows = choice.draw(cuts(height)) if choice else range(height + 1)
    cols = choice.draw(cuts(width)) if choice else range(width + 1)
    pieces, groups = [], []
    for y0, y1 in pairwise(rows):
        for x0, x1 in pairwise(cols):
            ids, polygons = outlines(labels[y0:y1, x0:x1], (y0, x0))
            pieces += polygons.tolist()
            groups += ids.tolist()
    ids, polygons = dissolved(np.array(pieces, object), np.array(groups, np.int64))
    expected_ids, expected = outlines(labels)
    assert ids.tolist() == expected_ids.tolist()
    assert same_to_the_vertex(polygons, expected)


@settings(deadline=None)
@given(label_arrays(most=1), st.randoms())
@example(RINGS, None)
def test_any_drawing_of_a_shape_has_one_canonical_form(labels, random):
    _, polygons = outlines(labels)
    drawn = shapely.reverse(shapely.segmentize(shapely.normalize(polygons), 1.0))
    if random is not None and len(drawn):
        parts = shapely.get_parts(drawn).tolist()
        random.shuffle(parts)
        drawn = np.array([shapely.MultiPolygon(parts)])
    assert same_to_the_vertex(canonical(drawn), polygons)


@settings(deadline=None)
@given(label_arrays())
def test_the_dtype_of_labels_does_not_matter(labels):
    ids, polygons = outlines(labels)
    for dtype in (np.uint8, np.int32, np.uint64):
        other_ids, other = outlines(labels.astype(dtype))
        assert other_ids.tolist() == ids.tolist()
        assert same_to_the_vertex(other, polygons)


def test_working_ids_of_64_bits_keep_their_numbers():
    big = (np.uint64(1 << 30) << np.uint64(32)) | np.uint64(7)
    ids, polygons = outlines(np.array([[0, big], [big, 0]], np.uint64))
    assert ids.tolist() == [int(big)]
    assert polygons[0].geom_type == "MultiPolygon"


def test_an_array_without_labels_has_no_outlines():
    for shape in ((0, 0), (0, 3), (3, 3)):
        ids, polygons = outlines(np.zeros(shape, int))
        assert len(ids) == len(polygons) == 0


def test_what_is_not_on_the_pixel_grid_is_refused():
    groups = np.zeros(1, np.int64)
    for wrong in (shapely.box(0, 0, 1.5, 1), shapely.Polygon([(0, 0), (2, 0), (0, 2)]), shapely.Point(0, 0)):
        with pytest.raises(UsageError, match="expected"):
            dissolved(np.array([wrong], object), groups)
    with pytest.raises(UsageError, match="found empty ones"):
        canonical(np.array([shapely.Polygon()], object))
    with pytest.raises(UsageError, match="found 1 axes"):
        outlines(np.zeros(3, int))
    with pytest.raises(UsageError, match=r"below 2\*\*63"):
        outlines(np.full((1, 1), 2**63, np.uint64))


def test_real_nuclei_and_land_cover_have_the_outlines_that_gdal_finds():
    import rasterio

    with rasterio.open(data("reference/dw_sen2_classes.tif")) as file:
        classes = file.read(1).astype(np.int64) + 1
    ids, polygons = outlines(classes)
    assert shapely.is_valid(polygons).all()
    np.testing.assert_array_equal(burnt(ids, polygons, classes.shape), classes)
    for ours, theirs in zip(polygons, gdal_outlines(classes).values(), strict=True):
        assert len(shapely.get_parts(ours)) == len(theirs.geoms)
        assert shapely.normalize(shapely.MultiPolygon(shapely.get_parts(ours).tolist())).equals(
            shapely.normalize(theirs)
        )
