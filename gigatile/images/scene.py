"""Scenes that lie in several files: what a SAFE folder or a STAC item says of them, before any of them is opened."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from gigatile.errors import ImageError
from gigatile.images.info import ImageInfo, Source


@dataclass(frozen=True, slots=True)
class SceneFile:
    """One file of a scene."""

    place: str = field(repr=False)
    """A path or URL; the latter may hold secrets."""
    channels: tuple[str, ...]
    """Names of its bands, in their order."""
    nodata: float | None = None
    """What stands for "no pixel" if the file itself does not say."""


@dataclass(frozen=True, slots=True)
class Scene:
    """Files that are one image, with what is known of them together."""

    path: str
    """The folder or item by which the scene was named."""
    format: str
    """``safe`` or ``stac``."""
    files: tuple[SceneFile, ...]
    """In the order of the channels."""
    notes: tuple[str, ...] = ()
    """For ``gigatile info``."""

    def check(self, infos: tuple[ImageInfo, ...]) -> None:
        """Compare the files, once they are open, with what was said of them.

        Raises
        ------
        ImageError
            One has other than its bands.
        """
        for file, info in zip(self.files, infos, strict=True):
            count = len(info.channels) - (info.alpha is not None)
            if count != len(file.channels):
                raise ImageError(
                    info.path,
                    expected=f"{len(file.channels)} band(s), {', '.join(file.channels)}, as {self.path} says",
                    found=str(count),
                    fix="Check that the files belong together, or name the files that are meant with + between them.",
                )


class StatedNodata:
    """A source of which the scene says what is nodata, because the file cannot.

    Parameters
    ----------
    source : Source
        One whose file has neither nodata nor a mask; others keep what they have.
    nodata : float
    """

    def __init__(self, source: Source, nodata: float) -> None:
        self._source, self._nodata = source, nodata
        info = source.info
        self._info = info if info.nodata is not None or info.alpha is not None else replace(info, nodata=nodata)

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self._source, self._nodata)

    @property
    def info(self) -> ImageInfo:
        """What the file says of itself, with nodata."""
        return self._info

    def decode(self, level: int, row: int, col: int) -> np.ndarray[Any, Any]:
        """As the source does."""
        return self._source.decode(level, row, col)

    def identity(self) -> Mapping[str, str | int]:
        """That of the source: plans compare nodata themselves."""
        return self._source.identity()
