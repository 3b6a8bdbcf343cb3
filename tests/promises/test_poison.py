"""A block that kills its worker is found out and fails alone, whoever the worker is; nothing else is blamed."""

import pytest

from tests.clusters import separate_cluster
from tests.small_runs import TILING_WORDS, cli, document, entries, noise, start_cli, write_models, write_zarr

WORDS = ("run", "image.zarr", "-o", "out", "--model", "models.py:deadly", *TILING_WORDS, "--progress", "none")
POISON, BLOCKS = "0/0/0", 30
"""The only block whose tiles see the pixel that kills."""


@pytest.fixture
def folder(tmp_path):
    pixels = noise((400, 500), seed=3)
    pixels[10, 10] = 255
    write_zarr(tmp_path / "image.zarr", pixels)
    write_models(tmp_path)
    (tmp_path / "broken").write_text("")
    return tmp_path


def check_only_the_poison_failed(folder):
    found = entries(folder / "out")
    assert {entry["block"] for entry in found if entry["status"] == "failed"} == {POISON}
    done = {e["block"] for e in found if e["status"] in ("done", "empty") and e["block"].startswith("0/")}
    assert len(done) == BLOCKS - 1
    (error,) = {entry["error"] for entry in found if entry["status"] == "failed"}
    assert "died" in error and "--retry-failed" in error
    assert not document(folder / "out")["complete"]


def check_the_fixed_model_completes_it(folder, *words):
    (folder / "broken").unlink()
    cli(*WORDS, *words, cwd=folder, code=3)
    cli(*WORDS, *words, "--retry-failed", cwd=folder)
    assert document(folder / "out")["complete"]


def test_of_worker_processes(folder):
    words = ("--executor", "processes", "--workers", "2")
    _, err = cli(*WORDS, *words, cwd=folder, code=3)
    assert "Traceback" not in err
    check_only_the_poison_failed(folder)
    check_the_fixed_model_completes_it(folder, *words)


def test_of_separate_workers_that_are_started_again(folder, tmp_path):
    with separate_cluster(tmp_path / "cluster", workers=2, threads=1, nanny=True) as cluster:
        cli(*WORDS, "--executor", cluster.address, cwd=folder, code=3)
        check_only_the_poison_failed(folder)
        check_the_fixed_model_completes_it(folder, "--executor", cluster.address)


def test_of_threads_where_each_death_ends_the_run(folder):
    """The command is repeated; by what the ledger says was being done, the block is found out."""
    codes = []
    while codes.count(9) == len(codes) < 10:
        process = start_cli(*WORDS, "--workers", "2", cwd=folder)
        process.communicate(timeout=120)
        codes.append(process.returncode)
    # Once beside another block, then three times alone.
    assert codes == [9, 9, 9, 9, 3]
    check_only_the_poison_failed(folder)
    check_the_fixed_model_completes_it(folder, "--workers", "2")
