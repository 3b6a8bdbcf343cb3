"""An export of objects takes no more memory for more of them; measured in a child process from outside."""

import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest

from gigatile.exports.export import OBJECT_FORMATS
from gigatile.outputs.objects_file import ObjectsWriter
from gigatile.outputs.objects_schema import ObjectsMetadata
from tests.objects_tables import NAMES, shapes, table
from tests.promises.test_bounded import WRAPPER

MIB = 2**20
BATCH = 8192
ALLOWED = 32 * MIB
"""More for many times the objects: the footer, and what the allocators keep."""
GDAL_BUFFER, GDAL_OBJECT = 100 * MIB, 100
"""Bytes that GDAL's FlatGeobuf driver fills while it sorts, and what it keeps of each object for the index."""
CHILD = """
import sys
from pathlib import Path
import pyarrow.parquet as pq
from gigatile.exports.export import OBJECT_FORMATS, _function
from gigatile.exports.object_table import ObjectTable
from gigatile.runs.objects import ObjectsFile
file = ObjectsFile("table", pq.ParquetFile(sys.argv[2]))
schema = file.schema.remove_metadata()
table = ObjectTable("table", "a.tif", file.metadata, schema, file.geometry_types, 0, file.batches)
_function(OBJECT_FORMATS[sys.argv[1]])(table, Path(sys.argv[3]))
"""
ABOUT = ObjectsMetadata("instances", (5000, 5000), NAMES)


def write_many(path, count):
    """The same 8,192 objects again and again, with other ids."""
    rows = table(shapes(BATCH, 5000), ABOUT).combine_chunks().to_batches()[0]
    with ObjectsWriter(path, rows.schema, ABOUT) as writer:
        for start in range(0, count, BATCH):
            ids = pa.array(np.arange(start + 1, start + BATCH + 1, dtype=np.uint64))
            writer.write(rows.set_column(0, rows.schema.field(0), ids))
        writer.finish()
    return path


def peak(kind, source, target):
    """Peak resident bytes of a process that exports."""
    command = [sys.executable, "-S", "-c", WRAPPER, sys.executable, "-c", CHILD, kind, source, target]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stderr.splitlines()[-1]) * 1024


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("many")


def more(folder, kind, few, many):
    """Bytes that an export of many objects takes beyond one of few."""
    peaks = []
    for count in (few, many):
        source, target = folder / f"{count}.parquet", folder / f"{kind}.{count}"
        if not source.exists():
            write_many(source, count)
        peaks.append(peak(kind, source, target))
        assert target.stat().st_size > 30 * count
        target.unlink()
    return peaks[1] - peaks[0]


# 65,536 more features would take 100 MiB, were they all held.
def test_twice_the_objects_take_no_more_memory(folder):
    assert more(folder, "geojson", 8 * BATCH, 16 * BATCH) < ALLOWED


@pytest.mark.slow
@pytest.mark.parametrize("kind", OBJECT_FORMATS)
def test_a_million_objects_take_no_more_memory(kind, folder):
    few, many = 24 * BATCH, 128 * BATCH  # a row group that is read, one that waits to be written, and a rest
    index = GDAL_BUFFER + GDAL_OBJECT * (many - few) if kind == "flatgeobuf" else 0
    assert more(folder, kind, few, many) < ALLOWED + index
