"""numpy and dask arrays as images."""

import pickle
from concurrent.futures import ThreadPoolExecutor

import dask.array as da
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gigatile.errors import BlockError, ImageError
from gigatile.images.axes import order_axes
from gigatile.images.memory import ArraySource, DaskSource
from gigatile.units import PixelSize
from tests.images.assemble import check_grid, random_regions, whole, window

RNG = np.random.default_rng(3)


def noise(*shape: int) -> np.ndarray:
    return RNG.integers(0, 255, shape).astype(np.uint8)


SOURCES = [ArraySource, lambda array, axes=None: DaskSource(da.from_array(array, chunks=97), axes)]


@pytest.mark.parametrize("make", SOURCES, ids=["numpy", "dask"])
@pytest.mark.parametrize("axes", ["yx", "cyx", "yxc", "xyc", "ycx"])
def test_any_order_of_axes_becomes_channel_first(make, axes):
    shape = {"c": 5, "y": 601, "x": 540}
    array = noise(*(shape[axis] for axis in axes))
    expected = array[np.newaxis] if axes == "yx" else array.transpose([axes.index(axis) for axis in "cyx"])
    source = make(array, axes)
    check_grid(source)
    np.testing.assert_array_equal(whole(source), expected)
    for region in random_regions((601, 540), 5, RNG):
        np.testing.assert_array_equal(window(source, 0, region), expected[(slice(None), *region.slices())])


@pytest.mark.parametrize(
    ("shape", "channels", "noted"),
    [((50, 60), 1, False), ((3, 50, 60), 3, False), ((50, 60, 3), 3, True), ((4, 5, 4), 4, False),
     ((1, 1, 12, 50, 60), 12, False)],
)  # fmt: skip
def test_axes_are_guessed_as_pictures_are_stored_and_the_guess_is_noted(shape, channels, noted):
    info = ArraySource(noise(*shape)).info
    assert len(info.channels) == channels
    assert bool(info.notes) == noted


@pytest.mark.parametrize(
    ("shape", "axes", "message"),
    [
        ((5, 6), "cyx", "3 names"),
        ((2, 5, 6), "tyx", "2 along 't'"),
        ((5, 6), "cx", "axes y and x"),
        ((0, 6), None, "with pixels"),
        ((6,), None, "without names"),
        ((2, 3, 5, 6), None, "without names"),
    ],
)
def test_axes_that_do_not_fit_are_refused(shape, axes, message):
    with pytest.raises(ImageError, match=message):
        order_axes(shape, axes, "<array>")


@pytest.mark.parametrize("dtype", ["complex64", "U3", "datetime64[s]"])
def test_arrays_that_hold_no_numbers_are_refused(dtype):
    with pytest.raises(ImageError, match="dtype"):
        ArraySource(np.zeros((4, 4), dtype))


def test_the_array_is_neither_copied_nor_writable_through_a_unit():
    array = noise(3, 100, 100)
    unit = ArraySource(array).decode(0, 0, 0)
    assert np.shares_memory(unit, array)
    with pytest.raises(ValueError, match="read-only"):
        unit[0, 0, 0] = 1
    assert array.flags.writeable


def test_foreign_byte_order_becomes_native():
    source = ArraySource(noise(9, 9).astype(">u2"))
    assert source.info.dtype == np.dtype("=u2")
    assert source.decode(0, 0, 0).dtype.isnative


def test_what_the_caller_knows_is_taken():
    info = ArraySource(noise(2, 9, 9), "cyx", PixelSize(0.5, 0.5), ("grey", "alpha"), 7).info
    assert (info.pixel_size, info.channels, info.nodata, info.alpha) == (
        PixelSize(0.5, 0.5), ("grey", "alpha"), 7, 1,
    )  # fmt: skip
    with pytest.raises(ImageError, match="2 channel names"):
        ArraySource(noise(2, 9, 9), channels=("one",))


def test_identity_of_an_array_follows_every_value_shape_and_dtype():
    array = noise(3, 300, 200)
    first = ArraySource(array).identity()
    assert first == ArraySource(array.copy()).identity()
    assert first == ArraySource(np.moveaxis(array, 0, -1), "yxc").identity()
    changed = array.copy()
    changed[2, 299, 199] ^= 1
    others = [changed, array.view(np.int8), array[:, :299], array.transpose(0, 2, 1)]
    assert len({str(first), *(str(ArraySource(other).identity()) for other in others)}) == 5


