"""One picture of a run: the slide, its classes, and a window of both at full resolution.

::

    ┌──────────────┬──────────────┐
    │ slide        │ class map    │   area means of pyramid levels; the frame marks the window below
    ├──────────────┼──────────────┤
    │ window       │ window with  │   pixel for pixel
    │ as scanned   │ its classes  │
    └──────────────┴──────────────┘

Memory bound: one pyramid level of image and of result, each less than four panels wide and high, and their
colours; the size of the slide does not matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gigatile.tiling.region import Region

if TYPE_CHECKING:
    from PIL import ImageDraw
    from PIL.Image import Image as Picture

    from gigatile.images.image import Image

Pixels = NDArray[np.uint8]
Color = tuple[int, int, int]

PANEL_PX = 920
"""Two by two of them, with captions, stay below 2,000 px."""
_GAP_PX = 20
_HEADER_PX, _CAPTION_PX = 70, 34
_INK, _PALE, _FRAME = (30, 30, 36), (105, 105, 115), (214, 40, 57)
_FILL_SHARE = 0.35
"""How much of a class's colour covers the window; its outline is drawn in full."""
_FIRST_DRAWN = 2
"""Classes 0 and 1 (background and plain tissue) stay as scanned: what is left out is what one looks at."""


@dataclass(frozen=True, slots=True)
class Legend:
    """Names and colours of the classes, from class 0 on."""

    names: tuple[str, ...]
    colors: tuple[Color, ...]

    def paint(self, classes: Pixels) -> Pixels:
        """Colours of a class map: (h, w) uint8 -> (h, w, 3) uint8; pixels of no class are white."""
        table = np.full((256, 3), 255, np.uint8)
        table[: len(self.colors)] = self.colors
        return table[classes]


def draw_overlay(image: Image, prediction: Path, legend: Legend, out: Path) -> dict[str, float]:
    """Draw the picture and write it as PNG, at most 2,000 px wide and high.

    Parameters
    ----------
    image : Image
        The slide: three channels, uint8, red first.
    prediction : Path
        The run's ``prediction.zarr`` with classes, (y, x) uint8.
    legend : Legend
        What the classes are.
    out : Path
        Where the PNG goes.

    Returns
    -------
    dict of str to float
        Share of the slide's pixels per class, counted on the level that the picture shows.
    """
    levels = _class_levels(prediction)
    coarse = np.asarray(_coarsest(levels, 2 * PANEL_PX)[:, :], np.uint8)
    window = _window(coarse, image.shape[1:])
    shares = np.bincount(coarse.ravel(), minlength=256)[: len(legend.names)] / coarse.size

    panels = [_fitted(_slide_level(image)), _fitted(legend.paint(coarse))]
    size_px = max(image.shape[1:])
    _mark(panels, window, panels[0].width / image.shape[2])
    scanned = np.moveaxis(image.read(window, 0), 0, -1)
    classes = np.asarray(levels[0][window.slices()], np.uint8)
    panels += [_enlarged(scanned), _enlarged(_covered(scanned, classes, legend))]

    sheet = _sheet(panels, legend, shares, _captions(image, window, size_px / max(panels[0].size)))
    sheet.save(out, optimize=False, compress_level=6)
    return {name: float(share) for name, share in zip(legend.names, shares, strict=True)}


def _class_levels(prediction: Path) -> list[Any]:
    """The arrays of the result's pyramid, full resolution first, as its OME-Zarr metadata lists them."""
    import zarr  # heavy

    group = zarr.open_group(prediction, mode="r")
    ome: Any = group.attrs["ome"]
    return [group[str(entry["path"])] for entry in ome["multiscales"][0]["datasets"]]


def _coarsest(levels: Sequence[Any], least_px: int) -> Any:
    """The smallest of `levels` whose longer side has at least `least_px`, or the largest there is."""
    enough = [level for level in levels if max(level.shape) >= least_px]
    return enough[-1] if enough else levels[0]


def _slide_level(image: Image) -> Pixels:
    level = image.levels.index(_coarsest(image.levels, PANEL_PX))
    height, width = image.levels[level].shape
    return np.moveaxis(image.read(Region(0, 0, height, width), level), 0, -1)


