"""Scores of labels on cases counted by hand, and the published baseline of the nuclei pictures."""

import json

import numpy as np
import pytest

from gigatile.testing.instance_scores import DSB2018_THRESHOLDS, Counts, counted, counted_at, mean_average_precision
from scripts.nuclei.baseline import baseline
from scripts.nuclei.pictures import read
from tests.data import data

TRUTH = np.array([[1, 1, 1, 1, 0, 2, 2, 2, 2, 0, 3, 3]])


def test_equal_labels_score_one_whatever_their_numbers():
    found = np.where(TRUTH > 0, 70 - TRUTH, 0)
    counts = counted(found, TRUTH)
    assert counts == Counts(3, 0, 0, 3.0)
    assert counts.f1 == counts.panoptic_quality == counts.average_precision == 1


def test_pairs_and_leftovers_are_counted_as_by_hand():
    # 3 of 4 pixels: IoU 0.75; 2 of 4: IoU 0.5, which is not above; a false one; a missed one
    found = np.array([[1, 1, 1, 0, 4, 2, 2, 0, 0, 0, 0, 0]])
    counts = counted(found, TRUTH)
    assert counts == Counts(tp=1, fp=2, fn=2, iou=0.75)
    assert counts.precision == counts.recall == counts.f1 == 1 / 3
    assert counts.average_precision == 1 / 5
    assert counts.panoptic_quality == pytest.approx(0.75 / (1 + 0.5 * 2 + 0.5 * 2))


def test_two_that_were_joined_are_one_false_and_two_missed():
    found = np.where((TRUTH == 1) | (TRUTH == 2), 1, 0)
    assert counted(found, TRUTH) == Counts(tp=0, fp=1, fn=3, iou=0)


def test_a_threshold_is_the_first_value_that_does_not_count():
    found = np.array([[1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]])
    assert counted(found, TRUTH, 0.75).tp == 0
    assert counted(found, TRUTH, 0.74).tp == 1


def test_pictures_are_pooled_by_adding_counts_not_by_averaging_scores():
    one, other = Counts(9, 1, 0, 9), Counts(0, 0, 5, 0)
    assert (one + other).f1 == pytest.approx(18 / 24)
    assert sum((one, other), Counts()) == one + other


def test_average_precision_is_the_mean_over_thresholds_of_the_pool():
    truth = np.repeat(np.arange(1, 3), 100)[None]
    found = np.where(np.arange(200) < 90, 1, 2)[None]  # IoU 0.9 and 100/110 = 0.909
    at = counted_at(found, truth, DSB2018_THRESHOLDS)
    assert [counts.tp for counts in at] == [2] * 8 + [1, 0]  # 0.9 is not above 0.9
    assert mean_average_precision([at, at]) == pytest.approx((8 * 1 + 1 / 3 + 0) / 10)


def test_nothing_found_where_nothing_is_is_right():
    empty = np.zeros((4, 5), np.uint16)
    assert counted(empty, empty) == Counts()
    assert counted(empty, empty).f1 == 1
    assert counted(np.zeros((0, 5), int), np.zeros((0, 5), int)) == Counts()


@pytest.mark.parametrize("threshold", [0.49, 1.01])
def test_thresholds_at_which_partners_would_have_to_be_chosen_are_refused(threshold):
    with pytest.raises(ValueError, match=r"0\.5 to 1"):
        counted(TRUTH, TRUTH, threshold)


def test_labels_of_two_shapes_are_refused():
    with pytest.raises(ValueError, match="one shape"):
        counted(TRUTH, TRUTH[:, 1:])


def test_the_published_baseline_of_a_picture_comes_out_again():
    folder = data("gt_nuclei_dsb2018")
    rows = json.loads(data("reference/dsb2018_unet_whole_image.json").read_text())["rows"]
    published = {row["file"].removesuffix(".png"): (row["tp"], row["fp"], row["fn"]) for row in rows}
    for name in ("fluo_256x256_64eeef16fd", "he_320x256_f952cc6537"):
        picture = read(folder, name)
        counts = counted(baseline(picture, data("models/unet2d_nuclei_broad_dynamic.onnx")), picture.labels)
        assert (counts.tp, counts.fp, counts.fn) == published[name]
