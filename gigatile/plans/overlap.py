"""Overlap, margin and blend: what the user says, and what follows from how far the model looks.

::

    trim    │◀─halo──▶│ core             halo = radius, rounded up to the alignment: each pixel from one tile
    blend   │◀margin─▶│◀ramp▶│ core      margin = the same; the ramp lies inside it, where all tiles agree
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import lcm

from gigatile.errors import ModelError
from gigatile.models.model import LoadedModel
from gigatile.models.probe import Probe
from gigatile.models.probe_cache import known_probe
from gigatile.models.warmup import size_multiple
from gigatile.tiling.axis import Blend
from gigatile.tiling.tiling import Tiling

TOLERANCE = "0.001"
"""Share of the largest influence that a model which cannot be exact may lose at the edge of the halo."""
RAMP = 16
"""A blend ramps over a 16th of the tile, at each side, beyond the margin."""


@dataclass(frozen=True, slots=True)
class OverlapChoice:
    """Where the numbers came from, and what they mean."""

    text: str = "as given"
    """For the plan: ``from the probe (radius 58, alignment 8): exact``."""
    exact: bool = False
    """Whether tiles equal the whole image, by the probe's measure."""
    warning: str = ""
    """What is wrong with them, and what would be right."""


GIVEN = OverlapChoice()


