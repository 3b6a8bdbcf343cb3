"""Print the table of pipelines/yolox-detect/README.md: objects found in tiles, and in one pass over the whole picture.

Usage: ``python scripts/score_detection.py`` with the test data (``GIGATILE_TEST_DATA``, or ``../shared/data`` beside
the checkout). Three ways to the same boxes:

    one pass       the picture made smaller until it fits the model's tile, boxes enlarged again
    tiles by hand  ``gt.tiles``, `LoadedModel.detect`, boxes moved to their place, plain NMS over all of them
    gigatile run   ``gigatile run --pipeline yolox-detect``; ``--without-run`` leaves it out
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from skimage import transform

import gigatile as gt
from gigatile.cli.pipeline_file import find_pipeline, load_pipeline
from gigatile.models.model import LoadedModel
from gigatile.testing.detection_scores import DetectionScore, greedy_nms, score_detections

Array = np.ndarray[Any, Any]
DATA = Path(os.environ.get("GIGATILE_TEST_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")
MODEL = "models/yolox_nano.onnx"
PERSON, CAR = 0, 2
GREY = 114.0


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture with true boxes of one class."""

    path: str
    label: int
    truth: str
    """Where the true boxes come from, in words."""
    boxes: Callable[[], Array]
    """x1, y1, x2, y2, class."""


def people() -> Array:
    """Drawn by hand: COCO's x, y, width, height."""
    content = json.loads((DATA / "gt_detection/terrain1_coco.json").read_text())
    boxes = np.array([annotation["bbox"] for annotation in content["annotations"]])
    return np.column_stack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:], np.full(len(boxes), PERSON)])


def cars() -> Array:
    """What the same model finds if it looks twice as close."""
    content = json.loads((DATA / "reference/reference.json").read_text())
    boxes = np.array(content["yolox_small-vehicles1_tile208_up2"]["boxes"])
    return boxes[boxes[:, 5] == CAR][:, [0, 1, 2, 3, 5]]


PICTURES = (
    Picture("gt_detection/terrain1.jpg", PERSON, "7 people, drawn by hand", people),
    Picture("gt_detection/small-vehicles1.jpeg", CAR, "37 cars, by this model on tiles enlarged twice", cars),
)


def pipeline_values() -> dict[str, str]:
    """What the pipeline says, as text."""
    return {name: given.text for name, given in load_pipeline(find_pipeline("yolox-detect")).given.items()}


def model() -> LoadedModel:
    values = pipeline_values()
    return replace(gt.load_model(DATA / MODEL, scale=float(values["scale"])), score=float(values["score"]))


def one_pass(picture: Picture) -> Array:
    """The whole picture in one tile, its longer side as long as the tile's, at the top left; grey beside it."""
    detector = model()
    side = (detector.model.fixed_tile or (416, 416))[0]
    image = gt.open(DATA / picture.path).select(channels=(2, 1, 0))
    pixels = image.read(gt.Region(0, 0, *image.grid_shape)).astype(np.float32)
    factor = side / max(pixels.shape[1:])
    sides = [int(length * factor) for length in pixels.shape[1:]]
    small = transform.resize(pixels, (3, *sides), order=1, anti_aliasing=False, preserve_range=True)
    tile = np.full((1, 3, side, side), GREY, np.float32)
    tile[0, :, : sides[0], : sides[1]] = small
    (rows,) = detector.detect(tile)
    rows[:, :4] /= factor
    return merged(rows)


def by_hand(picture: Picture) -> Array:
    """Tiles that overlap by a quarter, each through the model, and NMS over all boxes at once."""
    detector = model()
    image = gt.open(DATA / picture.path).select(channels=(2, 1, 0))
    side = (detector.model.fixed_tile or (416, 416))[0]
    tiling = gt.Tiling(tile=side, overlap=side // 4, border=pipeline_values()["border"])
    found = [np.zeros((0, 6))]
    for tile in gt.tiles(image, tiling):
        (rows,) = detector.detect(detector.values.normalised(tile.pixels)[None])
        x, y = tile.read.x0, tile.read.y0
        rows = rows + np.array([x, y, x, y, 0, 0])
        # Nothing is known of what lies beyond the tile or the picture.
        seen = tile.read.clipped(gt.Region(0, 0, *image.grid_shape))
        rows[:, :4] = np.clip(rows[:, :4], [seen.x0, seen.y0] * 2, [seen.x1, seen.y1] * 2)
        found.append(rows)
    rows = np.concatenate(found)
    return merged(rows)


def merged(rows: Array) -> Array:
    """What NMS as the pipeline has it leaves of rows."""
    values = pipeline_values()
    return rows[greedy_nms(rows, float(values["match_threshold"]), "ios" if values["match"] == "ios" else "iou")]


def by_run(picture: Picture) -> Array:
    """The table that the command writes."""
    from pyarrow import parquet

    side = (model().model.fixed_tile or (416, 416))[0]
    with tempfile.TemporaryDirectory() as folder:
        words = ["run", str(DATA / picture.path), "--pipeline", "yolox-detect", "--model", str(DATA / MODEL)]
        words += ["--overlap", str(side // 4 // 2 * 2), "-o", folder]
        subprocess.run([sys.executable, "-m", "gigatile.cli.main", *words], check=True, stdout=subprocess.DEVNULL)
        table = parquet.read_table(Path(folder, "objects.parquet"))
    names = ("xmin", "ymin", "xmax", "ymax", "score", "class")
    return np.column_stack([table[name].to_numpy().astype(np.float64) for name in names])


def scored(picture: Picture, rows: Array) -> DetectionScore:
    return score_detections([rows[rows[:, 5] == picture.label]], [picture.boxes()])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--without-run", action="store_true", help="only what needs no command")
    ways: dict[str, Callable[[Picture], Array]] = {"one pass": one_pass, "tiles by hand": by_hand}
    if not parser.parse_args().without_run:
        ways["gigatile run"] = by_run
    print("| picture | true boxes | way | found | hits | precision | recall | F1 | AP50 |\n" + "|---" * 9 + "|")
    for picture in PICTURES:
        for way, find in ways.items():
            got = scored(picture, find(picture))
            figures = (got.precision, got.recall, got.f1, got.average_precision)
            cells = [Path(picture.path).name, picture.truth, way, str(got.found), str(got.hits)]
            print("| " + " | ".join(cells + [f"{figure:.2f}" for figure in figures]) + " |")


if __name__ == "__main__":
    main()
