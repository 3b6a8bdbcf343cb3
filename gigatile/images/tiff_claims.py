"""What the description of a TIFF claims, checked before tifffile makes lists as long as it says.

tifffile takes the numbers of OME-XML at their word: a ``SizeT`` of 10^9 becomes a list of 10^9 pages, a file
name becomes a file that is opened, wherever it is.
"""

from __future__ import annotations

from math import prod
from xml.etree import ElementTree

from gigatile.errors import ImageError
from gigatile.images.xml import UnsafeXmlError, parse_xml

MOST_PLANES = 1 << 22
"""Pages and planes of an OME-TIFF that are looked at: a list of them takes 32 MiB."""
_ORDERS = {f"XY{a}{b}{c}" for a, b, c in ("CZT", "CTZ", "ZCT", "ZTC", "TCZ", "TZC")}


def check_description(text: str, path: str, pages: int, smallest_px: int) -> None:
    """Refuse an OME-XML that claims what a file of so many pages cannot be.

    Parameters
    ----------
    text : str
        ImageDescription of the first page.
    pages : int
        Directories of the file, sub-directories included.
    smallest_px : int
        Pixels of the smallest of them.

    Raises
    ------
    ImageError
        It has a DOCTYPE, states more planes than `MOST_PLANES`, or refers to other files.
    """
    if not text.rstrip("\0 \r\n\t")[-10:].endswith("OME>"):
        return
    try:
        root = parse_xml(text.rstrip("\0 \r\n\t"))
    except UnsafeXmlError as error:
        raise ImageError(path, expected="a plain OME-XML", found=str(error), fix=_FIX) from error
    except ElementTree.ParseError:
        return  # tifffile takes the file for one without OME-XML, and says so
    if any(e.get("Namespace", "").endswith("modulo") for e in root.findall("{*}StructuredAnnotations/*")):
        found = "an OME-XML with modulo annotations (axes within axes)"
        raise ImageError(path, expected="one plane with channels", found=found, fix=_FIX)
    own, total = root.get("UUID"), 0
    for pixels in root.findall("{*}Image/{*}Pixels"):
        total += _planes(pixels, path, pages, smallest_px)
        for uuid in pixels.findall("{*}TiffData/{*}UUID"):
            own = uuid.text if own is None and _is_own(uuid, path) else own
            if uuid.text != own:
                raise ImageError(
                    path,
                    expected="all channels in one file",
                    found="an OME-TIFF that refers to other files",
                    fix="Merge it into one file (`bfconvert in.ome.tif out.ome.tif`).",
                )
    if total > MOST_PLANES:
        raise _too_many(path, total)


_FIX = "Write the image again, for instance with `bfconvert`."


def _is_own(uuid: ElementTree.Element, path: str) -> bool:
    return path.lower().endswith(uuid.get("FileName", "/").lower())


def _planes(pixels: ElementTree.Element, path: str, pages: int, smallest_px: int) -> int:
    """Pages and planes that tifffile will go through for an image."""
    if pixels.get("DimensionOrder") not in _ORDERS:
        found = f"DimensionOrder={pixels.get('DimensionOrder')!r}"
        raise ImageError(f"{path}, OME-XML", expected="planes of X and Y", found=found, fix=_FIX)
    sizes = {axis: _whole(pixels, f"Size{axis}", path) for axis in "XYCZT"}
    if min(sizes.values()) < 1:
        raise ImageError(f"{path}, OME-XML", expected="sizes from 1", found=f"{sizes}", fix=_FIX)
    planes = prod(sizes.values()) // smallest_px
    if planes > MOST_PLANES:
        raise _too_many(path, planes)
    for data in pixels.findall("{*}TiffData"):
        stated = [_whole(data, name, path) for name in ("PlaneCount", "NumPlanes") if data.get(name) is not None]
        if any(number > MOST_PLANES for number in stated):
            raise _too_many(path, max(stated))
        planes += stated[0] if stated and stated[0] > 0 else 1 if data.get("IFD") is not None else pages
    return planes


def _whole(element: ElementTree.Element, name: str, path: str) -> int:
    text = element.get(name, "")
    if not text.strip().lstrip("+-").isdecimal() or len(text) > 24:
        raise ImageError(f"{path}, OME-XML", expected=f"a whole number as {name}", found=repr(text[:40]), fix=_FIX)
    return int(text)


def _too_many(path: str, planes: int) -> ImageError:
    found = f"{planes} that the OME-XML claims"
    return ImageError(path, expected=f"at most {MOST_PLANES} planes", found=found, fix=_FIX)
