"""The command as a whole: one paragraph for each error, the right exit code, and nothing heavy before it."""

import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

import gigatile
from gigatile.cli import main as cli
from gigatile.cli.main import COMMANDS, LATER, main
from gigatile.errors import BlockError, Cancelled, StorageError


@pytest.fixture(autouse=True)
def unchanged_warnings(monkeypatch):
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)


def paragraph(capsys, code, expected):
    """The one line that was written to stderr, once the exit code is as expected."""
    out, err = capsys.readouterr()
    assert code == expected
    assert out == ""
    assert err.startswith("gigatile: error: ")
    assert err.endswith("\n")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    return err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "no command given. The commands are run, plan"),
        (["rum"], "unknown command 'rum'. Did you mean 'run'?"),
        (["--overlap", "2"], "unknown option --overlap"),
        (["run"], "no image given"),
        (["run", "a.tif", "--model", "m:f"], "expected -o DIR"),
        (["run", "none.tif", "-o", "out", "--model", "m:f"], "none.tif: expected an image file or Zarr, found nothing"),
        (["run", __file__, "-o", __file__, "--model", "m:f"], "found a file"),
        (["run", __file__, "-o", "out", "--model", "none.onnx"], "none.onnx: expected a model file"),
        (["run", __file__, "-o", "out", "--model", "none.py:f"], "none.py:f: expected a model file"),
        (["plan", "ftp://host/a.tif", "--model", "m:f"], "found ftp://"),
        (["plan", str(Path(__file__).parent), "--model", "m:f"], "expected one image, found a directory"),
        (["plan", "*.tif", "--model", "m:f"], "*.tif: expected one image, found a pattern"),
        (["plan", f"{__file__}+no.tif", "--model", "m:f"], "no.tif: expected an image file"),
        (["info"], "no image given"),
        (["info", "a.tif", "b.tif"], "2 images, 'a.tif', 'b.tif', where it takes one"),
        (["info", "none.tif"], "none.tif"),
        (["info", __file__], "expected a TIFF"),
        (["status"], "the following arguments are required: DIR"),
        (["status", "none"], "none: expected the directory of a run, found nothing"),
        (["verify", str(Path(__file__).parent)], "no run.json in it"),
        (["status", "a", "b"], "one word too many, 'b'"),
    ],
)  # fmt: skip
def test_an_argument_error_is_one_paragraph_and_exit_code_2(capsys, words, told):
    assert told in paragraph(capsys, main(words), 2)


@pytest.mark.parametrize("command", LATER)
def test_a_command_that_is_not_built_yet_says_so(capsys, command):
    assert "not available yet" in paragraph(capsys, main([command, "x"]), 2)


def test_the_file_that_was_meant_is_named(capsys, tmp_path):
    (tmp_path / "slide.svs").touch()
    assert "Did you mean 'slide.svs'?" in paragraph(capsys, main(["info", str(tmp_path / "slid.svs")]), 2)
    assert "There is no directory" in paragraph(capsys, main(["info", str(tmp_path / "x" / "slide.svs")]), 2)


def failing(monkeypatch, error):
    class Module:
        @staticmethod
        def main(argv):
            raise error

    monkeypatch.setattr(cli, "import_module", lambda name: Module)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (StorageError("disk", found="no space left"), 1),
        (BlockError("block 0/0/0", found="x"), 3),
        (Cancelled("stopped"), 130),
        (ValueError("two\nlines"), 1),
    ],
)
def test_an_error_on_the_way_has_its_exit_code(capsys, monkeypatch, error, code):
    failing(monkeypatch, error)
    text = paragraph(capsys, main(["status", "out"]), code)
    assert ("run again with --debug" in text) == isinstance(error, ValueError)


def test_debug_shows_the_traceback_and_keeps_the_code(capsys, monkeypatch):
    failing(monkeypatch, StorageError("disk", found="no space left"))
    assert main(["status", "out", "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err
    failing(monkeypatch, ValueError("x"))
    with pytest.raises(ValueError, match="x"):
        main(["status", "out", "--debug"])


def test_ctrl_c_before_the_run_began_is_130(capsys, monkeypatch):
    failing(monkeypatch, KeyboardInterrupt())
    assert main(["status", "out"]) == 130
    assert capsys.readouterr().err.startswith("gigatile: interrupted")


def test_warnings_are_one_line_on_stderr():
    # In a process of its own: pytest takes warnings away from stderr.
    script = """
import warnings
from gigatile.cli import main as cli
class Module:
    def main(argv):
        warnings.warn("no GPU:\\nthe CPU is used")
        return 0
cli.import_module = lambda name: Module
cli.main(["status", "out"])
"""
    child = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert child.stderr == "gigatile: warning: no GPU: the CPU is used\n"


def test_version_and_help_go_to_stdout(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"gigatile {gigatile.__version__}\n"
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    for command in COMMANDS:
        assert f"\n  {command} " in out


HEAVY = ("numpy", "dask", "distributed", "zarr", "tifffile", "imagecodecs", "onnxruntime", "pydantic", "rich", "yaml")
LIGHT_LINES = (
    "--help", "--version", "", "nonsense", "run", "run --help", "plan --help", "info --help", "status --help",
    "run a.tif -o out --model m.onnx --overlap 0.2", "run a.tif --tiles 3", "run a.tif --model m:f --blend hamm",
    "run none.tif -o out --model m:f", "run a.tif --pipeline he-nuclei --blend hamm",
    "plan a.tif --model m:f --roi 0,0,1,1", "info none.tif", "verify none",
    "run a.tif --model m:f --memory lots -o out", "probe m.onnx", "pipelines --help",
)  # fmt: skip


def test_help_and_argument_errors_import_nothing_heavy():
    # Imports are what takes time; the clock of a busy machine is no test.
    script = f"""
import sys
from gigatile.cli.main import main
for line in {LIGHT_LINES!r}:
    try:
        main(line.split())
    except SystemExit:
        pass
    heavy = sorted(set({HEAVY!r}) & set(sys.modules))
    if heavy:
        sys.exit(f"{{line!r}} imported {{heavy}}")
"""
    child = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert child.returncode == 0, child.stderr[-500:]


def test_a_reader_that_leaves_early_is_no_error():
    script = "from gigatile.cli.main import main; import sys; sys.exit(main(['--version']))"
    read, write = os.pipe()
    os.close(read)
    child = subprocess.run([sys.executable, "-c", script], stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert (child.returncode, child.stderr) == (128 + signal.SIGPIPE, "")


def test_pipelines_lists_names_and_descriptions(capsys):
    assert main(["pipelines"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines
    assert all(len(line.split(maxsplit=1)) == 2 for line in lines)
