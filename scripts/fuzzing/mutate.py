"""Ways to damage an image. Each takes bytes (or a directory) and a `random.Random`, and says what it did."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

EXTREMES = (0, 1, 2, 255, 256, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**63, 2**64 - 1)
TIFF_HEADS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_FIELD_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_WHOLE = {1: 1, 3: 2, 4: 4, 13: 4, 16: 8, 18: 8}
_LAYOUT_TAGS = (256, 257, 258, 259, 262, 273, 277, 278, 279, 284, 317, 322, 323, 324, 325, 330, 338, 339, 530)
"""Sizes, sample layout, tables and sub-directories: what a reader allocates by."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a TIFF directory."""

    at: int
    """Byte of the entry."""
    code: int
    kind: int
    count: int
    data: int
    """Byte of its first value."""


@dataclass(frozen=True, slots=True)
class Directories:
    """Where the numbers of a TIFF stand."""

    order: str
    big: bool
    entries: tuple[Entry, ...]
    links: tuple[int, ...]
    """Bytes of the offsets to next directories."""

    @property
    def word(self) -> str:
        """Format of an offset."""
        return self.order + ("Q" if self.big else "I")


def directories(data: bytes) -> Directories:
    """Walk the chain, and the sub-directories of each."""
    order = "<" if data[:2] == b"II" else ">"
    big = data[2:4] in (b"+\0", b"\0+")
    entries: list[Entry] = []
    links: list[int] = [8 if big else 4]
    pending, seen = [links[0]], set()
    word, count_format, step = (order + "Q", order + "Q", 20) if big else (order + "I", order + "H", 12)
    while pending:
        (at,) = struct.unpack_from(word, data, pending.pop())
        if at == 0 or at in seen or at + 8 > len(data):
            continue
        seen.add(at)
        (count,) = struct.unpack_from(count_format, data, at)
        first = at + struct.calcsize(count_format)
        found = [_entry(data, first + i * step, order, big) for i in range(count)]
        entries += found
        links.append(first + count * step)
        pending.append(links[-1])
        pending += [e.data + i * (8 if big else 4) for e in found if e.code == 330 for i in range(e.count)]
    return Directories(order, big, tuple(entries), tuple(links))


def _entry(data: bytes, at: int, order: str, big: bool) -> Entry:
    code, kind, count = struct.unpack_from(order + ("HHQ" if big else "HHI"), data, at)
    value = at + (12 if big else 8)
    if _FIELD_BYTES.get(kind, 1) * count > (8 if big else 4):
        (value,) = struct.unpack_from(order + ("Q" if big else "I"), data, value)
    return Entry(at, code, kind, count, value)


# Bytes ----------------------------------------------------------------------------------------------------


def flip_bytes(data: bytearray, rng: Random) -> str:
    """A few bytes, half of the time in the first kilobytes, where the structure is."""
    reach = len(data) if rng.random() < 0.5 else min(len(data), 4096)
    places = [rng.randrange(reach) for _ in range(rng.choice((1, 4, 32)))]
    for place in places:
        data[place] ^= rng.randrange(1, 256)
    return f"{len(places)} bytes"


def truncate(data: bytearray, rng: Random) -> str:
    keep = rng.randrange(len(data))
    del data[keep:]
    return f"to {keep} bytes"


def zero_span(data: bytearray, rng: Random) -> str:
    start = rng.randrange(len(data))
    length = min(rng.choice((8, 256, 65536)), len(data) - start)
    data[start : start + length] = bytes(length)
    return f"{length} bytes at {start}"


def duplicate_span(data: bytearray, rng: Random) -> str:
    start = rng.randrange(len(data))
    length = min(rng.choice((1, 12, 512, 8192)), len(data) - start)
    data[start:start] = data[start : start + length]
    return f"{length} bytes at {start}"


# TIFF -----------------------------------------------------------------------------------------------------


def _put(data: bytearray, at: int, form: str, value: int) -> None:
    size = struct.calcsize(form)
    if at + size <= len(data):
        struct.pack_into(form, data, at, value % (1 << 8 * size))


def extreme_value(data: bytearray, rng: Random) -> str:
    """A number that a directory states, mostly one that says how large something is."""
    found = directories(bytes(data))
    numbers = [e for e in found.entries if e.kind in _WHOLE and e.count]
    layout = [e for e in numbers if e.code in _LAYOUT_TAGS]
    entry = rng.choice(layout if layout and rng.random() < 0.8 else numbers)
    value = rng.choice(EXTREMES)
    at = entry.data + rng.randrange(entry.count) * _WHOLE[entry.kind]
    _put(data, at, found.order + {1: "B", 2: "H", 4: "I", 8: "Q"}[_WHOLE[entry.kind]], value)
    return f"tag {entry.code} = {value}"


