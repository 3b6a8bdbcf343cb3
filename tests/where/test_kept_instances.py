"""Instances on a part of an image: what is kept is what it is without, whatever the blocks."""

import json

import numpy as np
import pytest

import gigatile as gt
from gigatile.images.image import Image
from gigatile.plans.finding import Instances
from gigatile.testing.sources import UnitSource

SIZE = (300, 2100)
"""Two cells of 1,024 px side by side, and a bit."""
BAR = (slice(100, 120), slice(990, 1070))
"""Lies across the edge of the first cell."""


def bright(batch):
    return batch[:, :1]


def two_maps(batch):
    return np.repeat(batch[:, :1], 2, axis=1)


def ring(x0, y0, x1, y1):
    return [[[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]]


def found(pixels, out, *, objects, model=bright, block=1024, nodata=None, **where):
    tiling = gt.Tiling(tile=96, overlap=32, margin=4, blend="hann", block=block)
    image = Image(UnitSource(pixels, (64, 64), nodata=nodata))
    plan = gt.plan(image, gt.load_model(model), tiling, objects=Instances(objects), **where)
    result = gt.run(plan, out, durable=False)
    return np.asarray(result.prediction[:]), result.objects().select(["xmin", "xmax", "area"]).to_pylist()


@pytest.mark.parametrize("block", [1024, 2048])
def test_a_region_that_keeps_a_part_of_an_object_does_not_make_it_smaller_before_it_is_judged(tmp_path, block):
    pixels = np.zeros((1, *SIZE), np.uint8)
    pixels[0][BAR] = 255
    # Tiles between both parts hold nothing that is kept: what one block knew of them, another did not.
    parts = [ring(900, 50, 1000, 200), ring(1090, 50, 1200, 200)]
    region = tmp_path / "region.geojson"
    region.write_text(json.dumps({"type": "MultiPolygon", "coordinates": parts}))
    objects = "components:min_area=1200"
    whole, _ = found(pixels, tmp_path / "whole", objects=objects, block=block)
    some, rows = found(pixels, tmp_path / "some", objects=objects, block=block, roi=str(region))
    assert rows == [{"xmin": 990.0, "xmax": 1000.0, "area": 200.0}]
    assert np.array_equal(some[50:200, 900:1000], whole[50:200, 900:1000])


METHODS = [
    ("components:min_area=1", bright),
    ("watershed:distance=1,min_area=1", two_maps),
    ("watershed:distance=edt,min_area=1", bright),
]


@pytest.mark.parametrize(("objects", "model"), METHODS, ids=[objects for objects, _ in METHODS])
def test_what_a_model_says_of_invalid_pixels_joins_nothing(tmp_path, objects, model):
    pixels = np.zeros((1, *SIZE), np.uint8)
    pixels[0, 50:70, 200:300] = 200
    pixels[0, 50:70, 245:255] = 255  # nodata, and as bright as can be
    _, rows = found(pixels, tmp_path / "out", objects=objects, model=model, nodata=255)
    assert {(row["xmin"], row["xmax"]) for row in rows} == {(200.0, 245.0), (255.0, 300.0)}


def halved(batch):
    return batch[:, :1, ::2, ::2]


def doubled(batch):
    return batch[:, :1].repeat(2, axis=2).repeat(2, axis=3)


@pytest.mark.parametrize("model", [bright, halved, doubled])
def test_intensities_are_those_of_the_image_under_the_object_whatever_the_resolution_of_the_result(tmp_path, model):
    pixels = np.zeros((1, 301, 331), np.uint8)
    pixels[0, 100:140, 200:260], pixels[0, 50:60, 10:30], pixels[0, 280:, 300:] = 200, 100, 150
    tiling = gt.Tiling(tile=64, overlap=16)
    image = Image(UnitSource(pixels, (64, 64)))
    plan = gt.plan(image, gt.load_model(model), tiling, objects=Instances("components:threshold=0.3"))
    rows = gt.run(plan, tmp_path / "out", durable=False).objects().to_pylist()
    (name,) = [name for name in rows[0] if name.startswith("mean_")]
    assert [(row["ymin"], row["xmin"], row[name]) for row in rows] == [
        (50.0, 10.0, 100.0),
        (100.0, 200.0, 200.0),
        (280.0, 300.0, 150.0),
    ]
