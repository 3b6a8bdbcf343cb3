"""The probe on models whose receptive field is known by arithmetic, and on functions that cannot be exact."""

import json
from fractions import Fraction

import numpy as np
import pytest

import gigatile as gt
from gigatile.errors import ModelError
from gigatile.models.probe import Probe, measure
from gigatile.models.probe_cache import known_probe, probed
from tests.oracle.catalogue import GLOBAL, KNOWN, stack
from tests.oracle.graphs import Graph, radius


@pytest.fixture
def saved(tmp_path):
    def save(make, channels: int = 1, tile: tuple[int, int] | None = None):
        graph = Graph(channels)
        return gt.load_model(graph.save(tmp_path / "model.onnx", make(graph), tile))

    return save


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GIGATILE_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache" / "probes"


@pytest.mark.parametrize("name", KNOWN)
def test_radius_alignment_and_grid_are_those_of_the_layers(saved, name):
    make, reach, alignment, scale, crop, multiple = KNOWN[name]
    graph = Graph()
    assert radius(make(graph), crop) == reach, "the arithmetic by hand and that of the graph"
    probe = measure(saved(make))
    assert probe.radius == reach
    assert (probe.alignment, probe.output_scale, probe.crop) == (alignment, scale, crop)
    assert probe.size_multiple == multiple
    assert probe.verdict == ("exact" if alignment == 1 else "exact-aligned")
    assert f"radius {max(reach)}" in probe.reason
    assert probe.effective["0.001"] <= probe.effective["1e-06"] <= probe.radius
    assert not probe.spreads_nan


@pytest.mark.parametrize("name", GLOBAL)
def test_what_depends_on_the_whole_tile_is_never_exact(saved, name):
    probe = measure(saved(GLOBAL[name]))
    assert (probe.verdict, probe.radius, probe.alignment) == ("not-exact", None, 0)
    assert "to the edge of every tile" in probe.reason
    assert min(probe.effective["0.001"]) > 100


def test_attention_over_all_pixels_is_given_up_before_it_takes_the_memory(saved, monkeypatch):
    from gigatile.models import probe as module

    seen = []
    model = saved(lambda g: g.attention(g.conv(g.input, 2)))
    monkeypatch.setattr(module, "available_bytes", lambda: 2**27)
    monkeypatch.setattr(type(model.model), "predict", spied(type(model.model).predict, seen))
    assert measure(model).verdict == "not-exact"
    assert max(side for shape in seen for side in shape[2:]) < 128


def spied(predict, seen):
    def call(self, batch):
        seen.append(batch.shape)
        return predict(self, batch)

    return call


def test_an_output_that_depends_on_the_place_in_the_tile_is_found(saved):
    probe = measure(saved(lambda g: g.stretched(g.conv(g.input, 2, stride=2), 2)))
    assert (probe.verdict, probe.alignment) == ("not-exact", 0)
    assert "depends on the place in the tile" in probe.reason


@pytest.mark.parametrize("tile", [(64, 64), (64, 96)])
def test_models_of_one_size_are_measured_on_it(saved, tile):
    probe = measure(saved(stack(5, 5), tile=tile))
    assert (probe.radius, probe.alignment, probe.verdict) == ((4, 4), 1, "exact")


def test_a_radius_beyond_the_only_tile_is_told_as_such(saved):
    probe = measure(saved(stack(21, 21, 21), tile=(64, 64)))
    assert (probe.verdict, probe.radius) == ("not-exact", None)
    assert "edge of its only tile" in probe.reason


def test_channels_come_from_the_model(saved):
    probe = measure(saved(stack(3), channels=4))
    assert (probe.channels_in, probe.channels_out) == (4, 2)


def by_its_own_range(batch):
    low, high = batch.min((1, 2, 3), keepdims=True), batch.max((1, 2, 3), keepdims=True)
    return (batch - low) / (high - low)


def by_its_own_spread(batch):
    return (batch - batch.mean((2, 3), keepdims=True)) / batch.std((2, 3), keepdims=True)


def scaled_where_it_looks_like_bytes(batch):
    return batch / 255 if batch.max() > 1.5 else batch


def by_its_own_percentiles(batch):
    return batch - np.percentile(batch, 99, axis=(2, 3), keepdims=True).astype(np.float32)


