"""The overlay picture: true shares, true pixels, a bounded size."""

import numpy as np
import pytest
import zarr
from PIL import Image as PILImage

from gigatile.cli.demo_overlay import PANEL_PX, Legend, draw_overlay
from gigatile.images.open import open as open_image

LEGEND = Legend(
    ("background", "tissue", "brown", "nucleus"),
    ((244, 244, 244), (242, 184, 198), (181, 101, 29), (43, 75, 216)),
)
GREY = 200


@pytest.fixture
def run(tmp_path):
    """A grey slide of 3000 x 2000 px and a class map in three levels, all classes in one corner."""
    classes = np.zeros((3000, 2000), np.uint8)
    classes[:, 1000:] = 1
    classes[2000:2600, 1200:1500] = 2
    classes[2200:2400, 1400:1800] = 3
    group = zarr.open_group(tmp_path / "prediction.zarr", mode="w")
    for level in range(3):
        group.create_array(str(level), data=classes[:: 2**level, :: 2**level], chunks=(512, 512))
    datasets = [{"path": str(level)} for level in range(3)]
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"datasets": datasets}]}
    slide = np.full((3000, 2000, 3), GREY, np.uint8)
    return open_image(slide, axes="yxc"), classes, tmp_path


def test_shares_are_those_of_the_class_map(run):
    image, classes, folder = run
    shares = draw_overlay(image, folder / "prediction.zarr", LEGEND, folder / "overlay.png")
    expected = np.bincount(classes.ravel(), minlength=4) / classes.size
    assert list(shares) == list(LEGEND.names)
    assert list(shares.values()) == pytest.approx(list(expected), abs=1e-3)


def test_the_picture_fits_a_screen_and_shows_the_window_pixel_for_pixel(run):
    image, _, folder = run
    draw_overlay(image, folder / "prediction.zarr", LEGEND, folder / "overlay.png")
    with PILImage.open(folder / "overlay.png") as picture:
        pixels = np.asarray(picture)
    assert max(pixels.shape) <= 2000
    rows = (pixels == GREY).all(axis=-1).sum(axis=1) >= PANEL_PX
    assert rows.sum() == PANEL_PX, "the window is as wide and high as its panel"
    lines = 0.9 * np.array(LEGEND.colors[3]) + 0.1 * GREY
    assert (np.abs(pixels - lines).max(axis=-1) <= 1).sum() > 100, "nuclei are outlined"


def test_pixels_of_no_class_are_white():
    painted = LEGEND.paint(np.array([[0, 3, 255]], np.uint8))
    assert painted.tolist() == [[[244, 244, 244], [43, 75, 216], [255, 255, 255]]]
