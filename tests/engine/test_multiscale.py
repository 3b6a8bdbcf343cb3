"""Several scales: tiled equals the same done on whole images, by other means; and how it was run does not matter."""

import threading

import numpy as np
import pytest
from scipy.ndimage import map_coordinates

import gigatile as gt
from gigatile.errors import RunRefused, UsageError
from gigatile.events import TilesInferred
from gigatile.images.image import Image
from gigatile.plans.build import fitted
from gigatile.testing.models import Constant
from gigatile.testing.sources import CountingSource, FailingSource, UnitSource, noise
from gigatile.tiling.axis import BLENDS
from gigatile.tiling.tiling import Tiling
from tests.images.test_resample import Pyramid, overlaps
from tests.small_runs import document, entries, fingerprints, run_small, write_models, write_zarr

from .helpers import load, on_whole_image

TILING = Tiling(32, 12, 4, "hann", block=60)
"""Margin 4: exact for models of that radius."""


def on_base(maps, scale, shape):
    """Bilinear, pixel centres aligned, edges continued: scipy."""
    places = [(np.arange(side) + 0.5) * scale - 0.5 for side in shape]
    grid = np.meshgrid(*places, indexing="ij")
    return np.stack([map_coordinates(m.astype(float), grid, order=1, mode="nearest") for m in maps])


def scaled_down(pixels, scale):
    """Area means of the whole image."""
    shares = [overlaps(side, scale) for side in pixels.shape[1:]]
    return (shares[0] @ pixels @ shares[1].T).astype(np.float32)


def oracle(whole, pixels, scales):
    """The mean over scales of what a function says of whole images."""
    maps = [on_base(whole(scaled_down(pixels, scale)), float(scale), pixels.shape[1:]) for scale in scales]
    return np.mean(maps, axis=0)


def stored(tmp_path, image, model, tiling=TILING, **options) -> np.ndarray:
    result = gt.run(gt.plan(image, model, tiling, output="raw", **options), tmp_path / "out", durable=False)
    assert result.complete
    return result.prediction[:]


def scales_of(*numbers):
    return gt.load_model(bright, multiscale=numbers).values.multiscale


def bright(batch):
    return batch.mean(axis=1, keepdims=True)


@pytest.mark.parametrize("blend", BLENDS)
def test_tiled_equals_the_whole_images(stacks, tmp_path, blend):
    pixels = noise((2, 150, 131)) / np.float32(255)
    tiling = Tiling((40, 32), 12, 4, blend, block=72)
    got = stored(tmp_path, pixels, load(stacks[3], multiscale=(1, 0.5)), tiling)
    expected = oracle(lambda x: on_whole_image(stacks[3], x, 6), pixels, scales_of(1, 0.5))
    assert np.abs(got - expected).max() <= 1e-5 * np.abs(expected).max()
    alone = on_whole_image(stacks[3], pixels, 6)
    assert np.abs(got - alone).max() > 0.01 * np.abs(expected).max()


@pytest.mark.parametrize("scales", [(1, 0.25), (0.3, 1), (1, 0.75, 1 / 3), (1, 0.5, 0.4, 0.1)])
@pytest.mark.parametrize("shape", [(1, 1), (1, 97), (33, 17), (101, 90)])
def test_any_scales_and_any_size_do(stacks, tmp_path, scales, shape):
    pixels = noise((2, *shape)) / np.float32(255)
    got = stored(tmp_path, pixels, load(stacks[2], multiscale=scales))
    expected = oracle(lambda x: on_whole_image(stacks[2], x, 6), pixels, scales_of(*scales))
    assert np.abs(got - expected).max() <= 1e-5 * max(np.abs(expected).max(), 1)


def test_a_smaller_margin_than_the_radius_shows(stacks, tmp_path):
    pixels = noise((2, 150, 131)) / np.float32(255)
    got = stored(tmp_path, pixels, load(stacks[3], multiscale=(1, 0.5)), Tiling(32, 4, 0, "trim", block=60))
    expected = oracle(lambda x: on_whole_image(stacks[3], x, 6), pixels, scales_of(1, 0.5))
    assert np.abs(got - expected).max() > 1e-3 * np.abs(expected).max()


