"""Python callables as models."""

import functools
import importlib
import pickle
import subprocess
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import cloudpickle
import numpy as np
import pytest

import gigatile as gt
from gigatile.errors import BlockError, ModelError
from gigatile.testing.models import Constant, OnCall, identity
from gigatile.testing.sources import noise

BATCH = noise((2, 1, 8, 8), "float32")


def digest(target) -> str:
    return gt.load_model(target).model.digest


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty working directory, forgotten by the import system afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


SOURCE = (
    "def twice(batch):\n    return batch * 2\n\nclass Net:\n    def __call__(self, batch):\n        return batch * 3\n"
)


class TestNames:
    def test_a_module_in_the_working_directory(self, folder):
        (folder / "mine_a.py").write_text(SOURCE)
        model = gt.load_model("mine_a:twice")
        assert np.array_equal(model.predict(BATCH), BATCH * 2)
        assert model.model.name == "mine_a:twice"

    def test_a_module_in_a_package(self, folder):
        (folder / "pack_a").mkdir()
        (folder / "pack_a" / "__init__.py").touch()
        (folder / "pack_a" / "inner.py").write_text(SOURCE)
        assert np.array_equal(gt.load_model("pack_a.inner:twice").predict(BATCH), BATCH * 2)

    def test_a_file_in_the_working_directory_or_anywhere(self, folder):
        (folder / "mine_b.py").write_text(SOURCE)
        (folder / "deep").mkdir()
        (folder / "deep" / "mine_b.py").write_text(SOURCE.replace("* 2", "* 5"))
        assert np.array_equal(gt.load_model("mine_b.py:twice").predict(BATCH), BATCH * 2)
        assert np.array_equal(gt.load_model("deep/mine_b.py:twice").predict(BATCH), BATCH * 5)
        assert np.array_equal(gt.load_model(f"{folder}/deep/mine_b.py:twice").predict(BATCH), BATCH * 5)
        assert gt.load_model("deep/mine_b.py:twice").model.name == "mine_b.py:twice", "no folders in names"

    def test_a_file_can_import_what_lies_in_the_working_directory(self, folder):
        (folder / "helper_c.py").write_text("FACTOR = 7\n")
        (folder / "mine_c.py").write_text("import helper_c\ndef f(batch):\n    return batch * helper_c.FACTOR\n")
        assert np.array_equal(gt.load_model("mine_c.py:f").predict(BATCH), BATCH * 7)

    def test_a_class_is_instantiated(self, folder):
        (folder / "mine_d.py").write_text(SOURCE)
        assert np.array_equal(gt.load_model("mine_d.py:Net").predict(BATCH), BATCH * 3)

    def test_a_file_that_was_changed_is_read_again(self, folder):
        (folder / "mine_e.py").write_text(SOURCE)
        first = gt.load_model("mine_e.py:twice")
        (folder / "mine_e.py").write_text(SOURCE.replace("* 2", "* 4"))
        second = gt.load_model("mine_e.py:twice")
        assert first.model.digest != second.model.digest
        assert np.array_equal(second.predict(BATCH), BATCH * 4)

    def test_a_module_that_was_changed_never_runs_under_the_new_digest(self, folder):
        (folder / "mine_f.py").write_text(SOURCE)
        first = gt.load_model("mine_f:twice")
        (folder / "mine_f.py").write_text(SOURCE.replace("* 2", "* 40"))
        with pytest.raises(ModelError, match=r"mine_f\.py changed since.*Restart"):
            gt.load_model("mine_f:twice")
        importlib.reload(sys.modules["mine_f"])
        second = gt.load_model("mine_f:twice")
        assert np.array_equal(second.predict(BATCH), BATCH * 40)
        assert first.model.digest != second.model.digest

    def test_it_travels_by_name_and_is_refused_where_the_source_differs(self, folder):
        (folder / "mine_g.py").write_text(SOURCE)
        sent = pickle.dumps(gt.load_model("mine_g.py:twice").model)
        code = f"import pickle; m = pickle.loads({sent!r}); import numpy; print(m.predict(numpy.ones(1)))"
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd="/", check=False)
        assert run.stdout.strip() == "[2.]", run.stderr
        (folder / "mine_g.py").write_text(SOURCE.replace("* 2", "* 4"))
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd="/", check=False)
        assert run.returncode != 0
        assert "another version" in run.stderr

    @pytest.mark.parametrize(
        ("spec", "message"),
        [
            ("no_such_module_x:f", "ModuleNotFoundError"),
            ("none_x.py:f", "no file"),
            ("mine_h.py:missing", "no such name"),
            ("mine_h.py:NUMBER", "a int|an int"),
            ("broken_h.py:f", "SyntaxError"),
            ("raising_h.py:f", "ValueError: at import"),
            ("broken_h:f", "SyntaxError"),
            ("raising_h:f", "ValueError: at import"),
        ],
    )
    def test_names_that_lead_nowhere_say_why(self, folder, spec, message):
        (folder / "mine_h.py").write_text(SOURCE + "NUMBER = 3\n")
        (folder / "broken_h.py").write_text("def f(:\n")
        (folder / "raising_h.py").write_text("raise ValueError('at import')\n")
        for _ in range(2):
            with pytest.raises(ModelError, match=message):
                gt.load_model(spec)

    def test_a_module_without_a_file_has_nothing_to_be_known_by(self, folder):
        with pytest.raises(ModelError, match=r"sys.*source file"):
            gt.load_model("sys:getsizeof")


