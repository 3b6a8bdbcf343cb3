"""Promise 5: every pixel is written, or recorded as empty or failed; failed is never done, and never complete."""

import json
from dataclasses import replace

import dask
import distributed  # noqa: F401  its defaults must be there before one of them is changed for a while
import numpy as np
import pytest
import zarr

import gigatile as gt
from tests.small_runs import (
    BLOCKS,
    SMALL,
    TILING,
    TILING_WORDS,
    cli,
    document,
    entries,
    fingerprints,
    finished,
    noise,
    run_small,
    tree,
    write_models,
    write_zarr,
)


@pytest.fixture
def folder(tmp_path):
    """An image whose pixels of 255 upset the models of `tests.small_runs` while a file named `broken` is there."""
    pixels = noise()
    pixels[150, 210] = 255
    write_zarr(tmp_path / "image.zarr", pixels)
    write_models(tmp_path)
    return tmp_path


TRIM = replace(TILING, blend="trim", overlap=0, margin=0, block=128)
"""Each tile in one block: exactly one block fails. 3 x 4 blocks; the pixel lies in 1/1."""


def model(folder, name):
    return str(folder / "models.py") + f":{name}"


def records(directory):
    return {entry["block"]: entry for entry in entries(directory)}


def whole(directory):
    """Every block of level 0 is recorded, every pixel in exactly one of them, and files are where they should be."""
    plan = document(directory)
    level0 = [entry for name, entry in records(directory).items() if name.startswith("0/")]
    assert sum(entry["pixels"] for entry in level0) == np.prod(plan["plan"]["image"]["shape"])
    assert len(level0) == plan["layout"]["blocks"]
    for entry in level0:
        row, col = entry["block"].split("/")[1:]
        folder = directory / "prediction.zarr" / "0" / "c"
        there = (folder / row / col).is_file() or (folder / "0" / row / col).is_file()
        assert there == (entry["status"] == "done"), entry


@pytest.mark.parametrize("name", ["fragile", "holes"])
def test_a_model_that_fails_on_a_tile_fails_that_block_and_no_other(folder, name):
    (folder / "broken").touch()
    result = run_small(str(folder / "image.zarr"), model(folder, name), folder / "out", TRIM)
    assert not result.complete
    assert (result.status.done, result.status.failed, result.status.pending) == (11, 1, 0)
    assert not document(folder / "out")["complete"]
    assert not zarr.open_group(str(folder / "out" / "prediction.zarr")).attrs["gigatile"]["complete"]
    failed = records(folder / "out")["0/1/1"]
    assert failed["status"] == "failed"
    assert ("no weights for this" if name == "fragile" else "NaN") in failed["error"]
    assert "Traceback" in failed["trace"]
    assert "0/1/1" in " ".join(result.status.errors) or failed["error"] in result.status.errors
    whole(folder / "out")


def test_a_model_that_gives_another_shape_fails_that_block(folder):
    result = run_small(str(folder / "image.zarr"), model(folder, "shapeless"), folder / "out", TRIM)
    assert (result.status.done, result.status.failed) == (11, 1)
    assert "shape" in records(folder / "out")["0/1/1"]["error"]
    whole(folder / "out")


def test_no_pyramid_is_built_over_a_hole(folder):
    (folder / "broken").touch()
    run_small(str(folder / "image.zarr"), model(folder, "fragile"), folder / "out", TRIM)
    assert not [name for name in tree(folder / "out" / "prediction.zarr") if name.startswith("1/c/")]


def test_failed_blocks_stay_failed_and_are_not_tried_without_being_asked(folder):
    (folder / "broken").touch()
    run_small(str(folder / "image.zarr"), model(folder, "fragile"), folder / "out", TRIM)
    (folder / "broken").unlink()
    plan = gt.plan(str(folder / "image.zarr"), model(folder, "fragile"), TRIM)
    (folder / "calls").unlink()
    result = gt.run(plan, folder / "out", durable=False)
    assert not result.complete
    assert result.status.failed == 1
    assert not (folder / "calls").exists()


def test_retrying_after_the_model_was_mended_completes_the_run(folder):
    image, fragile = str(folder / "image.zarr"), model(folder, "fragile")
    assert run_small(image, fragile, folder / "unbroken", TRIM).complete
    (folder / "broken").touch()
    assert not run_small(image, fragile, folder / "out", TRIM).complete
    (folder / "broken").unlink()
    assert run_small(image, fragile, folder / "out", TRIM, existing="retry-failed").complete
    assert fingerprints(folder / "out") == fingerprints(folder / "unbroken")
    assert set(finished(folder / "out").values()) == {1}


