"""What `status` counts, during a run and after it."""

import json
import threading
import zlib

import numpy as np
import pytest

import gigatile as gt
from gigatile.errors import Cancelled, RunRefused
from gigatile.events import BlockFinished, RunEnded, RunStarted
from gigatile.runs.directory import RunDirectory
from gigatile.runs.status import objects_lines, status
from tests.runs.memory_store import MemoryStore, copy_tree
from tests.small_runs import BLOCKS, TILING, cli, document, entries, run_small


def blocks(found):
    counts = found.to_json()["blocks"]
    assert counts["total"] == counts["done"] + counts["empty"] + counts["failed"] + counts["pending"]
    return counts


def predicted(directory):
    """Records of blocks of the prediction."""
    return [entry for entry in entries(directory) if entry.get("block", "").startswith("0/")]


def test_a_finished_run_is_complete_and_counts_what_the_ledger_holds(reference):
    found = status(reference)
    records = predicted(reference)
    assert found.complete
    assert blocks(found) == {"total": BLOCKS, "done": BLOCKS - 1, "empty": 1, "failed": 0, "pending": 0}
    assert found.tiles_inferred == sum(entry.get("tiles", 0) for entry in records) > 0
    assert found.peak_rss_bytes == max(entry.get("peak_rss_bytes", 0) for entry in entries(reference)) > 2**20
    assert found.seconds["infer"] == pytest.approx(sum(entry["seconds"].get("infer", 0) for entry in records))
    assert found.filled == 0


def test_the_json_has_the_keys_of_the_contract(reference):
    text, _ = cli("status", str(reference), "--json", cwd=reference)
    found = json.loads(text)
    assert {
        "complete", "blocks", "tiles_inferred", "decoded_ratio", "overcompute", "seam_score", "peak_rss_bytes",
        "objects",
    } <= set(found)  # fmt: skip


def test_overcompute_is_pixels_inferred_by_pixels_of_the_image(tmp_path, image, model):
    result = run_small(image, model, tmp_path / "out", mask="none")
    inferred = sum(entry.get("tiles", 0) for entry in predicted(tmp_path / "out")) * 64 * 64
    assert result.status.overcompute == inferred / (330 * 400)
    assert result.status.overcompute == gt.plan(image, model, TILING).overcompute
    assert document(tmp_path / "out")["overcompute"] == result.status.overcompute


@pytest.mark.parametrize("scale", [2, 0.5])
def test_overcompute_counts_pixels_of_the_image_whatever_the_pixels_of_the_result(tmp_path, image, scale):
    def rescaled(batch):
        one = batch[:, :1]
        return one.repeat(2, 2).repeat(2, 3) if scale == 2 else one[:, :, ::2, ::2].copy()

    model = gt.load_model(rescaled)
    result = run_small(image, model, tmp_path / "out", mask="none")
    expected = gt.plan(image, model, TILING, mask="none").overcompute
    assert expected >= 1
    assert result.status.overcompute == pytest.approx(expected)
    found = document(tmp_path / "out")
    assert found["layout"]["shape"] == [330 * scale, 400 * scale]
    assert found["overcompute"] == result.status.overcompute
    # Of an older version: as it was told then.
    del found["layout"]["image_shape"]
    (tmp_path / "out" / "run.json").write_text(json.dumps(found))
    assert status(tmp_path / "out").overcompute == pytest.approx(expected / scale**2)


def test_counts_add_up_at_every_moment_of_a_run(tmp_path, image, model):
    seen, events = [], []

    def watch(event):
        events.append(event)
        if isinstance(event, BlockFinished) and event.phase == "predict":
            found = status(tmp_path / "out")
            assert not found.complete
            seen.append(blocks(found))

    run_small(image, model, tmp_path / "out", on_event=watch, workers=1)
    finished = [counts["done"] + counts["empty"] for counts in seen]
    # The lane may be ahead of the thread that reports, by what it does meanwhile.
    assert finished == sorted(finished)
    assert all(count >= place for place, count in enumerate(finished, 1))
    assert finished[-1] == BLOCKS
    assert isinstance(events[0], RunStarted)
    assert events[-1] == RunEnded(complete=True, failed=0)


