"""Draw what a pipeline found in parts of a slide: pixels beside the same with outlines, one part below another.

Run it with ``python -m scripts.make_nuclei_figure DIR SLIDE OUT.jpg --box X,Y,WIDTH,HEIGHT``, DIR being what
``gigatile run`` wrote, boxes in level-0 pixels; ``--box`` may come several times. Needs pillow and shapely.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

import gigatile as gt
from gigatile.runs.objects import read_objects

GROW = 2
LINE = (0, 200, 0)
GAP_PX = 6


def drawn(directory: Path, slide: Path, box: tuple[int, int, int, int]) -> Image.Image:
    """One part of the slide, twice as large: as it is, and with the outlines of what was found."""
    x, y, width, height = box
    region = gt.Region(y0=y, x0=x, y1=y + height, x1=x + width)
    pixels: NDArray[np.uint8] = np.moveaxis(gt.open(str(slide)).read(region)[:3], 0, -1).astype(np.uint8)
    plain = Image.fromarray(pixels).resize((width * GROW, height * GROW))
    outlined = plain.copy()
    pen = ImageDraw.Draw(outlined)
    for ring in _rings(directory, region):
        pen.line([((a - x) * GROW, (b - y) * GROW) for a, b in ring], fill=LINE, width=GROW)
    both = Image.new("RGB", (2 * plain.width + GAP_PX, plain.height), "white")
    both.paste(plain, (0, 0))
    both.paste(outlined, (plain.width + GAP_PX, 0))
    return both


def _rings(directory: Path, region: gt.Region) -> Iterator[list[tuple[float, float]]]:
    import shapely

    found = read_objects(directory, region)["geometry"].to_numpy(zero_copy_only=False)
    for part in shapely.get_parts(shapely.from_wkb(found)):
        yield list(part.exterior.coords)


def main() -> None:
    """Draw all boxes and write them as one picture."""
    parser = argparse.ArgumentParser(description="Draw objects over parts of a slide.")
    parser.add_argument("directory", type=Path)
    parser.add_argument("slide", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--box", action="append", required=True, help="X,Y,WIDTH,HEIGHT in level-0 pixels")
    given = parser.parse_args()
    boxes = [tuple(int(word) for word in words.split(",")) for words in given.box]
    rows = [drawn(given.directory, given.slide, (x, y, width, height)) for x, y, width, height in boxes]
    size = max(row.width for row in rows), sum(row.height + GAP_PX for row in rows) - GAP_PX
    figure, top = Image.new("RGB", size, "white"), 0
    for row in rows:
        figure.paste(row, (0, top))
        top += row.height + GAP_PX
    figure.save(given.out, quality=70)


if __name__ == "__main__":
    main()
