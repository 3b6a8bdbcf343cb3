"""What a model's card says, under what was typed or stands in a pipeline file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gigatile.cli.parser import say
from gigatile.errors import ModelError

if TYPE_CHECKING:
    from gigatile.models.card import ModelCard

Colors = tuple[tuple[int, int, int], ...]
_VALUES = ("scale", "mean", "std", "normalize", "activation", "output", "boxes", "score", "tile", "class_names")
"""Options whose value may come from a card; bands, pixel size, and least overlap and margin are looked at when the
image is open."""


@dataclass(frozen=True, slots=True)
class Carded:
    """Options with those of a card filled in."""

    values: dict[str, Any]
    colors: Colors
    card: ModelCard | None
    """What is left of it."""


def with_card(values: Mapping[str, Any], colors: Colors) -> Carded:
    """Fill in what a card says and nobody gave.

    Parameters
    ----------
    values : mapping
        By name of the option, of the command line and the pipeline file.
    colors : tuple
        Of the pipeline file.

    Raises
    ------
    ModelError, UsageError
        The model is a card that cannot be used.
    """
    from gigatile.models.cards.find import find_card

    card = find_card(values.get("model"))
    if card is None:
        return Carded(dict(values), colors, None)
    if card.boxes and values.get("task") != "detect":
        found = f"task {values.get('task', 'segment')}"
        raise ModelError(card.where, expected="--task detect: its model finds objects", found=found)
    given = {name for name, value in values.items() if value is not None}
    card = card.under((*given, *(["class_colors"] if colors else [])))
    said = {name: getattr(card, name) for name in _VALUES}
    filled = {name: value for name, value in said.items() if value not in (None, "", ()) and name not in given}
    if not colors:
        colors = tuple((r, g, b) for r, g, b in (bytes.fromhex(text[1:]) for text in card.class_colors))
    return Carded({**values, **filled}, colors, card)


def tell(card: ModelCard | None) -> None:
    """Say which card is followed, and what it says that is done in another way."""
    if card is None:
        return
    say(f"card        {card.path}: {card.kind}{', ' if card.name else ''}{card.name}")
    for note in card.notes:
        say(f"            {note}")
