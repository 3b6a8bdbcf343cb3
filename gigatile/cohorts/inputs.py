"""Which images a run is about, and what each is called: from words, patterns, folders, URLs or a list.

::

    words, list ──▶ Candidates (one an image) ──▶ locations, duplicates ──▶ names ──▶ Inputs

No image is opened. A folder costs one listing, a row of a list one look whether the file is there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from gigatile.cohorts.listing import Row, read_rows
from gigatile.cohorts.names import (
    READABLE,
    ZARR,
    Known,
    assign_names,
    file_bytes,
    folded,
    has_suffix,
    is_reserved,
    is_url,
    location_of,
    safe_name,
    shown,
)
from gigatile.cohorts.patterns import has_magic, images_in, is_one_image, matches, natural, spells_suffix
from gigatile.errors import ImageError, UsageError
from gigatile.images.places import stack_parts
from gigatile.storage.url import BUCKET_SCHEMES, WEB_SCHEMES, scheme_of

_NAMED = 3
"""Of what was left out, how many a message names."""


@dataclass(frozen=True, slots=True)
class InputEntry:
    """One image of a run."""

    name: str
    """Of its directory in that of a cohort: a safe file name, different from all others even where case is ignored."""
    image: str = field(repr=False)
    """What `gigatile.open` takes; a URL may hold secrets."""
    options: Mapping[str, str] = field(default_factory=dict)
    """Options of this image alone: text by long name, of those in `listing.PER_IMAGE`."""
    origin: str = ""
    """``list.csv, line 7``, for messages; empty for what was typed."""
    problem: str = ""
    """Why this image cannot be done, where that is known already."""

    @property
    def location(self) -> str:
        """By which the image is known again: an absolute path or a URL, without secrets."""
        return location_of(self.image)

    @property
    def shown(self) -> str:
        """The image as messages and summaries name it: as given, without secrets."""
        return shown(self.image)


@dataclass(frozen=True, slots=True)
class Inputs:
    """The images of one command, in the order given; folders and patterns in natural order."""

    entries: tuple[InputEntry, ...]
    is_cohort: bool
    """Whether each image gets ``DIR/<name>/``; otherwise there is one, and DIR is its own."""
    notes: tuple[str, ...] = ()
    """What the user should be told: files left out, images that moved."""


@dataclass(frozen=True, slots=True)
class _Candidate:
    image: str
    given_name: str = ""
    options: Mapping[str, str] = field(default_factory=dict)
    origin: str = ""
    problem: str = ""


def resolve_inputs(images: Sequence[str], listing: str | None = None, known: Sequence[Known] = ()) -> Inputs:
    """Find out which images are meant, and give each a name.

    Parameters
    ----------
    images : sequence of str
        Paths and URLs of images, folders of images, and patterns (``*``, ``?``, ``[...]``, ``**`` for any number of
        folders). What exists under its literal path is that file, whatever characters are in it.
    listing : str, optional
        A CSV file instead of `images`, see `gigatile.cohorts.listing`.
    known : sequence of Known
        The images that the cohort has already: `Summary.known`; of two at one location the last one counts. They
        keep their names; what collides with one is called ``<parent>__<name>``. Folders move: where an image is
        gone, its name goes to the one of the same size that would have it now, and the run there sees whether it is
        the same.

    Raises
    ------
    ImageError
        There is nothing at a path, a pattern matches nothing, or a folder has no image in it.
    UsageError
        No images or two kinds of them are given, the list is wrong, or a kind of input is not available yet.
    """
    if bool(images) == (listing is not None):
        raise UsageError(
            "images",
            expected="images, or a list of them after --inputs",
            found="both" if images else "neither",
            fix="Name images, folders or patterns, or put the images into the list.",
        )
    notes: list[str] = []
    if listing is not None:
        candidates = _listed(listing)
        is_cohort = True
    else:
        groups = [_expanded(word, notes) for word in images]
        candidates = [_Candidate(image) for group, _ in groups for image in group]
        is_cohort = len(images) > 1 or any(several for _, several in groups)
    candidates = _distinct(candidates)
    names = _names(candidates, known, notes)
    entries = tuple(
        InputEntry(name, c.image, c.options, c.origin, c.problem) for name, c in zip(names, candidates, strict=True)
    )
    return Inputs(entries, is_cohort, tuple(notes))


def check_literal(text: str) -> None:
    """Refuse what is no single image: nothing there, a folder, a pattern. Of stacked files each is looked at.

    URLs are not asked for; whoever opens them will see.

    Raises
    ------
    ImageError, UsageError
    """
    one = "Name one image here; 'gigatile run' takes folders and patterns."
    parts = stack_parts(text)
    if len(parts) > 1:
        for part in parts:
            check_literal(part)
        return
    if is_url(text) and not text.startswith("file://"):
        _check_scheme(text)
        return
    text = text.removeprefix("file://")
    path = Path(text)
    if path.is_dir() and not is_one_image(text):
        result = path / "prediction.zarr"
        if (path / "run.json").is_file() and result.is_dir():
            raise UsageError(text, expected="one image", found="a run directory", fix=f"Give its result: {result}")
        raise UsageError(text, expected="one image", found="a directory", fix=one)
    if not path.exists():
        if has_magic(text):
            raise UsageError(text, expected="one image", found="a pattern", fix=one)
        raise _missing(text)


def nearby(path: Path) -> str:
    """What may have been meant by a path that is not there; empty if nothing is like it."""
    if not path.parent.is_dir():
        return f"There is no directory {str(path.parent)!r}."
    from difflib import get_close_matches  # slow to import for something only errors need

    spelled = {entry.name.lower(): entry.name for entry in path.parent.iterdir()}
    close = get_close_matches(path.name.lower(), spelled, n=1, cutoff=0.6)
    return f"Did you mean {spelled[close[0]]!r}?" if close else ""


def _expanded(word: str, notes: list[str]) -> tuple[list[str], bool]:
    """The images that a word stands for, and whether it may stand for several."""
    if len(stack_parts(word)) > 1:
        check_literal(word)
        return [word], False
    word = word.removeprefix("file://")
    if is_url(word):
        return _expanded_url(word, notes)
    path = Path(word)
    if path.is_dir():
        if is_one_image(word):
            return [word], False
        images, others = images_in(word.rstrip("/") or "/")
        if not images:
            raise _no_images(word, others)
        notes += _left_out(word, others)
        return images, True
    if path.exists():
        return [word], False
    if has_magic(word):
        images, others = matches(word)
        if not images:
            raise _no_images(word, others)
        notes += _left_out(word, others)
        return images, True
    raise _missing(word)


def _expanded_url(url: str, notes: list[str]) -> tuple[list[str], bool]:
    _check_scheme(url)
    is_pattern = has_magic(url)
    if scheme_of(url) in WEB_SCHEMES or (has_suffix(url, (*READABLE, *ZARR)) and not is_pattern):
        return [url], False
    from gigatile.storage import files  # needs obstore, which only those who use it have

    if not is_pattern and files.is_prefix(url):
        return [url], False
    pattern = url if is_pattern else f"{url.rstrip('/')}/*"
    found = sorted(files.glob(pattern), key=natural)
    images = found if spells_suffix(pattern) else [each for each in found if has_suffix(each, (*READABLE, *ZARR))]
    others = [each for each in found if each not in set(images)]
    if images:
        notes += _left_out(url, others)
        return images, True
    if not is_pattern and not url.endswith("/") and not others:
        return [url], False  # an object without a suffix, or nothing: opening it will tell
    raise _no_images(url, others)


def _check_scheme(url: str, origin: str = "") -> None:
    known = (*BUCKET_SCHEMES, *sorted(WEB_SCHEMES))
    if scheme_of(url) not in known:
        schemes = ", ".join(f"{name}://" for name in known)
        where = f"{origin}: {shown(url)}" if origin else shown(url)
        raise UsageError(where, expected=f"a path, or a URL of {schemes}", found=f"{scheme_of(url)}://")


def _missing(text: str) -> UsageError:
    return ImageError(text, expected="an image file or Zarr", found="nothing at that path", fix=nearby(Path(text)))


def _no_images(text: str, others: Sequence[str]) -> ImageError:
    if others:
        found = f"none, but {_counted(others)}"
        fix = f"Images are told by their suffixes ({', '.join(READABLE[5:12])}, ... and {ZARR[1]}); others are named."
    else:
        found, fix = "none", "Check the path; upper and lower case differ."
    return ImageError(shown(text), expected="images there", found=found, fix=fix)


def _left_out(text: str, others: Sequence[str]) -> list[str]:
    return [f"{shown(text)}: left out, as they are no images by their suffixes: {_counted(others)}."] if others else []


def _counted(others: Sequence[str]) -> str:
    names = ", ".join(Path(path).name for path in others[:_NAMED])
    return names + (f" and {len(others) - _NAMED} more" if len(others) > _NAMED else "")


def _listed(listing: str) -> list[_Candidate]:
    rows = read_rows(listing)
    candidates = [_of_row(row) for row in rows]
    if all(candidate.problem for candidate in candidates):
        raise ImageError(
            listing,
            expected="images that are there",
            found=f"none of {len(rows)}; the first is {shown(rows[0].image)}",
            fix="Paths are relative to the folder of the list.",
        )
    return candidates


def _of_row(row: Row) -> _Candidate:
    parts = stack_parts(row.image)
    for part in parts:
        if is_url(part):
            _check_scheme(part, row.origin)
    if row.name and (safe_name(row.name) != row.name or is_reserved(row.name)):
        suggested = safe_name(f"_{row.name}" if is_reserved(row.name) else row.name)
        raise UsageError(
            f"{row.origin}: name",
            expected="a name that a directory can have everywhere",
            found=repr(row.name),
            fix=f"Type {suggested!r}, say.",
        )
    problem = ""
    gone = next((part for part in parts if not is_url(part) and not Path(part).exists()), None)
    if gone is not None:
        missing = ImageError(f"{row.origin}: {gone}", expected="an image file or Zarr", found="nothing at that path")
        problem = str(missing)
    return _Candidate(row.image, row.name, row.options, row.origin, problem)


def _distinct(candidates: Sequence[_Candidate]) -> list[_Candidate]:
    """Each image once; a list must not have one twice, but words and patterns may overlap."""
    seen: dict[str, _Candidate] = {}
    for candidate in candidates:
        location = location_of(candidate.image)
        other = seen.setdefault(location, candidate)
        if other is candidate:
            continue
        if candidate.origin:
            raise UsageError(
                f"{candidate.origin}: {shown(candidate.image)}",
                expected="each image once",
                found=f"the image of {other.origin}",
                fix="Remove one of the two rows.",
            )
        if is_url(candidate.image) and candidate.image != other.image:
            raise UsageError(
                shown(candidate.image),
                expected="URLs that differ in more than their queries, which may be secrets and are not stored",
                found="two that do not",
                fix="Run them in directories of their own.",
            )
    return list(seen.values())


def _names(candidates: Sequence[_Candidate], known: Sequence[Known], notes: list[str]) -> list[str]:
    locations = [location_of(candidate.image) for candidate in candidates]
    _check_given_names(candidates)
    before = {each.location: each.name for each in known}
    fixed = [c.given_name or before.get(where, "") for c, where in zip(candidates, locations, strict=True)]
    for name, where in zip(fixed, locations, strict=True):
        if before.get(where, name) != name:
            notes.append(f"{where} is called {name} from now on; what is in {before[where]} stays there.")
    owners = {folded(each.name): each for each in known}
    is_taken = _taken({folded(name) for name in fixed if name}, owners)
    new = [index for index, name in enumerate(fixed) if not name]
    for index, name in zip(new, assign_names([locations[index] for index in new], is_taken), strict=True):
        fixed[index] = name
        if folded(name) in owners:
            notes.append(f"{name}: {owners[folded(name)].location} is gone; {locations[index]} takes its place.")
    return fixed


def _check_given_names(candidates: Sequence[_Candidate]) -> None:
    """Refuse two rows of one name."""
    given: dict[str, _Candidate] = {}
    for candidate in candidates:
        first = given.setdefault(folded(candidate.given_name), candidate)
        if candidate.given_name and first is not candidate:
            raise UsageError(
                f"{candidate.origin}: name",
                expected="each name once, in upper or lower case",
                found=f"{candidate.given_name!r}, the name in {first.origin}",
                fix="Rename one of the two.",
            )


def _taken(used: set[str], owners: Mapping[str, Known]) -> Callable[[str, str], bool]:
    """Whether a name is in use; one whose image is gone is free for an image of the same size."""
    gone: dict[str, bool] = {}

    def is_taken(name: str, location: str) -> bool:
        if name in used or name not in owners:
            return name in used
        owner = owners[name]
        if name not in gone:
            gone[name] = any(not is_url(part) and not Path(part).exists() for part in stack_parts(owner.location))
        return not gone[name] or owner.nbytes not in {None, file_bytes(location)}

    return is_taken


def as_cohort(inputs: Inputs) -> Inputs:
    """The same images, each in a directory of its own: for an image that is added to the directory of a cohort."""
    return replace(inputs, is_cohort=True)
