"""Planning is pure, and the fingerprint is the values."""

import json
import pickle
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gigatile as gt
from gigatile.errors import ModelError, UsageError
from gigatile.images.image import Image
from gigatile.models.model import LoadedModel
from gigatile.models.values import Values
from gigatile.plans.build import fitted
from gigatile.plans.plan import differences
from gigatile.testing.models import (
    BatchUnstable,
    Constant,
    InputShape,
    identity,
    whole_weights,
    write_convolutions,
    write_pooled,
)
from gigatile.testing.sources import CountingSource, UnitSource, noise, noise_source
from gigatile.testing.strategies import sizes, tilings

PIXELS = noise((3, 100, 120))
TILING = {"tile": 32, "overlap": 8, "margin": 2, "blend": "hann", "border": "reflect", "block": 64}


def make(*, image=None, model=None, loading=None, tiling=None, **options):
    """A plan of the usual parts, with some of them changed."""
    image = gt.open(PIXELS, axes="cyx") if image is None else image
    loaded = gt.load_model(model or identity, **(loading or {}))
    return gt.plan(image, loaded, gt.Tiling(**{**TILING, **(tiling or {})}), **options)


class TestFingerprint:
    def test_equal_inputs_have_equal_fingerprints(self):
        assert make().fingerprint == make().fingerprint

    @pytest.mark.parametrize(
        "change",
        [
            {"tiling": {"tile": 40}},
            {"tiling": {"tile": (32, 40)}},
            {"tiling": {"overlap": 10}},
            {"tiling": {"margin": 0}},
            {"tiling": {"blend": "linear"}},
            {"tiling": {"border": "symmetric"}},
            {"tiling": {"border": "constant:0"}},
            {"loading": {"scale": 1.0}},
            {"loading": {"mean": (0.5,)}},
            {"loading": {"std": (0.5,)}},
            {"loading": {"activation": "sigmoid"}},
            {"model": Constant((1.0,))},
            {"output": "probabilities"},
            {"output": "raw"},
            {"output": "probabilities", "dtype": "uint8"},
            {"output": "probabilities", "dtype": "float16"},
            {"mask": "none"},
            {"tiling": {"block": 128}},
            {"image": gt.open(PIXELS + np.uint8(1), axes="cyx")},
            {"image": gt.open(PIXELS.astype("uint16"), axes="cyx")},
            {"image": gt.open(PIXELS, axes="cyx").select([2, 1, 0])},
            {"image": gt.open(PIXELS, axes="cyx").select([0])},
            {"image": Image(UnitSource(PIXELS, nodata=3))},
        ],
        ids=str,
    )
    def test_whatever_can_change_a_value_or_a_byte_changes_it(self, change):
        assert make(**change).fingerprint != make().fingerprint

    def test_every_change_is_another_one(self):
        found = {
            make(output="probabilities", **change).fingerprint
            for change in (
                {},
                {"dtype": "float16"},
                {"dtype": "uint8"},
                {"loading": {"activation": "sigmoid"}},
                {"loading": {"activation": "softmax"}},
                {"loading": {"mean": (0.5,)}},
                {"loading": {"std": (0.5,)}},
                {"mask": "none"},
            )
        }
        assert len(found) == 8

    @pytest.mark.parametrize(
        "change",
        [
            {"memory": "1GiB"},
            {"memory": "700MiB"},
            {"loading": {"batch": 4}},
            {"loading": {"class_names": ("a", "b", "c")}},
            {"loading": {"scale": 1 / 255}},
            {"output": "classes"},
            {"tiling": {"tile": (32, 32)}},
        ],
        ids=str,
    )
    def test_resources_and_other_words_for_the_same_do_not(self, change):
        assert make(**change).fingerprint == make().fingerprint

    @pytest.mark.parametrize("executor", ["threads", "processes", "cluster"])
    @pytest.mark.parametrize("workers", [1, 2])
    def test_executor_and_workers_do_not(self, executor, workers):
        plan = make(memory="8GiB")
        assert fitted(plan, executor, workers).fingerprint == plan.fingerprint

    def test_paths_and_times_do_not(self, tmp_path):
        import tifffile

        tifffile.imwrite(tmp_path / "a.tif", np.moveaxis(PIXELS, 0, -1), photometric="rgb")
        (tmp_path / "deep").mkdir()
        shutil.copy(tmp_path / "a.tif", tmp_path / "deep" / "b.tif")
        model = write_convolutions(tmp_path / "m.onnx", whole_weights([3, 2]))
        other = shutil.copy(model, tmp_path / "deep" / "n.onnx")
        one = make(image=gt.open(tmp_path / "a.tif"), model=model)
        two = make(image=gt.open(tmp_path / "deep" / "b.tif"), model=other)
        assert one.fingerprint == two.fingerprint

    def test_the_batch_joins_where_the_bits_depend_on_it(self):
        one, two, four = (
            make(model=LoadedModel(BatchUnstable(), Values(), batch)) if batch else None for batch in (1, 2, 4)
        )
        assert two.batch_changes_bits
        assert len({one.fingerprint, two.fingerprint, four.fingerprint}) == 3

    def test_a_batch_stable_model_is_recognised_as_such(self, tmp_path):
        path = write_convolutions(tmp_path / "m.onnx", whole_weights([3, 4, 2]))
        assert not make(model=path, loading={"batch": 4}).batch_changes_bits

    def test_differences_name_what_differs(self):
        lines = differences(make().describe(), make(tiling={"overlap": 10}, loading={"scale": 1.0}).describe())
        assert "tiling.overlap: 8 before, 10 now" in lines
        assert any(line.startswith("values.scale:") for line in lines)
        assert "block: [72, 72] before, [66, 66] now" in lines
        assert len(lines) == 3

    def test_raw_has_no_activation(self, tmp_path):
        """`raw` = no activation, the model's dtype: asking for one changes nothing."""
        bare, asked = make(output="raw"), make(output="raw", loading={"activation": "sigmoid"})
        assert bare.fingerprint == asked.fingerprint
        result = gt.run(asked, tmp_path / "out", durable=False).prediction[:]
        assert np.array_equal(result, PIXELS * np.float32(1 / 255))


