"""Promises 4 and 5 for objects: nothing is missing in silence; what is damaged or lost is found, and done again."""

import json
import shutil

import pytest

import gigatile as gt
from gigatile.errors import RunRefused
from gigatile.runs.verify import verify
from tests.planted import FIND, TILING_WORDS, found, planned, rows, write_planted
from tests.small_runs import cli, document, entries, finished

WAYS = {"detect": ("crowd", gt.Detect("wbf")), "instances": ("labels", gt.Instances())}
INSTANCES = ("--task", "instances", "--model", "models.py:fragile_labels")
DETECT = ("--task", "detect", "--model", "models.py:fragile")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mended")
    write_planted(folder)
    for way, (model, objects) in WAYS.items():
        assert gt.run(planned(folder, model, objects), folder / way, durable=False).complete
    return folder


@pytest.fixture
def out(source, tmp_path, request):
    """A copy of a complete run."""
    shutil.copytree(source / request.param, tmp_path / request.param)
    return tmp_path / request.param


def again(source, out):
    """The same run once more; returns how many blocks of which stages were done again."""
    before = finished(out)
    result = gt.run(planned(source, *WAYS[out.name]), out, durable=False)
    assert result.complete and document(out)["complete"]
    assert found(out) == found(source / out.name)
    assert verify(out).problems == ()
    done = finished(out) - before
    return {stage: sum(n for block, n in done.items() if block[0] == stage) for stage in sorted({b[0] for b in done})}


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    path.write_bytes(content)


def parts(directory):
    """Blocks in which something was found."""
    return sum(entry["status"] == "done" and entry["block"].startswith("0/") for entry in entries(directory))


both = pytest.mark.parametrize("out", WAYS, indirect=True)
instances = pytest.mark.parametrize("out", ["instances"], indirect=True)


@both
def test_of_a_complete_run_nothing_is_left_to_do(source, out):
    assert verify(out).problems == ()
    assert again(source, out) == {}


@both
@pytest.mark.parametrize("name", ["closed", "open"])
def test_a_damaged_part_is_found_and_done_again_alone(source, out, name):
    flip(out / "parts" / "1" / "1" / f"{name}.parquet")
    (problem,) = verify(out).problems
    assert "block 0/1/1" in problem
    assert again(source, out) == {"0": 1}


@both
def test_of_a_complete_run_a_truncated_part_is_nobodys_loss_until_verify_tells(source, out):
    path = out / "parts" / "2" / "0" / "open.parquet"
    path.write_bytes(path.read_bytes()[:-3])
    (problem,) = verify(out).problems
    assert "block 0/2/0" in problem
    assert again(source, out) == {"0": 1}


@both
@pytest.mark.parametrize("harm", ["flip", "cut", "lose"])
def test_a_damaged_table_of_objects_is_merged_again(source, out, harm):
    path = out / "objects.parquet"
    if harm == "flip":
        flip(path)
        (problem,) = verify(out).problems
        assert "objects.parquet" in problem
    elif harm == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    else:
        path.unlink()
    assert again(source, out) == {"1": 1}


@instances
def test_a_damaged_shard_of_labels_is_found_and_done_again_alone(source, out):
    flip(out / "prediction.zarr" / "0" / "c" / "1" / "2")
    assert all("block 2/1/2" in problem for problem in verify(out).problems)
    assert again(source, out) == {"2": 1}


@both
def test_parts_may_be_deleted_once_a_run_is_complete(source, out):
    shutil.rmtree(out / "parts")
    assert verify(out).problems == ()
    assert again(source, out) == {}
    cli("status", out.name, cwd=out.parent)
    cli("export", out.name, "--to", "geojson", "-o", "out.geojson", cwd=out.parent)
    features = json.loads((out.parent / "out.geojson").read_text())["features"]
    assert len(features) == document(out)["objects"]["total"] > 60


@instances
def test_a_shard_that_is_lost_after_the_parts_is_done_again_from_the_image(source, out):
    shutil.rmtree(out / "parts")
    (out / "prediction.zarr" / "0" / "c" / "0" / "1").unlink()
    assert again(source, out) == {"0": parts(source / "instances"), "1": 1, "2": 1}


@instances
def test_a_shard_that_is_lost_with_one_part_is_done_again(source, out):
    """The ids of that block are lost with its part."""
    shutil.rmtree(out / "parts" / "0" / "1")
    (out / "prediction.zarr" / "0" / "c" / "0" / "1").unlink()
    assert again(source, out) == {"0": 1, "1": 1, "2": 1}


