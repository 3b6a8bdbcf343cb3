"""Which boxes match: the measures, the threshold, and that no pair is missed or found twice."""

import math

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from gigatile.errors import UsageError
from gigatile.objects import near
from gigatile.objects.boxes import Boxes
from gigatile.objects.match import Matching, Ordered, default_matching, pairs, reached
from gigatile.objects.turned import Turned
from tests.objects.tables import matchings, overlap, table, tables


def expected_pairs(boxes, matching):
    """All pairs, by trying every one."""
    rank = np.argsort(boxes.order())
    found = set()
    for a in range(len(boxes)):
        for b in range(a):
            alike = matching.classes == "any" or boxes.classes[a] == boxes.classes[b]
            if alike and overlap(boxes, a, b, matching.measure) > matching.threshold:
                found.add((a, b) if rank[a] < rank[b] else (b, a))
    return found


@given(tables(), matchings())
@settings(max_examples=80, deadline=None)
def test_every_pair_that_matches_is_found_once(boxes, matching):
    found = [tuple(pair) for pair in pairs(boxes, matching).tolist()]
    assert len(set(found)) == len(found)
    # Turned boxes exactly at the threshold may fall to either side of it, in GEOS or here.
    doubtful = {pair for pair in found if abs(overlap(boxes, *pair, matching.measure) - matching.threshold) < 1e-9}
    expected = expected_pairs(boxes, matching)
    missed = {p for p in expected - set(found) if overlap(boxes, *p, matching.measure) - matching.threshold > 1e-9}
    assert not missed
    assert set(found) - expected <= (doubtful if boxes.oriented else set())
    assert boxes.oriented or set(found) == expected


@given(tables(most=40), matchings(), st.sampled_from([1, 3, 7]))
@settings(max_examples=60, deadline=None)
def test_pieces_of_any_size_give_the_same_pairs(boxes, matching, piece):
    whole = pairs(boxes, matching)
    usual, near.PIECE = near.PIECE, piece
    try:
        assert np.array_equal(pairs(boxes, matching), whole)
    finally:
        near.PIECE = usual


def test_a_measure_at_the_threshold_does_not_match():
    half = table([[0, 0, 2, 1], [0, 0, 1, 1]])
    assert len(pairs(half, Matching("iou", 0.5))) == 0
    assert len(pairs(half, Matching("iou", np.nextafter(0.5, 0)))) == 1
    assert len(pairs(half, Matching("ios", 0.99))) == 1


def test_boxes_that_touch_do_not_match():
    touching = table([[0, 0, 2, 2], [2, 0, 4, 2], [0, 2, 2, 4], [2, 2, 4, 4]])
    assert len(pairs(touching, Matching("iou", 0.0))) == 0


def test_boxes_without_area_match_nothing():
    flat = table([[0, 0, 9, 9], [2, 2, 2, 8], [2, 2, 2, 8], [5, 5, 3, 3]])
    assert len(pairs(flat, Matching("ios", 0.0))) == 0
    turned = table([[5, 5, 9, 9, 0.2], [5, 5, 0, 8, 0.2], [5, 5, -8, -8, 0.2]])
    assert len(pairs(turned, Matching("ios", 0.0))) == 0


def test_classes_match_among_themselves_unless_any_may():
    twins = table([[0, 0, 4, 4], [0, 0, 4, 4]], classes=[1, 2])
    assert len(pairs(twins, Matching())) == 0
    assert len(pairs(twins, Matching(classes="any"))) == 1


def test_two_parallel_ships_whose_hulls_overlap_do_not_match():
    """100 px long, 10 px wide, 12 px apart, turned by 45 degrees: the hulls share most of their area."""
    away = 12 * np.array([-math.sin(math.pi / 4), math.cos(math.pi / 4)])
    ships = table([[200, 200, 100, 10, math.pi / 4], [200 + away[0], 200 + away[1], 100, 10, math.pi / 4]])
    hulls = table(ships.hulls.tolist())
    assert overlap(hulls, 0, 1, "iou") > 0.6
    assert len(pairs(hulls, default_matching(False))) == 1
    assert len(pairs(ships, default_matching(True))) == 0


