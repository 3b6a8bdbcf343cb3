"""A Leica SCN file made here: two scanned areas of one slide, with a gap between them and bounds around them."""

from pathlib import Path

import numpy as np
import tifffile

SLIDE = (1600, 2000)
"""Height and width of the slide in pixels of level 0."""
NM = 500
"""Side of a pixel of level 0 in nanometres."""
AREAS = ((200, 400, 512, 768), (960, 1300, 256, 320))
"""y, x, height and width of what was scanned, in pixels of level 0; whole tiles, as these scanners write."""
BOUNDS = (200, 400, 1016, 1220)
"""y, x, height and width of the rectangle around both."""
TILE = (64, 64)

_IMAGE = """<image><creationDate>2020-01-01T00:00:00Z</creationDate><device model="{model}" version="1"/>
<pixels sizeX="{w}" sizeY="{h}">{dimensions}</pixels>
<view sizeX="{vw}" sizeY="{vh}" offsetX="{vx}" offsetY="{vy}" spacingZ="0"/>
<scanSettings><objectiveSettings><objective>20</objective></objectiveSettings>
<illuminationSettings><numericalAperture>0.4</numericalAperture><illuminationSource>brightfield</illuminationSource>
</illuminationSettings></scanSettings></image>"""


def write_scn(path: Path, seed: int = 0) -> list[np.ndarray]:
    """Write the file; gives what each level of the slide shows, shape (y, x, 4): RGB and 255 where scanned."""
    rng = np.random.default_rng(seed)
    pages, images = [rng.integers(0, 256, (64, 128, 3), np.uint8)], []
    images.append(_image((64, 128), (0, 0, *SLIDE), [(0, (64, 128))]))
    shown = [np.zeros((SLIDE[0] // factor, SLIDE[1] // factor, 4), np.uint8) for factor in (1, 4)]
    for area in AREAS:
        y, x, height, width = area
        dimensions = []
        for level, factor in enumerate((1, 4)):
            pixels = rng.integers(0, 256, (height // factor, width // factor, 3), np.uint8)
            dimensions.append((len(pages), pixels.shape[:2]))
            pages.append(pixels)
            part = shown[level][y // factor : (y + height) // factor, x // factor : (x + width) // factor]
            part[..., :3], part[..., 3] = pixels, 255
        images.append(_image((height, width), area, dimensions))
    collection = f'<collection name="a" sizeX="{SLIDE[1] * NM}" sizeY="{SLIDE[0] * NM}">{"".join(images)}</collection>'
    xml = f'<scn xmlns="http://www.leica-microsystems.com/scn/2010/10/01" uuid="a">{collection}</scn>'
    with tifffile.TiffWriter(path, bigtiff=True) as tif:
        for index, pixels in enumerate(pages):
            description = xml if index == 0 else None
            tif.write(pixels, tile=TILE, photometric="rgb", description=description, metadata=None,
                      resolution=(1e7 / NM, 1e7 / NM), resolutionunit="CENTIMETER")  # fmt: skip
    return shown


def _image(shape: tuple[int, int], view: tuple[int, ...], dimensions: list[tuple[int, tuple[int, int]]]) -> str:
    lines = (f'<dimension sizeX="{w}" sizeY="{h}" r="{r}" ifd="{ifd}"/>' for r, (ifd, (h, w)) in enumerate(dimensions))
    y, x, height, width = (value * NM for value in view)
    sides = {"w": shape[1], "h": shape[0], "vw": width, "vh": height, "vx": x, "vy": y}
    return _IMAGE.format(model="a", dimensions="".join(lines), **sides)
