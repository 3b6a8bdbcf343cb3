"""What a plan for objects prints: nothing that it does not have."""

import numpy as np
import pytest

import gigatile as gt
from gigatile.plans.finding import Detect, Instances


def boxes(batch):
    return [np.empty((0, 6))] * len(batch)


def labels(batch):
    return np.zeros((len(batch), *batch.shape[2:]), np.int32)


def maps(batch):
    return batch[:, :1]


@pytest.mark.parametrize(
    ("model", "objects", "gives", "has_array"),
    [
        (boxes, Detect(), "boxes out", False),
        (labels, Instances(), "labels out", True),
        (maps, Instances("components"), "1 channels out", True),
    ],
)
def test_a_plan_for_objects_says_what_the_model_gives_and_has_shards_only_of_arrays(model, objects, gives, has_array):
    image = gt.open(np.zeros((1, 100, 100), np.uint8), axes="cyx")
    text = str(gt.plan(image, gt.load_model(model), gt.Tiling(tile=64, overlap=16), objects=objects))
    assert gives in text
    assert ("shards" in text) == ("chunks of" in text.split("blocks", 1)[1].split("\n", 1)[0]) == has_array
