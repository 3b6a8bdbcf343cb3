"""`gigatile label`: scipy's numbers in an OME-Zarr that lies where its input lies, in the memory that was planned."""

import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

import gigatile as gt
from gigatile.cli.main import main
from gigatile.errors import BlockError, ImageError, MemoryRefused, RunRefused, UsageError
from gigatile.exports import label_plan
from gigatile.images.image import Image
from gigatile.testing.sources import UnitSource
from tests.exports.samples import UTM
from tests.promises.test_bounded import WRAPPER

EIGHT = np.ones((3, 3), int)
MIB = 2**20


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of 64 px, so that small images have many."""
    cut(monkeypatch, 64, 32)


def cut(monkeypatch, side, chunk):
    monkeypatch.setattr(label_plan, "SIDES_PX", (side,))
    monkeypatch.setattr(label_plan, "USUAL_CHUNK_PX", chunk)
    monkeypatch.setattr(label_plan, "CHUNKS_PX", (2**30, 2**30))  # whatever the input has


def blobs(shape, seed=0, share=0.5):
    smooth = ndimage.gaussian_filter(np.random.default_rng(seed).random(shape), 2)
    return smooth > np.quantile(smooth, 1 - share)


def stored(path, level=0):
    return zarr.open_array(f"{path}/{level}", mode="r")[:]


@settings(deadline=None, max_examples=20)
@given(
    shape=st.tuples(st.integers(1, 200), st.integers(1, 200)),
    seed=st.integers(0, 99),
    side=st.sampled_from([1, 5, 32, 64, 100, 512]),
    connectivity=st.sampled_from([4, 8]),
)
def test_labels_are_those_of_scipy(shape, seed, side, connectivity, tmp_path_factory):
    chunk = 1 if max(shape) < 12 else side if side > 1 else 7
    with pytest.MonkeyPatch.context() as patch:
        cut(patch, 2 * chunk, chunk)
        mask = blobs(shape, seed)
        out = tmp_path_factory.mktemp("label") / "labels.zarr"
        found = gt.label(mask, out, connectivity=connectivity, workers=2)
    truth, count = ndimage.label(mask, EIGHT if connectivity == 8 else None)
    assert found.count == count
    np.testing.assert_array_equal(stored(out), truth)


@pytest.mark.parametrize("kind", ["numpy", "one channel", "dask", "v2", "v3", "sharded", "channels last"])
def test_every_kind_of_input_gives_the_same(kind, small_blocks, tmp_path):
    mask = blobs((150, 170))
    truth = ndimage.label(mask)[0]
    place = tmp_path / "in.zarr"
    if kind == "numpy":
        given = mask
    elif kind == "one channel":
        given = mask[None, :, :, None].astype(float)
    elif kind == "dask":
        import dask.array as da

        given = da.from_array(mask, chunks=(33, 170))
    else:
        pixels = mask[None].astype("u1") if kind == "channels last" else mask
        options = {"zarr_format": 2} if kind == "v2" else {"shards": (64, 64)} if kind == "sharded" else {}
        chunks = (1, 40, 40) if kind == "channels last" else (32, 32)
        names = ["z", "y", "x"] if kind == "channels last" else None
        options |= {"dimension_names": names} if names else {}
        zarr.create_array(str(place), data=pixels, chunks=chunks, **options)
        given = place
    found = gt.label(given, tmp_path / "out.zarr")
    assert found.count == truth.max() > 3
    np.testing.assert_array_equal(stored(tmp_path / "out.zarr"), truth)


@pytest.mark.parametrize("dtype", ["u1", "i4", "u8", "f4", "f8"])
def test_by_class_only_equal_values_are_one(dtype, small_blocks, tmp_path):
    values = (blobs((130, 140)) * (1 + blobs((130, 140), 1) + 2 * blobs((130, 140), 2))).astype(dtype)
    found = gt.label(values, tmp_path / "out.zarr", classes="apart")
    labels = stored(tmp_path / "out.zarr")
    assert ((labels > 0) == (values > 0)).all()
    count = 0
    for value in np.unique(values[values > 0]):
        truth, more = ndimage.label(values == value)
        pairs = np.unique(np.stack([truth[truth > 0], labels[truth > 0]]), axis=1)
        assert pairs.shape[1] == more == len(np.unique(pairs[1]))
        count += more
    assert found.count == count == labels.max() > ndimage.label(values)[1]
    first = np.unique(labels, return_index=True)[1][1:]
    assert (np.diff(first) > 0).all(), "in the order of first pixels"


def test_invalid_pixels_are_background(small_blocks, tmp_path):
    values = np.ones((100, 90), "f4")
    values[:, 40] = np.nan
    assert gt.label(values, tmp_path / "nan.zarr").count == 2
    classes = np.where(np.isnan(values), 255, 1).astype("u1")
    array = zarr.create_array(str(tmp_path / "classes.zarr"), data=classes, chunks=(32, 32))
    assert gt.label(tmp_path / "classes.zarr", tmp_path / "all.zarr").count == 1
    array.attrs["_FillValue"] = 255
    assert gt.label(tmp_path / "classes.zarr", tmp_path / "some.zarr").count == 2


def test_a_result_is_labelled_where_it_lies(scene, tmp_path):
    """A run directory, or the result in it: CRS, transform and pixel size stay; nodata (255) is background."""
    gt.label(scene, tmp_path / "a.zarr")
    gt.label(scene / "prediction.zarr", tmp_path / "b.zarr", classes="apart")
    classes = zarr.open_array(scene / "prediction.zarr" / "0", mode="r")[:]
    assert (classes == 255).any()
    truth = ndimage.label((classes != 0) & (classes != 255))[0]
    np.testing.assert_array_equal(stored(tmp_path / "a.zarr"), truth)
    levels = len(zarr.open_group(scene / "prediction.zarr", mode="r").attrs["ome"]["multiscales"][0]["datasets"])
    assert levels > 1
    for level in range(levels):
        np.testing.assert_array_equal(stored(tmp_path / "a.zarr", level), truth[:: 2**level, :: 2**level])
    before, after = gt.open(scene / "prediction.zarr"), gt.open(tmp_path / "a.zarr")
    assert (after.transform, after.crs, after.pixel_size) == (before.transform, before.crs, before.pixel_size)
    assert after.transform == UTM


def test_pixel_size_and_translation_of_a_slide_stay(tmp_path):
    group = zarr.create_group(str(tmp_path / "in.zarr"))
    group.create_array("s0", data=blobs((60, 50)), chunks=(32, 32))
    steps = [{"type": "scale", "scale": [0.002, 0.004]}, {"type": "translation", "translation": [0.5, -0.25]}]
    axes = [{"name": name, "type": "space", "unit": "millimeter"} for name in "yx"]
    datasets = [{"path": "s0", "coordinateTransformations": steps}]
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": datasets}]}
    gt.label(tmp_path / "in.zarr", tmp_path / "out.zarr")
    image = zarr.open_group(str(tmp_path / "out.zarr"), mode="r").attrs["ome"]["multiscales"][0]
    assert [axis["unit"] for axis in image["axes"]] == ["micrometer"] * 2
    scale, move = (step[step["type"]] for step in image["datasets"][0]["coordinateTransformations"])
    assert scale == pytest.approx([2, 4])
    assert move == pytest.approx([500, -250])


def test_a_size_without_unit_stays_a_bare_number(tmp_path):
    group = zarr.create_group(str(tmp_path / "in.zarr"))
    group.create_array("0", data=blobs((60, 50)), chunks=(32, 32))
    steps = [{"type": "scale", "scale": [0.5, 0.5]}, {"type": "translation", "translation": [-0.25, -0.25]}]
    datasets = [{"path": "0", "coordinateTransformations": steps}]
    axes = [{"name": name, "type": "space"} for name in "yx"]
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": datasets}]}
    gt.label(tmp_path / "in.zarr", tmp_path / "out.zarr")
    image = zarr.open_group(str(tmp_path / "out.zarr"), mode="r").attrs["ome"]["multiscales"][0]
    assert image["datasets"][0]["coordinateTransformations"] == steps
    assert "unit" not in image["axes"][0]


def test_the_result_is_a_label_image_by_the_specification(small_blocks, tmp_path):
    from ome_zarr_models.v05.image_label import ImageLabel

    gt.label(blobs((700, 600)), tmp_path / "out.zarr")
    group = zarr.open_group(str(tmp_path / "out.zarr"), mode="r")
    ImageLabel.from_zarr(group)
    assert stored(tmp_path / "out.zarr").dtype == np.uint32
    assert group["0"].shards is not None
    assert group["0"].fill_value == 0
    assert group.attrs["gigatile"]["complete"] is True


def test_probabilities_are_refused_with_advice_before_anything_is_written(probabilities, tmp_path):
    for target in (probabilities, np.random.default_rng(0).random((40, 40))):
        with pytest.raises(UsageError, match=r"--output classes.*array > 0\.5"):
            gt.label(target, tmp_path / "out.zarr")
    assert list(tmp_path.iterdir()) == []


def test_other_inputs_are_refused(tmp_path):
    with pytest.raises(ImageError, match="two axes"):
        gt.label(np.ones((3, 40, 40)), tmp_path / "out.zarr")
    zarr.create_array(str(tmp_path / "three.zarr"), data=np.ones((3, 9, 9), "u1"), chunks=(1, 9, 9))
    with pytest.raises(UsageError, match="one plane"):
        gt.label(tmp_path / "three.zarr", tmp_path / "out.zarr")
    with pytest.raises(UsageError, match="4 or 8"):
        gt.label(np.ones((4, 4)), tmp_path / "out.zarr", connectivity=6)
    zarr.create_array(str(tmp_path / "mask.zarr"), data=np.ones((9, 9), "u1"), chunks=(9, 9))
    with pytest.raises(UsageError, match="beside the input"):
        gt.label(tmp_path / "mask.zarr", tmp_path / "mask.zarr" / "labels")


def test_a_result_with_holes_is_refused(scene, tmp_path):
    import shutil

    shutil.copytree(scene, tmp_path / "run")
    document = json.loads((tmp_path / "run/prediction.zarr/zarr.json").read_text())
    document["attributes"]["gigatile"]["complete"] = False
    (tmp_path / "run/prediction.zarr/zarr.json").write_text(json.dumps(document))
    with pytest.raises(RunRefused, match="a complete result"):
        gt.label(tmp_path / "run", tmp_path / "out.zarr")


def test_only_earlier_labels_are_replaced(scene, tmp_path):
    mask, out = blobs((50, 50)), tmp_path / "out.zarr"
    gt.label(mask, out)
    gt.label(~mask, out, connectivity=8)
    np.testing.assert_array_equal(stored(out), ndimage.label(~mask, EIGHT)[0])
    zarr.create_array(str(tmp_path / "mine.zarr"), data=mask, chunks=(50, 50))
    for foreign in (tmp_path / "mine.zarr", scene / "prediction.zarr", scene):
        with pytest.raises(RunRefused, match="something else"):
            gt.label(mask, foreign)
    assert (zarr.open_array(str(tmp_path / "mine.zarr"), mode="r")[:] == mask).all()


def test_what_fails_on_the_way_leaves_the_earlier_labels_and_nothing_else(small_blocks, tmp_path):
    import dask.array as da

    def failing(block, block_info=None):
        if block_info[0]["chunk-location"] == (2, 1):
            raise ValueError("no such pixels")
        return block

    mask, out = blobs((150, 150)), tmp_path / "out.zarr"
    gt.label(mask, out)
    broken = da.from_array(~mask, chunks=(50, 50)).map_blocks(failing, dtype=bool)
    with pytest.raises(BlockError, match="no such pixels"):
        gt.label(broken, out)
    assert [path.name for path in tmp_path.iterdir()] == ["out.zarr"]
    np.testing.assert_array_equal(stored(out), ndimage.label(mask)[0])


def test_the_bytes_do_not_depend_on_workers(small_blocks, tmp_path):
    mask = blobs((300, 200), share=0.7)
    for workers in (1, 3):
        gt.label(mask, tmp_path / f"{workers}.zarr", workers=workers)
    files = [
        {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}
        for root in (tmp_path / "1.zarr", tmp_path / "3.zarr")
    ]
    assert files[0] == files[1]
    assert len(files[0]) > 10


def test_progress_tells_the_plan_then_every_block(small_blocks, tmp_path):
    told = []
    found = gt.label(blobs((300, 200)), tmp_path / "out.zarr", progress=told.append)
    assert told[0].stage == "plan"
    assert told[0].plan.projected_bytes == found.projected_bytes
    for stage in ("join", "write"):
        assert [p.done for p in told if p.stage == stage] == list(range(1, 21))


@pytest.mark.parametrize("unit", [(7, 300), (150, 7), (97, 101), (64, 64)])
def test_each_chunk_is_decoded_once_a_pass_whatever_its_shape(unit, small_blocks, monkeypatch, tmp_path):
    monkeypatch.setattr(label_plan, "CACHE_BYTES", 0)
    mask = blobs((150, 300))
    image = Image(UnitSource(mask[None].astype("u1"), unit))
    assert gt.label(image, tmp_path / "out.zarr", workers=1).count == ndimage.label(mask)[1]
    # All of it may fit: then the second pass finds everything in the cache.
    assert 1 <= image.counter.take() / image.levels[0].unit_count <= 2


def test_no_workers_are_refused(tmp_path):
    with pytest.raises(UsageError, match="at least 1"):
        gt.label(np.ones((5, 5), bool), tmp_path / "out.zarr", workers=0)


def test_a_memory_that_holds_no_blocks_is_refused_with_what_would_do(tmp_path):
    with pytest.raises(MemoryRefused, match=r"Type --memory \d+MiB") as refused:
        gt.label(np.ones((5000, 5000), bool), tmp_path / "out.zarr", memory="20MiB")
    assert "faces" in str(refused.value)
    assert list(tmp_path.iterdir()) == []


def test_the_command(tmp_path, capsys):
    mask = blobs((90, 80))
    zarr.create_array(str(tmp_path / "in.zarr"), data=mask, chunks=(64, 64))
    out = tmp_path / "out.zarr"
    assert main(["label", str(tmp_path / "in.zarr"), "-o", str(out), "--connectivity", "8"]) == 0
    said = capsys.readouterr()
    assert said.out.strip() == str(out)
    assert f"{ndimage.label(mask, EIGHT)[1]:,} components" in said.err
    assert "memory at most" in said.err
    np.testing.assert_array_equal(stored(out), ndimage.label(mask, EIGHT)[0])
    assert main(["label", str(tmp_path / "in.zarr"), "-o", str(out), "--by-class"]) == 0
    assert main(["label", str(tmp_path / "in.zarr"), "-o", str(out), "--connectivity", "6"]) == 2
    assert main(["label", str(tmp_path / "in.zarr")]) == 2
    assert main(["label", str(tmp_path / "in.zarr"), "-o", "s3://bucket/out.zarr"]) == 2


CHILD = """
import sys, numpy as np
import dask.array as da
import gigatile as gt
kind, side, memory, classes, out = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4], sys.argv[5]
def make(block_info=None):
    (y0, y1), (x0, x1) = block_info[None]["array-location"]
    y, x = np.arange(y0, y1)[:, None], np.arange(x0, x1)
    if kind == "checkers":
        return ((y + x) % 2 == 0).astype("u1")
    if kind == "values":
        return ((y * 7 + x * 3) % 251 + 1).astype("u1")
    return (np.random.default_rng((y0, x0)).random((y1 - y0, x1 - x0)) < 0.4).astype('u1')
