"""What docs/clusters.md says to type works, as far as it can here, and its options exist."""

import importlib
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile

PAGE = Path(__file__).parents[2] / "docs" / "clusters.md"


def blocks(mark):
    """The fenced blocks with a mark, such as ``sh runs``."""
    found = re.findall(rf"^```{mark}\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert found, mark
    return found


@pytest.fixture
def samples(tmp_path):
    """A slide and a function, under the names that the page uses."""
    tifffile.imwrite(
        tmp_path / "slide.ome.tif",
        np.random.default_rng(0).integers(0, 256, (512, 512, 3), np.uint8),
        tile=(256, 256),
        photometric="rgb",
        metadata={"axes": "YXS", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5},
    )
    (tmp_path / "stain.py").write_text("def darkness(batch):\n    return 1 - batch.mean(axis=1, keepdims=True)\n")
    return tmp_path


def shell(script, folder):
    """Run a script in a session of its own; whatever it left running ends with it."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            ["bash", "-e", "-c", script],
            cwd=folder,
            env={**os.environ, "PATH": path},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            code = process.wait(120)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    assert code == 0, (folder / "log").read_text()


@pytest.mark.parametrize("mark", ["sh runs", "sh runs-tls"])
def test_the_commands_make_a_cluster_and_a_result(samples, mark):
    (script,) = blocks(mark)
    shell(script, samples)
    assert json.loads((samples / "result" / "run.json").read_text())["complete"]
    protocol = "tls://" if "tls" in mark else "tcp://"
    assert json.loads((samples / "cluster.json").read_text())["address"].startswith(protocol)


def test_the_adaptive_cluster_makes_a_result(samples):
    script = next(block for block in blocks("python") if "adapt(" in block)
    script = script.replace("n_workers=0,", 'n_workers=0, dashboard_address="127.0.0.1:0",')
    (samples / "adaptive.py").write_text(script)
    subprocess.run([sys.executable, "adaptive.py"], cwd=samples, check=True, timeout=120, capture_output=True)
    assert json.loads((samples / "result" / "run.json").read_text())["complete"]


def test_the_spec_file_is_one():
    (spec,) = blocks("json")
    for worker in json.loads(spec).values():
        package, _, name = worker["cls"].rpartition(".")
        assert callable(getattr(importlib.import_module(package), name))
        assert worker["opts"]["nthreads"] == 1


def test_every_option_of_dask_that_is_named_exists():
    text = " ".join(re.findall(r"dask (?:worker|scheduler)[^`\n]*", PAGE.read_text()))
    named = set(re.findall(r"(--[a-z-]+)", text))
    assert {"--nthreads", "--memory-limit", "--scheduler-file"} <= named
    known = "".join(
        subprocess.run(
            [sys.executable, "-m", "dask", command, "--help"], capture_output=True, text=True, check=True
        ).stdout
        for command in ("worker", "scheduler")
    )
    assert not {option for option in named if option not in known}


def test_the_slurm_recipe_prints_a_job_script(capsys):
    pytest.importorskip("dask_jobqueue", reason="dask-jobqueue is not installed")
    (recipe,) = blocks("python jobqueue")
    recipe = recipe.replace("    cores=1,", '    cores=1, scheduler_options={"dashboard_address": "127.0.0.1:0"},')
    names = {}
    exec(compile(recipe, str(PAGE), "exec"), names)
    names["cluster"].close()
    script = capsys.readouterr().out
    assert "#SBATCH --gres=gpu:1" in script
    assert "--nthreads 1 --memory-limit 8.00GiB" in script
    assert "--lifetime 23h" in script


def test_the_kubernetes_recipe_builds_a_resource():
    pytest.importorskip("dask_kubernetes", reason="dask-kubernetes is not installed")
    (recipe,) = blocks("python kubernetes")
    names = {}
    exec(compile(recipe, str(PAGE), "exec"), names)
    (container,) = names["spec"]["spec"]["worker"]["spec"]["containers"]
    assert container["args"][:4] == ["dask", "worker", "--nthreads", "1"]


def test_links_lead_somewhere():
    links = re.findall(r"\]\(([^)#]+)\)", PAGE.read_text())
    assert links
    for link in links:
        assert "://" in link or (PAGE.parent / link).exists(), link
