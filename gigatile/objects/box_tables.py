"""Boxes as rows of a table, as they are stored: in pixels of the processing grid, in the order of the final table."""

from __future__ import annotations

from typing import Any

import numpy as np

from gigatile.objects.boxes import Boxes
from gigatile.objects.sorted_rows import in_order

PLACE = ("cx", "cy", "width", "height", "angle")
"""Columns of turned boxes, beside those of their hulls."""
HULL = ("xmin", "ymin", "xmax", "ymax")


def to_table(boxes: Boxes) -> Any:
    """A table of boxes.

    Parameters
    ----------
    boxes : Boxes

    Returns
    -------
    pyarrow.Table
        Columns xmin, ymin, xmax, ymax, score, class; of turned boxes also cx, cy, width, height, angle. Sorted.
    """
    import pyarrow as pa

    columns: dict[str, Any] = dict(zip(HULL, boxes.hulls.T, strict=True))
    columns |= {"score": boxes.scores, "class": boxes.classes}
    if boxes.oriented:
        columns |= dict(zip(PLACE, boxes.places.T, strict=True))
    return in_order(pa.table({name: pa.array(np.ascontiguousarray(column)) for name, column in columns.items()}))


def from_table(table: Any) -> Boxes:
    """The inverse of `to_table`; rows keep their order."""
    names = PLACE if PLACE[0] in table.column_names else HULL
    places = np.stack([table.column(name).to_numpy() for name in names], axis=1).astype(np.float64)
    scores, classes = table.column("score").to_numpy(), table.column("class").to_numpy()
    return Boxes(places, np.asarray(scores, np.float32), np.asarray(classes, np.int32))
