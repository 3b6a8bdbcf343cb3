"""Sentinel-2 products as they are delivered: SAFE folders of level 1C and 2A.

::

    S2B_MSIL2A_2023....SAFE/
      MTD_MSIL2A.xml                                    baseline, offset, quantification, nodata
      GRANULE/L2A_T31UFU_.../IMG_DATA/
        R10m/T31UFU_..._B04_10m.jp2 ─┐
        R20m/T31UFU_..._B05_20m.jp2  ├─ a channel a band, from its finest file
        R60m/T31UFU_..._B01_60m.jp2 ─┘                  level 1C: T31UFU_..._B04.jp2, without folders

Bands only: the scene classification (SCL), true colours (TCI), AOT and WVP are no channels. Stacks interpolate, and
classes have nothing in between.

Source: Sentinel-2 Products Specification Document, S2-PDGS-TAS-DI-PSD issue 14.9 and 15, sections 3.4 and 4; the
offset is that of processing baseline 04.00 and later.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from gigatile.errors import ImageError
from gigatile.images.scene import Scene, SceneFile
from gigatile.images.xml import XML_LIMIT, UnsafeXmlError, parse_xml

BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12")
"""By wavelength, as everywhere."""
_BAND_FILE = re.compile(r"(?:^|_)(B(?:0[1-9]|1[0-2]|8A))(?:_([126]0)m)?\.(?:jp2|tiff?)", re.IGNORECASE)
_FOLDER = re.compile(r"R([126]0)m", re.IGNORECASE)
_METADATA = ("MTD_MSIL*.xml", "S2*_MTD_SAFL*.xml")
"""Of today, and of products made before December 2016."""
_OFFSETS = ("BOA_ADD_OFFSET", "RADIO_ADD_OFFSET")
_SCALES = ("BOA_QUANTIFICATION_VALUE", "QUANTIFICATION_VALUE")


def safe_scene(folder: Path) -> Scene:
    """The bands of a product, each from its finest file.

    Raises
    ------
    ImageError
        It is no product of Sentinel-2, has no bands or several granules, or damaged metadata.
    """
    found = _band_files(folder)
    nodata, notes = _metadata(folder)
    files = []
    for band in BANDS:
        sizes = found.get(band)
        if sizes:
            finest = sizes[min(sizes)]
            if len(finest) > 1:
                names = " and ".join(path.name for path in finest)
                raise ImageError(str(folder), expected=f"one file of {band} at a resolution", found=names)
            files.append(SceneFile(str(finest[0]), (band,), nodata))
    return Scene(str(folder), "safe", tuple(files), notes)


def _band_files(folder: Path) -> dict[str, dict[int, list[Path]]]:
    """Files by band and metres a pixel (0 where the name does not say, as in level 1C)."""
    granules = [path for path in sorted(folder.glob("GRANULE/*")) if (path / "IMG_DATA").is_dir()]
    if len(granules) > 1:
        raise ImageError(
            str(folder),
            expected="one granule",
            found=f"{len(granules)} in GRANULE, as products before December 2016 have",
            fix="Stack the bands of one by hand: B04.jp2+B03.jp2+...",
        )
    found: dict[str, dict[int, list[Path]]] = defaultdict(lambda: defaultdict(list))
    for path in sorted(granules[0].glob("IMG_DATA/**/*")) if granules else []:
        match = _BAND_FILE.search(path.name)
        if match is None or match.end() != len(path.name) or not path.is_file():
            continue
        in_folder = _FOLDER.fullmatch(path.parent.name)
        size = match[2] or (in_folder[1] if in_folder else "0")
        found[match[1].upper()][int(size)].append(path)
    if not found:
        is_other = re.match(r"S[135][A-Z_]", folder.name)
        raise ImageError(
            str(folder),
            expected="a Sentinel-2 product with GRANULE/*/IMG_DATA/..._B04.jp2 and the like",
            found="a product of another Sentinel" if is_other else "no band",
            fix="Name the image files in it, with + between them." if is_other else "Check that it was unpacked whole.",
        )
    return found


def _metadata(folder: Path) -> tuple[float, tuple[str, ...]]:
    """nodata, and how pixels become reflectances."""
    path = next((path for pattern in _METADATA for path in sorted(folder.glob(pattern))), None)
    if path is None:
        return 0.0, ("there is no MTD_MSIL1C.xml or MTD_MSIL2A.xml: whether pixels have an offset is unknown",)
    try:
        if path.stat().st_size > XML_LIMIT:
            raise UnsafeXmlError(f"more than {XML_LIMIT} bytes")
        root = parse_xml(path.read_text(encoding="utf-8"))
        offsets = sorted({float(text) for text in _texts(root, *_OFFSETS)})
        scale = next((float(text) for text in _texts(root, *_SCALES)), 10000.0)
        special = dict(zip(_texts(root, "SPECIAL_VALUE_TEXT"), _texts(root, "SPECIAL_VALUE_INDEX"), strict=False))
        nodata = float(special.get("NODATA", "0"))
    except (ElementTree.ParseError, UnsafeXmlError, ValueError) as error:
        fix = "Fetch the product again; without that file the bands are read, and an offset is not known."
        raise ImageError(str(path), expected="metadata of Sentinel-2", found=str(error), fix=fix) from error
    return nodata, (_reflectance(next(_texts(root, "PROCESSING_BASELINE"), "unknown"), offsets, scale),)


def _reflectance(baseline: str, offsets: list[float], scale: float) -> str:
    said = f"processing baseline {baseline}: reflectance is"
    if not any(offsets):
        return f"{said} pixel / {scale:g}"
    if len(offsets) > 1:
        return f"{said} (pixel + offset) / {scale:g}, with offsets of {offsets[0]:g} to {offsets[-1]:g} by band"
    (offset,) = offsets
    verb = "subtract" if offset < 0 else "add"
    options = f"--scale {1 / scale:g} --mean {-offset / scale:g}"
    return (
        f"{said} (pixel {offset:+g}) / {scale:g}; pixels are as stored: "
        f"{verb} {abs(offset):g} for models made on older baselines ({options} gives reflectance)"
    )


def _texts(root: ElementTree.Element, *tags: str) -> Iterator[str]:
    """Texts of the elements of those names, whatever their name space."""
    return ((each.text or "").strip() for each in root.iter() if each.tag.rpartition("}")[2] in tags)
