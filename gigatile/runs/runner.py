"""A run from its first lock to its last record."""

from __future__ import annotations

import platform
import secrets
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from os import PathLike
from pathlib import Path
from threading import Event
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from gigatile.engine.block import BlockKey, BlockRecord
from gigatile.errors import RunRefused, StorageError, UsageError
from gigatile.events import BlockFinished, OnEvent, PhaseStarted, RunEnded, RunStarted, TilesInferred, ignore
from gigatile.executors.executor import Callbacks, Executor
from gigatile.executors.threads import ThreadExecutor
from gigatile.images.image import DEFAULT_CACHE_BYTES
from gigatile.models.normalise import Normalisation, measure, parse_normalisation
from gigatile.outputs.files import remove_leftovers, storage_error
from gigatile.outputs.omezarr import create_result, is_complete, mark_complete
from gigatile.plans.build import fitted, limited
from gigatile.plans.plan import Plan, differences
from gigatile.runs.directory import RunDirectory
from gigatile.runs.job import BlockJob
from gigatile.runs.ledger import Ledger, LedgerState
from gigatile.runs.status import Status, seam_map, status, totals

Existing = Literal["resume", "retry-failed", "overwrite"]
PACKAGES = ("gigatile", "numpy", "zarr", "tifffile", "imagecodecs", "numcodecs", "onnxruntime", "dask")


@dataclass(frozen=True, slots=True)
class Result:
    """What a run leaves behind."""

    directory: Path
    status: Status

    @property
    def complete(self) -> bool:
        """Whether every block of every level is there."""
        return self.status.complete

    @property
    def prediction(self) -> Any:
        """Level 0 of the result: a ``zarr.Array``, read-only; (y, x) classes or (c, y, x) channels."""
        import zarr

        return zarr.open_array(str(self.directory / "prediction.zarr" / "0"), mode="r")

    def objects(self) -> Any:
        """The table of objects, for tasks that find some.

        Raises
        ------
        UsageError
            Segmentation has none.
        """
        raise UsageError("objects", expected="a detect or instances run", found="a segmentation")


