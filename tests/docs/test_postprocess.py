"""docs/postprocess.md: every option of every method is there, with the default that it has."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from gigatile.objects.postprocess.components import Components
from gigatile.objects.postprocess.flows import Flows
from gigatile.objects.postprocess.method import Common
from gigatile.objects.postprocess.parse import METHODS, parse_postprocess
from gigatile.objects.postprocess.stardist import Stardist
from gigatile.objects.postprocess.watershed import Watershed

TEXT = (Path(__file__).parents[2] / "docs" / "postprocess.md").read_text(encoding="utf-8")
KINDS = {"components": Components, "watershed": Watershed, "stardist": Stardist, "flows": Flows}


def options(title):
    """Name to default of the options of one section."""
    section = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL)[1]
    rows = re.findall(r"^\| (`.*?) \| (.*?) \|", section, re.MULTILINE)
    return {
        name: value
        for names, values in rows
        for name, value in zip(re.findall(r"`(\w+)`", names), values.split(", "), strict=True)
    }


def test_every_example_is_read():
    examples = re.findall(r"^--postprocess (\S+)$", TEXT, re.MULTILINE)
    assert {example.partition(":")[0] for example in examples} == set(METHODS)
    for example in examples:
        parse_postprocess(example)


@pytest.mark.parametrize("method", KINDS)
def test_every_option_of_a_method_is_described_and_no_other(method):
    common = {field.name for field in fields(Common)}
    own = {field.name for field in fields(KINDS[method])} - common
    if method == "watershed":
        own = own - {"inner", "channel"} | {"boundary", "distance"}
    assert set(options("All methods")) == common
    assert set(options(method)) == own


@pytest.mark.parametrize("method", KINDS)
def test_the_defaults_are_those_that_are_told(method):
    found = parse_postprocess(method + (":distance=1" if method == "watershed" else ""))
    for name, value in (options("All methods") | options(method)).items():
        of_method = re.search(rf"`{method}` (\S+)", value)
        told = of_method[1] if of_method else value.partition(";")[0].strip("`")
        if re.fullmatch(r"[0-9.]+|keep", told) and not (method == "components" and name == "threshold"):
            assert str(getattr(found, name)).removesuffix(".0") == told, name
