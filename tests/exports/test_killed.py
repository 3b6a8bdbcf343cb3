"""An export that was killed leaves no file of that name, and the next one is whole and leaves nothing else."""

import subprocess
import sys
import time

import pytest
import tifffile
import zarr

from tests.exports.test_memory import CHILD, write_result

SIDE = 8192


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    return write_result(tmp_path_factory.mktemp("killed") / "result", SIDE, None, "u1")


@pytest.mark.parametrize(("kind", "name"), [("cog", "a.tif"), ("ome-tiff", "a.ome.tif"), ("ome-zarr-0.4", "a.zarr")])
def test_a_killed_export_is_begun_anew(kind, name, result, tmp_path):
    command = [sys.executable, "-c", CHILD, kind, str(result), str(tmp_path / name), "classes"]
    temporary = tmp_path / f".{name}.export.tmp"
    child = subprocess.Popen(command)
    while child.poll() is None and not _begun(temporary):
        time.sleep(0.002)
    child.kill()
    assert child.wait() == -9, "it was over before it could be killed"
    assert temporary.exists()
    assert not (tmp_path / name).exists()
    subprocess.run(command, check=True)
    assert [path.name for path in tmp_path.iterdir() if not path.name.endswith(".aux.xml")] == [name]
    truth = zarr.open_array(result / "0", mode="r")[:]
    pixels = (
        zarr.open_array(tmp_path / name / "0", mode="r")[:]
        if kind == "ome-zarr-0.4"
        else tifffile.imread(tmp_path / name)
    )
    assert (pixels == truth).all()


def _begun(temporary):
    """Whether pixels were written."""
    if temporary.is_dir():
        return any(temporary.glob("*/0/0"))
    return temporary.exists() and temporary.stat().st_size > 20_000
