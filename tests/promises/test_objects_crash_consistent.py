"""Promise 4 for objects: `kill -9` at any moment, of any stage, and the same command ends with the same bytes."""

import multiprocessing
import os
import random
import re
import shutil
import signal
from pathlib import Path
from typing import NamedTuple

import pytest

import gigatile as gt
from gigatile.runs.verify import verify
from tests.planted import FIND, MAPS, TILING, found, planned, write_planted
from tests.small_runs import document, finished, temporary_files


class Way(NamedTuple):
    """How objects are found, and how many blocks all stages have together."""

    model: str
    objects: gt.Detect | gt.Instances
    blocks: int
    tiling: gt.Tiling = TILING
    image: str = "small"


WAYS = {
    "detect": Way("crowd", gt.Detect("nmm"), FIND + 1),
    "instances": Way("labels", gt.Instances(), 2 * FIND + 1 + 4),
    "maps": Way("maps", gt.Instances("components:threshold=0.5"), 4 + 1 + 4 + 2, MAPS, "large"),
}
MERGE = "/seams/|ids.parquet|/numbered|objects.parquet"
"""What a merge writes: tables of seams, the numbers for each block, a mark, and the table of objects."""


def run_here(way, source, out, workers, moment=0, which=""):  # noqa: PLR0917  of a child process
    """Run; `kill -9` this process as it puts a file that is called like `which` in its place, the `moment`-th time."""
    model, objects, _, tiling, image = WAYS[way]
    if moment:
        real, count = Path.replace, [0]

        def deadly(path, target):
            count[0] += re.search(which, str(target)) is not None
            if count[0] == moment:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(path, target)

        Path.replace = deadly
    gt.run(planned(Path(source) / image, model, objects, tiling), out, workers=workers, durable=False)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("crash")
    for name, size, count in (("small", (330, 400), 90), ("large", (1100, 1080), 300)):
        (folder / name).mkdir()
        write_planted(folder / name, size, count=count)
    return folder


@pytest.fixture(scope="module")
def forked(source):
    """Runs in a child that has the library loaded, so that a kill costs little more than the run."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["tests.planted", "scipy.ndimage", "shapely", "pyarrow.parquet", "gigatile.runs.runner"]
    )

    def run(way, out, workers, *deadly):
        child = context.Process(target=run_here, args=(way, str(source), str(out), workers, *deadly))
        child.start()
        child.join()
        assert child.exitcode in {0, -signal.SIGKILL}
        return child.exitcode == 0

    return run


@pytest.fixture(scope="module")
def reference(source, forked):
    known = {}

    def of(way):
        if way not in known:
            out = source / f"reference-{way}"
            assert forked(way, out, 2)
            assert sum(finished(out).values()) == len(finished(out)) == WAYS[way].blocks
            known[way] = found(out)
        return known[way]

    return of


def check_finished(out, way, reference):
    assert found(out) == reference(way)
    assert document(out)["complete"]
    assert temporary_files(out) == []
    assert verify(out).problems == ()
    assert set(finished(out).values()) == {1}, "a finished block was done again"
    assert len(finished(out)) == WAYS[way].blocks


@pytest.mark.parametrize("way", WAYS)
def test_killed_whenever_a_file_is_put_in_its_place_the_next_run_goes_on(forked, reference, tmp_path, way):
    """Each run dies some files later than the one before, until one gets through."""
    choose, out, deaths = random.Random(way), tmp_path / "out", 0
    most = 40 if way == "instances" else 14
    before = finished(out)
    while not forked(way, out, choose.randint(1, 2), choose.randint(4, most)):
        deaths += 1
        assert before <= finished(out), "a record went missing"
        before = finished(out)
        if (out / "run.json").exists():
            assert not document(out)["complete"]
            assert [problem for problem in verify(out).problems if "torn" not in problem] == []
    assert deaths >= 2
    check_finished(out, way, reference)


@pytest.mark.parametrize("way", WAYS)
def test_killed_at_each_file_of_the_merge_the_next_run_goes_on(forked, reference, tmp_path, way):
    ready = tmp_path / "ready"
    assert not forked(way, ready, 2, 1, MERGE)
    blocks = FIND if way != "maps" else 4
    assert len(finished(ready)) == blocks
    moment, out = 2, tmp_path / "out"
    while True:
        shutil.copytree(ready, out)
        through = forked(way, out, 1, moment, MERGE)
        if through:
            break
        assert len(finished(out)) == blocks, "the merge was recorded before it was through"
        assert forked(way, out, 2)
        check_finished(out, way, reference)
        shutil.rmtree(out)
        moment += {"detect": 1, "maps": 2, "instances": 4}[way]
    assert moment > 2
    check_finished(out, way, reference)
