"""The lines of the ledger: what each kind says, and how it is written and read.

::

    4f1c22ab {"status":"done","block":"0/3/7","id":"9a0b...","pixels":1048576, ...}     CRC-32 of the JSON, in hex
             {"status":"failed","block":"0/3/8","id":"...","error":"...","trace":"..."}
             {"status":"damaged","id":"...","revokes":["9a0b..."],"block":"0/3/7"}      also "retried"
             {"status":"started","id":"...","blocks":["0/3/9"],"alone":true}            an attempt; no block fails by it
             {"status":"released","id":"...","attempt":"..."}                           it was given up, nobody died

Fields at their default are left out. What is no such line, whatever else it may be, is dropped and counted.
"""

from __future__ import annotations

import math
import re
import secrets
import zlib
from collections.abc import Sequence
from typing import Annotated, Any, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from gigatile.engine.record import BlockKey, BlockRecord

Count = Annotated[int, msgspec.Meta(ge=0, le=2**45)]
"""Those of one batch of lines, at most some 100,000, stay inside int64 together."""
LARGEST_DIFFERENCE = 1e200
"""Of seams; beyond it they are not compared. Sums of a million of them stay finite."""
Grid = tuple[int, int]
Integers = npt.NDArray[np.int64]
Identities = npt.NDArray[np.uint64]

_CRC_CHARS = 9
"""Eight digits and a blank."""


class _Line(msgspec.Struct, tag_field="status", omit_defaults=True, gc=False):
    id: str


class Finished(_Line):
    """A `BlockRecord`, but for its status. Not written itself."""

    block: str
    pixels: Count = 0
    nbytes: Count = 0
    digest: str = ""
    tiles: Count = 0
    skipped: Count = 0
    units_decoded: Count = 0
    seam_pixels: Count = 0
    seam_difference: Annotated[float, msgspec.Meta(ge=0, le=LARGEST_DIFFERENCE)] | None = 0.0
    """None where it is no number: JSON has no NaN."""
    seam_disagreements: Count = 0
    seconds: dict[str, Annotated[float, msgspec.Meta(ge=0, le=1e9)]] = {}
    peak_rss_bytes: Count = 0
    error: str = ""
    trace: str = ""
    filled: tuple[str, ...] = ()
    attempt: str = ""


class Done(Finished, tag="done"):
    """There is a shard."""


class Empty(Finished, tag="empty"):
    """Every pixel is invalid; there is no shard."""


class Failed(Finished, tag="failed"):
    """It could not be computed."""


class _Revocation(_Line):
    revokes: list[str]
    block: str = ""


class Damaged(_Revocation, tag="damaged"):
    """Shards are not what the records say."""


class Retried(_Revocation, tag="retried"):
    """What failed, or was suspected of killing, is tried again."""


class Started(_Line, tag="started"):
    """An attempt at some blocks begins; its id is the attempt's."""

    blocks: list[str]
    alone: bool = False


class Released(_Line, tag="released"):
    """An attempt ended without a death."""

    attempt: str


Line = Done | Empty | Failed | Damaged | Retried | Started | Released
_KINDS: dict[str, type[Done] | type[Empty] | type[Failed]] = {"done": Done, "empty": Empty, "failed": Failed}
_SHARED = tuple(name for name in BlockRecord.__slots__ if name not in ("block", "status"))

_encode = msgspec.json.Encoder().encode
_decode_one = msgspec.json.Decoder(Line).decode
_decode_many = msgspec.json.Decoder(list[Line]).decode

T = TypeVar("T", bound=Finished)


def new_identity() -> str:
    """An id that no other record has: 64 random bits in hex."""
    return secrets.token_hex(8)


def line_of_record(record: BlockRecord) -> bytes:
    """The line of what happened to a block."""
    # Every default is false; left out here, because msgspec takes a computed 0.0 for another than its own.
    fields: dict[str, Any] = {name: value for name in _SHARED if (value := getattr(record, name))}
    if not 0 <= record.seam_difference <= LARGEST_DIFFERENCE:  # also NaN
        fields["seam_difference"] = None
    return framed(_KINDS[record.status](id=new_identity(), block=str(record.block), **fields))


def framed(line: Line) -> bytes:
    """A line with its CRC and its end."""
    body = _encode(line)
    return b"%08x %s\n" % (zlib.crc32(body), body)


def record_of_line(line: Finished) -> BlockRecord:
    """The inverse of `line_of_record`."""
    fields = {name: getattr(line, name) for name in _SHARED}
    if fields["seam_difference"] is None:
        fields["seam_difference"] = math.nan
    status = next(name for name, kind in _KINDS.items() if type(line) is kind)
    return BlockRecord(block=BlockKey.parse(line.block), status=status, **fields)  # type: ignore[arg-type]


def parse_lines(lines: Sequence[bytes]) -> tuple[list[Line], int]:
    """What whole lines say, without their ends, and how many were dropped: torn, damaged, or of no known kind."""
    bodies = [line[_CRC_CHARS:] for line in lines]
    intact = _intact(lines, bodies)
    checked = bodies if all(intact) else [body for body, right in zip(bodies, intact, strict=True) if right]
    if not checked:
        return [], len(lines)
    try:
        # One call for all of them; one by one only where that finds something.
        found: list[Line] = _decode_many(b"[%s]" % b",".join(checked))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        found = []
    if len(found) != len(checked):
        found = [entry for entry in map(parse_body, checked) if entry is not None]
    return found, len(lines) - len(found)


