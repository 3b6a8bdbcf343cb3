"""What a worker process holds of the jobs that it was brought."""

import cloudpickle
import pytest

from gigatile.executors import worker
from gigatile.executors.executor import Outcome

HOLDING = set()
"""Jobs that hold something."""


class Holding:
    """A job that holds something from its first key until it rests."""

    def __init__(self, name):
        self.name = name

    def prepare(self):
        return ()

    def rest(self):
        HOLDING.discard(self.name)

    def __call__(self, keys, alone, stop, notify):
        HOLDING.add(self.name)
        return Outcome([sorted(HOLDING)])


@pytest.fixture
def bring():
    yield lambda name: worker.prepare(("a run", name), cloudpickle.dumps(Holding(name)))
    worker._forget("a run")


def run(name):
    (held,) = worker.run(("a run", name), worker.packed((0,))).results
    return held


@pytest.mark.parametrize("order", ["aabb", "abab", "abcabc"])
def test_one_job_at_a_time_holds_memory(bring, order):
    """Also where the next one was brought while the one before it ran, as images of a cohort are."""
    brought = []
    for name in order:
        if name not in brought[-worker.JOBS_KEPT :]:
            bring(name)
            brought.append(name)
        assert run(name) == [name]


def test_a_run_that_is_forgotten_holds_nothing(bring):
    bring("a")
    run("a")
    worker._forget("a run")
    assert not HOLDING
    with pytest.raises(worker.NotPreparedError):
        run("a")
