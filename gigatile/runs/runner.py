"""A run of one image, from its first lock to its last record."""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from threading import Event
from typing import Any, Literal

from gigatile.events import OnEvent, TilesInferred, Warned, ignore
from gigatile.executors.executor import Callbacks
from gigatile.executors.queue import Policy
from gigatile.plans.plan import Plan
from gigatile.runs.begin import Existing, begun
from gigatile.runs.carrier import Carrier, open_carrier
from gigatile.runs.directory import RunDirectory
from gigatile.runs.execution import How
from gigatile.runs.status import Status, status
from gigatile.tiling.region import Region


@dataclass(frozen=True, slots=True)
class Result:
    """What a run leaves behind."""

    directory: str
    """A path or a URL."""
    status: Status

    @property
    def complete(self) -> bool:
        """Whether every block of every level is there."""
        return self.status.complete

    @property
    def prediction(self) -> Any:
        """Level 0 of the result: a ``zarr.Array``, read-only; (y, x) classes or (c, y, x) channels."""
        import zarr

        place = f"{self.directory}/prediction.zarr"
        if "://" in self.directory:
            from gigatile.storage.files import zarr_store

            return zarr.open_array(zarr_store(place), path="0", mode="r")
        return zarr.open_array(place, path="0", mode="r")

    def objects(self, region: Region | None = None, *, form: Literal["arrow", "geopandas"] = "arrow") -> Any:
        """The table of objects, for tasks that find some; read at each call.

        Parameters
        ----------
        region : Region, optional
            Only objects whose box meets it, in level-0 pixels; only what may lie there is read.
        form : {"arrow", "geopandas"}
            A ``pyarrow.Table``, or a ``GeoDataFrame`` with shapes.

        Raises
        ------
        UsageError
            Segmentation has none; a package is missing.
        BlockError, StorageError
            The table is damaged, or the storage does not answer.
        """
        from gigatile.runs.objects import read_objects, to_geopandas

        found = read_objects(self.directory, region)
        return found if form == "arrow" else to_geopandas(found)


def run(
    plan: Plan,
    out: str | PathLike[str],
    *,
    executor: str | Path | Any = "threads",
    workers: int | None = None,
    existing: Existing = "resume",
    durable: bool = True,
    on_event: OnEvent = ignore,
    stop: Event | None = None,
) -> Result:
    """Carry out a plan, or what is still missing of it.

    Parameters
    ----------
    plan : Plan
    out : path or URL
        The run directory; created, or resumed if it holds a run with the same fingerprint.
    executor : {"threads", "processes", "tcp://HOST:PORT", "tls://HOST:PORT"}, Path or distributed.Client
        A path is that of a scheduler file.
    workers : int, optional
        Blocks worked on at the same time; one a core if not given. A cluster has as many as it has.
    existing : {"resume", "retry-failed", "overwrite"}
        What to do with a directory that holds a run: go on, go on and try failed blocks again, or start afresh.
    durable : bool
        Whether data and records are on disk before a block counts, so that a power cut loses nothing.
    on_event : callable
        Told what happens, see `gigatile.events`.
    stop : threading.Event, optional
        Set it to end the run early; the directory can be resumed.

    Raises
    ------
    RunRefused
        The directory holds something else, another run, or a live one.
    MemoryRefused
        The budget cannot hold the plan with this executor.
    StorageError
        The disk is full or went away; what is finished is kept.
    Cancelled
        `stop` was set.
    """
    directory = RunDirectory.at(out, durable=durable)
    # Before anything is started: a directory of somebody else stays as it is.
    if existing != "overwrite":
        directory.read()
    with open_carrier(executor, workers) as carrier:
        how = how_to_run(carrier, on_event)
        with begun(plan, directory, carrier, how, existing) as work:
            plan = work.plan
            on_devices = plan.model.model.device == "cuda"
            carrier.carry(work, plan.memory.lanes, callbacks(on_event, stop), on_devices=on_devices)
    return Result(str(out) if directory.store.local is None else directory.name, status(out))


def how_to_run(carrier: Carrier, on_event: OnEvent) -> How:
    """What follows from who does the work."""
    here = carrier.kind == "threads"
    return How(ships=carrier.kind == "cluster", policy=Policy(duplicates=not here), on_event=on_event)


def callbacks(on_event: OnEvent, stop: Event | None) -> Callbacks:
    """What an executor tells, as events."""
    return Callbacks(
        stop=stop or Event(),
        notify=lambda tiles, pixels: on_event(TilesInferred(tiles, pixels)),
        warn=lambda text: on_event(Warned(text)),
    )
