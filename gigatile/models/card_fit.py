"""Whether an image is what a card was written for: bands, dtype and pixel size."""

from __future__ import annotations

import re
from dataclasses import replace

from gigatile.errors import ImageError
from gigatile.images.image import Image
from gigatile.models.card import ModelCard
from gigatile.models.model import LoadedModel
from gigatile.units import PixelSize

TOLERANCE = 0.1
"""Pixel sizes that differ by more than this share are not the same."""
BACKGROUND = "#000000"
_METRES = {
    "micrometer": 1e-6,
    "millimeter": 1e-3,
    "centimeter": 1e-2,
    "metre": 1.0,
    "meter": 1.0,
    "m": 1.0,
    "kilometre": 1e3,
    "foot": 0.3048,
    "US survey foot": 1200 / 3937,
}
"""Units of pixel sizes; angles have no length."""


def fitted_image(image: Image, card: ModelCard | None) -> Image:
    """The image with the bands that a card names, if nobody has chosen channels.

    Raises
    ------
    ImageError
        It lacks a band, has another dtype than the card's scaling is for, or its pixels are of another size, or of
        none that is known: names what to type.
    """
    if card is None:
        return image
    colours = tuple(i for i in range(len(image.info.channels)) if i != image.info.alpha)
    if card.bands and image.selected == colours:
        image = image.select(channels=_bands(image, card))
    _check_count(image, card)
    _check_dtype(image, card)
    _check_pixel_size(image, card)
    return image


def with_names_for(loaded: LoadedModel, output: str) -> LoadedModel:
    """The model with names for each class: cards name one where the model has one channel, which makes two classes."""
    card = loaded.card
    if output != "classes" or card is None or len(card.class_names) != 1 or loaded.class_names != card.class_names:
        return loaded
    colors = (BACKGROUND, *loaded.class_colors) if len(loaded.class_colors) == 1 else loaded.class_colors
    return replace(loaded, class_names=("background", *loaded.class_names), class_colors=colors)


def _bands(image: Image, card: ModelCard) -> list[int]:
    """The channel of each band, by one of its names; large and small letters are the same, and so are B2 and B02."""
    there = {_plain(name): index for index, name in reversed(list(enumerate(image.info.channels)))}
    found: list[int] = []
    for names in card.bands:
        index = next((there[_plain(name)] for name in names if _plain(name) in there), None)
        if index is None:
            wanted = ", ".join(names[0] for names in card.bands)
            raise ImageError(
                f"{image.info.path} for {card.where}",
                expected=f"the bands {wanted}",
                found=f"no {names[0]}, only {', '.join(image.info.channels)}",
                fix="Name the channels in that order: --channels with their numbers from 0.",
            )
        found.append(index)
    return found


def _plain(name: str) -> str:
    return re.sub(r"^b0(?=[1-9])", "b", name.lower())


def _check_count(image: Image, card: ModelCard) -> None:
    if card.channels is not None and len(image.selected) != card.channels:
        raise ImageError(
            f"{image.info.path} for {card.where}",
            expected=f"{card.channels} channels",
            found=f"{len(image.selected)} ({', '.join(image.channels)})",
            fix="Choose them: --channels " + ",".join(map(str, range(card.channels))) + ", for example.",
        )


def _check_dtype(image: Image, card: ModelCard) -> None:
    # As stored: on a grid of another pixel size they are floats in the same units.
    if card.dtype and str(image.info.dtype) != card.dtype:
        raise ImageError(
            f"{image.info.path} for {card.where}",
            expected=f"{card.dtype} pixels, for which it divides by 255",
            found=str(image.info.dtype),
            fix="Say how pixels become what the model was trained on: --scale, for example.",
        )


def _check_pixel_size(image: Image, card: ModelCard) -> None:
    if card.pixel_size is None:
        return
    wanted = card.pixel_size * _METRES[card.unit]
    told = f"{card.pixel_size:g} {card.unit} a pixel"
    size = image.pixel_size
    factor = _METRES.get(size.unit) if size is not None else None
    if size is None or factor is None:
        raise ImageError(
            f"{image.info.path} for {card.where}",
            expected=f"about {told}",
            found="no pixel size" if size is None else f"a pixel size in {size.unit}, which is no length",
            fix=_how_to_state(image, wanted)
            if size is None
            else "Type --pixel-size in that unit, to say at which size the model shall see it.",
        )
    worked = size.scaled(*image.scale)
    if not _near(worked, wanted / factor):
        raise ImageError(
            f"{image.info.path} for {card.where}",
            expected=f"{told}, give or take {TOLERANCE:.0%}",
            found=f"{worked.x:.6g} {size.unit} at level {image.level}",
            fix=_advice(image, size, wanted / factor),
        )


def _how_to_state(image: Image, metres: float) -> str:
    """What to type for an image without a pixel size."""
    if image.transform is not None or image.crs is not None:
        return "Give it what is missing: a CRS (gdal_edit.py -a_srs), or a transform as well (gdalwarp)."
    return f"Type --source-pixel-size with that of the image in micrometres, and --pixel-size {metres * 1e6:g}."


def _near(size: PixelSize, wanted: float) -> bool:
    return all(abs(side - wanted) <= TOLERANCE * wanted for side in (size.y, size.x))


def _advice(image: Image, size: PixelSize, wanted: float) -> str:
    for level in range(len(image.levels)):
        if _near(size.scaled(*image.apart(level).scale), wanted):
            return f"Type --level {level}, or --pixel-size {wanted:g}."
    return f"Type --pixel-size {wanted:g}."
