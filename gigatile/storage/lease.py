"""A lock on an object store: one small object that its holder keeps renewing.

::

    free ──create──▶ held by A ──renew──▶ held by A ──give back──▶ free
                        │ A is gone: its process is not alive here, or no renewal for `believed_s`
                        ▼
                     held by B          A, should it wake up, is told by `check` and stops

Every step is one conditional PUT (``If-None-Match: *``, ``If-Match: etag``), of which a store lets one through.
Clocks of different machines are never compared: whether there was a renewal is seen by looking twice.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event, RLock, Thread
from typing import Any, NamedTuple

import psutil

from gigatile.errors import RunRefused, StorageError
from gigatile.storage.client import exceptions, obstore, patiently, storage_error

RENEW_S = 10.0
HOLD_S = 45.0
BELIEVED_S = 60.0
POLL_S = 2.0
_LOG = logging.getLogger(__name__)
_Version = dict[str, str]
"""What a condition compares: the ETag, and on Google's store the generation."""


@dataclass(frozen=True, slots=True)
class LeaseTimes:
    """How long things take, in seconds."""

    renew_s: float = RENEW_S
    """From one renewal to the next."""
    hold_s: float = HOLD_S
    """A holder that could not renew for so long holds nothing any more; less than `believed_s`."""
    believed_s: float = BELIEVED_S
    """Others believe in a holder for so long after its last renewal that they saw."""
    poll_s: float = POLL_S
    """From one look of others to the next."""


class _Owner(NamedTuple):
    """What the object says."""

    token: str
    """Of one hold; empty where it was given back."""
    host: str
    pid: int
    started: float
    """When the process began, by the clock of its machine: numbers of processes come again."""
    machine: str
    """Boot of the machine and process namespace: where the number of a process means something."""
    renewals: int

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


class _Held:
    """A lock that this process holds. Safe to call from several threads."""

    def __init__(self, client: Any, path: str, where: str, times: LeaseTimes) -> None:
        self._client, self._path, self._where, self._times = client, path, where, times
        self._owner = _Owner(secrets.token_hex(8), socket.gethostname(), os.getpid(), _started(), _machine(), 0)
        self._version: _Version = {}
        self._renewed = _now()
        self._lost = ""
        self._lock = RLock()
        self._over = Event()

    def take(self) -> None:
        """Make the object ours, or raise `RunRefused`."""
        begin = _now()
        version = self._put(self._owner, "create")
        while version is None:
            found = self._look()
            if found is None:  # given back and removed between the two
                version = self._put(self._owner, "create")
                continue
            owner = found[0]
            if owner.token not in ("", self._owner.token) and not _is_gone(owner):
                if owner.machine == _machine():
                    raise self._refused(owner, "which is alive on this machine")
                if not self._unseen(*found):
                    continue
            begin = _now()
            version = self._put(self._owner, found[1])
        self._version, self._renewed = version, begin

    def keep(self) -> None:
        """Renew until `give_back`; runs in a thread."""
        while not self._over.wait(self._times.renew_s):
            with self._lock:
                if not self._lost:
                    self._renew()

    def check(self) -> None:
        """Raise `StorageError` if the lock was lost."""
        with self._lock:
            if not self._lost and _now() - self._renewed > 2 * self._times.renew_s:
                self._renew()  # the thread that should have was held up: the machine slept, perhaps
            if self._lost:
                raise StorageError(
                    self._where,
                    expected="the lock of this run",
                    found=self._lost,
                    fix="Another run may work here now. See to it, then run the same command again: what is "
                    "finished is kept.",
                )

    def give_back(self) -> None:
        """Let others have it at once. If that fails they have it after `believed_s`."""
        self._over.set()
        with self._lock:
            if self._lost:
                return
            try:
                self._put(self._owner._replace(token=""), self._version)
            except StorageError as error:
                _LOG.info("the lock was not given back: %s", error)

    def _renew(self) -> None:
        begin = _now()
        owner = self._owner._replace(renewals=self._owner.renewals + 1)
        try:
            version = self._put(owner, self._version)
            if version is None:
                self._lost = f"a lock taken over by {self._holder()}"
                return
        except StorageError as error:
            if _now() - self._renewed > self._times.hold_s:
                self._lost = f"no way to renew it for {_now() - self._renewed:.0f} s: {error.found}"
            return
        self._owner, self._version, self._renewed = owner, version, begin

    def _holder(self) -> str:
        found = self._look()
        return str(found[0]) if found else "somebody who removed it"

    def _unseen(self, owner: _Owner, version: _Version) -> bool:
        """Whether no renewal comes for `believed_s`; raises `RunRefused` as soon as one does."""
        _LOG.info("%s is held by %s: looking for signs of life, %g s", self._where, owner, self._times.believed_s)
        begin = _now()
        while _now() - begin < self._times.believed_s:
            time.sleep(self._times.poll_s)
            found = self._look()
            if found is None or found[0].token == "":
                return False
            if found[1] != version:
                raise self._refused(found[0], "which renewed its lock just now")
        return True

    def _refused(self, owner: _Owner, sign: str) -> RunRefused:
        return RunRefused(
            self._where.rpartition("/")[0],
            expected="a directory in which no other run works",
            found=f"a live run ({owner}), {sign}",
            fix="Wait for it, stop it, or choose another -o DIR. If it dies without giving the lock back, another "
            f"machine believes it to live for {self._times.believed_s:g} s more.",
        )

    def _look(self) -> tuple[_Owner, _Version] | None:
        """The owner of now and the version of its object; None where there is none."""

        def attempt() -> tuple[bytes, _Version]:
            found = obstore().get(self._client, self._path)
            return bytes(found.bytes()), _version(found.meta)

        try:
            content, version = patiently(self._where, self._where, attempt)
        except FileNotFoundError:
            return None
        try:
            return _Owner(**json.loads(content)), version
        except (ValueError, TypeError) as error:
            raise StorageError(
                self._where,
                expected="the lock of a run",
                found="something else under its name",
                fix="Choose another -o DIR, or remove the object if nothing runs there.",
            ) from error

    def _put(self, owner: _Owner, mode: str | _Version) -> _Version | None:
        """Write the object on a condition; its version, or None if the condition does not hold.

        If an answer is lost the request is repeated, and the repetition fails on what the first one wrote. So when
        the condition does not hold the object is read: if it holds what we wrote, it was us.
        """
        content, errors = json.dumps(owner._asdict()).encode(), exceptions()

        def attempt() -> _Version | None:
            try:
                return _version(obstore().put(self._client, self._path, content, mode=mode))
            except (errors.AlreadyExistsError, errors.PreconditionError):
                return None

        try:
            version = patiently(self._where, self._where, attempt)
        except FileNotFoundError as error:
            if mode == "create":
                raise storage_error(self._where, self._where, error) from None
            return None
        if version is None:
            found = self._look()
            if found is not None and found[0] == owner:
                return found[1]
        return version


