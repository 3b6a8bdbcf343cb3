"""Decode units whose bytes do not decode, and what stands for them where the user asked to go on."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from gigatile.errors import DecodeError
from gigatile.images.cache import Key
from gigatile.images.info import Source

OnBadChunk = Literal["fail", "fill"]
"""Whether a chunk that does not decode fails what reads it, or is filled with nodata and noted."""
MOST_PLACES = 50
"""Places named between two calls of `BadUnits.take`: a record of a block stays small whatever the file is like."""
MOST_LETTERS = 300


@dataclass(frozen=True, slots=True)
class Filled:
    """A unit without pixels."""

    place: str
    """File, level, chunk and byte offset, and what was wrong."""
    nbytes: int = 1000
    """What it takes in a cache."""


Unit = np.ndarray[Any, Any] | Filled


class BadUnits:
    """Places that were filled. Safe to call from many threads.

    Memory bound
    ------------
    `MOST_PLACES` texts of `MOST_LETTERS`.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._places: dict[str, None] = {}
        self._more = False

    def note(self, place: str) -> None:
        """Remember a place; once, however often it is met."""
        with self._lock:
            if place in self._places or len(self._places) < MOST_PLACES:
                self._places[place] = None
            else:
                self._more = True

    def take(self) -> tuple[str, ...]:
        """The places met since the last call, in the order in which they were met; the last says if there were more."""
        with self._lock:
            found = (*self._places, *(["more places, which are not named"] if self._more else []))
            self._places, self._more = {}, False
            return found


def decoded_or_filled(source: Source, key: Key) -> Unit:
    """A unit of a source, or what stands for it where its bytes do not decode, twice.

    Raises
    ------
    BlockError
        The storage failed, which may pass: nothing is filled for that.
    """
    try:
        return source.decode(*key)
    except DecodeError:
        pass  # what came over a network may be damaged on its way: it is read a second time
    try:
        return source.decode(*key)
    except DecodeError as error:
        return Filled(f"{error.where}: {error.found}"[:MOST_LETTERS])
