"""What a Zarr array may ask of its reader: codecs that yield numbers, chunks that decode to what they should be.

A chunk says in its own header how large it becomes, and libraries make room for that before they look further: a few
kilobytes of zstd can become gigabytes. So each codec that compresses is put behind a limit, which follows from the
shape of the chunk. ::

    stored bytes ──▶ limit: header, or a stream that stops ──▶ codec ──▶ chunk
"""

from __future__ import annotations

import bz2
import copy
import lzma
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from gigatile.errors import ImageError
from gigatile.images.decode_units import CHUNK_LIMIT_BYTES
from gigatile.units import format_bytes

_OBJECT_CODECS = {
    "pickle",
    "json",
    "json2",
    "msgpack",
    "msgpack2",
    "vlen-utf8",
    "vlen-bytes",
    "vlen-array",
    "categorize",
}
"""Codecs that yield Python objects. Unpickling runs what the file says; the others have no use for pixels."""
MOST_CHUNKS = 1 << 22
"""Along one axis: the reader keeps the borders of its decode units in a list."""
MOST_CHANNELS = 1 << 16
_DICTIONARY_BYTES = 256 << 20
"""An xz header may ask for up to 4 GiB; the strongest preset needs 65 MiB."""
_SLACK_BYTES = 1 << 16
_FACTOR = 2
"""Filters and checksums may make a chunk larger than its pixels, but not much."""


