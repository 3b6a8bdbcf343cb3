"""What only lanes of one process do."""

import threading

import pytest

from gigatile.errors import Cancelled, StorageError
from gigatile.executors.executor import Callbacks
from gigatile.executors.threads import ThreadExecutor


def run(lanes, job, keys, stop=None, notify=lambda n: None):
    done = []
    callbacks = Callbacks(done.append, lambda key, error: None, notify, stop or threading.Event())
    ThreadExecutor(lanes).run(job, iter(keys), callbacks)
    return done


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
        notify(key)
        return key

    run(1, job, [3, 4], notify=told.append)
    assert told == [3, 4]


def test_jobs_see_the_stop_signal():
    stop = threading.Event()

    def job(key, halt, notify):
        stop.set()
        assert halt.wait(30)
        raise Cancelled("the run")

    with pytest.raises(Cancelled):
        run(2, job, range(100), stop)
    assert not lanes_alive()


def test_jobs_are_stopped_when_another_raises_and_the_reason_is_told():
    together = threading.Barrier(2, timeout=30)

    def job(key, halt, notify):
        together.wait()
        if key == 0:
            raise StorageError("disk", found="nothing left")
        assert halt.wait(30)
        raise Cancelled("the run")

    with pytest.raises(StorageError):
        run(2, job, range(100))
    assert not lanes_alive()


def test_no_lane_outlives_the_run():
    run(4, lambda key, stop, notify: key, range(20))
    assert not lanes_alive()
