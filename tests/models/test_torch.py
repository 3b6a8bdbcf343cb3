"""TorchScript, exported programs and modules. Needs torch: pip install 'gigatile[torch]'."""

import io
import json
import pickle
import zipfile

import numpy as np
import pytest

import gigatile as gt
from gigatile.errors import ModelError
from gigatile.models.load import load_model
from gigatile.models.model import LoadedModel
from gigatile.models.probe_cache import probed

torch = pytest.importorskip("torch", reason="torch is not installed (pip install 'gigatile[torch]')")
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
KINDS = ("script", "export", "module")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


class Convolutions(torch.nn.Module):
    """Radius 2; whole weights, so that sums are exact in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Conv2d(2, 3, 3, padding=1)
        self.dropout = torch.nn.Dropout(0.5)
        self.second = torch.nn.Conv2d(3, 2, 3, padding=1)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randint(-1, 2, parameter.shape, generator=generator).float())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.dropout(torch.relu(self.first(x))))


def saved(kind, folder):
    module = Convolutions().eval()
    if kind == "module":
        return module
    if kind == "script":
        torch.jit.script(module).save(str(folder / "model.pt"))
        return folder / "model.pt"
    free = {0: torch.export.Dim.AUTO, 2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}
    program = torch.export.export(module, (torch.zeros(2, 2, 16, 24),), dynamic_shapes=(free,))
    torch.export.save(program, str(folder / "model.pt2"))
    return folder / "model.pt2"


@pytest.mark.parametrize("kind", KINDS)
def test_tiles_equal_the_module_on_the_whole_image_to_the_bit(kind, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (2, 150, 131)).astype(np.uint8)
    model = load_model(saved(kind, tmp_path), scale=1.0)
    image = gt.open(pixels, axes="cyx")
    tiling = gt.Tiling(tile=48, overlap=8, blend="trim", block=80)
    gt.run(gt.plan(image, model, tiling, output="raw"), tmp_path / "out")
    got = gt.open(tmp_path / "out" / "prediction.zarr").read(gt.Region(0, 0, 150, 131))
    padded = np.pad(pixels, ((0, 0), (4, 4), (4, 4)), mode="reflect").astype(np.float32)
    with torch.inference_mode():
        whole = Convolutions().eval()(torch.from_numpy(padded[None])).numpy()[0, :, 4:-4, 4:-4]
    assert np.array_equal(got, whole)


@pytest.mark.parametrize("kind", KINDS)
def test_the_probe_measures_its_radius(kind, tmp_path):
    probe = probed(load_model(saved(kind, tmp_path)), 2)
    assert (probe.radius, probe.alignment, probe.channels_out) == ((2, 2), 1, 2)


@pytest.mark.parametrize("kind", KINDS)
def test_it_travels_to_workers_and_is_the_same_there(kind, tmp_path):
    import cloudpickle

    model = load_model(saved(kind, tmp_path))
    there: LoadedModel = pickle.loads(cloudpickle.dumps(model))
    batch = np.random.default_rng(1).random((2, 2, 20, 20), np.float32)
    assert there.model.digest == model.model.digest
    assert np.array_equal(there.predict(batch), model.predict(batch))


def test_a_module_is_neither_changed_nor_watched():
    module = Convolutions().train()
    model = load_model(module)
    first = model.predict(np.ones((1, 2, 8, 8), np.float32))
    assert module.training
    with torch.no_grad():
        module.second.bias += 1
    assert np.array_equal(model.predict(np.ones((1, 2, 8, 8), np.float32)), first)
    assert load_model(module).model.digest != model.model.digest


def test_what_an_exported_program_was_made_for_is_known(tmp_path):
    program = torch.export.export(Convolutions().eval(), (torch.zeros(1, 2, 32, 48),))
    torch.export.save(program, str(tmp_path / "fixed.pt2"))
    model = load_model(tmp_path / "fixed.pt2").model
    assert (model.channels_in, model.fixed_tile, model.fixed_batch) == (2, (32, 48), 1)


class Bomb:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path) -> None:
        self.path = str(path)

    def __reduce__(self):
        return (io.open, (self.path, "w"))


def test_pickles_are_refused_before_anything_of_them_runs(tmp_path):
    trace = tmp_path / "trace"
    torch.save({"state": Bomb(trace)}, tmp_path / "new.pt")
    torch.save({"state": Bomb(trace)}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Bomb(trace)))
    for name in ("new.pt", "old.pth", "plain.pt"):
        with pytest.raises(ModelError, match="would run whatever code it holds"):
            load_model(tmp_path / name)
    assert not trace.exists()


def changed(path, target, change):
    """A copy of an archive with one member changed."""
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(target, "w") as sink:
        root = source.namelist()[0].partition("/")[0]
        members = {info.filename.partition("/")[2]: source.read(info) for info in source.infolist()}
        change(members)
        for name, content in members.items():
            sink.writestr(f"{root}/{name}", content)
    return target


def pickled_inputs(trace):
    def change(members):
        name = next(name for name in members if name.startswith("data/sample_inputs/"))
        stream = io.BytesIO()
        torch.save(Bomb(trace), stream)
        members[name] = stream.getvalue()

    return change


def pickled_weights(members):
    name = next(name for name in members if name.endswith("weights_config.json"))
    content = json.loads(members[name])
    next(iter(content["config"].values()))["use_pickle"] = True
    members[name] = json.dumps(content).encode()


def evaluated_size(members):
    name = next(name for name in members if name.startswith("models/"))
    content = json.loads(members[name])
    content["graph_module"]["graph"]["sym_int_values"]["x"] = {"as_expr": {"expr_str": "exit()", "hint": None}}
    members[name] = json.dumps(content).encode()


def compiled(members):
    members["data/aotinductor/model/code.wrapper.so"] = b"\x7fELF"


@pytest.mark.parametrize("kind", ["inputs", "weights", "size", "compiled"])
def test_an_exported_program_that_torch_would_run_code_for_is_refused(kind, tmp_path):
    trace = tmp_path / "trace"
    changes = {
        "inputs": pickled_inputs(trace),
        "weights": pickled_weights,
        "size": evaluated_size,
        "compiled": compiled,
    }
    path = changed(saved("export", tmp_path), tmp_path / "bad.pt2", changes[kind])
    with pytest.raises(ModelError, match="torch would run it while loading"):
        load_model(path)
    assert not trace.exists()


def test_an_unchanged_copy_of_an_archive_loads(tmp_path):
    # Else the refusals above could be those of a broken copy.
    path = changed(saved("export", tmp_path), tmp_path / "same.pt2", lambda members: None)
    assert load_model(path).predict(np.ones((1, 2, 16, 16), np.float32)).shape == (1, 2, 16, 16)


def test_a_damaged_file_is_one_error(tmp_path):
    path = saved("script", tmp_path)
    whole = path.read_bytes()
    for size in (0, 10, len(whole) // 2, len(whole) - 40):
        path.write_bytes(whole[:size])
        with pytest.raises(ModelError):
            load_model(path)


def test_several_outputs_give_the_first(tmp_path):
    class Two(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"out": x + 1, "aux": x * 0}

    torch.jit.script(Two()).save(str(tmp_path / "two.pt"))
    ones = np.ones((1, 1, 8, 8), np.float32)
    assert np.array_equal(load_model(tmp_path / "two.pt").predict(ones), ones + 1)


class Patches(torch.nn.Module):
    """A classifier: the mean of each channel, as two logits."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean = x.mean(dim=(2, 3))
        return torch.stack([mean[:, 0], -mean[:, 0]], dim=1)


