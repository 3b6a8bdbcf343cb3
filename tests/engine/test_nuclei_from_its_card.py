"""The bioimage.io nuclei U-Net from an rdf.yaml alone, on the DSB2018 pictures, against figures made without us."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from scipy import ndimage

import gigatile as gt
from gigatile.models.normalise import measure, parse_normalisation
from gigatile.models.self_test import self_tested
from tests.data import data

HALO, ALIGNMENT, TILE = 56, 8, 240
"""Measured: with these the tiles equal the whole image."""
SMALLEST_PX = 15
NAMES = [
    "fluo_256x256_00071198d0",
    "fluo_360x360_777f7c4269",
    "fluo_640x512_f728de0426",
    "he_320x256_2246874c8b",
    "he_320x256_ef3ef194e5",
]
REFERENCE = "reference/dsb2018_unet_whole_image.json"


def card_of(folder: Path, weights: str) -> Path:
    """The description of the model as bioimage.io publishes it (format 0.4), with these weights."""
    files = {"weights": weights, "given": "test_input.npy", "expected": "test_output.npy"}
    sources = {
        "weights": data(f"models/{weights}"),
        "given": data("models/unet2d_nuclei_broad_test_input.npy"),
        "expected": data("models/unet2d_nuclei_broad_test_output.npy"),
    }
    for key, name in files.items():
        # A copy, since a card may not name files outside its folder.
        (folder / name).write_bytes(sources[key].read_bytes())
    fixed = weights == "unet2d_nuclei_broad.onnx"
    content = {
        "format_version": "0.4.9",
        "type": "model",
        "name": "UNet 2D Nuclei Broad",
        "inputs": [
            {
                "name": "raw",
                "axes": "bcyx",
                "data_type": "float32",
                "shape": [1, 1, 512, 512] if fixed else {"min": [1, 1, 8, 8], "step": [1, 0, 8, 8]},
                "preprocessing": [{"name": "zero_mean_unit_variance", "kwargs": {"mode": "per_sample", "axes": "yx"}}],
            }
        ],
        "outputs": [
            {
                "name": "probability",
                "axes": "bcyx",
                "data_type": "float32",
                "data_range": [0, 1],
                "halo": [0, 0, 32, 32],
                "shape": {"reference_tensor": "raw", "scale": [1, 1, 1, 1], "offset": [0, 0, 0, 0]},
            }
        ],
        "test_inputs": [files["given"]],
        "test_outputs": [files["expected"]],
        "weights": {
            "onnx": {
                "source": weights,
                "sha256": hashlib.sha256(sources["weights"].read_bytes()).hexdigest(),
                "opset_version": 12,
            }
        },
    }
    path = folder / "rdf.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


@pytest.fixture(scope="module")
def card(tmp_path_factory) -> Path:
    return card_of(tmp_path_factory.mktemp("unet"), "unet2d_nuclei_broad_dynamic.onnx")


@pytest.mark.parametrize("weights", ["unet2d_nuclei_broad.onnx", "unet2d_nuclei_broad_dynamic.onnx"])
def test_the_published_test_tensors_reproduce(tmp_path, weights):
    (done,) = self_tested(gt.load_model(card_of(tmp_path, weights)))
    assert done.values == 512 * 512
    assert done.max_difference < 1e-4


def picture(name: str) -> np.ndarray:
    """Grey, dark background, shape (1, y, x) uint8: what the reference was made from."""
    from PIL import Image

    grey = np.asarray(Image.open(data(f"gt_nuclei_dsb2018/{name}.png")).convert("L"))
    return (255 - grey if grey.mean() > 100 else grey)[None]


def expected(name: str) -> dict:
    rows = json.loads(data(REFERENCE).read_text())["rows"]
    return next(row for row in rows if row["file"] == f"{name}.png")


@pytest.mark.parametrize("name", NAMES[:1])
def test_a_run_from_the_card_alone_equals_the_whole_image_to_the_bit(card, tmp_path, name):
    pixels = picture(name)
    tiling = gt.Tiling(tile=TILE, block=128)
    result = gt.run(gt.plan(gt.open(pixels, axes="cyx"), gt.load_model(card), tiling), tmp_path / "out")
    assert result.complete
    _, height, width = pixels.shape
    got = gt.open(tmp_path / "out" / "prediction.zarr").read(gt.Region(0, 0, height, width))
    model = gt.load_model(card)
    image = gt.open(pixels, axes="cyx")
    values = measure(image, parse_normalisation(model.values.normalize)).apply
    plan = gt.plan(image, model, tiling)
    halo = plan.tiling.overlap // 2
    assert halo >= HALO
    whole = values(image.read(gt.Region(-halo, -halo, height + halo, width + halo)))
    bottom, right = (-side % ALIGNMENT for side in whole.shape[1:])
    whole = np.pad(whole, ((0, 0), (0, bottom), (0, right)), mode="reflect")
    wanted = model.predict(whole[None])[0][:, halo : halo + height, halo : halo + width]
    assert np.abs(got - wanted).max() == 0


def in_clipped_tiles(model, normalised: np.ndarray) -> np.ndarray:
    """Tiles whose reads end at the edges of the picture, so that the model pads there as it does in the reference."""
    _, height, width = normalised.shape
    core = TILE - 2 * HALO
    whole = np.empty((1, height, width), np.float32)
    tiles = 0
    for y in range(0, height, core):
        for x in range(0, width, core):
            top, left = max(y - HALO, 0), max(x - HALO, 0)
            tile = normalised[:, top : y + core + HALO, left : x + core + HALO]
            part = model.predict(np.ascontiguousarray(tile)[None])[0]
            whole[:, y : y + core, x : x + core] = part[:, y - top :, x - left :][:, :core, :core]
            tiles += 1
    assert tiles > 1
    return whole


@pytest.mark.parametrize("name", NAMES)
def test_the_published_figures_of_dsb2018_are_reproduced_from_tiles(card, name):
    wanted, pixels = expected(name), picture(name)
    model = gt.load_model(card)
    statistics = measure(gt.open(pixels, axes="cyx"), parse_normalisation(model.values.normalize))
    normalised = statistics.apply(pixels)
    _, height, width = pixels.shape
    bottom, right = -height % ALIGNMENT, -width % ALIGNMENT
    padded = np.pad(normalised, ((0, 0), (0, bottom), (0, right)), mode="reflect")
    tiled = in_clipped_tiles(model, padded)
    assert np.abs(tiled - model.predict(padded[None])[0]).max() == 0
    found = figures(tiled[0, :height, :width] > 0.5, labels(name))
    assert found == {key: wanted[key] for key in found}


def labels(name: str) -> np.ndarray:
    import tifffile

    return tifffile.imread(data(f"gt_nuclei_dsb2018/{name}_labels.tif"))


def figures(mask: np.ndarray, truth: np.ndarray) -> dict:
    """Foreground, 4-connected components and matches at IoU > 0.5, as the reference counts them."""
    components, count = ndimage.label(mask)
    sizes = np.bincount(components.ravel())[1:]
    kept = {i + 1 for i in range(count) if sizes[i] >= SMALLEST_PX}
    areas = np.bincount(truth.ravel())
    pairs, shared = np.unique(np.stack([components.ravel(), truth.ravel()]), axis=1, return_counts=True)
    hits = sum(
        1
        for (mine, theirs), both in zip(pairs.T, shared, strict=True)
        if mine in kept and theirs > 0 and both / (sizes[mine - 1] + areas[theirs] - both) > 0.5
    )
    nuclei = int(np.count_nonzero(areas[1:]))
    fp, fn = len(kept) - hits, nuclei - hits
    union = np.count_nonzero(mask | (truth > 0))
    return {
        "gt": nuclei,
        "cc4_raw": count,
        "cc4_ge15px": len(kept),
        "fg_px": int(mask.sum()),
        "fg_iou": round(np.count_nonzero(mask & (truth > 0)) / union, 4),
        "tp": hits,
        "fp": fp,
        "fn": fn,
        "f1": round(2 * hits / (2 * hits + fp + fn), 4),
    }