class TestPurity:
    def test_no_pixels_are_read(self):
        source = CountingSource(noise_source((3, 90, 90)))
        make(image=Image(source))
        assert not source.decoded

    def test_a_plan_does_not_change_its_image_or_model(self):
        image = gt.open(PIXELS, axes="cyx")
        model = gt.load_model(identity)
        first = gt.plan(image, model, gt.Tiling(**TILING)).fingerprint
        gt.plan(image, model, gt.Tiling(64, 8), output="raw")
        assert gt.plan(image, model, gt.Tiling(**TILING)).fingerprint == first

    def test_a_plan_travels_with_its_fingerprint(self, tmp_path):
        plan = make(model=write_convolutions(tmp_path / "m.onnx", whole_weights([3, 2])))
        assert pickle.loads(pickle.dumps(plan)).fingerprint == plan.fingerprint


class TestFigures:
    def test_json_has_the_keys_of_the_contract(self):
        document = make().to_json()
        assert {"tiles", "blocks", "tile", "overlap", "margin", "block", "batch"} <= set(document)
        assert {"overcompute", "memory", "disk_bytes", "eta_seconds"} <= set(document)
        assert {"budget_bytes", "projected_bytes", "parts"} <= set(document["memory"])
        assert document["memory"]["projected_bytes"] == sum(document["memory"]["parts"].values())
        assert json.loads(json.dumps(document)) == document

    @settings(max_examples=40, deadline=None)
    @given(tilings(0, most=40), sizes(150), st.sampled_from(["trim", "hann"]))
    def test_blocks_are_whole_cores_chunks_divide_blocks_and_counts_are_right(self, tiling, shape, blend):
        tiling = gt.Tiling(tiling.tile, tiling.overlap, tiling.margin, blend, block=tiling.block)
        plan = gt.plan(noise((1, *shape)), identity, tiling)
        for stride, block, chunk in zip(plan.grid.stride, plan.block, plan.chunk, strict=True):
            assert block % stride == 0
            assert block % chunk == 0
        assert plan.to_json()["tiles"] == plan.grid.y.count * plan.grid.x.count
        assert plan.to_json()["blocks"] == plan.blocks.count
        tile = plan.tiling.tile_yx[0] * plan.tiling.tile_yx[1]
        assert plan.overcompute == pytest.approx(plan.tiles_inferred * tile / (shape[0] * shape[1]))
        if blend == "trim":
            assert plan.tiles_inferred == plan.grid.tiles

    def test_the_tiles_that_are_planned_are_the_tiles_that_are_inferred(self, tmp_path):
        calls = []

        def count(batch):
            calls.extend(batch)
            return batch

        plan = make(model=count)
        gt.run(plan, tmp_path / "out", durable=False)
        assert len(calls) - 1 == plan.tiles_inferred > plan.grid.tiles

    def test_the_block_that_was_asked_for_is_rounded_up_to_whole_cores(self):
        assert make(tiling={"block": 50}).block == (72, 72)

    def test_disk_bytes_are_those_of_all_levels(self, tmp_path):
        plan = make(output="raw", image=gt.open(noise((2, 700, 600)), axes="cyx"), tiling={"tile": 128})
        sides = [layout.shape for layout in plan.layouts]
        assert len(sides) > 1
        assert plan.disk_bytes == sum(2 * 4 * height * width for height, width in sides)

    def test_a_plan_prints_what_it_will_do(self):
        text = str(make(memory="1GiB"))
        for word in ("tiles", "overlap 8", "margin 2", "hann", "blocks", "overcompute", "1.0 GiB", "largest"):
            assert word in text