def extreme_entry(data: bytearray, rng: Random) -> str:
    """The code, type, count or offset of an entry."""
    found = directories(bytes(data))
    entry, part, value = (
        rng.choice(found.entries),
        rng.choice(("code", "type", "count", "offset")),
        rng.choice(EXTREMES),
    )
    place = {"code": 0, "type": 2, "count": 4, "offset": 12 if found.big else 8}[part]
    if part == "type":
        value = rng.randrange(20)
    _put(data, entry.at + place, found.order + "H" if part in ("code", "type") else found.word, value)
    return f"{part} of tag {entry.code} = {value}"


def loop(data: bytearray, rng: Random) -> str:
    """An offset that leads back: to a directory, to an entry, to itself."""
    found = directories(bytes(data))
    subs = [e.data for e in found.entries if e.code == 330]
    at = rng.choice([*found.links, *subs])
    target = rng.choice([*found.links, at, *(e.at for e in found.entries), *(e.data for e in found.entries)])
    if rng.random() < 0.5:  # the first directory, as a rule
        (target,) = struct.unpack_from(found.word, data, found.links[0])
    _put(data, at, found.word, target)
    return f"offset at {at} = {target}"


def recursive_subifds(data: bytearray, rng: Random) -> str:
    """An entry becomes a list of sub-directories: the directories of the file, again and again."""
    found = directories(bytes(data))
    entry = rng.choice(found.entries)
    count = rng.choice((1, 3, 1000))
    (first,) = struct.unpack_from(found.word, data, found.links[0])
    at = len(data)
    data += struct.pack(found.order + ("Q" if found.big else "I") * count, *[first] * count)
    struct.pack_into(found.order + "HH", data, entry.at, 330, 16 if found.big else 4)
    _put(data, entry.at + 4, found.word, count)
    _put(data, entry.at + (12 if found.big else 8), found.word, first if count == 1 else at)
    return f"tag {entry.code} lists directory {first} {count} times"


_BOMB = (
    '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY a "aaaaaaaaaa">'
    + "".join(f'<!ENTITY {b} "{f"&{a};" * 10}">' for a, b in zip("abcdefghi", "bcdefghij", strict=True))
    + "]>"
)


def damage_text(data: bytearray, rng: Random) -> str:
    """A text of a directory (OME-XML, ImageJ's, GDAL's): numbers made extreme, tags nested, entities declared."""
    found = directories(bytes(data))
    texts = [e for e in found.entries if e.kind in (1, 2, 7) and e.count > 16]
    if not texts:
        return flip_bytes(data, rng)
    entry = rng.choice(texts)
    text = bytes(data[entry.data : entry.data + entry.count]).rstrip(b"\0").decode("utf-8", "replace")
    how = rng.choice(("numbers", "numbers", "nesting", "entities", "cut"))
    if how == "numbers":
        text = re.sub(r"\d+", lambda m: str(rng.choice(EXTREMES)) if rng.random() < 0.2 else m[0], text)
    elif how == "nesting":
        text = text.replace(">", ">" + "<a>" * 100_000, 2)
    elif how == "entities":
        text = _BOMB + re.sub(r"<\?xml.*?\?>", "", text).replace('="', '="&j;', 1)
    else:
        text = text[: rng.randrange(len(text))]
    content = text.encode() + b"\0"
    at = len(data)
    data += content
    _put(data, entry.at + 4, found.word, len(content))
    _put(data, entry.at + (12 if found.big else 8), found.word, at)
    return f"{how} in tag {entry.code}"


# Zarr -----------------------------------------------------------------------------------------------------


def _documents(root: Path) -> list[Path]:
    names = {".zarray", ".zgroup", ".zattrs", ".zmetadata", "zarr.json"}
    return sorted(path for path in root.rglob("*") if path.name in names)


def _chunks(root: Path) -> list[Path]:
    documents = set(_documents(root))
    return sorted(path for path in root.rglob("*") if path.is_file() and path not in documents)


