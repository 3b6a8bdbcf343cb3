"""``--inputs LIST.csv``: images with names and options of their own.

::

    image,name,level,channels
    slides/a.svs,first,0,"0,1,2"        a path relative to the folder of the list, or absolute
    s3://bucket/b.tif,second,1,"0,1,2"  or a URL

UTF-8 (with or without a byte order mark), commas, one header, `image` required. Every cell is filled. What is wrong
with the list is told with its line, before anything runs.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path

from gigatile.cohorts.names import is_url, shown
from gigatile.errors import ImageError, UsageError
from gigatile.images.places import stack_parts

PER_IMAGE = ("level", "channels", "source_pixel_size", "roi")
"""Options that a list may give for each image; whether each is built yet is for the command line to say."""
_COLUMNS = ("image", "name", *PER_IMAGE)
_MOST_BYTES = 1 << 28
"""256 MiB: a list of a million images has half of it; what is larger was not meant."""


@dataclass(frozen=True, slots=True)
class Row:
    """One image of a list."""

    image: str = field(repr=False)
    """A path that works from here, or a URL."""
    name: str
    """Empty where the list has no such column."""
    options: dict[str, str]
    origin: str
    """``list.csv, line 7``."""


def read_rows(listing: str) -> list[Row]:
    """Read a list.

    Memory bound: the whole list and its rows, about 1 KiB an image.

    Raises
    ------
    UsageError
        It is not there, no UTF-8 or no CSV, has an unknown column, an empty cell, or no image.
    """
    content = _content(listing)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UsageError(
            f"{shown(listing)}, line {line}", expected="UTF-8", found="other bytes", fix="Save it as CSV UTF-8."
        ) from error
    records = _records(text, shown(listing))
    header_origin, header = next(records, ("", []))
    columns = _columns(header, header_origin or shown(listing))
    rows = [_row(cells, columns, origin, listing) for origin, cells in records]
    if not rows:
        raise UsageError(shown(listing), expected="an image a line", found="a header only", fix="Add some images.")
    return rows


def _content(listing: str) -> bytes:
    if is_url(listing):
        from gigatile.storage.files import open_bytes

        source = open_bytes(listing)
        if source.size > _MOST_BYTES:
            raise _too_large(listing, source.size)
        return source.read(0, source.size)
    path = Path(listing)
    try:
        if path.is_file() and path.stat().st_size > _MOST_BYTES:
            raise _too_large(listing, path.stat().st_size)
        return path.read_bytes()
    except FileNotFoundError as error:
        raise UsageError(
            listing, expected="a list of images", found="nothing at that path", fix="Check the path after --inputs."
        ) from error
    except OSError as error:
        found = error.strerror or str(error)
        raise UsageError(listing, expected="a list that can be read", found=found) from error


def _too_large(listing: str, size: int) -> UsageError:
    return UsageError(shown(listing), expected=f"a list of at most {_MOST_BYTES} bytes", found=f"{size} bytes")


def _records(text: str, listing: str) -> Iterator[tuple[str, list[str]]]:
    """Lines that are not blank, with where they begin: a quoted cell may span several."""
    reader = csv.reader(StringIO(text, newline=""), strict=True)
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise UsageError(f"{listing}, line {line}", expected="CSV", found=str(error)) from error
        cells = [cell.strip() for cell in cells]
        if any(cells):
            yield f"{listing}, line {line}", cells


def _columns(header: Sequence[str], origin: str) -> list[str]:
    columns = [name.strip() for name in header]
    known = f"The columns are {', '.join(_COLUMNS)}; only image is required."
    if len(columns) == 1 and ";" in columns[0]:
        raise UsageError(origin, expected="columns with commas between them", found="semicolons", fix=known)
    for name in columns:
        if name not in _COLUMNS:
            from difflib import get_close_matches  # slow to import for something only errors need

            close = get_close_matches(name.lower().replace("-", "_"), _COLUMNS, n=1)
            hint = f"Did you mean {close[0]!r}? " if close else ""
            raise UsageError(origin, expected="known columns", found=repr(name), fix=hint + known)
        if columns.count(name) > 1:
            raise UsageError(origin, expected="each column once", found=f"two called {name!r}", fix=known)
    if "image" not in columns:
        raise UsageError(origin, expected="a column 'image'", found=", ".join(columns) or "an empty file", fix=known)
    return columns


def _row(cells: Sequence[str], columns: Sequence[str], origin: str, listing: str) -> Row:
    if len(cells) != len(columns):
        fix = "Put cells that have commas in them between double quotes."
        raise UsageError(origin, expected=f"{len(columns)} cells", found=str(len(cells)), fix=fix)
    values = dict(zip(columns, cells, strict=True))
    empty = next((name for name, cell in values.items() if not cell), None)
    if empty is not None:
        fix = f"Fill it, or put images without {empty!r} into a list of their own." if empty != "image" else ""
        raise UsageError(f"{origin}: {empty}", expected="a value", found="an empty cell", fix=fix)
    options = {name: values[name] for name in PER_IMAGE if name in values}
    return Row(_from_here(values["image"], listing, origin), values.get("name", ""), options, origin)


def _from_here(image: str, listing: str, origin: str) -> str:
    """A path of the list as one from the working directory; a URL as it is; of stacked files each."""
    parts = (image,) if is_url(listing) else stack_parts(image, str(Path(listing).parent))
    if len(parts) > 1:
        return "+".join(_from_here(part, listing, origin) for part in parts)
    image = image.removeprefix("file://")
    if is_url(image):
        return image
    if "\0" in image:
        raise ImageError(origin, expected="a path", found="a path with a NUL in it")
    path = Path(image)
    try:
        path = path.expanduser()
    except RuntimeError as error:
        raise ImageError(f"{origin}: {image}", expected="a home directory", found=str(error)) from error
    if is_url(listing):
        if path.is_absolute():
            raise ImageError(
                f"{origin}: {image}", expected="a path relative to the list, or a URL", found="a local path"
            )
        return _beside(listing, path.as_posix(), origin)
    return str(Path(listing).parent / path)


def _beside(listing: str, path: str, origin: str) -> str:
    """The URL of a path relative to the folder of a list in a bucket or on a web server; its query is not handed on."""
    scheme, _, rest = listing.partition("?")[0].partition("://")
    host, *folders = rest.split("/")[:-1]
    for part in path.split("/"):
        if part != "..":
            folders += [part]
        elif folders:
            folders.pop()
        else:
            raise ImageError(f"{origin}: {path}", expected="a path inside the bucket", found="one that leaves it")
    return f"{scheme}://{'/'.join((host, *folders))}"
