"""Which files a GDAL virtual raster (VRT) refers to, before GDAL follows it anywhere.

A VRT is XML that names other files. GDAL opens whatever is named, remote ones too: ``http://`` goes through a driver
that no configuration option holds back (``CPL_VSIL_CURL_ALLOWED_EXTENSIONS`` stops ``/vsicurl/`` only; GDAL 3.10).
So the names are read here first, and only those of local files pass.

Source: https://gdal.org/en/stable/drivers/raster/vrt.html
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from gigatile.errors import ImageError
from gigatile.images.xml import UnsafeXmlError, parse_xml

DEEPEST = 8
"""VRTs that refer to VRTs."""
_FILE_TAGS = ("sourcefilename", "sourcedataset")
"""In small letters: to GDAL case does not matter, nor whether a value is an element or an attribute."""
_HOLDERS = ("vrtdataset", "vrtrasterband")
_TEXTS = ("metadata", "description", "categorynames", "histograms", "pixelfunctioncode")
"""Elements of datasets and bands in which a URL is only a text; Python code is never run (`GDAL_VRT_ENABLE_PYTHON`)."""
_CRS_TEXTS = ("srs", "gcplist")
"""WKT or PROJJSON; the latter names its schema by a URL, but a value that is a URL would be fetched."""
_OPENS = re.compile(r"://|/vsi|<", re.IGNORECASE)
"""What leads GDAL elsewhere than to a local file, wherever it stands in a name."""
_IS_URL = re.compile(r"^\s*(?:\w+://|/vsi)", re.IGNORECASE)
_PART_OF = re.compile(r'(?i:NETCDF|HDF5|HDF4_SDS|GTIFF_DIR:(?:off:)?[0-9]+|NITF_IM:[0-9]+):"?([^":]+)"?(?::.*)?')
"""Names of images inside of a file; the first group is the file."""
_FIX = "Only local files are followed: fetch what it refers to and name that in the VRT."


def referred(path: str) -> list[str]:
    """The VRT itself and all local files that it refers to, directly or by other VRTs.

    Raises
    ------
    ImageError
        It is no VRT, refers to what is no local file or is not there, or to itself.
    """
    found: dict[str, None] = {}
    _walk(Path(path), (), found)
    return list(found)


def _walk(path: Path, above: tuple[Path, ...], found: dict[str, None]) -> None:
    where = path.resolve()
    if where in above or len(above) >= DEEPEST:
        raise ImageError(str(path), expected=f"at most {DEEPEST} VRTs one in the other", found="a loop or more")
    found[str(path)] = None
    for name, is_relative in _names(path):
        file = _PART_OF.fullmatch(name)
        inner = Path(file[1] if file else name)
        source = path.parent / inner if is_relative else inner
        if _OPENS.search(str(inner)) or (not file and ":" in name and not source.exists()):
            raise ImageError(str(path), expected="references to local files", found=repr(name), fix=_FIX)
        if not source.is_file():
            raise ImageError(
                str(path), expected=f"the file {str(source)!r}, which it refers to", found="no such file", fix=_FIX
            )
        if str(source) not in found or source.resolve() in (*above, where):
            if _is_text(source):
                _walk(source, (*above, where), found)
            found[str(source)] = None


def _is_text(source: Path) -> bool:
    """Whether a file is XML or JSON, which may refer to others; only VRTs among them are followed."""
    with source.open("rb") as file:
        head = file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n")
    return head.startswith((b"<", b"{"))


def _names(path: Path) -> Iterator[tuple[str, bool]]:
    """Each name that GDAL may open, and whether it is relative to the VRT."""
    try:
        root = parse_xml(path.read_text(encoding="utf-8"))
    except (ElementTree.ParseError, UnsafeXmlError, UnicodeDecodeError) as error:
        raise ImageError(str(path), expected="a VRT in XML", found=str(error), fix="Make it anew.") from error
    if root.tag.lower() != "vrtdataset":
        raise ImageError(str(path), expected="<VRTDataset>", found=f"<{root.tag}>", fix=_FIX)
    yield from _below(root, path)


def _below(element: ElementTree.Element, path: Path) -> Iterator[tuple[str, bool]]:
    holds_texts = element.tag.lower() in _HOLDERS
    for child in element:
        tag, text = child.tag.lower(), (child.text or "").strip()
        if holds_texts and tag in _TEXTS:
            continue
        attributes = {name.lower(): value for name, value in child.attrib.items()}
        for name in _FILE_TAGS:
            if name in attributes:
                yield attributes.pop(name), False
        if tag in _FILE_TAGS:
            yield text, attributes.get("relativetovrt") == "1"
        elif any((_IS_URL if tag in _CRS_TEXTS else _OPENS).search(value) for value in (text, *attributes.values())):
            raise ImageError(str(path), expected="references to local files", found=f"<{child.tag}> {text!r}", fix=_FIX)
        yield from _below(child, path)
