"""Many sorted tables become one, whatever their pieces are."""

import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings

from gigatile.objects.sorted_rows import Source, in_order, merged

ROWS = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 3), st.integers(0, 2)), max_size=12)


def table(rows):
    y, x, c = np.array(rows, float).reshape(-1, 3).T
    columns = {"xmin": x, "ymin": y, "xmax": x + 1, "ymax": y + 1, "score": c.astype(np.float32)}
    return in_order(pa.table({**columns, "class": c.astype(np.int32)}))


def pieces(whole, size):
    return lambda: (whole.slice(start, size) for start in range(0, whole.num_rows, size))


@settings(deadline=None)
@given(st.lists(st.tuples(ROWS, st.integers(1, 5)), max_size=6))
def test_the_stream_is_the_sorted_whole(parts):
    tables = [(table(rows), size) for rows, size in parts]
    sources = [
        Source(float(whole.column("ymin")[0].as_py()) if whole.num_rows else 0.0, pieces(whole, size))
        for whole, size in tables
    ]
    sources.sort(key=lambda source: source.least)
    found = list(merged(sources))
    expected = in_order(pa.concat_tables([table([]), *(whole for whole, _ in tables)]))
    assert pa.concat_tables([table([]), *found]).combine_chunks().equals(expected)


def test_a_source_is_opened_only_when_its_rows_can_be_next():
    opened = []

    def source(y):
        def pieces():
            opened.append(y)
            yield table([(y, 0, 0), (y + 1, 0, 0)])

        return Source(float(y), pieces)

    stream = merged(source(y) for y in range(0, 100, 10))
    assert next(stream).column("ymin").to_pylist() == [0]
    assert opened == [0]
    assert next(stream).column("ymin").to_pylist() == [1]
    assert opened == [0]
    assert next(stream).column("ymin").to_pylist() == [10]


def test_sources_out_of_order_are_refused():
    late, early = (Source(y, lambda y=y: iter([table([(y, 0, 0)])])) for y in (5, 3))
    with pytest.raises(ValueError, match="3 after 5"):
        list(merged([late, early]))