def _window(coarse: Pixels, shape: tuple[int, int]) -> Region:
    """The window of full resolution with the best mixture of classes.

    Looked for on a coarse class map; the geometric mean of the classes' shares is highest where all are
    there, and its ties go to the window nearest the top left.
    """
    factor = max(shape) / max(coarse.shape)
    side = min(PANEL_PX, *shape)
    step = max(int(side / factor), 1)
    best, place = -1.0, (0, 0)
    for y in range(0, max(coarse.shape[0] - step, 0) + 1, max(step // 2, 1)):
        for x in range(0, max(coarse.shape[1] - step, 0) + 1, max(step // 2, 1)):
            counts = np.bincount(coarse[y : y + step, x : x + step].ravel(), minlength=4)[1:4]
            score = float(np.prod(counts / step**2))
            if score > best:
                best, place = score, (y, x)
    y0 = min(round(place[0] * factor), shape[0] - side)
    x0 = min(round(place[1] * factor), shape[1] - side)
    return Region(y0, x0, y0 + side, x0 + side)


def _fitted(pixels: Pixels) -> Picture:
    """A panel's worth of a whole level, by area mean."""
    from PIL import Image as PILImage

    scale = PANEL_PX / max(pixels.shape[:2])
    size = (max(round(pixels.shape[1] * scale), 1), max(round(pixels.shape[0] * scale), 1))
    method = PILImage.Resampling.BOX if scale < 1 else PILImage.Resampling.NEAREST
    return PILImage.fromarray(np.ascontiguousarray(pixels)).resize(size, method)


def _enlarged(pixels: Pixels) -> Picture:
    from PIL import Image as PILImage

    scale = max(PANEL_PX // max(pixels.shape[:2]), 1)
    large = np.repeat(np.repeat(pixels, scale, axis=0), scale, axis=1)
    return PILImage.fromarray(np.ascontiguousarray(large))


def _covered(scanned: Pixels, classes: Pixels, legend: Legend) -> Pixels:
    """The window with its classes: a light cover inside, a full line along each border."""
    drawn = (classes >= _FIRST_DRAWN) & (classes < len(legend.names))
    colors = legend.paint(classes).astype(np.float32)
    share = np.where(drawn, np.float32(_FILL_SHARE), np.float32(0))
    # A pixel is on the line where one of its four neighbours is of another class.
    line = np.zeros(classes.shape, bool)
    down, right = classes[1:] != classes[:-1], classes[:, 1:] != classes[:, :-1]
    line[1:] |= down
    line[:-1] |= down
    line[:, 1:] |= right
    line[:, :-1] |= right
    share[line & drawn] = 0.9
    mixed = scanned * (1 - share[..., None]) + colors * share[..., None]
    return np.asarray(np.rint(mixed), np.uint8)


def _mark(panels: list[Picture], window: Region, scale: float) -> None:
    from PIL import ImageDraw

    box = [round(edge * scale) for edge in (window.x0, window.y0, window.x1, window.y1)]
    for panel in panels:
        ImageDraw.Draw(panel).rectangle(box, outline=_FRAME, width=4)


@dataclass(frozen=True, slots=True)
class _Caption:
    """What stands below a row of panels, and its scale bar."""

    texts: tuple[str, str]
    bar_px: int
    bar_text: str


def _captions(image: Image, window: Region, shrink: float) -> tuple[_Caption, _Caption]:
    _, height, width = image.shape
    place = f"x {window.x0:,} to {window.x1:,}, y {window.y0:,} to {window.y1:,}"
    above = (f"the slide: {width:,} x {height:,} pixels", "classes, area mean")
    below = (f"the framed window, full resolution: {place}", "the same with what the model found")
    enlarged = max(PANEL_PX // max(window.shape), 1)
    return _caption(above, image, 1 / shrink), _caption(below, image, enlarged)


def _caption(texts: tuple[str, str], image: Image, screen_per_pixel: float) -> _Caption:
    """A bar of a round length, about a sixth of the panel, where the pixel size is known."""
    size = image.pixel_size
    if size is None or size.unit != "micrometer":
        return _Caption(texts, 0, "")
    wanted_um = PANEL_PX / 6 / screen_per_pixel * size.x
    power = 10 ** np.floor(np.log10(wanted_um))
    length_um = float(max(step for step in (1, 2, 5) if step * power <= wanted_um) * power)
    text = f"{length_um / 1000:g} mm" if length_um >= 1000 else f"{length_um:g} um"
    return _Caption(texts, round(length_um / size.x * screen_per_pixel), text)


def _sheet(
    panels: Sequence[Picture], legend: Legend, shares: NDArray[np.float64], captions: Sequence[_Caption]
) -> Picture:
    from PIL import Image as PILImage
    from PIL import ImageDraw

    across = max(panel.width for panel in panels)
    heights = [max(panel.height for panel in panels[row : row + 2]) for row in (0, 2)]
    width = 2 * across + 3 * _GAP_PX
    height = _HEADER_PX + sum(heights) + 2 * _CAPTION_PX + _GAP_PX // 2
    sheet = PILImage.new("RGB", (width, height), (255, 255, 255))
    pen = ImageDraw.Draw(sheet)
    _header(pen, legend, shares)
    top = _HEADER_PX
    for row, caption in enumerate(captions):
        for col in (0, 1):
            left = _GAP_PX + col * (across + _GAP_PX)
            sheet.paste(panels[2 * row + col], (left, top))
            pen.text((left, top + heights[row] + 4), caption.texts[col], fill=_PALE, font=_font(20))
        _scale_bar(pen, caption, _GAP_PX + 2 * across + _GAP_PX, top + heights[row] + 14)
        top += heights[row] + _CAPTION_PX
    return sheet


def _header(pen: ImageDraw.ImageDraw, legend: Legend, shares: NDArray[np.float64]) -> None:
    left = _GAP_PX
    pen.text((left, 18), "gigatile", fill=_INK, font=_font(32))
    left += int(pen.textlength("gigatile", font=_font(32))) + 50
    for name, color, share in zip(legend.names, legend.colors, shares, strict=True):
        pen.rectangle([left, 24, left + 26, 50], fill=color, outline=_PALE)
        text = f"{name} {share:.1%}"
        pen.text((left + 36, 24), text, fill=_INK, font=_font(24))
        left += 36 + int(pen.textlength(text, font=_font(24))) + 40


def _scale_bar(pen: ImageDraw.ImageDraw, caption: _Caption, right: int, top: int) -> None:
    if not caption.bar_px:
        return
    pen.rectangle([right - caption.bar_px, top, right, top + 6], fill=_INK)
    text_px = int(pen.textlength(caption.bar_text, font=_font(20)))
    pen.text((right - caption.bar_px - text_px - 12, top - 10), caption.bar_text, fill=_INK, font=_font(20))


def _font(size: int) -> Any:
    from PIL import ImageFont

    return ImageFont.load_default(size)
