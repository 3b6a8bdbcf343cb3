"""Test-time augmentation: symmetries, their inverses, and the mean over them on tiles and on the whole image."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import gigatile as gt
from gigatile.errors import ModelError, UsageError
from gigatile.models.augment import applied, averaged, symmetries, undone
from gigatile.testing.sources import UnitSource, noise
from gigatile.testing.strategies import sizes
from gigatile.tiling.axis import BLENDS
from tests.oracle.catalogue import KNOWN, stack
from tests.oracle.graphs import Graph
from tests.oracle.reference import session, worst
from tests.oracle.tiled import tiled

SCALE = np.float32(0.01)
COPIES = {"flips": 4, "d4": 8}


def turned(maps, number):
    """The symmetries by numpy's own functions: a turn by 90 degrees `number % 4` times, mirrored from 4 on."""
    maps = np.rot90(maps, number % 4, axes=(-2, -1))
    return maps[..., ::-1] if number >= 4 else maps


@pytest.mark.parametrize("kind", COPIES)
def test_the_copies_are_the_symmetries_of_the_square_each_once(kind):
    square = np.arange(9).reshape(1, 1, 3, 3)
    got = {applied(symmetry, square).tobytes() for symmetry in symmetries(kind)}
    every = {np.ascontiguousarray(turned(square, number)).tobytes() for number in range(8)}
    assert len(got) == COPIES[kind]
    assert got <= every
    if kind == "flips":
        assert got == {np.ascontiguousarray(square[..., ::y, ::x]).tobytes() for y in (1, -1) for x in (1, -1)}


@pytest.mark.parametrize("symmetry", symmetries("d4"))
@pytest.mark.parametrize("shape", [(2, 3, 4, 4), (1, 1, 3, 7)])
def test_each_is_undone_by_its_inverse(symmetry, shape):
    maps = noise(shape, "float32")
    assert np.array_equal(undone(symmetry, applied(symmetry, maps)), maps)
    assert applied(symmetry, maps).flags.c_contiguous


def test_copies_that_agree_give_what_they_agree_on():
    batch = noise((2, 3, 8, 8), "float32")
    assert np.array_equal(averaged(lambda x: x / 3, batch, "d4"), batch / 3)


def test_without_augmentation_the_model_is_called_once_and_keeps_its_dtype():
    calls = []

    def half(batch):
        calls.append(1)
        return batch.astype(np.float16)

    assert averaged(half, noise((1, 1, 4, 4), "float32"), "none").dtype == np.float16
    assert len(calls) == 1


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    """Models whose kernels are not symmetric, so that turning matters."""
    folder, made = tmp_path_factory.mktemp("tta"), {}
    for name in ("5x5 and 7x7", "7x3 and 3x1", "stride 2", "U-Net of depth 2", "twice the size", "half the size"):
        graph = Graph(2, seed=1)
        made[name] = graph.save(folder / f"{len(made)}.onnx", KNOWN[name].make(graph))
    return made


def whole_copies(path, known, padded, kind):
    """The model on every symmetry of the padded image, each turned back."""
    running = session(path)
    copies = []
    for number in range(8):
        if kind == "flips" and number not in (0, 2, 4, 6):
            continue
        given_ = np.ascontiguousarray(turned(padded, number))
        result = running.run(None, {"input": given_[None]})[0][0]
        back = result[..., ::-1] if number >= 4 else result
        copies.append(np.rot90(back, -(number % 4), axes=(-2, -1)))
    return copies


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=30)
@given(
    st.sampled_from(["5x5 and 7x7", "7x3 and 3x1", "stride 2", "U-Net of depth 2", "twice the size", "half the size"]),
    st.sampled_from(["flips", "d4"]),
    sizes(80),
    st.sampled_from(BLENDS),
)
def test_tiles_equal_the_mean_over_the_turned_whole_image(paths, name, kind, shape, blend):
    known, path = KNOWN[name], paths[name]
    unit = known.alignment
    pixels = noise((2, *shape))
    source = gt.Image(UnitSource(pixels, (16, 16)))
    model = gt.load_model(path, scale=float(SCALE), tta=kind)
    plan = gt.plan(source, model, gt.Tiling(tile=2 * known.halo + 6 * unit, blend=blend), output="raw", mask="none")
    assert plan.choice.exact
    got = tiled(plan).values
    # The whole image, padded so that turning it moves no pixel off the alignment.
    halo = plan.tiling.overlap // 2
    more = [-(side + 2 * halo) % unit for side in shape]
    padded = np.pad(pixels * SCALE, ((0, 0), (halo, halo + more[0]), (halo, halo + more[1])), mode="reflect")
    copies = whole_copies(path, known, padded.astype(np.float32), kind)
    first = int(halo * known.scale)
    mean = np.mean(np.asarray(copies, np.float64), axis=0)[:, first:, first:][:, : got.shape[1], : got.shape[2]]
    assert worst(got, mean) <= 1e-5
    running = averaged(
        lambda batch: session(path).run(None, {"input": batch})[0], padded.astype(np.float32)[None], kind
    )
    assert np.array_equal(got, running[0][:, first:, first:][:, : got.shape[1], : got.shape[2]])


def test_with_augmentation_less_than_the_radius_shows_too(paths):
    pixels = noise((2, 90, 95))
    source = gt.Image(UnitSource(pixels, (16, 16)))
    model = gt.load_model(paths["5x5 and 7x7"], scale=float(SCALE), tta="d4")

    def got(halo):
        plan = gt.plan(source, model, gt.Tiling(30, 2 * halo, 0, "trim"), output="raw", mask="none")
        return tiled(plan).values[:, 10:-10, 10:-10]

    assert np.array_equal(got(5), got(6))
    assert not np.array_equal(got(4), got(5))


def test_a_tile_that_cannot_be_turned_is_refused(tmp_path):
    graph = Graph(1)
    path = graph.save(tmp_path / "fixed.onnx", stack(3)(graph), tile=(32, 48))
    pixels = noise((1, 60, 60))
    with pytest.raises(ModelError, match="can be turned"):
        gt.plan(pixels, gt.load_model(path, tta="d4"), output="raw")
    assert gt.plan(pixels, gt.load_model(path, tta="flips"), output="raw").choice.exact


def test_an_unknown_augmentation_is_refused():
    with pytest.raises(UsageError, match="tta"):
        gt.load_model(lambda batch: batch, tta="d8")
