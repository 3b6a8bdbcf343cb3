"""pipelines/he-nuclei: the graph is what its card says, exact in tiles, and finds nuclei on real pictures."""

import importlib.util
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import tifffile
from scipy import ndimage
from skimage import color, io
from skimage.data import immunohistochemistry

from gigatile.cli.pipeline_file import load_pipeline
from tests.data import ROOT, data

REPO = Path(__file__).parents[2]
FOLDER = REPO / "pipelines" / "he-nuclei"
RADIUS_PX = 16
BACKGROUND, TISSUE, BROWN, NUCLEUS = range(4)


@pytest.fixture(scope="module")
def session():
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(FOLDER / "model.onnx"), options, providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def picture():
    """The picture as the model sees it: (1, 3, 512, 512) float32 in 0..1."""
    return as_batch(immunohistochemistry())


def as_batch(rgb):
    return np.moveaxis(rgb, -1, 0)[None].astype(np.float32) * np.float32(1 / 255)


def predict(session, batch):
    return session.run(None, {"image": np.ascontiguousarray(batch)})[0]


def reference(rgb):
    """The card's formulas in float64 with scipy and scikit-image, zero beyond the picture as in the graph."""
    density = -np.log(np.maximum(rgb / 255.0, 1 / 255))
    hed = np.maximum(density @ color.hed_from_rgb, 0)

    def blur(channel, sigma, radius):
        return ndimage.gaussian_filter(channel, sigma, radius=radius, mode="constant")

    h, wide = blur(hed[..., 0], 1, 3), blur(hed[..., 0], 8, 16)
    brown = blur(hed[..., 2] - 2 * hed[..., 1], 1, 3)
    glass = 20 * (0.25 - blur(density.sum(-1), 1, 3))
    logits = np.stack([glass, np.zeros_like(h), 3 * (brown - 0.5), 60 * (h - 0.75 * wide - 0.18)])
    odds = np.exp(np.clip(logits, -30, 30))
    return odds / odds.sum(0)


def test_the_committed_model_is_what_the_script_makes():
    spec = importlib.util.spec_from_file_location("make_model", REPO / "scripts" / "make_nuclei_model.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert script.build().SerializeToString(deterministic=True) == (FOLDER / "model.onnx").read_bytes()
    assert script.RADIUS_PX == RADIUS_PX


def test_the_graph_computes_the_formulas_of_its_card(session, picture):
    expected = reference(immunohistochemistry())
    found = predict(session, picture)[0]
    assert np.abs(found - expected).max() < 2e-4
    np.testing.assert_array_equal(found.argmax(0), expected.argmax(0))


def test_probabilities_are_finite_and_sum_to_one_for_any_pixel(session):
    extremes = np.array([0, 1, 254, 255], np.uint8)
    rgb = np.stack(np.meshgrid(extremes, extremes, extremes, indexing="ij"), -1).reshape(8, 8, 3)
    found = predict(session, as_batch(np.repeat(np.repeat(rgb, 20, 0), 20, 1)))
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-6)


def test_glass_is_background(session):
    white = np.full((64, 64, 3), 244, np.uint8)
    assert (predict(session, as_batch(white)).argmax(1) == BACKGROUND).all()


def test_a_pixel_is_felt_to_the_radius_and_not_beyond(session, picture):
    middle = 100
    window = picture[:, :, :201, :201]
    changed = window.copy()
    changed[:, :, middle, middle] = 1 - changed[:, :, middle, middle]
    felt = (predict(session, window) != predict(session, changed)).any(axis=(0, 1))
    rows, cols = np.nonzero(felt)
    assert max(abs(rows - middle).max(), abs(cols - middle).max()) == RADIUS_PX


def test_a_tile_with_its_halo_equals_the_whole_picture_to_the_bit(session, picture):
    whole = predict(session, picture)
    rng = np.random.default_rng(0)
    inner = slice(RADIUS_PX, -RADIUS_PX)
    for _ in range(30):
        height, width = rng.integers(2 * RADIUS_PX + 1, 300, 2)
        y, x = rng.integers(0, 512 - height), rng.integers(0, 512 - width)
        tile = predict(session, picture[:, :, y : y + height, x : x + width])
        expected = whole[:, :, y : y + height, x : x + width]
        np.testing.assert_array_equal(tile[:, :, inner, inner], expected[:, :, inner, inner])


def test_a_tile_does_not_depend_on_its_batch(session, picture):
    tiles = np.concatenate([picture[:, :, y : y + 150, :170] for y in (0, 90, 200, 300)])
    alone = np.concatenate([predict(session, tile[None]) for tile in tiles])
    np.testing.assert_array_equal(predict(session, tiles), alone)


def test_the_pipeline_gives_the_model_the_halo_it_needs(session):
    given = {name: value.text for name, value in load_pipeline(FOLDER / "pipeline.yaml").given.items()}
    properties = session.get_modelmeta().custom_metadata_map
    assert given["class_names"] == properties["classes"]
    assert given["blend"] == "trim"
    assert int(given["overlap"]) // 2 == int(properties["receptive_radius_px"]) == RADIUS_PX
    assert len(load_pipeline(FOLDER / "pipeline.yaml").class_colors) == 4


def test_brown_glands_and_blue_nuclei_are_told_apart(session, picture):
    shares = np.bincount(predict(session, picture).argmax(1).ravel(), minlength=4) / 512**2
    assert 0.45 < shares[BROWN] < 0.55
    assert 0.12 < shares[NUCLEUS] < 0.17


def test_nuclei_drawn_by_hand_are_found():
    names = sorted((ROOT / "gt_nuclei_dsb2018").glob("he_*_labels.tif"))
    if not names:
        data("gt_nuclei_dsb2018")
    session_ = onnxruntime.InferenceSession(str(FOLDER / "model.onnx"), providers=["CPUExecutionProvider"])
    overlaps = []
    for labels in names:
        rgb = io.imread(str(labels).replace("_labels.tif", ".png"))[..., :3]
        halo = ((RADIUS_PX, RADIUS_PX), (RADIUS_PX, RADIUS_PX), (0, 0))
        classes = predict(session_, as_batch(np.pad(rgb, halo, mode="reflect")))[0].argmax(0)
        found = classes[RADIUS_PX:-RADIUS_PX, RADIUS_PX:-RADIUS_PX] == NUCLEUS
        drawn = tifffile.imread(labels) > 0
        overlaps.append((found & drawn).sum() / (found | drawn).sum())
    assert len(overlaps) == 6
    assert np.mean(overlaps) > 0.70


def test_pink_is_not_taken_for_brown(session):
    rgb = tifffile.imread(data("wsi/CMU-1-Small-Region.svs"))[1000:2000, :1000]
    classes = predict(session, as_batch(rgb))[0].argmax(0)
    assert (classes == BROWN).mean() < 0.002
    assert (classes == NUCLEUS).mean() > 0.03
