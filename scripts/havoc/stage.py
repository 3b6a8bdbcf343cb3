"""What is disturbed: one small run of a real image, where its directory lies, and the processes that do it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import psutil

from scripts.havoc.records import Ledger, digests, read_ledger
from tests.clusters import SeparateCluster
from tests.object_store import ObjectStoreServer
from tests.object_store import tree as objects
from tests.small_runs import noise, tree, write_conv, write_zarr

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("GIGATILE_TEST_DATA") or ROOT.parent / "shared" / "data")
SLIDE = DATA / "wsi" / "CMU-1-Small-Region.svs"
WORKERS = 2
"""Threads, worker processes, or workers of the cluster."""
_TILING = ("--tile", "128", "--overlap", "16", "--margin", "2", "--blend", "trim", "--block", "336")
_OUTPUT = ("--output", "probabilities", "--dtype", "uint8", "--progress", "none")
_MODEL = '''
"""A convolution of onnxruntime, slowed down so that there is time to disturb it."""

import time
from pathlib import Path

import onnxruntime


class Slow:
    def __init__(self):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        file = Path(__file__).with_name("conv.onnx")
        self.session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])

    def __call__(self, batch):
        time.sleep({seconds} * len(batch))
        return self.session.run(None, {{"x": batch}})[0]
'''


class Place(Protocol):
    """Where a run directory lies."""

    @property
    def word(self) -> str:
        """As ``-o`` takes it."""
        ...

    def files(self, part: str) -> dict[str, bytes]:
        """Every file below a part of the directory, temporary ones included."""
        ...


@dataclass(frozen=True)
class Folder:
    """A run directory on a disk."""

    path: Path

    @property
    def word(self) -> str:
        return str(self.path)

    def files(self, part: str) -> dict[str, bytes]:
        for _ in range(20):
            with suppress(FileNotFoundError):  # renamed or removed while it was listed
                return tree(self.path / part)
        return tree(self.path / part)


@dataclass(frozen=True)
class Prefix:
    """A run directory in a bucket."""

    server: ObjectStoreServer
    url: str

    @property
    def word(self) -> str:
        return self.url

    def files(self, part: str) -> dict[str, bytes]:
        return objects(self.server, f"{self.url}/{part}")


def ledger_of(place: Place) -> Ledger:
    """What the ledger says now."""
    return read_ledger(place.files("ledger"))


@dataclass(frozen=True)
class Stage:
    """The inputs, and what an undisturbed run makes of them."""

    folder: Path
    image: Path
    reference: Mapping[str, str] = field(default_factory=dict)
    """Digest of each file of ``prediction.zarr``."""
    blocks: frozenset[str] = frozenset()
    """Of all levels."""
    seconds: float = 0.0
    """That it took."""

    @property
    def words(self) -> tuple[str, ...]:
        """The command, but for where it writes and who does the work."""
        return ("run", str(self.image), "--model", f"{self.folder}/slow.py:Slow", *_TILING, *_OUTPUT)


def set_up(folder: Path, seconds_a_tile: float, image: Path | None = None) -> Stage:
    """Write the model, choose the image and make the reference.

    Parameters
    ----------
    folder : Path
    seconds_a_tile : float
        That the model sleeps.
    image : Path, optional
        A real slide if not given, where the test data is there; else noise.
    """
    write_conv(folder / "conv.onnx")
    (folder / "slow.py").write_text(_MODEL.format(seconds=seconds_a_tile))
    if image is None and SLIDE.exists():
        image = SLIDE
    if image is None:
        image = Path(write_zarr(folder / "image.zarr", noise((2100, 1900)), chunk=256))
    bare = Stage(folder, image.absolute())
    place, begin = Folder(folder / "reference"), time.monotonic()
    command = Command.start(bare, place, ("--workers", str(WORKERS)), folder / "reference.log")
    if command.wait(600) != 0:
        raise RuntimeError(f"the undisturbed run failed: {command.errors()}")
    finished = ledger_of(place).finished
    assert set(finished.values()) == {1}, "the undisturbed run did a block twice"
    return Stage(folder, image.absolute(), digests(place), frozenset(finished), time.monotonic() - begin)


@dataclass(frozen=True)
class Command:
    """One ``gigatile run``, in a session of its own, by which its processes are known."""

    process: subprocess.Popen[bytes]
    log: Path

    @classmethod
    def start(
        cls, stage: Stage, place: Place, words: tuple[str, ...], log: Path, env: Mapping[str, str] | None = None
    ) -> Command:
        """Start it; what it says goes to a file, because its workers may outlive it."""
        with log.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "gigatile.cli.main", *stage.words, "-o", place.word, *words],
                cwd=stage.folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=file,
                env={**os.environ, "PYTHONFAULTHANDLER": "1", **(env or {})},
                start_new_session=True,
            )
        return cls(process, log)

    @property
    def code(self) -> int | None:
        """Exit code; None while it runs."""
        return self.process.poll()

    def wait(self, seconds: float) -> int | None:
        """Its exit code; None if it does not come to an end in that time, and then it is ended with a traceback."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGABRT)
            self.process.wait()
            self.kill_all()
            return None

    def errors(self) -> str:
        """What it said on stderr."""
        return self.log.read_text(errors="replace")

    def processes(self) -> list[psutil.Process]:
        """It and what it started, as far as they live."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                if os.getsid(process.pid) == self.process.pid and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def workers(self) -> list[int]:
        """Worker processes of ``--executor processes``: children of the client's that run a nanny's target."""
        found = []
        for process in self.processes():
            with suppress(psutil.Error):
                if "multiprocessing.spawn" in " ".join(process.cmdline()):
                    found.append(process.pid)
        return sorted(found)

    def kill(self) -> None:
        """``kill -9`` the client alone."""
        self.process.kill()
        self.process.wait()

    def kill_all(self) -> None:
        """``kill -9`` everything that it started, and wait for it."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def verified(place: Place, env: Mapping[str, str]) -> tuple[int, dict[str, Any]]:
    """Exit code of ``gigatile verify --json``, and what it says."""
    command = [sys.executable, "-m", "gigatile.cli.main", "verify", place.word, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, env={**os.environ, **env})
    if not done.stdout:
        return done.returncode, {"complete": False, "problems": [done.stderr]}
    return done.returncode, json.loads(done.stdout)


