"""``DIR/summary.json`` and ``summary.csv`` of a cohort, kept while its images are worked on.

::

    open ── register ──┬─ begin ── progress ... ── finish   (an image)
                       └─ give_up
                  ... close

`register` writes the images before anything else is written, so a directory without a summary is no cohort. What
happens to images later is written every few seconds; a crash costs no more than that, because the ledgers have it all.
Images of earlier runs stay.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import islice
from threading import Lock
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self

from gigatile.cohorts.inputs import InputEntry
from gigatile.cohorts.names import Known, file_bytes
from gigatile.cohorts.rows import Blocks, ImageRow, decode_json, encode_csv, encode_json, is_complete, now, paragraph
from gigatile.errors import RunRefused, StorageError
from gigatile.storage.store import Store

if TYPE_CHECKING:
    from gigatile.runs.status import Status

JSON, CSV = "summary.json", "summary.csv"
_LEAST_PAUSE_S = 3.0
_LARGEST_SHARE = 0.02
"""Of the time, that is spent on writing: 10,000 images are written less often than 10."""
_LOOKED_AT = 200
"""Objects of a directory without a summary by which it is known whose it is."""


class Summary:
    """The rows of a cohort in its directory. Safe to use from several threads; one process at a time may write.

    Memory bound
    ------------
    One row an image, about 1 KiB, and three times as much while it is written.
    """

    def __init__(self, store: Store, rows: Iterable[ImageRow], clock: Callable[[], float] = time.monotonic) -> None:
        self._store, self._clock = store, clock
        self._rows = {row.name: row for row in rows}
        self._lock, self._writing = Lock(), Lock()
        self._changed = False
        self._due = clock()

    @classmethod
    def open(cls, store: Store) -> Summary:
        """Read the summary of a directory; an empty one where nothing is there yet.

        Raises
        ------
        RunRefused
            The directory holds something else, or the summary is damaged.
        StorageError
            It cannot be read.
        """
        content = store.read(JSON)
        if content is None:
            _refuse_foreign(store)
            return cls(store, ())
        return cls(store, decode_json(content, store.where(JSON)))

    @property
    def rows(self) -> tuple[ImageRow, ...]:
        """All images, in the order in which they came."""
        with self._lock:
            return tuple(self._rows.values())

    @property
    def known(self) -> tuple[Known, ...]:
        """Its images, for `resolve_inputs`; those begun last come last."""
        rows = sorted(self.rows, key=lambda row: row.started or "")
        return tuple(Known(row.name, row.location, row.nbytes) for row in rows)

    @property
    def complete(self) -> bool:
        """Whether all images are complete, those of earlier runs among them."""
        return is_complete(self.rows)

    def __getitem__(self, name: str) -> ImageRow:
        with self._lock:
            return self._rows[name]

    def register(self, entries: Iterable[InputEntry]) -> None:
        """Take up the images of a command, and write at once. What is known of old ones stays; what failed without
        having begun is pending again.

        Raises
        ------
        StorageError
            As for all that write.
        """
        with self._lock:
            for entry in entries:
                row = self._rows.get(entry.name) or ImageRow(entry.name, entry.shown, entry.location)
                row = replace(row, image=entry.shown, location=entry.location)
                if row.state in {"failed", "refused"} and not row.blocks.total:
                    row = replace(row, state="pending", error="")
                if entry.problem and row.state != "complete":
                    row = _given_up(row, "failed", entry.problem)
                self._rows[entry.name] = row
            self._changed = True
        self.flush()

    def begin(self, name: str, blocks: Blocks, pixels: int) -> None:
        """An image was planned, and is worked on.

        Parameters
        ----------
        name : str
            Of a registered image.
        blocks : Blocks
            Of its prediction, with what earlier runs did.
        pixels : int
            Of its processing grid.
        """
        row = self[name]
        row = replace(row, state="partial", blocks=blocks, pixels=pixels, error="", nbytes=file_bytes(row.location))
        self._put(replace(row, started=row.started or now(), ended=None))

    def progress(self, name: str, blocks: Blocks, tiles_inferred: int) -> None:
        """How far an image is."""
        self._put(replace(self[name], blocks=blocks, tiles_inferred=tiles_inferred))

    def finish(self, name: str, status: Status) -> None:
        """An image has come to its end, complete or not, or was interrupted."""
        size = ledger_bytes(self._store, name)
        self._put(replace(self[name].with_status(status, size), ended=now()))

    def give_up(self, name: str, state: Literal["failed", "refused"], error: str) -> None:
        """An image cannot be opened or planned, or its directory is another's; the others go on.

        What its ledger says of earlier runs stays.
        """
        self._put(_given_up(self[name], state, error))

    def flush(self) -> None:
        """Write what has changed.

        Raises
        ------
        StorageError
            The storage is full or went away.
        """
        with self._writing:
            self._write()

    def close(self) -> None:
        """Write what has changed; nothing is held."""
        self.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except StorageError as lost:
            if error is None:
                raise
            error.add_note(str(lost))

    def _put(self, row: ImageRow) -> None:
        with self._lock:
            self._rows[row.name] = row
            self._changed = True
            due = self._clock() >= self._due
        # Who comes while another thread writes does not wait for it.
        if due and self._writing.acquire(blocking=False):
            try:
                self._write()
            finally:
                self._writing.release()

    def _write(self) -> None:
        with self._lock:
            if not self._changed:
                return
            rows = list(self._rows.values())
            self._changed = False
        started = self._clock()
        written = False
        try:
            self._store.write(JSON, encode_json(rows))
            self._store.write(CSV, encode_csv(rows))
            written = True
        finally:
            ended = self._clock()
            with self._lock:
                self._changed = self._changed or not written
                self._due = ended + max(_LEAST_PAUSE_S, (ended - started) / _LARGEST_SHARE)


def ledger_bytes(store: Store, name: str) -> int:
    """Size of the ledger of an image of a cohort; 0 where there is none. It only grows, unless it is compacted."""
    return sum(entry.nbytes for entry in store.entries(f"{name}/ledger/"))


def _given_up(row: ImageRow, state: Literal["failed", "refused"], error: str) -> ImageRow:
    return replace(row, state=state, error=paragraph(error), ended=now())


def _refuse_foreign(store: Store) -> None:
    """A directory without a summary must be empty, or hold nothing but runs: then its summary was lost."""
    if store.local is not None and store.local.is_file():
        raise RunRefused(store.name, expected="a directory", found="a file")
    if store.size("run.json") is not None:
        raise RunRefused(
            store.name,
            expected="an empty directory or one of several images",
            found="the run of one image",
            fix="Choose another -o DIR: several images get a directory each in it.",
        )
    first = [entry.key for entry in islice(store.entries(), _LOOKED_AT)]
    files = {key for key in first if "/" not in key and key not in {"lock", CSV}}
    folders = {key.partition("/")[0] for key in first if "/" in key} - {"models"}
    others = sorted(files | {folder for folder in folders if store.size(f"{folder}/run.json") is None})
    if others:
        raise RunRefused(
            store.name,
            expected="an empty directory or one of a gigatile run",
            found=f"no {JSON}, but {', '.join(others[:3])}{' ...' if len(others) > 3 else ''}",
            fix="Choose another -o DIR; nothing was changed.",
        )
