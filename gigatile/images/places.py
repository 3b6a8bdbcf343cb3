"""Where an image lies, as it is told to another process."""

from __future__ import annotations

from pathlib import Path

from gigatile.storage.url import scheme_of


def absolute(place: str) -> str:
    """A place that means the same in another working directory; URLs do as they are, secrets included."""
    if scheme_of(place) == "file":
        place = place.removeprefix("file://")
    return place if scheme_of(place) else str(Path(place).absolute())
