"""What an executor owes the run, whichever it is: each key once, no more than a window of them, the reason of an
end, and no key lost without a word."""

import contextlib
import itertools
import os
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from gigatile.errors import Cancelled, StorageError
from gigatile.executors.dask import WINDOW_PER_WORKER
from gigatile.executors.executor import Callbacks


class Listener:
    """Keys that count what is taken, and callbacks that count what comes back."""

    def __init__(self, keys, stop_after=None):
        self.done, self.lost, self.taken = [], [], 0
        self.most_in_flight = 0
        self._keys, self._stop_after = iter(keys), stop_after
        self.callbacks = Callbacks(self._done, lambda key, error: self.lost.append(key), lambda n: None, self._stop())

    def _stop(self):
        self.stop = threading.Event()
        return self.stop

    def keys(self):
        for key in self._keys:
            self.taken += 1
            self.most_in_flight = max(self.most_in_flight, self.taken - len(self.done) - len(self.lost))
            yield key

    def _done(self, result):
        self.done.append(result)
        if len(self.done) == self._stop_after:
            self.stop.set()


def doubled():
    # Made in a function, so that it travels by value: workers cannot import the tests.
    def job(key, stop, notify):
        return 2 * key

    return job


def test_every_key_is_done_and_reported_once(executor):
    listener = Listener(range(40))
    executor.run(doubled(), listener.keys(), listener.callbacks)
    assert sorted(listener.done) == [2 * key for key in range(40)]
    assert not listener.lost


def test_no_keys_are_no_work(executor):
    listener = Listener([])
    executor.run(doubled(), listener.keys(), listener.callbacks)
    assert listener.done == []


def test_a_job_may_return_nothing(executor):
    def job(key, stop, notify):
        return None

    listener = Listener(range(7))
    executor.run(job, listener.keys(), listener.callbacks)
    assert listener.done == [None] * 7


def test_no_more_keys_are_taken_than_the_window(executor, workers, kind):
    def job(key, stop, notify):
        time.sleep(0.01)
        return key

    listener = Listener(range(60))
    executor.run(job, listener.keys(), listener.callbacks)
    # A thread may take its next key before the last one is reported.
    assert listener.most_in_flight <= WINDOW_PER_WORKER * workers
    assert listener.most_in_flight >= workers, "nothing ran side by side"
    assert len(listener.done) == 60


@pytest.fixture
def third_call(tmp_path):
    """A job that raises at every third call, whichever process makes it."""
    folder = str(tmp_path)

    def job(key, stop, notify):
        for number in itertools.count(1):
            try:
                os.close(os.open(f"{folder}/{number}", os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                continue
            break
        if number % 3 == 0:
            raise StorageError("the shard", expected="space", found="none", fix="Make some.")
        return key

    return job


def test_a_job_that_raises_ends_the_run_with_its_own_error(executor, workers, third_call):
    listener = Listener(range(1000))
    with pytest.raises(StorageError) as raised:
        executor.run(third_call, listener.keys(), listener.callbacks)
    assert (raised.value.where, raised.value.fix) == ("the shard", "Make some.")
    assert listener.taken <= 3 + 2 * WINDOW_PER_WORKER * workers


def test_what_was_not_done_can_be_run_again_until_it_is(executor, third_call):
    missing = set(range(12))
    attempts = 0
    while missing and attempts < 40:
        attempts += 1
        listener = Listener(sorted(missing))
        with contextlib.suppress(StorageError):
            executor.run(third_call, listener.keys(), listener.callbacks)
        missing -= set(listener.done)
    assert not missing
    assert attempts > 1, "nothing was raised"


def test_the_stop_signal_ends_the_run_and_leaves_the_rest(executor, workers):
    def job(key, stop, notify):
        time.sleep(0.02)
        return key

    listener = Listener(itertools.count(), stop_after=5)
    with pytest.raises(Cancelled):
        executor.run(job, listener.keys(), listener.callbacks)
    assert 5 <= len(listener.done) <= 5 + 2 * WINDOW_PER_WORKER * workers
    assert listener.taken <= len(listener.done) + WINDOW_PER_WORKER * workers


def test_a_stop_signal_from_before_is_seen(executor):
    listener = Listener(itertools.count())
    listener.stop.set()
    with pytest.raises(Cancelled):
        executor.run(doubled(), listener.keys(), listener.callbacks)


def test_an_error_of_the_listener_ends_the_run(executor):
    def broken(result):
        raise ZeroDivisionError("the display is broken")

    def job(key, stop, notify):
        time.sleep(0.005)
        return key

    keys = iter(range(1000))
    with pytest.raises(ZeroDivisionError):
        executor.run(job, keys, Callbacks(broken, print, print, threading.Event()))
    assert next(keys) < 100


def test_an_error_of_the_keys_ends_the_run(executor):
    def keys():
        yield from range(3)
        raise ZeroDivisionError("the grid is broken")

    listener = Listener(keys())
    with pytest.raises(ZeroDivisionError):
        executor.run(doubled(), listener.keys(), listener.callbacks)


def test_the_executor_works_after_a_run_that_was_ended(executor, third_call):
    listener = Listener(range(1000))
    with pytest.raises(StorageError):
        executor.run(third_call, listener.keys(), listener.callbacks)
    listener = Listener(range(5))
    executor.run(doubled(), listener.keys(), listener.callbacks)
    assert sorted(listener.done) == [0, 2, 4, 6, 8]


def test_a_worker_process_does_one_key_at_a_time(executor, kind, workers):
    if "thread" in kind:
        pytest.skip("lanes of one process share it")

    def job(key, stop, notify):
        start = time.monotonic()
        time.sleep(0.02)
        return os.getpid(), start, time.monotonic()

    listener = Listener(range(20))
    executor.run(job, listener.keys(), listener.callbacks)
    spans = sorted(listener.done)
    assert len({pid for pid, _, _ in spans}) == workers
    for (pid, _, stop), (other, start, _) in itertools.pairwise(spans):
        assert pid != other or start >= stop


def test_a_job_is_unpacked_once_a_worker(executor, kind, workers, tmp_path):
    if "thread" in kind:
        pytest.skip("threads share the job")
    folder = str(tmp_path)

    class Job:
        def __setstate__(self, state):
            self.__dict__.update(state)
            with Path(folder, str(os.getpid())).open("ab") as file:
                file.write(b".")

        def __call__(self, key, stop, notify):
            return key

    job = Job()
    job.content = "so that there is a state"
    listener = Listener(range(20))
    executor.run(job, listener.keys(), listener.callbacks)
    sizes = [path.stat().st_size for path in tmp_path.iterdir()]
    assert 1 <= len(sizes) <= workers
    assert set(sizes) == {1}


def test_large_jobs_reach_every_worker(executor, kind):
    content = os.urandom(3 << 20)

    def job(key, stop, notify):
        return content[key]

    listener = Listener(range(30))
    executor.run(job, listener.keys(), listener.callbacks)
    assert Counter(listener.done) == Counter(content[:30])