def test_a_block_that_fails_again_says_the_new_reason(folder):
    (folder / "broken").write_text("first reason")
    run_small(str(folder / "image.zarr"), model(folder, "fragile"), folder / "out", TRIM)
    (folder / "broken").write_text("second reason")
    result = run_small(
        str(folder / "image.zarr"), model(folder, "fragile"), folder / "out", TRIM, existing="retry-failed"
    )
    assert result.status.failed == 1
    assert "second reason" in " ".join(result.status.errors)
    assert "first reason" not in " ".join(result.status.errors)


def test_the_command_says_that_something_failed_and_exits_with_3(folder):
    words = ("run", "image.zarr", "-o", "out", "--model", "models.py:fragile", *TILING_WORDS, "--progress", "none")
    (folder / "broken").touch()
    out, _ = cli(*words, cwd=folder, code=3)
    assert "failed" in out
    assert "no weights for this" in out
    cli(*words, cwd=folder, code=3)
    text, _ = cli("status", "out", "--json", cwd=folder)
    assert json.loads(text)["blocks"]["failed"] >= 1
    assert not json.loads(text)["complete"]
    (folder / "broken").unlink()
    cli(*words, "--retry-failed", cwd=folder, code=0)
    cli("verify", "out", cwd=folder, code=0)


def test_a_worker_process_that_the_model_takes_along_fails_the_block(folder):
    (folder / "broken").touch()
    with dask.config.set({"distributed.scheduler.allowed-failures": 0}):
        result = run_small(
            str(folder / "image.zarr"), model(folder, "deadly"), folder / "out", TRIM, executor="processes", workers=1
        )
    assert not result.complete
    assert records(folder / "out")["0/1/1"]["status"] == "failed"
    assert "died" in records(folder / "out")["0/1/1"]["error"]
    whole(folder / "out")


def test_a_source_chunk_that_does_not_decode_fails_the_blocks_that_need_it(folder):
    write_zarr(folder / "torn.zarr", noise((512, 512)), chunk=256)
    chunk = folder / "torn.zarr" / "c" / "1" / "1" / "0"
    chunk.write_bytes(chunk.read_bytes()[:100])
    result = run_small(str(folder / "torn.zarr"), model(folder, "bright"), folder / "out", TRIM)
    states = {name: entry["status"] for name, entry in records(folder / "out").items()}
    assert {name for name, status in states.items() if status == "failed"} == {"0/2/2", "0/2/3", "0/3/2", "0/3/3"}
    assert all("torn.zarr" in entry["error"] for entry in entries(folder / "out") if entry["status"] == "failed")
    assert not result.complete
    whole(folder / "out")


def test_an_image_without_a_valid_pixel_is_complete_empty_and_has_no_files(folder):
    write_zarr(folder / "blank.zarr", np.full((*SMALL, 3), 7, np.uint8), nodata=7)
    result = run_small(str(folder / "blank.zarr"), model(folder, "bright"), folder / "out")
    assert result.complete
    assert (result.status.empty, result.status.done) == (BLOCKS, 0)
    assert result.status.tiles_inferred == 0
    assert set(tree(folder / "out" / "prediction.zarr")) == {"zarr.json", "0/zarr.json", "1/zarr.json"}
    assert (result.prediction[:] == 255).all()
    whole(folder / "out")
    # Empty is settled: nothing is left to do.
    count = len(entries(folder / "out"))
    assert run_small(str(folder / "blank.zarr"), model(folder, "bright"), folder / "out").complete
    assert len(entries(folder / "out")) == count


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (97, 96), (192, 192), SMALL])
@pytest.mark.parametrize("blend", ["trim", "hann"])
def test_every_pixel_of_the_result_is_written(folder, shape, blend):
    pixels = noise(shape)
    tiling = replace(TILING, blend=blend)
    result = run_small(
        gt.open(pixels, axes="yxc"), model(folder, "bright"), folder / "out", tiling, output="probabilities"
    )
    assert result.complete
    whole(folder / "out")
    values = result.prediction[:]
    assert values.shape == (1, *shape)
    assert not np.isnan(values).any()
    assert np.allclose(values[0], pixels.mean(axis=2) / 255, atol=1e-6)


def test_nan_where_the_input_is_invalid_is_no_failure(folder):
    pixels = noise()
    pixels[100:200, 100:200] = 255
    write_zarr(folder / "holes.zarr", pixels, nodata=255)
    (folder / "broken").touch()
    result = run_small(str(folder / "holes.zarr"), model(folder, "holes"), folder / "out", TRIM, output="probabilities")
    assert result.complete
    assert np.array_equal(np.isnan(result.prediction[0]), (pixels == 255).all(axis=2))