_HELD: dict[str, _Held] = {}
"""By the URL of the object."""


@contextmanager
def lease(client: Any, path: str, where: str, times: LeaseTimes) -> Iterator[None]:
    """Hold the lock that an object is.

    Parameters
    ----------
    client : obstore store
        Where it lies.
    path : str
        Its key there.
    where : str
        Its URL.
    times : LeaseTimes
        For tests; everybody who uses one lock uses the same.

    Raises
    ------
    RunRefused
        A live process holds it. (One that cannot be looked at is watched for a renewal: up to `believed_s`.)
    StorageError
        The store does not answer, or something else lies there.
    """
    held = _Held(client, path, where, times)
    if where in _HELD:
        fix = "Wait for it, or choose another -o DIR."
        raise RunRefused(where, expected="one run at a time", found="a run of this process in the same place", fix=fix)
    held.take()
    _HELD[where] = held
    Thread(target=held.keep, name=f"lease of {where}", daemon=True).start()
    try:
        yield
    finally:
        del _HELD[where]
        held.give_back()


def check(place: str) -> None:
    """Raise `StorageError` if this process held a lock over a place and lost it; quick, without a request as a rule.

    Parameters
    ----------
    place : str
        A URL: of a run directory, or of an object in it. A lock is over everything beside and below its object.
    """
    for where, held in tuple(_HELD.items()):
        if f"{place}/".startswith(f"{where.rpartition('/')[0]}/"):
            held.check()


def held(where: str) -> bool:
    """Whether the object at a URL is a lock that this process holds."""
    return where in _HELD


def _version(found: Mapping[str, Any]) -> _Version:
    return {name: found[name] for name in ("e_tag", "version") if found[name] is not None}


def _is_gone(owner: _Owner) -> bool:
    """Whether the owner was a process of this machine that is no more."""
    if owner.machine != _machine():
        return False
    try:
        return bool(abs(psutil.Process(owner.pid).create_time() - owner.started) > 1)
    except psutil.NoSuchProcess:
        return True
    except psutil.AccessDenied:
        return False


def _started() -> float:
    return float(psutil.Process().create_time())


def _machine() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:  # not Linux: no containers that share a name
        return f"{socket.gethostname()} {psutil.boot_time():.0f}"


def _now() -> float:
    """Seconds of a clock that goes on while the machine sleeps, where there is one."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()
