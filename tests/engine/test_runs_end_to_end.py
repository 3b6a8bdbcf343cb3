"""Through gt.run and back from the Zarr array: what is stored is what the contract says."""

import numpy as np
import pytest

import gigatile as gt
from gigatile.images.image import Image
from gigatile.testing.models import Constant, InputShape, OnCall, identity, whole_weights, write_convolutions
from gigatile.testing.sources import CountingSource, FailingSource, UnitSource, noise, noise_source
from gigatile.tiling.axis import BLENDS
from gigatile.tiling.tiling import Tiling

from .helpers import load, on_whole_image


def stored(tmp_path, image, model, tiling, **options) -> np.ndarray:
    result = gt.run(gt.plan(image, model, tiling, **options), tmp_path / "out", durable=False)
    assert result.complete
    return result.prediction[:]


@pytest.mark.parametrize("blend", BLENDS)
def test_a_run_equals_the_whole_image_in_all_its_outputs(stacks, tmp_path, blend):
    pixels = noise((2, 150, 131))
    tiling = Tiling((40, 32), 12, 3, blend, block=72)
    whole = on_whole_image(stacks[3], pixels, 6)
    raw = stored(tmp_path / "raw", pixels, load(stacks[3]), tiling, output="raw")
    assert np.array_equal(raw, whole)
    classes = stored(tmp_path / "classes", pixels, load(stacks[3]), tiling)
    assert np.array_equal(classes, whole.argmax(axis=0))
    squashed = stored(
        tmp_path / "p", pixels, load(stacks[3], activation="softmax"), tiling, output="probabilities", dtype="uint8"
    )
    powers = np.exp(whole - whole.max(axis=0))
    assert np.array_equal(squashed, np.rint(254 * (powers / powers.sum(axis=0))))


@pytest.mark.parametrize("blend", ["trim", "hann"])
def test_blocks_of_several_rows_of_chunks_are_stored_whole(tmp_path, blend):
    """Rows are handed out chunk by chunk; those still open must not be written over those just handed out."""
    pixels = noise((1, 1100, 300), "float32")
    plan = gt.plan(pixels, identity, Tiling(160, 32, 0, blend, block=1024), output="raw")
    assert plan.block[0] > plan.chunk[0]
    result = gt.run(plan, tmp_path / "out", durable=False)
    assert np.array_equal(result.prediction[:], pixels)


@pytest.mark.parametrize("shape", [(1, 1), (1, 97), (97, 1), (2, 3), (33, 17), (64, 64), (65, 66)])
def test_every_size_is_stored_in_full(tmp_path, shape):
    pixels = noise((1, *shape))
    got = stored(tmp_path, pixels, gt.load_model(identity, scale=1.0), Tiling(32, 8, 0, "hann", block=48), output="raw")
    assert np.array_equal(got, pixels)


@pytest.mark.parametrize("value", [0.1, 1 / 3, 1.0])
@pytest.mark.parametrize("blend", BLENDS)
def test_a_constant_probability_is_stored_as_itself(tmp_path, blend, value):
    got = stored(tmp_path, noise((1, 90, 90)), Constant((value,)), Tiling(32, 20, 0, blend), output="probabilities")
    assert (got == np.float32(value)).all()


class TestInvalidPixels:
    def image(self):
        pixels = noise((1, 100, 110)) // 2 + 1
        pixels[:, 20:70, 30:80] = 0
        return pixels, Image(UnitSource(pixels, (17, 19), nodata=0))

    @pytest.mark.parametrize(
        ("options", "fill"),
        [
            ({"output": "classes"}, 255),
            ({"output": "probabilities", "dtype": "uint8"}, 255),
            ({"output": "probabilities"}, np.nan),
            ({"output": "raw"}, np.nan),
        ],
        ids=str,
    )
    @pytest.mark.parametrize("blend", ["trim", "hann"])
    def test_they_are_fill_and_their_neighbours_are_what_they_were(self, tmp_path, options, fill, blend):
        pixels, image = self.image()

        def blur(batch):
            return (batch + np.roll(batch, 2, axis=2) + np.roll(batch, 2, axis=3)) / 3

        tiling = Tiling(24, 8, 0, blend, block=32)
        without = stored(tmp_path / "a", image, blur, tiling, mask="none", **options)
        masked = stored(tmp_path / "b", image, blur, tiling, mask="nodata", **options)
        invalid = pixels[0] == 0
        assert np.array_equal(masked[..., invalid], np.full_like(masked[..., invalid], fill), equal_nan=True)
        assert np.array_equal(masked[..., ~invalid], without[..., ~invalid])

    def test_more_than_255_classes_are_filled_with_65535(self, tmp_path):
        pixels, image = self.image()

        def many(batch):
            return np.repeat(batch, 256, axis=1) * np.arange(256, dtype=np.float32)[:, None, None]

        got = stored(tmp_path, image, many, Tiling(24, 8, 0, "trim"))
        assert got.dtype == np.uint16
        assert (got[pixels[0] == 0] == 65535).all()
        assert (got[pixels[0] != 0] == 255).all()

    def test_the_fill_is_declared(self, tmp_path):
        _, image = self.image()
        result = gt.run(gt.plan(image, identity, Tiling(24, 8)), tmp_path / "out", durable=False)
        assert result.prediction.fill_value == 255


