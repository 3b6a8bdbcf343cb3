"""Tables of boxes: places, hulls and the one order that all merges follow."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gigatile.errors import UsageError
from gigatile.objects.boxes import Boxes


def table(places, scores=None, classes=None):
    places = np.array(places, np.float64)
    scores = np.ones(len(places)) if scores is None else scores
    classes = np.zeros(len(places)) if classes is None else classes
    return Boxes(places, np.array(scores, np.float32), np.array(classes, np.int32))


def test_radians_turn_x_towards_y():
    box = table([[10, 20, 8, 2, math.pi / 2]])
    assert box.hulls[0] == pytest.approx([9, 16, 11, 24])
    # The first corner is the upper left one; after a quarter turn it is at the upper right.
    assert box.corners[0, 0] == pytest.approx([11, 16])
    # An eighth of a turn: the end of `width` goes down and to the right, on a screen whose y points down.
    ends = table([[0, 0, 2, 0, math.pi / 4]]).corners[0]
    assert ends[1] == pytest.approx([math.sqrt(0.5), math.sqrt(0.5)])


def test_corners_of_both_kinds_agree_where_nothing_is_turned():
    flat, turned = table([[2, 3, 8, 5]]), table([[5, 4, 6, 2, 0]])
    assert np.array_equal(flat.corners, turned.corners)
    assert np.array_equal(flat.hulls, turned.hulls)
    assert np.array_equal(flat.centres, turned.centres)
    assert flat.areas == turned.areas == [12]


def test_corners_have_the_same_bits_in_every_table():
    """Sines of a vector of angles and of one angle: merges of parts are compared to the bit."""
    random = np.random.default_rng(0)
    boxes = table(random.uniform(-10, 10, (1001, 5)).tolist())
    alone = [boxes.take(slice(row, row + 1)).corners[0] for row in range(1001)]
    assert np.array_equal(boxes.corners, alone)
    assert np.array_equal(boxes.take(slice(1, None, 3)).corners, alone[1::3])


@pytest.mark.parametrize("columns", [4, 5])
def test_empty_tables_work(columns):
    none = Boxes.empty(columns)
    assert len(none) == len(none.order()) == 0
    assert none.hulls.shape == (0, 4)
    assert none.corners.shape == (0, 4, 2)
    assert none.centres.shape == (0, 2)
    assert none.shifted(1, 2).places.shape == Boxes.joined([none, none]).places.shape == (0, columns)
    assert none.oriented == (columns == 5)


def test_a_move_moves_places_and_not_sides():
    assert np.array_equal(table([[1, 2, 3, 4]]).shifted(10, 20).places, [[11, 22, 13, 24]])
    assert np.array_equal(table([[1, 2, 3, 4, 0.5]]).shifted(10, 20).places, [[11, 22, 3, 4, 0.5]])


def test_an_inside_out_box_has_no_area():
    assert table([[5, 5, 3, 3], [0, 0, 0, 4]]).areas.tolist() == [0, 0]
    assert table([[5, 5, -3, -3, 0]]).areas.tolist() == [0]


def test_order_is_by_score_then_ymin_xmin_ymax_xmax_then_class():
    places = [[0, 1, 5, 5], [1, 0, 5, 5], [0, 0, 5, 6], [0, 0, 6, 5], [0, 0, 5, 5], [0, 0, 5, 5], [9, 9, 10, 10]]
    boxes = table(places, [0.5] * 6 + [0.9], [0, 0, 0, 0, 2, 1, 0])
    assert boxes.order().tolist() == [6, 5, 4, 3, 2, 1, 0]


small = st.integers(-3, 3).map(float)
rows = st.lists(st.tuples(*[small] * 5, st.sampled_from([0.25, 0.5, 1.0]), st.integers(0, 2)), max_size=12)


@given(rows, st.sampled_from([4, 5]), st.randoms(use_true_random=False))
def test_order_does_not_depend_on_the_order_of_rows(found, columns, random):
    shuffled = random.sample(found, len(found))
    one, other = (
        table(
            np.array([row[:columns] for row in part], float).reshape(-1, columns),
            [row[5] for row in part],
            [row[6] for row in part],
        )
        for part in (found, shuffled)
    )
    one, other = one.take(one.order()), other.take(other.order())
    assert np.array_equal(one.places, other.places)
    assert np.array_equal(one.scores, other.scores)
    assert np.array_equal(one.classes, other.classes)
    assert (np.diff(one.scores) <= 0).all()


@pytest.mark.parametrize(
    ("places", "scores", "classes"),
    [
        (np.zeros((2, 6)), np.zeros(2, np.float32), np.zeros(2, np.int32)),
        (np.zeros((2, 4), np.float32), np.zeros(2, np.float32), np.zeros(2, np.int32)),
        (np.zeros((2, 4)), np.zeros(2), np.zeros(2, np.int32)),
        (np.zeros((2, 4)), np.zeros(3, np.float32), np.zeros(2, np.int32)),
        (np.full((2, 4), np.nan), np.zeros(2, np.float32), np.zeros(2, np.int32)),
        (np.zeros((2, 4)), np.full(2, np.inf, np.float32), np.zeros(2, np.int32)),
    ],
)
def test_arrays_that_do_not_fit_are_refused(places, scores, classes):
    with pytest.raises(UsageError, match="boxes, "):
        Boxes(places, scores, classes)


def test_kinds_do_not_mix():
    with pytest.raises(UsageError, match="axis-aligned and turned"):
        Boxes.joined([Boxes.empty(4), Boxes.empty(5)])
    with pytest.raises(UsageError, match="no table"):
        Boxes.joined([])
