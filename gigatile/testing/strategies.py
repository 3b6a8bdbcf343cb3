"""Hypothesis strategies for sizes and tilings; they need the `hypothesis` package."""

from __future__ import annotations

from hypothesis import strategies as st

from gigatile.tiling.axis import BLENDS, Axis
from gigatile.tiling.tiling import Tiling

BORDERS = ("reflect", "symmetric", "edge")
"""The border rules that need no number."""


def sizes(most: int = 70) -> st.SearchStrategy[tuple[int, int]]:
    """Height and width of an image, from 1 x 1; lines of pixels are likelier than chance would have it."""
    side = st.integers(1, most)
    return st.tuples(side, side) | st.tuples(st.just(1), side) | st.tuples(side, st.just(1))


@st.composite
def tilings(
    draw: st.DrawFn, radius: int = 0, most: int = 40, multiple: int = 1, blends: tuple[str, ...] = BLENDS
) -> Tiling:
    """Resolved tilings that are exact for a receptive field of `radius`: inside the halo, or inside the margin.

    Parameters
    ----------
    radius : int
        Of the model's receptive field.
    most : int
        Upper bound of the tile's sides, where the radius allows.
    multiple : int
        What tile and halo are multiples of.
    blends : tuple of str
        To choose from.
    """
    blend = draw(st.sampled_from(blends))
    least_halo = -(-radius // multiple)
    halo = multiple * draw(st.integers(least_halo, least_halo + 8 // multiple))
    least_tile = 2 * halo // multiple + 1
    side = st.integers(least_tile, max(most // multiple, least_tile + 3))
    tile = multiple * draw(side), multiple * draw(side)
    margin = draw(st.integers(min(radius, halo), halo))
    block = draw(st.none() | st.integers(1, 3 * max(tile)))
    return Tiling(tile=tile, overlap=2 * halo, margin=margin, blend=blend, block=block)  # type: ignore[arg-type]


@st.composite
def axes(draw: st.DrawFn, most: int = 120) -> Axis:
    """Any legal grid along one axis: any overlap below the tile, any margin up to half of it, any blend."""
    tile = draw(st.integers(1, 48))
    halo = draw(st.integers(0, (tile - 1) // 2))
    blend = draw(st.sampled_from(BLENDS))
    reach = 0 if blend == "trim" else halo - draw(st.integers(0, halo))
    return Axis(draw(st.integers(1, most)), tile, halo, reach, blend)  # type: ignore[arg-type]
