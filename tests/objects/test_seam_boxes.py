"""Merged block by block and seam by seam, the rows are those of one merge of everything."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gigatile.errors import UsageError
from gigatile.objects.boxes import Boxes
from gigatile.objects.match import Matching
from gigatile.objects.merge import Merge, split
from gigatile.objects.seam_boxes import SeamBoxes
from tests.objects.tables import matchings, same_rows, table, tables


def checkered(centres):
    """A number of tiles that differs from place to place."""
    return 1 + (centres // 16).astype(int).sum(axis=1) % 4


def streamed(boxes, merge, side, owners, span=96):
    """Split into blocks of `side`, merged by rows of blocks; also how many boxes were held at most.

    `owners` (m, 2): row and column of the block that found each box. Boxes reach out of their blocks as far as they do.
    """
    count = -(-span // side)
    origin = owners[:, ::-1] * side
    hulls = boxes.hulls
    out = np.concatenate([origin - hulls[:, :2], hulls[:, 2:] - origin - side], axis=1)
    reach = max(math.ceil(out.max()), 0) if len(boxes) else 0
    seam, parts, most = SeamBoxes(merge, boxes.places.shape[1]), [], 0
    for row in range(count):
        waiting = []
        for col in range(count):
            interior = (
                col * side + reach if col else -math.inf,
                row * side + reach if row else -math.inf,
                (col + 1) * side - reach if col < count - 1 else math.inf,
                (row + 1) * side - reach if row < count - 1 else math.inf,
            )
            closed, part = split(boxes.take((owners == (row, col)).all(axis=1)), merge, interior)
            parts.append(closed)
            waiting.append(part)
        parts.append(seam.add(Boxes.joined(waiting), (row + 1) * side - reach))
        most = max(most, len(seam.held))
    parts.append(seam.finish())
    return Boxes.joined(parts), most


def merges():
    return st.builds(Merge, st.sampled_from(["nms", "nmm", "wbf"]), matchings(), st.just(checkered))


@given(tables(most=60, span=96, longest=12), merges(), st.sampled_from([16, 24, 32, 48, 96]))
@settings(max_examples=80, deadline=None)
def test_streamed_is_the_merge_of_everything(boxes, merge, side):
    count = -(-96 // side)
    owners = np.clip(boxes.centres[:, ::-1] // side, 0, count - 1).astype(int)
    assert same_rows(streamed(boxes, merge, side, owners)[0], merge(boxes))


@given(tables(most=30, span=96, longest=70), merges(), st.sampled_from([16, 32, 48]), st.integers(0, 2**32))
@settings(max_examples=50, deadline=None)
def test_which_block_found_a_box_does_not_matter(boxes, merge, side, seed):
    """Blocks a row or column off, and boxes larger than a block."""
    count = -(-96 // side)
    owners = (boxes.centres[:, ::-1] // side).astype(int)
    owners = np.clip(owners + np.random.default_rng(seed).integers(-1, 2, owners.shape), 0, count - 1)
    assert same_rows(streamed(boxes, merge, side, owners)[0], merge(boxes))


@pytest.mark.parametrize("reduction", ["nms", "nmm", "wbf"])
@pytest.mark.parametrize("turn", [None, 0.0, 0.5])
def test_a_chain_across_several_blocks_is_one_group(reduction, turn):
    """Down the diagonal, through corners where four blocks meet: held as a whole, each box matches neighbours only."""
    centres = np.arange(4, 92, 2.0)
    if turn is None:
        places = np.stack([centres - 4, centres - 4, centres + 4, centres + 4], axis=1)
    else:
        places = np.stack([centres, centres, 0 * centres + 8, 0 * centres + 8, 0 * centres + turn], axis=1)
    scores = np.random.default_rng(1).choice([0.3, 0.6, 0.9], len(places))
    boxes = table(places.tolist(), scores)
    merge = Merge(reduction, Matching("iou", 0.3), checkered)
    owners = (boxes.centres[:, ::-1] // 16).astype(int)
    found, most = streamed(boxes, merge, 16, owners)
    assert same_rows(found, merge(boxes))
    assert most == len(boxes)


@pytest.mark.parametrize("reduction", ["nms", "nmm", "wbf"])
def test_a_box_seen_by_four_blocks_at_their_corner_is_one(reduction):
    boxes = table([[44, 44, 52, 52], [44, 44, 51, 52], [45, 44, 52, 52], [44, 45, 52, 52]], [0.5] * 4)
    merge = Merge(reduction, Matching(), checkered)
    found, _ = streamed(boxes, merge, 48, np.array([[0, 0], [0, 1], [1, 0], [1, 1]]))
    assert len(found) == 1
    assert same_rows(found, merge(boxes))


def test_no_more_is_held_than_reaches_the_next_row():
    """A field of separate boxes, and one chain from top to bottom: only the chain and the seam's own boxes wait."""
    merge = Merge("nms", Matching("iou", 0.3))
    corner = np.stack(np.meshgrid(np.arange(20, 96, 8.0), np.arange(0, 96, 8.0)), axis=-1).reshape(-1, 2)
    field = table(np.concatenate([corner + 1, corner + 7], axis=1).tolist())
    seam = SeamBoxes(merge, 4)
    assert len(seam.add(field.take(field.hulls[:, 3] < 48), 48)) == (field.hulls[:, 3] < 48).sum()
    assert len(seam.held) == 0
    crossing = table([[0, y, 8, y + 8] for y in range(48, 64, 2)])
    assert len(seam.add(crossing, 60)) == 0
    assert len(seam.held) == len(crossing)
    assert len(seam.finish()) == len(merge(crossing))
    assert len(seam.held) == 0


def test_what_is_held_does_not_grow_with_the_image():
    """Crowds on every seam: as many boxes wait in the twentieth row of blocks as in the second."""
    seam, random, held = SeamBoxes(Merge("nms", Matching()), 4), np.random.default_rng(0), []
    left = 0
    for row in range(20):
        corner = np.repeat(random.uniform(0, 1000, (30, 1)), 10, axis=0)
        top = (row + 1) * 100 - random.uniform(10, 20, corner.shape)
        places = np.concatenate([corner, top, corner + 30, top + 30], axis=1) + random.normal(0, 0.5, (300, 4))
        left += len(seam.add(table(places.tolist()), (row + 1) * 100 - 25))
        held.append(len(seam.held))
    assert held == [300] * 20
    assert 20 * 20 < left + len(seam.finish()) <= 20 * 30


def test_rows_that_come_too_late_are_refused():
    seam = SeamBoxes(Merge("nms", Matching()), 4)
    seam.add(table([[0, 0, 8, 8]]), 10)
    with pytest.raises(UsageError, match="top to bottom"):
        seam.add(table([[0, 9, 8, 18]]), 20)
    with pytest.raises(UsageError, match="top to bottom"):
        seam.add(Boxes.empty(4), 5)


@pytest.mark.parametrize("columns", [4, 5])
def test_rows_without_boxes_pass(columns):
    seam = SeamBoxes(Merge("nmm", Matching()), columns)
    assert len(seam.add(Boxes.empty(columns), 10)) == len(seam.finish()) == 0
