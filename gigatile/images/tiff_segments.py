"""One page of a TIFF as segments (tiles or strips) that are read and decoded one by one.

tifffile parses the page and supplies the decoder; reading goes by positions, because tifffile's file handle has
one that all threads would fight for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np

from gigatile.errors import BlockError, DecodeError, GigatileError, ImageError
from gigatile.images.coded_size import refuse_larger
from gigatile.images.decode_units import UNIT_BYTES, refuse_giant
from gigatile.storage.reading import ByteSource

Pixels = np.ndarray[Any, Any]
_JPEG = (6, 7, 34892, 33007)
_CCITT = (2, 3, 4)
_LERC = 34887
_APERIO_YCBCR_JPEG2000 = 33003
_END_OF_JPEG = b"\xff\xd9"


SEGMENT_SLACK = 4
"""How many times its pixels' bytes a segment may take; what cannot be compressed grows by half at most (LZW)."""
SEGMENT_HEADERS = 1 << 20
"""Besides, for tables and profiles inside it."""
DAMAGED = "The file is damaged here: fetch it again or restore it, or go on with --on-bad-chunk fill."


@dataclass(frozen=True, slots=True)
class Segment:
    """The bytes of one segment, and where its pixels go."""

    number: int
    """In the tables of the file (for large uncompressed strips, of their pieces)."""
    offset: int
    count: int
    first: int
    """First sample of the plane that is in it."""


@dataclass(frozen=True, slots=True)
class Plane:
    """The segments of one page, in row-major order, all segments of a sample before those of the next."""

    shape: tuple[int, int]
    """Height and width of the page."""
    dtype: np.dtype[Any]
    samples: int
    """Channels that the page contributes."""
    separate: bool
    """Each sample has its own segments (PlanarConfiguration 2)."""
    chunk: tuple[int, int]
    """Height and width of a segment."""
    offsets: np.ndarray[Any, np.dtype[np.int64]]
    """Byte of each segment, shape (samples stored apart or 1, rows, cols)."""
    counts: np.ndarray[Any, np.dtype[np.int64]]
    """Bytes per segment, shape as `offsets`; 0 where the file leaves the segment out."""
    decoder: Callable[[bytes, int], Pixels]
    """From the bytes of segment i to pixels (h, w, samples), perhaps beyond the edge of the page."""

    def is_complete(self, rows: range, cols: range) -> bool:
        """Whether the file leaves none of the segments in a part of the grid out."""
        return bool(self.counts[:, rows.start : rows.stop, cols.start : cols.stop].all())

    def segments(self, row: int, col: int, where: str) -> Iterator[Segment]:
        """What the file holds at a place of the grid; nothing for what it leaves out.

        Raises
        ------
        DecodeError
            The file states far more bytes than the pixels can need: they are not read.
        """
        sets, rows, cols = self.counts.shape
        samples = 1 if self.separate else self.samples
        most = SEGMENT_SLACK * self.chunk[0] * self.chunk[1] * samples * self.dtype.itemsize + SEGMENT_HEADERS
        for i in range(sets):
            if count := self.counts.item(i, row, col):
                number = (i * rows + row) * cols + col
                if count > most:
                    raise DecodeError(
                        f"{where}, segment {number} at byte {self.offsets.item(i, row, col)}",
                        expected=f"at most {most} bytes for {self.chunk[0]} x {self.chunk[1]} pixels",
                        found=f"{count} bytes",
                        fix=DAMAGED,
                    )
                yield Segment(number, self.offsets.item(i, row, col), count, i)

    def fill(self, segment: Segment, data: bytes, out: Pixels, where: str) -> None:
        """Decode a segment into `out`, shape (samples, h, w); other samples keep their values.

        Raises
        ------
        DecodeError
            The bytes do not decode to such pixels.
        """
        samples = 1 if self.separate else self.samples
        try:
            pixels = self.decoder(data, segment.number)
            part = pixels[: out.shape[1], : out.shape[2]]
            if part.shape != (*out.shape[1:], samples):
                raise ValueError(f"decoded to {pixels.shape}")  # numpy would broadcast a short segment
            out[segment.first * samples : (segment.first + 1) * samples] = part.transpose(2, 0, 1)
        except MemoryError:
            raise
        except Exception as error:  # every codec has its own exceptions; none may pass without a place
            raise DecodeError(
                f"{where}, segment {segment.number} at byte {segment.offset}",
                expected=f"{segment.count} bytes that decode to {out.shape[1]} x {out.shape[2]} pixels",
                found=f"{type(error).__name__}: {error}",
                fix=DAMAGED,
            ) from error


