"""Where an image lies, as it is told to another process."""

from __future__ import annotations

from pathlib import Path

from gigatile.storage.url import scheme_of

SAFE = ".safe"
"""How such directories end, in any case."""


def absolute(place: str) -> str:
    """A place that means the same in another working directory; URLs do as they are, secrets included."""
    if scheme_of(place) == "file":
        place = place.removeprefix("file://")
    return place if scheme_of(place) else str(Path(place).absolute())


def is_safe(folder: str | Path) -> bool:
    """Whether a directory is a product of a Sentinel as it is delivered: by its name, or by its manifest."""
    path = Path(folder)
    return path.name.lower().endswith(SAFE) or (path / "manifest.safe").is_file()


def stack_parts(text: str, folder: str = "") -> tuple[str, ...]:
    """The files of ``a.tif+b.tif``; one, the text itself, where it is no stack.

    A ``+`` may be part of a name: what exists under its whole name is that file, and so is the shortest run of pieces
    that does. Spaces around a ``+`` do not count where no name has them. Nothing is a stack of which no piece is a file
    or a URL.

    Parameters
    ----------
    text : str
        Paths and URLs.
    folder : str
        What paths are relative to; the working directory if empty.
    """
    pieces = text.split("+")
    if len(pieces) == 1 or Path(folder, text).exists():
        return (text,)
    parts: list[str] = []
    while pieces:
        count = 1
        if scheme_of(pieces[0].strip()):
            while count < len(pieces) and not scheme_of(pieces[count].strip()) and not _exists(pieces[count], folder):
                count += 1
        else:
            found = (n for n in range(1, len(pieces) + 1) if _exists("+".join(pieces[:n]), folder))
            count = next(found, 1)
        part = "+".join(pieces[:count])
        parts.append(part if part and not scheme_of(part) and Path(folder, part).exists() else part.strip())
        del pieces[:count]
    return tuple(parts) if any(scheme_of(part) or _exists(part, folder) for part in parts) else (text,)


def _exists(text: str, folder: str) -> bool:
    """Whether that is a file, as it stands or without the spaces around it."""
    names = (name for name in (text, text.strip()) if name and not scheme_of(name))
    return any(Path(folder, name).exists() for name in names)
