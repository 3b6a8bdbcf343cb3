"""What became of each image of a cohort: one row an image, and the two documents made of them.

``summary.json``, which counts; keys may be added to it::

    {"format": "gigatile-cohort", "version": 1, "complete": false,
     "images": [{"name": "a", "image": "slides/a.svs", "location": "/data/slides/a.svs", "state": "partial",
                 "blocks": {"total": 20, "done": 18, "empty": 0, "failed": 1, "pending": 1},
                 "filled": 0, "pixels": 132000, "tiles_inferred": 70, "seconds": 1.5, "stages": {"infer": 1.1, ...},
                 "started": "2026-01-31T12:00:00Z", "ended": null, "error": "...", "decoded_ratio": 1.0,
                 "overcompute": 1.4, "seam_score": 0.01, "seam_disagreement": 0.0, "seam_pixels": 900,
                 "peak_rss_bytes": 400000000, "objects": {"total": 12, "per_class": {"ship": 12}, "oversized": 0},
                 "nbytes": 396000, "ledger_bytes": 7210}],
     "totals": {"images": {"total": 1, "complete": 0, "partial": 1, "failed": 0, "refused": 0, "pending": 0},
                "blocks": {...}, "filled": 0, "pixels": 132000, "seconds": 1.5, "tiles_inferred": 70,
                "objects": {...}}}

``summary.csv``, for spreadsheets: `COLUMNS`, one line an image. Both hold no secrets of URLs.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from io import StringIO
from typing import TYPE_CHECKING, Any, Literal, get_args

from gigatile.cohorts.names import folded, is_reserved, safe_name
from gigatile.errors import RunRefused

if TYPE_CHECKING:
    from gigatile.runs.status import Status

State = Literal["complete", "partial", "failed", "refused", "pending"]
STATES: tuple[State, ...] = get_args(State)
COLUMNS = (
    "name", "image", "state", "blocks_total", "blocks_done", "blocks_empty", "blocks_failed", "pixels",
    "tiles_inferred", "seconds", "started", "ended", "error", "objects",
)  # fmt: skip
FORMAT, VERSION = "gigatile-cohort", 1
_LONGEST_ERROR = 2_000
"""Characters; the ledger of the image has the whole of it."""


@dataclass(frozen=True, slots=True)
class Blocks:
    """Blocks of a prediction."""

    total: int = 0
    done: int = 0
    empty: int = 0
    failed: int = 0

    @property
    def pending(self) -> int:
        """Blocks without a record."""
        return self.total - self.done - self.empty - self.failed

    def __add__(self, other: Blocks) -> Blocks:
        return Blocks(
            self.total + other.total,
            self.done + other.done,
            self.empty + other.empty,
            self.failed + other.failed,
        )

    def to_json(self) -> dict[str, int]:
        """All counts."""
        return {name: getattr(self, name) for name in (*Blocks.__slots__, "pending")}


@dataclass(frozen=True, slots=True)
class ImageRow:
    """What is known of one image."""

    name: str
    """Of its directory."""
    image: str
    """As given; of a URL without secrets."""
    location: str
    """By which it is known again: an absolute path or a URL."""
    state: State = "pending"
    """`complete`; `partial`: begun, and blocks are pending or failed; `failed`: nothing came of it, it cannot be read
    or planned, or no block succeeded; `refused`: its directory holds another run, or memory does not hold it;
    `pending`: not begun."""
    blocks: Blocks = field(default_factory=Blocks)
    filled: int = 0
    """Blocks in which something of the source could not be decoded and was filled."""
    pixels: int = 0
    """Of the processing grid; 0 until it was planned."""
    tiles_inferred: int = 0
    seconds: float = 0.0
    """Busy seconds of all lanes together."""
    stages: Mapping[str, float] = field(default_factory=dict)
    """The same by stage."""
    started: str | None = None
    """When it was first begun, in UTC."""
    ended: str | None = None
    """When it was last finished or given up; None while it is worked on."""
    error: str = ""
    """One paragraph: what keeps it from being complete."""
    decoded_ratio: float | None = None
    overcompute: float | None = None
    seam_score: float | None = None
    seam_disagreement: float | None = None
    seam_pixels: int = 0
    peak_rss_bytes: int = 0
    objects: Mapping[str, Any] | None = None
    """As of `Status.objects`: None for maps, and before the end."""
    nbytes: int | None = None
    """Size of the image's file when it was begun; None of a Zarr or a URL. Tells whether a folder moved."""
    ledger_bytes: int = 0
    """Size of its ledger when this row was written: where it differs, the ledger knows more."""

    def with_status(self, status: Status, ledger_bytes: int) -> ImageRow:
        """What its ledger says, which is the truth."""
        succeeded = status.done + status.empty
        state: State = "complete" if status.complete else "failed" if status.failed and not succeeded else "partial"
        errors = status.errors
        count = max(status.failed, len(errors))  # errors are those of the pyramid as well
        more = f" (and {count - 1} more blocks)" if count > 1 else ""
        return replace(
            self,
            state=state,
            blocks=Blocks(status.total, status.done, status.empty, status.failed),
            filled=status.filled,
            tiles_inferred=status.tiles_inferred,
            seconds=round(sum(status.seconds.values()), 3),
            stages=dict(status.seconds),
            error=paragraph(f"{errors[0]}{more}") if errors and not status.complete else "",
            decoded_ratio=status.decoded_ratio,
            overcompute=status.overcompute,
            seam_score=status.seam_score,
            seam_disagreement=status.seam_disagreement,
            seam_pixels=status.seam_pixels,
            peak_rss_bytes=status.peak_rss_bytes,
            objects=None if status.objects is None else dict(status.objects),
            ledger_bytes=ledger_bytes,
        )

    def to_json(self) -> dict[str, Any]:
        """As in ``summary.json``."""
        # Not `asdict`, which copies deeply: 10,000 images are encoded in a tenth of a second.
        return {name: getattr(self, name) for name in ImageRow.__slots__} | {"blocks": self.blocks.to_json()}


