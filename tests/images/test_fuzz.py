"""A hundredth of scripts/fuzz: damaged images are read, or refused with an error that says where; and that it would see
otherwise."""

import os
from random import Random

import pytest

from gigatile.errors import BlockError, ImageError
from scripts.fuzzing import main, reading
from scripts.fuzzing.seeds import Seed, make_seeds, real_seeds
from tests.data import ROOT

NUMBERS = range(48)


@pytest.fixture(scope="module")
def seeds(tmp_path_factory) -> list[Seed]:
    return [*make_seeds(tmp_path_factory.mktemp("seeds")), *real_seeds(ROOT)]


def test_every_image_reads_before_it_is_damaged(seeds):
    failed = {seed.path.name: found for seed in seeds if (found := reading.outcome_of(str(seed.path))).kind != "ok"}
    assert len(seeds) > 20
    assert not failed


def test_damaged_images_read_or_say_what_is_wrong_and_where(seeds, tmp_path):
    cases = main.fuzz(seeds, NUMBERS, seed=2026, keep=tmp_path / "keep", limits=main.Limits())
    assert [case for case in cases if case.outcome.kind == "FAIL"] == []
    assert {case.outcome.kind for case in cases} == {"ok", "error"}
    assert {case.family for case in cases} >= {"cog", "geotiff", "ndpi", "ome-tiff", "picture", "svs", "tiff", "zarr"}


def test_a_case_is_a_function_of_its_numbers(seeds, tmp_path):
    made = [seed for seed in seeds if tmp_path.parent in seed.path.parents or seed.path.is_file()]
    for number in (3, 4, 5):
        contents = []
        for turn in ("a", "b"):
            folder = tmp_path / f"{number}{turn}"
            folder.mkdir()
            path, *what = main.damage(*main.choose(made, 7, number), folder)
            contents.append((path.read_bytes(), what))
        assert contents[0] == contents[1]


def test_an_image_that_never_answers_is_a_failure_and_the_next_one_is_read(seeds, tmp_path):
    os.mkfifo(tmp_path / "hangs.tif")  # opening it waits for a writer
    child = main.Child(main.Limits(seconds=0.5))
    try:
        assert child.outcome(tmp_path / "hangs.tif") == reading.Outcome("FAIL", "no answer in 0.5 s")
        good = next(seed for seed in seeds if seed.path.name == "placed.tif")
        child._limits = main.Limits()
        assert child.outcome(good.path).kind == "ok"
    finally:
        child.close()


def test_a_process_that_dies_is_a_failure(seeds):
    child = main.Child(main.Limits())
    try:
        good = next(seed for seed in seeds if seed.path.name == "placed.tif")
        assert child.outcome(good.path).kind == "ok"
        child._process.kill()
        assert "died" in child.outcome(good.path).text
    finally:
        child.close()


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (ImageError("another.tif", found="damage"), "does not name"),
        (ImageError("a.tif"), "does not name"),
        (BlockError("a.tif", found="damage"), "the place"),
        (ImageError("a.tif", found="MemoryError: Unable to allocate 12 GiB"), "out of memory"),
        (ImageError("a.tif", found="two\nlines"), "one paragraph"),
    ],
)
def test_an_error_that_does_not_say_where_is_a_failure(error, why):
    outcome = reading._judged("a.tif", error)
    assert outcome.kind == "FAIL"
    assert why in outcome.text


def test_another_exception_than_ours_is_a_failure(monkeypatch):
    def crash(path):
        raise KeyError("oops")

    monkeypatch.setattr(reading, "_read", crash)
    assert reading.outcome_of("a.tif") == reading.Outcome("FAIL", "KeyError: 'oops'")


def test_every_way_of_damage_changes_the_image(seeds, tmp_path):
    from scripts.fuzzing import mutate

    tiff = next(seed.path for seed in seeds if seed.path.name == "small.ome.tif").read_bytes()
    for way in mutate.TIFF:
        changed = 0
        for number in range(6):
            data = bytearray(tiff)
            way(data, Random(number))
            changed += data != tiff
        assert changed >= 3, way.__name__
