"""Which files make up a DICOM slide: those of one series, wherever it is entered.

::

    folder/           series A: VOLUME 2220 x 2967, VOLUME 1110 x 1484, ..., LABEL, OVERVIEW    one slide
      *.dcm           series B: ...                                                              another
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from gigatile.errors import ImageError
from gigatile.images.optional import import_for
from gigatile.storage.files import LocalFile, file_identity

_WHOLE_SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"
"""VL Whole Slide Microscopy Image Storage (DICOM PS3.4, table B.5-1)."""
_WANTED = ("SOPClassUID", "SeriesInstanceUID", "ImageType", "OpticalPathSequence", "TotalPixelMatrixColumns")
_NAMED = 3


@dataclass(frozen=True, slots=True)
class Part:
    """One file of a slide, as far as its header was read."""

    path: str
    header: Any
    """pydicom's Dataset, without pixels."""

    @property
    def is_level(self) -> bool:
        """Whether it holds a level of the pyramid (or a part of one), and no label, overview or thumbnail."""
        return "VOLUME" in self.header.get("ImageType", ())


def is_dicom(head: bytes) -> bool:
    """Whether the first 132 bytes of a file are those of DICOM (PS3.10, section 7.1)."""
    return head[128:132] == b"DICM"


def holds_dicom(folder: Path) -> bool:
    """Whether a folder is one of DICOM files: by their suffix, or by the first bytes of the first file."""
    files = sorted(entry for entry in folder.iterdir() if entry.is_file())
    if any(entry.suffix.lower() == ".dcm" for entry in files):
        return True
    first = next((entry for entry in files if entry.stat().st_size > 132), None)
    return first is not None and is_dicom(LocalFile(first).read(0, 132))


def slide_of(place: str) -> list[Part]:
    """The levels of the slide that is in a folder, or that a file belongs to; the widest first.

    Parameters
    ----------
    place : str
        A folder with the files of one series, or any file of it: the others lie beside it.

    Raises
    ------
    ImageError
        pydicom is not installed, there is no level of a slide, or a folder has several slides.
    """
    pydicom = import_for("pydicom", "dicom", place)
    path = Path(place)
    named = None if path.is_dir() else _header(pydicom, path)
    if named is not None and named.get("SOPClassUID") != _WHOLE_SLIDE:
        raise _no_slide(place, f"a {getattr(named.get('SOPClassUID'), 'name', 'file of another kind')}")
    folder = path if path.is_dir() else path.parent
    slides: dict[str, list[Part]] = {}
    for entry in sorted(folder.iterdir()):
        header = _header(pydicom, entry) if entry.is_file() else None
        if header is not None and header.get("SOPClassUID") == _WHOLE_SLIDE:
            slides.setdefault(str(header.get("SeriesInstanceUID")), []).append(Part(str(entry), header))
    if named is not None:
        slides = {uid: parts for uid, parts in slides.items() if uid == str(named.get("SeriesInstanceUID"))}
    levels = {uid: [part for part in parts if part.is_level] for uid, parts in slides.items()}
    levels = {uid: parts for uid, parts in levels.items() if parts}
    if not levels:
        kinds = sorted({_kind(part) for parts in slides.values() for part in parts})
        raise _no_slide(place, f"only {', '.join(kinds)}" if kinds else "none")
    if len(levels) > 1:
        names = [Path(parts[0].path).name for parts in levels.values()]
        raise ImageError(
            place,
            expected="the files of one slide",
            found=f"{len(levels)} slides (series): {', '.join(names[:_NAMED])}{' ...' if len(names) > _NAMED else ''}",
            fix="Name one file of the slide that is meant; those of its series beside it belong to it.",
        )
    (parts,) = levels.values()
    return sorted(parts, key=lambda part: -int(part.header.get("TotalPixelMatrixColumns", 0)))


def identity_of(paths: Iterable[str]) -> dict[str, str | int]:
    """How many files there are, their bytes, and a digest of the sampled digests; names and places do not count."""
    found = [file_identity(LocalFile(path)) for path in paths]
    digests = "\n".join(sorted(f"{each['size']} {each['sha256']}" for each in found))
    size = sum(int(each["size"]) for each in found)
    return {"files": len(found), "size": size, "sha256": sha256(digests.encode()).hexdigest()}


def _header(pydicom: Any, path: Path) -> Any:
    """What is wanted of a file's header; None for what is no DICOM, or a damaged one."""
    try:
        return pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(_WANTED))
    except (pydicom.errors.InvalidDicomError, EOFError, ValueError, KeyError, AttributeError):
        return None


def _kind(part: Part) -> str:
    kinds = [str(kind) for kind in part.header.get("ImageType", ())]
    return kinds[2] if len(kinds) > 2 else "images of no kind"


def _no_slide(place: str, found: str) -> ImageError:
    return ImageError(
        place,
        expected="a level (image type VOLUME) of a DICOM whole-slide image",
        found=found,
        fix="Name the folder with all files of the slide, or one of its levels.",
    )
