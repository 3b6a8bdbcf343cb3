"""pipelines/yolox-detect: what it says, and that tiles find more than one pass over the whole picture."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from gigatile.cli.pipeline_file import load_pipeline
from tests.data import data

REPO = Path(__file__).parents[2]
FOLDER = REPO / "pipelines" / "yolox-detect"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("score_detection", REPO / "scripts" / "score_detection.py")
    module = importlib.util.module_from_spec(spec)
    # Its dataclasses look their own module up.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_it_brings_no_model_and_names_the_classes_of_coco():
    given = {name: value.text for name, value in load_pipeline(FOLDER / "pipeline.yaml").given.items()}
    assert "model" not in given
    names = given["class_names"].split(",")
    assert len(names) == len(set(names)) == 80
    assert (names[0], names[2], names[7], names[79]) == ("person", "car", "truck", "toothbrush")
    assert (given["task"], given["channels"], given["border"]) == ("detect", "2,1,0", "constant:114")


@pytest.mark.parametrize("index", [0, 1], ids=["people", "cars"])
def test_tiles_score_no_lower_than_one_pass(script, index):
    picture = script.PICTURES[index]
    for path in (picture.path, script.MODEL, "reference/reference.json", "gt_detection/terrain1_coco.json"):
        data(path)
    whole, tiled = (script.scored(picture, find(picture)) for find in (script.one_pass, script.by_hand))
    assert whole.hits == 6
    assert tiled.average_precision >= whole.average_precision
    assert tiled.f1 >= whole.f1


def test_the_command_writes_what_a_loop_over_the_tiles_and_plain_nms_give(script):
    picture = script.PICTURES[1]
    for path in (picture.path, script.MODEL):
        data(path)
    places = []
    for rows in (script.by_hand(picture), script.by_run(picture)):
        places.append(rows[np.lexsort((rows[:, 0], rows[:, 1]))])
    assert len(places[0]) == 23
    np.testing.assert_allclose(places[0], places[1], atol=1e-4)