def read_segments(file: ByteSource, segments: Sequence[Segment], where: str) -> list[bytes]:
    """The bytes of segments, asked for at once: of a remote file near ones are one request.

    Raises
    ------
    DecodeError
        The file ends before.
    BlockError
        The storage failed, after retries where they help.
    """
    try:
        return file.read_many([(segment.offset, segment.count) for segment in segments])
    except EOFError as error:
        raise DecodeError(_segments_at(where, segments), found=f"EOFError: {error}", fix=DAMAGED) from error
    except OSError as error:
        raise BlockError(
            _segments_at(where, segments),
            expected="storage that can be read",
            found=str(error) if isinstance(error, GigatileError) else f"{type(error).__name__}: {error}",
            fix="See that the storage is there and may be read.",
        ) from error


def _segments_at(where: str, segments: Sequence[Segment]) -> str:
    numbers = [segment.number for segment in segments]
    which = f"segment {numbers[0]}" if len(numbers) == 1 else f"segments {min(numbers)} to {max(numbers)}"
    return f"{where}, {which}, from byte {min(segment.offset for segment in segments)}"


def read_plane(page: Any, file: ByteSource, pages: int) -> Plane:
    """Take from a tifffile page (or frame) what decoding needs. The tifffile handle must be open.

    Parameters
    ----------
    page : tifffile.TiffPage or TiffFrame
    file : ByteSource
        The file that the page is in.
    pages : int
        How many pages make up the level: a decode unit holds pixels of all of them.

    Raises
    ------
    ImageError
        The page is truncated, or stored in a way that cannot be decoded.
    """
    key = page.keyframe
    _refuse_unreadable(key, file.name)
    chunk = (key.tilelength, key.tilewidth) if key.is_tiled else (key.rowsperstrip, key.imagewidth)
    separate = key.planarconfig == 2 and key.samplesperpixel > 1
    shape = (key.imagelength, key.imagewidth)
    needed = ceil(shape[0] / chunk[0]) * ceil(shape[1] / chunk[1]) * (key.samplesperpixel if separate else 1)
    offsets = np.asarray(page.dataoffsets[:needed], np.int64)
    counts = np.asarray(page.databytecounts[:needed], np.int64)
    if len(offsets) < needed or len(counts) < needed:
        raise ImageError(
            file.name,
            expected=f"{needed} tiles or strips",
            found=f"a table of {min(len(offsets), len(counts))}",
            fix="The file is truncated or damaged: fetch it again.",
        )
    table = _Table(chunk, offsets, np.where(offsets > 0, counts, 0))
    decoder = _decoder(page)
    if _is_raw(key):
        table = _raw_table(key, table, pages, file.name)
        decoder = _raw_decoder(key, table.chunk[1])
    # A tile is decoded whole, however little of it lies inside the page; a strip ends with it.
    sides = table.chunk if key.is_tiled else (min(table.chunk[0], shape[0]), shape[1])
    refuse_giant(file.name, sides, key.samplesperpixel * pages * key.dtype.itemsize)
    _refuse_truncated(table, file)
    grid = (key.samplesperpixel if separate else 1, *map(ceil, np.divide(shape, table.chunk)))
    return Plane(
        shape=shape,
        dtype=np.dtype(key.dtype),
        samples=key.samplesperpixel,
        separate=separate,
        chunk=table.chunk,
        offsets=table.offsets.reshape(grid),
        counts=table.counts.reshape(grid),
        decoder=decoder,
    )