@dataclass(frozen=True, slots=True)
class Need:
    """What a model needs to be exact, from its probe."""

    verdict_is_exact: bool
    radius: int
    """Least margin; for models that cannot be exact, what is reasonable."""
    unit: int
    """The distance between tiles has to be a multiple of it."""
    crop: int
    """What the model cuts off by itself."""
    has_one_tile: bool
    """Whether the model takes tiles of one size only."""
    text: str

    @property
    def halo(self) -> int:
        """Least halo that leaves the output of a tile on the alignment, as the image is."""
        return self.crop + -(-max(self.radius - self.crop, 0) // self.unit) * self.unit

    def down(self, halo: int) -> int:
        """The largest such halo up to this one; never less than what is cut off."""
        return self.crop + max(halo - self.crop, 0) // self.unit * self.unit

    def holds(self, tile: tuple[int, int], halo: int, margin: int) -> bool:
        """Whether these numbers are exact."""
        aligned = (halo - self.crop) % self.unit == 0 and all((side - 2 * halo) % self.unit == 0 for side in tile)
        seen = halo >= self.crop and max(margin, self.crop) >= self.radius
        return self.verdict_is_exact and aligned and seen

    def margin_below(self, halo: int) -> int:
        """The margin for a halo that is given; one that leaves nothing to blend is no better than none."""
        fitting = (margin for margin in (self.halo, self.radius) if margin < halo)
        return next(fitting, 0) if self.verdict_is_exact else 0


def with_tile(tiling: Tiling, loaded: LoadedModel) -> Tiling:
    """The tiling with its tile: the user's, that of the model's card, the model's own, or the usual one."""
    tile = tiling.tile_yx
    if tiling.tile is None:
        tile = (loaded.card and loaded.card.tile) or loaded.model.fixed_tile or tile
    return replace(tiling, tile=tile)


def choose_carded(tiling: Tiling, loaded: LoadedModel, channels: int) -> tuple[Tiling, OverlapChoice]:
    """`choose_overlap`; what is automatic is at least what the model's card says.

    An author's overlap and halo are what looked good enough; the probe knows what makes the tiles exact.

    Raises
    ------
    UsageError
        What the user gave contradicts the tile.
    """
    card = loaded.card
    if card is not None and card.one_pixel_a_tile and tiling.overlap == "auto":
        alone = replace(tiling, overlap=0, margin=0, blend=tiling.blend or "trim")
        return alone, OverlapChoice("none: the model tells one class of each tile by itself", True)
    chosen, choice = choose_overlap(tiling, loaded, channels)
    if card is None or tiling.overlap != "auto":
        return chosen, choice
    overlap, margin = int(chosen.overlap), int(chosen.margin)
    kept = margin if chosen.blend != "trim" else overlap // 2
    missing = 2 * max(card.margin_px - kept, 0) if tiling.margin == "auto" else 0
    wanted = max(card.overlap_px, overlap + missing)
    if wanted <= overlap:
        return chosen, choice
    step = 2 * _unit(loaded, channels)
    most = (min(chosen.tile_yx) - 1) // 2 * 2
    wanted = min(overlap - (overlap - wanted) // step * step, overlap + (most - overlap) // step * step)
    raised = replace(tiling, overlap=wanted, blend=chosen.blend, margin=max(margin, card.margin_px))
    if tiling.margin != "auto" or chosen.blend == "trim":
        raised = replace(raised, margin=tiling.margin)
    again, choice = choose_overlap(raised, loaded, channels)
    return again, replace(choice, text=f"that of the model's card, {choice.text.removeprefix('as given ')}")


def _unit(loaded: LoadedModel, channels: int) -> int:
    """What the distance between tiles has to be a multiple of."""
    try:
        probe = known_probe(loaded, channels)
    except ModelError:
        probe = None
    if probe is None:
        return lcm(size_multiple(loaded, channels), loaded.output.scale.denominator)
    return lcm(max(probe.alignment, 1), probe.output_scale.denominator)


def choose_overlap(tiling: Tiling, loaded: LoadedModel, channels: int) -> tuple[Tiling, OverlapChoice]:
    """Fill in overlap, margin and blend.

    Parameters
    ----------
    tiling : Tiling
        With a tile.
    loaded : LoadedModel
        With its output grid.
    channels : int
        Channels that the image gives.

    Raises
    ------
    UsageError
        What the user gave contradicts the tile.
    """
    try:
        probe = known_probe(loaded, channels)
    except ModelError as error:
        return _without_probe(tiling, loaded, channels, f"the model cannot be probed: {error}")
    if probe is None:
        return _without_probe(tiling, loaded, channels, "")
    need = _need(probe, loaded)
    if tiling.overlap == "auto":
        return _automatic(tiling, need)
    return _by_hand(tiling, need, tiling.overlap // 2)


def _without_probe(tiling: Tiling, loaded: LoadedModel, channels: int, warning: str) -> tuple[Tiling, OverlapChoice]:
    """A quarter of the tile where the user says nothing; the halo respects sizes, resolution and crop."""
    automatic = tiling.overlap == "auto"
    multiple = 1
    if automatic:
        multiple = lcm(size_multiple(loaded, channels), loaded.output.scale.denominator)
    text = "a quarter of the tile, since the model has not been probed" if automatic else "as given; not probed"
    return tiling.resolved(tiling.tile_yx, multiple, loaded.output.crop), OverlapChoice(text, False, warning)


def _need(probe: Probe, loaded: LoadedModel) -> Need:
    # Halo less crop, and the distance between tiles, have to be whole pixels of the result.
    unit = lcm(max(probe.alignment, 1), probe.output_scale.denominator)
    exact = probe.verdict != "not-exact"
    radius = max(probe.radius if exact and probe.radius is not None else probe.effective[TOLERANCE])
    what = f"radius {radius}, alignment {probe.alignment}" if exact else f"{probe.reason}; {TOLERANCE} at {radius} px"
    return Need(exact, radius, unit, loaded.output.crop, loaded.model.fixed_tile is not None, what)


def _automatic(tiling: Tiling, need: Need) -> tuple[Tiling, OverlapChoice]:
    """The halo that the model needs, and with a blend a ramp inside it."""
    tile = min(tiling.tile_yx)
    room = need.down((tile - 1) // 2)
    least = need.halo
    blend: Blend = tiling.blend or ("trim" if need.verdict_is_exact and 2 * least < tile else "hann")
    ramp = 0 if blend == "trim" else max(tile // RAMP // need.unit, 1) * need.unit
    margin = least if 2 * least < tile else room
    if tiling.margin != "auto":
        margin = max(margin, min(need.down(tiling.margin + need.unit - 1), room))
    halo = margin + ramp if 2 * (margin + ramp) < tile else max(margin, room)
    if not need.verdict_is_exact:
        # It gets at most half of the tile for overlap, but never less than the model cuts off.
        halo = min(halo, need.down(tile // 4))
        margin = halo if blend == "trim" else max(halo - 2 * ramp, 0)
    used = margin if tiling.margin == "auto" else tiling.margin
    chosen = replace(tiling, overlap=2 * halo, margin=used, blend=blend)
    exact = need.holds(tiling.tile_yx, halo, halo if blend == "trim" else used)
    warning = ""
    if need.verdict_is_exact and not exact:
        sides = 4 * need.halo
        advice = f"Type --tile {-(-sides // need.unit) * need.unit} or more."
        if need.has_one_tile:
            advice = f"It takes no other; exported for any size, or one in multiples of {need.unit}, it would be."
        warning = (
            f"a tile of {tile} px is too small or not aligned for this model ({need.text}): "
            f"the result is not exact. {advice}"
        )
    return chosen, OverlapChoice(f"from the probe ({need.text}): {_word(exact)}", exact, warning)


def _by_hand(tiling: Tiling, need: Need, halo: int) -> tuple[Tiling, OverlapChoice]:
    """The user's overlap; a margin and a blend that suit it, and a warning where it is too small."""
    fits = need.holds(tiling.tile_yx, halo, halo)
    blend: Blend = tiling.blend or ("trim" if fits else "hann")
    margin = need.margin_below(halo) if tiling.margin == "auto" else tiling.margin
    if tiling.margin == "auto" and blend == "trim" and fits:
        # What lies nearer to an edge than the radius is not compared with the neighbour's either.
        margin = need.halo
    exact = need.holds(tiling.tile_yx, halo, halo if blend == "trim" else margin)
    warning = ""
    if need.verdict_is_exact and not exact:
        least = 2 * need.halo if blend == "trim" else 2 * (need.halo + need.unit)
        warning = (
            f"overlap {2 * halo} with blend {blend} and margin {margin} is not exact for this model ({need.text}): "
            f"type --overlap {least} or more, in multiples of {2 * need.unit}, and a tile in multiples of {need.unit}, "
            "or leave overlap and margin out."
        )
    chosen = replace(tiling, margin=margin, blend=blend)
    return chosen, OverlapChoice(f"as given ({need.text}): {_word(exact)}", exact, warning)


def _word(exact: bool) -> str:
    return "exact" if exact else "not exact"
