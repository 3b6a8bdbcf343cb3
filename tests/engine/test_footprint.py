"""Runs that continue the footprint: the same bits as on the image filled beforehand, however it is cut."""

from dataclasses import replace

import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import gigatile as gt
from gigatile.errors import UsageError
from gigatile.images.footprint import continuing_bytes, read_continued, window_reader
from gigatile.images.image import Image
from gigatile.models.model import LoadedModel
from gigatile.testing.models import identity
from gigatile.testing.sources import CountingSource, FailingSource, UnitSource, constant_source, noise
from gigatile.testing.strategies import sizes, tilings
from gigatile.tiling.region import Region
from tests.data import data as real
from tests.small_runs import cli, entries, write_inputs
from tests.tiling.footprints import footprints, reference, turned_rectangle
from tests.where.test_kept_runs import blurred
from tests.where.test_pixel_size import Slide, everything_valid

from .helpers import load, on_whole_image

RULES = ("reflect", "symmetric", "edge", "constant:9")
SCENE = turned_rectangle((150, 170), (70, 80), (95, 110), 17)


def scene(valid=SCENE, *, nodata=0, dtype="uint8", channels=2):
    """Noise without zeros inside, nodata outside."""
    pixels = noise((channels, *valid.shape), dtype)
    pixels[pixels == 0] = 1
    pixels[:, ~valid] = nodata
    return pixels


def predicted(image, model, tiling, out, **options):
    loaded = model if isinstance(model, LoadedModel) else gt.load_model(model, scale=1 / 255)
    plan = gt.plan(image, loaded, tiling, output="raw", memory="2GiB", **options)
    return np.asarray(gt.run(plan, out, durable=False).prediction[:])


