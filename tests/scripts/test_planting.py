"""A thousandth of what scripts/objects does, and that it would notice."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from scipy import ndimage

from scripts.planting import main as planting
from scripts.planting.field import MOST, PITCH, Field, FieldSource, areas
from scripts.planting.truth import table_problems


def test_what_is_planted_is_what_scipy_finds_in_the_pixels():
    field = Field(70, 80, 3)
    source = FieldSource(field)
    units = [[source.decode(0, row, col)[0] for col in range(2)] for row in range(2)]
    labels, count = ndimage.label(np.block(units) > 100)
    assert labels.shape == field.shape == (1120, 1280)
    assert count == field.count() > 5000
    row, col = np.mgrid[:70, :80]
    planted, sizes, known = field.planted(row, col), np.bincount(labels.ravel()), areas()
    for number, (y, x) in enumerate(ndimage.find_objects(labels), 1):
        at = y.start // PITCH, x.start // PITCH
        assert planted.there[at]
        assert (y.start % PITCH, x.start % PITCH) == (planted.top[at], planted.left[at])
        assert y.stop - y.start == x.stop - x.start == planted.side[at] <= MOST
        assert sizes[number] == known[planted.kind[at], planted.side[at]]


@pytest.mark.parametrize("task", ["detect", "instances"])
def test_every_shape_is_found_once_whoever_works_and_whoever_is_killed(capsys, tmp_path, task):
    blocks, kills = ("480", "0") if task == "detect" else ("", "1")
    words = ["--objects", "4000", "--workers", "2", "--blocks", blocks, "--kills", kills, "--memory", "1GiB"]
    assert planting.main([*words, "--task", task, "--scratch", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "every object once, as planted" in lines[2]
    assert len(lines) == 4 and "same table" in lines[3]


def test_a_row_too_few_too_many_or_beside_the_truth_is_noticed(tmp_path):
    field = Field(20, 20, 1)
    row, col = (axis.ravel() for axis in np.mgrid[:20, :20])
    planted = field.planted(row, col)
    top, left = row * PITCH + planted.top, col * PITCH + planted.left
    columns = {"xmin": left, "ymin": top, "xmax": left + planted.side, "ymax": top + planted.side}
    columns["area"] = areas()[planted.kind, planted.side]
    table = pa.table({**{k: v[planted.there].astype(float) for k, v in columns.items()}})
    table = table.append_column("centroid_x", table["xmin"]).append_column("centroid_y", table["ymin"])

    def problems(rows, **changed):
        for name, at in changed.items():
            values = rows[name].to_numpy().copy()
            values[at] += 1
            rows = rows.set_column(rows.column_names.index(name), name, pa.array(values))
        rows = rows.append_column("id", pa.array(np.arange(1, len(rows) + 1)))
        pyarrow.parquet.write_table(rows, tmp_path / "objects.parquet")
        return table_problems(field, tmp_path / "objects.parquet")

    assert problems(table) == []
    assert problems(table.slice(1)) == ["1 missing"]
    assert problems(pa.concat_tables([table, table.slice(5, 2)])) == ["2 twice"]
    assert problems(table, area=7) == ["1 rows that are not what was planted", "1 missing"]
    assert problems(table, xmax=0) == ["1 rows that are not what was planted", "1 missing"]
