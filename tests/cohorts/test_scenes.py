"""Folders of Sentinel-2 products, and items, on the command line."""

import json

import numpy as np
import zarr

from gigatile.cli.main import main
from tests.images.scenes import band_asset, level_1c, level_2a, noise, write_band, write_item

RED = "def red(batch):\n    return batch[:, :1]\n"


def test_a_folder_of_products_is_a_cohort_and_each_lands_in_its_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "red.py").write_text(RED)
    folders = [
        level_2a(tmp_path / "in", {"B04": (10, 20), "B05": (20,)}),
        level_1c(tmp_path / "in", {"B03": 10, "B04": 10}),
    ]
    words = ["--model", "red.py:red", "--channels", "B04", "--output", "raw", "--scale", "1", "--overlap", "0"]
    assert main(["run", "in", *words, "-o", "out", "--tile", "64", "--progress", "none"]) == 0
    for folder in folders:
        result = zarr.open_group(tmp_path / "out" / folder.stem / "prediction.zarr", mode="r")
        np.testing.assert_array_equal(np.squeeze(result["0"][...]), noise(10, 4).astype(np.float32))


def test_info_of_a_product_tells_bands_nodata_and_offset(tmp_path, capsys):
    folder = level_2a(tmp_path, {"B04": (10,), "B8A": (20,)})
    assert main(["info", str(folder), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["format"], told["channels"], told["nodata"]) == ("safe", ["B04", "B8A"], 0)
    assert any("subtract 1000" in note for note in told["notes"])
    assert main(["info", str(folder)]) == 0
    assert "subtract 1000" in capsys.readouterr().out


def test_info_and_plan_take_an_item(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "red.py").write_text(RED)
    write_band(tmp_path / "B04.tif", noise(10), 10)
    write_item(tmp_path / "scene.json", {"B04": band_asset("B04.tif", "B04", "red")})
    assert main(["info", "scene.json", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["path"], told["format"], told["channels"]) == ("scene.json", "stac", ["red"])
    assert main(["plan", "scene.json", "--model", "red.py:red", "--channels", "red", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tiles"] == 1