class Cluster:
    """A scheduler and workers as processes of their own, made new where they were killed."""

    def __init__(self, folder: Path, env: Mapping[str, str] | None = None) -> None:
        self._folder, self._env, self._count = folder, dict(env or {}), 0
        self._separate: SeparateCluster | None = None

    def ready(self) -> SeparateCluster:
        """As many workers as there shall be, and a scheduler that they know."""
        if self._separate is None or self._separate.scheduler.poll() is not None:
            self.close()
            self._count += 1
            self._separate = SeparateCluster(self._folder / str(self._count), 0, 1, env=self._env)
        cluster = self._separate
        cluster.workers[:] = [worker for worker in cluster.workers if worker.poll() is None]
        for _ in range(WORKERS - len(cluster.workers)):
            self._add(cluster)
        cluster.wait_for_workers(WORKERS)
        return cluster

    def _add(self, cluster: SeparateCluster) -> None:
        # Names must differ among the living, and the list above forgets the dead.
        self._count += 1
        folder = self._folder / f"worker-{self._count}"
        options = ("--no-nanny", "--no-dashboard", "--nthreads", "1", "--memory-limit", "0")
        named = ("--name", str(self._count), "--local-directory", str(folder))
        cluster.workers.append(cluster.start("worker", cluster.address, *options, *named))

    def settle(self, seconds: float) -> bool:
        """Wait until no worker does anything; whether that came true."""
        deadline = time.monotonic() + seconds
        while self._separate is not None and self._separate.scheduler.poll() is None:
            if not self._separate.busy():
                return True
            if time.monotonic() > deadline:
                return False
            time.sleep(0.1)
        return True

    def close(self) -> None:
        """End every process."""
        if self._separate is not None:
            self._separate.close()
            self._separate = None


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """A file system of its own; for root, on Linux.

    Raises
    ------
    OSError
        It cannot be mounted.
    """
    folder.mkdir(parents=True)
    mount = shutil.which("mount")
    if mount is None or not hasattr(os, "geteuid") or os.geteuid() != 0:
        raise OSError("a small disk is mounted by root only")
    done = subprocess.run(
        [mount, "-t", "tmpfs", "-o", f"size={megabytes}m", "gigatile-chaos", str(folder)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise OSError(f"a small disk cannot be mounted: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
