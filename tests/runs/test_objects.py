"""Objects of a run: all of them, or those of a region, from a disk or a bucket; what is missing or damaged is told."""

import shutil
import sys

import numpy as np
import obstore
import pyarrow.parquet as pq
import pytest
import shapely

import gigatile as gt
from gigatile.errors import BlockError, RunRefused, UsageError
from gigatile.outputs import objects_file
from gigatile.outputs.objects_schema import ObjectsMetadata
from gigatile.runs.objects import open_objects, read_objects
from gigatile.runs.runner import Result
from gigatile.runs.status import status
from gigatile.units import PixelSize
from tests.object_store import object_store
from tests.objects_tables import COLOURS, NAMES, UTM, shapes, table, write_run
from tests.small_runs import noise, run_small, tree

SIDE = 3000
SCENE = ObjectsMetadata("detect", (SIDE, SIDE), NAMES, COLOURS, PixelSize(10, 10, "metre"), "EPSG:32633", UTM)


@pytest.fixture(scope="module")
def segment(tmp_path_factory):
    folder = tmp_path_factory.mktemp("objects") / "segment"
    image = gt.open(noise((100, 100)), axes="yxc")
    tiling = gt.Tiling(tile=64, overlap=16, margin=2, blend="hann", block=96)
    assert run_small(image, gt.load_model(lambda batch: batch.mean(axis=1, keepdims=True)), folder, tiling).complete
    return folder


@pytest.fixture(scope="module")
def rows():
    return table(shapes(3000, SIDE), SCENE)


