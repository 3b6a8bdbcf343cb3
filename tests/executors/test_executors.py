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

from gigatile.errors import BlockError, Cancelled, StorageError
from gigatile.executors.dask import WINDOW
from gigatile.executors.executor import Callbacks, Failure, Outcome
from gigatile.executors.queue import Policy
from tests.executors.listing import QUICK, Each, OneQueue, carry

ONE_BY_ONE = Policy(backoff_seconds=0.01, most_keys=1)


def slowly(seconds):
    # Made in a function, so that it travels by value: workers cannot import the tests.
    def job(key):
        time.sleep(seconds)
        return key

    return job


def test_every_key_is_done_and_reported_once(executor):
    work = carry(executor, range(400), lambda key: 2 * key)
    assert sorted(work.results) == [2 * key for key in range(400)]
    assert set(work.taken.values()) == {1}
    assert not work.failures


def test_no_keys_are_no_work(executor):
    assert carry(executor, [], lambda key: key).results == []


def test_a_job_may_return_nothing(executor):
    assert carry(executor, range(7), lambda key: None).results == [None] * 7


def test_no_more_tasks_are_taken_than_the_window(executor, workers):
    work = carry(executor, range(60), slowly(0.01), policy=ONE_BY_ONE)
    # A thread may take its next key before the last one is reported.
    assert work.most_in_flight <= WINDOW * workers
    assert work.most_in_flight >= workers, "nothing ran side by side"
    assert len(work.results) == 60


def test_short_keys_travel_in_batches(executor, tmp_path):
    folder = str(tmp_path)

    class Counting(Each):
        def __call__(self, keys, alone, stop, notify):
            with Path(folder, str(os.getpid())).open("ab") as file:
                file.write(b".")
            return super().__call__(keys, alone, stop, notify)

    work = carry(executor, range(20_000), Counting(lambda key: key))
    calls = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert len(work.results) == 20_000
    assert calls < 2_000


def third_call_in(folder):
    """A job that raises at every third call, whichever process makes it."""

    def job(key):
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


@pytest.fixture
def third_call(tmp_path):
    return third_call_in(str(tmp_path))


def third_call_and_slow_ones_in(folder):
    """A job that raises at the third call; later ones take longer than the client needs to hear of it."""
    third_call = third_call_in(folder)

    def job(key):
        if Path(folder, "3").exists():
            time.sleep(0.5)
            return key
        return third_call(key)

    return job


def test_a_job_that_raises_ends_the_run_with_its_own_error(executor, workers, tmp_path):
    work = OneQueue(range(1000), Each(third_call_and_slow_ones_in(str(tmp_path))), ONE_BY_ONE)
    with pytest.raises(StorageError) as raised:
        executor.run(work, Callbacks())
    assert (raised.value.where, raised.value.fix) == ("the shard", "Make some.")
    assert len(work.taken) <= 3 + 2 * WINDOW * workers


def test_what_was_not_done_can_be_run_again_until_it_is(executor, third_call):
    missing = set(range(12))
    attempts = 0
    while missing and attempts < 40:
        attempts += 1
        work = OneQueue(sorted(missing), Each(third_call), ONE_BY_ONE)
        with contextlib.suppress(StorageError):
            executor.run(work, Callbacks())
        missing -= set(work.results)
    assert not missing
    assert attempts > 1, "nothing was raised"


def test_a_key_that_fails_twice_is_done_by_the_third_try(executor, tmp_path):
    folder = str(tmp_path)

    class Flaky(Each):
        def __call__(self, keys, alone, stop, notify):
            done, failures = [], []
            for key in keys:
                with Path(folder, str(key)).open("ab") as file:
                    file.write(b".")
                    tries = file.tell()
                if key % 5 == 0 and tries < 3:
                    failures.append(Failure(key, BlockError(f"block {key}")))
                else:
                    done.append(key)
            return Outcome(done, failures)

    work = carry(executor, range(20), Flaky(None))
    assert sorted(work.results) == list(range(20))
    assert not work.failures
    assert {key for key, count in work.taken.items() if count == 3} == {0, 5, 10, 15}


def test_a_key_that_always_fails_is_failed_with_its_reason_and_the_others_are_done(executor):
    class Bad(Each):
        def __call__(self, keys, alone, stop, notify):
            bad = [Failure(key, BlockError("block 3", found="a torn chunk")) for key in keys if key == 3]
            return Outcome([key for key in keys if key != 3], bad)

    work = carry(executor, range(20), Bad(None))
    assert sorted(work.results) == [key for key in range(20) if key != 3]
    assert [(failure.key, failure.error.found) for failure in work.failures] == [(3, "a torn chunk")]
    assert work.taken[3] == QUICK.tries


