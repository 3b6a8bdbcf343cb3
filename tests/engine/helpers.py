"""The oracle: a model on the whole image at once, and the same through tiles and blocks."""

from __future__ import annotations

from pathlib import Path
from threading import Event

import numpy as np

import gigatile as gt
from gigatile.engine.batches import Inference, Progress, Tally
from gigatile.engine.pipes import Clock
from gigatile.engine.region import infer_region
from gigatile.images.image import Image
from gigatile.models.model import LoadedModel
from gigatile.models.warmup import try_model
from gigatile.plans.build import block_sides
from gigatile.testing.sources import UnitSource
from gigatile.tiling.border import Border
from gigatile.tiling.region import Region
from gigatile.tiling.tiling import Blocks, Tiling

REFLECT = Border("reflect")


def on_whole_image(path: Path, pixels: np.ndarray, halo: int, multiple: int = 1, border: str = "reflect") -> np.ndarray:
    """onnxruntime on the whole image, padded by the halo and then to the size multiple; shape (k, y, x)."""
    import onnxruntime as ort

    height, width = pixels.shape[1:]
    more = [-(side + 2 * halo) % multiple for side in (height, width)]
    padded = np.pad(pixels, ((0, 0), (halo, halo + more[0]), (halo, halo + more[1])), mode=border)
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    result = session.run(None, {session.get_inputs()[0].name: padded.astype(np.float32)[None]})[0][0]
    return result[:, halo : halo + height, halo : halo + width]


def in_tiles(
    model: LoadedModel,
    pixels: np.ndarray,
    tiling: Tiling,
    *,
    batch: int = 1,
    pads_batches: bool = False,
    nodata: float | None = None,
    step: int = 5,
) -> tuple[np.ndarray, np.ndarray, Tally]:
    """The same through the engine, block by block: values (k, y, x), validity (y, x), and what was done."""
    shape = pixels.shape[1:]
    image = Image(UnitSource(pixels, (11, 13), nodata))
    trial = try_model(model, len(pixels), tiling.tile_yx, batch if pads_batches else 1)
    how = Inference(tiling.grid(shape), model, trial.channels_out, trial.dtype, batch, pads_batches)
    out = np.zeros((trial.channels_out, *shape), trial.dtype)
    mask = np.ones(shape, bool)
    rows = np.zeros(shape, int)
    tally = Tally()
    progress = Progress(Clock(), tally, Event(), lambda tiles: None)

    def read(window: Region):
        if nodata is None:
            return image.read(window, border=tiling.parsed_border), None
        return image.read_with_validity(window, tiling.parsed_border)

    blocks = Blocks(shape, block_sides(tiling, tiling.grid(shape)))
    for place in blocks:
        region = blocks.region(*place)
        for y, band, valid in infer_region(how, region, read, step, progress):
            part = (slice(y, y + band.shape[1]), slice(region.x0, region.x1))
            out[(slice(None), *part)] = band
            rows[part] += 1
            if valid is not None:
                mask[part] = valid
    assert (rows == 1).all(), "every pixel is handed out once"
    return out, mask, tally


def load(path: Path, **options) -> LoadedModel:
    """An ONNX file whose pixels go in as stored."""
    return gt.load_model(path, scale=1.0, **options)