class TestDefaults:
    def test_without_a_tiling_all_is_automatic(self):
        plan = gt.plan(noise((3, 600, 600)), identity)
        assert (plan.tiling.tile_yx, plan.tiling.overlap, plan.tiling.margin) == ((512, 512), 128, 0)
        assert (plan.tiling.blend, plan.tiling.border, plan.rule.output, plan.mask) == (
            "hann",
            "reflect",
            "classes",
            "nodata",
        )
        assert plan.batch == 1

    def test_the_automatic_halo_is_the_radius_in_whole_alignments(self, tmp_path):
        path = write_pooled(tmp_path / "m.onnx", 16)
        plan = gt.plan(noise((1, 200, 200)), path, gt.Tiling(tile=80))
        assert (plan.tiling.overlap, plan.tiling.blend, plan.choice.exact) == (64, "trim", True)

    def test_the_fixed_batch_is_the_batch(self, tmp_path):
        path = write_convolutions(tmp_path / "m.onnx", whole_weights([3, 1]), InputShape(3, batch=4))
        assert make(model=path).batch == 4


class TestRefusals:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"mask": "missing.tif"}, "mask missing.tif"),
            ({"mask": True}, "mask"),
            ({"roi": (0, 0, 10, 10)}, "roi"),
            ({"output": "labels"}, "output"),
            ({"memory": "lots"}, "memory"),
            ({"memory": 0}, "memory"),
        ],
    )
    def test_what_makes_no_sense_is_a_clear_error(self, options, message):
        with pytest.raises(UsageError, match=message):
            make(**options)

    @pytest.mark.parametrize("batch", [0, -1, 1.5, True])
    def test_a_batch_is_a_positive_whole_number(self, batch):
        with pytest.raises(UsageError, match="batch"):
            make(loading={"batch": batch})

    @pytest.mark.parametrize("value", ["constant:300", "constant:-1", "constant:0.5", "constant:nan"])
    def test_a_border_that_the_pixels_cannot_hold_is_refused(self, value):
        with pytest.raises(UsageError, match="border"):
            make(tiling={"border": value})

    def test_means_that_do_not_fit_the_channels(self):
        with pytest.raises(UsageError, match="mean"):
            make(loading={"mean": (1.0, 2.0)})

    def test_the_overlap_and_the_models_own_tile(self, tmp_path):
        path = write_convolutions(tmp_path / "m.onnx", whole_weights([3, 1]), InputShape(3, tile=32))
        with pytest.raises(UsageError, match="overlap"):
            gt.plan(PIXELS, path, gt.Tiling(overlap=32))

    def test_complex_pixels(self):
        with pytest.raises(UsageError, match="complex"):
            gt.plan(np.zeros((1, 20, 20), complex), identity)

    def test_a_file_that_is_no_model(self):
        with pytest.raises(ModelError):
            gt.plan(PIXELS, "nothing.onnx")