def test_a_wsinfer_folder_as_its_zoo_has_it_runs_on_worker_processes(tmp_path):
    torch.jit.script(Patches()).save(str(tmp_path / "torchscript_model.pt"))
    config = {
        "spec_version": "1.0",
        "architecture": "resnet34",
        "num_classes": 2,
        "class_names": ["notumor", "tumor"],
        "patch_size_pixels": 32,
        "spacing_um_px": 0.5,
        "transform": [{"name": "ToTensor"}],
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    pixels = np.random.default_rng(0).integers(0, 256, (3, 96, 128)).astype(np.uint8)
    image = gt.open(pixels, axes="cyx").with_pixel_size(0.5)
    plan = gt.plan(image, tmp_path / "config.json")
    assert plan.model.model.files == (tmp_path / "torchscript_model.pt",)
    gt.run(plan, tmp_path / "out", executor="processes", workers=1)
    got = gt.open(tmp_path / "out" / "prediction.zarr").read(gt.Region(0, 0, 3, 4))
    mean = pixels[0].reshape(3, 32, 4, 32).mean(axis=(1, 3)) / 255
    assert np.abs(got[0] - 1 / (1 + np.exp(-2 * mean))).max() < 1e-5


def test_torchscript_weights_of_a_bioimage_description_run_and_are_self_tested(tmp_path):
    saved("script", tmp_path)
    given = np.random.default_rng(0).random((1, 2, 24, 32)).astype(np.float32)
    np.save(tmp_path / "in.npy", given)
    with torch.inference_mode():
        np.save(tmp_path / "out.npy", Convolutions().eval()(torch.from_numpy(given) * 2 - 1).numpy())
    (tmp_path / "rdf.yaml").write_text(
        """
format_version: 0.4.10
type: model
name: two
inputs: [{name: raw, axes: bcyx, shape: [1, 2, 24, 32],
          preprocessing: [{name: scale_linear, kwargs: {gain: 2, offset: -1, axes: yx}}]}]
outputs: [{name: out, axes: bcyx, shape: [1, 2, 24, 32]}]
weights: {torchscript: {source: model.pt}}
test_inputs: [in.npy]
test_outputs: [out.npy]
"""
    )
    model = load_model(tmp_path / "rdf.yaml")
    assert model.model.name == "model.pt"
    assert model.card.output == "raw"
    np.save(tmp_path / "out.npy", np.load(tmp_path / "out.npy") + 0.1)
    with pytest.raises(ModelError, match="the test of its card"):
        load_model(tmp_path / "rdf.yaml")
