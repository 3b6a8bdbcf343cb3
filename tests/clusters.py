"""A real Dask cluster of separate processes: one scheduler, some workers, each a command of its own."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class SeparateCluster:
    """``dask scheduler`` and ``dask worker`` processes on free ports of this machine."""

    def __init__(self, folder: Path, workers: int, threads: int) -> None:
        self._folder, self._threads = folder, threads
        folder.mkdir(parents=True, exist_ok=True)
        self._file = folder / "scheduler.json"
        local = ["--host", "127.0.0.1", "--port", "0"]
        self.scheduler = self._start("scheduler", *local, "--no-dashboard", "--scheduler-file", str(self._file))
        self.address = self._address()
        self.workers = [self._worker(number) for number in range(workers)]
        self._wait_for_workers(workers)

    def _start(self, *words: str) -> subprocess.Popen[bytes]:
        with (self._folder / f"{words[0]}.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "dask", *words],
                stdout=log,
                stderr=log,
                cwd=self._folder,
                start_new_session=True,
            )

    def _worker(self, number: int) -> subprocess.Popen[bytes]:
        return self._start(
            "worker", self.address, "--no-nanny", "--no-dashboard", "--nthreads", str(self._threads),
            "--memory-limit", "0", "--name", str(number), "--local-directory", str(self._folder / str(number)),
        )  # fmt: skip

    def _address(self) -> str:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                return str(json.loads(self._file.read_text())["address"])
            except (FileNotFoundError, ValueError):
                assert self.scheduler.poll() is None, (self._folder / "scheduler.log").read_text()
                time.sleep(0.05)
        raise TimeoutError("the scheduler did not come up")

    def _wait_for_workers(self, count: int) -> None:
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
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@contextmanager
def separate_cluster(folder: Path, workers: int = 2, threads: int = 2) -> Iterator[SeparateCluster]:
    """A cluster that ends with the block, whatever happens in it."""
    cluster = SeparateCluster(folder, workers, threads)
    try:
        yield cluster
    finally:
        cluster.close()