def paragraph(text: str) -> str:
    """One line of bounded length."""
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST_ERROR else f"{line[: _LONGEST_ERROR - 4]} ..."


def now() -> str:
    """The time in UTC, to the second: ``2026-01-31T12:00:00Z``."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def totals(rows: Sequence[ImageRow]) -> dict[str, Any]:
    """Sums over images."""
    states = Counter(row.state for row in rows)
    return {
        "images": {"total": len(rows), **{state: states[state] for state in STATES}},
        "blocks": sum((row.blocks for row in rows), Blocks()).to_json(),
        "filled": sum(row.filled for row in rows),
        "pixels": sum(row.pixels for row in rows),
        "seconds": round(sum(row.seconds for row in rows), 3),
        "tiles_inferred": sum(row.tiles_inferred for row in rows),
        "objects": objects_of(rows),
    }


def objects_of(rows: Iterable[ImageRow]) -> dict[str, Any] | None:
    """How many objects there are in all images that are through; None where none looked for any."""
    counted = [row.objects for row in rows if row.objects is not None]
    if not counted:
        return None
    per_class: Counter[str] = Counter()
    for counts in counted:
        per_class.update(counts["per_class"])
    return {
        "total": sum(counts["total"] for counts in counted),
        "per_class": dict(sorted(per_class.items(), key=_natural)),
        "oversized": sum(counts["oversized"] for counts in counted),
    }


def _natural(entry: tuple[str, int]) -> tuple[int, int, str]:
    """Classes without names by their numbers, before those with names."""
    name = entry[0]
    return (0, int(name), "") if name.isdecimal() else (1, 0, name)


def is_complete(rows: Sequence[ImageRow]) -> bool:
    """Whether there are images, and all of them are complete."""
    return bool(rows) and all(row.state == "complete" for row in rows)


def encode_json(rows: Sequence[ImageRow]) -> bytes:
    """``summary.json``: one line an image, so that people can search it as well."""
    import msgspec

    encode = msgspec.json.Encoder(order="deterministic").encode
    images = b",\n  ".join(encode(row.to_json()) for row in rows)
    head = encode({"format": FORMAT, "version": VERSION, "complete": is_complete(rows)})
    return b'%s,\n "images": [\n  %s\n ],\n "totals": %s}\n' % (head[:-1], images, encode(totals(rows)))


def encode_csv(rows: Iterable[ImageRow]) -> bytes:
    """``summary.csv``, UTF-8."""
    text = StringIO(newline="")
    writer = csv.writer(text)  # with CR LF, as RFC 4180 has it; only then it quotes both of them
    writer.writerow(COLUMNS)
    for row in rows:
        blocks = (row.blocks.total, row.blocks.done, row.blocks.empty, row.blocks.failed)
        words = (_cell(row.name), _cell(row.image), row.state)
        figures = (row.pixels, row.tiles_inferred, row.seconds)
        objects = "" if row.objects is None else row.objects["total"]
        writer.writerow((*words, *blocks, *figures, row.started or "", row.ended or "", _cell(row.error), objects))
    return text.getvalue().encode("utf-8", "backslashreplace")


def _cell(text: str) -> str:
    """Text that no spreadsheet takes for a formula: file names are not ours."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


@dataclass(frozen=True, slots=True)
class _Document:
    format: str
    version: int
    images: list[ImageRow]


def decode_json(content: bytes, where: str) -> list[ImageRow]:
    """The rows of a ``summary.json``. What it says is checked: its names become paths.

    Raises
    ------
    RunRefused
        It is none, is damaged, or is of a later version.
    """
    import msgspec

    fix = "Move it away and repeat the command of the run: it is written anew, and what is finished is kept."
    expected = "the summary of a cohort"
    try:
        document = msgspec.json.decode(content, type=_Document)
    except (msgspec.DecodeError, RecursionError) as error:
        raise RunRefused(where, expected=expected, found=str(error), fix=fix) from error
    if document.format != FORMAT:
        raise RunRefused(where, expected=expected, found=repr(document.format[:100]), fix=fix)
    if document.version != VERSION:
        later = "Use the version of gigatile that wrote it, or a later one."
        raise RunRefused(where, expected=f"version {VERSION}", found=str(document.version), fix=later)
    seen: set[str] = set()
    for row in document.images:
        if safe_name(row.name) != row.name or is_reserved(row.name) or folded(row.name) in seen:
            raise RunRefused(where, expected="safe names, all different", found=repr(row.name), fix=fix)
        seen.add(folded(row.name))
    return document.images
