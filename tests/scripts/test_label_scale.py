"""A small one of what scripts/label_scale does, and that it would find what is wrong."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import zarr
from scipy import ndimage

import gigatile as gt
from gigatile.images.image import Image
from scripts.labelling.main import compared
from scripts.labelling.planted import PlantedMask

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("connectivity", [4, 8])
def test_the_planted_components_are_those_of_scipy(connectivity):
    mask = PlantedMask(2000)
    pixels = Image(mask).read(gt.Region(0, 0, 2000, 2000))[0]
    assert mask.count == ndimage.label(pixels, np.ones((3, 3)) if connectivity == 8 else None)[1] > 10_000


def test_a_small_mask_is_labelled_as_planted():
    command = [sys.executable, "-m", "scripts.labelling.main", "--side", "5000", "--memory", "700MiB"]
    done = subprocess.run([*command, "--connectivity", "8"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "as planted" in done.stdout


def test_a_label_that_is_wrong_is_found(tmp_path):
    mask = PlantedMask(2000)
    found = gt.label(Image(mask), tmp_path / "labels.zarr")
    assert compared(mask, tmp_path / "labels.zarr", found.count) == []
    labels = zarr.open_array(tmp_path / "labels.zarr" / "0", mode="r+")
    pixels = labels[:]
    pixels[900:1000, 950:1050] += 1
    labels[:] = pixels
    problems = " ".join(compared(mask, tmp_path / "labels.zarr", found.count))
    assert "a disc of 2 numbers at 1000, 1000" in problems
    assert "foreground" in problems
