"""Clusters to work on: one of processes started here for the run, or one that is already there."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from gigatile.errors import GigatileError, UsageError
from gigatile.executors.executor import cancelled

ANSWER_SECONDS = 10
"""That a scheduler may take to answer at all."""
LOOK_SECONDS = 1
"""Between two looks at processes that are being started."""
DEATHS_STARTING = 5
"""Processes of a cluster of ours that may die while they start: then there is a reason."""


def visible_devices() -> tuple[str, ...]:
    """The CUDA devices of this machine that this process may use, as ``CUDA_VISIBLE_DEVICES`` names them."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return tuple(part.strip() for part in chosen.split(",") if part.strip() not in ("", "-1"))
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ()
    listed = subprocess.run([tool, "-L"], capture_output=True, text=True, check=False)
    gpus = [line for line in listed.stdout.splitlines() if line.startswith("GPU ")]
    return tuple(str(index) for index in range(len(gpus)))


@contextmanager
def local_cluster(workers: int, devices: Sequence[str] = (), stop: threading.Event | None = None) -> Iterator[Any]:
    """A client of `workers` processes on this machine, which end with the block.

    Parameters
    ----------
    workers : int
    devices : sequence of str
        CUDA devices; each process sees one of them, in turn. None: they see what this process sees.
    stop : threading.Event, optional
        Set from outside to end early.

    Raises
    ------
    GigatileError
        Processes die while they start.
    Cancelled
        `stop` was set.
    """
    from distributed import Client, LocalCluster

    class OneDeviceEach(LocalCluster):  # type: ignore[misc]  # distributed has no types
        """Gives each worker an environment of its own."""

        def new_worker_spec(self) -> Any:
            specs = super().new_worker_spec()
            if not devices:
                return specs
            # All workers share one specification: what differs goes into copies.
            return {
                name: {**spec, "options": {**spec["options"], "env": {"CUDA_VISIBLE_DEVICES": device}}}
                for name, spec in specs.items()
                for device in [devices[int(name) % len(devices)]]
            }

    with ExitStack() as stack:
        with _deaf_to_interrupts():
            # Our budget is ours: at its own limit a nanny would pause and kill workers.
            cluster = OneDeviceEach(
                n_workers=0,
                threads_per_worker=1,
                processes=True,
                memory_limit=0,
                # Its pages are served in any case; on port 8787 a second run on this machine would be warned of.
                dashboard_address="127.0.0.1:0",
                silence_logs=50,
            )
            stack.enter_context(cluster)
            client = stack.enter_context(Client(cluster))
            cluster.scale(workers)
            _wait_for_all(cluster, client, workers, stop)
        yield client


def _wait_for_all(cluster: Any, client: Any, workers: int, stop: threading.Event | None) -> None:
    """Until all processes are there. One that dies while it starts is replaced: Dask would wait for it without end."""
    from distributed import Status

    died = 0
    while True:
        try:
            client.wait_for_workers(workers, timeout=LOOK_SECONDS)
            return
        except TimeoutError:
            if stop is not None and stop.is_set():
                raise cancelled() from None
        dead = [name for name, nanny in cluster.workers.items() if nanny.status in (Status.closed, Status.failed)]
        if not dead:
            continue
        died += len(dead)
        if died >= DEATHS_STARTING:
            raise GigatileError(
                "the worker processes",
                expected="to live on while they start",
                found=f"{died} that died",
                fix="See whether the machine runs out of memory or of processes; --executor threads needs neither.",
            )
        cluster.sync(cluster.scale_down, dead)
        cluster.scale(workers)


@contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """Processes started meanwhile do not die of the Ctrl-C that a terminal sends to all: we stop them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def existing_cluster(address: Any) -> Iterator[Any]:
    """A client of a scheduler that is already there; a client that is passed in stays open.

    Parameters
    ----------
    address : str, Path or distributed.Client
        ``tcp://HOST:PORT``, ``tls://HOST:PORT`` (with the certificates of Dask's own configuration,
        ``distributed.comm.tls``), or a scheduler file.

    Raises
    ------
    UsageError
        Nobody answers at the address, the file is no scheduler file, or the certificates are missing or refused.
    """
    from distributed import Client

    if isinstance(address, Client):
        yield address
        return
    if isinstance(address, Path):
        _check_scheduler_file(address)
    where: dict[str, Any] = {"scheduler_file": str(address)} if isinstance(address, Path) else {"address": address}
    try:
        with warnings.catch_warnings():
            # It compares packages that play no part here; what does is compared as each worker prepares its job.
            warnings.filterwarnings("ignore", "(?s)Mismatched versions found")
            client = Client(timeout=f"{ANSWER_SECONDS}s", set_as_default=False, **where)
    except (OSError, ValueError, TypeError, KeyError, RuntimeError) as error:
        raise UsageError(
            f"executor {address}",
            expected="a Dask scheduler at this address",
            found=(str(error).splitlines() or [type(error).__name__])[0],
            fix=_how_to_start(str(address)),
        ) from error
    with _silent("distributed.client", "distributed.batched", "distributed.core", "distributed.comm"), client:
        yield client


@contextmanager
def _silent(*names: str) -> Iterator[None]:
    """What goes wrong is raised here; distributed would print its tracebacks besides."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _check_scheduler_file(file: Path) -> None:
    try:
        content = json.loads(file.read_bytes())
        found = "" if isinstance(content, dict) and isinstance(content.get("address"), str) else "no address in it"
    except FileNotFoundError:
        found = "no such file"
    except (OSError, ValueError) as error:
        found = str(error)
    if found:
        raise UsageError(
            f"--scheduler-file {file}",
            expected="the file that `dask scheduler --scheduler-file F` writes",
            found=found,
            fix="Start the scheduler first, and see that the file lies on a disk that both machines see.",
        )


def _how_to_start(address: str) -> str:
    if address.startswith("tls://"):
        return (
            "Start one with `dask scheduler --protocol tls --tls-ca-file CA --tls-cert CERT --tls-key KEY`, and tell "
            "this side the same: DASK_DISTRIBUTED__COMM__TLS__CA_FILE, ...__CLIENT__CERT and ...__CLIENT__KEY, or "
            "a file in ~/.config/dask."
        )
    return "Start one with `dask scheduler`, and workers with `dask worker tcp://HOST:PORT`."


def worker_limits(client: Any) -> list[int]:
    """Memory limits, in bytes, of the workers that are there now; 0 for one without."""
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    return [int(worker["memory_limit"] or 0) for worker in workers]
