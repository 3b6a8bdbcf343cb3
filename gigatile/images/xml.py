"""XML that a stranger wrote: OME-XML, and GDAL's metadata."""

from __future__ import annotations

import re
from xml.etree import ElementTree

XML_LIMIT = 64 << 20
"""Characters. The OME-XML of an image of one plane has kilobytes; that of a plate some megabytes."""


class UnsafeXmlError(ValueError):
    """The XML declares entities, or is larger than any that was met."""


def parse_xml(text: str) -> ElementTree.Element:
    """Parse a document that declares nothing.

    Entities exist only where a DOCTYPE declares them, and neither OME-XML nor GDAL's metadata has one. Without it
    there is nothing to expand (ten lines can stand for gigabytes) and nothing to fetch.

    Raises
    ------
    UnsafeXmlError
        There is a DOCTYPE, or more than `XML_LIMIT` characters.
    xml.etree.ElementTree.ParseError
        It is not XML.
    """
    refuse_unsafe(text)
    return ElementTree.fromstring(text)


def refuse_unsafe(text: str) -> None:
    """The check of `parse_xml`, for text that another library is going to parse.

    Raises
    ------
    UnsafeXmlError
        As for `parse_xml`.
    """
    if len(text) > XML_LIMIT:
        raise UnsafeXmlError(f"{len(text)} characters of XML, where {XML_LIMIT} are the most")
    if re.search(r"<!\s*(DOCTYPE|ENTITY)", text, re.IGNORECASE):
        raise UnsafeXmlError("XML with a DOCTYPE, which could declare entities")
