"""What only lanes of one process do."""

import threading
import time

import pytest

from gigatile.errors import Cancelled, StorageError
from gigatile.executors.executor import Callbacks, Outcome
from gigatile.executors.queue import Deaths, Policy, Queue
from gigatile.executors.threads import ThreadExecutor
from tests.executors.listing import Each, OneQueue

ONE_BY_ONE = Policy(backoff_seconds=0.01, most_keys=1, duplicates=False)


class Whole(Each):
    """Hands all that a job is told to a function of one key."""

    def __call__(self, keys, alone, stop, notify):
        return Outcome([self._function(key, stop, notify) for key in keys])


def run(lanes, function, keys, callbacks=None):
    work = OneQueue(keys, Whole(function), ONE_BY_ONE)
    ThreadExecutor(lanes).run(work, callbacks or Callbacks())
    return work.results


def lanes_alive():
    return [thread for thread in threading.enumerate() if thread.name.startswith("gigatile-lane")]


def test_lanes_run_side_by_side():
    meeting = threading.Barrier(3, timeout=30)

    def job(key, stop, notify):
        meeting.wait()
        return key

    assert sorted(run(3, job, range(9))) == list(range(9))


def test_progress_inside_a_key_is_told():
    told = []

    def job(key, stop, notify):
        notify(1, key)
        return key

    run(1, job, [3, 4], Callbacks(notify=lambda steps, size: told.append((steps, size))))
    assert told == [(1, 3), (1, 4)]


def test_jobs_see_the_stop_signal():
    stop = threading.Event()

    def job(key, halt, notify):
        stop.set()
        assert halt.wait(30)
        raise Cancelled("the run")

    with pytest.raises(Cancelled):
        run(2, job, range(100), Callbacks(stop))
    assert not lanes_alive()


def test_jobs_are_stopped_when_another_raises_and_the_reason_is_told():
    together = threading.Barrier(2, timeout=30)
    first = threading.Lock()

    def job(key, halt, notify):
        together.wait()
        if first.acquire(blocking=False):
            raise StorageError("disk", found="nothing left")
        assert halt.wait(30)
        raise Cancelled("the run")

    with pytest.raises(StorageError):
        run(2, job, range(100))
    assert not lanes_alive()


def test_no_lane_outlives_the_run():
    run(4, lambda key, stop, notify: key, range(20))
    assert not lanes_alive()


def test_what_earlier_runs_died_of_is_done_while_all_other_lanes_rest():
    running, beside = set(), {}
    guard = threading.Lock()

    def job(key, stop, notify):
        with guard:
            running.add(key)
            beside[key] = len(running)
        time.sleep(0.01)
        with guard:
            beside[key] = max(beside[key], len(running))
            running.remove(key)
        return key

    work = OneQueue(range(30), Whole(job), ONE_BY_ONE)
    work.queue = Queue(range(30), "job", ONE_BY_ONE, time.monotonic, {7: Deaths(1, 0), 20: Deaths(2, 1)})
    ThreadExecutor(3).run(work, Callbacks())
    assert sorted(work.results) == list(range(30))
    assert (beside[7], beside[20]) == (1, 1)
    assert max(beside.values()) == 3