@dataclass(frozen=True, slots=True)
class _Table:
    """Where the segments of a page lie."""

    chunk: tuple[int, int]
    offsets: Pixels
    counts: Pixels


def _refuse_unreadable(page: Any, path: str) -> None:
    """Refuse what no decoder of ours returns as real numbers in two dimensions."""
    import tifffile

    fix = "Convert it, for instance with `gdal_translate` or `vips tiffsave`."
    if page.dtype is None or page.dtype.kind not in "buif":
        kind = page.dtype or f"{page.bitspersample}-bit samples of format {int(page.sampleformat)}"
        raise ImageError(path, expected="real numbers or integers", found=f"pixels of type {kind}", fix=fix)
    if page.imagedepth > 1:
        raise ImageError(path, expected="a plane", found=f"a volume of {page.imagedepth} slices", fix=fix)
    if min(page.imagelength, page.imagewidth, page.samplesperpixel) < 1:
        raise ImageError(path, expected="pixels", found=f"a page of shape {page.shape}", fix=fix)
    if page.rowsperstrip < 1 and not page.is_tiled:
        raise ImageError(path, expected="tiles or strips", found="neither", fix=fix)
    if page.is_tiled and (min(page.tilelength, page.tilewidth) < 1 or page.tiledepth > 1):
        found = f"tiles of {page.tiledepth} x {page.tilelength} x {page.tilewidth}"
        raise ImageError(path, expected="tiles of one plane", found=found, fix=fix)
    if page.compression not in (1, *_JPEG, *_CCITT):
        try:
            tifffile.TIFF.DECOMPRESSORS[page.compression]
        except KeyError as error:
            name = getattr(page.compression, "name", "unknown")
            found = f"compression {int(page.compression)} ({name})"
            raise ImageError(path, expected="a compression with a decoder", found=found, fix=fix) from error


def _refuse_truncated(table: _Table, file: ByteSource) -> None:
    offsets, counts = table.offsets, table.counts
    beyond = int(((offsets + counts > file.size) & (counts > 0)).sum()) + int((offsets < 0).sum())
    if beyond:
        raise ImageError(
            file.name,
            expected=f"at least {int((offsets + counts).max())} bytes",
            found=f"{file.size} bytes; {beyond} of {len(offsets)} tiles or strips lie beyond the end",
            fix="The file is truncated: fetch it again.",
        )


def _is_raw(page: Any) -> bool:
    """Stored as it is in memory, byte order aside, so that any rows of it can be read alone."""
    return bool(
        page.compression == 1
        and page.predictor == 1
        and page.fillorder == 1
        and page.bitspersample == 8 * page.dtype.itemsize
        and page.sampleformat in (1, 2, 3)
        and not page.is_subsampled
    )


def _raw_decoder(page: Any, width: int) -> Callable[[bytes, int], Pixels]:
    stored = np.dtype(page.dtype).newbyteorder(page.parent.byteorder)
    samples = page.samplesperpixel if page.planarconfig == 1 else 1

    def decode(data: bytes, segment: int) -> Pixels:
        return np.frombuffer(data, stored).reshape(-1, width, samples)

    return decode


