"""Small tables of boxes, and what the merges are defined to do with them, written out one box at a time."""

import numpy as np
import shapely
from hypothesis import strategies as st

from gigatile.objects.boxes import Boxes
from gigatile.objects.match import Matching

THRESHOLDS = (0.05, 0.1, 0.3, 0.5, 0.7, 0.95)


def table(places, scores=None, classes=None, columns=4):
    """Boxes of lists; scores fall from row to row where none are given."""
    places = np.array(places, np.float64).reshape(-1, len(places[0]) if len(places) else columns)
    scores = np.linspace(0.9, 0.1, len(places)) if scores is None else scores
    classes = np.zeros(len(places)) if classes is None else classes
    return Boxes(places, np.array(scores, np.float32), np.array(classes, np.int32))


def same_rows(one, other):
    """Whether two tables hold the same rows to the bit, in any order."""
    one, other = one.take(one.order()), other.take(other.order())
    parts = ("places", "scores", "classes")
    return all(np.array_equal(getattr(one, part), getattr(other, part)) for part in parts)


def overlap(boxes, a, b, measure):
    """IoU or IoS of two rows, by the definition; of turned boxes by GEOS."""
    if boxes.oriented:
        one, other = shapely.polygons(boxes.corners[[a, b]])
        shared = shapely.area(shapely.intersection(one, other))
    else:
        x0, y0, x1, y1 = np.array([boxes.places[a], boxes.places[b]]).T.tolist()
        shared = max(min(x1) - max(x0), 0) * max(min(y1) - max(y0), 0)
    areas = boxes.areas[a], boxes.areas[b]
    if min(areas) == 0:
        return 0.0
    return float(shared / (min(areas) if measure == "ios" else areas[0] + areas[1] - shared))


def keepers(boxes, matching):
    """The keeper of each row: from the best on, a box that is not taken takes every later one that matches it."""
    order = boxes.order().tolist()
    found = {}
    for rank, row in enumerate(order):
        if row in found:
            continue
        found[row] = row
        for later in order[rank + 1 :]:
            alike = matching.classes == "any" or boxes.classes[row] == boxes.classes[later]
            if later not in found and alike and overlap(boxes, row, later, matching.measure) > matching.threshold:
                found[later] = row
    return [found[row] for row in range(len(boxes))]


@st.composite
def tables(draw, columns=None, most=24, span=60, longest=24):
    """Crowded tables with equal scores, equal boxes, boxes without area, and chains across all of it."""
    columns = draw(st.sampled_from([4, 5])) if columns is None else columns
    count = draw(st.integers(0, most))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    step = draw(st.sampled_from([1.0, 0.25]))
    sides = random.integers(0 if draw(st.booleans()) else 1, longest, (count, 2)) * 1.0
    centres = np.round(random.uniform(0, span, (count, 2)) / step) * step
    if count and draw(st.booleans()):
        # A chain: each box a part of a side further than the last.
        sides[:] = draw(st.integers(4, longest))
        way = np.array([draw(st.integers(-3, 3)), draw(st.integers(-3, 3))])
        centres = np.arange(count)[:, None] * way + span / 2
    if columns == 4:
        places = np.concatenate([centres - sides / 2, centres + sides / 2], axis=1)
    else:
        turns = np.array([0, 0.3, np.pi / 4, np.pi / 2, 2.5])
        places = np.concatenate([centres, sides, random.choice(turns, (count, 1))], axis=1)
    if count > 2 and draw(st.booleans()):
        places[count // 2 :] = places[: count - count // 2]
    scores = random.choice(np.array([0.25, 0.5, 0.75]), count) if draw(st.booleans()) else random.random(count)
    classes = random.integers(0, draw(st.integers(1, 3)), count)
    return Boxes(places, scores.astype(np.float32), classes.astype(np.int32))


@st.composite
def matchings(draw):
    """Both measures, within a class and among all."""
    threshold = draw(st.sampled_from(THRESHOLDS) | st.floats(0.05, 0.95))
    return Matching(draw(st.sampled_from(["iou", "ios"])), threshold, draw(st.sampled_from(["same", "any"])))
