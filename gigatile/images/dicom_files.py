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
from gigatile.images.pixel_size import number_in
from gigatile.storage.files import LocalFile, file_identity

_WHOLE_SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"
"""VL Whole Slide Microscopy Image Storage (DICOM PS3.4, table B.5-1)."""
_WANTED = ("SOPClassUID", "SeriesInstanceUID", "ImageType", "OpticalPathSequence", "TotalPixelMatrixColumns")
_NAMED = 3


@dataclass(frozen=True, slots=True)
class Part:
    """One file of a slide, as far as its header is wanted."""

    path: str
    kind: str
    """What it holds, the third value of ImageType: VOLUME is a level or a part of one; LABEL, OVERVIEW, THUMBNAIL."""
    sop_class: str
    """UID of the kind of file."""
    sop_name: str
    """The same in words."""
    series: str
    """UID of the series."""
    columns: int
    """Width of the level in pixels."""
    optical_paths: tuple[tuple[str, str], ...]
    """Identifier and description of each."""
    power: float
    """Of the strongest objective; 0 where it is not said."""


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
    named = None if path.is_dir() else _part(pydicom, path)
    if named is not None and named.sop_class != _WHOLE_SLIDE:
        raise _no_slide(place, named.sop_name or "a file of another kind")
    folder = path if path.is_dir() else path.parent
    slides: dict[str, list[Part]] = {}
    for entry in sorted(folder.iterdir()):
        part = _part(pydicom, entry) if entry.is_file() and entry.stat().st_size > 132 else None
        if part is not None and part.sop_class == _WHOLE_SLIDE:
            slides.setdefault(part.series, []).append(part)
    if named is not None:
        slides = {named.series: slides.get(named.series, [named])}
    levels = {uid: [part for part in parts if part.kind == "VOLUME"] for uid, parts in slides.items()}
    levels = {uid: parts for uid, parts in levels.items() if parts}
    if not levels:
        kinds = sorted({part.kind or "images of no kind" for parts in slides.values() for part in parts})
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
    return sorted(parts, key=lambda part: -part.columns)


def identity_of(paths: Iterable[str]) -> dict[str, str | int]:
    """How many files there are, their bytes, and a digest of the sampled digests; names and places do not count."""
    found = [file_identity(LocalFile(path)) for path in paths]
    digests = "\n".join(sorted(f"{each['size']} {each['sha256']}" for each in found))
    size = sum(int(each["size"]) for each in found)
    return {"files": len(found), "size": size, "sha256": sha256(digests.encode()).hexdigest()}


def _part(pydicom: Any, path: Path) -> Part | None:
    """What is wanted of a file's header; None for what is no DICOM.

    Raises
    ------
    ImageError
        It is DICOM, and damaged: were it passed over, a slide could lose a level in silence.
    """
    if not is_dicom(LocalFile(path).read(0, 132)):
        return None
    try:
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(_WANTED))
        uid = header.get("SOPClassUID") or header.file_meta.get("MediaStorageSOPClassUID")
        if not uid or (uid == _WHOLE_SLIDE and not header.get("SeriesInstanceUID")):
            raise EOFError("a header that ends too early")
        kinds = [str(kind) for kind in header.get("ImageType") or ()]
        paths = list(header.get("OpticalPathSequence") or ())
        return Part(
            path=str(path),
            kind=kinds[2] if len(kinds) > 2 else "",
            sop_class=str(uid),
            sop_name=str(getattr(uid, "name", uid)),
            series=str(header.get("SeriesInstanceUID")),
            columns=int(header.get("TotalPixelMatrixColumns") or 0),
            optical_paths=tuple(
                (str(each.get("OpticalPathIdentifier")), str(each.get("OpticalPathDescription") or ""))
                for each in paths
            ),
            power=max((number_in(each.get("ObjectiveLensPower") or "") for each in paths), default=0.0),
        )
    except Exception as error:  # a damaged header can fail in any line of a parser
        raise ImageError(
            str(path),
            expected="a sound DICOM file",
            found=f"{type(error).__name__}: {error}"[:300],
            fix="The file is truncated or damaged: fetch it again, or take it out of the folder.",
        ) from error


def _no_slide(place: str, found: str) -> ImageError:
    return ImageError(
        place,
        expected="a level (image type VOLUME) of a DICOM whole-slide image",
        found=found,
        fix="Name the folder with all files of the slide, or one of its levels.",
    )
