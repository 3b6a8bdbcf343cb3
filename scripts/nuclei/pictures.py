"""The pictures of the 2018 Data Science Bowl, split once and for all into those trained on and those held out.

::

    fluo_*.png, he_*.png in order of name:   train  held out  train  held out  ...       (each kind by itself)

Which half a picture falls into follows from the names alone, so that nobody can choose. The one ``bright`` picture
is in neither half: it is scored apart, as what the model has never seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

KINDS = ("fluo", "he")
TRAIN = (
    "fluo_1272x603_a102535b0e",
    "fluo_1388x1040_c901794d1a",
    "fluo_256x256_57d88f45e4",
    "fluo_360x360_777f7c4269",
    "fluo_640x512_f728de0426",
    "fluo_696x520_b76ff33ae9",
    "he_320x256_2246874c8b",
    "he_320x256_7f55678298",
    "he_320x256_ef3ef194e5",
)
HELD_OUT = (
    "fluo_1272x603_cb4df20a83",
    "fluo_256x256_00071198d0",
    "fluo_256x256_64eeef16fd",
    "fluo_360x360_b0defa611b",
    "fluo_696x520_a486f6ed4b",
    "fluo_696x520_e5a6c5e01e",
    "he_320x256_708eb41a3f",
    "he_320x256_94519eb45c",
    "he_320x256_f952cc6537",
)


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture with the nuclei that people drew."""

    name: str
    pixels: NDArray[np.uint8]
    """Red, green and blue, shape (3, y, x)."""
    labels: NDArray[np.int32]
    """Shape (y, x); 0 = background, one number a nucleus."""

    @property
    def kind(self) -> str:
        """``fluo`` or ``he``."""
        return self.name.partition("_")[0]


def read(folder: Path, name: str) -> Picture:
    """One picture from a folder that holds ``<name>.png`` and ``<name>_labels.tif``."""
    import tifffile
    from PIL import Image

    pixels = np.asarray(Image.open(folder / f"{name}.png").convert("RGB"))
    labels = tifffile.imread(folder / f"{name}_labels.tif")
    return Picture(name, np.ascontiguousarray(np.moveaxis(pixels, -1, 0)), labels.astype(np.int32))


def normalised(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """``--normalize zscore``: each channel less its mean, by its standard deviation, of the whole picture."""
    flat = pixels.reshape(len(pixels), -1).astype(np.float64)
    mean, std = flat.mean(1), flat.std(1)
    divisor = np.where(std == 0, 1, std)
    out = pixels.astype(np.float32)
    out -= mean.astype(np.float32)[:, None, None]
    out /= divisor.astype(np.float32)[:, None, None]
    return out


def targets(labels: NDArray[np.int32]) -> NDArray[np.float32]:
    """What the network shall say, shape (2, y, x), 0 to 1.

    Channel 0 is 1 in a nucleus; channel 1 is the distance to the edge of the nucleus by the largest one in it, so
    that it dips between two that touch, however large they are.
    """
    from scipy import ndimage

    out = np.zeros((2, *labels.shape), np.float32)
    out[0] = labels > 0
    for label, box in enumerate(ndimage.find_objects(labels), 1):
        if box is None:
            continue
        inside = np.pad(labels[box] == label, 1)
        depth = ndimage.distance_transform_edt(inside)[1:-1, 1:-1]
        out[1][box] += (depth / depth.max()).astype(np.float32)
    return out
