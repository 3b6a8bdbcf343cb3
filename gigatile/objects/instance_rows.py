"""Instances as rows of pyarrow tables: what parts hold, and what becomes of finished rows.

Rows of a part, all in pixels of the processing grid:

======================  ===============  =====================================================
``members``             list<uint64>     working ids, ascending; one for an open row
``open``                bool             something in another block may belong to it
``below``               bool             something in the next row of blocks may belong to it
``area, sum_y, sum_x``  int64            pixels, sums of their row and column indices
``ymin ... xmax``       int64            half-open box
``sum_<i>``             float64          of image channel i
``spread_<i>``          float64          sum of squared differences from the row's mean
``vote_<i>``            float64          sum of prediction channel i
``geometry``            binary           WKB of the outline
======================  ===============  =====================================================
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from gigatile.objects.cells import Ids
from gigatile.objects.measures import BOX, COUNTS, Channels, Fragments, Ints

Mask = npt.NDArray[np.bool_]


def row_schema(channels: Channels) -> Any:
    """The pyarrow schema of a part's rows."""
    import pyarrow as pa

    numbers = [(name, pa.int64()) for name in COUNTS + BOX]
    floats = [(name, pa.float64()) for name in _float_names(channels)]
    front = [("members", pa.list_(pa.uint64())), ("open", pa.bool_()), ("below", pa.bool_())]
    return pa.schema([*front, *numbers, *floats, ("geometry", pa.binary())])


def _float_names(channels: Channels) -> list[str]:
    names = [f"{what}_{i}" for what in ("sum", "spread") for i in range(channels.intensities)]
    return names + [f"vote_{i}" for i in range(channels.classes)]


def closed_table(rows: Fragments, members: Ids, starts: Ints, channels: Channels) -> Any:
    """Finished rows as a table, in the order of ymin, xmin, smallest working id."""
    import pyarrow as pa

    lists = pa.ListArray.from_arrays(pa.array(starts, pa.int32()), pa.array(members, pa.uint64()))
    order = np.lexsort((rows.ids, rows.boxes[:, 1], rows.boxes[:, 0]))
    none = np.zeros(len(rows), bool)
    return _table(rows, lists, none, none, channels).take(pa.array(order))


def open_table(fragments: Fragments, below: Mask, channels: Channels) -> Any:
    """Fragments that wait for other blocks as a table, in their order."""
    import pyarrow as pa

    starts = pa.array(np.arange(len(fragments) + 1), pa.int32())
    lists = pa.ListArray.from_arrays(starts, pa.array(fragments.ids, pa.uint64()))
    return _table(fragments, lists, np.ones(len(fragments), bool), below, channels)


def _table(rows: Fragments, members: Any, is_open: Mask, below: Mask, channels: Channels) -> Any:
    import pyarrow as pa

    numbers = [*rows.counts.T, *rows.boxes.T, *rows.sums.T, *rows.spreads.T, *rows.votes.T]
    columns = [pa.array(np.ascontiguousarray(column)) for column in numbers]
    wkb = pa.array(rows.outlines.tolist(), pa.binary())
    return pa.table([members, pa.array(is_open), pa.array(below), *columns, wkb], schema=row_schema(channels))


def fragments_of(table: Any, channels: Channels) -> Fragments:
    """Open rows, each of one member, as arrays."""
    import pyarrow.compute as pc

    def columns(names: Sequence[str], dtype: Any) -> npt.NDArray[Any]:
        found = [table[name].to_numpy() for name in names]
        return np.stack(found, axis=1).astype(dtype, copy=False) if found else np.empty((table.num_rows, 0), dtype)

    floats = columns(_float_names(channels), np.float64)
    sums, spreads, votes = np.split(floats, [channels.intensities, 2 * channels.intensities], axis=1)
    outlines = np.empty(table.num_rows, object)
    outlines[:] = table["geometry"].to_pylist()
    ids = pc.list_flatten(table["members"]).to_numpy().astype(np.uint64, copy=False)
    counts, boxes = columns(COUNTS, np.int64), columns(BOX, np.int64)
    return Fragments(ids, counts, boxes, sums, spreads, votes, outlines)


def to_objects(rows: Any, channels: Channels, names: Sequence[str], factors: tuple[float, float] = (1.0, 1.0)) -> Any:
    """Finished rows as measurements of objects.

    Parameters
    ----------
    rows : pyarrow.Table
        Of `row_schema`, none open.
    channels : Channels
    names : sequence of str
        Of the image's channels that were measured.
    factors : (float, float)
        What a pixel of the processing grid is in pixels of the result's, along x and y.

    Returns
    -------
    pyarrow.Table
        ``members``; ``class`` int32, the prediction channel of the largest mean (0 where there is none; the lowest of
        equals) and ``score`` float32, that mean (null where there is none); ``xmin, ymin, xmax, ymax``, ``area``,
        ``centroid_x``, ``centroid_y`` float64 (pixel centres lie at half pixels); ``mean_<name>``, ``std_<name>``
        float64 (of the population); ``geometry`` WKB. Rows in the order in which they came.
    """
    import pyarrow as pa

    data = fragments_of(rows.set_column(0, "members", _first_members(rows)), channels)
    fx, fy = factors
    area = data.counts[:, 0]
    with np.errstate(invalid="ignore"):
        means, stds = data.sums / area[:, None], np.sqrt(data.spreads / area[:, None])
    classes, scores = _classes(data.votes / area[:, None])
    columns: dict[str, Any] = {"members": rows["members"], "class": classes, "score": scores}
    columns |= {name: data.boxes[:, BOX.index(name)] * f for name, f in zip(("xmin", "ymin"), factors, strict=True)}
    columns |= {name: data.boxes[:, BOX.index(name)] * f for name, f in zip(("xmax", "ymax"), factors, strict=True)}
    columns["area"] = area * (fx * fy)
    columns["centroid_x"] = (data.counts[:, 2] / area + 0.5) * fx
    columns["centroid_y"] = (data.counts[:, 1] / area + 0.5) * fy
    for i, name in enumerate(names):
        columns[f"mean_{name}"], columns[f"std_{name}"] = means[:, i], stds[:, i]
    columns["geometry"] = pa.array(_scaled(data.outlines, factors).tolist(), pa.binary())
    return pa.table(columns)


def _first_members(rows: Any) -> Any:
    """Each list cut to its first element."""
    import pyarrow.compute as pc

    return pc.list_slice(rows["members"], 0, 1)


def _classes(means: npt.NDArray[np.float64]) -> tuple[Any, Any]:
    import pyarrow as pa

    n, k = means.shape
    if k == 0:
        return pa.array(np.zeros(n, np.int32)), pa.nulls(n, pa.float32())
    best = means.argmax(axis=1)
    return pa.array(best.astype(np.int32)), pa.array(means[np.arange(n), best].astype(np.float32))


def _scaled(wkb: npt.NDArray[np.object_], factors: tuple[float, float]) -> npt.NDArray[np.object_]:
    if factors == (1.0, 1.0) or not len(wkb):
        return wkb
    import shapely

    shapes = shapely.transform(shapely.from_wkb(wkb), lambda xy: xy * np.array(factors))
    return np.asarray(shapely.to_wkb(shapes, byte_order=1), object)
