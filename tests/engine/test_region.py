"""One region: batches, skipped tiles, failures, order."""

from threading import Event

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import gigatile as gt
from gigatile.engine.batches import Inference, Progress, Tally
from gigatile.engine.pipes import Clock
from gigatile.engine.region import infer_region
from gigatile.errors import BlockError, Cancelled
from gigatile.models.model import LoadedModel
from gigatile.models.values import Values
from gigatile.testing.models import BatchUnstable, OnCall, identity
from gigatile.testing.sources import noise
from gigatile.testing.strategies import sizes, tilings
from gigatile.tiling.axis import BLENDS
from gigatile.tiling.region import Region
from gigatile.tiling.tiling import Tiling

from .helpers import in_tiles, load

shared = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


class Recorder:
    """The identity; remembers the size of each batch."""

    def __init__(self):
        self.batches = []

    def __call__(self, batch):
        self.batches.append(len(batch))
        return batch


class TestBatches:
    @pytest.mark.parametrize("batch", range(1, 9))
    @pytest.mark.parametrize("blend", ["trim", "hann"])
    def test_the_batch_does_not_change_the_bits(self, stacks, batch, blend):
        pixels = noise((2, 70, 83))
        tiling = Tiling(20, 8, 2, blend, block=40)
        one, _, _ = in_tiles(load(stacks[3]), pixels, tiling)
        many, _, _ = in_tiles(load(stacks[3]), pixels, tiling, batch=batch)
        assert np.array_equal(one, many)

    def test_batches_are_filled_across_rows_of_tiles(self):
        recorder = Recorder()
        # 3 x 3 tiles in one block: with rows kept apart there would be batches of 3.
        in_tiles(gt.load_model(recorder), noise((1, 30, 30)), Tiling(16, 6, 3, "trim", block=100), batch=4)
        assert recorder.batches[1:] == [4, 4, 1]

    def test_padded_batches_are_always_full(self):
        recorder = Recorder()
        model = gt.load_model(recorder, scale=1.0)
        pixels = noise((1, 30, 30))
        got, _, tally = in_tiles(model, pixels, Tiling(16, 6, 3, "trim", block=100), batch=4, pads_batches=True)
        assert recorder.batches[1:] == [4, 4, 4]
        assert np.array_equal(got, pixels)
        assert tally.tiles == 9, "what a batch is padded with is no tile"

    def test_with_padding_a_batch_unstable_model_gives_the_same_bits_in_every_block(self):
        pixels = noise((1, 61, 53), "float32")
        results = []
        for block in (10, 30, 100):
            model = LoadedModel(BatchUnstable(), Values())
            tiling = Tiling(16, 6, 0, "hann", block=block)
            results.append(in_tiles(model, pixels, tiling, batch=4, pads_batches=True)[0])
        assert np.array_equal(results[0], results[1])
        assert np.array_equal(results[0], results[2])

    def test_without_padding_it_would_not(self):
        pixels = noise((1, 61, 53), "float32")
        results = [
            in_tiles(LoadedModel(BatchUnstable(), Values()), pixels, Tiling(16, 6, 0, "hann", block=block), batch=4)[0]
            for block in (10, 100)
        ]
        assert not np.array_equal(*results)


class TestSkippedTiles:
    @settings(shared, max_examples=50)
    @given(st.data(), sizes(60), st.integers(1, 4))
    def test_skipping_never_changes_a_kept_pixel(self, stacks, data, shape, batch):
        # Tiles disagree (the margin may be 0), so a tile too few would show in its neighbours.
        tiling = data.draw(tilings(0, most=24))
        pixels = noise((2, *shape)) // 2 + 1
        y, x = data.draw(st.integers(0, shape[0])), data.draw(st.integers(0, shape[1]))
        pixels[:, y : y + data.draw(st.integers(0, 50)), x : x + data.draw(st.integers(0, 50))] = 0
        full, _, everything = in_tiles(load(stacks[2]), pixels, tiling, batch=batch)
        got, valid, tally = in_tiles(load(stacks[2]), pixels, tiling, batch=batch, nodata=0)
        assert np.array_equal(valid, (pixels != 0).any(axis=0))
        assert np.array_equal(got[:, valid], full[:, valid])
        assert tally.tiles + tally.skipped == everything.tiles

    @pytest.mark.parametrize("blend", BLENDS)
    def test_a_tile_is_skipped_only_where_its_support_holds_nothing_to_keep(self, blend):
        pixels = noise((1, 64, 64)) // 2 + 1
        pixels[:, :, :32] = 0
        tiling = Tiling(32, 16, 4, blend, block=64)
        _, _, tally = in_tiles(gt.load_model(identity), pixels, tiling, nodata=0)
        # Cores of 16: columns 0 and 1 lie in the nodata, but a blend of reach 4 lets column 1 see 4 px beyond.
        assert tally.skipped == (8 if blend == "trim" else 4)
        assert tally.tiles == 16 - tally.skipped

    def test_an_image_without_a_valid_pixel_never_meets_the_model(self):
        recorder = Recorder()
        _, valid, tally = in_tiles(
            gt.load_model(recorder), np.zeros((1, 50, 50), np.uint8), Tiling(16, 4, 0, "hann"), nodata=0
        )
        assert not valid.any()
        assert tally.tiles == 0
        assert len(recorder.batches) == 1, "the trial on zeros, and no more"