class TestCalls:
    def test_functions_classes_instances_partials_and_methods_are_models(self):
        class Net:
            def __call__(self, batch):
                return batch + 1

            def method(self, batch):
                return batch + 2

        def plus(batch, amount):
            return batch + amount

        assert np.array_equal(gt.load_model(Net).predict(BATCH), BATCH + 1)
        assert np.array_equal(gt.load_model(Net()).predict(BATCH), BATCH + 1)
        assert np.array_equal(gt.load_model(Net().method).predict(BATCH), BATCH + 2)
        assert np.array_equal(gt.load_model(functools.partial(plus, amount=3)).predict(BATCH), BATCH + 3)
        assert np.array_equal(gt.load_model(np.negative).predict(BATCH), -BATCH)

    @pytest.mark.parametrize("lanes", [1, 3])
    def test_a_class_has_at_most_one_instance_a_lane_and_never_runs_one_twice_at_a_time(self, lanes):
        made, clashes, lock = [], [], threading.Lock()

        class Net:
            def __init__(self):
                with lock:
                    made.append(self)
                self.busy = threading.Lock()

            def __call__(self, batch):
                if not self.busy.acquire(blocking=False):
                    clashes.append(self)
                    return batch
                threading.Event().wait(0.002)
                self.busy.release()
                return batch

        model = gt.load_model(Net)
        assert not made
        with ThreadPoolExecutor(lanes) as pool:
            list(pool.map(model.predict, [BATCH] * 40))
        assert 1 <= len(made) <= lanes
        assert not clashes

    @pytest.mark.parametrize("kind", [ValueError, RuntimeError, KeyError, AssertionError, StopIteration])
    def test_what_it_raises_is_reported_with_its_kind_and_shape(self, kind):
        def bad(batch):
            raise kind("because")

        with pytest.raises(BlockError, match=rf"{kind.__name__}.*because.*\(2, 1, 8, 8\)") as caught:
            gt.load_model(bad).predict(BATCH)
        assert isinstance(caught.value.__cause__, kind)

    def test_a_constructor_that_raises_is_reported_too(self):
        class Net:
            def __init__(self):
                raise OSError("no weights")

        with pytest.raises(BlockError, match="no weights"):
            gt.load_model(Net).predict(BATCH)

    def test_an_instance_that_raised_is_used_again(self):
        made = []

        class Net:
            def __init__(self):
                made.append(1)

            def __call__(self, batch):
                raise ValueError

        model = gt.load_model(Net)
        for _ in range(3):
            with pytest.raises(BlockError):
                model.predict(BATCH)
        assert len(made) == 1

    @pytest.mark.parametrize(
        ("result", "found"),
        [
            (lambda b: b[0], r"shape \(1, 8, 8\)"),
            (lambda b: b[:1], r"shape \(1, 1, 8, 8\)"),
            (lambda b: b[:, :0], r"shape \(2, 0, 8, 8\)"),
            (lambda b: b[:, :, :, :7], r"shape \(2, 1, 8, 7\)"),
            (lambda b: np.moveaxis(b, 1, -1), r"shape \(2, 8, 8, 1\)"),
            (lambda b: None, r"shape \(\)"),
            (lambda b: b.astype(complex), "complex"),
            (lambda b: b.astype(str), "dtype"),
        ],
    )
    def test_what_is_no_map_per_tile_is_refused(self, result, found):
        with pytest.raises(BlockError, match=found):
            gt.load_model(result).predict(BATCH)

    def test_lists_become_arrays(self):
        assert np.array_equal(gt.load_model(lambda b: b.tolist()).predict(BATCH), BATCH)

    def test_planning_calls_it_once_on_zeros(self):
        seen = []

        def watch(batch):
            seen.append(batch.copy())
            return batch

        gt.plan(noise((2, 90, 90)), watch, gt.Tiling(32, 8))
        assert len(seen) == 1
        assert seen[0].shape == (1, 2, 32, 32)
        assert seen[0].dtype == np.float32
        assert not seen[0].any()

    def test_a_callable_that_fails_on_zeros_is_refused_while_planning(self):
        with pytest.raises(ModelError, match="asked to fail"):
            gt.plan(noise((1, 64, 64)), OnCall(1, "raise"), gt.Tiling(32, 8))

    @pytest.mark.parametrize("target", [3, None, [identity], np.zeros(3)])
    def test_what_cannot_be_called_is_refused(self, target):
        with pytest.raises(ModelError):
            gt.load_model(target)

    def test_warnings_are_the_models_own_business(self):
        def warns(batch):
            warnings.warn("look out", stacklevel=1)
            return batch

        with pytest.warns(UserWarning, match="look out"):
            gt.load_model(warns).predict(BATCH)


