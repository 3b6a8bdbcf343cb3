"""What is to be done with the objects that a model finds: how duplicates become one, and where labels come from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from gigatile.errors import UsageError
from gigatile.objects.agreement import Agreement
from gigatile.objects.cells import CellGrid
from gigatile.objects.looks import TileLooks
from gigatile.objects.match import Among, Matching, Measure, default_matching
from gigatile.objects.merge import Merge
from gigatile.objects.postprocess.method import Postprocess
from gigatile.objects.postprocess.parse import parse_postprocess
from gigatile.tiling.tiling import Grid, block_side

CELL_PX = 1024
"""What cells aim at: larger ones have fewer seams, and hold more memory."""
MergeName = Literal["nms", "nmm", "wbf", "ownership"]


@dataclass(frozen=True, slots=True)
class Detect:
    """Boxes of a detector, one an object.

    Raises
    ------
    UsageError
        There is no such merge or measure, or the threshold is not from 0 to below 1.
    """

    merge: MergeName = "nms"
    """The best of a cluster, its hull, its mean, or what the tile says that owns the centre."""
    match: Measure = "iou"
    threshold: float | None = None
    """Overlap above which two boxes are one; None: 0.5, of turned boxes 0.1."""
    classes: Among = "same"
    """Whether boxes of different classes may be one."""

    def __post_init__(self) -> None:
        if self.merge not in get_args(MergeName):
            expected = "one of " + ", ".join(get_args(MergeName))
            raise UsageError("merge", expected=expected, found=repr(self.merge))
        self.matching(False)

    def matching(self, oriented: bool) -> Matching:
        """When two boxes are one."""
        usual = default_matching(oriented).threshold
        return Matching(self.match, usual if self.threshold is None else self.threshold, self.classes)

    def merging(self, grid: Grid, oriented: bool) -> Merge:
        """What becomes of those; for ``ownership`` within one tile."""
        reduction = "nms" if self.merge == "ownership" else self.merge
        return Merge(reduction, self.matching(oriented), TileLooks(grid))

    def describe(self) -> dict[str, Any]:
        """All that can change a value, as JSON."""
        return {"merge": self.merge, "match": self.match, "threshold": self.threshold, "classes": self.classes}

    def __str__(self) -> str:
        threshold = "0.5 (turned boxes 0.1)" if self.threshold is None else f"{self.threshold:g}"
        among = "of one class" if self.classes == "same" else "of any class"
        return f"{self.merge}; boxes {among} are one above an {self.match} of {threshold}"


@dataclass(frozen=True, slots=True)
class Instances:
    """Labels of a function, or made of what a model says of each pixel, one an object.

    Raises
    ------
    UsageError
        There is no such method or measure, or the threshold is not from 0 to below 1.
    """

    postprocess: str | Postprocess | None = None
    """How labels are made of the model's channels, such as ``components:threshold=0.5``; None: it gives labels."""
    match: Measure = "ios"
    threshold: float | None = None
    """Overlap, on the pixels that two cells both see, above which two labels are one object; None: 0.5."""

    def __post_init__(self) -> None:
        if isinstance(self.postprocess, str):
            object.__setattr__(self, "postprocess", parse_postprocess(self.postprocess))
        _ = self.agreement

    @property
    def method(self) -> Postprocess | None:
        """`postprocess`, read."""
        return None if isinstance(self.postprocess, str) else self.postprocess

    @property
    def agreement(self) -> Agreement:
        """When two labels are one object."""
        return Agreement(self.match, 0.5 if self.threshold is None else self.threshold)

    def cells(self, grid: Grid) -> CellGrid:
        """What is labelled at once: a tile of a labelling function; else whole cores and the method's context."""
        if self.method is None:
            return CellGrid(grid.shape, grid.stride, grid.y.halo)
        sides = [block_side(stride, CELL_PX) for stride in grid.stride]
        return CellGrid(grid.shape, (sides[0], sides[1]), self.method.context_px)

    def describe(self) -> dict[str, Any]:
        """All that can change a value, as JSON."""
        method = None if self.method is None else self.method.describe()
        return {"postprocess": method, "match": self.match, "threshold": self.agreement.threshold}

    def __str__(self) -> str:
        numbers = {} if self.method is None else self.method.describe()
        name = numbers.pop("method", "labels of the model")
        told = ", ".join(f"{key}={value}" for key, value in numbers.items() if value not in (None, [], 0))
        agreed = f"one object above an {self.match} of {self.agreement.threshold:g} on what two cells see"
        return f"{name}{f' ({told})' if told else ''}; {agreed}"


Finding = Detect | Instances