def gradient(batch):
    return batch + np.linspace(0, 1, batch.shape[3], dtype=np.float32)


def box(batch):
    padded = np.pad(batch, ((0, 0), (0, 0), (2, 2), (2, 2)))
    return np.lib.stride_tricks.sliding_window_view(padded, (5, 5), (2, 3)).max((-1, -2))


def batch_minded(batch):
    return batch * np.float32(1 + 1e-6 * len(batch))


class TestCallables:
    @pytest.mark.parametrize(
        "function", [by_its_own_range, by_its_own_spread, scaled_where_it_looks_like_bytes, by_its_own_percentiles]
    )
    def test_one_that_normalises_by_its_own_tile_is_not_exact(self, function):
        probe = measure(gt.load_model(function), 2)
        assert (probe.verdict, probe.radius) == ("not-exact", None)

    def test_one_that_knows_where_in_the_tile_it_is_is_not_exact(self):
        probe = measure(gt.load_model(gradient), 1)
        assert (probe.verdict, probe.alignment) == ("not-exact", 0)

    def test_a_plain_one_is(self):
        probe = measure(gt.load_model(box), 1)
        assert (probe.verdict, probe.radius) == ("exact", (2, 2))
        assert probe.changes_bits == {"batch": False, "tile": False}

    def test_bits_that_depend_on_the_batch_are_found(self):
        assert measure(gt.load_model(batch_minded), 1).changes_bits["batch"]

    def test_nan_that_spreads_is_found(self):
        assert measure(gt.load_model(by_its_own_spread), 1).spreads_nan

    def test_one_that_raises_is_a_model_error(self):
        def broken(batch):
            raise ValueError("no weights")

        with pytest.raises(ModelError, match="no weights"):
            measure(gt.load_model(broken), 1)

    def test_planning_does_not_call_one_that_nobody_probed(self, cache):
        assert known_probe(gt.load_model(box), 1) is None
        probed(gt.load_model(box), 1)
        assert known_probe(gt.load_model(box), 1) is not None


class TestCache:
    def count(self, monkeypatch, loaded):
        seen: list[tuple[int, ...]] = []
        monkeypatch.setattr(type(loaded.model), "predict", spied(type(loaded.model).predict, seen))
        return seen

    def test_the_second_probe_does_not_run_the_model(self, saved, cache, monkeypatch):
        loaded = saved(lambda g: g.unet(1))
        seen = self.count(monkeypatch, loaded)
        first = probed(loaded)
        assert seen
        seen.clear()
        assert probed(loaded) == first == known_probe(loaded, 1)
        assert not seen

    def test_another_model_of_the_same_name_is_measured(self, saved, cache):
        assert probed(saved(stack(3))).radius == (1, 1)
        assert probed(saved(stack(5))).radius == (2, 2)
        assert len(list(cache.iterdir())) == 2

    @pytest.mark.parametrize("damage", ["", "{", '{"radius": [1', "null", "[]", "{}", '{"radius": 3}'])
    def test_a_damaged_file_is_measured_again_and_mended(self, saved, cache, damage):
        loaded = saved(stack(3))
        first = probed(loaded)
        (file,) = cache.iterdir()
        good = file.read_text()
        file.write_text(damage)
        assert probed(loaded) == first
        assert json.loads(file.read_text()) == json.loads(good)

    def test_a_file_of_other_fields_is_measured_again(self, saved, cache):
        loaded = saved(stack(3))
        first = probed(loaded)
        (file,) = cache.iterdir()
        file.write_text(json.dumps({**json.loads(file.read_text()), "colour": "red"}))
        assert probed(loaded) == first

    def test_a_cache_that_cannot_be_written_is_done_without(self, saved, tmp_path, monkeypatch):
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("GIGATILE_CACHE_DIR", str(tmp_path / "file"))
        assert probed(saved(stack(3))).radius == (1, 1)

    def test_what_is_kept_is_all_of_it(self, saved, cache):
        loaded = saved(lambda g: g.conv(g.conv(g.input, 2, stride=2), 2, stride=2))
        first = probed(loaded)
        second = probed(loaded)
        assert isinstance(second, Probe)
        assert second.to_json() == first.to_json()
        assert second.output_scale == Fraction(1, 4)