def refuse_endless(where: str, shape: tuple[int, int], chunk: tuple[int, int], channels: int) -> None:
    """Refuse an array whose list of chunks, or of channels, would not fit in memory.

    Raises
    ------
    ImageError
        More than `MOST_CHUNKS` along y or x, or more than `MOST_CHANNELS`.
    """
    counts = [-(-side // step) for side, step in zip(shape, chunk, strict=True)]
    if max(counts) > MOST_CHUNKS or channels > MOST_CHANNELS:
        raise ImageError(
            where,
            expected=f"at most {MOST_CHUNKS} chunks along an axis and {MOST_CHANNELS} channels",
            found=f"{counts[0]} x {counts[1]} chunks, {channels} channels",
            fix="Write it again with larger chunks, if this is an image.",
        )


def limited(array: Any, where: str) -> Any:
    """The same `zarr.Array`, whose codecs refuse chunks that would become far larger than the chunk shape says.

    Raises
    ------
    ImageError
        A codec yields Python objects instead of numbers; or a chunk, all axes together, is larger than any that is
        decoded as a whole.
    """
    import zarr

    _refuse_giant_chunk(array, where)
    metadata = copy.copy(array.metadata)
    if metadata.zarr_format == 2:
        names = [str(codec.codec_id) for codec in (*(metadata.filters or ()), metadata.compressor) if codec is not None]
        _refuse_objects(names, where)
        limit = _limit(prod(metadata.chunks) * array.dtype.itemsize)
        if metadata.compressor is not None:
            object.__setattr__(metadata, "compressor", _LimitedV2(metadata.compressor, limit))
        if metadata.filters:
            object.__setattr__(metadata, "filters", tuple(_LimitedV2(codec, limit) for codec in metadata.filters))
    else:
        itemsize = array.dtype.itemsize
        codecs = tuple(_limited_v3(codec, itemsize, where) for codec in metadata.codecs)
        object.__setattr__(metadata, "codecs", codecs)
    return zarr.Array(zarr.AsyncArray(metadata=metadata, store_path=array.store_path))


def _refuse_giant_chunk(array: Any, where: str) -> None:
    """A chunk is decoded whole, however little of it lies inside the array; so is the index of a shard."""
    nbytes = prod(array.chunks) * array.dtype.itemsize
    inner = prod(-(-a // b) for a, b in zip(array.shards or (), array.chunks, strict=bool(array.shards)))
    if nbytes > CHUNK_LIMIT_BYTES or inner > MOST_CHUNKS:
        raise ImageError(
            where,
            expected=f"chunks of at most {format_bytes(CHUNK_LIMIT_BYTES)}, and at most {MOST_CHUNKS} in a shard",
            found=f"chunks of shape {array.chunks} ({format_bytes(nbytes)}), {inner} in a shard",
            fix="Rewrite the image with smaller chunks.",
        )


def _limit(nbytes: int) -> int:
    return _FACTOR * nbytes + _SLACK_BYTES


def _refuse_objects(names: list[str], where: str) -> None:
    found = sorted(_OBJECT_CODECS & {name.removeprefix("numcodecs.") for name in names})
    if found:
        raise ImageError(
            where,
            expected="codecs that yield numbers",
            found=f"{', '.join(found)}, for Python objects",
            fix="Write the pixels again, as an array of a numeric type.",
        )


@dataclass(frozen=True, slots=True)
class _LimitedV2:
    """A codec of numcodecs behind the limit."""

    codec: Any
    limit: int

    def decode(self, data: Any, out: Any = None) -> Any:
        """Decode, unless that would make more than `limit` bytes."""
        stream = _STREAMS.get(self.codec.codec_id)
        if stream is not None:
            return stream(bytes(data), self.limit)
        _check_header(self.codec.codec_id, data, self.limit)
        return self.codec.decode(data)


def _limited_v3(codec: Any, itemsize: int, where: str) -> Any:
    """A codec of Zarr v3 behind the limit, if it compresses; those inside of shards as well."""
    from zarr.abc.codec import BytesBytesCodec
    from zarr.codecs import ShardingCodec

    document = codec.to_dict()
    name = str(document["name"])
    _refuse_objects([name], where)
    if isinstance(codec, ShardingCodec):
        return replace(codec, codecs=tuple(_limited_v3(inner, itemsize, where) for inner in codec.codecs))
    kind = name.removeprefix("numcodecs.")
    if not isinstance(codec, BytesBytesCodec) or kind not in {*_STREAMS, *_HEADERS}:
        return codec

    class Limited(BytesBytesCodec):  # type: ignore[misc]
        """The codec behind the limit; reads only."""

        is_fixed_size = False

        def to_dict(self) -> Any:
            return document

        def compute_encoded_size(self, input_byte_length: int, chunk_spec: Any) -> int:
            return int(codec.compute_encoded_size(input_byte_length, chunk_spec))

        async def _decode_single(self, chunk_bytes: Any, chunk_spec: Any) -> Any:
            limit = _limit(prod(chunk_spec.shape) * itemsize)
            stream = _STREAMS.get(kind)
            if stream is not None:
                return chunk_spec.prototype.buffer.from_bytes(stream(chunk_bytes.to_bytes(), limit))
            _check_header(kind, chunk_bytes.as_numpy_array(), limit)
            # Zarr's hook for writers of codecs; its public `decode` takes batches, which costs 1 ms a chunk.
            return await codec._decode_single(chunk_bytes, chunk_spec)

    return Limited()


# Sizes ----------------------------------------------------------------------------------------------------


def _check_header(kind: str, data: Any, limit: int) -> None:
    """Refuse a compressed frame whose header announces more than `limit` bytes."""
    read = _HEADERS.get(kind)
    if read is None:
        return
    frame = memoryview(data).cast("B")
    size = read(bytes(frame[:18]))
    if size is None:
        _decode_unsized(kind, frame, limit)
    elif size > limit:
        raise _too_large(f"{size} bytes", limit)


def _too_large(what: str, limit: int) -> ValueError:
    return ValueError(f"a chunk of {what} where {limit} are the most: refused")


def _decode_unsized(kind: str, frame: memoryview, limit: int) -> None:
    """A zstd frame need not say its size: then it is decoded twice, first into a buffer that ends at the limit."""
    if kind == "zstd":
        import imagecodecs

        imagecodecs.zstd_decode(bytes(frame), out=limit)


def _zstd_size(head: bytes) -> int | None:
    """Frame_Content_Size (RFC 8878, 3.1.1.1); None where the frame does not say."""
    if len(head) < 6 or head[:4] != b"\x28\xb5\x2f\xfd":
        return 0  # the codec will say what is wrong
    descriptor = head[4]
    is_single = descriptor >> 5 & 1
    nbytes = (is_single, 2, 4, 8)[descriptor >> 6]
    start = 5 + (0 if is_single else 1) + (0, 1, 2, 4)[descriptor & 3]
    if not nbytes:
        return None
    return int.from_bytes(head[start : start + nbytes], "little") + (256 if nbytes == 2 else 0)


_HEADERS: dict[str, Callable[[bytes], int | None]] = {
    "zstd": _zstd_size,
    "blosc": lambda head: int.from_bytes(head[4:8], "little"),
    "lz4": lambda head: int.from_bytes(head[:4], "little"),
}
"""Decoded size from the head of a frame."""


def _zlib_stream(wbits: int) -> Callable[[bytes, int], bytes]:
    def decode(data: bytes, limit: int) -> bytes:
        parts: list[bytes] = []
        room = limit
        while data:  # gzip files may hold several streams
            stream = zlib.decompressobj(wbits)
            parts.append(stream.decompress(data, room + 1))
            room -= len(parts[-1])
            if room < 0:
                raise _too_large("more bytes", limit)
            if not stream.eof:
                raise EOFError("the compressed stream is cut off")
            data = stream.unused_data.lstrip(b"\0")
        return b"".join(parts)

    return decode


def _stream(make: Callable[[], Any]) -> Callable[[bytes, int], bytes]:
    def decode(data: bytes, limit: int) -> bytes:
        stream = make()
        content = bytes(stream.decompress(data, limit + 1))
        if len(content) > limit:
            raise _too_large("more bytes", limit)
        if not stream.eof:
            raise EOFError("the compressed stream is cut off")
        return content

    return decode


_STREAMS: dict[str, Callable[[bytes, int], bytes]] = {
    "gzip": _zlib_stream(31),
    "zlib": _zlib_stream(15),
    "bz2": _stream(bz2.BZ2Decompressor),
    "lzma": _stream(lambda: lzma.LZMADecompressor(memlimit=_DICTIONARY_BYTES)),
}
"""Formats that do not say how large they become are decoded up to the limit."""
