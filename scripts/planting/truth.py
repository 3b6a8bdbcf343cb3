"""Every row of a table, and every label, against what was planted; piece by piece."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from scripts.planting.field import PITCH, Field, areas


def table_problems(field: Field, path: Path) -> list[str]:
    """What is wrong with ``objects.parquet``: rows that were not planted, shapes that are missing or twice, areas.

    Memory bound: a byte a square, and one row group.
    """
    import pyarrow.parquet

    seen = np.zeros((field.rows, field.cols), np.uint8)
    file = pyarrow.parquet.ParquetFile(path)
    measured = "area" in file.schema_arrow.names
    columns = ["id", "xmin", "ymin", "xmax", "ymax", *(["area", "centroid_x", "centroid_y"] if measured else [])]
    wrong, first, sizes = 0, 1, areas()
    for batch in file.iter_batches(1 << 16, columns=columns):
        column = {name: batch.column(name).to_numpy() for name in columns}
        row, col = (column[name].astype(np.int64) // PITCH for name in ("ymin", "xmin"))
        planted = field.planted(row, col)
        top, left = row * PITCH + planted.top, col * PITCH + planted.left
        expected = {"xmin": left, "ymin": top, "xmax": left + planted.side, "ymax": top + planted.side}
        expected["id"] = np.arange(first, first + len(row))
        if measured:
            expected["area"] = sizes[planted.kind, planted.side]
        good = planted.there.copy()
        for name, values in expected.items():
            good &= column[name] == values
        wrong += int((~good).sum())
        np.add.at(seen, (row[good], col[good]), 1)
        first += len(row)
    col = np.arange(field.cols)[None]
    missing = twice = 0
    for row in range(field.rows):
        there = field.planted(*np.broadcast_arrays(np.array([[row]]), col)).there[0]
        missing += int((there & (seen[row] == 0)).sum())
        twice += int((seen[row] > 1).sum())
    counts = {"rows that are not what was planted": wrong, "missing": missing, "twice": twice}
    return [f"{count} {what}" for what, count in counts.items() if count]


def label_problems(field: Field, out: Path, windows: int = 64) -> list[str]:
    """Whether labels lie on the shapes and nowhere else, and each has one number of its own; in some windows."""
    import zarr

    array = zarr.open_array(out / "prediction.zarr", path="0", mode="r")
    rng = np.random.default_rng(0)
    problems = []
    for _ in range(windows):
        height, width = (min(64, n) for n in (field.rows, field.cols))
        top, left = (int(rng.integers(0, n - m + 1)) * PITCH for n, m in ((field.rows, height), (field.cols, width)))
        found = array[top : top + height * PITCH, left : left + width * PITCH]
        squares = found.reshape(height, PITCH, width, PITCH).swapaxes(1, 2).reshape(height * width, -1)
        mask = field.pixels(top, left, height * PITCH, width * PITCH)
        inside = mask.reshape(height, PITCH, width, PITCH).swapaxes(1, 2).reshape(height * width, -1)
        number = squares.max(axis=1)
        same = np.array_equal(squares, np.where(inside, number[:, None], 0))
        if not same or len(np.unique(number[number > 0])) != inside.any(axis=1).sum():
            problems.append(f"labels around {top}, {left} are not the shapes")
    return problems


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
