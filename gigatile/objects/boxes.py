"""Tables of boxes that a detector found, axis-aligned or turned, in pixels of one grid.

::

    (xmin, ymin) ┌───────┐                 turned: centre, sides and the angle of `width`,
                 │       │                          ╲ width
                 └───────┘ (xmax, ymax)     radians  ╲      radians turn x towards y, and y points down:
                                            ─ ─ x ─ ─ ┘     clockwise on the screen, as in OpenCV and DOTA

Corner origin, half-open: a box from 0 to 2 covers the pixels 0 and 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gigatile.errors import UsageError

Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Boxes:
    """A table of boxes; rows have no order of their own, see `order`.

    Raises
    ------
    UsageError
        If shapes or types do not fit, or a coordinate or score is not finite.
    """

    places: Floats
    """float64 (m, 4): xmin, ymin, xmax, ymax; or (m, 5): cx, cy, width, height, radians."""
    scores: npt.NDArray[np.float32]
    """float32 (m,)."""
    classes: npt.NDArray[np.int32]
    """int32 (m,)."""

    def __post_init__(self) -> None:
        count = len(self.places)
        _check("places", self.places, np.float64, [(count, 4), (count, 5)])
        _check("scores", self.scores, np.float32, [(count,)])
        _check("classes", self.classes, np.int32, [(count,)])

    @classmethod
    def empty(cls, columns: int) -> Boxes:
        """No boxes, of either kind: 4 or 5 columns."""
        return cls(np.empty((0, columns)), np.empty(0, np.float32), np.empty(0, np.int32))

    @classmethod
    def joined(cls, tables: Sequence[Boxes]) -> Boxes:
        """The rows of several tables of one kind, one after the other.

        Raises
        ------
        UsageError
            If there is no table, or both kinds are among them.
        """
        kinds = sorted({table.places.shape[1] for table in tables})
        if len(kinds) != 1:
            found = "no table" if not kinds else "axis-aligned and turned boxes"
            raise UsageError("boxes", expected="tables of one kind", found=found, fix="Join tables of one kind.")
        return cls(
            np.concatenate([table.places for table in tables]),
            np.concatenate([table.scores for table in tables]),
            np.concatenate([table.classes for table in tables]),
        )

    def __len__(self) -> int:
        return len(self.places)

    @property
    def oriented(self) -> bool:
        """Whether the boxes are turned: five columns."""
        return bool(self.places.shape[1] == 5)

    @property
    def nbytes(self) -> int:
        """Of the three arrays."""
        return self.places.nbytes + self.scores.nbytes + self.classes.nbytes

    @property
    def axes(self) -> tuple[Floats, Floats]:
        """Unit vectors (m, 2), x and y, along `width` and along `height`; of axis-aligned boxes those of the grid."""
        if not self.oriented:
            return np.tile([1.0, 0.0], (len(self), 1)), np.tile([0.0, 1.0], (len(self), 1))
        # A copy: on slices with a stride NumPy may take another kernel of sin and cos, with other last bits.
        angle = self.places[:, 4].copy()
        cos, sin = np.cos(angle), np.sin(angle)
        return np.stack([cos, sin], axis=1), np.stack([-sin, cos], axis=1)

    @property
    def sides(self) -> Floats:
        """Width and height (m, 2), float64, in pixels; below 0 where a box is inside out."""
        return self.places[:, 2:4].copy() if self.oriented else self.places[:, 2:4] - self.places[:, :2]

    @property
    def areas(self) -> Floats:
        """float64 (m,), square pixels; 0 where a side is not above 0."""
        sides = np.maximum(self.sides, 0.0)
        return sides[:, 0] * sides[:, 1]

    @property
    def centres(self) -> Floats:
        """float64 (m, 2): x, y."""
        return self.places[:, :2].copy() if self.oriented else (self.places[:, :2] + self.places[:, 2:4]) / 2

    @property
    def corners(self) -> Floats:
        """float64 (m, 4, 2): x, y, from the origin's corner along `width` first (clockwise on the screen)."""
        if not self.oriented:
            return self.places[:, [[0, 1], [2, 1], [2, 3], [0, 3]]]
        along, across = (axis * self.sides[:, [column]] / 2 for column, axis in enumerate(self.axes))
        signed = [-along - across, along - across, along + across, across - along]
        return self.places[:, None, :2] + np.stack(signed, axis=1)

    @property
    def hulls(self) -> Floats:
        """float64 (m, 4): xmin, ymin, xmax, ymax of the corners; the places themselves where nothing is turned."""
        if not self.oriented:
            return self.places
        corners = self.corners
        return np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)

    def take(self, index: npt.NDArray[np.int64] | npt.NDArray[np.bool_] | slice) -> Boxes:
        """Some rows: by their numbers, a mask or a slice."""
        return Boxes(self.places[index], self.scores[index], self.classes[index])

    def shifted(self, dx: float, dy: float) -> Boxes:
        """The same boxes moved by `dx` and `dy` pixels."""
        move = [dx, dy, 0.0, 0.0, 0.0] if self.oriented else [dx, dy, dx, dy]
        return Boxes(self.places + move, self.scores, self.classes)

    def order(self) -> Rows:
        """The rows from the best on.

        Returns
        -------
        ndarray, int64 (m,)
            By falling score; then ymin, xmin, ymax, xmax of the hull, the columns of `places`, and class, all rising.
            So only rows that are equal in everything may change places with the order of the input.
        """
        falling = -self.scores
        order = np.argsort(falling, kind="stable")
        ranked = falling[order]
        same = ranked[1:] == ranked[:-1]
        tied = np.flatnonzero(np.append(same, False) | np.append(False, same))
        if len(tied):
            rows = order[tied]
            hulls, places = self.take(rows).hulls, self.places[rows]
            keys = [self.classes[rows], *places.T[::-1], *hulls[:, [2, 3, 0, 1]].T, falling[rows]]
            order[tied] = rows[np.lexsort(keys)]
        return order


def _check(name: str, found: npt.NDArray[np.generic], kind: type, shapes: list[tuple[int, ...]]) -> None:
    expected = " or ".join(str(shape) for shape in shapes)
    if found.dtype != kind or found.shape not in shapes:
        raise UsageError(
            f"boxes, {name}",
            expected=f"{np.dtype(kind)} of shape {expected}",
            found=f"{found.dtype} of shape {found.shape}",
            fix="Convert the array before making the table.",
        )
    if not np.isfinite(found).all():
        bad = int(np.count_nonzero(~np.isfinite(found)))
        raise UsageError(
            f"boxes, {name}",
            expected="finite numbers",
            found=f"{bad} that are not",
            fix="Leave out what the model could not place.",
        )
