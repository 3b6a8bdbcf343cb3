"""From a plan and a place to a run that may go on: whose directory it is, and whether it is the same run."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Any, Literal

from gigatile.errors import RunRefused, UsageError
from gigatile.machine import working
from gigatile.models.normalise import Normalisation, measure, parse_normalisation
from gigatile.plans.plan import Plan, differences
from gigatile.runs.carrier import Carrier
from gigatile.runs.directory import RunDirectory
from gigatile.runs.execution import How, RunWork
from gigatile.runs.versions import versions

Existing = Literal["resume", "retry-failed", "overwrite"]


@contextmanager
def begun(
    plan: Plan, directory: RunDirectory, carrier: Carrier, how: How, existing: Existing, *, shares: int = 1
) -> Iterator[RunWork]:
    """Hold the directory, and say what is left to do in it.

    Parameters
    ----------
    plan : Plan
    directory : RunDirectory
    carrier : Carrier
        Who will do it: the plan is fitted to it.
    how : How
    existing : {"resume", "retry-failed", "overwrite"}
        What to do with a directory that holds a run.
    shares : int
        Images that may be worked on at the same time, see `Carrier.fit`.

    Raises
    ------
    RunRefused
        The directory holds something else, another run, or a live one.
    MemoryRefused
        The budget cannot hold the plan with these workers.
    StorageError
        The disk is full or went away.
    """
    if existing not in ("resume", "retry-failed", "overwrite"):
        raise UsageError("existing", expected="resume, retry-failed or overwrite", found=repr(existing))
    if existing != "overwrite":
        # Before the lock is made: a directory of somebody else stays as it is.
        directory.read()
    with directory.locked():
        if existing == "overwrite":
            directory.clear()
        stored = None if existing == "overwrite" else directory.read()
        if stored is not None:
            plan = _agreed(plan, stored, directory)
        plan = replace(plan, upload_bytes=directory.store.writer_bytes)
        plan = _with_statistics(carrier.fit(plan, shares), stored)
        retry = existing == "retry-failed"
        with working(), closing(RunWork(plan, directory, replace(how, retry_failed=retry))) as work:
            work.begin(stored)
            yield work


def _with_statistics(plan: Plan, stored: dict[str, Any] | None) -> Plan:
    """The numbers that `normalize` asks for: those of the run that began the directory, or measured now."""
    method = parse_normalisation(plan.model.values.normalize)
    if method.kind == "none":
        return plan
    if stored is not None:
        return plan.with_statistics(Normalisation.from_json(stored["statistics"]))
    return plan.with_statistics(measure(plan.image, method))


def _agreed(plan: Plan, stored: dict[str, Any], directory: RunDirectory) -> Plan:
    """The plan with the block of the existing result, if it is the same run; else refuse with what differs."""
    if plan.block_is_auto:
        height, width = stored["layout"]["block"]
        plan = plan.with_block((height, width))
    if plan.fingerprint != stored["fingerprint"]:
        lines = differences(stored["plan"], plan.describe())
        raise RunRefused(
            directory.name,
            expected="the run that began it",
            found="another one: " + "; ".join(lines),
            fix="Repeat its options, choose another -o DIR, or start afresh with --overwrite.",
        )
    before, now = stored.get("versions", {}), versions()
    changed = [f"{name} {before[name]} -> {now.get(name)}" for name in before if before[name] != now.get(name)]
    if changed:
        warnings.warn(
            f"{directory.name} was begun with other library versions ({', '.join(changed)}): "
            "the last bits of new blocks may differ.",
            stacklevel=3,
        )
    return plan
