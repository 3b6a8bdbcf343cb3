"""The run directory: whose it is, what it holds, and who is working in it; on a disk or in a bucket.

::

    DIR/run.json            the plan, its fingerprint, totals, complete or not
        prediction.zarr/    the result: maps, or labels of instances
        objects.parquet     the result: objects
        parts/              what blocks found, for the stages after it; may go once the run is complete
        ledger/             what happened to each block
        models/             the model's files, for workers that lack them
        lock                held by the live run
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from os import PathLike, fspath
from typing import Any

from gigatile.errors import RunRefused
from gigatile.outputs.coordinates import PREFIXES
from gigatile.plans.stages import OBJECTS, PARTS
from gigatile.storage.open import open_store
from gigatile.storage.store import Store

RUN_JSON, PREDICTION, LEDGER, MODELS, LOCK = "run.json", "prediction.zarr", "ledger", "models", "lock"


@dataclass(frozen=True, slots=True)
class RunDirectory:
    """One run's part of a store, and the guards around it."""

    store: Store

    @classmethod
    def at(cls, place: str | PathLike[str], *, durable: bool = True) -> RunDirectory:
        """The run directory at a path or URL, which need not be there yet; see `open_store`."""
        return cls(open_store(fspath(place), durable=durable))

    @property
    def name(self) -> str:
        """A path or URL without secrets: how messages name it."""
        return self.store.name

    @property
    def prediction(self) -> Store:
        """The result."""
        return self.store.below(PREDICTION)

    @property
    def ledger(self) -> Store:
        """The segments of the ledger."""
        return self.store.below(LEDGER)

    @property
    def models(self) -> Store:
        """The model's files, for workers that lack them; those of a cohort lie in its own directory, once."""
        return self.store.below(MODELS)

    def read(self) -> dict[str, Any] | None:
        """What ``run.json`` says; None where there is no run yet.

        Raises
        ------
        RunRefused
            The directory holds something else, or the file is no JSON of a run.
        """
        content = self.store.read(RUN_JSON)
        if content is None:
            self._refuse_foreign()
            return None
        where = self.store.where(RUN_JSON)
        try:
            document = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise RunRefused(
                where, expected="the JSON of a run", found=str(error), fix="Choose another DIR."
            ) from error
        if not isinstance(document, dict) or "fingerprint" not in document:
            raise RunRefused(where, expected="the JSON of a run", found="something else", fix="Choose another DIR.")
        return document

    def write(self, document: dict[str, Any]) -> None:
        """Replace ``run.json`` at once."""
        self.store.write(RUN_JSON, (json.dumps(document, indent=2, sort_keys=True) + "\n").encode())

    def metadata_digests(self) -> dict[str, str]:
        """sha256 of each ``zarr.json`` of the result, and of its coordinates, by key below ``prediction.zarr``.

        The mark of completeness is left out: it is set before ``run.json`` says the same, and a crash may come between.
        """
        found: dict[str, str] = {}
        prediction, marked, unmarked = self.prediction, b'"complete": true', b'"complete": false'
        # By name, not by listing: there may be a million shards between them. Levels have no gaps.
        coordinates = (entry.key for prefix in PREFIXES for entry in prediction.entries(prefix))
        for key in chain(self._metadata_keys(), coordinates):
            content = prediction.read(key)
            if content is not None:
                found[key] = hashlib.sha256(content.replace(marked, unmarked)).hexdigest()
        return found

    def clear(self) -> None:
        """Delete what runs write here, up to the ``run.json``, which the next run replaces and which says meanwhile
        whose directory this is; only in a directory that has one."""
        if self.store.size(RUN_JSON) is None:
            self._refuse_foreign()
            return
        # The ledger first: nothing is claimed any more when the first shard goes.
        for part in (LEDGER, PREDICTION, PARTS, MODELS):
            self.store.delete_tree(f"{part}/")
        self.store.delete(OBJECTS)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the directory for this process.

        Raises
        ------
        RunRefused
            Another live process holds it, or the directory holds something else.
        StorageError
            It cannot be created.
        """
        self._refuse_foreign()
        with self.store.lock(LOCK):
            yield

    def _metadata_keys(self) -> Iterator[str]:
        """The group's document and those of the levels up to the first two that are missing: one may be lost."""
        yield "zarr.json"
        level = missing = 0
        while missing < 2:
            key = f"{level}/zarr.json"
            missing = 0 if self.prediction.size(key) is not None else missing + 1
            yield key
            level += 1

    def _refuse_foreign(self) -> None:
        place = self.store.local
        if place is not None and place.exists() and not place.is_dir():
            raise RunRefused(self.name, expected="a directory", found="a file", fix="Choose another -o DIR.")
        if self.store.size(RUN_JSON) is not None:
            return
        # run.json is the first object that a run writes, and nothing deletes it.
        others = (entry.key for entry in self.store.entries() if entry.key != LOCK)
        first = sorted(islice(others, 4))  # of perhaps a million
        if first:
            raise RunRefused(
                self.name,
                expected="an empty directory or one of a gigatile run",
                found=f"no run.json, but {', '.join(first[:3])}{' and more' if len(first) > 3 else ''}",
                fix="Choose another -o DIR; nothing was changed.",
            )
