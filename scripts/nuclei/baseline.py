"""What there was before: a U-Net for nuclei (BioImage.IO ``unet2d_nuclei_broad``) and connected components."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gigatile.objects.postprocess.components import Components
from scripts.nuclei.pictures import Picture

METHOD = Components(threshold=0.5, connectivity=4, min_area=15)
BRIGHT = 100
"""Mean grey value above which a picture is inverted: nuclei are dark in it."""
MULTIPLE = 8


def baseline(picture: Picture, model: Path) -> NDArray[np.int32]:
    """Labels of one picture, computed on all of it at once.

    Grey by the weights of ITU-R 601 (as pillow's ``convert("L")``), inverted where the mean is above 100, zero mean
    and unit variance of the whole picture, padded by reflection to a multiple of 8; then components of p > 0.5.
    """
    from PIL import Image

    grey = np.asarray(Image.fromarray(np.moveaxis(picture.pixels, 0, -1)).convert("L"), np.float32)
    grey = 255 - grey if grey.mean() > BRIGHT else grey
    grey = (grey - grey.mean()) / (grey.std() + 1e-6)
    height, width = grey.shape
    padded = np.pad(grey, ((0, -height % MULTIPLE), (0, -width % MULTIPLE)), mode="reflect")
    session = session_of(model)
    maps = session.run(None, {session.get_inputs()[0].name: padded[None, None].astype(np.float32)})[0]
    return METHOD(np.ascontiguousarray(maps[0, :, :height, :width]))


@lru_cache(maxsize=4)
def session_of(model: Path) -> Any:
    """An onnxruntime session on one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
