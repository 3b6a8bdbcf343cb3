"""docs/security.md, claim by claim: what lies in images, run directories and pipeline files is never run."""

import ast
import json
import zlib
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

import gigatile as gt
from gigatile.cli.main import main as gigatile
from gigatile.cli.pipeline_file import load_pipeline
from gigatile.errors import GigatileError, ModelError, StorageError, UsageError
from gigatile.models import shipping
from gigatile.models.python import NamedModel
from gigatile.storage.local import LocalStore
from gigatile.storage.url import redacted

SOURCE = Path(__file__).parents[2] / "gigatile"
ALLOWED = {
    ("executors/dask.py", "cloudpickle.loads"),
    ("executors/worker.py", "cloudpickle.loads"),
    ("runs/job.py", "pickle.loads"),
    ("models/python.py", "exec"),
    ("models/cards/text.py", "yaml.load"),
    ("models/torch_archive.py", "torch.load"),
}
"""Jobs that came from the client through Dask; the model that the user names; YAML with a safe loader; tensors
with the restricted unpickler."""
RUNS_CODE = {
    *(
        f"{module}.{name}"
        for module in ("pickle", "cloudpickle", "dill", "marshal", "joblib")
        for name in ("load", "loads")
    ),
    *(
        "pickle.Unpickler",
        "shelve.open",
        "numpy.load",
        "np.load",
        "torch.load",
        "exec",
        "eval",
        "os.system",
        "os.popen",
    ),
    *("yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.full_load", "runpy.run_path", "runpy.run_module"),
}


def calls() -> set[tuple[str, str]]:
    """(file, dotted name) of every call in the package."""
    found = set()
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                found.add((path.relative_to(SOURCE).as_posix(), ast.unparse(node.func)))
    return found


def test_nothing_that_is_read_is_unpickled_or_evaluated():
    suspicious = {(file, name) for file, name in calls() if name in RUNS_CODE}
    assert suspicious <= ALLOWED
    assert {
        ("models/python.py", "exec"),
        ("models/cards/text.py", "yaml.load"),
        ("runs/job.py", "pickle.loads"),
    } <= suspicious


def test_no_module_hides_such_a_call_behind_another_name():
    names = {name.rpartition(".")[0] for name in RUNS_CODE} - {""}
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module in names - {"os"}:
                assert not {alias.name for alias in node.names} & {"load", "loads", "Unpickler", "unsafe_load"}, path
            if isinstance(node, ast.keyword):
                assert node.arg != "allow_pickle", path


# Pipeline files -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "name: !!python/object/apply:pathlib.Path.touch [{marker}]",
        "name: !!python/name:os.system",
        "!!python/object/new:os.system ['touch {marker}']",
    ],
)
def test_tags_in_yaml_construct_nothing(text, tmp_path):
    path, marker = tmp_path / "pipeline.yaml", tmp_path / "marker"
    path.write_text(text.format(marker=marker))
    with pytest.raises(UsageError, match=r"pipeline\.yaml"):
        load_pipeline(path)
    assert not marker.exists()


def test_a_billion_laughs_in_yaml_are_an_error_at_once(tmp_path):
    lines = ["a: &a [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]" for a, b in zip("abcdefghijk", "bcdefghijkl", strict=True)]
    path = tmp_path / "pipeline.yaml"
    path.write_text("\n".join([*lines, "channels: *l"]))
    with pytest.raises(UsageError) as error:
        load_pipeline(path)
    assert len(str(error.value)) < 1000


# Models ---------------------------------------------------------------------------------------------------


def onnx_file(path: Path, weights: str) -> Path:
    """A convolution whose weights lie in another file."""
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1, 3, 1, 1], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": weights, "offset": "0", "length": "12"}.items():
        tensor.external_data.add(key=key, value=value)
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", c, "y", "x"]) for name, c in (("x", 3), ("y", 1))
    ]
    graph = helper.make_graph([helper.make_node("Conv", ["x", "w"], ["y"])], "g", ends[:1], ends[1:], [tensor])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path.write_bytes(model.SerializeToString())
    return path


def test_weights_of_an_onnx_model_lie_beside_it_and_nowhere_else(tmp_path):
    folder, other = tmp_path / "model", tmp_path / "secret.bin"
    folder.mkdir()
    for place in (other, folder / "w.bin"):
        np.ones(3, np.float32).tofile(place)
    (folder / "link.bin").symlink_to(other)
    assert gt.load_model(str(onnx_file(folder / "m.onnx", "w.bin"))).model.name == "m.onnx"
    for weights in ("../secret.bin", str(other), "link.bin", "sub/../../secret.bin"):
        with pytest.raises(ModelError, match=r"m\.onnx"):
            gt.load_model(str(onnx_file(folder / "m.onnx", weights)))


MODEL = "def double(batch):\n    return batch[:, :1] * 2\n"


