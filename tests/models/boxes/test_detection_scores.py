"""The scores of boxes, on cases worked out by hand."""

import numpy as np
import pytest

from gigatile.testing.detection_scores import greedy_nms, hits_of, overlaps, score_detections


def row(x, y, side, score, label=0):
    return [x, y, x + side, y + side, score, label]


def test_iou_of_boxes_by_hand():
    ious = overlaps(np.array([[0, 0, 2, 2]]), np.array([[1, 0, 3, 2], [0, 0, 2, 2], [5, 5, 6, 6], [2, 0, 4, 2]]))
    np.testing.assert_allclose(ious, [[1 / 3, 1, 0, 0]])
    assert overlaps(np.zeros((1, 4)), np.zeros((1, 4))).tolist() == [[0]]


def test_ios_divides_by_the_smaller_so_that_a_half_matches_its_whole():
    half, whole = [0, 0, 1, 2], [0, 0, 2, 2]
    assert overlaps(np.array([half]), np.array([whole]), "ios").tolist() == [[1]]
    rows = np.array([[*whole, 0.9, 0], [*half, 0.8, 0]])
    assert (len(greedy_nms(rows, 0.5)), len(greedy_nms(rows, 0.5, "ios"))) == (2, 1)


def test_nms_keeps_the_best_of_a_class_and_what_it_does_not_overlap_by_more():
    rows = np.array([row(0, 0, 10, 0.8), row(1, 1, 10, 0.9), row(100, 0, 10, 0.7), row(1, 1, 10, 0.6, 1)])
    assert greedy_nms(rows, 0.5).tolist() == [1, 2, 3]
    assert greedy_nms(rows, 0.99).tolist() == [1, 0, 2, 3]
    half = np.array([[0, 0, 2, 1, 0.9, 0], [0, 0, 1, 1, 0.8, 0]])
    assert len(greedy_nms(half, 0.5)) == 2


def test_a_true_box_is_hit_once_and_by_the_best():
    found = np.array([row(0, 0, 10, 0.5), row(0, 1, 10, 0.9), row(0, 0, 10, 0.95, 1)])
    assert hits_of(found, np.array([[0, 0, 10, 10, 0]])).tolist() == [False, True, False]


def test_average_precision_of_a_miss_between_two_hits():
    """Precision 1 up to recall 1/2, then 2/3: 51 and 50 of the 101 recalls."""
    found = np.array([row(0, 0, 10, 0.9), row(50, 50, 10, 0.8), row(20, 20, 10, 0.7)])
    true = np.array([[0, 0, 10, 10, 0], [20, 20, 30, 30, 0]])
    score = score_detections([found], [true])
    assert score.average_precision == pytest.approx((51 + 50 * 2 / 3) / 101)
    assert (score.hits, score.found, score.true) == (2, 3, 2)
    assert (score.precision, score.recall, score.f1) == pytest.approx((2 / 3, 1, 0.8))


def test_pictures_are_pooled_by_score_and_classes_averaged():
    first, second = np.array([row(0, 0, 10, 0.2)]), np.array([row(0, 0, 10, 0.9), row(9, 9, 9, 0.8, 1)])
    true = [np.array([[0, 0, 10, 10, 0]]), np.array([[40, 40, 50, 50, 0], [9, 9, 18, 18, 1]])]
    score = score_detections([first, second], true)
    # Class 0: the miss of the second picture comes first, so precision is 1/2 up to recall 1/2; class 1: 1.
    assert score.average_precision == pytest.approx((51 * 0.5 / 101 + 1) / 2)


def test_nothing_found_and_nothing_there_have_scores():
    nothing, boxes = np.zeros((0, 6)), np.array([[0, 0, 1, 1, 0]])
    assert score_detections([nothing], [boxes]).average_precision == 0
    empty = score_detections([], [])
    assert np.isnan(empty.average_precision)
    assert (empty.precision, empty.recall, empty.f1) == (0, 0, 0)
    assert score_detections([np.array([row(0, 0, 5, 1)])], [np.zeros((0, 5))]).precision == 0