def test_a_square_turned_by_an_eighth_shares_an_octagon():
    """Of side 2 in the same place: the octagon's area is 8 (sqrt(2) - 1)."""
    squares = table([[3, 4, 2, 2, 0], [3, 4, 2, 2, math.pi / 4]])
    shared = Turned.of(squares).shared(np.array([0]), np.array([1]))
    assert shared == pytest.approx([8 * (math.sqrt(2) - 1)], abs=1e-14)


@pytest.mark.parametrize("far", [0.0, 1e6])
def test_areas_shared_by_turned_boxes_are_those_of_geos(far):
    random = np.random.default_rng(0)
    count = 3000
    places = np.concatenate(
        [
            far + random.uniform(0, 30, (count, 2)),
            random.uniform(0.1, 40, (count, 2)),
            random.uniform(-7, 7, (count, 1)),
        ],
        axis=1,
    )
    places[::5, 4] = np.round(places[::5, 4] / (np.pi / 2)) * (np.pi / 2)
    places[1::5] = places[::5]
    places[1::10, 0] += 1e-9
    places[::7, 3] = 0.01
    boxes = table(places.tolist())
    one, other = np.arange(count - 1), np.arange(1, count)
    # By GEOS near the origin: coordinates of 1e6 leave it 1e-10 of a pixel.
    shapes = shapely.polygons(boxes.shifted(-far, -far).corners)
    expected = shapely.area(shapely.intersection(shapes[one], shapes[other]))
    turned = Turned.of(boxes)
    assert (expected > 1).sum() > 1000
    np.testing.assert_allclose(turned.shared(one, other), expected, atol=2e-8 if far else 1e-11, rtol=0)
    np.testing.assert_allclose(turned.shared(other, one), expected, atol=2e-8 if far else 1e-11, rtol=0)


@given(tables(most=40), matchings(), st.integers(0, 2**32))
@settings(max_examples=80, deadline=None)
def test_reached_is_what_hangs_together_with_a_seed(boxes, matching, seed):
    boxes = boxes.take(boxes.order())
    seeds = np.random.default_rng(seed).random(len(boxes)) < 0.1
    expected, links = set(np.flatnonzero(seeds).tolist()), pairs(boxes, matching).tolist()
    while True:
        grown = expected | {b for a, b in links if a in expected} | {a for a, b in links if b in expected}
        if grown == expected:
            break
        expected = grown
    found = reached(Ordered.of(boxes, matching), seeds)
    assert set(np.flatnonzero(found).tolist()) == expected


def test_a_crowd_on_one_spot_is_reached_in_bounded_memory_and_time():
    """10,000 boxes that all match each other have 50 million pairs."""
    crowd = 10_000
    places = np.tile([0.0, 0.0, 30.0, 30.0], (crowd, 1)) + np.random.default_rng(0).uniform(0, 2, (crowd, 4))
    boxes = Boxes(places, np.full(crowd, 0.5, np.float32), np.zeros(crowd, np.int32))
    boxes = boxes.take(boxes.order())
    assert reached(Ordered.of(boxes, Matching()), np.arange(crowd) == 77).all()


def test_few_large_boxes_do_not_stand_in_a_cell_a_pixel():
    """One box of 100,000 px among boxes of 10 px would stand in 25 million cells of 20 px."""
    random = np.random.default_rng(0)
    corner = random.uniform(0, 1e5, (20_000, 2))
    places = np.concatenate([np.concatenate([corner, corner + 10], axis=1), [[0, 0, 1e5, 1e5]]])
    boxes = Boxes(places, np.ones(len(places), np.float32), np.zeros(len(places), np.int32))
    ordered = Ordered.of(boxes.take(boxes.order()), Matching("ios", 0.5))
    index = ordered.near(np.arange(len(ordered)))
    assert len(index.rows) <= 7 * len(boxes)
    assert len(pairs(boxes, Matching("ios", 0.5))) >= 20_000 - 100


@pytest.mark.parametrize(
    ("name", "value"), [("measure", "giou"), ("threshold", 1.0), ("threshold", -0.1), ("classes", 1)]
)
def test_what_is_no_matching_is_refused(name, value):
    with pytest.raises(UsageError):
        Matching(**{name: value})


def test_defaults_by_kind():
    assert default_matching(False) == Matching("iou", 0.5, "same")
    assert default_matching(True) == Matching("iou", 0.1, "same")
