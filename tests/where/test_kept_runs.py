"""Runs on a part of an image: inside the same bits as without, outside invalid, nothing read or inferred in vain."""

import numpy as np
import pytest
import tifffile
import zarr

import gigatile as gt
from gigatile.images.image import Image
from gigatile.models.model import LoadedModel
from gigatile.testing.sources import CountingSource, UnitSource, noise
from gigatile.tiling.region import Region
from tests.small_runs import cli, entries, write_conv, write_inputs

PIXELS = noise((3, 230, 260))
PIXELS[:, 150:, 200:] = 0
RING = [[30.0, 20.0], [170.0, 45.0], [120.0, 190.0], [60.0, 120.0]]
SHAPE = {"type": "Polygon", "coordinates": [RING]}


def blurred(batch):
    padded = np.pad(batch, ((0, 0), (0, 0), (2, 2), (2, 2)), mode="edge")
    height, width = batch.shape[2:]
    return sum(padded[:, :, i : i + height, j : j + width] for i in range(5) for j in range(5)) / np.float32(25)


def halved(batch):
    return batch[:, :1, ::2, ::2]


def doubled(batch):
    return batch[:, :1].repeat(2, axis=2).repeat(2, axis=3)


def image(source=None):
    return Image(source or UnitSource(PIXELS, (32, 32), nodata=0))


def predicted(plan, out):
    return np.asarray(gt.run(plan, out, durable=False).prediction[:])


def make(tiling, model, image_=None, **options):
    loaded = model if isinstance(model, LoadedModel) else gt.load_model(model)
    return gt.plan(image_ or image(), loaded, tiling, **{"output": "probabilities", **options})


def assert_same_inside(tmp_path, tiling, model, image_=None, *, roi=SHAPE, mask="nodata"):
    """Compare with the run on everything; returns the plan and which pixels were kept."""
    part, everything = (
        make(tiling, model, image_, roi=roi, mask=mask),
        make(tiling, model, image_, mask="none" if mask == "none" else "nodata"),
    )
    got, full = predicted(part, tmp_path / "part"), predicted(everything, tmp_path / "full")
    assert got.shape == full.shape
    kept = part.kept.window(Region(0, 0, *got.shape[1:]))
    assert kept.any()
    assert not kept.all()
    assert np.array_equal(got[:, kept], full[:, kept], equal_nan=True)
    assert not np.isnan(got[:, kept]).all()
    assert np.isnan(got[:, ~kept]).all()
    assert part.tiles_inferred < everything.tiles_inferred
    inferred = sum(entry["tiles"] for entry in entries(tmp_path / "part"))
    assert 0 < inferred <= part.tiles_inferred, "nodata may leave even less to do"
    return part, kept


@pytest.mark.parametrize("blend", ["trim", "mean", "linear", "hann", "gaussian"])
@pytest.mark.parametrize("block", [48, 96, 400])
def test_what_is_inside_is_what_it_is_without(tmp_path, blend, block):
    tiling = gt.Tiling(tile=48, overlap=24, margin=4, blend=blend, block=block)
    assert_same_inside(tmp_path, tiling, blurred)


@pytest.mark.parametrize("scales", [(1, 0.5), (1, 0.5, 0.3)])
@pytest.mark.parametrize("mask", ["nodata", "none"])
def test_so_it_is_with_several_scales(tmp_path, scales, mask):
    tiling = gt.Tiling(tile=48, overlap=24, margin=4, blend="hann", block=72)
    assert_same_inside(tmp_path, tiling, gt.load_model(blurred, multiscale=scales), mask=mask)


@pytest.mark.parametrize("model", [halved, doubled])
@pytest.mark.parametrize("shape", [(230, 260), (231, 261)])
def test_so_it_is_with_results_of_another_resolution(tmp_path, model, shape):
    tiling = gt.Tiling(tile=48, overlap=16, margin=0, blend="hann", block=64)
    assert_same_inside(tmp_path, tiling, model, Image(UnitSource(noise((3, *shape)), (32, 32))))


def test_so_it_is_with_a_network(tmp_path):
    path = write_conv(tmp_path / "net.onnx")
    tiling = gt.Tiling(tile=48, overlap=24, margin=4, blend="hann", block=72)
    assert_same_inside(tmp_path, tiling, path)


def test_so_it_is_with_a_mask_file_and_a_region_together(tmp_path):
    keep = np.random.default_rng(0).random((58, 65)) > 0.995
    tifffile.imwrite(tmp_path / "mask.tif", keep.astype(np.uint8))
    tiling = gt.Tiling(tile=32, overlap=12, margin=2, blend="hann", block=60)
    _, kept = assert_same_inside(tmp_path, tiling, blurred, roi="20,10,250,200", mask=str(tmp_path / "mask.tif"))
    expected = np.kron(keep, np.ones((4, 4), bool))[:230, :260]
    expected[:10] = expected[200:] = expected[:, :20] = expected[:, 250:] = False
    assert np.array_equal(kept, expected)