def scaled(factor):
    def model(batch):
        return batch * factor

    return model


def with_default(batch, factor=2):
    return batch * factor


class Holder:
    """Its attribute decides what it does."""

    __slots__ = ("factor",)

    def __init__(self, factor):
        self.factor = factor

    def __call__(self, batch):
        return batch * self.factor

    def method(self, batch):
        return batch + self.factor


class TestDigest:
    @pytest.mark.parametrize(
        ("one", "other"),
        [
            (scaled(1), scaled(2)),
            (scaled(np.zeros(3)), scaled(np.ones(3))),
            (scaled({"a": 1}), scaled({"a": 2})),
            (Holder(1), Holder(2)),
            (Holder(1).method, Holder(2).method),
            (Holder(1), Holder(1).method),
            (functools.partial(with_default, factor=1), functools.partial(with_default, factor=2)),
            (functools.partial(with_default), functools.partial(identity)),
            (Constant((1.0,)), Constant((2.0,))),
            (lambda b: b, lambda b: -b),
            (np.sqrt, np.negative),
            (identity, with_default),
        ],
        ids=lambda target: getattr(target, "__name__", type(target).__name__),
    )
    def test_another_behaviour_is_another_digest(self, one, other):
        assert digest(one) != digest(other)

    @pytest.mark.parametrize(
        "make",
        [
            lambda: scaled(2),
            lambda: scaled(np.arange(5)),
            lambda: scaled({"b": 1, "a": [1, 2]}),
            lambda: Holder(3),
            lambda: Holder(3).method,
            lambda: functools.partial(with_default, factor=4),
            lambda: identity,
            lambda: Holder,
            lambda: OnCall(3, "nan"),
        ],
    )
    def test_the_same_made_again_is_the_same(self, make):
        assert digest(make()) == digest(make())

    def test_it_is_the_same_in_every_process(self, tmp_path):
        (tmp_path / "script.py").write_text(
            "import sys, functools, numpy as np, gigatile as gt\n"
            "class Net:\n"
            "    def __init__(self): self.w = np.arange(4); self.names = {'a', 'b', 'c'}; self.more = {'x': (1, 2)}\n"
            "    def __call__(self, batch): return batch\n"
            "def main():\n"
            "    net = Net()\n"
            "    def closed(batch): return net(batch)\n"
            "    targets = net, Net, closed, lambda b: net(b), functools.partial(closed), net.__call__, np.sqrt\n"
            "    for target in targets:\n"
            "        print(gt.load_model(target).model.digest)\n"
            "main()\n"
        )
        outputs = []
        for seed in ("1", "2"):
            run = subprocess.run(
                [sys.executable, "script.py"],
                check=False,
                capture_output=True,
                text=True,
                cwd=tmp_path,
                env={"PYTHONHASHSEED": seed},
            )
            assert run.returncode == 0, run.stderr
            outputs.append(run.stdout.split())
        assert outputs[0] == outputs[1]
        assert len(set(outputs[0])) == 7

    def test_what_cannot_be_pickled_can_still_be_a_model(self):
        lock = threading.Lock()

        def locked(batch):
            with lock:
                return batch

        assert np.array_equal(gt.load_model(locked).predict(BATCH), BATCH)
        assert digest(locked) == digest(locked)

    def test_a_thing_inside_itself_has_a_digest(self):
        loop = []
        loop.append(loop)
        assert digest(scaled(loop)) == digest(scaled(loop))

    def test_it_travels_to_workers_with_its_digest(self):
        model = gt.load_model(scaled(3)).model
        there = pickle.loads(cloudpickle.dumps(model))
        assert there.digest == model.digest
        assert np.array_equal(there.predict(BATCH), BATCH * 3)
