"""Half-open boxes."""

from hypothesis import given
from hypothesis import strategies as st

from gigatile.tiling.region import Region

corners = st.integers(-30, 30)
regions = st.builds(Region, corners, corners, corners, corners)


def points(region: Region) -> set[tuple[int, int]]:
    return {(y, x) for y in range(region.y0, region.y1) for x in range(region.x0, region.x1)}


@given(regions)
def test_pixels_are_counted_as_a_half_open_box(region):
    assert region.pixels == len(points(region))


@given(regions, regions)
def test_clipping_is_the_intersection_of_the_pixels(one, other):
    assert points(one.clipped(other)) == points(one) & points(other)


@given(regions, corners, corners)
def test_shifting_moves_every_pixel(region, y, x):
    assert points(region.shifted(y, x)) == {(a + y, b + x) for a, b in points(region)}


@given(regions, st.integers(0, 5), st.integers(0, 5))
def test_growing_adds_the_same_on_each_side(region, y, x):
    grown = region.grown(y, x)
    assert (grown.y0, grown.y1) == (region.y0 - y, region.y1 + y)
    assert (grown.x0, grown.x1) == (region.x0 - x, region.x1 + x)


def test_slices_index_an_array_whose_origin_is_zero():
    rows = [[(y, x) for x in range(6)] for y in range(5)]
    ys, xs = Region(1, 2, 3, 5).slices()
    assert {p for row in rows[ys] for p in row[xs]} == points(Region(1, 2, 3, 5))