class TestFailures:
    @pytest.mark.parametrize(
        ("then", "message"),
        [("raise", "ValueError: asked to fail"), ("shape", "shape"), ("channels", "channels|shape|maps")],
    )
    @pytest.mark.parametrize("number", [2, 5])
    def test_what_a_model_does_wrong_fails_the_block_and_says_what(self, then, message, number):
        model = gt.load_model(OnCall(number, then))
        with pytest.raises(BlockError, match=message):
            in_tiles(model, noise((1, 40, 40)), Tiling(16, 6, 3, "trim"))

    def test_a_model_that_changes_its_mind_about_channels_does_not_spread_one_over_all(self):
        calls = []

        def fickle(batch):
            calls.append(1)
            return batch[:, :1] if len(calls) > 1 else np.concatenate([batch] * 3, axis=1)

        with pytest.raises(BlockError):
            in_tiles(gt.load_model(fickle), noise((1, 40, 40)), Tiling(16, 6, 3, "trim"))

    def test_a_stop_signal_ends_it_before_the_next_batch(self):
        recorder, stop = Recorder(), Event()
        how = Inference(
            Tiling(16, 6, 3, "trim").grid((40, 40)), gt.load_model(recorder), 1, np.dtype("float32"), 1, False
        )
        progress = Progress(Clock(), Tally(), stop, lambda tiles: len(recorder.batches) == 2 and stop.set())
        rows = infer_region(
            how, Region(0, 0, 40, 40), lambda window: (np.zeros((1, *window.shape), "f4"), None), 5, progress
        )
        with pytest.raises(Cancelled):
            list(rows)
        assert len(recorder.batches) == 2

    def test_an_error_while_reading_ahead_comes_out_of_the_loop(self):
        how = Inference(
            Tiling(16, 6, 3, "trim").grid((40, 40)), gt.load_model(identity), 1, np.dtype("float32"), 1, False
        )

        def read(window):
            if window.y0 > 0:
                raise BlockError("row 1", found="a broken chunk")
            return np.zeros((1, *window.shape), "f4"), None

        progress = Progress(Clock(), Tally(), Event(), lambda tiles: None)
        with pytest.raises(BlockError, match="broken chunk"):
            list(infer_region(how, Region(0, 0, 40, 40), read, 5, progress))


def test_pixels_are_normalised_before_the_model_and_activated_before_the_blend():
    pixels = noise((1, 40, 40))
    got, _, _ = in_tiles(
        gt.load_model(identity, scale=1 / 50, mean=(2.0,), std=(0.5,), activation="sigmoid"),
        pixels,
        Tiling(16, 6, 0, "hann"),
    )
    logits = (pixels.astype(np.float32) * np.float32(1 / 50) - np.float32(2)) / np.float32(0.5)
    assert np.array_equal(got, (1 / (1 + np.exp(-logits))).astype(np.float32))


def test_nan_and_nodata_reach_the_model_as_promised():
    """NaN as 0 after normalisation; nodata as it is stored."""
    seen = []

    def watch(batch):
        seen.append(batch.copy())
        return batch

    pixels = noise((1, 12, 12), "float32")
    pixels[0, 3, 4], pixels[0, 5, 6] = np.nan, -9999
    in_tiles(gt.load_model(watch, mean=(5.0,)), pixels, Tiling(12, 0, 0, "trim"), nodata=-9999)
    batch = seen[-1][0, 0]
    assert batch[3, 4] == 0
    assert batch[5, 6] == np.float32(-9999) - np.float32(5)
