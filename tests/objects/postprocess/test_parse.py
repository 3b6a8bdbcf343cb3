"""--postprocess as typed: what it becomes, and what wrong words are told."""

import json
import pickle

import pytest

from gigatile.errors import UsageError
from gigatile.objects.postprocess.components import Components
from gigatile.objects.postprocess.flows import Flows
from gigatile.objects.postprocess.parse import METHODS, parse_postprocess
from gigatile.objects.postprocess.stardist import Stardist
from gigatile.objects.postprocess.watershed import Watershed

PLAIN = {
    "components": "components",
    "watershed": "watershed:distance=1",
    "stardist": "stardist",
    "flows": "flows",
}
CHANGES = {
    "components": [
        "threshold=0.4", "foreground=0", "connectivity=8", "min_area=16", "fill_holes=1", "context=65", "classes=1",
    ],
    "watershed": [
        "threshold=0.4", "foreground=2", "seed=0.4", "min_seed=2", "unseeded=drop", "connectivity=8", "min_area=16",
        "fill_holes=1", "context=65", "classes=1+2",
    ],
    "stardist": ["prob=0.4", "nms=0.3", "grid=2", "min_area=16", "fill_holes=1", "context=65", "classes=33"],
    "flows": [
        "dy=3", "dx=3", "cell=3", "threshold=-1", "scale=1", "steps=100", "min_area=16", "fill_holes=1", "context=65",
        "classes=3",
    ],
}  # fmt: skip


def test_what_is_typed_becomes_the_method_and_its_numbers():
    assert parse_postprocess("components:threshold=0.5,min_area=20,connectivity=8") == Components(
        threshold=0.5, min_area=20, connectivity=8
    )
    assert parse_postprocess("watershed:boundary=2, seed=0.3, classes=3-5") == Watershed(
        inner="boundary", channel=2, seed=0.3, classes=(3, 4, 5)
    )
    assert parse_postprocess("watershed:distance=edt").seed == 3
    assert parse_postprocess("stardist:nms=0.3,grid=2") == Stardist(nms=0.3, grid=2, min_area=1)
    assert parse_postprocess("flows:threshold=-1.5,context=90") == Flows(threshold=-1.5, context=90)
    assert parse_postprocess("flows:context=90").context_px == 90


@pytest.mark.parametrize("method", METHODS)
def test_every_option_is_in_the_description_and_changes_it(method):
    plain = parse_postprocess(PLAIN[method])
    seen = [plain.describe()]
    for change in CHANGES[method]:
        changed = parse_postprocess(PLAIN[method] + ("," if ":" in PLAIN[method] else ":") + change)
        assert changed != plain
        assert changed.describe() not in seen
        seen.append(changed.describe())
    assert plain.describe()["method"] == method
    assert json.loads(json.dumps(plain.describe())) == plain.describe()
    assert pickle.loads(pickle.dumps(plain)) == plain


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "components, watershed, stardist, flows"),
        ("threshold=0.5", "For example components:threshold=0.5"),
        ("watershed", "watershed:boundary=1"),
        ("watershed:boundary=1,distance=2", "both"),
        ("components:treshold=0.5", "Did you mean threshold?"),
        ("components:threshold", "name=value"),
        ("components:threshold=0.5,threshold=0.6", "threshold once"),
        ("components:threshold=high", "threshold= a number"),
        ("components:threshold=nan", "threshold= a number"),
        ("components:connectivity=6", "4 or 8"),
        ("components:min_area=0", "from 1 up"),
        ("components:min_area=2.5", "components:min_area=15"),
        ("components:classes=3-1", "from the lower to the higher"),
        ("components:classes=a", "2-5 or 2+4"),
        ("stardist:nms=40", "from 0 to 1"),
        ("flows:scale=0", "scale="),
    ],
)
def test_wrong_words_are_told_what_to_type(text, told):
    with pytest.raises(UsageError) as error:
        parse_postprocess(text)
    assert told in str(error.value)
    assert "--postprocess" in str(error.value)


@pytest.mark.parametrize(
    ("text", "channels", "told"),
    [
        ("components:foreground=1", 1, "foreground=1"),
        ("components:threshold=0.5", 3, "foreground=2"),
        ("components:classes=3", 3, "classes=3"),
        ("watershed:distance=1", 1, "distance=1"),
        ("watershed:boundary=0,foreground=4", 4, "foreground=4"),
        ("stardist", 3, "3 or more rays"),
        ("stardist:classes=3-5", 6, "classes from 3 on"),
        ("flows", 2, "cell=2"),
    ],
)
def test_a_model_without_the_channels_is_refused(text, channels, told):
    with pytest.raises(UsageError) as error:
        parse_postprocess(text).check(channels)
    assert told in str(error.value)


def test_classes_of_a_class_map_are_all_channels_but_the_first():
    assert parse_postprocess("components").fitted(4).class_channels == (1, 2, 3)
    assert parse_postprocess("components").fitted(1).class_channels == ()
    assert parse_postprocess("components:foreground=0,classes=2-3").fitted(4).class_channels == (2, 3)
    assert parse_postprocess("stardist:classes=33-34").fitted(35).class_channels == (33, 34)