@pytest.fixture(scope="module")
def run(segment, rows):
    """A run directory with a table in row groups of 200 rows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(objects_file, "ROWS", 200)
        return write_run(segment.parent / "detect", segment, rows, SCENE)


def ids(found):
    return found.column("id").to_pylist()


def meeting(rows, region):
    """Ids of the rows whose box has area in common with a region, by shapely."""
    boxes = shapely.box(*(rows.column(name).to_numpy() for name in ("xmin", "ymin", "xmax", "ymax")))
    place = shapely.box(region.x0, region.y0, region.x1, region.y1)
    return (np.flatnonzero(shapely.area(shapely.intersection(boxes, place)) > 0) + 1).tolist()


def test_all_objects_come_in_order_of_their_ids(run, rows):
    found = read_objects(run)
    assert ids(found) == list(range(1, 3001))
    assert found.schema.equals(rows.schema)
    assert found.column("geometry").equals(rows.column("geometry"))


REGIONS = [
    gt.Region(0, 0, SIDE, SIDE),
    gt.Region(1200, 700, 1500, 900),
    gt.Region(0, 0, 3, 3),
    gt.Region(-50, -50, 40, 40),
    gt.Region(2990, 0, 9000, 9000),
    gt.Region(500, 500, 500, 900),
    gt.Region(SIDE, SIDE, 2 * SIDE, 2 * SIDE),
]


@pytest.mark.parametrize("region", REGIONS)
def test_a_region_gives_the_objects_whose_box_meets_it(region, run, rows):
    assert ids(read_objects(run, region)) == meeting(rows, region)


def test_boxes_that_only_touch_a_region_are_not_in_it(run, rows):
    first = {name: int(rows.column(name)[0].as_py()) for name in ("xmin", "ymin", "xmax", "ymax")}
    beside = gt.Region(first["ymin"], first["xmax"], first["ymax"], first["xmax"] + 1)
    assert 1 not in ids(read_objects(run, beside))
    assert 1 in ids(read_objects(run, beside.shifted(0, -1)))


def test_only_row_groups_that_may_meet_a_region_are_read(run, rows, monkeypatch):
    file, asked = open_objects(run), []
    real = pq.ParquetFile.iter_batches
    monkeypatch.setattr(
        pq.ParquetFile,
        "iter_batches",
        lambda self, *args, **how: (asked.extend(how["row_groups"]), real(self, *args, **how))[1],
    )
    region = gt.Region(1000, 0, 1100, SIDE)
    assert ids(file.table(region)) == meeting(rows, region)
    assert 1 <= len(asked) <= 3
    assert file._file.num_row_groups == 15


def test_columns_come_as_asked_for_and_no_others(run):
    assert read_objects(run, REGIONS[1], ["score", "id"]).schema.names == ["score", "id"]
    with pytest.raises(UsageError, match=r"one of the columns id, class.*found 'colour'"):
        read_objects(run, columns=["colour"])


def test_the_result_of_a_run_gives_its_objects(run, segment, rows):
    result = Result(str(run), status(segment))
    assert ids(result.objects()) == ids(rows)
    frame = result.objects(REGIONS[1], form="geopandas")
    assert frame.id.tolist() == meeting(rows, REGIONS[1])
    assert frame.crs.to_epsg() == 32633
    numbers = frame.id.to_numpy() - 1
    assert (frame.geometry.to_wkb().to_numpy() == rows.column("geometry").to_numpy()[numbers]).all()
    assert "bbox" not in frame.columns


def test_counts_and_names_come_with_the_file(run, rows):
    file = open_objects(run)
    assert file.metadata == SCENE
    assert file.counts.total == 3000
    assert sum(file.counts.per_class.values()) == 3000


def test_a_segmentation_has_no_objects(segment):
    with pytest.raises(RunRefused, match="detect or instances, found a segmentation"):
        Result(str(segment), status(segment)).objects()


def test_a_run_that_has_not_come_to_its_table_yet_is_told_so(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "objects.parquet").unlink()
    with pytest.raises(RunRefused, match=r"no objects\.parquet yet"):
        read_objects(tmp_path / "run")


@pytest.mark.parametrize("place", ["head", "data", "end"])
def test_a_damaged_table_is_named(place, run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    path = tmp_path / "run" / "objects.parquet"
    content = bytearray(path.read_bytes())
    at = {"head": 100, "data": len(content) // 3, "end": len(content) - 3000}[place]
    content[at : at + 2000] = b"\xff" * 2000
    path.write_bytes(content)
    with pytest.raises(BlockError, match=r"objects\.parquet: expected an intact Parquet file"):
        read_objects(tmp_path / "run")


def test_one_flipped_bit_of_the_rows_is_found(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    path = tmp_path / "run" / "objects.parquet"
    content = bytearray(path.read_bytes())
    group = pq.read_metadata(path).row_group(3).column(17)
    content[group.data_page_offset + group.total_compressed_size // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(BlockError, match="intact"):
        read_objects(tmp_path / "run")


def test_another_parquet_file_of_that_name_is_refused(run, rows, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    pq.write_table(rows, tmp_path / "run" / "objects.parquet")
    with pytest.raises(RunRefused, match="found another Parquet file"):
        read_objects(tmp_path / "run")


@pytest.mark.parametrize(("module", "needed"), [("pyarrow", "gigatile[objects]"), ("geopandas", "gigatile[geo")])
def test_what_is_not_installed_is_named_with_the_command(module, needed, run, segment, monkeypatch):
    result = Result(str(run), status(segment))
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UsageError) as error:
        result.objects(form="geopandas")
    assert f"pip install '{needed}" in str(error.value)


def test_a_table_in_a_bucket_is_the_same(run, rows, tmp_path, monkeypatch):
    with object_store(tmp_path / "store") as server:
        bucket, client = server.make_bucket("runs"), server.client("runs")
        for name, content in tree(run).items():
            obstore.put(client, f"detect/{name}", content)
        for name, value in server.env.items():
            monkeypatch.setenv(name, value)
        # NaN is unequal to itself.
        assert repr(read_objects(f"{bucket}/detect").to_pydict()) == repr(read_objects(run).to_pydict())
        found = read_objects(f"{bucket}/detect/", REGIONS[1])
        assert ids(found) == meeting(rows, REGIONS[1])
