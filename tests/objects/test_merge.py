"""Clusters are those of greedy NMS, and what becomes of them is what the four merges say."""

import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gigatile.errors import UsageError
from gigatile.objects import clusters as clustering
from gigatile.objects.boxes import Boxes
from gigatile.objects.clusters import clusters
from gigatile.objects.looks import TileLooks
from gigatile.objects.match import Matching, default_matching
from gigatile.objects.merge import Merge, own_only, split
from gigatile.tiling.region import Region
from gigatile.tiling.tiling import Tiling
from tests.objects.tables import keepers, matchings, same_rows, table, tables


def two(centres):
    """Two tiles look everywhere."""
    return np.full(len(centres), 2)


def merges():
    return st.builds(Merge, st.sampled_from(["nms", "nmm", "wbf"]), matchings(), st.just(two))


@given(tables(columns=4, most=40), matchings())
@settings(max_examples=120, deadline=None)
def test_clusters_are_those_of_greedy_nms(boxes, matching):
    assert clusters(boxes, matching).tolist() == keepers(boxes, matching)


@given(tables(columns=5), st.sampled_from(["iou", "ios"]), st.floats(0.05, 0.95), st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_clusters_of_turned_boxes_are_those_of_greedy_nms(boxes, measure, threshold, seed):
    # Moved at random, so that no measure stands at the threshold, where GEOS and this may round to different sides.
    moves = np.random.default_rng(seed).normal(0, 0.01, boxes.places.shape) * (boxes.places != 0)
    boxes = Boxes(boxes.places + moves, boxes.scores, boxes.classes)
    assert clusters(boxes, Matching(measure, threshold)).tolist() == keepers(boxes, Matching(measure, threshold))


@given(tables(most=40), matchings(), st.sampled_from([(1, 1, 0), (2, 5, 1), (8, 30, 2)]))
@settings(max_examples=60, deadline=None)
def test_chunks_and_rounds_of_any_size_give_the_same_clusters(boxes, matching, sizes):
    whole = clusters(boxes, matching)
    names = ("LEAST_CHUNK", "LEAST_PAIRS", "ROUNDS", "PAIRS_A_BOX")
    usual = {name: getattr(clustering, name) for name in names}
    try:
        for name, size in zip(names, (*sizes, 0), strict=True):
            setattr(clustering, name, size)
        assert np.array_equal(clusters(boxes, matching), whole)
    finally:
        for name, size in usual.items():
            setattr(clustering, name, size)


@given(tables(), merges(), st.integers(0, 2**32))
@settings(max_examples=80, deadline=None)
def test_merged_rows_do_not_depend_on_the_order_of_boxes(boxes, merge, seed):
    shuffled = boxes.take(np.random.default_rng(seed).permutation(len(boxes)))
    assert same_rows(merge(boxes), merge(shuffled))


@pytest.mark.parametrize("reduction", ["nms", "nmm", "wbf"])
@pytest.mark.parametrize("columns", [4, 5])
def test_no_boxes_merge_to_none(reduction, columns):
    merge = Merge(reduction, Matching(), two)
    closed, waiting = split(Boxes.empty(columns), merge, (0, 0, 1, 1))
    assert len(merge(Boxes.empty(columns))) == len(closed) == len(waiting) == 0
    assert closed.places.shape == (0, columns)


def test_a_long_chain_is_resolved_every_other_box():
    """Each box matches the next, from the best to the worst: a keeper, taken, a keeper, and so on."""
    count = 20_001
    left = np.arange(count) * 4.0
    places = np.stack([left, 0 * left, left + 10, 0 * left + 10], axis=1)
    chain = Boxes(places, np.linspace(1, 0.1, count).astype(np.float32), np.zeros(count, np.int32))
    found = clusters(chain, Matching("iou", 0.3))
    assert np.array_equal(found, np.arange(count) // 2 * 2)


def test_a_crowd_of_ten_thousand_becomes_one():
    random = np.random.default_rng(0)
    places = np.tile([0.0, 0.0, 40.0, 40.0], (10_000, 1)) + random.uniform(0, 2, (10_000, 4))
    crowd = Boxes(places, random.random(10_000).astype(np.float32), np.zeros(10_000, np.int32))
    assert (clusters(crowd, Matching()) == crowd.order()[0]).all()


@pytest.mark.parametrize("threshold", [0.5, 0.95])
@pytest.mark.parametrize("columns", [4, 5])
def test_a_crowd_does_not_bring_the_memory_of_its_pairs(threshold, columns):
    """4,000 boxes on one spot have 8 million pairs, 128 MB as two numbers each; few of them match at 0.95."""
    random = np.random.default_rng(0)
    places = np.concatenate([random.uniform(0, 6, (4000, 2)), random.uniform(30, 40, (4000, columns - 2))], axis=1)
    crowd = Boxes(places, random.random(4000).astype(np.float32), np.zeros(4000, np.int32))
    tracemalloc.start()
    try:
        kept = len(set(clusters(crowd, Matching("iou", threshold)).tolist()))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert kept < 20 if threshold == 0.5 else kept > 100
    assert peak < 64e6


# The numbers of obss/sahi tests/test_combine.py (MIT).
THREE = table([[0, 0, 10, 10], [1, 1, 9, 9], [100, 100, 110, 110]], [0.9, 0.8, 0.7])


@pytest.mark.parametrize(
    ("boxes", "matching", "expected"),
    [
        (THREE, Matching("iou", 0.5), [0, 2]),
        (THREE, Matching("iou", 0.99), [0, 1, 2]),
        (
            table([[0, 0, 10, 10], [1, 1, 9, 9], [0, 0, 10, 10]], [0.9, 0.8, 0.85], [1, 2, 1]),
            Matching("iou", 0.5),
            [0, 1],
        ),
        (table([[0, 0, 100, 100], [10, 10, 20, 20]], [0.9, 0.8]), Matching("iou", 0.5), [0, 1]),
        (table([[0, 0, 100, 100], [10, 10, 20, 20]], [0.9, 0.8]), Matching("ios", 0.5), [0]),
    ],
)
def test_nms_keeps_what_sahi_keeps(boxes, matching, expected):
    assert np.flatnonzero(clusters(boxes, matching) == np.arange(len(boxes))).tolist() == expected
    assert same_rows(Merge("nms", matching)(boxes), boxes.take(np.array(expected)))


def test_nmm_absorbs_what_sahi_absorbs():
    boxes = table([[0, 0, 20, 20], [2, 2, 10, 10], [5, 5, 15, 15]], [0.95, 0.5, 0.4])
    assert clusters(boxes, Matching("iou", 0.1)).tolist() == [0, 0, 0]


def test_boxes_repeated_at_borders_leave_none_that_share_a_fifth():
    """The property of deepness's test of NMS (Apache-2.0): objects seen whole by one tile and in part by others."""
    random = np.random.default_rng(3)
    corner = np.stack(np.meshgrid(np.arange(5) * 60.0, np.arange(2) * 60.0), axis=-1).reshape(-1, 2)
    whole = np.concatenate([corner, corner + random.uniform(20, 40, (10, 2))], axis=1)
    parts = np.concatenate([whole[:7], whole[:6]])
    parts[:7, 2] -= (parts[:7, 2] - parts[:7, 0]) * 0.3
    parts[7:, 1] += (parts[7:, 3] - parts[7:, 1]) * 0.6
    boxes = table(np.concatenate([whole, parts]).tolist())
    assert len(boxes) == 23
    kept = Merge("nms", Matching("ios", 0.2))(boxes)
    assert same_rows(kept, boxes.take(np.arange(10)))


def test_nmm_is_the_hull_with_the_best_score_and_class():
    boxes = table([[0, 0, 10, 10], [2, -3, 9, 8], [1, 1, 12, 10]], [0.5, 0.9, 0.4], [7, 8, 9])
    found = Merge("nmm", Matching("iou", 0.3, "any"))(boxes)
    assert found.places.tolist() == [[0, -3, 12, 10]]
    assert found.scores.tolist() == [np.float32(0.9)]
    assert found.classes.tolist() == [8]


def test_nmm_of_turned_boxes_holds_all_corners_in_the_orientation_of_the_keeper():
    boxes = table([[50, 50, 40, 10, 0.6], [55, 54, 40, 12, 0.7], [45, 47, 30, 8, 0.5]], [0.9, 0.8, 0.7])
    found = Merge("nmm", Matching("iou", 0.1))(boxes)
    assert len(found) == 1
    assert found.places[0, 4] == 0.6
    along, across = (axis[0] for axis in found.axes)
    away = boxes.corners.reshape(-1, 2) - found.centres[0]
    for axis, side in zip((along, across), found.sides[0], strict=True):
        reach = away @ axis
        assert reach.min() == pytest.approx(-side / 2)
        assert reach.max() == pytest.approx(side / 2)


@pytest.mark.parametrize("reduction", ["nms", "nmm", "wbf"])
@given(boxes=tables())
@settings(max_examples=60, deadline=None)
def test_a_box_that_matches_nothing_keeps_its_place_to_the_bit(reduction, boxes):
    alone = boxes.take(slice(0, 1))
    assert np.array_equal(Merge(reduction, Matching(), two)(alone).places, alone.places)


def test_wbf_is_the_mean_by_score_shared_by_the_tiles_that_look():
    boxes = table([[0, 0, 10, 10], [2, 0, 12, 10], [40, 0, 50, 10]], [0.6, 0.2, 0.5])
    looks = {5.5: 4, 45.0: 1}
    found = Merge("wbf", Matching(), lambda centres: np.array([looks[round(x, 3)] for x in centres[:, 0].tolist()]))(
        boxes
    )
    assert found.places[0] == pytest.approx([0.5, 0, 10.5, 10])
    assert found.places[1].tolist() == [40, 0, 50, 10]
    assert found.scores == pytest.approx([0.8 / 4, 0.5])


def test_wbf_never_exceeds_the_best_score_of_a_cluster():
    boxes = table([[0, 0, 10, 10]] * 3, [0.5, 0.4, 0.3])
    assert Merge("wbf", Matching(), two)(boxes).scores.tolist() == [0.5]


def test_wbf_of_scores_of_zero_is_the_plain_mean():
    boxes = table([[0, 0, 10, 10], [2, 0, 12, 10]], [0, 0])
    assert Merge("wbf", Matching(), two)(boxes).places.tolist() == [[1, 0, 11, 10]]


def test_wbf_of_turned_boxes_knows_a_rectangle_by_either_of_its_names():
    """Width 40 and height 10 at 0.3 is width 10 and height 40 a right angle further."""
    boxes = table([[50, 50, 40, 10, 0.3], [52, 50, 12, 42, 0.3 + math.pi / 2]], [0.75, 0.25])
    found = Merge("wbf", Matching("iou", 0.1), two)(boxes)
    assert found.places[0] == pytest.approx([50.5, 50, 40.5, 10.5, 0.3])


def test_wbf_refuses_scores_that_cannot_be_weights():
    with pytest.raises(UsageError, match="sigmoid"):
        Merge("wbf", Matching(), two)(table([[0, 0, 1, 1]], [-2.0]))
    with pytest.raises(UsageError, match="wbf"):
        Merge("wbf", Matching())
    with pytest.raises(UsageError, match="soft"):
        Merge("soft", Matching())


def test_ownership_keeps_what_has_its_centre_in_the_half_open_core():
    boxes = table([[8, 3, 12, 7], [18, 3, 22, 7], [3, 18, 7, 22], [12, 12, 30, 30]])
    assert same_rows(own_only(boxes, Region(0, 10, 20, 20)), boxes.take(np.array([0])))
    assert same_rows(own_only(boxes, Region(0, 20, 30, 40)), boxes.take(np.array([1, 3])))


@given(tables(), merges())
@settings(max_examples=60, deadline=None)
def test_a_block_with_no_neighbours_closes_everything(boxes, merge):
    closed, waiting = split(boxes, merge, (-math.inf, -math.inf, math.inf, math.inf))
    assert len(waiting) == 0
    assert same_rows(closed, merge(boxes))


@given(tables(), merges(), st.integers(0, 60), st.integers(0, 60))
@settings(max_examples=60, deadline=None)
def test_open_boxes_are_returned_as_they_were_and_reach_out_of_the_interior(boxes, merge, left, top):
    interior = left, top, left + 30, top + 30
    closed, waiting = split(boxes, merge, interior)
    hulls = boxes.hulls
    outside = (hulls[:, :2] < interior[:2]).any(axis=1) | (hulls[:, 2:] > interior[2:]).any(axis=1)
    alone = Merge("nms", Matching("iou", 0.99))
    assert len(waiting) >= outside.sum()
    # With the open ones, the closed ones are those of the whole.
    assert same_rows(Boxes.joined([closed, merge(waiting)]), merge(boxes))
    closed, waiting = split(boxes.take(outside), alone, interior)
    assert len(closed) == 0
    assert same_rows(waiting, boxes.take(outside))


def test_two_parallel_turned_ships_survive_every_merge():
    """60 px long, 8 px wide, 10 px apart, each seen by two tiles that place it a pixel apart."""
    turn = math.radians(35)
    away = 10 * np.array([-math.sin(turn), math.cos(turn)])
    places = [[100 + e, 100, 60, 8, turn] for e in (0, 1)]
    places += [[100 + away[0] + e, 100 + away[1], 60, 8, turn] for e in (0, 1)]
    ships = table(places, [0.9, 0.8, 0.85, 0.7])
    for reduction in ("nms", "nmm", "wbf"):
        found = Merge(reduction, default_matching(True), two)(ships)
        assert len(found) == 2
        assert np.abs(found.centres - [[100, 100], 100 + away]).max() <= 1


# A grid of tiles: 64 px, 32 px shared, over an image in whose middle four tiles look at each place.
IMAGE = (160, 160)
GRID = Tiling(tile=64, overlap=32).resolved((64, 64)).grid(IMAGE)


def reads():
    """xmin, ymin, xmax, ymax of what each tile sees, and of its core."""
    for row in range(GRID.y.count):
        for col in range(GRID.x.count):
            (y0, y1), (x0, x1) = GRID.y.read(row), GRID.x.read(col)
            yield (x0, y0, x1, y1), GRID.core(row, col)


looks = TileLooks(GRID)


def test_tiles_that_look_at_a_place_are_counted():
    at = np.arange(-40, 200, 0.5)
    x, y = centres = np.stack(np.meshgrid(at, at)).reshape(2, -1)
    seen = sum(((x >= x0) & (x < x1) & (y >= y0) & (y < y1)).astype(int) for (x0, y0, x1, y1), _ in reads())
    assert set(seen) == {0, 1, 2, 4}
    assert np.array_equal(looks(centres.T), seen)


REAL, FALSE = (60.0, 58.0, 76.0, 74.0), (84.0, 84.0, 96.0, 96.0)


def detector(seen, lying):
    """The tile's boxes: the real object where it is seen whole; and a false one in the lying tile."""
    found = [REAL] if seen[0] <= REAL[0] and seen[1] <= REAL[1] and seen[2] >= REAL[2] and seen[3] >= REAL[3] else []
    scores = [0.9] * len(found)
    if lying:
        found, scores = [*found, FALSE], [*scores, 0.8]
    return table(found, scores) if found else Boxes.empty(4)


@pytest.mark.parametrize(
    ("reduction", "owner_lies", "expected"),
    [
        ("nms", True, {REAL: 0.9, FALSE: 0.8}),
        ("nmm", True, {REAL: 0.9, FALSE: 0.8}),
        ("wbf", True, {REAL: 0.9, FALSE: 0.2}),
        ("wbf", False, {REAL: 0.9, FALSE: 0.2}),
        ("ownership", True, {REAL: 0.9, FALSE: 0.8}),
        ("ownership", False, {REAL: 0.9}),
    ],
)
def test_a_false_positive_of_one_of_four_tiles(reduction, owner_lies, expected):
    """nms and nmm keep it as it is, wbf a quarter of its score, ownership all or nothing: whether the owner said it."""
    places = list(reads())
    centre = (FALSE[0] + FALSE[2]) / 2, (FALSE[1] + FALSE[3]) / 2
    assert looks(np.array([centre])).tolist() == [4]
    sees = [s[0] <= centre[0] < s[2] and s[1] <= centre[1] < s[3] for s, _ in places]
    owns = [c.x0 <= centre[0] < c.x1 and c.y0 <= centre[1] < c.y1 for _, c in places]
    liar = next(i for i in range(len(places)) if sees[i] and owns[i] == owner_lies)
    tiles = [detector(seen, index == liar) for index, (seen, _) in enumerate(places)]
    # The real object is said by every tile that looks at its centre, so that wbf gives it its full score.
    assert sum(len(tile) for tile in tiles) - 1 == looks(Boxes.joined(tiles).take(slice(0, 1)).centres)[0] > 1
    if reduction == "ownership":
        nms = Merge("nms", default_matching(False))
        found = Boxes.joined([own_only(nms(tile), core) for tile, (_, core) in zip(tiles, places, strict=True)])
    else:
        found = Merge(reduction, default_matching(False), looks)(Boxes.joined(tiles))
    rows = zip(map(tuple, found.places.tolist()), found.scores.tolist(), strict=True)
    assert dict(rows) == {place: pytest.approx(score) for place, score in expected.items()}