class Stopping(OneQueue):
    """Sets the stop signal after some answers."""

    def __init__(self, keys, job, after):
        super().__init__(keys, job, ONE_BY_ONE)
        self.stop, self._after = threading.Event(), after

    def done(self, task, worker, outcome):
        super().done(task, worker, outcome)
        if len(self.results) >= self._after:
            self.stop.set()


def test_the_stop_signal_ends_the_run_and_leaves_the_rest(executor, workers):
    work = Stopping(range(1_000_000), Each(slowly(0.02)), after=5)
    with pytest.raises(Cancelled):
        executor.run(work, Callbacks(work.stop))
    assert 5 <= len(work.results) <= 5 + 2 * WINDOW * workers
    assert len(work.taken) <= len(work.results) + WINDOW * workers


def test_a_stop_signal_from_before_is_seen(executor):
    work = Stopping(range(1_000_000), Each(slowly(0)), after=0)
    work.stop.set()
    with pytest.raises(Cancelled):
        executor.run(work, Callbacks(work.stop))


def test_a_stop_signal_after_the_last_key_is_no_reason_to_fail(executor):
    work = Stopping(range(5), Each(slowly(0)), after=5)
    executor.run(work, Callbacks(work.stop))
    assert sorted(work.results) == list(range(5))


class Broken(OneQueue):
    """Work whose listener, or whose keys, break after a while."""

    def __init__(self, method):
        super().__init__(range(1000), Each(slowly(0.005)), ONE_BY_ONE)
        self._method = method

    def done(self, *words):
        if self._method == "done":
            raise ZeroDivisionError("the display is broken")
        super().done(*words)

    def take(self, worker, *, idle, without=()):
        if self._method == "take" and sum(self.taken.values()) >= 3:
            raise ZeroDivisionError("the grid is broken")
        return super().take(worker, idle=idle)


@pytest.mark.parametrize("method", ["done", "take"])
def test_an_error_of_the_work_ends_the_run(executor, method):
    work = Broken(method)
    with pytest.raises(ZeroDivisionError):
        executor.run(work, Callbacks())
    assert len(work.taken) < 100


def test_the_executor_works_after_a_run_that_was_ended(executor, third_call):
    with pytest.raises(StorageError):
        carry(executor, range(1000), third_call)
    assert sorted(carry(executor, range(5), lambda key: 2 * key).results) == [0, 2, 4, 6, 8]


def only_processes(kind):
    if "thread" in kind:
        pytest.skip("lanes of one process share it")


def spans(seconds):
    def job(key):
        start = time.monotonic()
        time.sleep(seconds)
        return os.getpid(), start, time.monotonic()

    return job


def test_a_worker_process_does_one_task_at_a_time(executor, kind, workers):
    only_processes(kind)
    work = carry(executor, range(20), spans(0.02), policy=ONE_BY_ONE)
    done = sorted(work.results)
    assert len({pid for pid, _, _ in done}) == workers
    for (pid, _, stop), (other, start, _) in itertools.pairwise(done):
        assert pid != other or start >= stop


def test_neighbours_are_done_by_one_process(executor, kind):
    only_processes(kind)

    def job(key):
        time.sleep(0.005)
        return key, os.getpid()

    work = carry(executor, range(200), job, policy=ONE_BY_ONE)
    owners = [pid for _, pid in sorted(work.results)]
    assert sum(first != second for first, second in itertools.pairwise(owners)) <= 10


def test_a_job_is_unpacked_and_prepared_once_a_worker_and_left_at_the_end(executor, kind, workers, tmp_path):
    only_processes(kind)
    folder = str(tmp_path)

    class Job(Each):
        def note(self, what):
            with Path(folder, f"{os.getpid()} {what}").open("ab") as file:
                file.write(b".")

        def __setstate__(self, state):
            self.__dict__.update(state)
            self.note("unpacked")

        def prepare(self):
            self.note("prepared")
            return ()

        def rest(self):
            self.note("rested")

    carry(executor, range(50), Job(slowly(0.002)), policy=ONE_BY_ONE)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if sum(path.stat().st_size for path in tmp_path.iterdir() if "rested" in path.name) >= workers:
            break
        time.sleep(0.05)
    counts = Counter(path.name.split()[1] for path in tmp_path.iterdir())
    assert counts == {"unpacked": workers, "prepared": workers, "rested": workers}
    assert {path.stat().st_size for path in tmp_path.iterdir()} == {1}


def test_large_jobs_reach_every_worker(executor, workers, kind):
    content = os.urandom(3 << 20)

    def job(key):
        time.sleep(0.005)
        return os.getpid(), content[key]

    work = carry(executor, range(60), job, policy=ONE_BY_ONE)
    assert Counter(byte for _, byte in work.results) == Counter(content[:60])
    if "thread" not in kind:
        assert len({pid for pid, _ in work.results}) == workers
