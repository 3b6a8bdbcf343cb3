"""Who does the work: threads here, processes here, or a cluster; opened once, whatever the number of images."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from gigatile.errors import UsageError
from gigatile.executors.executor import Callbacks, Work
from gigatile.executors.threads import ThreadExecutor
from gigatile.plans.build import fitted, limited, shared
from gigatile.plans.plan import Plan

Kind = Literal["threads", "processes", "cluster"]


@dataclass
class Carrier:
    """Fits plans to its workers, and has them do work."""

    kind: Kind
    workers: int | None
    """How many were asked for; None: as fits."""
    client: Any = None
    """Of a cluster that was there before."""
    _stack: ExitStack = field(default_factory=ExitStack)
    _started: Any = None

    def fit(self, plan: Plan, shares: int = 1) -> Plan:
        """The plan with lanes and caches for these workers.

        Parameters
        ----------
        plan : Plan
        shares : int
            Images that may be worked on at the same time in one process. Where the budget does not hold as many
            without giving up lanes, ``plan.memory.shares`` is 1: the image must have the process for itself.

        Raises
        ------
        MemoryRefused
            The budget cannot hold it, or is above what a worker may use.
        """
        if self.kind == "threads":
            whole = fitted(plan, "threads", self.workers)
            return (shared(whole, shares) or whole) if shares > 1 else whole
        if self.kind == "processes":
            return fitted(plan, "processes", self._wanted(plan))
        from gigatile.executors.clusters import worker_limits

        limits = worker_limits(self.client)
        known = [limit for limit in limits if limit]
        if known:
            plan = limited(plan, min(known), "a worker of the cluster")
        return fitted(plan, "cluster", max(len(limits), 1))

    def carry(self, work: Work, lanes: int, callbacks: Callbacks, *, on_devices: bool = False) -> None:
        """Do the work; processes are started only now, for the first that is not finished yet.

        Parameters
        ----------
        work : Work
        lanes : int
            Threads or processes; a cluster has as many as it has.
        callbacks : Callbacks
        on_devices : bool
            Whether each process is to have a CUDA device of its own.
        """
        if work.finished:
            return
        if self.kind == "threads":
            ThreadExecutor(lanes).run(work, callbacks)
            return
        from gigatile.executors.clusters import local_cluster, visible_devices
        from gigatile.executors.dask import DaskExecutor

        if self._started is None:
            client = self.client
            if client is None:
                devices = visible_devices() if on_devices else ()
                client = self._stack.enter_context(local_cluster(lanes, devices, callbacks.stop))
            self._started = DaskExecutor(client)
        self._started.run(work, callbacks)

    def _wanted(self, plan: Plan) -> int | None:
        """One process a device, where the model runs on devices."""
        if self.workers is None and self.kind == "processes" and plan.model.model.device == "cuda":
            from gigatile.executors.clusters import visible_devices

            return len(visible_devices()) or None
        return self.workers


@contextmanager
def open_carrier(executor: str | Path | Any, workers: int | None) -> Iterator[Carrier]:
    """The carrier of an executor.

    Parameters
    ----------
    executor : {"threads", "processes", "tcp://HOST:PORT", "tls://HOST:PORT"}, Path or distributed.Client
        A path is a scheduler file.
    workers : int, optional
        Blocks worked on at the same time; a cluster has as many as it has.

    Raises
    ------
    UsageError
        There is no such executor, or nobody answers there.
    """
    if executor in ("threads", "processes"):
        with ExitStack() as stack:
            yield Carrier("threads" if executor == "threads" else "processes", workers, _stack=stack)
        return
    if isinstance(executor, str) and not executor.startswith(("tcp://", "tls://")):
        raise UsageError(
            "executor", expected="threads, processes, tcp://HOST:PORT or tls://HOST:PORT", found=repr(executor)
        )
    from gigatile.executors.clusters import existing_cluster

    with existing_cluster(executor) as client:
        yield Carrier("cluster", workers, client)
