"""Small label arrays in which every way of touching occurs, and cuts of them into blocks."""

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

CHECKERBOARD = np.indices((5, 6)).sum(axis=0) % 2
RINGS = np.array(
    [
        [1, 1, 1, 1, 1, 1, 1, 1, 1],
        [1, 0, 0, 0, 0, 0, 0, 0, 1],
        [1, 0, 1, 1, 1, 1, 1, 0, 1],
        [1, 0, 1, 0, 0, 0, 1, 0, 1],
        [1, 0, 1, 0, 1, 0, 1, 0, 1],
        [1, 0, 1, 0, 0, 0, 1, 0, 1],
        [1, 0, 1, 1, 1, 1, 1, 0, 1],
        [1, 0, 0, 0, 0, 0, 0, 0, 1],
        [1, 1, 1, 1, 1, 1, 1, 1, 1],
    ]
)
"""Parts within the holes of parts, all of one label."""
PINCHED = np.array([[0, 1, 1, 1], [1, 0, 1, 1], [1, 1, 0, 1], [1, 1, 1, 0]])
"""Holes that touch each other and the shell at corners."""

CORNERED = np.array([[1, 0, 1, 1], [0, 1, 0, 1], [1, 1, 1, 1]])
"""Two parts and a hole: above and left of the hole's first vertex lies another part."""


def label_arrays(most=4):
    """Arrays of 1 to 9 pixels a side, labels 0 to `most`."""
    return hnp.arrays(np.int64, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.integers(0, most))


@st.composite
def cuts(draw, length):
    """Where an axis is cut: 0, some places between, its length."""
    inner = draw(st.sets(st.integers(1, length - 1))) if length > 1 else set()
    return [0, *sorted(inner), length]