def test_blocks_without_a_kept_pixel_are_empty_and_decode_nothing(tmp_path):
    source = CountingSource(UnitSource(PIXELS, (32, 32)))
    tiling = gt.Tiling(tile=32, overlap=8, margin=2, blend="hann", block=48)
    plan = make(tiling, blurred, image(source), roi=Region(50, 50, 70, 75))
    predicted(plan, tmp_path / "out")
    records = {e["block"]: e for e in entries(tmp_path / "out") if e["block"].startswith("0/")}
    assert {block for block, e in records.items() if e["status"] == "done"} == {"0/1/1"}
    assert sum(e["tiles"] for e in records.values()) == plan.tiles_inferred == plan.to_json()["tiles"]
    assert plan.to_json()["blocks_kept"] == 1
    assert plan.to_json()["blocks"] == len(records)
    # Tiles whose cores and reach of 2 meet rows 50-70 and columns 50-75 begin at 48 and 72, and see 4 px more.
    assert set(source.decoded) == {(0, row, col) for row in (1, 2) for col in (1, 2, 3)}
    assert max(source.decoded.values()) == 1
    store = tmp_path / "out" / "prediction.zarr"
    assert zarr.open_array(store / "0", mode="r").shape == (3, 230, 260)
    assert len([p for p in (store / "0" / "c").rglob("*") if p.is_file()]) == 1


def test_one_pixel_is_enough(tmp_path):
    tiling = gt.Tiling(tile=32, overlap=12, margin=2, blend="hann", block=60)
    _, kept = assert_same_inside(tmp_path, tiling, blurred, roi=Region(99, 100, 100, 101))
    assert kept.sum() == 1


def test_the_region_counts_pixels_of_level_0_on_another_grid(tmp_path):
    pixels = gt.open(PIXELS, axes="cyx").with_pixel_size(0.25)
    tiling = gt.Tiling(tile=32, overlap=12, margin=2, blend="hann", block=60)
    _, kept = assert_same_inside(tmp_path, tiling, blurred, pixels.at(0.5), roi="20,10,61,53")
    rows, cols = np.nonzero(kept)
    # The pixel 30 covers 60-62, and its centre 61 is not below 61.
    assert (rows.min(), rows.max() + 1, cols.min(), cols.max() + 1) == (5, 26, 10, 30)


def test_the_fingerprint_knows_the_content_of_regions_and_masks(tmp_path):
    tiling = gt.Tiling(tile=32, overlap=12, margin=2, blend="hann", block=60)
    moved = {"type": "Polygon", "coordinates": [[[30.0, 20.0], [170.0, 45.0], [120.0, 190.5], [60.0, 120.0]]]}
    rois = [None, SHAPE, moved, "20,10,61,53", "20,10,61,54", "20,10,62,53"]
    assert len({make(tiling, blurred, roi=roi).fingerprint for roi in rois}) == len(rois)
    feature = {"type": "Feature", "geometry": SHAPE}
    assert make(tiling, blurred, roi=feature).fingerprint == make(tiling, blurred, roi=SHAPE).fingerprint


def test_another_region_is_another_run_and_the_same_one_resumes(tmp_path):
    write_inputs(tmp_path)
    (tmp_path / "roi.geojson").write_text('{"type": "Polygon", "coordinates": [[[9, 9], [200, 9], [90, 200]]]}')
    words = ("run", "image.zarr", "-o", "out", "--model", "models.py:bright", "--tile", "64", "--overlap", "16")
    cli(*words, "--roi", "roi.geojson", cwd=tmp_path)
    (tmp_path / "roi.geojson").rename(tmp_path / "other.geojson")
    cli(*words, "--roi", "other.geojson", cwd=tmp_path)
    _, told = cli(*words, "--roi", "9,9,200,200", cwd=tmp_path, code=2)
    assert "selection" in told
    _, told = cli(*words, "--roi", "999,999,2000,2000", cwd=tmp_path, code=2)
    assert "found 999,999,2000,2000" in told


def test_processes_do_it_too(tmp_path):
    write_inputs(tmp_path)
    tiling = gt.Tiling(tile=64, overlap=16, margin=2, blend="hann", block=96)
    plan = gt.plan(tmp_path / "image.zarr", tmp_path / "conv.onnx", tiling, roi=SHAPE, output="probabilities")
    here = predicted(plan, tmp_path / "here")
    there = gt.run(plan, tmp_path / "there", executor="processes", workers=1, durable=False)
    assert np.array_equal(here, np.asarray(there.prediction[:]), equal_nan=True)
