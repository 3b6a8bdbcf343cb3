"""``gigatile probe``: how far a model looks, how it must be aligned, and whether tiles can equal the whole image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from gigatile.cli.inputs import check_model
from gigatile.cli.parser import Parser, add_debug, emit, emit_json
from gigatile.errors import UsageError

if TYPE_CHECKING:
    from gigatile.models.card import ModelCard
    from gigatile.models.probe import Probe
    from gigatile.models.self_test import SelfTest


def main(argv: Sequence[str]) -> int:
    """Measure one model, or tell what was measured before."""
    parser = Parser("gigatile probe", description="How far a model looks, measured on the model itself.")
    parser.add_argument("model", metavar="MODEL", help="a model as 'gigatile run' takes it, or its card")
    parser.add_argument("--channels", metavar="N", help="channels to try a callable with (default: 3)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_debug(parser)
    arguments = parser.parse(argv)
    channels = _count(arguments.channels)
    check_model(arguments.model)
    from gigatile.models.cards.find import find_card
    from gigatile.models.load import load_model
    from gigatile.models.probe_cache import probed
    from gigatile.models.self_test import self_tested

    card = find_card(arguments.model)
    loaded = load_model(arguments.model)
    tests = self_tested(loaded)
    if card is not None and card.one_pixel_a_tile:
        # Each tile is one pixel: there is nothing to see at its edges.
        if arguments.json:
            emit_json({"card": card.to_json()})
        else:
            emit(card_table(card, tests))
        return 0
    probe = probed(loaded, channels)
    if arguments.json:
        emit_json({**probe.to_json(), **({} if card is None else {"card": card.to_json()})})
    else:
        emit(table(arguments.model, probe))
        if card is not None:
            emit(card_table(card, tests))
    return 0


def card_table(card: ModelCard, tests: Sequence[SelfTest]) -> str:
    """The card for people: what it says, what comes of it, and how the test that it brings along went."""
    said = card.to_json()
    rows = [("card", f"{card.kind}{', ' if card.name else ''}{card.name}")]
    for key, value in said.items():
        if key in ("kind", "path", "model", "name", "notes"):
            continue
        if key == "pixel_size":
            value = f"{value['value']:.6g} {value['unit']}"
        text = ", ".join(str(item) for item in value) if isinstance(value, list) else str(value)
        rows.append((key.replace("_", " "), text))
    rows += [
        ("self-test", f"{test.mismatched} of {test.values} values differ, at most by {test.max_difference:.2g}")
        for test in tests
    ]
    rows += [("note", note) for note in card.notes]
    return "\n".join(f"{name:<20}{text}" for name, text in rows)


def _count(text: str | None) -> int | None:
    if text is None:
        return None
    if not text.isdigit() or int(text) < 1:
        raise UsageError("--channels", expected="a number of channels, 1 or more", found=repr(text))
    return int(text)


def table(model: str, probe: Probe) -> str:
    """The probe for people."""
    radius = (
        "none: to the edge of every tile"
        if probe.radius is None
        else f"{probe.radius[0]} x {probe.radius[1]} px (y, x)"
    )
    faint = ", ".join(f"{share} beyond {max(reach)} px" for share, reach in probe.effective.items())
    changing = [name for name, changes in probe.changes_bits.items() if changes]
    rows = {
        "model": model,
        "verdict": f"{probe.verdict}: {probe.reason}",
        "radius": radius,
        "influence": f"less than {faint}",
        "alignment": f"{probe.alignment} px" if probe.alignment else "none",
        "output": f"{probe.channels_out} channels, {probe.output_scale} times the pixels of the input along each axis"
        + (f", {probe.crop} px cut off at each side" if probe.crop else ""),
        "input": f"{probe.channels_in} channels, sides in multiples of {probe.size_multiple}",
        "last bits": f"depend on the {' and the '.join(changing)}" if changing else "depend on neither batch nor tile",
        "NaN": "one NaN makes all of the output NaN" if probe.spreads_nan else "one NaN stays near its place",
    }
    return "\n".join(f"{name:<12}{text}" for name, text in rows.items())