def test_a_stopped_run_says_what_is_pending(tmp_path, image, model):
    stop = threading.Event()
    with pytest.raises(Cancelled):
        run_small(
            image, model, tmp_path / "out", stop=stop, workers=1,
            on_event=lambda event: isinstance(event, BlockFinished) and stop.set(),
        )  # fmt: skip
    counts = blocks(status(tmp_path / "out"))
    assert not status(tmp_path / "out").complete
    assert 0 < counts["pending"] < BLOCKS
    assert "pending" in str(status(tmp_path / "out"))


def test_a_directory_without_a_run_is_refused(tmp_path):
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(RunRefused):
            status(path)
    assert list(tmp_path.iterdir()) == []


def test_a_run_in_a_bucket_has_the_status_of_the_same_run_on_a_disk(reference, monkeypatch):
    bucket = MemoryStore()
    copy_tree(reference, bucket)
    monkeypatch.setattr("gigatile.runs.directory.open_store", lambda place, durable: bucket)
    assert status("memory://bucket").to_json() == status_of_folder(reference, monkeypatch)


def status_of_folder(folder, monkeypatch):
    monkeypatch.undo()
    return status(folder).to_json()


def test_grids_that_are_not_in_the_json_are_those_of_the_result(out):
    content = document(out)
    before = status(out)
    assert content["layout"].pop("grids") == [[4, 5], [2, 3]]
    (out / "run.json").write_text(json.dumps(content))
    assert status(out) == before


def test_what_was_filled_is_told(out):
    (segment,) = [path for path in (out / "ledger").iterdir() if b'"block":"0/2/2"' in path.read_bytes()]
    lines = segment.read_bytes().splitlines()
    place = next(i for i, line in enumerate(lines) if b'"block":"0/2/2"' in line and b'"status":"done"' in line)
    entry = {**json.loads(lines[place][9:]), "filled": ["image.zarr level 0 chunk (5, 5)"]}
    body = json.dumps(entry).encode()
    lines[place] = b"%08x %s" % (zlib.crc32(body), body)
    segment.write_bytes(b"\n".join(lines) + b"\n")
    found = status(out)
    assert found.filled == 1
    assert found.to_json()["filled"] == 1
    assert found.complete
    assert "filled      1 blocks" in str(found)


def test_a_status_is_readable_while_another_process_works_in_the_directory(tmp_path, image, model):
    run_small(image, model, tmp_path / "out")
    with RunDirectory.at(tmp_path / "out").locked():
        assert status(tmp_path / "out").complete


def test_the_map_of_seams_has_each_blocks_own_score_and_shows_where_tiles_disagree(tmp_path):
    # Only the right half has structure that a tile's own mean changes.
    pixels = np.zeros((1, 128, 256), np.float32)
    pixels[:, :, 128:] = np.random.default_rng(3).random((1, 128, 128), np.float32)
    tiling = gt.Tiling(tile=32, overlap=16, blend="hann", block=64)
    plan = gt.plan(pixels, lambda batch: batch * batch.mean(axis=(2, 3), keepdims=True), tiling, output="raw")
    result = gt.run(plan, tmp_path / "out", durable=False)
    seams = result.status.seam_map
    assert (len(seams), len(seams[0])) == plan.blocks.grid == (2, 4)
    for row in seams:
        assert row[0] == 0
        assert min(row[2:]) > 1e-3
    assert document(tmp_path / "out")["seam_map"] == [list(row) for row in seams]
    assert 0 < result.status.seam_score < max(max(row) for row in seams)


def test_classes_are_told_so_that_a_line_stays_a_line_and_steers_no_terminal():
    counts = {"total": 12, "oversized": 0}
    assert objects_lines({**counts, "per_class": {"ship": 9, "3": 3}}) == ["objects     12: 9 ship, 3 of class 3"]
    (line,) = objects_lines({**counts, "per_class": {"a\x1b[2J\n": 12}})
    assert line.isprintable()
    (line,) = objects_lines({**counts, "per_class": {f"c{number}": 1 for number in range(5000)}})
    assert line.endswith("1 c19, and 4,980 more classes")