class TestWholeNumbers:
    """Models that give booleans or integers: votes, for classes."""

    @pytest.mark.parametrize("dtype", ["bool", "uint8", "int32"])
    @pytest.mark.parametrize("blend", BLENDS)
    def test_classes_of_a_model_that_gives_whole_numbers(self, tmp_path, dtype, blend):
        pixels = noise((1, 70, 70))
        got = stored(tmp_path, pixels, lambda batch: (batch > 0.5).astype(dtype), Tiling(24, 8, 0, blend))
        assert np.array_equal(got, pixels[0] > 127)

    def test_whole_numbers_that_disagree_are_averaged_and_not_wrapped_around(self, tmp_path):
        calls = []

        def alternate(batch):
            calls.append(1)
            return np.full(batch.shape, len(calls) % 2, np.uint8)

        pixels = noise((1, 32, 48))
        tiling = Tiling((40, 24), 8, 0, "mean", block=64)
        got = stored(tmp_path, pixels, alternate, tiling, output="probabilities")
        assert set(np.unique(got)) == {0.0, 0.5, 1.0}


class TestFailures:
    @pytest.mark.parametrize(
        ("then", "message"), [("raise", "asked to fail"), ("nan", "NaN"), ("shape", "shape"), ("channels", "channels")]
    )
    def test_a_model_that_fails_once_is_tried_again(self, tmp_path, then, message):
        pixels = noise((1, 96, 96))
        model = OnCall(6, then)
        plan = gt.plan(pixels, model, Tiling(32, 0, 0, "trim", block=32), output="raw")
        result = gt.run(plan, tmp_path / "out", durable=False, workers=1)
        assert result.complete
        assert model.calls == 1 + 9 + 1, "planning, nine blocks, and one of them once more"
        assert np.array_equal(result.prediction[:], pixels * np.float32(1 / 255))

    @pytest.mark.parametrize(
        ("then", "message"), [("raise", "asked to fail"), ("nan", "NaN"), ("shape", "shape"), ("channels", "channels")]
    )
    def test_a_model_that_fails_three_times_fails_one_block_and_the_rerun_mends_it(self, tmp_path, then, message):
        pixels = noise((1, 96, 96))
        plan = gt.plan(pixels, OnCall(6, then, times=3), Tiling(32, 0, 0, "trim", block=32), output="raw")
        result = gt.run(plan, tmp_path / "out", durable=False, workers=1)
        assert not result.complete
        status = result.status.to_json()
        assert (status["blocks"]["failed"], status["blocks"]["done"]) == (1, 8)
        ledger = "".join(path.read_text() for path in (tmp_path / "out" / "ledger").iterdir())
        assert message in ledger
        again = gt.run(plan, tmp_path / "out", durable=False, workers=1)
        assert not again.complete, "failed blocks stay failed unless asked for"
        mended = gt.run(plan, tmp_path / "out", durable=False, workers=1, existing="retry-failed")
        assert mended.complete
        assert np.array_equal(mended.prediction[:], pixels * np.float32(1 / 255))

    def test_a_broken_chunk_fails_the_blocks_that_need_it_and_no_others(self, tmp_path):
        pixels = noise((1, 96, 96))
        image = Image(FailingSource(UnitSource(pixels, (16, 16)), [(0, 0, 0)]))
        result = gt.run(
            gt.plan(image, identity, Tiling(32, 0, 0, "trim", block=32), output="raw"), tmp_path / "out", durable=False
        )
        assert result.status.to_json()["blocks"]["failed"] == 1
        got = result.prediction[0]
        assert np.isnan(got[:32, :32]).all()
        assert np.array_equal(got[32:], pixels[0, 32:] * np.float32(1 / 255))


def test_each_source_unit_is_decoded_once(tmp_path):
    source = CountingSource(noise_source((1, 200, 230), (16, 16)))
    plan = gt.plan(Image(source), identity, Tiling(40, 12, 0, "hann", block=56), memory="4GiB")
    gt.run(plan, tmp_path / "out", durable=False, workers=1)
    assert set(source.decoded.values()) == {1}
    assert len(source.decoded) == 13 * 15


@pytest.mark.parametrize("batch", [None, 4])
def test_a_model_with_a_fixed_batch_and_tile_runs(tmp_path, batch):
    weights = whole_weights([1, 2])
    fixed = write_convolutions(tmp_path / "fixed.onnx", weights, InputShape(tile=32, batch=batch, last=True))
    free = write_convolutions(tmp_path / "free.onnx", weights)
    pixels = noise((1, 75, 90))
    got = stored(tmp_path, pixels, load(fixed), Tiling(overlap=4, margin=2, blend="hann"), output="raw")
    assert np.array_equal(got, on_whole_image(free, pixels, 2))


@pytest.mark.parametrize("border", ["symmetric", "edge", "constant:9"])
def test_borders_reach_the_model(stacks, tmp_path, border):
    pixels = noise((2, 50, 40))
    got = stored(tmp_path, pixels, load(stacks[2]), Tiling(24, 8, 2, "hann", border), output="raw")
    kind = border.partition(":")[0]
    if kind != "constant":
        assert np.array_equal(got, on_whole_image(stacks[2], pixels, 4, border=kind))
        return
    wide = np.pad(pixels, ((0, 0), (8, 8), (8, 8)), constant_values=9)
    assert np.array_equal(got, on_whole_image(stacks[2], wide, 4)[:, 8:-8, 8:-8])


def test_a_callable_whose_bits_depend_on_the_batch_gives_the_same_in_every_block(tmp_path):
    def unstable(batch):
        return batch + np.float32(1e-6) * len(batch)

    pixels = noise((1, 100, 100))
    results = [
        stored(tmp_path / str(block), pixels, gt.load_model(unstable, batch=4), Tiling(24, 4, 0, "trim", block=block),
               output="raw")
        for block in (30, 100)
    ]  # fmt: skip
    assert np.array_equal(*results)
