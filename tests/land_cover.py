"""Dynamic World's way from stored Sentinel-2 values to what the network takes: in one place for all tests.

Source: google/dynamicworld, `single_image_runner.ipynb`; the figures as in the notes on the test data.
"""

import numpy as np

SCENE = "satellite/s2_rstoolbox/sen2_S2L2A_12band_uint16.tif"
SCENE_BANDS = ("B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B9", "B11", "B12")
"""Of the scene."""
RANGE = {
    "B2": (1.7417268007636313, 2.023298706048351),
    "B3": (1.7261204997060209, 2.038905204308012),
    "B4": (1.6798346251414997, 2.179592821212937),
    "B5": (1.7734969472909623, 2.2890068333026603),
    "B6": (2.289154079164943, 2.6171674549378166),
    "B7": (2.382939712192371, 2.773418590375327),
    "B8": (2.3828939530384052, 2.7578332604178284),
    "B11": (2.1952484264967844, 2.789092484314204),
    "B12": (1.554812948247501, 2.4140534947492487),
}
"""By band: what log reflectance is lessened by, and then divided by (not by their difference)."""
LOW, HIGH = (np.array([pair[i] for pair in RANGE.values()])[:, None, None] for i in (0, 1))
OFFSET = 1000
"""Products since 2022 are stored with it added; the scene is one."""


def network_input(stored: np.ndarray) -> np.ndarray:
    """What the network takes.

    Parameters
    ----------
    stored : ndarray, shape (..., 9, y, x)
        The bands of `RANGE` in that order.

    Returns
    -------
    ndarray, float32, of that shape
    """
    x = np.exp((np.log(np.maximum(stored - OFFSET, 0) * 0.005 + 1) - LOW) / HIGH * 5 - 1)
    return (x / (x + 1)).astype(np.float32)
