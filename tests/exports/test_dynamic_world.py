"""Land cover of a real Sentinel-2 scene: pipeline file, run, COG; the classes of the reference, where they lie."""

import numpy as np
import pytest
import rasterio

from gigatile.cli.main import main
from tests.data import data
from tests.land_cover import SCENE

CLASSES = ["water", "trees", "grass", "flooded", "crops", "shrub", "built", "bare", "snow"]
COLOURS = ["#419bdf", "#397d49", "#88b053", "#7a87c6", "#e49635", "#dfc35a", "#c4281b", "#a59b8f", "#b39fe1"]
MODEL = """
import onnxruntime

from tests.land_cover import network_input

SESSION = onnxruntime.InferenceSession({path!r}, providers=["CPUExecutionProvider"])


def world(batch):
    return SESSION.run(None, {{"s2": network_input(batch)}})[0]
"""
PIPELINE = f"""
model: world.py:world
class_names: [{", ".join(CLASSES)}]
class_colors: [{", ".join(f'"{colour}"' for colour in COLOURS)}]
channels: [1, 2, 3, 4, 5, 6, 7, 10, 11]
scale: 1
tile: 128
overlap: 48
blend: trim
"""
FIELD = 24


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    path = str(data("models/dynamicworld_forward_nchw.onnx"))
    scene = data(SCENE)
    (folder / "world.py").write_text(MODEL.format(path=path))
    (folder / "pipeline.yaml").write_text(PIPELINE)
    words = ("--pipeline", str(folder / "pipeline.yaml"), "-o", str(folder / "run"), "--progress", "none")
    assert main(["run", str(scene), *words]) == 0
    assert main(["export", str(folder / "run"), "--to", "cog", "-o", str(folder / "cover.tif")]) == 0
    return folder / "cover.tif", scene


def test_the_file_lies_where_the_scene_does_and_names_its_classes(exported):
    path, scene = exported
    with rasterio.open(path) as ours, rasterio.open(scene) as source:
        assert (ours.transform, ours.crs, ours.shape) == (source.transform, source.crs, source.shape)
        assert ours.nodata == 255
        assert [ours.tags(1)[f"CLASS_{number}"] for number in range(9)] == CLASSES
        colours = ours.colormap(1)
        assert ["#{:02x}{:02x}{:02x}".format(*colours[number][:3]) for number in range(9)] == COLOURS


def test_classes_equal_the_reference_where_its_border_is_not_seen(exported):
    path, _ = exported
    with rasterio.open(path) as ours, rasterio.open(data("reference/dw_sen2_classes.tif")) as reference:
        found, expected = ours.read(1), reference.read(1)
    height, width = 236, 246
    inside = np.s_[FIELD : height - FIELD, FIELD : width - FIELD]
    valid = found[inside] != 255
    assert valid.mean() > 0.9
    assert len(np.unique(expected[inside])) >= 5
    assert (found[inside] != expected[inside])[valid].sum() == 0