def test_identity_of_a_memory_map_beyond_the_limit_is_sampled(tmp_path, monkeypatch):
    monkeypatch.setattr("gigatile.images.memory._DIGEST_BYTES", 1000)
    array = np.memmap(tmp_path / "a", np.uint8, "w+", shape=(500, 400))
    array[:] = noise(500, 400)
    first = ArraySource(array).identity()
    array[499, 0] ^= 1
    assert ArraySource(array).identity() != first


def test_pickled_sources_read_the_same_and_do_not_carry_the_array_twice():
    array = noise(3, 400, 400)
    assert len(pickle.dumps(ArraySource(array))) < array.nbytes * 1.1
    for make in SOURCES:
        source = make(array)
        copy = pickle.loads(pickle.dumps(source))
        assert copy.info == source.info
        assert copy.identity() == source.identity()
        np.testing.assert_array_equal(whole(copy), array)


@settings(max_examples=40, deadline=None)
@given(
    rows=st.lists(st.integers(1, 400), min_size=1, max_size=6),
    cols=st.lists(st.integers(1, 400), min_size=1, max_size=6),
)
def test_dask_chunks_of_any_size_are_taken_together_but_never_cut(rows, cols):
    array = da.zeros((2, sum(rows), sum(cols)), chunks=(1, tuple(rows), tuple(cols)), dtype=np.uint8)
    source = DaskSource(array)
    level = source.info.levels[0]
    for edges, sizes in ((level.edges_y, rows), (level.edges_x, cols)):
        assert set(edges) <= {0, *np.cumsum(sizes).tolist()}
        assert edges[-1] == sum(sizes)
    sides = np.diff(level.edges_x)
    assert all(side <= max(256, *cols) for side in sides)


def test_units_of_tiny_dask_chunks_are_few():
    source = DaskSource(da.zeros((1, 512, 512), chunks=(1, 16, 16), dtype=np.uint8))
    assert source.info.levels[0].edges_x == (0, 256, 512)


def test_dask_units_are_computed_by_many_threads():
    array = noise(2, 500, 500)
    source = DaskSource(da.from_array(array, chunks=(2, 100, 100)) + 1)
    with ThreadPoolExecutor(6) as pool:
        results = list(pool.map(lambda _: whole(source), range(6)))
    assert all(np.array_equal(result, array + 1) for result in results)


def test_only_what_a_unit_needs_is_computed():
    seen = []

    def look(block, block_info=None):
        seen.append(block_info[0]["chunk-location"])
        return block

    array = da.from_array(noise(900, 900), chunks=300).map_blocks(look, dtype=np.uint8, meta=np.empty((0, 0), np.uint8))
    DaskSource(array).decode(0, 1, 2)
    assert seen == [(1, 2)]


def test_an_error_inside_the_graph_names_the_place():
    def fail(block):
        raise KeyError("lost")

    array = da.zeros((600, 600), chunks=300).map_blocks(fail, dtype=float, meta=np.empty((0, 0)))
    with pytest.raises(BlockError, match=r"rows 300:600, columns 0:300.*KeyError"):
        DaskSource(array).decode(0, 1, 0)


def test_a_graph_that_does_not_give_what_it_promised_is_an_error():
    array = da.zeros((60, 60), chunks=60).map_blocks(lambda b: b[:1], dtype=float, meta=np.empty((0, 0)))
    with pytest.raises(BlockError, match="shape"):
        DaskSource(array).decode(0, 0, 0)


def test_dask_chunks_of_unknown_size_are_refused():
    array = da.zeros((60, 60), chunks=20)
    with pytest.raises(ImageError, match="compute_chunk_sizes"):
        DaskSource(array[array[:, 0] > 1])


def test_identity_of_dask_is_its_token():
    array = noise(60, 60)
    a, b = (DaskSource(da.from_array(array, chunks=30) + k).identity() for k in (1, 2))
    assert a == DaskSource(da.from_array(array, chunks=30) + 1).identity()
    assert a != b
