"""Writing the tiles of a TIFF behind its front, and then the lists of where they lie."""

from __future__ import annotations

from collections.abc import Sequence
from typing import IO

import numpy as np

from gigatile.exports.tiff_front import Directory, Flavour, build_front

CLASSIC_BYTES = 3 << 30
"""Of pixels, uncompressed: what may be larger is a BigTIFF, because a classic one ends at 4 GiB."""
LEADER_BYTES = 4
"""Size of a tile written before it, and its last bytes repeated after it: GDAL then reads a tile with one request
(https://gdal.org/en/stable/drivers/raster/cog.html, "Tile data leader and trailer")."""


class TiffWriter:
    """Tiles of all directories of one file, in any order, each once; for one thread.

    Memory bound
    ------------
    12 bytes a tile, twice while the front is built.

    Parameters
    ----------
    file : binary file
        New and empty; positioned freely.
    directories : sequence of Directory
    flavour : Flavour
    ghost : bytes
        See `build_front`; where there is one, tiles get leaders and trailers.
    """

    def __init__(self, file: IO[bytes], directories: Sequence[Directory], flavour: Flavour, ghost: bytes = b"") -> None:
        front = build_front(directories, flavour, ghost)
        flat = [each for directory in directories for each in (directory, *directory.children)]
        self._file, self._arrays, self._leaders = file, front.arrays, bool(ghost)
        place = "<u8" if flavour.big else "<u4"
        self._offsets = [np.zeros(directory.tiles, place) for directory in flat]
        self._counts = [np.zeros(directory.tiles, "<u4") for directory in flat]
        self._end = len(front.content)
        file.write(front.content)

    def write(self, directory: int, tile: int, encoded: bytes) -> None:
        """Append one tile.

        Parameters
        ----------
        directory : int
            Counted as they lie in the file: children after their parent.
        tile : int
            Its number in the directory: plane by plane, row by row.
        encoded : bytes
        """
        if self._leaders:
            content = len(encoded).to_bytes(LEADER_BYTES, "little") + encoded + encoded[-LEADER_BYTES:]
            self._offsets[directory][tile] = self._end + LEADER_BYTES
        else:
            content = encoded
            self._offsets[directory][tile] = self._end
        self._counts[directory][tile] = len(encoded)
        self._file.write(content)
        self._end += len(content)

    def finish(self) -> None:
        """Write the lists; the file is whole then."""
        for lists, offsets, counts in zip(self._arrays, self._offsets, self._counts, strict=True):
            for at, values in ((lists.offsets_at, offsets), (lists.counts_at, counts)):
                self._file.seek(at)
                self._file.write(values.tobytes())
        self._file.flush()
