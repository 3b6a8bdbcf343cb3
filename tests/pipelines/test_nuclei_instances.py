"""pipelines/nuclei-instances: what its card says of the model, of the split, and of the scores."""

from pathlib import Path

import numpy as np
import onnx
import pyarrow.parquet as pq
import pytest
import tifffile
import yaml

import gigatile as gt
from gigatile.cli.main import main as gigatile
from gigatile.models.normalise import measure, parse_normalisation
from gigatile.models.probe import measure as measured
from gigatile.objects.postprocess.parse import parse_postprocess
from gigatile.plans import finding
from gigatile.testing.instance_scores import Counts, counted
from scripts.nuclei.baseline import baseline
from scripts.nuclei.pictures import HELD_OUT, KINDS, TRAIN, Picture, normalised, read, targets
from scripts.nuclei.synthetic import synthetic
from scripts.score_nuclei_instances import FOLDER, Pipeline, tiled
from tests.data import data

KEYS = yaml.safe_load((FOLDER / "pipeline.yaml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def pipeline():
    return Pipeline.of(FOLDER)


def test_tiles_of_the_pipeline_can_equal_the_whole_image():
    found = measured(gt.load_model(str(FOLDER / "model.onnx")))
    assert found.verdict == "exact-aligned"
    halo = KEYS["overlap"] // 2
    assert max(found.radius) <= halo
    assert halo % found.alignment == 0
    assert KEYS["tile"] % found.size_multiple == 0
    assert (KEYS["tile"] - KEYS["overlap"]) % found.alignment == 0
    assert found.channels_out == 2


def test_the_model_is_small_and_needs_no_new_runtime():
    content = (FOLDER / "model.onnx").read_bytes()
    assert len(content) < 5_000_000
    model = onnx.load_from_string(content)
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 17)]
    # batch norm is folded, and nothing looks at the whole picture
    assert {n.op_type for n in model.graph.node} == {
        "Mul", "Softsign", "Conv", "Relu", "MaxPool", "Resize", "Concat", "Sigmoid",
    }  # fmt: skip


def test_the_postprocessing_fits_the_model():
    parse_postprocess(KEYS["postprocess"]).check(2)


def test_the_halves_are_every_other_picture_by_name_and_share_none():
    for kind in KINDS:
        names = sorted(name for name in (*TRAIN, *HELD_OUT) if name.startswith(kind))
        assert names[::2] == [name for name in TRAIN if name.startswith(kind)]
        assert names[1::2] == [name for name in HELD_OUT if name.startswith(kind)]


def test_the_halves_are_all_pictures_of_their_kinds():
    folder = data("gt_nuclei_dsb2018")
    there = {f.stem for kind in KINDS for f in folder.glob(f"{kind}_*.png")}
    assert there == {*TRAIN, *HELD_OUT}


def test_training_sees_what_normalize_zscore_gives():
    pixels = np.random.default_rng(0).integers(0, 255, (3, 40, 50), dtype=np.uint8)
    pixels[2] = 7  # without spread
    found = measure(gt.open(pixels, axes="cyx"), parse_normalisation(KEYS["normalize"])).apply(pixels)
    np.testing.assert_array_equal(normalised(pixels), found)


def test_depth_is_one_in_the_middle_and_falls_to_the_edge_of_its_own_nucleus():
    labels = np.zeros((9, 20), np.int32)
    labels[2:7, 2:9], labels[2:7, 9:16] = 1, 2
    found = targets(labels)
    np.testing.assert_array_equal(found[0], labels > 0)
    np.testing.assert_allclose(found[1][4, 2:9], np.array([1, 2, 3, 3, 3, 2, 1]) / 3, atol=1e-6)
    np.testing.assert_allclose(found[1][4, 9:16], found[1][4, 2:9])
    assert not found[1][labels == 0].any()


def test_the_graph_computes_what_the_network_does():
    torch = pytest.importorskip("torch")
    import onnxruntime

    from scripts.nuclei.network import UNet, to_onnx

    torch.manual_seed(0)
    network = UNet()
    network(torch.randn(2, 3, 32, 32))  # running statistics other than 0 and 1
    network.eval()
    session = onnxruntime.InferenceSession(to_onnx(network).SerializeToString(), providers=["CPUExecutionProvider"])
    pixels = torch.randn(1, 3, 40, 24)
    with torch.no_grad():
        wanted = torch.sigmoid(network(pixels)).numpy()
    np.testing.assert_allclose(session.run(None, {"image": pixels.numpy()})[0], wanted, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_made_up_nuclei_that_touch_are_told_apart(pipeline, kind):
    joined, apart = Counts(), Counts()
    for seed in (101, 102, 103):
        picture = synthetic(kind, np.random.default_rng(seed))
        maps = pipeline.maps(picture)
        joined += counted(parse_postprocess("components:foreground=0,min_area=30")(maps), picture.labels)
        apart += counted(pipeline.method(maps), picture.labels)
    assert apart.f1 > joined.f1 + 0.1
    assert apart.f1 > 0.45


@pytest.mark.parametrize(
    "names",
    [("fluo_256x256_00071198d0", "fluo_360x360_b0defa611b"), ("he_320x256_708eb41a3f", "he_320x256_f952cc6537")],
)
def test_more_nuclei_of_held_out_pictures_are_found_than_by_the_baseline(pipeline, names):
    folder, unet = data("gt_nuclei_dsb2018"), data("models/unet2d_nuclei_broad_dynamic.onnx")
    before, after = Counts(), Counts()
    for name in names:
        assert name in HELD_OUT
        picture = read(Path(folder), name)
        before += counted(baseline(picture, unet), picture.labels)
        after += counted(pipeline.whole(picture), picture.labels)
    assert after.f1 > before.f1 + 0.05


def test_a_run_in_tiles_and_cells_gives_the_labels_of_the_whole_picture(pipeline, tmp_path, monkeypatch):
    parts = [synthetic("he", np.random.default_rng(seed)).pixels[:, :200] for seed in (7, 8, 9)]
    pixels = np.concatenate(parts, 2)
    source = tmp_path / "he.tif"
    tifffile.imwrite(source, np.moveaxis(pixels, 0, -1), photometric="rgb")
    monkeypatch.setattr(finding, "CELL_PX", finding.CELL_PX)  # put back what `tiled` changes
    found = tiled(FOLDER, source, tile=192, cell=192)
    whole = pipeline.whole(Picture("he_mosaic", pixels, np.zeros(pixels.shape[1:], np.int32)))
    count = int(whole.max())
    assert count > 60
    assert int(found.max()) == count
    assert counted(found, whole, 0.99) == Counts(count, 0, 0, pytest.approx(count))


def test_one_grey_channel_may_stand_for_all_three(tmp_path):
    picture = synthetic("fluo", np.random.default_rng(4))
    source, out = tmp_path / "grey.tif", tmp_path / "out"
    tifffile.imwrite(source, picture.pixels[0], photometric="minisblack")
    words = ["run", str(source), "--pipeline", str(FOLDER), "--channels", "0,0,0", "-o", str(out), "--progress", "none"]
    assert gigatile(words) == 0
    table = pq.read_table(out / "objects.parquet")
    assert table.num_rows > 10
    assert [name for name in table.column_names if name.startswith("mean_")] == ["mean_0"]
