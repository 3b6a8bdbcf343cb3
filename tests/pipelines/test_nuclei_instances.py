"""The pipelines for single nuclei: what their cards say of the models, of the split, and of the scores."""

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
from scripts.nuclei.amounts import amount
from scripts.nuclei.baseline import baseline
from scripts.nuclei.pictures import HELD_OUT, KINDS, TRAIN, Picture, normalised, read, targets
from scripts.nuclei.synthetic import synthetic
from scripts.score_nuclei_instances import FOLDERS, NORMALISED, PIPELINES, Pipeline, tiled
from tests.data import data

WHERE = {kind: PIPELINES / name for kind, name in FOLDERS.items()}
KEYS = {kind: yaml.safe_load((WHERE[kind] / "pipeline.yaml").read_text(encoding="utf-8")) for kind in KINDS}


@pytest.fixture(scope="module")
def pipelines():
    return {kind: Pipeline.of(WHERE[kind]) for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_tiles_of_the_pipeline_can_equal_the_whole_image(kind):
    found, keys = measured(gt.load_model(str(WHERE[kind] / "model.onnx"))), KEYS[kind]
    assert found.verdict == "exact-aligned"
    halo = keys["overlap"] // 2
    assert max(found.radius) <= halo
    assert halo % found.alignment == 0
    assert keys["tile"] % found.size_multiple == 0
    assert (keys["tile"] - keys["overlap"]) % found.alignment == 0
    assert found.channels_out == 2


@pytest.mark.parametrize(("kind", "front"), [("fluo", set()), ("he", {"Clip", "Log", "Sub", "Div"})])
def test_the_model_is_small_and_needs_no_new_runtime(kind, front):
    content = (WHERE[kind] / "model.onnx").read_bytes()
    assert len(content) < 5_000_000
    model = onnx.load_from_string(content)
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 17)]
    # batch norm is folded, and nothing looks at the whole picture
    assert {n.op_type for n in model.graph.node} - front == {
        "Mul", "Softsign", "Conv", "Relu", "MaxPool", "Resize", "Concat", "Sigmoid",
    }  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_the_postprocessing_fits_the_model(kind):
    parse_postprocess(KEYS[kind]["postprocess"]).check(2)


def test_glass_beside_stained_tissue_changes_nothing_in_it(pipelines):
    field = synthetic("he", np.random.default_rng(11)).pixels
    slide = np.full((3, 256, 1024), 243, np.uint8)
    slide[:, :, 768:] = field
    alone, beside = (Picture("he", p, np.zeros(p.shape[1:], np.int32)) for p in (field, slide))
    inner = slice(48, None)  # beyond the receptive radius from where the glass begins
    found = pipelines["he"].maps(beside)[:, :, 768:][:, :, inner]
    np.testing.assert_array_equal(found, pipelines["he"].maps(alone)[:, :, inner])


@pytest.mark.parametrize("red", [[235, 150, 170], [205, 70, 110]])
def test_neither_glass_nor_pink_fibres_are_nuclei(pipelines, red):
    y, x = np.mgrid[:256, :256]
    fibre = (np.sin((x + 0.4 * y) / 5) > 0)[None]
    pixels = np.where(fibre, np.array(red)[:, None, None], 243) + np.random.default_rng(0).normal(0, 3, (3, 256, 256))
    labels = np.zeros((256, 256), np.int32)
    assert pipelines["he"].whole(Picture("he", pixels.clip(0, 255).astype(np.uint8), labels)).max() <= 2


def test_the_halves_are_every_other_picture_by_name_and_share_none():
    for kind in KINDS:
        names = sorted(name for name in (*TRAIN, *HELD_OUT) if name.startswith(kind))
        assert names[::2] == [name for name in TRAIN if name.startswith(kind)]
        assert names[1::2] == [name for name in HELD_OUT if name.startswith(kind)]


def test_the_halves_are_all_pictures_of_their_kinds():
    folder = data("gt_nuclei_dsb2018")
    there = {f.stem for kind in KINDS for f in folder.glob(f"{kind}_*.png")}
    assert there == {*TRAIN, *HELD_OUT}