def assert_as_filled(tmp_path, image, tiling, model=blurred, *, valid=SCENE, rule="reflect", mask="nodata"):
    """Against the image filled from end to end, in the same tiles, with nothing left to continue."""
    pixels = everything_valid(image)
    whole = reference(pixels, valid, rule.partition(":")[0], tiling.overlap // 2, 9)
    tiling = replace(tiling, border=rule)
    got = predicted(image, model, replace(tiling, border_of="footprint"), tmp_path / "got", mask=mask)
    expected = predicted(Image(UnitSource(whole, (64, 64))), model, tiling, tmp_path / "expected", mask="none")
    kept = valid if mask == "nodata" else np.ones_like(valid)
    assert np.array_equal(got[:, kept], expected[:, kept])
    if mask == "nodata":
        assert np.isnan(got[:, ~valid]).all()
    stored = predicted(image, model, tiling, tmp_path / "stored", mask=mask)
    assert not np.array_equal(got[:, kept], stored[:, kept]), "the model sees something else than nodata"


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data(), sizes(50), st.sampled_from(RULES[:3]), st.sampled_from([0, "nan"]))
def test_every_window_of_every_tiling_is_the_filled_and_padded_image(data, shape, rule, nodata):
    nodata = float(nodata)
    valid = data.draw(footprints(shape))
    pixels = scene(valid, nodata=nodata, dtype="float32" if nodata != 0 else "uint8")
    tiling = replace(data.draw(tilings(1)), border=rule, border_of="footprint")
    image = Image(UnitSource(pixels, (11, 13), nodata))
    grid = tiling.grid(shape)
    filled = reference(pixels, valid, rule, tiling.overlap // 2)
    more = 2 * max(tiling.tile_yx) + tiling.overlap
    whole = np.pad(filled, ((0, 0), (more, more), (more, more)), mode=rule)
    read = window_reader(image, tiling, "none")
    for row in range(grid.y.count):
        window = grid.band(row, range(data.draw(st.integers(1, grid.x.count))))
        at = window.shifted(more, more).slices()
        assert np.array_equal(read(window)[0], whole[(slice(None), *at)], equal_nan=True)


@pytest.mark.parametrize(("rule", "blend"), [*((rule, "hann") for rule in RULES), ("reflect", "trim")])
def test_a_run_is_that_on_the_filled_image_to_the_bit(tmp_path, rule, blend):
    tiling = gt.Tiling(tile=40, overlap=16, margin=8 if blend == "trim" else 2, blend=blend, block=48)
    assert_as_filled(tmp_path, Image(UnitSource(scene(), (32, 32), 0)), tiling, rule=rule)


@pytest.mark.parametrize("nodata", [7, float("nan")])
@pytest.mark.parametrize("block", [24, 400])
def test_whatever_the_nodata_and_the_block(tmp_path, nodata, block):
    dtype = "uint8" if nodata == 7 else "float32"
    pixels = scene(dtype=dtype)
    pixels[:, SCENE & (pixels == nodata).all(axis=0)] = 8
    pixels[:, ~SCENE] = nodata
    tiling = gt.Tiling(tile=40, overlap=16, margin=2, blend="hann", block=block)
    assert_as_filled(tmp_path, Image(UnitSource(pixels, (32, 32), nodata)), tiling)


def test_without_a_mask_as_well(tmp_path):
    tiling = gt.Tiling(tile=40, overlap=16, margin=2, blend="hann", block=48)
    assert_as_filled(tmp_path, Image(UnitSource(scene(), (32, 32), 0)), tiling, mask="none")


def test_a_network_on_the_whole_filled_image_at_once(tmp_path, stacks):
    pixels = scene()
    pixels[pixels == 77] = 78
    image = Image(UnitSource(pixels, (32, 32), 0))
    tiling = gt.Tiling(tile=48, overlap=8, margin=4, blend="trim", block=80, border_of="footprint")
    got = predicted(image, load(stacks[3]), tiling, tmp_path / "out")
    expected = on_whole_image(stacks[3], reference(pixels, SCENE, "reflect", 4), 4)
    assert np.array_equal(got[:, SCENE], expected[:, SCENE])
    # The model reaches 3 px: what it says of valid pixels does not depend on what nodata is.
    marked = np.where(SCENE, pixels, 77)
    other = predicted(Image(UnitSource(marked, (32, 32), 77)), load(stacks[3]), tiling, tmp_path / "other")
    assert np.array_equal(got, other, equal_nan=True)


def test_alpha_and_chunks_that_were_filled_end_the_footprint_too(tmp_path):
    pixels = scene(channels=3)
    pixels[2] = np.where(SCENE, 255, 0)
    pixels[:2, ~SCENE] = 99
    alpha = Image(UnitSource(pixels, (32, 32), alpha=2))
    tiling = gt.Tiling(tile=40, overlap=16, margin=2, blend="hann", block=48)
    assert_as_filled(tmp_path / "alpha", alpha, tiling)
    broken = np.ones_like(SCENE)
    broken[64:96, 96:128] = False
    source = FailingSource(UnitSource(noise((2, *SCENE.shape)), (32, 32)), [(0, 2, 3)])
    assert_as_filled(tmp_path / "bad", Image(source, on_bad_chunk="fill"), tiling, valid=broken)


@pytest.mark.parametrize("wanted", [0.5, 0.66])
def test_another_pixel_size_is_filled_on_its_own_grid(tmp_path, wanted):
    image = Image(Slide([scene()], (1,), nodata=0)).at(wanted)
    valid = image.read_with_validity(Region(0, 0, *image.grid_shape), gt.Tiling().parsed_border)[1]
    tiling = gt.Tiling(tile=32, overlap=12, margin=2, blend="hann", block=40)
    assert_as_filled(tmp_path, image, tiling, valid=valid)


def test_each_scale_is_filled_on_its_own_grid(tmp_path):
    """The image is filled with its own mean on every scale: a constant is what is left."""
    pixels = np.where(SCENE, 100, 0).astype(np.uint8)[None]
    tiling = gt.Tiling(tile=40, overlap=16, margin=4, blend="hann", block=48, border_of="footprint")
    model = gt.load_model(blurred, scale=1.0, multiscale=(1, 0.5, 0.3))
    got = predicted(Image(UnitSource(pixels, (32, 32), 0)), model, tiling, tmp_path / "got")
    assert (np.abs(got[0][SCENE] - 100) < 1e-3).all()
    stored = predicted(
        Image(UnitSource(pixels, (32, 32), 0)), model, gt.Tiling(40, 16, 4, "hann", block=48), tmp_path / "stored"
    )
    assert stored[0][SCENE].min() < 90


def test_pixels_beside_a_region_are_true_and_stay(tmp_path):
    image = Image(UnitSource(scene(), (32, 32), 0))
    tiling = gt.Tiling(tile=40, overlap=16, margin=2, blend="hann", block=48, border_of="footprint")
    everything = predicted(image, blurred, tiling, tmp_path / "all")
    part = predicted(image, blurred, tiling, tmp_path / "part", roi="70,60,130,120")
    assert np.array_equal(part[:, 60:120, 70:130], everything[:, 60:120, 70:130], equal_nan=True)
    assert np.isnan(part[:, :60]).all()


def test_threads_and_processes_and_caches_do_not_matter(tmp_path):
    image = Image(UnitSource(scene(), (32, 32), 0))
    tiling = gt.Tiling(tile=40, overlap=16, margin=2, blend="hann", block=48, border_of="footprint")
    plan = gt.plan(image, gt.load_model(identity), tiling, output="raw", memory="2GiB")
    results = [
        gt.run(plan, tmp_path / "1", workers=1, durable=False),
        gt.run(plan, tmp_path / "4", workers=4, durable=False),
        gt.run(plan, tmp_path / "p", executor="processes", workers=1, durable=False),
    ]
    first, *others = (np.asarray(result.prediction[:]) for result in results)
    assert all(np.array_equal(first, other, equal_nan=True) for other in others)


@pytest.mark.parametrize("blend", ["trim", "hann"])
def test_every_chunk_is_decoded_once(tmp_path, blend):
    source = CountingSource(UnitSource(scene(), (16, 16), 0))
    tiling = gt.Tiling(tile=40, overlap=16, margin=2, blend=blend, block=48, border_of="footprint")
    plan = gt.plan(Image(source), gt.load_model(identity), tiling, output="raw", memory="2GiB")
    gt.run(plan, tmp_path / "out", workers=1, durable=False)
    assert max(source.decoded.values()) == 1
    assert plan.memory.decoded_ratio == 1.0
    assert sum(entry["units_decoded"] for entry in entries(tmp_path / "out")) == sum(source.decoded.values())


def test_an_image_that_is_all_valid_is_not_read_any_further():
    source = CountingSource(UnitSource(np.full((1, 200, 200), 5, np.uint8), (8, 8), 0))
    tiling = gt.Tiling(tile=40, overlap=16, margin=2, blend="hann", border_of="footprint")
    window_reader(Image(source), tiling, "nodata")(Region(80, 80, 120, 120))
    assert len(source.decoded) == 25
    pixels = np.full((1, 200, 200), 5, np.uint8)
    pixels[:, 100, 100] = 0
    again = CountingSource(UnitSource(pixels, (8, 8), 0))
    window_reader(Image(again), tiling, "nodata")(Region(80, 80, 120, 120))
    assert len(again.decoded) == 81, "2 x 8 px more on each side: 72 px in chunks of 8"


def test_the_plan_knows_what_it_costs_and_old_runs_keep_their_fingerprint():
    model = gt.load_model(identity)
    image = Image(UnitSource(scene(), (32, 32), 0))
    plans = [
        gt.plan(image, model, gt.Tiling(tile=40, overlap=16, blend="hann", border_of=of), output="raw", memory="2GiB")
        for of in ("image", "footprint")
    ]
    assert "border_of" not in plans[0].describe()["tiling"]
    assert plans[1].describe()["tiling"]["border_of"] == "footprint"
    assert plans[0].fingerprint != plans[1].fingerprint
    assert "the footprint's edge" not in plans[0].memory.parts
    assert plans[1].memory.parts["the footprint's edge"] > 0
    assert "reflect of the valid pixels" in str(plans[1])
    # Nothing can be invalid: nothing is paid.
    never = gt.plan(Image(constant_source((2, 99, 99), 1)), model, plans[1].tiling, output="raw", memory="2GiB")
    assert "the footprint's edge" not in never.memory.parts


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize("density", [0.0, 0.3, 0.98])
@pytest.mark.parametrize("window", [Region(-20, 300, 236, 1600), Region(600, 600, 856, 856)])
def test_memory_stays_below_what_the_plan_counts_for_it(dtype, density, window):
    import tracemalloc

    tiling = gt.Tiling(tile=256, overlap=128, margin=0, blend="hann", border_of="footprint")
    valid = np.random.default_rng(0).random((1500, 1800)) < density
    valid[:, 700:720] = True
    image = Image(UnitSource(scene(valid, dtype=dtype), (100, 100), 0))
    image.use_cache(0, None)
    image.read(Region(0, 0, 300, 300))
    tracemalloc.start()
    try:
        pixels, _ = read_continued(image, window, tiling.parsed_border, 64)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    units = 64 * image.unit_bytes(0)
    assert peak < continuing_bytes(image, window.shape, 128, image.dtype.itemsize) + 2 * pixels.nbytes + units


def test_it_is_an_option_and_part_of_what_a_run_is(tmp_path):
    write_inputs(tmp_path)
    tifffile.imwrite(
        tmp_path / "scene.tif", np.moveaxis(scene(channels=3), 0, -1), tile=(64, 64), photometric="rgb",
        extratags=[(42113, "s", 0, "0", True)],
    )  # fmt: skip
    words = ("run", "scene.tif", "-o", "out", "--model", "models.py:bright", "--tile", "64", "--overlap", "16")
    cli(*words, "--border-of", "footprint", cwd=tmp_path)
    found = np.asarray(zarr.open_array(tmp_path / "out" / "prediction.zarr" / "0", mode="r")[:])
    assert np.array_equal(found == 255, ~SCENE)
    _, told = cli(*words, cwd=tmp_path, code=2)
    assert "tiling.border_of: footprint before, None now" in told
    _, told = cli(*words, "--border-of", "scene", cwd=tmp_path, code=2)
    assert "image or footprint" in told or "image, footprint" in told


def test_sliding_windows_see_it_and_dask_arrays_are_refused(tmp_path):
    import dask.array as da

    pixels = scene()
    tiling = gt.Tiling(tile=40, overlap=16, blend="hann", border_of="footprint")
    filled = np.pad(reference(pixels, SCENE, "reflect", 8), ((0, 0), (99, 99), (99, 99)), mode="reflect")
    for tile in gt.tiles(Image(UnitSource(pixels, (32, 32), 0)), tiling):
        assert np.array_equal(tile.pixels, filled[(slice(None), *tile.read.shifted(99, 99).slices())])
    with pytest.raises(UsageError, match="does not say which of its pixels are valid"):
        gt.map_overlap(da.from_array(pixels), identity, tiling)
    with pytest.raises(UsageError, match="image or footprint"):
        gt.Tiling(border_of="scene")


def test_a_real_turned_scene_has_no_dark_rim(tmp_path):
    """Landsat, nodata 0: a mean over 9 x 9 px falls towards the footprint unless it is continued."""
    image = gt.open(real("satellite/rasterio/RGB.byte.tif"))
    results = {}
    for of in ("image", "footprint"):
        tiling = gt.Tiling(tile=128, overlap=32, margin=8, blend="hann", border_of=of)
        results[of] = predicted(image, gt.load_model(wide_mean, scale=1.0), tiling, tmp_path / of)
    valid = ~np.isnan(results["image"][0])
    assert np.array_equal(valid, ~np.isnan(results["footprint"][0]))
    inner = np.pad(valid, 1)
    rim = valid & ~(inner[:-2, 1:-1] & inner[2:, 1:-1] & inner[1:-1, :-2] & inner[1:-1, 2:])
    assert rim.sum() > 1000
    stored = image.read(Region(0, 0, *image.grid_shape))[0]
    ratio = {of: results[of][0][rim].mean() / stored[rim].mean() for of in results}
    assert ratio["image"] < 0.75
    assert abs(ratio["footprint"] - 1) < 0.1


def wide_mean(batch):
    """The mean over 9 x 9 px of the first channel."""
    padded = np.pad(batch[:, :1], ((0, 0), (0, 0), (4, 4), (4, 4)), mode="edge")
    height, width = batch.shape[2:]
    return sum(padded[:, :, i : i + height, j : j + width] for i in range(9) for j in range(9)) / np.float32(81)