def parse_body(body: bytes) -> Line | None:
    """The same without the CRC."""
    try:
        found: Line = _decode_one(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return found


def _intact(lines: Sequence[bytes], bodies: Sequence[bytes]) -> Sequence[bool]:
    """Whether each line is the CRC of its body in lower-case hex, a blank, and the body."""
    found = list(map(zlib.crc32, bodies))
    heads = b"".join([line[:_CRC_CHARS] for line in lines])
    if len(heads) != _CRC_CHARS * len(lines):
        return [line[:_CRC_CHARS] == b"%08x " % crc for line, crc in zip(lines, found, strict=True)]
    # All heads against all that they should be: formatting each would be a tenth of the time of a scan.
    expected = np.array(found, ">u4").tobytes().hex().encode()
    wanted = np.frombuffer(expected, np.uint8).reshape(-1, _CRC_CHARS - 1)
    table = np.frombuffer(heads, np.uint8).reshape(-1, _CRC_CHARS)
    right = (table[:, :-1] == wanted).all(axis=1) & (table[:, -1] == ord(" "))
    intact: list[bool] = right.tolist()
    return intact


class Blocks:
    """The numbers of blocks in one array over all stages: stage after stage, row after row.

    Parameters
    ----------
    grids : sequence of (int, int)
        Rows and columns of each stage, the finest first.
    """

    def __init__(self, grids: Sequence[Grid]) -> None:
        self.grids: tuple[Grid, ...] = tuple((int(rows), int(cols)) for rows, cols in grids)
        counts = [rows * cols for rows, cols in self.grids]
        self.starts = np.concatenate(([0], np.cumsum(counts, dtype=np.int64))).astype(np.int64)
        self._rows = np.array([rows for rows, _ in self.grids], np.int64)
        self._cols = np.array([cols for _, cols in self.grids], np.int64)

    @property
    def count(self) -> int:
        """Blocks of all stages."""
        return int(self.starts[-1])

    def slice(self, stage: int) -> slice:
        """Where a stage lies."""
        return slice(int(self.starts[stage]), int(self.starts[stage + 1]))

    def key(self, place: int) -> BlockKey:
        """The block of a number."""
        stage = int(np.searchsorted(self.starts, place, "right")) - 1
        row, col = divmod(int(place) - int(self.starts[stage]), self.grids[stage][1])
        return BlockKey(stage, row, col)

    def places(self, names: Sequence[str]) -> Integers:
        """The number of each name ``stage/row/col``; -1 for what names no block here. Shape (n,)."""
        text = " ".join([*names, ""])
        if _NAMES(text) is None:
            return np.array([self._place(name) for name in names], np.int64)
        numbers = np.fromstring(text.replace(" ", "/"), np.int64, sep="/")
        stage, row, col = numbers.reshape(-1, 3).T
        inside = stage < len(self.grids)
        known = np.where(inside, stage, 0)
        inside &= (row < self._rows[known]) & (col < self._cols[known])
        return np.where(inside, self.starts[known] + row * self._cols[known] + col, -1)

    def _place(self, name: str) -> int:
        if _NAME(name) is None:
            return -1
        stage, row, col = map(int, name.split("/"))
        if stage >= len(self.grids) or row >= self.grids[stage][0] or col >= self.grids[stage][1]:
            return -1
        return int(self.starts[stage]) + row * self.grids[stage][1] + col


_NUMBER = "(?:0|[1-9][0-9]{0,9}+)"
"""As ``str`` writes it; never beyond int64."""
_NAME = re.compile(f"{_NUMBER}/{_NUMBER}/{_NUMBER}").fullmatch
_NAMES = re.compile(f"(?:{_NUMBER}/{_NUMBER}/{_NUMBER} )*+").fullmatch


def identity_numbers(identities: Sequence[str]) -> Identities:
    """Ids as numbers, 0 for what is no id. Shape (n,)."""
    text = "".join(identities)
    if text.isalnum() and {*map(len, identities)} == {_ID_CHARS}:
        try:
            return np.frombuffer(bytes.fromhex(text), ">u8").astype(np.uint64)
        except ValueError:
            pass  # letters beyond f: one by one
    return np.array([int(identity, 16) if _ID(identity) else 0 for identity in identities], np.uint64)


def among(identities: Identities, ordered: Identities) -> npt.NDArray[np.bool_]:
    """Whether each is one of others, which are sorted; shape (n,). `numpy.isin` would sort them again at each call."""
    if not len(ordered):
        return np.zeros(len(identities), bool)
    nearest = ordered[np.minimum(np.searchsorted(ordered, identities), len(ordered) - 1)]
    same: npt.NDArray[np.bool_] = nearest == identities
    return same


_ID_CHARS = 16
_ID = re.compile("[0-9a-f]{1,16}").fullmatch