def run(
    plan: Plan,
    out: str | PathLike[str],
    *,
    executor: str | Any = "threads",
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
    out : path
        The run directory; created, or resumed if it holds a run with the same fingerprint.
    executor : {"threads", "processes", "tcp://host:port"} or distributed.Client
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
    directory = RunDirectory(Path(out).absolute())
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
        with _opened(executor, plan, workers) as (carrier, plan):
            plan = _with_statistics(plan, stored)
            execution = _Execution(plan, directory, carrier, durable, on_event, stop or Event())
            with closing(execution.ledger):
                execution.begin(new=stored is None)
                execution.finish(retry_failed=existing == "retry-failed")
        return Result(directory.path, status(directory.path))


@dataclass
class _Execution:
    """One call of `run`, once the directory is ours and the resources are known."""

    plan: Plan
    directory: RunDirectory
    executor: Callable[[], Executor]
    durable: bool
    on_event: OnEvent
    stop: Event

    def __post_init__(self) -> None:
        self.ledger = Ledger(self.directory.ledger, durable=self.durable)
        self.token = secrets.token_hex(8)

    def begin(self, *, new: bool) -> None:
        """Leave nothing of dead writers, and write what describes the run; ``run.json`` before all else."""
        if new:
            self._write_run_json(complete=False)
        remove_leftovers(self.directory.path)
        create_result(self.directory.prediction, self.plan.layouts, self.plan.metadata)

    def finish(self, *, retry_failed: bool) -> None:
        """The prediction, then each level of its pyramid, then the marks that say so."""
        if retry_failed:
            self._forget_failures()
        state = self.ledger.read()
        pending = [self._pending(state, level) for level in range(len(self.plan.layouts))]
        if any(todo.any() for todo in pending):
            self._reopen()
        blocks = self.plan.blocks.count
        self.on_event(
            RunStarted(
                directory=str(self.directory.path),
                blocks=blocks,
                finished=blocks - int(pending[0].sum()),
                pixels=self.plan.grid.shape[0] * self.plan.grid.shape[1],
                lanes=self.plan.memory.lanes,
                budget_bytes=self.plan.memory.budget_bytes,
            )
        )
        failed = 0
        for level, todo in enumerate(pending):
            self._run_level(level, todo, pending[0])
            failed = self._settled(level)
            if failed:
                break
        if not failed:
            mark_complete(self.directory.prediction)
            remove_leftovers(self.directory.path)
        self._write_run_json(complete=not failed)
        self.on_event(RunEnded(complete=not failed, failed=failed))

    def _run_level(self, level: int, todo: npt.NDArray[np.bool_], prediction: npt.NDArray[np.bool_]) -> None:
        if not todo.any():
            return
        phase: Literal["predict", "pyramid"] = "pyramid" if level else "predict"
        self.on_event(PhaseStarted(phase, int(todo.sum())))
        job = BlockJob(self.plan, self.directory.prediction, self.ledger, self.durable, prediction, self.token)

        def done(record: BlockRecord) -> None:
            self.on_event(
                BlockFinished(
                    phase=phase,
                    block=str(record.block),
                    status=record.status,
                    pixels=record.pixels,
                    seconds=record.seconds,
                    peak_rss_bytes=record.peak_rss_bytes,
                    error=record.error,
                )
            )

        def lost(key: BlockKey, error: BaseException) -> None:
            pixels = self.plan.layouts[level].region(key.row, key.col).pixels
            message = f"block {key}: the workers that tried it died ({error})"
            record = BlockRecord(key, "failed", pixels, error=message)
            self.ledger.append(record)
            done(record)

        stride = self.plan.grid.stride
        callbacks: Callbacks[BlockKey, BlockRecord] = Callbacks(
            done=done,
            lost=lost,
            notify=lambda tiles: self.on_event(TilesInferred(tiles, tiles * stride[0] * stride[1])),
            stop=self.stop,
        )
        keys = (BlockKey(level, int(row), int(col)) for row, col in np.argwhere(todo))
        try:
            self.executor().run(job, keys, callbacks)
        finally:
            # What the cache holds is of no use to the pyramid, nor to whoever keeps the plan.
            self.plan.image.use_cache(DEFAULT_CACHE_BYTES, None)

    def _reopen(self) -> None:
        """Take back the marks of completeness of a run in which something has to be done again."""
        if is_complete(self.directory.prediction):
            document = self.directory.prediction / "zarr.json"
            try:
                document.unlink()
            except OSError as error:
                raise storage_error(document, error) from error
            create_result(self.directory.prediction, self.plan.layouts, self.plan.metadata)
        self._write_run_json(complete=False)

    def _forget_failures(self) -> None:
        """Make failed blocks pending again; what they fail with next is what counts then."""
        state = self.ledger.read()
        for record in state.records():
            if record.status == "failed":
                self.ledger.revoke(record.block, state.identities(record.block), "retried")

    def _pending(self, state: LedgerState, level: int) -> npt.NDArray[np.bool_]:
        """Blocks without a record, or whose shard is not what its record says."""
        layout = self.plan.layouts[level]
        folder = self.directory.prediction / str(level)
        pending = np.ones(layout.grid, bool)
        for record in state.records(level):
            key = record.block
            if record.status == "failed":
                pending[key.row, key.col] = False
                continue
            path = folder / layout.shard_key(key.row, key.col)
            size = path.stat().st_size if path.exists() else 0
            pending[key.row, key.col] = size != record.nbytes
        return pending

    def _settled(self, level: int) -> int:
        """The number of failed blocks, once every block of the level has a record and its shard.

        Raises
        ------
        StorageError
            An executor said that blocks were done of which nothing is to be seen here.
        """
        state = self.ledger.read()
        missing = int(self._pending(state, level).sum())
        if missing:
            raise StorageError(
                str(self.directory.path),
                expected=f"a record and a shard of every block of level {level}",
                found=f"none of {missing} blocks that were done",
                fix="See that all workers reach this directory under the same path, then run the same command again.",
            )
        return sum(record.status == "failed" for record in state.records())

    def _write_run_json(self, *, complete: bool) -> None:
        plan, model = self.plan, self.plan.model.model
        statistics = plan.model.values.statistics
        described = plan.describe()
        source_units = plan.image.levels[plan.image.level].unit_count
        self.directory.write(
            {
                "complete": complete,
                "fingerprint": plan.fingerprint,
                "plan": described,
                "summary": plan.to_json(),
                "input": {"path": plan.image.info.path, **plan.image.source.identity()},
                "model": {"name": model.name, "sha256": model.digest},
                "layout": {
                    "block": list(plan.block),
                    "chunk": list(plan.chunk),
                    "levels": len(plan.layouts),
                    "blocks": plan.blocks.count,
                    "grid": list(plan.blocks.grid),
                    "source_units": source_units,
                },
                "metadata": self.directory.metadata_digests(),
                "statistics": None if statistics is None else statistics.to_json(),
                "versions": versions(),
                "seam_map": seam_map(self.ledger.read(), plan.blocks.grid),
                **totals(self.ledger.read(), plan.tiling.tile_yx, source_units, exact=plan.choice.exact),
            }
        )


def _with_statistics(plan: Plan, stored: dict[str, Any] | None) -> Plan:
    """The numbers that `normalize` asks for: those of the run that began the directory, or measured now."""
    method = parse_normalisation(plan.model.values.normalize)
    if method.kind == "none":
        return plan
    if stored is not None:
        return plan.with_statistics(Normalisation.from_json(stored["statistics"]))
    return plan.with_statistics(measure(plan.image, method))


def versions() -> dict[str, str]:
    """Versions of what takes part in a run."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _agreed(plan: Plan, stored: dict[str, Any], directory: RunDirectory) -> Plan:
    """The plan with the block of the existing result, if it is the same run; else refuse with what differs."""
    if plan.block_is_auto:
        height, width = stored["layout"]["block"]
        plan = plan.with_block((height, width))
    if plan.fingerprint != stored["fingerprint"]:
        lines = differences(stored["plan"], plan.describe())
        raise RunRefused(
            str(directory.path),
            expected="the run that began it",
            found="another one: " + "; ".join(lines),
            fix="Repeat its options, choose another -o DIR, or start afresh with --overwrite.",
        )
    before, now = stored.get("versions", {}), versions()
    changed = [f"{name} {before[name]} -> {now.get(name)}" for name in before if before[name] != now.get(name)]
    if changed:
        warnings.warn(
            f"{directory.path} was begun with other library versions ({', '.join(changed)}): "
            "the last bits of new blocks may differ.",
            stacklevel=3,
        )
    return plan


@contextmanager
def _opened(executor: Any, plan: Plan, workers: int | None) -> Iterator[tuple[Callable[[], Executor], Plan]]:
    """Fit the plan to an executor; the executor itself is started only when the first block needs it."""
    if executor == "threads":
        plan = fitted(plan, "threads", workers)
        yield lambda: ThreadExecutor(plan.memory.lanes), plan
        return
    from gigatile.executors.dask import DaskExecutor, existing_cluster, local_cluster, worker_limits

    with ExitStack() as stack:
        started: list[DaskExecutor] = []

        def start() -> Executor:
            if not started:
                started.append(DaskExecutor(stack.enter_context(local_cluster(plan.memory.processes))))
            return started[0]

        if executor == "processes":
            plan = fitted(plan, "processes", workers)
            yield start, plan
            return
        if isinstance(executor, str) and not executor.startswith(("tcp://", "tls://")):
            raise UsageError("executor", expected="threads, processes or tcp://HOST:PORT", found=repr(executor))
        client = stack.enter_context(existing_cluster(executor))
        limits = worker_limits(client)
        known = [limit for limit in limits if limit]
        if known:
            plan = limited(plan, min(known), "a worker of the cluster")
        plan = fitted(plan, "cluster", max(len(limits), 1))
        yield lambda: DaskExecutor(client), plan
