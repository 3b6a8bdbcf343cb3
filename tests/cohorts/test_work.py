"""Which image's blocks are handed out to whom, and when an image is let in; without pixels."""

import threading
import time
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from gigatile.cohorts.inputs import InputEntry
from gigatile.cohorts.work import CohortWork, Limits
from gigatile.executors.executor import Outcome
from gigatile.executors.queue import Policy, Queue


class Run:
    """As much of a `RunWork` as a cohort needs: `blocks` keys, planned for `lanes`."""

    def __init__(self, name, blocks, lanes):
        memory = SimpleNamespace(lanes=lanes, processes=lanes, shares=2)
        self.name, self.plan = name, SimpleNamespace(memory=memory)
        self.queue = Queue(range(blocks), name, Policy(most_keys=1), time.monotonic)

    finished = property(lambda self: self.queue.finished)
    in_flight = property(lambda self: self.queue.in_flight)

    def take(self, worker, *, idle, without):
        return self.queue.take(worker, idle=idle)

    def done(self, task, worker, outcome):
        self.queue.done(task, worker, outcome.failures)

    def lost(self, task, worker):
        self.queue.lost(task, worker, (), ())

    def drains(self, worker):
        return self.queue.drains(worker)


class Silent:
    """A report that only counts."""

    def __init__(self):
        self.begun, self.over = [], []

    def started(self, entry, run):
        self.begun.append(entry.name)

    def ended(self, entry, run):
        self.over.append(entry.name)

    def refused(self, entry, error):
        raise error


@contextmanager
def cohort(images, **limits):
    """The work of images given as (blocks, lanes), all of them prepared as far as they may be."""
    report = Silent()

    @contextmanager
    def begin(entry):
        yield Run(entry.name, *images[int(entry.name)])

    entries = (InputEntry(str(number), "") for number in range(len(images)))
    with CohortWork(entries, begin, report, Limits(**limits)) as work:
        assert work.first(threading.Event()) is not None
        yield work, report


@pytest.mark.parametrize("memory_of", ["processes", "worker"])
def test_workers_that_died_make_room_for_those_that_replace_them(memory_of):
    with cohort([(4, 2)], active=2, ahead=2, memory_of=memory_of) as (work, _):
        for number in range(20):
            task = work.take(f"tcp://worker-{number}", idle=True)
            assert task is not None, f"after {number} deaths nobody gets anything any more"
            work.lost(task, f"tcp://worker-{number}")


def test_workers_that_come_later_than_the_plan_get_blocks_of_its_image():
    with cohort([(40, 1)], active=1000, ahead=4, memory_of="worker") as (work, _):
        assert None not in [work.take(f"tcp://worker-{number}", idle=True) for number in range(20)]


def test_no_more_processes_are_busy_than_the_plans_of_their_images_have_room_for():
    with cohort([(40, 2), (40, 4)], active=2, ahead=2, memory_of="processes") as (work, _):
        tasks = {name: work.take(name, idle=True) for name in "abcd"}
        assert [name for name, task in tasks.items() if task is not None] == ["a", "b"]
        work.done(tasks["b"], "b", Outcome([0]))
        assert work.take("c", idle=True) is not None
        assert work.take("a", idle=False) is not None, "it does one after the other"
        assert work.take("b", idle=True) is None


def test_an_image_is_let_in_when_there_is_nothing_else_to_hand_out():
    with cohort([(3, 1)] * 50, active=1000, ahead=4, memory_of="worker") as (work, report):
        for _ in range(3):
            assert not work.finished
            assert work.take("a", idle=True) is not None
        assert report.begun == ["0"]
        deadline = time.monotonic() + 30
        while work.take("a", idle=True) is None:
            assert time.monotonic() < deadline, "the next one is not let in"
            time.sleep(0.01)
        assert report.begun == ["0", "1"]
