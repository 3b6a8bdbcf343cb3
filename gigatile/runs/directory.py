"""The run directory: whose it is, what it holds, and who is working in it.

::

    DIR/run.json            the plan, its fingerprint, totals, complete or not
        prediction.zarr/    the result
        ledger/             one record a block
        lock                held by the live run
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gigatile.errors import RunRefused
from gigatile.outputs.files import storage_error, write_atomically


@dataclass(frozen=True, slots=True)
class RunDirectory:
    """Paths of one run, and the guards around them."""

    path: Path

    @property
    def run_json(self) -> Path:
        """The plan and its totals."""
        return self.path / "run.json"

    @property
    def prediction(self) -> Path:
        """The result."""
        return self.path / "prediction.zarr"

    @property
    def ledger(self) -> Path:
        """The folder of the ledger's segments."""
        return self.path / "ledger"

    def read(self) -> dict[str, Any] | None:
        """What ``run.json`` says; None where there is no run yet.

        Raises
        ------
        RunRefused
            The directory holds something else, or the file is no JSON.
        """
        if not self.run_json.exists():
            self._refuse_foreign()
            return None
        try:
            document = json.loads(self.run_json.read_text())
        except ValueError as error:
            raise RunRefused(
                str(self.run_json), expected="the JSON of a run", found=str(error), fix="Choose another DIR."
            ) from error
        if not isinstance(document, dict) or "fingerprint" not in document:
            raise RunRefused(str(self.run_json), expected="the JSON of a run", found="something else")
        return document

    def write(self, document: dict[str, Any]) -> None:
        """Replace ``run.json`` at once."""
        write_atomically(self.run_json, (json.dumps(document, indent=2, sort_keys=True) + "\n").encode())

    def metadata_digests(self) -> dict[str, str]:
        """sha256 of each ``zarr.json`` of the result, by its path below ``prediction.zarr``.

        The mark of completeness is left out: it is set before ``run.json`` says the same, and a crash may come between.
        """
        files = [self.prediction / "zarr.json", *sorted(self.prediction.glob("*/zarr.json"))]
        marked, unmarked = b'"complete": true', b'"complete": false'
        return {
            path.relative_to(self.prediction).as_posix(): hashlib.sha256(
                path.read_bytes().replace(marked, unmarked)
            ).hexdigest()
            for path in files
            if path.is_file()
        }

    def clear(self) -> None:
        """Delete what runs write here, up to the ``run.json``, which the next run replaces and which says meanwhile
        whose directory this is; only in a directory that has one."""
        if not self.run_json.exists():
            self._refuse_foreign()
            return
        # The ledger first: nothing is claimed any more when the first shard goes.
        try:
            for path in (self.ledger, self.prediction):
                if path.exists():
                    shutil.rmtree(path)
        except OSError as error:
            raise storage_error(self.path, error) from error

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the directory for this process; the kernel lets go of it when the process dies, however.

        Raises
        ------
        RunRefused
            Another live process holds it, or the directory holds something else.
        StorageError
            It cannot be created.
        """
        self._refuse_foreign()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise storage_error(self.path, error) from error
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                owner = os.read(descriptor, 200).decode(errors="replace").strip()
                raise RunRefused(
                    str(self.path),
                    expected="a directory in which no other run works",
                    found=f"a live run ({owner or 'unknown owner'})",
                    fix="Wait for it, stop it, or choose another -o DIR.",
                ) from None
            os.truncate(descriptor, 0)
            os.write(descriptor, f"process {os.getpid()} on {os.uname().nodename}\n".encode())
            yield
        finally:
            os.close(descriptor)

    def _refuse_foreign(self) -> None:
        if self.path.exists() and not self.path.is_dir():
            raise RunRefused(str(self.path), expected="a directory", found="a file")
        if not self.path.is_dir() or self.run_json.exists():
            return
        # run.json is the first file that a run writes, and nothing deletes it.
        others = sorted(p.name for p in self.path.iterdir() if p.name != "lock" and not p.name.endswith(".tmp"))
        if others:
            raise RunRefused(
                str(self.path),
                expected="an empty directory or one of a gigatile run",
                found=f"no run.json, but {', '.join(others[:3])}{' ...' if len(others) > 3 else ''}",
                fix="Choose another -o DIR; nothing was changed.",
            )
