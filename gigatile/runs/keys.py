"""The blocks that are to be done, as a sequence that costs next to nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

import numpy as np
import numpy.typing as npt

from gigatile.engine.record import BlockKey

_SPAN = 4096
"""Blocks that are searched at once for those to be done."""


class Keys(Sequence[BlockKey]):
    """The blocks of a stage that are to be done, in row-major order.

    Memory bound
    ------------
    The mask itself, which is not copied, and 8 bytes for every `_SPAN` blocks of the stage.

    Parameters
    ----------
    stage : int
    todo : ndarray of bool, shape (rows, cols)
        True for those blocks; not to be changed any more.
    """

    def __init__(self, stage: int, todo: npt.NDArray[np.bool_]) -> None:
        self._stage, self._cols, self._flat = stage, todo.shape[1], todo.reshape(-1)
        counts = [np.count_nonzero(self._flat[start : start + _SPAN]) for start in range(0, self._flat.size, _SPAN)]
        self._before = np.concatenate(([0], np.cumsum(counts, dtype=np.int64)))
        """Blocks to be done before each span."""
        self._at_hand = range(0)
        """Which of the keys `_places` are."""
        self._places: list[int] = []

    def __len__(self) -> int:
        return int(self._before[-1])

    @overload
    def __getitem__(self, index: int) -> BlockKey: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[BlockKey]: ...

    def __getitem__(self, index: int | slice) -> BlockKey | Sequence[BlockKey]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        if index not in self._at_hand:
            # Neighbours are asked for one after the other: a span is searched once for many of them.
            span = int(np.searchsorted(self._before, index, "right")) - 1
            self._places = (np.flatnonzero(self._flat[span * _SPAN : (span + 1) * _SPAN]) + span * _SPAN).tolist()
            self._at_hand = range(int(self._before[span]), int(self._before[span + 1]))
        row, col = divmod(self._places[index - self._at_hand.start], self._cols)
        return BlockKey(self._stage, row, col)