def test_scale_one_alone_changes_no_bit(stacks, tmp_path):
    pixels = noise((2, 80, 70))
    one = stored(tmp_path / "1", pixels, load(stacks[2], multiscale=(1,)))
    assert np.array_equal(one, stored(tmp_path / "2", pixels, load(stacks[2])))


def test_bytes_are_scaled_as_bytes_at_every_scale(tmp_path):
    """The default of 1/255 is chosen by the dtype of the file, not by that of the means."""
    pixels = np.full((1, 60, 50), 51, np.uint8)
    got = stored(tmp_path, pixels, gt.load_model(bright, multiscale=(1, 0.5, 0.3), mean=(0.1,), std=(0.5,)))
    assert np.allclose(got, (0.2 - 0.1) / 0.5, atol=1e-6)


def test_the_best_level_of_the_file_is_read(tmp_path):
    levels = [np.full((1, 96, 80), 90.0, np.float32), np.full((1, 48, 40), 60.0, np.float32)]
    source = CountingSource(Pyramid(levels, (1, 2)))
    got = stored(tmp_path, Image(source), gt.load_model(bright, multiscale=(1, 0.5)))
    assert np.allclose(got, 75)
    assert {level for level, _, _ in source.decoded} == {0, 1}


@pytest.mark.parametrize("blend", ["trim", "gaussian"])
@pytest.mark.parametrize("block", [20, 100, 10_000])
def test_values_do_not_depend_on_the_block(tmp_path, blend, block):
    # Tiles disagree on purpose: neither margin nor halo is enough for a mean over the tile.
    def far(batch):
        return batch + batch.mean(axis=(2, 3), keepdims=True)

    pixels = noise((2, 130, 111))
    pixels[:, 30:70, 20:80] = 0
    image = Image(UnitSource(pixels, (17, 19), nodata=0))
    model = gt.load_model(far, multiscale=(1, 0.5, 0.3))
    reference = stored(tmp_path / "a", image, model, Tiling(32, 12, 2, blend, block=40))
    got = stored(tmp_path / "b", image, model, Tiling(32, 12, 2, blend, block=block))
    assert np.array_equal(got, reference, equal_nan=True)


def test_pieces_change_no_bit(stacks, tmp_path, monkeypatch):
    pixels = noise((2, 150, 131))
    reference = stored(tmp_path / "a", pixels, load(stacks[2], multiscale=(1, 0.3)))
    monkeypatch.setattr("gigatile.engine.scales.PIECE_BYTES", 1)
    assert np.array_equal(stored(tmp_path / "b", pixels, load(stacks[2], multiscale=(1, 0.3))), reference)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("multiscale")
    pixels = np.random.default_rng(0).integers(1, 255, (230, 260, 3), dtype=np.uint8)
    pixels[:110, 90:230] = 0
    write_zarr(folder / "image.zarr", pixels, nodata=0)
    write_models(folder)
    return folder


class TestRuns:
    def run(self, folder, name, scales=(1, 0.5), batch=None, **how):
        model = gt.load_model(str(folder / "models.py") + ":bright", multiscale=scales, batch=batch)
        return run_small(str(folder / "image.zarr"), model, folder / name, output="probabilities", **how)

    @pytest.mark.parametrize(
        "how", [{"workers": 3}, {"batch": 3}, {"executor": "processes", "workers": 1}, {"scales": (0.5, 1)}]
    )
    def test_any_way_of_running_gives_the_same_bytes(self, folder, how):
        if not (folder / "one").exists():
            assert self.run(folder, "one", workers=1).complete
        self.run(folder, "-".join(how), **how)
        assert fingerprints(folder / "-".join(how)) == fingerprints(folder / "one")

    def test_a_run_is_resumed_with_the_same_scales_only(self, folder):
        self.run(folder, "again")
        assert self.run(folder, "again").complete
        with pytest.raises(RunRefused, match="multiscale"):
            self.run(folder, "again", scales=(1, 0.25))

    def test_the_base_level_is_counted_alone_and_tiles_of_all_scales(self, folder):
        result = self.run(folder, "counted", workers=1)
        plan = gt.plan(str(folder / "image.zarr"), gt.load_model(bright, multiscale=(1, 0.5)),
                       gt.Tiling(tile=64, overlap=16, margin=2, blend="hann", block=96))  # fmt: skip
        base = gt.plan(str(folder / "image.zarr"), bright, plan.tiling)
        assert result.status.decoded_ratio == 1.0
        skipped = sum(entry.get("skipped", 0) for entry in entries(folder / "counted"))
        assert result.status.tiles_inferred + skipped == plan.tiles_inferred > base.tiles_inferred
        assert document(folder / "counted")["summary"]["multiscale"] == [1.0, 0.5]
        assert "scale 1/2" in str(plan)