@instances
def test_a_shard_that_is_lost_with_the_numbers_of_its_part_is_done_again(source, out):
    (out / "parts" / "0" / "1" / "ids" / "ids.parquet").unlink()
    (out / "prediction.zarr" / "0" / "c" / "0" / "1").unlink()
    assert again(source, out) == {"1": 1, "2": 1}


@both
def test_a_table_that_is_lost_with_the_parts_is_made_again_from_the_image(source, out):
    shutil.rmtree(out / "parts")
    (out / "objects.parquet").unlink()
    assert again(source, out) == {"0": parts(source / out.name), "1": 1}


@instances
def test_a_shard_of_the_pyramid_that_is_lost_after_the_parts_takes_no_part(source, out):
    shutil.rmtree(out / "parts")
    (out / "prediction.zarr" / "1" / "c" / "0" / "0").unlink()
    assert again(source, out) == {"3": 1}


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    """An image with a shape of 255, which is too much for the fragile models."""
    folder = tmp_path_factory.mktemp("broken")
    write_planted(folder)
    import zarr

    array = zarr.open_array(folder / "image.zarr", mode="r+")
    pixels = array[:]
    pixels[140:150, 170:190] = 255
    array[:] = pixels
    for words in (DETECT, INSTANCES):
        cli("run", "image.zarr", "-o", f"whole-{words[1]}", *words, *TILING_WORDS, cwd=folder)
    return folder


@pytest.mark.parametrize("words", [DETECT, INSTANCES], ids=lambda words: words[1])
def test_a_failed_block_keeps_a_run_from_being_complete_until_it_is_retried(broken, tmp_path, words):
    for name in ("image.zarr", "models.py"):
        (tmp_path / name).symlink_to(broken / name)
    (tmp_path / "broken").touch()
    run = ("run", "image.zarr", "-o", "out", *words, *TILING_WORDS, "--progress", "none")
    cli(*run, cwd=tmp_path, code=3)
    told, _ = cli("status", "out", cwd=tmp_path)
    assert "no weights for this" in told
    out = tmp_path / "out"
    found_now = document(out)
    assert not found_now["complete"] and found_now["objects"] is None
    assert 0 < found_now["totals"]["failed"] < FIND
    assert not (out / "objects.parquet").exists()
    cli(*run, cwd=tmp_path, code=3)
    (tmp_path / "broken").unlink()
    cli(*run, cwd=tmp_path, code=3)
    cli(*run, "--retry-failed", cwd=tmp_path)
    assert document(out)["complete"]
    assert found(out) == found(broken / f"whole-{words[1]}")
    assert set(finished(out).values()) == {1}


OTHER_DETECT = {
    "merge": gt.Detect("nms"),
    "match": gt.Detect("wbf", "ios"),
    "threshold": gt.Detect("wbf", threshold=0.6),
    "classes": gt.Detect("wbf", classes="any"),
}
OTHER_INSTANCES = {"match": gt.Instances(match="iou"), "threshold": gt.Instances(threshold=0.7)}


def refusal(source, out, model, objects, **how):
    with pytest.raises(RunRefused) as raised:
        gt.run(planned(source, model, objects, **how), out)
    return str(raised.value)


@pytest.mark.parametrize("out", ["detect"], indirect=True)
@pytest.mark.parametrize("name", OTHER_DETECT)
def test_another_way_to_merge_is_refused_by_name(source, out, name):
    assert f"{name}: " in refusal(source, out, "crowd", OTHER_DETECT[name])
    assert rows(gt.run(planned(source, *WAYS["detect"]), out).objects())


@pytest.mark.parametrize("out", ["detect"], indirect=True)
def test_another_least_score_is_refused_by_name(source, out):
    assert "score: " in refusal(source, out, *WAYS["detect"], score=0.5)


@instances
@pytest.mark.parametrize("name", OTHER_INSTANCES)
def test_another_agreement_is_refused_by_name(source, out, name):
    assert f"{name}: " in refusal(source, out, "labels", OTHER_INSTANCES[name])


def test_another_postprocess_is_refused_by_name(source, tmp_path):
    plan = planned(source, "maps", gt.Instances("components:threshold=0.5"))
    gt.run(plan, tmp_path / "out", durable=False)
    message = refusal(source, tmp_path / "out", "maps", gt.Instances("components:threshold=0.6"))
    assert "threshold: 0.5 before, 0.6 now" in message
    message = refusal(source, tmp_path / "out", "maps", gt.Instances("components:threshold=0.5,min_area=30"))
    assert "min_area: " in message


@pytest.mark.parametrize("out", ["detect"], indirect=True)
def test_another_task_is_refused_by_name(source, out):
    assert "task: detect before, instances now" in refusal(source, out, *WAYS["instances"])
