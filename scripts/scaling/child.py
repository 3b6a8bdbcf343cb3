"""One run of many blocks in a process of its own, measured; prints what was found as JSON.

``scripts/scale`` starts it: ``python -m scripts.scaling.child DIR --blocks N ...``.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from threading import Event
from typing import Any

from gigatile.errors import Cancelled
from gigatile.events import ignore
from gigatile.executors.executor import Callbacks, Job, Outcome, Task
from gigatile.plans.plan import Plan
from gigatile.runs.begin import begun
from gigatile.runs.carrier import Carrier, open_carrier
from gigatile.runs.directory import RunDirectory
from gigatile.runs.execution import RunWork
from gigatile.runs.runner import how_to_run
from scripts.scaling.memory import peak_bytes, resident_bytes, watched
from scripts.scaling.synthetic import RecordingJob, empty_plan, write_ledger

ROOT = Path(__file__).resolve().parents[2]
WORKERS = 2


class Seen:
    """A run, as its executor sees it, see `Work`: notes when the first task left, and how many blocks came back.

    Parameters
    ----------
    work : RunWork
    job : Job, optional
        Done in the place of the run's own.
    first : Event, optional
        Set when the first task leaves.
    """

    def __init__(self, work: RunWork, job: Job[Any] | None, first: Event | None = None) -> None:
        self._work, self._job, self._first = work, job, first
        self.begun_at: float | None = None
        """When the first task left; of ``time.perf_counter``."""
        self.tasks = 0
        self.blocks = [0] * len(work.plan.layouts)
        """That came back, by stage."""

    def __getattr__(self, name: str) -> Any:
        # Whatever else executors ask of a run.
        return getattr(self._work, name)

    def take(self, worker: str, **how: Any) -> Task[Any] | None:
        """See `Work.take`."""
        task = self._work.take(worker, **how)
        if task is not None and self.begun_at is None:
            self.begun_at = time.perf_counter()
            if self._first is not None:
                self._first.set()
        return task

    def job(self, token: str) -> Job[Any]:
        """See `Work.job`."""
        return self._work.job(token) if self._job is None else self._job

    def done(self, task: Task[Any], worker: str, outcome: Outcome) -> None:
        """See `Work.done`."""
        self.tasks += 1
        self.blocks[task.keys[0].stage] += len(outcome.results)
        self._work.done(task, worker, outcome)


@contextmanager
def opened(executor: str, folder: Path) -> Iterator[tuple[Carrier, dict[str, int | str]]]:
    """The carrier of an executor, and the processes whose memory is of interest: client and scheduler."""
    if executor != "cluster":
        with open_carrier(executor, WORKERS) as carrier:
            yield carrier, {"client": "self"}
        return
    # As `executor="processes"`, whose scheduler is in the client's process, but with one of its own.
    file = folder / "scheduler.json"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    dask = [sys.executable, "-m", "dask"]
    commands = [
        [*dask, "scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(file)],
        *[
            [*dask, "worker", "--scheduler-file", str(file), "--no-nanny", "--no-dashboard", "--nthreads", "1",
             "--memory-limit", "0", "--local-directory", str(folder / f"worker-{number}")]
            for number in range(WORKERS)
        ],
    ]  # fmt: skip
    with (folder / "dask.log").open("wb") as log, ExitStack() as stack:
        started = []
        for command in commands:
            process = subprocess.Popen(command, env=environment, cwd=folder, stdout=log, stderr=log)
            stack.callback(process.wait)
            stack.callback(process.kill)
            started.append(process)
            while not file.exists():
                if process.poll() is not None:
                    raise RuntimeError(f"no scheduler: see {log.name}")
                time.sleep(0.05)
        from distributed import Client

        with Client(scheduler_file=str(file), set_as_default=False) as client:
            client.wait_for_workers(WORKERS, timeout=60)
            carrier = stack.enter_context(open_carrier(client, None))
            yield carrier, {"client": "self", "scheduler": started[0].pid}


def measured_run(plan: Plan, out: Path, executor: str, engine: str, *, first_only: bool) -> dict[str, Any]:
    """Do what is left of a run, as `gigatile.run` does.

    Parameters
    ----------
    first_only : bool
        Stop when the first block was handed out.
    """
    stop = Event()
    with opened(executor, out.parent) as (carrier, processes), watched(processes) as watches:
        called, used = time.perf_counter(), time.process_time()
        directory = RunDirectory.at(out)
        directory.read()
        with begun(plan, directory, carrier, how_to_run(carrier, ignore), "resume") as work:
            begun_at, used = time.perf_counter(), time.process_time() - used
            job = RecordingJob(directory, plan.layouts) if engine == "no-op" else None
            seen = Seen(work, job, stop if first_only else None)
            lanes = work.plan.memory.lanes
            with suppress(Cancelled):
                carrier.carry(seen, lanes, Callbacks(stop))
            ended = time.perf_counter()
            if not first_only and not work.finished:
                raise RuntimeError("the run ended before its work")
        found = {
            "begin_s": begun_at - called,
            "begin_cpu_s": used,
            "start_s": (seen.begun_at or ended) - called,
            "work_s": ended - (seen.begun_at or ended),
            "tasks": seen.tasks,
            "blocks": seen.blocks,
            "lanes": lanes,
        }
        memory = {name: {"peak": peak_bytes(process)} for name, process in processes.items()}
    gc.collect()
    for name, watch in watches.items():
        memory[name]["steady"] = watch.steady
    memory["client"]["after"] = resident_bytes()
    return {**found, "memory": memory}


def main() -> None:
    """Measure one run."""
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--blocks", type=int, required=True)
    parser.add_argument("--executor", choices=("threads", "processes", "cluster"), required=True)
    parser.add_argument("--engine", choices=("real", "no-op"), required=True)
    parser.add_argument("--done", type=int, default=0, help="write so many records instead, as an earlier run would")
    parser.add_argument("--first-only", action="store_true", help="end when the first block was handed out")
    options = parser.parse_args()
    planning = time.perf_counter()
    plan = empty_plan(options.blocks)
    planned_s = time.perf_counter() - planning
    if options.done:
        directory = RunDirectory.at(options.out, durable=False)
        with (
            open_carrier("threads", WORKERS) as carrier,
            begun(plan, directory, carrier, how_to_run(carrier, ignore), "resume"),
        ):
            write_ledger(plan, directory, options.done)
        return
    found = measured_run(plan, options.out, options.executor, options.engine, first_only=options.first_only)
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cpu_s = sum(usage.ru_utime + usage.ru_stime for usage in usages)
    json.dump({"plan_s": planned_s, **found, "cpu_s": cpu_s}, sys.stdout)


if __name__ == "__main__":
    main()