def _raw_table(page: Any, table: _Table, pages: int, path: str) -> _Table:
    """The table with no more bytes than pixels need, and with large strips cut into short ones.

    Raises
    ------
    ImageError
        A strip that would be cut is shorter than its pixels.
    """
    height, samples = page.imagelength, page.samplesperpixel
    is_separate = page.planarconfig == 2
    row_bytes = table.chunk[1] * page.dtype.itemsize * (1 if is_separate else samples)
    strip_rows = min(table.chunk[0], height)
    rows = np.full(len(table.counts), table.chunk[0])
    if not page.is_tiled:
        strips = ceil(height / strip_rows)
        rows = np.minimum(strip_rows, height - np.arange(len(table.counts)) % strips * strip_rows)
    table = _Table(table.chunk, table.offsets, np.minimum(table.counts, rows * row_bytes))
    room = UNIT_BYTES // (pages * (samples if is_separate else 1))
    if page.is_tiled or strip_rows * row_bytes <= room or not table.counts.all():
        return table  # strips that the file leaves out are not cut: the number of pieces is the header's word alone
    short = int(((table.counts > 0) & (table.counts < rows * row_bytes)).sum())
    if short:
        raise ImageError(
            path,
            expected=f"uncompressed strips of {strip_rows * row_bytes} bytes",
            found=f"{short} of {len(rows)} that are shorter",
            fix="The file is truncated or damaged: fetch it again.",
        )
    return _cut_strips(table, height, max(1, room // row_bytes), row_bytes)


def _cut_strips(table: _Table, height: int, rows: int, row_bytes: int) -> _Table:
    """Cut strips into pieces of at most `rows`, so that large ones are not read whole.

    ::

        strip 0 ┌──────┐ rows      strips are in row-major order, sample after sample,
                ├──────┤ rows      and so are their pieces
        strip 1 ├──────┤ rows
                └──────┘ the rest
    """
    strip_rows = min(table.chunk[0], height)
    strips = ceil(height / strip_rows)
    samples = len(table.offsets) // strips
    if strips > 1:  # strip borders must be borders of pieces, or the pieces would form no grid
        rows = max(r for r in range(1, min(rows, strip_rows) + 1) if strip_rows % r == 0)
    starts = np.arange(ceil(strip_rows / rows), dtype=np.int64) * (rows * row_bytes)
    keep = ceil(height / rows)
    offsets = (table.offsets[:, None] + starts).reshape(samples, -1)[:, :keep]
    counts = np.clip(table.counts[:, None] - starts, 0, rows * row_bytes).reshape(samples, -1)[:, :keep]
    return _Table((rows, table.chunk[1]), offsets.reshape(-1), counts.reshape(-1))


def _decoder(page: Any) -> Callable[[bytes, int], Pixels]:
    """tifffile's decoder with what belongs to this page bound to it."""
    import tifffile

    key = page.keyframe
    height, width = (key.tilelength, key.tilewidth) if key.is_tiled else (key.rowsperstrip, key.imagewidth)
    room = min(height, key.imagelength if not key.is_tiled else height) * width * key.samplesperpixel
    tifffile_decode = key.decode  # built here, once: building it is not thread-safe and may read the file
    if key.compression in _JPEG:
        tables, header = page.jpegtables, key.jpegheader

        def decode_jpeg(data: bytes, segment: int) -> Pixels:
            if header is None and key.compression == 7 and data.rfind(_END_OF_JPEG) < 0:
                # libjpeg would only warn, and fill what is missing with grey
                raise EOFError("the JPEG stream has no end marker")
            refuse_larger(data if header is None else header, room)
            pixels = tifffile_decode(data, segment, jpegtables=tables, jpegheader=header)[0]
            return np.asarray(pixels[0])

        return decode_jpeg

    is_picture = key.compression in (*tifffile.TIFF.IMAGE_COMPRESSIONS, _LERC)

    def decode(data: bytes, segment: int) -> Pixels:
        if is_picture:
            refuse_larger(data, room)
        return np.asarray(tifffile_decode(data, segment)[0][0])

    if key.compression == _APERIO_YCBCR_JPEG2000 and key.samplesperpixel == 3:
        return lambda data, segment: _ycbcr_to_rgb(decode(data, segment))
    return decode


def _ycbcr_to_rgb(pixels: Pixels) -> Pixels:
    """Full-range BT.601 (JFIF 1.02, page 3): Aperio's JPEG 2000 kind 33003 is YCbCr and does not say so."""
    y, cb, cr = (pixels[..., i].astype(np.float32) for i in range(3))
    cb, cr = cb - 128, cr - 128
    rgb = np.stack([y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb], axis=-1)
    rgb8: Pixels = np.clip(np.rint(rgb), 0, 255).astype(pixels.dtype)
    return rgb8