def _leaves(node: Any) -> Iterator[tuple[Any, Any]]:
    """(container, key) of everything in a document."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        yield node, key
        yield from _leaves(value)


def damage_document(root: Path, rng: Random) -> str:
    """A value of the JSON, of another type or size."""
    path = rng.choice([p for p in _documents(root) if json.loads(p.read_text())])
    document = json.loads(path.read_text())
    for _ in range(rng.choice((1, 1, 3))):
        container, key = rng.choice(list(_leaves(document)))
        container[key] = rng.choice(
            (None, True, -1, 0, 1.5, "", "../../x", "pickle", [], {}, [[]], [-1], float("nan"), *EXTREMES)
        )
    path.write_text(json.dumps(document))
    return f"{path.name}: {key!r} = {container[key]!r:.40}"


def damage_shape(root: Path, rng: Random) -> str:
    """Shape or chunks of an array: huge, empty, negative, another number of axes."""
    path = rng.choice([p for p in _documents(root) if "shape" in p.read_text()])
    document = json.loads(path.read_text())
    places = [
        (c, k) for c, k in _leaves(document) if k in ("shape", "chunks", "chunk_shape") and isinstance(c[k], list)
    ]
    if not places:
        return damage_document(root, rng)
    container, key = rng.choice(places)
    sides = container[key]
    if rng.random() < 0.3:
        container[key] = sides[1:] if rng.random() < 0.5 else [*sides, *sides]
    else:
        sides[rng.randrange(len(sides))] = rng.choice((0, -1, 1, 10**6, 2**31, 2**53, 2**63, 1.5, "4"))
        if rng.random() < 0.3:
            container[key] = [rng.choice((10**6, 2**31, 2**40))] * len(sides)
    path.write_text(json.dumps(document))
    return f"{path.name}: {key} = {container[key]}"


def damage_codec(root: Path, rng: Random) -> str:
    """The codecs of an array: unknown ones, ones for Python objects, several of them."""
    path = rng.choice([p for p in _documents(root) if "shape" in p.read_text()])
    document = json.loads(path.read_text())
    name = rng.choice(("pickle", "json2", "msgpack2", "vlen-utf8", "vlen-bytes", "categorize", "zlib", "lzma", "none"))
    codec = {"id": name, "name": name, "configuration": {}}
    if "zarr_format" in document and document["zarr_format"] == 2:
        key = rng.choice(("compressor", "filters"))
        document[key] = codec if key == "compressor" else [codec] * rng.choice((1, 20))
        if rng.random() < 0.3:
            document["dtype"] = rng.choice(("|O", "<U100000", "|V65536", "<M8[ns]", [["a", "|u1"]], "<c16"))
    else:
        codecs = document.get("codecs", [])
        codecs.insert(rng.randrange(len(codecs) + 1), {**codec, "name": rng.choice((name, f"numcodecs.{name}"))})
        document["codecs"] = codecs
    path.write_text(json.dumps(document))
    return f"{path.name}: {name}"


def nest_document(root: Path, rng: Random) -> str:
    """A document with arrays in arrays in arrays, or one of many megabytes."""
    path = rng.choice(_documents(root))
    text = path.read_text().rstrip()
    depth = rng.choice((500, 100_000))
    kind = rng.choice(("deep", "long"))
    extra = "[" * depth + "]" * depth if kind == "deep" else "[" + "0," * (10 * depth) + "0]"
    path.write_text(text[:-1] + f', "attributes": {{"x": {extra}}}}}')
    return f"{path.name}: {kind}, {depth}"


def damage_bytes_of(root: Path, rng: Random) -> str:
    """The bytes of a chunk, or of a document."""
    chunks = _chunks(root)
    path = rng.choice(chunks if chunks and rng.random() < 0.7 else _documents(root))
    data = bytearray(path.read_bytes())
    if not data:
        return "an empty file"
    how = rng.choice((flip_bytes, truncate, zero_span, duplicate_span))
    what = how(data, rng)
    path.write_bytes(data)
    return f"{path.relative_to(root).as_posix()}: {how.__name__} {what}"


Bytes = Callable[[bytearray, Random], str]
Tree = Callable[[Path, Random], str]
ANY_FILE: tuple[Bytes, ...] = (flip_bytes, truncate, zero_span, duplicate_span)
TIFF: tuple[Bytes, ...] = (
    *ANY_FILE,
    extreme_value,
    extreme_value,
    extreme_entry,
    extreme_entry,
    loop,
    recursive_subifds,
    damage_text,
)
ZARR: tuple[Tree, ...] = (
    damage_document,
    damage_document,
    damage_shape,
    damage_codec,
    nest_document,
    damage_bytes_of,
    damage_bytes_of,
)


def mutate(path: Path, rng: Random) -> tuple[str, str]:
    """Damage a copy in place; the name of the way, and what exactly was done."""
    if path.is_dir():
        way = rng.choice(ZARR)
        return way.__name__, way(path, rng)
    data = bytearray(path.read_bytes())
    is_tiff = bytes(data[:4]) in TIFF_HEADS
    chosen = rng.choice(TIFF if is_tiff else ANY_FILE)
    what = chosen(data, rng)
    path.write_bytes(data)
    return chosen.__name__, what