def test_the_first_layers_of_the_graph_are_the_amount_trained_on():
    import onnxruntime

    model = onnx.load(WHERE["he"] / "model.onnx")
    # up to the first layer of the network; only names are needed to look at it
    model.graph.output.append(onnx.helper.make_tensor_value_info("stain", onnx.TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    pixels = np.random.default_rng(0).integers(0, 256, (3, 16, 24), dtype=np.uint8)
    found = session.run(["stain"], {"image": NORMALISED["none"](pixels)[None]})[0]
    np.testing.assert_allclose(found[0], amount(pixels), atol=1e-5)


def test_training_sees_what_normalize_zscore_gives():
    pixels = np.random.default_rng(0).integers(0, 255, (3, 40, 50), dtype=np.uint8)
    pixels[2] = 7  # without spread
    found = measure(gt.open(pixels, axes="cyx"), parse_normalisation(KEYS["fluo"]["normalize"])).apply(pixels)
    np.testing.assert_array_equal(normalised(pixels), found)


def test_depth_is_one_in_the_middle_and_falls_to_the_edge_of_its_own_nucleus():
    labels = np.zeros((9, 20), np.int32)
    labels[2:7, 2:9], labels[2:7, 9:16] = 1, 2
    found = targets(labels)
    np.testing.assert_array_equal(found[0], labels > 0)
    np.testing.assert_allclose(found[1][4, 2:9], np.array([1, 2, 3, 3, 3, 2, 1]) / 3, atol=1e-6)
    np.testing.assert_allclose(found[1][4, 9:16], found[1][4, 2:9])
    assert not found[1][labels == 0].any()


def test_the_graph_computes_what_the_network_does_and_is_a_start_for_one_channel(tmp_path):
    torch = pytest.importorskip("torch")
    import onnxruntime

    from scripts.nuclei.network import UNet, load, to_onnx

    torch.manual_seed(0)
    network = UNet()
    network(torch.randn(2, 3, 32, 32))  # running statistics other than 0 and 1
    network.eval()
    graph = tmp_path / "model.onnx"
    graph.write_bytes(to_onnx(network).SerializeToString())
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    grey = torch.randn(1, 1, 40, 24)
    started = UNet(1).eval()
    load(started, graph)
    with torch.no_grad():
        wanted = torch.sigmoid(network(grey.expand(1, 3, 40, 24))).numpy()
        again = torch.sigmoid(started(grey)).numpy()
    np.testing.assert_allclose(session.run(None, {"image": grey.expand(1, 3, 40, 24).numpy()})[0], wanted, atol=1e-5)
    np.testing.assert_allclose(again, wanted, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_made_up_nuclei_that_touch_are_told_apart(pipelines, kind):
    pipeline = pipelines[kind]
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
def test_more_nuclei_of_held_out_pictures_are_found_than_by_the_baseline(pipelines, names):
    folder, unet = data("gt_nuclei_dsb2018"), data("models/unet2d_nuclei_broad_dynamic.onnx")
    before, after = Counts(), Counts()
    for name in names:
        assert name in HELD_OUT
        picture = read(Path(folder), name)
        before += counted(baseline(picture, unet), picture.labels)
        after += counted(pipelines[picture.kind].whole(picture), picture.labels)
    assert after.f1 > before.f1 + 0.05


def test_a_run_in_tiles_and_cells_gives_the_labels_of_the_whole_picture(pipelines, tmp_path, monkeypatch):
    parts = [synthetic("he", np.random.default_rng(seed)).pixels[:, :200] for seed in (7, 8, 9)]
    pixels = np.concatenate(parts, 2)
    source = tmp_path / "he.tif"
    tifffile.imwrite(source, np.moveaxis(pixels, 0, -1), photometric="rgb")
    monkeypatch.setattr(finding, "CELL_PX", finding.CELL_PX)  # put back what `tiled` changes
    found = tiled(WHERE["he"], source, tile=192, cell=192)
    whole = pipelines["he"].whole(Picture("he_mosaic", pixels, np.zeros(pixels.shape[1:], np.int32)))
    count = int(whole.max())
    assert count > 60
    assert int(found.max()) == count
    assert counted(found, whole, 0.99) == Counts(count, 0, 0, pytest.approx(count))


def test_one_grey_channel_may_stand_for_all_three(tmp_path):
    picture = synthetic("fluo", np.random.default_rng(4))
    source, out = tmp_path / "grey.tif", tmp_path / "out"
    tifffile.imwrite(source, picture.pixels[0], photometric="minisblack")
    words = [
        "run",
        str(source),
        "--pipeline",
        str(WHERE["fluo"]),
        "--channels",
        "0,0,0",
        "-o",
        str(out),
        "--progress",
        "none",
    ]
    assert gigatile(words) == 0
    table = pq.read_table(out / "objects.parquet")
    assert table.num_rows > 10
    assert [name for name in table.column_names if name.startswith("mean_")] == ["mean_0"]