mask = da.map_blocks(make, chunks=da.core.normalize_chunks((512, 512), (side, side)), dtype="u1")
found = gt.label(mask, out, memory=memory, classes=classes)
print(found.projected_bytes, found.count)
"""


@pytest.mark.parametrize(
    ("kind", "classes", "count"),
    [("noise", "joined", None), ("checkers", "joined", 3000**2 // 2), ("values", "apart", 3000**2)],
)
def test_the_peak_stays_within_the_planned_memory(kind, classes, count, tmp_path):
    words = [CHILD, kind, "3000", "600MiB", classes, str(tmp_path / "out.zarr")]
    command = [sys.executable, "-S", "-c", WRAPPER, sys.executable, "-c", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    peak = int(done.stderr.splitlines()[-1]) * 1024
    projected, found = map(int, done.stdout.split())
    assert count is None or found == count
    assert peak <= projected <= 600 * MIB
    print(f"{kind}: {peak / MIB:.0f} of {projected / MIB:.0f} MiB")


def test_a_killed_labelling_is_begun_anew(tmp_path):
    words = [sys.executable, "-c", CHILD, "noise", "3000", "1GiB", "joined", str(tmp_path / "out.zarr")]
    temporary = tmp_path / ".out.zarr.export.tmp"
    child = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    while child.poll() is None and not (temporary / "0" / "c").exists():
        time.sleep(0.01)
    child.kill()
    assert child.wait() == -9, "it was over before it could be killed"
    assert not (tmp_path / "out.zarr").exists()
    assert temporary.exists()
    gt.label(blobs((50, 50)), tmp_path / "out.zarr")
    assert os.listdir(tmp_path) == ["out.zarr"]  # noqa: PTH208
    assert stored(tmp_path / "out.zarr").shape == (50, 50)
