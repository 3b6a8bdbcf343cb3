"""ONNX files of all the shapes that exporters write."""

import pickle
import shutil

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

import gigatile as gt
from gigatile.errors import ModelError, UsageError
from gigatile.models.warmup import size_multiple, try_model
from gigatile.testing.models import InputShape, whole_weights, write_convolutions, write_cropping, write_pooled
from gigatile.testing.sources import noise


def expected(weights, batch):
    """The convolutions of the file, by hand."""
    for i, weight in enumerate(weights):
        pad = weight.shape[2] // 2
        padded = np.pad(batch, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, weight.shape[2:], axis=(2, 3))
        batch = np.einsum("ncyxij,kcij->nkyx", windows, weight)
        batch = np.maximum(batch, 0) if i + 1 < len(weights) else batch
    return batch


def batch_of(n, c, side):
    return noise((n, c, side, side)).astype(np.float32) % 16


@pytest.mark.parametrize("last", [False, True], ids=["NCHW", "NHWC"])
@pytest.mark.parametrize("tile", [None, 16], ids=["any-size", "fixed-size"])
@pytest.mark.parametrize("batch", [None, 1, 4], ids=["any-batch", "batch-1", "batch-4"])
def test_layouts_sizes_and_batches(tmp_path, last, tile, batch):
    weights = whole_weights([3, 2])
    shape = InputShape(3, tile=tile, batch=batch, last=last)
    model = gt.load_model(write_convolutions(tmp_path / "m.onnx", weights, shape)).model
    assert model.channels_in == 3
    assert model.fixed_tile == (None if tile is None else (tile, tile))
    assert model.fixed_batch == batch
    given_ = batch_of(batch or 3, 3, 16)
    assert np.array_equal(model.predict(given_), expected(weights, given_))


@pytest.mark.parametrize("last", [False, True], ids=["NCHW", "NHWC"])
@pytest.mark.parametrize("tile", [None, 16], ids=["any-size", "fixed-size"])
def test_as_many_channels_out_as_pixels_a_side_are_not_taken_for_pixels(tmp_path, last, tile):
    """(n, 16, 16, 16): the layout must come from elsewhere."""
    weights = whole_weights([3, 16])
    model = gt.load_model(write_convolutions(tmp_path / "m.onnx", weights, InputShape(3, tile=tile, last=last))).model
    given_ = batch_of(2, 3, 16)
    assert np.array_equal(model.predict(given_), expected(weights, given_))


@pytest.mark.parametrize("channels", [1, 3, 12, 64, 100, 224])
@pytest.mark.parametrize("last", [False, True], ids=["NCHW", "NHWC"])
def test_the_layout_is_recognised_for_any_number_of_bands_on_a_square_tile(tmp_path, channels, last):
    shape = InputShape(channels, tile=32, last=last)
    model = gt.load_model(write_convolutions(tmp_path / "m.onnx", [], shape)).model
    assert (model.channels_in, model.fixed_tile) == (channels, (32, 32))
    given_ = batch_of(1, channels, 32)
    assert np.array_equal(model.predict(given_), given_)


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_other_floats_are_cast_on_the_way_in_and_kept_on_the_way_out(tmp_path, dtype):
    # onnxruntime has no convolution of doubles on the CPU.
    weights = whole_weights([1, 2]) if dtype == "float16" else []
    model = gt.load_model(write_convolutions(tmp_path / "m.onnx", weights, InputShape(dtype=dtype))).model
    given_ = batch_of(2, 1, 12)
    result = model.predict(given_)
    assert result.dtype == dtype
    assert np.array_equal(result, expected(weights, given_).astype(dtype))


def test_a_model_without_a_channel_axis_in_its_output_gives_one_channel(tmp_path):
    node = helper.make_node("ReduceSum", ["input", "axis"], ["output"], keepdims=0)
    axis = onnx.numpy_helper.from_array(np.array([1]), "axis")
    _save(tmp_path / "m.onnx", node, [axis], (["n", 3, "y", "x"], ["n", "y", "x"]))
    given_ = batch_of(2, 3, 8)
    result = gt.load_model(tmp_path / "m.onnx").model.predict(given_)
    assert np.array_equal(result, given_.sum(axis=1, keepdims=True))


def _save(path, node, constants, dims, kind=TensorProto.FLOAT):
    into, out = dims
    graph = helper.make_graph(
        [node],
        "test",
        [helper.make_tensor_value_info("input", kind, into)],
        [helper.make_tensor_value_info("output", kind, out)],
        constants,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=8), str(path))


