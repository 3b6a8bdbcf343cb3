"""docs/objects.md names the columns, the metadata and the formats that there are, and its exports run."""

import re
import shlex
from dataclasses import fields
from pathlib import Path

from gigatile.cli.main import main
from gigatile.exports.export import OBJECT_FORMATS
from gigatile.exports.geojson import LINES
from gigatile.outputs.objects_schema import ORIENTED, Counts, ObjectsMetadata, measurement_columns, objects_schema
from tests.objects_tables import shapes, table, write_run
from tests.small_runs import document

PAGE = (Path(__file__).parents[2] / "docs" / "objects.md").read_text()
SLIDE = ObjectsMetadata("instances", (600, 600), ("ship", "barge"))


def section(title):
    return re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)[1]


def test_every_column_is_described_and_no_other():
    rows = re.findall(r"^\| (`.*?) \|", section("The table"), re.MULTILINE)
    described = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    assert described == list(objects_schema((*ORIENTED, *measurement_columns(["CHANNEL"]))).names)


def test_every_key_of_the_metadata_is_named():
    keys = {each.name for kind in (ObjectsMetadata, Counts) for each in fields(kind)}
    assert keys <= set(re.findall(r"`(\w+)`", section("The table").partition("The key `gigatile`")[2]))


def test_every_format_has_its_row():
    rows = re.findall(r"^\| `(\w[\w-]*)`", section("Exports"), re.MULTILINE)
    assert list(dict.fromkeys(rows)) == list(OBJECT_FORMATS)
    assert all(f"`{suffix}`" in section("Exports") for suffix in LINES)


def test_the_exports_of_the_page_run(tmp_path, monkeypatch):
    import gigatile as gt
    from tests.small_runs import noise, run_small

    image = gt.open(noise((100, 100)), axes="yxc")
    bright = gt.load_model(lambda batch: batch.mean(axis=1, keepdims=True))
    run_small(image, bright, tmp_path / "made", gt.Tiling(tile=64, overlap=16, margin=2, blend="hann", block=96))
    assert document(tmp_path / "made")["complete"]
    write_run(tmp_path / "out", tmp_path / "made", table(shapes(50, 500), SLIDE), SLIDE)
    monkeypatch.chdir(tmp_path)
    lines = [
        line.partition("#")[0] for line in section("Exports").splitlines() if line.startswith("gigatile export out")
    ]
    assert len(lines) == 3
    for line in lines:
        words = shlex.split(line)[1:]
        assert main(words) == 0
        assert (tmp_path / words[words.index("-o") + 1]).stat().st_size > 0
