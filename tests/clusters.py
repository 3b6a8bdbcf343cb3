"""A real Dask cluster of separate processes: one scheduler, some workers, each a command of its own."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

ANY_PORT = ("--host", "127.0.0.1", "--port", "0", "--no-dashboard")


class SeparateCluster:
    """``dask scheduler`` and ``dask worker`` processes on free ports of this machine.

    Parameters
    ----------
    folder : Path
        For logs, the scheduler file and the workers' scratch.
    workers, threads : int
        Worker processes to start with, and threads of each.
    options : sequence of str
        For both commands.
    env : mapping
        In addition to the environment of this process.
    nanny : bool
        Whether workers that die are started again.
    """

    def __init__(
        self,
        folder: Path,
        workers: int,
        threads: int,
        *,
        options: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        nanny: bool = False,
    ) -> None:
        self._nanny = "--nanny" if nanny else "--no-nanny"
        self._folder, self._threads, self._options = folder, threads, tuple(options)
        self._env = {**os.environ, **(env or {})}
        folder.mkdir(parents=True, exist_ok=True)
        self.file = folder / "scheduler.json"
        self.scheduler = self.start("scheduler", *ANY_PORT, "--scheduler-file", str(self.file), *self._options)
        self.address = self._address()
        self.workers: list[subprocess.Popen[bytes]] = []
        for _ in range(workers):
            self.add_worker()

    def start(self, *words: str, env: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
        """Start a ``dask`` command, which writes a log in the folder."""
        with (self._folder / f"{words[0]}.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "dask", *words],
                stdout=log,
                stderr=log,
                cwd=self._folder,
                env={**self._env, **(env or {})},
                start_new_session=True,
            )

    def add_worker(self, env: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
        """Start one more worker; it is not waited for."""
        number = len(self.workers)
        process = self.start(
            "worker", self.address, self._nanny, "--no-dashboard", "--nthreads", str(self._threads),
            "--memory-limit", "0", "--name", str(number), "--local-directory", str(self._folder / str(number)),
            *self._options, env=env,
        )  # fmt: skip
        self.workers.append(process)
        return process

    def alive(self) -> list[subprocess.Popen[bytes]]:
        """Workers that have not ended."""
        return [worker for worker in self.workers if worker.poll() is None]

    def log(self, command: str) -> str:
        """What a command has printed so far."""
        return (self._folder / f"{command}.log").read_text()

    def _address(self) -> str:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                return str(json.loads(self.file.read_text())["address"])
            except (FileNotFoundError, ValueError):
                assert self.scheduler.poll() is None, self.log("scheduler")
                time.sleep(0.05)
        raise TimeoutError("the scheduler did not come up")

    def wait_for_workers(self, count: int) -> None:
        """Until that many are there."""
        from distributed import Client

        with Client(self.address, timeout="60s", set_as_default=False) as client:
            client.wait_for_workers(count, timeout=60)

    def busy(self) -> bool:
        """Whether any worker still runs something."""
        from distributed import Client

        with Client(self.address, timeout="60s", set_as_default=False) as client:
            return any(client.run(lambda dask_worker: bool(dask_worker.state.executing)).values())

    def close(self) -> None:
        """End every process and wait for it."""
        for process in (*self.workers, self.scheduler):
            kill(process)


def kill(process: subprocess.Popen[bytes]) -> None:
    """``kill -9`` a command and what it started, and wait for it."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@contextmanager
def separate_cluster(
    folder: Path, workers: int = 2, threads: int = 2, *, nanny: bool = False
) -> Iterator[SeparateCluster]:
    """A cluster that ends with the block, whatever happens in it."""
    cluster = SeparateCluster(folder, workers, threads, nanny=nanny)
    try:
        cluster.wait_for_workers(workers)
        yield cluster
    finally:
        cluster.close()
