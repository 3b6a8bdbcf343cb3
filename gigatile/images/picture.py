"""Plain PNG and JPEG pictures: read whole when they are opened, because their codecs cannot do less."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from gigatile.errors import ImageError
from gigatile.images.decode_units import CHUNK_LIMIT_BYTES, CHUNK_LIMIT_PX
from gigatile.images.info import ImageInfo
from gigatile.images.memory import ArraySource
from gigatile.images.places import absolute
from gigatile.storage.files import open_bytes
from gigatile.units import format_bytes

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
JPEG_MAGIC = b"\xff\xd8\xff"
_CHANNELS = {
    1: ("0",),
    2: ("0", "alpha"),
    3: ("red", "green", "blue"),
    4: ("red", "green", "blue", "alpha"),
}
_CMYK = ("cyan", "magenta", "yellow", "black")


class PictureSource:
    """A PNG or JPEG file.

    Memory bound
    ------------
    The whole picture stays in memory, and while it is opened the file beside it; files beyond 1 GiB are refused
    before they are read, pictures beyond 256 Mpx or 1 GiB before they are decoded.

    Raises
    ------
    ImageError
        The file is missing, truncated, not such a picture, or too large to be held.
    StorageError
        A store or server does not answer.
    """

    def __init__(self, place: str | Path) -> None:
        self._place = str(place)
        self._file = open_bytes(place)
        if self._file.size > CHUNK_LIMIT_BYTES:
            raise self._giant(format_bytes(self._file.size))
        data = self._whole()
        kind = "png" if data.startswith(PNG_MAGIC) else "jpeg"
        try:
            height, width = _png_shape(data) if kind == "png" else _jpeg_shape(data)
            self._refuse_giant(height, width, _png_pixel_bytes(data) if kind == "png" else _JPEG_PIXEL_BYTES)
            pixels = _decode(data, kind)
        except ImageError:
            raise
        except Exception as error:  # codecs have exceptions of their own
            raise ImageError(
                self._file.name,
                expected=f"a {kind.upper()} picture",
                found=f"{type(error).__name__}: {error}",
                fix="The file is truncated or damaged: fetch it again.",
            ) from error
        channels = pixels.shape[2]
        names = _CMYK if kind == "jpeg" and channels == 4 else _CHANNELS[channels]
        self._array = ArraySource(pixels, "yxc", channels=names)
        self._info = replace(self._array.info, path=self._file.name, format=kind)

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (absolute(self._place),)

    @property
    def info(self) -> ImageInfo:
        """What the file says of itself."""
        return self._info

    def decode(self, level: int, row: int, col: int) -> np.ndarray[Any, Any]:
        """A window of the decoded picture: see `Source.decode`."""
        return self._array.decode(level, row, col)

    def identity(self) -> Mapping[str, str | int]:
        """Size and sampled digest of the file, or the ETag of an object."""
        return self._file.identity()

    def _whole(self) -> bytes:
        try:
            return self._file.read(0, self._file.size)
        except EOFError as error:
            raise ImageError(self._file.name, expected="a picture", found=str(error), fix="Fetch it again.") from error

    def _refuse_giant(self, height: int, width: int, pixel_bytes: int) -> None:
        pixels = height * width
        if pixels > CHUNK_LIMIT_PX or pixels * pixel_bytes > CHUNK_LIMIT_BYTES:
            raise self._giant(f"{pixels / 1e6:.0f} Mpx of {pixel_bytes} bytes")

    def _giant(self, found: str) -> ImageError:
        return ImageError(
            self._file.name,
            expected=f"a picture of at most {CHUNK_LIMIT_PX >> 20} Mpx and {format_bytes(CHUNK_LIMIT_BYTES)}",
            found=found,
            fix="PNG and JPEG cannot be read in parts: convert it with `vips tiffsave --tile --pyramid`.",
        )


def _decode(data: bytes, kind: str) -> np.ndarray[Any, Any]:
    """Pixels, shape (y, x, c)."""
    import imagecodecs

    if kind == "jpeg" and data.rfind(b"\xff\xd9") < 0:
        raise EOFError("the JPEG stream has no end marker")  # libjpeg would fill the rest with grey
    pixels = np.asarray(imagecodecs.png_decode(data) if kind == "png" else imagecodecs.jpeg_decode(data))
    if pixels.size == 0:
        raise ValueError("it has no pixels")
    return pixels if pixels.ndim == 3 else pixels[..., np.newaxis]


_PNG_SAMPLES = {0: 1, 2: 3, 3: 4, 4: 2, 6: 4}
"""Samples a pixel by colour type (PNG, table 11.1); a palette comes out with alpha at most."""
_JPEG_PIXEL_BYTES = 4


def _png_pixel_bytes(data: bytes) -> int:
    """Bytes of a decoded pixel, from IHDR."""
    return _PNG_SAMPLES[data[25]] * (2 if data[24] == 16 else 1)


def _png_shape(data: bytes) -> tuple[int, int]:
    """Height and width from IHDR, which comes first (PNG, section 11.2.1)."""
    return int.from_bytes(data[20:24], "big"), int.from_bytes(data[16:20], "big")


def _jpeg_shape(data: bytes) -> tuple[int, int]:
    """Height and width from the frame header (ITU T.81, section B.2.2)."""
    at = 2
    while at + 9 <= len(data):
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if data[at] != 0xFF or length < 2:
            break
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return int.from_bytes(data[at + 5 : at + 7], "big"), int.from_bytes(data[at + 7 : at + 9], "big")
        at += 2 + length
    raise ValueError("no JPEG frame header")
