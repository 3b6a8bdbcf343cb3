"""Processes that are started for a run, and die while they start."""

import threading
import time
from contextlib import suppress

import psutil
import pytest

from gigatile.errors import Cancelled, GigatileError
from gigatile.executors.clusters import DEATHS_STARTING, local_cluster


class Killer(threading.Thread):
    """Kills worker processes as soon as they begin to start, so many of them."""

    def __init__(self, wanted: int) -> None:
        super().__init__(daemon=True)
        self.wanted, self.killed, self._over = wanted, set(), threading.Event()

    def run(self) -> None:
        while len(self.killed) < self.wanted and not self._over.wait(0.05):
            for child in psutil.Process().children(recursive=True):
                with suppress(psutil.Error):
                    if "spawn_main" in " ".join(child.cmdline()) and len(self.killed) < self.wanted:
                        child.kill()
                        self.killed.add(child.pid)

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *error):
        self._over.set()
        self.join()


def test_a_process_that_dies_while_it_starts_is_replaced():
    with Killer(1) as killer, local_cluster(2) as client:
        there = {worker["nanny"] for worker in client.scheduler_info()["workers"].values()}
        assert len(there) == 2
    assert len(killer.killed) == 1


def test_processes_that_keep_dying_while_they_start_end_the_run():
    with Killer(1000) as killer, pytest.raises(GigatileError, match="that died"), local_cluster(2):
        pass
    assert len(killer.killed) >= DEATHS_STARTING


def test_a_stop_is_noticed_while_processes_start():
    stop = threading.Event()
    stop.set()
    begin = time.monotonic()
    with Killer(1000), pytest.raises(Cancelled), local_cluster(2, stop=stop):
        pass
    assert time.monotonic() - begin < 60, "it waited for all that time"