def test_with_memory_every_unit_is_decoded_once_for_each_scale(tmp_path):
    source = CountingSource(UnitSource(noise((1, 200, 230)), (64, 48)))
    plan = gt.plan(Image(source), gt.load_model(bright, multiscale=(1, 0.5)), TILING)
    gt.run(plan, tmp_path / "out", workers=1, durable=False)
    assert set(source.decoded.values()) == {2}


class TestInvalidPixels:
    def test_they_stay_invalid_and_do_not_bleed(self, tmp_path):
        pixels = np.full((1, 120, 100), 100, np.uint8)
        pixels[:, 41:90, 33:] = 0
        image = Image(UnitSource(pixels, (16, 16), nodata=0))
        got = stored(tmp_path, image, gt.load_model(bright, scale=1.0, multiscale=(1, 0.5, 0.25)))
        assert np.array_equal(np.isnan(got), pixels == 0)
        assert (got[pixels > 0] == 100).all()

    def test_without_a_mask_they_count_as_stored(self, tmp_path):
        pixels = noise((1, 70, 60)) // 200
        image = Image(UnitSource(pixels, nodata=0))
        got = stored(tmp_path, image, gt.load_model(bright, scale=1.0, multiscale=(1, 0.5)), mask="none")
        assert np.abs(got - oracle(lambda x: x, pixels.astype(np.float32), scales_of(1, 0.5))).max() < 1e-5

    def test_a_scale_that_knows_nothing_valid_does_not_count(self, tmp_path):
        levels = [np.full((1, 64 // f, 64 // f), value, np.uint8) for f, value in ((1, 80), (2, 41), (4, 20))]
        levels[1][:, :16] = 0
        image = Image(Pyramid(levels, (1, 2, 4), nodata=0))
        got = stored(tmp_path, image, gt.load_model(bright, scale=1.0, multiscale=(1, 0.5, 0.25)))
        assert (got[:, :31] == 50).all()
        assert (got[:, 33:] == 47).all()

    def test_nan_of_the_model_at_a_valid_pixel_fails_the_block(self, tmp_path):
        model = gt.load_model(lambda batch: np.where(batch.std() > 0, batch, np.nan), scale=1.0, multiscale=(1, 0.5))
        pixels = np.indices((64, 64)).sum(axis=0)[None] % 2 * np.float32(10)
        result = gt.run(gt.plan(pixels, model, TILING, output="raw"), tmp_path / "out", durable=False)
        # The checkerboard has no contrast left at half the resolution.
        assert result.status.failed == result.status.total
        assert "NaN" in result.status.errors[0]


def test_a_unit_that_only_another_scale_reads_fails_the_blocks_that_need_it(tmp_path):
    levels = [noise((1, 192, 192)), noise((1, 96, 96))]
    source = FailingSource(Pyramid(levels, (1, 2)), [(1, 5, 5)])
    plan = gt.plan(Image(source), gt.load_model(bright, multiscale=(1, 0.5)), TILING)
    result = gt.run(plan, tmp_path / "out", durable=False)
    assert 0 < result.status.failed < result.status.total
    assert all("level 1, unit 5, 5" in error for error in result.status.errors)
    assert not [thread for thread in threading.enumerate() if thread.name == "gigatile-read"]


def test_what_is_told_of_progress_are_pixels_of_the_result(tmp_path):
    told = []
    plan = gt.plan(noise((1, 96, 96)), gt.load_model(bright, multiscale=(1, 0.5, 0.25)), Tiling(32, 0, 0, "trim"))
    gt.run(plan, tmp_path / "out", durable=False, on_event=told.append)
    assert sum(event.pixels for event in told if isinstance(event, TilesInferred)) == 96 * 96


@pytest.mark.parametrize("factor", [0.5, 2])
def test_models_of_another_resolution_are_averaged_on_their_grid(tmp_path, factor):
    def other(batch):
        if factor == 2:
            return batch.repeat(2, axis=2).repeat(2, axis=3)
        n, c, y, x = batch.shape
        return batch.reshape(n, c, y // 2, 2, x // 2, 2).mean(axis=(3, 5))

    def whole(x):
        odd = [side % 2 if factor < 1 else 0 for side in x.shape[1:]]
        padded = np.pad(x, ((0, 0), (0, odd[0]), (0, odd[1])), mode="reflect")
        return other(padded[None])[0]

    pixels = noise((1, 90, 70), "float32")
    got = stored(tmp_path, pixels, gt.load_model(other, multiscale=(1, 0.5)), Tiling(32, 8, 0, "trim", block=48))
    shape = tuple(int(side * factor) for side in pixels.shape[1:])
    maps = [whole(pixels), on_base(whole(scaled_down(pixels, scales_of(1, 0.5)[1])), 0.5, shape)]
    assert got.shape[1:] == shape
    assert np.abs(got - np.mean(maps, axis=0)).max() < 1e-5


def test_whole_numbers_are_averaged_as_floats(tmp_path):
    pixels = noise((1, 64, 64))
    model = gt.load_model(lambda batch: batch > 100, scale=1.0, multiscale=(1, 0.5))
    got = stored(tmp_path, pixels, model, Tiling(32, 8, 0, "trim"))
    assert got.dtype == np.float32
    expected = oracle(lambda x: x > 100, pixels.astype(np.float32), scales_of(1, 0.5))
    assert np.abs(got - expected).max() < 1e-5


def test_stains_are_normalised_at_every_scale(tmp_path):
    pixels = np.random.default_rng(3).integers(60, 250, (3, 80, 80), dtype=np.uint8)
    got = stored(tmp_path, pixels, gt.load_model(lambda b: b, normalize="reinhard", multiscale=(1, 0.5)))
    alone = stored(tmp_path / "alone", pixels, gt.load_model(lambda b: b, normalize="reinhard"))
    assert got.min() >= 0
    assert got.max() <= 1
    assert abs(got.mean() - alone.mean()) < 0.05
    assert got.std() < alone.std()


def test_seams_are_those_of_scale_one(tmp_path):
    model = gt.load_model(Constant((0.25,)), multiscale=(1, 0.5))
    result = gt.run(gt.plan(noise((1, 90, 90)), model, TILING, output="probabilities"), tmp_path, durable=False)
    assert result.status.seam_score == 0
    assert (result.prediction[:] == np.float32(0.25)).all()


def test_map_overlap_refuses_several_scales():
    with pytest.raises(UsageError, match="multiscale 1,1/2"):
        gt.map_overlap(gt.open(noise((1, 40, 40))).dask(), gt.load_model(bright, multiscale=(1, 0.5)))


def test_memory_counts_every_scale_and_does_not_grow_with_the_image():
    def parts(side, scales):
        pixels = np.broadcast_to(np.uint8(7), (3, side, 8000))
        plan = gt.plan(
            gt.open(pixels, axes="cyx"),
            gt.load_model(bright, multiscale=scales),
            Tiling(256, 64, block=1536),
            memory="4GiB",
        )
        return fitted(plan, workers=1).memory.parts

    assert "other scales" not in parts(4000, (1,))
    one, two = parts(4000, (1, 0.5))["other scales"], parts(4000, (1, 0.5, 0.25))["other scales"]
    assert two > one > 5 * 256 * 900 * 3 * 4
    assert parts(40_000, (1, 0.5))["other scales"] == one
