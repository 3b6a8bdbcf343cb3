"""Labels of two cells are one object if each is the other's best partner, never because they touch."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gigatile.errors import UsageError
from gigatile.objects.agreement import Agreement, agreements
from gigatile.objects.cells import Patch
from gigatile.tiling.region import Region

IOS = Agreement()


def pairs(a, b, agreement=IOS):
    """Pairs of labels of two arrays of the same pixels."""
    patches = (Patch(np.array(x, np.uint32), Region(5, 5, 5 + len(x), 5 + len(x[0]))) for x in (a, b))
    return list(zip(*(side.tolist() for side in agreements(*patches, agreement)), strict=True))


def slowly(a, b, agreement):
    """The definition, label by label."""
    a, b = np.array(a), np.array(b)

    def key(i, j):
        both = int(((a == i) & (b == j)).sum())
        return both / int(((a == i) | (b == j)).sum()), both

    def best(i, others, swap):
        scored = [((key(j, i) if swap else key(i, j)), -j) for j in others]
        scored = [s for s in scored if s[0][1] > 0]
        return -max(scored)[1] if scored else None

    ours, theirs = sorted(set(a[a > 0].tolist())), sorted(set(b[b > 0].tolist()))
    found = []
    for i in ours:
        j = best(i, theirs, False)
        if j is None or best(j, ours, True) != i:
            continue
        iou, both = key(i, j)
        smaller = min(int((a == i).sum()), int((b == j).sum()))
        if (iou if agreement.measure == "iou" else both / smaller) > agreement.threshold:
            found.append((i, j))
    return found


ARRAY = st.lists(st.lists(st.integers(0, 3), min_size=5, max_size=5), min_size=4, max_size=4)


@given(ARRAY, ARRAY, st.sampled_from(["iou", "ios"]), st.sampled_from([0.0, 0.25, 0.5, 0.75]))
def test_pairs_are_those_of_the_definition(a, b, measure, threshold):
    agreement = Agreement(measure, threshold)
    assert pairs(a, b, agreement) == slowly(a, b, agreement)
    assert sorted((j, i) for i, j in pairs(b, a, agreement)) == pairs(a, b, agreement)


def test_touching_labels_are_not_one_object():
    assert pairs([[1, 1, 0, 0]], [[0, 0, 1, 1]]) == []


def test_the_threshold_itself_is_not_enough():
    a, b = [[1, 1, 1, 1]], [[1, 1, 0, 0]]
    assert pairs(a, b, Agreement("iou", 0.5)) == []
    assert pairs(a, b, Agreement("iou", 0.49)) == [(1, 1)]


def test_a_sliver_inside_a_label_does_not_take_it_from_its_true_partner():
    # 1 of A is a sliver wholly inside 1 of B (IoS 1), 2 of A covers nearly all of it (IoS 8/9).
    a = [[1, 2, 2, 2, 2, 2, 2, 2, 2, 2]]
    b = [[1, 1, 1, 1, 1, 1, 1, 1, 1, 0]]
    assert pairs(a, b) == [(2, 1)]


def test_equals_go_to_the_smaller_number():
    assert pairs([[1, 1, 2, 2]], [[1, 1, 1, 1]]) == [(1, 1)]


def test_only_pixels_that_both_see_count():
    a = Patch(np.array([[1, 1, 1, 1, 1, 2]], np.uint32), Region(0, 0, 1, 6))
    b = Patch(np.array([[3, 4, 4, 4, 4, 4]], np.uint32), Region(0, 4, 1, 10))
    assert [side.tolist() for side in agreements(a, b, Agreement())] == [[1, 2], [3, 4]]
    away = Patch(b.labels, Region(0, 6, 1, 12))
    assert [side.tolist() for side in agreements(a, away, Agreement())] == [[], []]


@pytest.mark.parametrize(("measure", "threshold"), [("dice", 0.5), ("iou", 1.0), ("ios", -0.1), ("iou", float("nan"))])
def test_other_measures_and_thresholds_are_refused(measure, threshold):
    with pytest.raises(UsageError, match="match"):
        Agreement(measure, threshold)
