"""The table of formats: it finds what differs, and every file has a row."""

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio

from tests.data import ROOT as ROOT_OF_DATA
from tests.data import data

ROOT = Path(__file__).parents[2]


@pytest.fixture
def table(monkeypatch, tmp_path):
    spec = importlib.util.spec_from_file_location("readers_table", ROOT / "scripts" / "readers_table.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "readers_table", module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "DATA", tmp_path)
    return module


def scene(path: Path, value: int = 7) -> Path:
    path.parent.mkdir(exist_ok=True)
    size = {"count": 2, "height": 50, "width": 60, "dtype": "uint8"}
    place = {"crs": "EPSG:32631", "transform": rasterio.Affine(10, 0, 3e5, 0, -10, 4e6)}
    with rasterio.open(path, "w", driver="GTiff", nodata=3, **size, **place) as out:
        out.write(np.full((2, 50, 60), value, np.uint8))
    return path


def test_an_image_that_agrees_is_said_to(table, tmp_path):
    cells, is_fine = table.row(scene(tmp_path / "satellite/a.tif"))
    assert is_fine
    assert cells[1:] == ["geotiff", "2 x 50 x 60 uint8", "1", "10 m", "EPSG:32631", "3", "as rasterio"]


@pytest.mark.parametrize(
    "case",
    [
        ("dtype", "int8", "dtype: uint8, reference int8"),
        ("levels", ((50, 60), (25, 30)), "levels"),
        ("bands", 3, "bands: 2, reference 3"),
        ("pixel_size", (10.0, 9.0), "pixel size"),
        ("transform", None, "transform"),
        ("crs", "EPSG:32632", "CRS"),
        ("nodata", 4.0, "nodata: 3"),
        ("read", lambda level, region: np.full((2, *region.shape), 8), "off by 1"),
        ("mask", lambda level, region: np.ones(region.shape, bool), "bands"),
    ],
)
def test_whatever_differs_is_told_and_fails(table, tmp_path, monkeypatch, case):
    fact, value, told = case

    def differing(path):
        return replace(table.by_rasterio(path), **{fact: value})

    monkeypatch.setattr(table, "REFERENCES", (table.Reference("*", "another", differing),))
    cells, is_fine = table.row(scene(tmp_path / "satellite/a.tif"))
    assert not is_fine
    assert told in cells[-1]


def test_every_image_has_a_row_between_the_markers_of_the_page(table, tmp_path, monkeypatch):
    scene(tmp_path / "satellite/a.tif")
    (tmp_path / "satellite/broken.tif").write_bytes(b"II*\0nothing")
    (tmp_path / "satellite/notes.csv").write_text("a")
    page = tmp_path / "page.md"
    page.write_text(f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n")
    monkeypatch.setattr(sys, "argv", ["readers_table.py", "--write", str(page)])
    assert table.main() == 0
    lines = page.read_text().splitlines()
    assert (lines[0], lines[-1]) == ("before", "after")
    assert "old" not in lines
    assert [line.partition(" |")[0] for line in lines if "satellite" in line] == [
        "| satellite/a.tif",
        "| satellite/broken.tif",
    ]
    assert any("refused: " in line for line in lines)


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("wsi/CMU-1-Small-Region.svs", "OpenSlide"),
        ("wsi/test3-DAPI-2-(387).ndpi", "OpenSlide"),
        ("wsi/CMU-1-Small-Region_dicom", "pydicom"),
        ("wsi/highdicom/sm_image_jpegls.dcm", "pydicom"),
        ("wsi/highdicom/sm_image_grayscale.dcm", "pydicom"),
        ("wsi/instanseg_HE_example.tif", "tifffile"),
        ("wsi/openslide-python/boxes.tiff", "tifffile"),
    ],
)
def test_the_real_slides_agree_with_their_reference(table, monkeypatch, name, reference):
    path = data(name)
    monkeypatch.setattr(table, "DATA", ROOT_OF_DATA)
    cells, is_fine = table.row(path)
    assert is_fine, cells[-1]
    assert cells[-1] == f"as {reference}"


def test_the_page_in_the_docs_has_the_table():
    text = (ROOT / "docs" / "formats.md").read_text()
    assert text.count("| as rasterio |") >= 30
    assert "off by" not in text
