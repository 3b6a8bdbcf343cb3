"""Small finished runs to export: of a slide, of scenes, as classes and as probabilities."""

from dataclasses import replace

import numpy as np
import pytest
import tifffile

import gigatile as gt
from gigatile.outputs.objects_schema import ObjectsMetadata
from gigatile.units import PixelSize
from tests.exports.samples import COLOURS, NAMES, softly, write_scene
from tests.objects_tables import COLOURS as OBJECT_COLOURS
from tests.objects_tables import NAMES as OBJECT_NAMES
from tests.objects_tables import UTM, shapes, table, write_run
from tests.small_runs import noise, run_small

TILING = gt.Tiling(tile=64, overlap=16, margin=2, blend="hann", block=192)


def model(*, colours=COLOURS):
    return replace(gt.load_model(softly, class_names=NAMES), class_colors=colours)


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("exports")


@pytest.fixture(scope="session")
def scene(folder):
    """Classes of a scene of 610 x 700 pixels with nodata, in UTM; three levels."""
    path = write_scene(folder / "scene.tif", noise((610, 700)))
    assert run_small(gt.open(path), model(), folder / "scene", TILING).complete
    return folder / "scene"


@pytest.fixture(scope="session")
def probabilities(folder, scene):
    """Three channels of float32 of the same scene, NaN at nodata."""
    image = gt.open(folder / "scene.tif")
    assert run_small(image, model(), folder / "probabilities", TILING, output="probabilities").complete
    return folder / "probabilities"


@pytest.fixture(scope="session")
def slide(folder):
    """Classes of a slide of 610 x 700 pixels of 0.25 x 0.5 micrometres, with chunks that no TIFF can have."""
    metadata = {"axes": "YXS", "PhysicalSizeX": 0.5, "PhysicalSizeXUnit": "µm"}
    metadata |= {"PhysicalSizeY": 0.25, "PhysicalSizeYUnit": "µm"}
    tifffile.imwrite(folder / "slide.ome.tif", noise((610, 700)), tile=(64, 64), photometric="rgb", metadata=metadata)
    tiling = gt.Tiling(tile=66, overlap=16, margin=2, blend="hann", block=150)
    assert run_small(gt.open(folder / "slide.ome.tif"), model(), folder / "slide", tiling).complete
    return folder / "slide"


@pytest.fixture(scope="session")
def raw(folder):
    """One channel of float32 of an array that lies nowhere."""
    image = gt.open(noise((300, 200)), axes="yxc")
    bright = gt.load_model(lambda batch: batch.mean(axis=1, keepdims=True).astype(np.float32))
    assert run_small(image, bright, folder / "raw", TILING, output="raw").complete
    return folder / "raw"


@pytest.fixture(scope="session")
def fields(folder):
    """Classes of a scene, and of a slide, of squares of 16 pixels: few polygons."""
    pixels = noise((39, 44), seed=3).repeat(16, 0).repeat(16, 1)[:610, :700]
    path = write_scene(folder / "fields.tif", pixels)
    tifffile.imwrite(folder / "squares.tif", pixels, tile=(64, 64), photometric="rgb")
    assert run_small(gt.open(path), model(), folder / "fields", TILING).complete
    assert run_small(gt.open(folder / "squares.tif"), model(), folder / "squares", TILING).complete
    return {"scene": folder / "fields", "slide": folder / "squares"}


@pytest.fixture(scope="session")
def cells(folder, slide):
    """A run directory with instances of a slide: outlines with holes and parts, measured; class 2 has no name."""
    about = ObjectsMetadata("instances", (610, 700), OBJECT_NAMES, OBJECT_COLOURS, PixelSize(0.25, 0.5))
    return write_run(folder / "cells", slide, table(shapes(300, 600), about), about)


@pytest.fixture(scope="session")
def ships(folder, scene):
    """A run directory with detections of a scene in UTM."""
    about = ObjectsMetadata("detect", (610, 700), OBJECT_NAMES, (), PixelSize(10, 10, "metre"), "EPSG:32633", UTM)
    return write_run(folder / "ships", scene, table(shapes(300, 600), about, measured=False), about)
