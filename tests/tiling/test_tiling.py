"""What users may ask for, the grid, the blocks and the chunks."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gigatile.errors import UsageError
from gigatile.testing.strategies import sizes, tilings
from gigatile.tiling.region import Region
from gigatile.tiling.tiling import Blocks, Tiling, block_side, chunk_side, whole_cores


@given(tilings(most=24), sizes())
def test_cores_cover_every_pixel_of_the_image_once(tiling, shape):
    grid = tiling.grid(shape)
    seen = np.zeros(shape, int)
    for row in range(grid.y.count):
        for col in range(grid.x.count):
            seen[grid.core(row, col).slices()] += 1
    assert (seen == 1).all()
    assert grid.tiles == grid.y.count * grid.x.count


@given(sizes(), st.integers(1, 20), st.integers(1, 20))
def test_blocks_cover_every_pixel_once_in_row_major_order(shape, height, width):
    blocks = Blocks(shape, (height, width))
    order = list(blocks)
    assert order == sorted(order)
    assert len(order) == blocks.count
    seen = np.zeros(shape, int)
    for row, col in order:
        seen[blocks.region(row, col).slices()] += 1
    assert (seen == 1).all()


@given(tilings(most=24), sizes(), st.integers(1, 4), st.integers(1, 4))
def test_tiles_inferred_are_counted_as_often_as_blocks_need_them(tiling, shape, down, across):
    grid = tiling.grid(shape)
    blocks = Blocks(shape, (down * grid.stride[0], across * grid.stride[1]))
    counted = 0
    for row, col in blocks:
        rows, cols = grid.covering(blocks.region(row, col))
        counted += len(rows) * len(cols)
    assert blocks.inferred(grid) == counted
    assert counted >= grid.tiles


@given(tilings(blends=("trim",), most=24), sizes(), st.integers(1, 4))
def test_trim_infers_each_tile_once_in_whatever_blocks(tiling, shape, many):
    grid = tiling.grid(shape)
    assert Blocks(shape, (many * grid.stride[0], many * grid.stride[1])).inferred(grid) == grid.tiles


@given(st.integers(1, 3000), st.integers(1, 12))
def test_a_chunk_divides_the_block_and_is_a_multiple_or_divisor_of_the_stride(stride, cores):
    block = cores * stride
    chunk = chunk_side(stride, block)
    assert block % chunk == 0
    assert stride % chunk == 0 or chunk % stride == 0
    candidates = [c for c in range(1, block + 1) if block % c == 0 and (stride % c == 0 or c % stride == 0)]
    assert abs(chunk - 512) == min(abs(c - 512) for c in candidates)


@given(st.integers(1, 3000), st.integers(1, 6000))
def test_an_automatic_block_is_whole_cores_and_whole_chunks(stride, target):
    block = block_side(stride, target)
    assert block > 0
    assert block % stride == 0
    assert block % chunk_side(stride, block) == 0


@given(st.integers(1, 500), st.integers(1, 5000))
def test_a_block_is_rounded_up_to_whole_cores(stride, pixels):
    block = whole_cores(stride, pixels)
    assert block % stride == 0
    assert pixels <= block < pixels + stride


def test_the_usual_chunks_are_what_the_design_says():
    assert chunk_side(512, 2048) == 512
    assert chunk_side(384, 4 * 384) == 384
    assert chunk_side(1024, 1024) == 512
    assert chunk_side(64, 1024) == 512


@given(tilings(most=24), sizes(), st.data())
def test_a_band_is_what_its_tiles_read_together(tiling, shape, data):
    grid = tiling.grid(shape)
    row = data.draw(st.integers(0, grid.y.count - 1))
    first = data.draw(st.integers(0, grid.x.count - 1))
    last = data.draw(st.integers(first, grid.x.count - 1))
    band = grid.band(row, range(first, last + 1))
    assert (band.y0, band.y1) == grid.y.read(row)
    assert (band.x0, band.x1) == (grid.x.read(first)[0], grid.x.read(last)[1])


def test_the_automatic_overlap_is_a_quarter_of_the_tile_and_the_margin_zero():
    resolved = Tiling().resolved((512, 512))
    assert (resolved.tile, resolved.overlap, resolved.margin, resolved.blend) == ((512, 512), 128, 0, "hann")


@given(st.integers(1, 100).map(lambda n: n * 8), st.sampled_from([1, 2, 4, 8, 16, 32, 64]))
def test_the_automatic_halo_is_a_multiple_of_what_the_model_needs(side, multiple):
    assume(side % multiple == 0)
    resolved = Tiling(tile=side).resolved((512, 512), multiple)
    assert resolved.overlap % (2 * multiple) == 0
    assert 0 <= resolved.overlap < side
    # Stride = distance between tile origins: these must be multiples, too.
    assert (side - resolved.overlap) % multiple == 0


def test_what_the_user_gives_is_not_replaced():
    asked = Tiling(tile=(64, 96), overlap=20, margin=3, blend="mean", border="edge", block=128)
    assert asked.resolved((512, 512), 8) == asked


@pytest.mark.parametrize(
    ("arguments", "where", "advice"),
    [
        ({"overlap": 3}, "overlap", "4 or 2"),
        ({"tile": 64, "overlap": 64}, "overlap", "16"),
        ({"tile": (64, 32), "overlap": 32}, "overlap", "less than the tile"),
        ({"overlap": 0.2}, "overlap", "102"),
        ({"overlap": -2}, "overlap", "positive"),
        ({"tile": 64, "overlap": 16, "margin": 9}, "margin", "18"),
        ({"margin": -1}, "margin", "positive"),
        ({"tile": 0}, "tile", "positive"),
        ({"tile": 256.0}, "tile", "whole number"),
        ({"tile": (64, 64, 64)}, "tile", "one side or"),
        ({"tile": True}, "tile", "whole number"),
        ({"block": 0}, "block", "positive"),
        ({"blend": "cosine"}, "blend", "hann"),
        ({"border": "wrap"}, "border", "reflect"),
    ],
)
def test_contradictions_are_refused_with_what_to_type(arguments, where, advice):
    with pytest.raises(UsageError) as caught:
        Tiling(**arguments)
    assert caught.value.where == where
    assert advice in str(caught.value)


@pytest.mark.parametrize("margin", [0, 8])
def test_any_margin_up_to_half_of_the_overlap_is_taken(margin):
    assert Tiling(tile=64, overlap=16, margin=margin).margin == margin


def test_an_unresolved_tiling_has_no_grid():
    with pytest.raises(ValueError, match="resolve"):
        Tiling().grid((100, 100))


@given(tilings(most=24), sizes(), st.data())
def test_tiles_that_cover_a_region_are_those_whose_support_meets_it(tiling, shape, data):
    grid = tiling.grid(shape)
    y0, x0 = data.draw(st.integers(0, shape[0] - 1)), data.draw(st.integers(0, shape[1] - 1))
    y1, x1 = data.draw(st.integers(y0 + 1, shape[0])), data.draw(st.integers(x0 + 1, shape[1]))
    rows, cols = grid.covering(Region(y0, x0, y1, x1))
    assert list(rows) == list(grid.y.covering(y0, y1))
    assert list(cols) == list(grid.x.covering(x0, x1))
    assert rows[0] <= y0 // grid.stride[0] <= rows[-1]