def test_a_model_that_was_exchanged_in_the_run_directory_is_not_run(tmp_path, monkeypatch):
    monkeypatch.setattr(shipping, "cache_folder", lambda: tmp_path / "cache")
    monkeypatch.setattr(shipping, "_OFFERED", {})
    monkeypatch.chdir(tmp_path)
    planned = tmp_path / "planned.py"
    planned.write_text(MODEL)
    model = NamedModel("planned.py:double")
    shipment = shipping.ship(model.files, model.digest, LocalStore(tmp_path / "run"))
    shipping.offer(shipment)
    rebuild, arguments = model.__reduce__()
    planned.unlink()  # a worker without the file
    assert rebuild(*arguments).digest == model.digest
    marker = tmp_path / "marker"
    evil = f"open({str(marker)!r}, 'w')\n" + MODEL
    (tmp_path / "run" / model.digest / "planned.py").write_text(evil)
    with pytest.raises(ModelError, match="another version"):
        rebuild(*arguments)
    planned.write_text(evil)
    with pytest.raises(ModelError, match="another version"):
        NamedModel("planned.py:double", str(tmp_path), model.digest)
    assert not marker.exists()


# Run directories ------------------------------------------------------------------------------------------


@pytest.fixture
def finished(tmp_path, monkeypatch) -> Path:
    """A run directory that is complete."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "planned.py").write_text(MODEL)
    image = gt.open(np.arange(3 * 64 * 64, dtype=np.uint8).reshape(3, 64, 64))
    plan = gt.plan(image, gt.load_model("planned.py:double"), gt.Tiling(tile=32, overlap=0, margin=0, blend="trim"))
    gt.run(plan, tmp_path / "run")
    return tmp_path / "run"


def test_a_model_that_run_json_names_is_not_loaded_by_status_and_verify(finished, capsys):
    marker = finished.parent / "marker"
    (finished.parent / "evil.py").write_text(f"open({str(marker)!r}, 'w')\n{MODEL}")
    text = (finished / "run.json").read_text()
    assert "planned.py" in text
    (finished / "run.json").write_text(text.replace("planned.py", "evil.py"))
    for command in (["status", str(finished)], ["verify", str(finished)], ["status", "--json", str(finished)]):
        assert gigatile(command) in (0, 2, 3), capsys.readouterr().err
    assert not marker.exists()


def test_a_block_of_the_ledger_that_names_another_place_is_nobody(finished, capsys):
    victim = finished.parent / "victim"
    victim.write_text("precious")
    for block in ("../../victim", "0/../../victim", "0/-1/0", "/etc/passwd", "0/0/99", "0/0/0/0"):
        line = {"status": "done", "block": block, "id": "ab" * 8, "digest": "0" * 64, "nbytes": 8}
        body = json.dumps(line).encode()
        with (finished / "ledger" / "zz.jsonl").open("ab") as file:
            file.write(b"%08x %s\n" % (zlib.crc32(body), body))
    capsys.readouterr()
    # Every block has a record of its own, so that the lines are nobody's; they name nothing that is looked at.
    assert gigatile(["verify", str(finished)]) == 0
    assert gigatile(["status", str(finished)]) == 0
    said = capsys.readouterr()
    assert "Traceback" not in said.out + said.err
    assert victim.read_text() == "precious"


@pytest.mark.parametrize("document", ["[]", "{}", "null", "7", "[" * 100_000, "not json"])
def test_a_run_json_of_someone_else_is_one_paragraph(document, finished, capsys):
    (finished / "run.json").write_text(document)
    for command in ("status", "verify"):
        assert gigatile([command, str(finished)]) == 2
        said = capsys.readouterr().err
        assert "Traceback" not in said
        assert "run.json" in said or str(finished) in said


@pytest.mark.parametrize("key", ["../victim", "a/../../victim", "/etc/passwd"])
def test_keys_do_not_leave_the_root_of_a_store(key, tmp_path):
    store = LocalStore(tmp_path / "root")
    for use in (store.read, store.size, store.delete, store.delete_tree, lambda k: store.write(k, b""), store.below):
        with pytest.raises(StorageError):
            use(key)


# Secrets --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "s3://key:hunter2@bucket/a.tif",
        "s3://bucket/a.tif?secret=hunter2",
        "ftp://ann:hunter2@host/a.tif",
    ],
)
def test_errors_and_info_do_not_repeat_the_secrets_of_a_url(url, capsys, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    with pytest.raises(GigatileError) as error:
        gt.open(url)
    assert "hunter2" not in str(error.value)
    assert gigatile(["info", url]) in (1, 2)
    said = capsys.readouterr()
    assert "hunter2" not in said.out + said.err


def test_a_signed_url_is_named_without_its_signature():
    url = "https://ann:hunter2@host:8443/a.tif?X-Amz-Signature=hunter2&x=1#hunter2"
    assert redacted(url) == "https://host:8443/a.tif"


def test_the_claims_of_the_page_are_those_that_are_tested():
    page = (SOURCE.parent / "docs" / "security.md").read_text()
    for word in ("pickle", "DOCTYPE", "tls://", "pipeline.yaml", "ledger", "symbolic link", "scripts/fuzz", "onnx"):
        assert word in page
