"""The scripts' set-up: installs only when needed, and says what is wrong where it cannot."""

import hashlib
import importlib.util
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture
def setup(tmp_path, monkeypatch):
    """The module, for a checkout in a temporary folder; commands are noted instead of run."""
    spec = importlib.util.spec_from_file_location("_setup", SCRIPTS / "_setup.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(module, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(module, "BIN", tmp_path / ".venv" / "bin")
    (tmp_path / "pyproject.toml").write_text("[project]\n")
    module.called = []

    def call(command):
        module.called.append(command)
        (tmp_path / ".venv" / "bin").mkdir(parents=True, exist_ok=True)
        (tmp_path / ".venv" / "bin" / "python").touch()
        return 0

    monkeypatch.setattr(module.subprocess, "call", call)
    return module


def test_the_first_call_makes_an_environment_and_installs_the_second_does_nothing(setup, tmp_path):
    setup.ensure_venv("demo")
    assert [command[1:3] for command in setup.called] == [["-m", "venv"], ["-m", "pip"]]
    assert setup.called[1][-1] == f"{tmp_path}[demo]"
    setup.ensure_venv("demo")
    assert len(setup.called) == 2


def test_changed_dependencies_are_installed_into_the_same_environment(setup, tmp_path):
    setup.ensure_venv("test")
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'other'\n")
    setup.ensure_venv("test")
    assert [command[2] for command in setup.called] == ["venv", "pip", "pip"]


def test_a_tested_checkout_shows_the_demo_without_installing(setup):
    setup.ensure_venv("test")
    setup.ensure_venv("demo")
    assert len(setup.called) == 2
    digest = hashlib.sha256((setup.ROOT / "pyproject.toml").read_bytes()).hexdigest()
    assert setup.stamp_of("test") == digest


def test_an_installation_that_failed_is_not_taken_for_done(setup, monkeypatch, capsys):
    monkeypatch.setattr(setup.subprocess, "call", lambda command: 1)
    with pytest.raises(SystemExit) as stopped:
        setup.ensure_venv("demo")
    assert stopped.value.code == 2
    assert "python3-venv" in capsys.readouterr().err
    assert setup.stamp_of("demo") == ""


def test_an_old_python_is_told_which_one_is_needed(setup, monkeypatch, capsys):
    monkeypatch.setattr(sys, "version_info", (3, 9, 1))
    monkeypatch.setattr(setup.shutil, "which", lambda name: None)
    with pytest.raises(SystemExit) as stopped:
        setup.ensure_python()
    assert stopped.value.code == 2
    assert "needs Python 3.11 or newer" in capsys.readouterr().err


def test_an_old_python_hands_over_to_a_newer_one(setup, monkeypatch):
    ran = []
    monkeypatch.setattr(sys, "version_info", (3, 9, 1))
    monkeypatch.setattr(sys, "argv", ["scripts/demo", "-o", "x"])
    monkeypatch.setattr(setup.shutil, "which", lambda name: f"/bin/{name}" if name == "python3.12" else None)
    monkeypatch.setattr(setup.os, "execv", lambda program, words: ran.append((program, words)))
    monkeypatch.setattr(setup, "stop", lambda text: None)
    setup.ensure_python()
    assert ran == [("/bin/python3.12", ["/bin/python3.12", "scripts/demo", "-o", "x"])]


@pytest.mark.parametrize("name", ["demo", "test", "check", "bench/limit"])
def test_scripts_are_executable_python(name):
    script = SCRIPTS / name
    assert script.stat().st_mode & 0o111
    compile(script.read_text(), str(script), "exec")
