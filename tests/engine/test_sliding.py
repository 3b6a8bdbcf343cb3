"""The sliding window as an API: the engine's tiles and the engine's blend, in the user's own loop."""

from __future__ import annotations

import numpy as np
import pytest

import gigatile as gt
from gigatile.errors import UsageError

ORDERS = ("row", "snake", "hilbert")


def picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(5).random((2, height, width), np.float32)


def stitched(image: gt.Image, tiling: gt.Tiling, order: str, function) -> np.ndarray:
    out = np.full((1, *image.grid_shape), np.nan, np.float32)
    stitcher = gt.Stitcher(image, tiling, channels=1)
    for tile in gt.tiles(image, tiling, order=order):
        for y, band in stitcher.add(tile, function(tile.pixels)):
            out[:, y : y + band.shape[1]] = band
    assert stitcher.missing == 0
    return out


def local_contrast(pixels: np.ndarray) -> np.ndarray:
    return (pixels[:1] - pixels[1:]) * pixels.mean()


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("shape", [(1, 1), (33, 70), (64, 5), (100, 101)])
def test_each_tile_comes_once_and_cores_cover_the_image(order, shape):
    image = gt.open(picture(*shape))
    covered = np.zeros(shape, int)
    places = []
    for tile in gt.tiles(image, gt.Tiling(tile=(16, 24), overlap=6), order=order):
        covered[tile.core.slices()] += 1
        places.append((tile.row, tile.col))
        assert tile.pixels.shape == (2, 16, 24)
        assert np.array_equal(tile.pixels, image.read(tile.read))
    assert (covered == 1).all()
    assert len(set(places)) == len(places)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("blend", ["trim", "hann"])
def test_an_own_loop_gives_the_bytes_of_a_run_in_any_order(order, blend, tmp_path):
    image = gt.open(picture(83, 121))
    tiling = gt.Tiling(tile=32, overlap=12, margin=2, blend=blend)
    plan = gt.plan(image, lambda batch: np.stack([local_contrast(tile) for tile in batch]), tiling, output="raw")
    expected = gt.run(plan, tmp_path / "run").prediction[:]
    assert np.array_equal(stitched(image, tiling, order, local_contrast), expected)


def test_hilbert_steps_to_a_neighbour_where_the_grid_is_a_square_of_a_power_of_two():
    image = gt.open(picture(64, 64))
    places = [(t.row, t.col) for t in gt.tiles(image, gt.Tiling(tile=8, overlap=0), order="hilbert")]
    steps = np.abs(np.diff(places, axis=0)).sum(axis=1)
    assert len(places) == 64
    assert (steps == 1).all()


def test_a_loop_that_is_left_early_leaves_no_thread_behind():
    import threading

    tiles = gt.tiles(gt.open(picture(64, 64)), gt.Tiling(tile=8, overlap=0))
    next(tiles)
    tiles.close()
    assert not [t for t in threading.enumerate() if t.name == "gigatile-tiles"]


def test_a_wrong_size_a_second_prediction_and_an_unknown_order_are_refused():
    image, tiling = gt.open(picture(40, 40)), gt.Tiling(tile=16, overlap=4)
    stitcher = gt.Stitcher(image, tiling, channels=1)
    tile = next(gt.tiles(image, tiling))
    with pytest.raises(UsageError, match="expected a prediction"):
        list(stitcher.add(tile, np.zeros((1, 8, 8), np.float32)))
    list(stitcher.add(tile, np.zeros((1, 16, 16), np.float32)))
    with pytest.raises(UsageError, match="second prediction"):
        list(stitcher.add(tile, np.zeros((1, 16, 16), np.float32)))
    with pytest.raises(UsageError, match="row, snake, hilbert"):
        next(gt.tiles(image, tiling, order="spiral"))
