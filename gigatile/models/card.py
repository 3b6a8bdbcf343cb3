"""What somebody else's card says of a model, in the words of our options.

::

    rdf.yaml, config.json, item.json, ONNX metadata ──read──▶ ModelCard ──▶ defaults below command line and pipeline
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from gigatile.models.values import Activation

LengthUnit = Literal["micrometer", "metre"]


@dataclass(frozen=True, slots=True)
class Tolerance:
    """What a repeated test may differ by: ``|output - expected| <= absolute + relative * |expected|``."""

    absolute: float = 1e-3
    relative: float = 1e-3
    per_million: float = 100.0
    """Values in a million that may differ by more."""


@dataclass(frozen=True, slots=True)
class TestPair:
    """Stored input and expected output of a model, as ``.npy`` files."""

    __test__ = False  # no test case of pytest

    input: Path
    input_axes: str
    """Letters of the input file's axes, ``bcyx`` in some order."""
    output: Path
    output_axes: str
    tolerance: Tolerance = Tolerance()


@dataclass(frozen=True, slots=True)
class ModelCard:
    """A card that has been read. Empty fields are not said by it; the command line and pipeline files win over all."""

    kind: str
    """What wrote it, with its version: ``bioimage.io 0.4.9``."""
    path: Path
    """The card; for metadata inside a model file, that file."""
    model: Path
    """The file that runs."""
    name: str = ""
    scale: float | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    normalize: str = "none"
    """As `--normalize`; in the place of scale, mean and std."""
    activation: Activation = "none"
    output: str = ""
    """``classes``, ``probabilities`` or ``raw``."""
    boxes: str = ""
    """Of a detector: what its numbers are, as `--boxes`."""
    score: float | None = None
    """Of a detector: least score of an object."""
    tile: tuple[int, int] | None = None
    """Height and width that the model was made for, in pixels."""
    one_pixel_a_tile: bool = False
    """Whether the model tells one class of a whole tile, so that each tile is one pixel of the result."""
    overlap_px: int = 0
    """Least overlap; more is taken where the probe says that the model looks further."""
    margin_px: int = 0
    """Least margin: what the author cuts off each edge of a prediction, in pixels of the input."""
    pixel_size: float | None = None
    """Of the images that the model was trained on, in `unit`."""
    unit: LengthUnit = "micrometer"
    channels: int | None = None
    """How many channels go in."""
    bands: tuple[tuple[str, ...], ...] = ()
    """The channels that go in, in order: for each the names by which images may call it."""
    dtype: str = ""
    """The only dtype that its scaling fits."""
    class_names: tuple[str, ...] = ()
    class_colors: tuple[str, ...] = ()
    """``#rrggbb``, one a class; or none."""
    tests: tuple[TestPair, ...] = ()
    notes: tuple[str, ...] = ()
    """What it says that is done in another way, or not at all."""

    @property
    def where(self) -> str:
        """How messages name it."""
        return f"{self.path} ({self.kind})"

    def under(self, given: Sequence[str]) -> ModelCard:
        """What is left of it beside options that somebody gave, by name; those say more about one run than a card.

        A normalisation displaces the card's scaling and the other way round, since only one of the two can be.
        """
        names, left = set(given), self
        scaling = {"scale", "mean", "std"}
        if names & scaling:
            left = replace(left, normalize="none")
        if "normalize" in names:
            left = replace(left, scale=None, mean=(), std=(), normalize="none")
        if names & (scaling | {"normalize"}):
            left = replace(left, dtype="")
        for option, field, empty in _DISPLACED:
            if option in names:
                left = replace(left, **{field: empty})
        return left

    def to_json(self) -> dict[str, Any]:
        """What it says, for ``gigatile probe --json``; empty fields are left out."""
        said = {
            "kind": self.kind,
            "path": str(self.path),
            "model": str(self.model),
            "name": self.name,
            "scale": self.scale,
            "mean": list(self.mean),
            "std": list(self.std),
            "normalize": self.normalize if self.normalize != "none" else "",
            "activation": self.activation if self.activation != "none" else "",
            "output": self.output,
            "boxes": self.boxes,
            "score": self.score,
            "tile": list(self.tile or ()),
            "one_pixel_a_tile": self.one_pixel_a_tile,
            "overlap": self.overlap_px,
            "margin": self.margin_px,
            "pixel_size": None if self.pixel_size is None else {"value": self.pixel_size, "unit": self.unit},
            "channels": self.channels,
            "bands": [names[0] for names in self.bands],
            "dtype": self.dtype,
            "class_names": list(self.class_names),
            "class_colors": list(self.class_colors),
            "notes": list(self.notes),
        }
        return {key: value for key, value in said.items() if value not in (None, "", 0, False, [])}


_DISPLACED: tuple[tuple[str, str, Any], ...] = (
    ("scale", "scale", None),
    ("mean", "mean", ()),
    ("std", "std", ()),
    ("activation", "activation", "none"),
    ("output", "output", ""),
    ("boxes", "boxes", ""),
    ("score", "score", None),
    ("tile", "tile", None),
    ("overlap", "overlap_px", 0),
    ("margin", "margin_px", 0),
    ("channels", "bands", ()),
    ("pixel_size", "pixel_size", None),
    ("class_names", "class_names", ()),
    ("class_names", "class_colors", ()),
    ("class_colors", "class_colors", ()),
)
"""Option, field of the card that it stands for, and that field's empty value."""