class TestRefusals:
    def test_a_missing_file(self, tmp_path):
        with pytest.raises(ModelError, match="no such file"):
            gt.load_model(tmp_path / "none.onnx")

    @pytest.mark.parametrize("content", [b"", b"not a model", b"\x08\x07" * 500])
    def test_a_file_that_is_no_onnx(self, tmp_path, content):
        (tmp_path / "m.onnx").write_bytes(content)
        with pytest.raises(ModelError, match="expected an ONNX model"):
            gt.load_model(tmp_path / "m.onnx")

    def test_half_a_file(self, tmp_path):
        whole = write_convolutions(tmp_path / "w.onnx", whole_weights([3, 16, 16])).read_bytes()
        (tmp_path / "m.onnx").write_bytes(whole[: len(whole) // 2])
        with pytest.raises(ModelError, match="expected an ONNX model"):
            gt.load_model(tmp_path / "m.onnx")

    @pytest.mark.parametrize(
        ("into", "kind"), [(["n", 10], TensorProto.FLOAT), (["n", 3, "y", "x"], TensorProto.INT64)]
    )
    def test_an_input_that_is_no_image_of_floats(self, tmp_path, into, kind):
        _save(tmp_path / "m.onnx", helper.make_node("Identity", ["input"], ["output"]), [], (into, into), kind)
        with pytest.raises(ModelError, match="four axes of floats"):
            gt.load_model(tmp_path / "m.onnx")

    def test_the_wrong_number_of_channels_says_how_to_choose_them(self, tmp_path):
        path = write_convolutions(tmp_path / "m.onnx", whole_weights([2, 1]))
        with pytest.raises(ModelError, match=r"expected 2 channels.*3 selected.*--channels 0,1"):
            gt.plan(noise((3, 64, 64)), gt.load_model(path), gt.Tiling(32, 8))

    @pytest.mark.parametrize(("factor", "tile", "advice"), [(2, 33, (32, 34)), (4, 30, (28, 32)), (8, 65, (64, 72))])
    def test_a_tile_that_is_no_multiple_of_what_the_model_needs_names_one_that_is(self, tmp_path, factor, tile, advice):
        path = write_pooled(tmp_path / "m.onnx", factor)
        with pytest.raises(ModelError, match=f"multiples of {factor}") as caught:
            gt.plan(noise((1, 64, 64)), gt.load_model(path), gt.Tiling(tile, 0))
        sides = caught.value.fix.rpartition("--tile ")[2].rstrip(".").split(",")
        assert int(sides[0]) in advice
        gt.plan(noise((1, 64, 64)), gt.load_model(path), gt.Tiling((int(sides[0]), int(sides[1])), 0))

    def test_another_tile_than_the_fixed_one_names_the_fixed_one(self, tmp_path):
        path = write_convolutions(tmp_path / "m.onnx", whole_weights([1, 1]), InputShape(tile=32))
        with pytest.raises(ModelError, match=r"--tile 32,32"):
            gt.plan(noise((1, 64, 64)), gt.load_model(path), gt.Tiling(64, 8))

    def test_an_overlap_that_the_model_cuts_away_is_refused(self, tmp_path):
        path = write_cropping(tmp_path / "m.onnx", by=2)
        with pytest.raises(UsageError, match=r"at least 4 px.*found 2 px"):
            gt.plan(noise((1, 64, 64)), gt.load_model(path), gt.Tiling(32, 2))

    def test_another_batch_than_the_fixed_one(self, tmp_path):
        path = write_convolutions(tmp_path / "m.onnx", whole_weights([1, 1]), InputShape(batch=4))
        with pytest.raises(ModelError, match="batch of 4"):
            gt.plan(noise((1, 64, 64)), gt.load_model(path, batch=2), gt.Tiling(32, 8))

    @pytest.mark.parametrize("device", ["gpu", "cuda:x", "CPU", ""])
    def test_devices_that_do_not_exist(self, tmp_path, device):
        path = write_convolutions(tmp_path / "m.onnx", [])
        with pytest.raises(ModelError, match="device"):
            gt.load_model(path, device=device)

    @pytest.mark.parametrize("name", ["m.pt", "m.pt2", "m.h5", "model", "m.onnx.txt"])
    def test_files_of_other_kinds_say_what_is_read(self, tmp_path, name):
        (tmp_path / name).write_bytes(b"x")
        # Files of torch need torch, which may not be there.
        with pytest.raises(ModelError, match="onnx|torch" if ".pt" in name else "onnx"):
            gt.load_model(tmp_path / name)


def test_the_fixed_tile_is_the_tile_of_the_plan(tmp_path):
    path = write_convolutions(tmp_path / "m.onnx", whole_weights([1, 1]), InputShape(tile=48))
    plan = gt.plan(noise((1, 64, 64)), gt.load_model(path))
    assert plan.tiling.tile_yx == (48, 48)
    assert plan.tiling.overlap == 2


@pytest.mark.parametrize("factor", [1, 2, 4, 8, 16])
def test_the_size_multiple_is_found_by_trying(tmp_path, factor):
    path = tmp_path / "m.onnx"
    write_pooled(path, factor) if factor > 1 else write_convolutions(path, whole_weights([1, 1]))
    assert size_multiple(gt.load_model(path), 1) == factor


@given(st.sampled_from([64, 72, 96, 128, 200]))
def test_the_automatic_halo_keeps_the_tiles_aligned(pooled_eight, tile):
    plan = gt.plan(noise((1, 80, 80)), gt.load_model(pooled_eight), gt.Tiling(tile))
    halo = plan.tiling.overlap // 2
    assert halo % 8 == 0
    assert (tile - 2 * halo) % 8 == 0


@pytest.fixture(scope="module")
def pooled_eight(tmp_path_factory):
    return write_pooled(tmp_path_factory.mktemp("m") / "m.onnx", 8)


class TestDigest:
    def test_it_is_of_the_content_not_of_the_place(self, tmp_path):
        path = write_convolutions(tmp_path / "m.onnx", whole_weights([1, 1]))
        (tmp_path / "other").mkdir()
        copy = shutil.copy(path, tmp_path / "other" / "renamed.onnx")
        assert gt.load_model(path).model.digest == gt.load_model(copy).model.digest

    def test_other_weights_are_another_model(self, tmp_path):
        one = write_convolutions(tmp_path / "a.onnx", whole_weights([1, 1], seed=1))
        two = write_convolutions(tmp_path / "b.onnx", whole_weights([1, 1], seed=2))
        assert gt.load_model(one).model.digest != gt.load_model(two).model.digest

    @pytest.mark.parametrize("name", ["m.onnx", "m [1].onnx"])
    def test_weights_beside_the_file_count(self, tmp_path, name):
        model = onnx.load(str(write_convolutions(tmp_path / "whole.onnx", whole_weights([4, 16]))))
        onnx.save(model, str(tmp_path / name), save_as_external_data=True, location=f"{name}.data", size_threshold=0)
        before = gt.load_model(tmp_path / name).model.digest
        data = bytearray((tmp_path / f"{name}.data").read_bytes())
        data[0] ^= 0x80
        (tmp_path / f"{name}.data").write_bytes(bytes(data))
        assert gt.load_model(tmp_path / name).model.digest != before

    def test_a_worker_refuses_a_file_that_has_changed(self, tmp_path):
        kept = write_convolutions(tmp_path / "kept.onnx", whole_weights([1, 1], seed=3))
        model = gt.load_model(kept).model
        assert pickle.loads(pickle.dumps(model)).digest == model.digest
        path = write_convolutions(tmp_path / "m.onnx", whole_weights([1, 1], seed=1))
        sent = pickle.dumps(gt.load_model(path).model)
        write_convolutions(path, whole_weights([1, 1], seed=2))
        with pytest.raises(ModelError, match="another one"):
            pickle.loads(sent)


def test_the_trial_says_what_comes_out(tmp_path):
    model = gt.load_model(
        write_convolutions(tmp_path / "m.onnx", whole_weights([2, 5]), InputShape(2, dtype="float16"))
    )
    trial = try_model(model, 2, (24, 32))
    assert (trial.channels_out, trial.dtype) == (5, np.float16)
    assert trial.bytes_per_tile >= (2 * 4 + 2 * 5 * 2) * 24 * 32
    assert trial.seconds_per_tile > 0


def test_many_threads_share_a_session(tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    weights = whole_weights([1, 4, 1])
    model = gt.load_model(write_convolutions(tmp_path / "m.onnx", weights)).model
    batches = [noise((1, 1, 24, 24), seed=i).astype(np.float32) for i in range(24)]
    with ThreadPoolExecutor(4) as pool:
        for given_, got in zip(batches, pool.map(model.predict, batches), strict=True):
            assert np.array_equal(got, expected(weights, given_))
