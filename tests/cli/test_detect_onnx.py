"""``gigatile run --task detect`` with ONNX files as exporters write them."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import tifffile

from gigatile.cli.main import main
from tests.models.boxes.detectors import ultralytics, write_bright_spots, write_tables

CELLS = [(0, 0), (1, 7), (5, 3), (5, 4), (9, 11)]
"""Row and column of white squares of 32 px."""


@pytest.fixture
def picture(tmp_path):
    pixels = np.zeros((340, 400, 3), np.uint8)
    for row, col in CELLS:
        pixels[row * 32 : row * 32 + 32, col * 32 : col * 32 + 32] = 255
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", tile=(64, 64))
    return tmp_path / "a.tif"


def objects(folder):
    return pq.read_table(folder / "objects.parquet").to_pylist()


def test_a_file_of_ultralytics_needs_no_more_than_its_name(tmp_path, picture):
    """Format, class names and tile come from its metadata; sides are multiples of 32, as it wants."""
    model = write_bright_spots(tmp_path / "m.onnx", metadata=ultralytics(["square"], imgsz="[128, 128]"))
    words = [
        "run",
        str(picture),
        "--model",
        str(model),
        "--overlap",
        "64",
        "--score",
        "0.9",
        "-o",
        str(tmp_path / "out"),
    ]
    assert main([*words, "--task", "detect"]) == 0
    found = objects(tmp_path / "out")
    # Its boxes are of 16 px, around (16, 16) of each tile: what counts is one a bright tile, and the name.
    assert found
    assert {row["class_name"] for row in found} == {"square"}
    assert all(row["score"] == pytest.approx(1) for row in found)


def test_a_detector_without_its_task_is_told_which(tmp_path, picture, capsys):
    model = write_bright_spots(tmp_path / "m.onnx", metadata=ultralytics(["square"]))
    assert main(["run", str(picture), "--model", str(model), "-o", str(tmp_path / "out")]) == 2
    assert "expected --task detect" in capsys.readouterr().err


def test_a_tile_that_is_no_multiple_is_refused_with_one_that_is(tmp_path, picture, capsys):
    model = write_bright_spots(tmp_path / "m.onnx", metadata=ultralytics(["square"]))
    words = ["run", str(picture), "--task", "detect", "--model", str(model), "--tile", "100"]
    assert main([*words, "-o", str(tmp_path / "out")]) == 2
    assert "type --tile 96,96" in capsys.readouterr().err


def test_a_file_that_is_not_recognised_is_refused_with_the_option_and_read_with_it(tmp_path, picture, capsys):
    table = np.zeros((1, 9, 200))
    table[0, :4, 7], table[0, 4, 7] = [32, 32, 10, 20], 0.9
    model = write_tables(tmp_path / "m.onnx", {"a": table.transpose(0, 2, 1)}, image=(1, 3, 64, 64))
    words = [
        "run",
        str(picture),
        "--task",
        "detect",
        "--model",
        str(model),
        "--overlap",
        "0",
        "-o",
        str(tmp_path / "o"),
    ]
    assert main(words) == 2
    assert "--boxes" in capsys.readouterr().err
    assert main([*words, "--boxes", "yolov8:classes=5", "--class-names", "a,b,c,d,e"]) == 0
    status = json.loads((tmp_path / "o" / "run.json").read_text())
    found = objects(tmp_path / "o")
    # One in the middle of each of 6 x 7 tiles, but for those of the last row and column, whose middles lie outside.
    assert len(found) == 5 * 6
    assert (found[0]["xmin"], found[0]["ymin"], found[0]["xmax"], found[0]["ymax"]) == (27, 22, 37, 42)
    assert {row["class_name"] for row in found} == {"a"}
    assert status["complete"]


def test_a_file_of_deepness_runs_by_its_card_and_asks_for_its_task(tmp_path, picture, capsys):
    words = {
        "model_type": "Detector",
        "det_type": "YOLO_v5_or_v7_default",
        "det_conf": 0.5,
        "class_names": {"0": "car"},
    }
    table = np.zeros((1, 200, 6))
    table[0, 7:9] = [32, 32, 10, 20, 1, 0.9], [10, 10, 4, 4, 1, 0.4]
    metadata = {key: json.dumps(value) for key, value in words.items()}
    model = write_tables(tmp_path / "m.onnx", {"a": table}, image=(1, 3, 64, 64), metadata=metadata)
    line = ["run", str(picture), "--model", str(model), "--overlap", "0", "-o", str(tmp_path / "o")]
    assert main(line) == 2
    assert "--task detect" in capsys.readouterr().err
    assert main([*line, "--task", "detect"]) == 0
    assert {(row["class_name"], round(row["score"], 3)) for row in objects(tmp_path / "o")} == {("car", 0.9)}


def test_the_batch_does_not_change_the_objects(tmp_path, picture):
    model = write_bright_spots(tmp_path / "m.onnx", metadata=ultralytics(["square"], imgsz="[64, 64]"))
    words = ["run", str(picture), "--task", "detect", "--model", str(model), "--overlap", "0", "--score", "0.9"]
    for batch in ("1", "3"):
        assert main([*words, "--batch", batch, "-o", str(tmp_path / batch)]) == 0
    # No two of them are in one tile.
    assert len(objects(tmp_path / "1")) == len(CELLS)
    assert objects(tmp_path / "1") == objects(tmp_path / "3")


def test_a_format_that_there_is_not_is_refused_before_anything_is_opened(tmp_path, capsys):
    words = ["run", str(tmp_path / "none.tif"), "--task", "detect", "--model", "m:f", "--boxes", "yolo3"]
    assert main([*words, "-o", str(tmp_path / "o")]) == 2
    assert "one of auto, rows, yolox" in capsys.readouterr().err
