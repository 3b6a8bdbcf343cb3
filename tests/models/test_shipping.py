"""A worker that does not have a model's files gets them by their content, and takes no others."""

import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import onnx
import pytest

import gigatile as gt
from gigatile.errors import ModelError, StorageError
from gigatile.models import onnx as onnx_models
from gigatile.models import shipping
from gigatile.models.shipping import Shipment, offer, ship
from gigatile.storage.open import open_store
from tests.object_store import object_store
from tests.small_runs import write_conv

PIXELS = np.random.default_rng(0).random((1, 3, 32, 32), dtype=np.float32)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with object_store(tmp_path_factory.mktemp("object-store")) as found:
        yield found


@pytest.fixture(params=["local", "bucket"])
def store(request, tmp_path, monkeypatch):
    """Where the run directory keeps models; counts what is read from it."""
    if request.param == "local":
        return open_store(tmp_path / "run" / "models")
    server = request.getfixturevalue("server")
    for name, value in server.env.items():
        monkeypatch.setenv(name, value)
    return open_store(f"{server.make_bucket(f'ship-{os.urandom(4).hex()}')}/run/models")


@pytest.fixture(autouse=True)
def worker(tmp_path, monkeypatch):
    """As on a machine that has seen no model yet; its cache."""
    monkeypatch.setenv("GIGATILE_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(shipping, "_OFFERED", {})
    onnx_models._arrived.cache_clear()
    return tmp_path / "cache" / "models"


def loaded(path):
    return gt.load_model(path).model


def sent(model, store):
    """The model as it travels, and its shipment; its files are gone here."""
    shipment = ship(model.files, model.digest, store)
    travelling = pickle.dumps(model)
    for file in model.files:
        file.unlink()
    return travelling, pickle.loads(pickle.dumps(shipment))


def unpacked(travelling):
    onnx_models._arrived.cache_clear()
    return pickle.loads(travelling)


def test_a_worker_without_the_file_gets_it_and_computes_the_same(tmp_path, store, worker):
    model = loaded(write_conv(tmp_path / "m.onnx"))
    before = model.predict(PIXELS)
    travelling, shipment = sent(model, store)
    offer(shipment)
    arrived = unpacked(travelling)
    assert arrived.digest == model.digest
    np.testing.assert_array_equal(arrived.predict(PIXELS), before)
    assert [file.name for file in (worker / model.digest).iterdir()] == ["m.onnx"]


def test_weights_beside_the_file_come_along(tmp_path, store):
    whole = onnx.load(write_conv(tmp_path / "whole.onnx"))
    path = tmp_path / "m.onnx"
    onnx.save(whole, str(path), save_as_external_data=True, location="m.onnx.data", size_threshold=0)
    model = loaded(path)
    before = model.predict(PIXELS)
    travelling, shipment = sent(model, store)
    assert shipment.names == ("m.onnx", "m.onnx.data")
    offer(shipment)
    np.testing.assert_array_equal(unpacked(travelling).predict(PIXELS), before)


def test_a_file_of_python_comes_along(tmp_path, store):
    path = tmp_path / "stain.py"
    path.write_text("def darkness(batch):\n    return 1 - batch.mean(axis=1, keepdims=True)\n")
    model = loaded(f"{path}:darkness")
    before = model.predict(PIXELS)
    travelling, shipment = sent(model, store)
    offer(shipment)
    np.testing.assert_array_equal(unpacked(travelling).predict(PIXELS), before)


def test_a_worker_that_has_the_file_reads_nothing_from_the_store(tmp_path):
    model = loaded(write_conv(tmp_path / "m.onnx"))
    offer(Shipment(open_store(tmp_path / "nowhere"), model.digest, ("m.onnx",)))
    assert unpacked(pickle.dumps(model)).digest == model.digest


def test_another_content_at_the_planned_path_is_not_taken(tmp_path, store):
    model = loaded(write_conv(tmp_path / "m.onnx", seed=1))
    before = model.predict(PIXELS)
    travelling, shipment = sent(model, store)
    write_conv(tmp_path / "m.onnx", seed=2)
    offer(shipment)
    np.testing.assert_array_equal(unpacked(travelling).predict(PIXELS), before)


def test_another_content_in_the_store_is_refused(tmp_path, store, worker):
    model = loaded(write_conv(tmp_path / "m.onnx", seed=1))
    travelling, shipment = sent(model, store)
    store.write(f"{model.digest}/m.onnx", Path(write_conv(tmp_path / "other.onnx", seed=2)).read_bytes())
    offer(shipment)
    with pytest.raises(ModelError, match="another one"):
        unpacked(travelling)


def test_without_a_shipment_the_error_is_that_of_the_planned_path(tmp_path, store):
    travelling, _ = sent(loaded(write_conv(tmp_path / "m.onnx")), store)
    with pytest.raises(ModelError, match=r"m\.onnx"):
        unpacked(travelling)


def test_a_shipment_that_is_gone_says_what_to_see_to(tmp_path, store):
    model = loaded(write_conv(tmp_path / "m.onnx"))
    travelling, shipment = sent(model, store)
    store.delete(f"{model.digest}/m.onnx")
    offer(shipment)
    with pytest.raises(ModelError, match="See that this worker reaches the run directory"):
        unpacked(travelling)


def test_what_was_fetched_once_is_not_fetched_again(tmp_path, store):
    model = loaded(write_conv(tmp_path / "m.onnx"))
    travelling, shipment = sent(model, store)
    offer(shipment)
    unpacked(travelling)
    store.write(f"{model.digest}/m.onnx", bytes(store.size(f"{model.digest}/m.onnx")))
    assert unpacked(travelling).digest == model.digest


@pytest.mark.parametrize("harm", [lambda data: data[:-1], lambda data: bytes(len(data))], ids=["cut", "zeros"])
def test_a_harmed_file_in_the_cache_is_brought_again(tmp_path, store, worker, harm):
    model = loaded(write_conv(tmp_path / "m.onnx"))
    travelling, shipment = sent(model, store)
    offer(shipment)
    unpacked(travelling)
    file = worker / model.digest / "m.onnx"
    file.write_bytes(harm(file.read_bytes()))
    assert unpacked(travelling).digest == model.digest


def test_a_fetch_that_breaks_off_leaves_nothing(tmp_path, worker, monkeypatch):
    store = open_store(tmp_path / "run")
    model = loaded(write_conv(tmp_path / "m.onnx"))
    travelling, shipment = sent(model, store)
    monkeypatch.setattr(shipping, "PIECE_BYTES", 100)
    reads = []

    def breaking(self, key, offset, nbytes):
        reads.append(offset)
        if offset:
            raise StorageError("s3://bucket", found="no answer")
        return bytes(nbytes)

    offer(shipment)
    with monkeypatch.context() as broken:
        broken.setattr(type(store), "read_range", breaking)
        with pytest.raises(StorageError):
            unpacked(travelling)
    assert reads == [0, 100]
    assert list((worker / model.digest).iterdir()) == []
    assert unpacked(travelling).digest == model.digest


def test_files_that_are_there_are_not_written_again(tmp_path, store):
    model = loaded(write_conv(tmp_path / "m.onnx"))
    first = ship(model.files, model.digest, store)

    class Full:
        size, name = store.size, store.name

        def writer(self, key):
            raise AssertionError("written again")

    assert ship(model.files, model.digest, Full()).names == first.names


def test_a_model_that_is_gone_before_it_was_shipped_is_an_error(tmp_path, store):
    with pytest.raises(ModelError, match="the file that was planned with"):
        ship((tmp_path / "gone.onnx",), "d", store)


def test_workers_of_one_machine_fetch_at_the_same_time(tmp_path, worker, monkeypatch):
    """Two processes and three threads, in pieces of a hundred bytes."""
    monkeypatch.setattr(shipping, "PIECE_BYTES", 100)
    model = loaded(write_conv(tmp_path / "m.onnx", out=64))
    travelling, shipment = sent(model, open_store(tmp_path / "run"))
    parcel = tmp_path / "parcel"
    parcel.write_bytes(pickle.dumps((shipment, travelling)))
    script = (
        "import pickle, sys\n"
        "from gigatile.models import shipping\n"
        "shipping.PIECE_BYTES = 100\n"
        "shipment, travelling = pickle.load(open(sys.argv[1], 'rb'))\n"
        "shipping.offer(shipment)\n"
        "print(pickle.loads(travelling).digest)\n"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", script, str(parcel)], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    offer(shipment)
    found = []
    threads = [threading.Thread(target=lambda: found.append(unpacked(travelling).digest)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    found += [process.communicate(timeout=60)[0].strip() for process in processes]
    assert found == [model.digest] * 5
    assert [file.name for file in (worker / model.digest).iterdir()] == ["m.onnx"]
