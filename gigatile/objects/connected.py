"""Connected components of one block, and what of them its neighbours must know.

::

    ┌─────────┬─────────┐     a, d  touch a face beyond which a block lies: *open*, they may go on there
    │ a a     │         │     b     lies inside: *closed*, nothing outside can change it
    │ a   b   d d d     │
    │         │     c   │     Of a block remains: how many closed components begin in each row, the first pixel of
    └─────────┴─────────┘     each open one, and for each pixel of a face the open component that it belongs to.

The first pixel of a component is the topmost, of these the leftmost; components are numbered in the order of their
first pixels, as `scipy.ndimage.label` numbers them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from gigatile.errors import BlockError, UsageError

Array = np.ndarray[Any, Any]
Numbers = npt.NDArray[np.int32]
Classes = Literal["joined", "apart"]
"""Whether pixels of different values may be one component, or only those of equal values."""
BAND_PX = 1 << 17
"""Pixels looked at together: half a MiB of labels, which stays in the processor's cache."""


@dataclass(frozen=True, slots=True)
class Rule:
    """Which pixels are neighbours.

    Raises
    ------
    UsageError
        Another connectivity than 4 or 8, or other words.
    """

    connectivity: int = 4
    """4: pixels that share a side; 8: or a corner."""
    classes: Classes = "joined"

    def __post_init__(self) -> None:
        if self.connectivity not in (4, 8):
            raise UsageError("connectivity", expected="4 or 8", found=repr(self.connectivity))
        if self.classes not in get_args(Classes):
            raise UsageError("classes", expected=" or ".join(get_args(Classes)), found=repr(self.classes))


class Sides(NamedTuple):
    """Which sides of a block have a block beyond them; of a face, its pixels."""

    top: Any
    bottom: Any
    left: Any
    right: Any


@dataclass(frozen=True, slots=True)
class Components:
    """The components of a block."""

    labels: Numbers
    """Shape (y, x): 1 to the number of components in the order of their first pixels; 0 is background."""
    first: Numbers
    """Row-major place in the block of the first pixel of each component, ascending."""
    is_open: npt.NDArray[np.bool_]
    """Of each component: whether it touches a side with a block beyond it."""

    @property
    def rows(self) -> Numbers:
        """Row in the block of each first pixel."""
        return self.first // np.int32(self.labels.shape[1])


@dataclass(frozen=True, slots=True)
class Border:
    """What the neighbours of a block, and the numbering of the image, must know of it."""

    closed: npt.NDArray[np.uint32]
    """Closed components that begin in each row of the block."""
    rows: Numbers
    """Row in the block of the first pixel of each open component; in the order of first pixels."""
    cols: Numbers
    """Its column in the block."""
    before: Numbers
    """Closed components that begin left of it in the same row of the block."""
    faces: Sides
    """Of each side the open component of each pixel, from 1 on, int32; 0 for none."""
    values: Sides | None
    """Of each side the value of each pixel, where only equal ones belong together."""


def components(values: Array, rule: Rule, beyond: Sides) -> Components:
    """Find the components of a block.

    Parameters
    ----------
    values : ndarray, shape (y, x), bool or integer
        0 is background; with `Rule.classes` ``joined`` all others are one class.
    rule : Rule
    beyond : Sides of bool
        On which sides there is another block.
    """
    labels, count = _labelled(values, rule)
    first = _first_pixels(labels, count)
    is_open = np.zeros(count + 1, np.bool_)
    for there, face in zip(beyond, _faces(labels), strict=True):
        if there:
            is_open[face] = True
    return Components(labels, first, is_open[1:])


def border(found: Components, values: Array, rule: Rule) -> Border:
    """What remains of the components of a block."""
    height, width = found.labels.shape
    rows, is_open = found.rows, found.is_open
    closed = np.bincount(rows[~is_open], minlength=height)
    # Of an open component: closed ones before it in the block, without those of the rows above.
    so_far = np.cumsum(~is_open, dtype=np.int32)[is_open]
    above = np.cumsum(closed, dtype=np.int64) - closed
    numbers = np.zeros(len(is_open) + 1, np.int32)
    numbers[1:][is_open] = np.arange(1, np.count_nonzero(is_open) + 1)
    return Border(
        closed.astype(np.uint32),
        rows[is_open],
        found.first[is_open] % np.int32(width),
        (so_far - above[rows[is_open]]).astype(np.int32),
        Sides(*(numbers[face] for face in _faces(found.labels))),
        Sides(*(face.copy() for face in _faces(values))) if rule.classes == "apart" else None,
    )


def _faces(array: Array) -> Sides:
    return Sides(array[0], array[-1], array[:, 0], array[:, -1])


def _labelled(values: Array, rule: Rule) -> tuple[Numbers, int]:
    """Labels in the order of first pixels, and how many."""
    if rule.classes == "joined":
        from scipy.ndimage import generate_binary_structure, label

        structure = generate_binary_structure(2, 1 if rule.connectivity == 4 else 2)
        labels = np.empty(values.shape, np.int32)
        return labels, int(label(values, structure, output=labels))
    # scipy knows one class at a time, which takes 40 times as long for 40 of them.
    from skimage.measure import label as label_values

    labels = label_values(values, background=0, connectivity=1 if rule.connectivity == 4 else 2).astype(np.int32)
    return labels, int(labels.max())


def _first_pixels(labels: Numbers, count: int) -> Numbers:
    """Row-major place of the first pixel of each label, whose numbers ascend along them."""
    height, width = labels.shape
    first = np.empty(count, np.int32)
    known = 0
    step = max(1, BAND_PX // width)
    for y0 in range(0, height if count else 0, step):
        band = labels[y0 : y0 + step]
        begins = band != 0
        begins[:, 1:] &= band[:, 1:] != band[:, :-1]
        begins[1:] &= band[1:] != band[:-1]
        places = np.flatnonzero(begins)
        highest = np.maximum.accumulate(np.concatenate([np.full(1, known, np.int32), band.reshape(-1)[places]]))
        new = places[highest[1:] > highest[:-1]]
        first[known : known + len(new)] = new + y0 * width
        known += len(new)
    if known != count:
        raise BlockError("components", expected="labels that ascend along first pixels", found=f"{known} of {count}")
    return first
