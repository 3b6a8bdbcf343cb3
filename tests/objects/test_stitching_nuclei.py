"""Real nuclei, many of them touching, found window by window."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
from scipy import ndimage
from skimage.feature import peak_local_max
from skimage.segmentation import watershed

from gigatile.objects.cells import CellGrid
from tests.data import data
from tests.objects.stitched import Scene, same_partition, stitched


def parted(window, row=0, col=0):
    """Touching nuclei parted by a watershed on the distance to the background, from what the window shows alone."""
    mask = window > 0
    inside = ndimage.gaussian_filter(ndimage.distance_transform_edt(mask), 1.0)
    peaks = peak_local_max(inside, min_distance=4, labels=ndimage.label(mask)[0], exclude_border=False)
    seeds = np.zeros(window.shape, int)
    seeds[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    return watershed(-inside, seeds, mask=mask)


@pytest.mark.parametrize("name", ["he_320x256_f952cc6537", "fluo_696x520_b76ff33ae9"])
def test_nuclei_are_those_of_the_whole_image(name):
    truth = tifffile.imread(data(f"gt_nuclei_dsb2018/{name}_labels.tif")).astype(np.int64)
    scene = Scene(truth, CellGrid(truth.shape, (64, 64), 32))
    assert same_partition(stitched(scene, (2, 2)).labels, truth)
    # 32 px are what a nucleus and its neighbours span: with 16 px a nucleus is cut another way here and there.
    assert same_partition(stitched(Scene(truth, scene.cells, parted), (2, 2)).labels, parted(truth))
