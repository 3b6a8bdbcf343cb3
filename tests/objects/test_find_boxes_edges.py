"""Boxes at the edges of what tiles see: none goes missing, and none reaches farther than was said."""

import numpy as np
import pytest

import gigatile as gt
from gigatile.engine.find_boxes import placed, reach
from gigatile.plans.finding import Detect
from gigatile.tiling.border import Border, parse_border

TILING = gt.Tiling(tile=64, overlap=16, border="symmetric")


def on_the_corner(batch):
    """One turned box a tile, whose centre is the far corner of the image: what a mirrored object looks like."""
    return [np.array([[40.0, 40.0, 12.0, 6.0, 0.3, 0.9, 0.0]]) for _ in batch]


@pytest.mark.parametrize("merge", ["nms", "nmm", "wbf", "ownership"])
def test_a_turned_box_whose_centre_lies_on_the_last_edge_is_there_however_it_is_merged(tmp_path, merge):
    # One tile, whose far corner lies at (40, 40) of what it sees.
    plan = gt.plan(
        gt.open(np.zeros((1, 32, 32), np.uint8), axes="cyx"),
        gt.load_model(on_the_corner),
        TILING,
        objects=Detect(merge),
    )
    table = gt.run(plan, tmp_path / "out", durable=False).objects()
    assert [(row["cx"], row["cy"]) for row in table.to_pylist()] == [(32.0, 32.0)]


@pytest.mark.parametrize("tile", [64, 100, 416, 1000])
def test_turned_boxes_as_long_as_a_tile_lie_within_the_reach(tile):
    grid = gt.Tiling(tile=tile, overlap=16, blend="trim").resolved((tile, tile)).grid((10 * tile, 10 * tile))
    rng = np.random.default_rng(tile)
    width = rng.uniform(1, tile, 100_000)
    height = np.sqrt(tile * tile - width * width)
    angle = np.arctan2(width, height) + np.pi * rng.integers(0, 2, len(width))
    ones = np.ones_like(width)
    rows = np.stack([ones * tile / 2, 0 * ones, width, height, angle, ones, 0 * ones], axis=1)
    boxes = placed(rows, grid, 1, 5, Border("reflect"))
    assert len(boxes) > 50_000
    # What is found below would be refused if it lay above what was said to be finished.
    assert boxes.hulls[:, 1].min() >= grid.core(1, 5).y0 - reach(grid, True)


@pytest.mark.parametrize(("border", "kept"), [("symmetric", 1), ("reflect", 0), ("constant:0", 0)])
def test_a_centre_on_the_last_edge_is_in_the_image_where_that_is_the_middle_of_an_object_and_its_mirror_image(
    border, kept
):
    grid = gt.Tiling(tile=64, overlap=16, blend="trim").resolved((64, 64)).grid((32, 32))
    rows = np.array([[34.0, 20.0, 46.0, 30.0, 0.9, 0.0]])
    assert len(placed(rows, grid, 0, 0, parse_border(border))) == kept


def upright_or_turned(batch):
    """Turned boxes in bright tiles, upright ones in others."""
    rows = [[20.0, 20, 8, 4, 0.3, 0.9, 0], [20.0, 20, 30, 30, 0.9, 0]]
    return [np.array([rows[0] if tile.max() > 0.5 else rows[1]]) for tile in batch]


def test_upright_and_turned_boxes_in_one_block_fail_it_and_not_the_run(tmp_path):
    pixels = np.zeros((1, 200, 200), np.uint8)
    pixels[:, 150:, 150:] = 255
    plan = gt.plan(gt.open(pixels, axes="cyx"), gt.load_model(upright_or_turned), TILING, objects=Detect())
    result = gt.run(plan, tmp_path / "out", durable=False)
    assert (result.complete, result.status.failed) == (False, 1)
    assert "columns, as for other tiles" in result.status.errors[0]
