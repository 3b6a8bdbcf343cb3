"""The blocks that are to be done, found in a mask when they are asked for."""

import numpy as np
import pytest

from gigatile.runs.keys import Keys


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (100, 123), (1, 9000), (9000, 1)])
@pytest.mark.parametrize("share", [0, 0.001, 0.5, 1])
def test_keys_are_the_marked_blocks_in_row_major_order(shape, share):
    todo = np.random.default_rng(1).random(shape) < share
    expected = [(2, row, col) for row, col in np.argwhere(todo).tolist()]
    keys = Keys(2, todo)
    assert len(keys) == len(expected)
    assert list(keys) == expected
    assert keys[1:3] == expected[1:3]


def test_keys_are_found_in_any_order_and_from_the_end():
    todo = np.random.default_rng(2).random((200, 300)) < 0.3
    expected = [(0, row, col) for row, col in np.argwhere(todo).tolist()]
    keys = Keys(0, todo)
    for index in np.random.default_rng(3).integers(-len(expected), len(expected), 300).tolist():
        assert keys[index] == expected[index]
    with pytest.raises(IndexError):
        keys[len(expected)]
